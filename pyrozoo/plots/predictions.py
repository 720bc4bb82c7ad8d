"""Pictures of predictions: against the truth, along rows, intervals, class probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .style import BLACK, BLUE, GREY, SKY, VERMILION, line_style, make_axes, require_columns, with_unit


def predicted_vs_observed(table: pd.DataFrame, quantity: str = "y", unit: str = "", ax: Axes | None = None) -> Axes:
    """Predictions with 90% intervals against what was observed; a good point lies on the diagonal.

    Beyond 400 rows the intervals themselves are left out; colour still says which rows lie outside theirs.

    Args:
        table: Frame with columns ``observed``, ``mean``, ``q05``, ``q95``, one row per prediction; rows without an
            observation (NaN) are left out.
        quantity: Name of the predicted quantity.
        unit: Unit of measure of the quantity.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: A column is missing, or no row has an observation.

    Example:
        >>> import numpy as np
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> rng = np.random.default_rng(0)
        >>> mean = rng.normal(50.0, 10.0, size=40)
        >>> observed = mean + rng.normal(size=40)
        >>> table = pd.DataFrame({"observed": observed, "mean": mean, "q05": mean - 2, "q95": mean + 2})
        >>> ax = zoo.plots.predicted_vs_observed(table, quantity="flow", unit="m3/h")
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('observed flow [m3/h]', 'predicted flow [m3/h]')
    """
    table = require_columns(table, ("observed", "mean", "q05", "q95")).dropna(subset="observed")
    if table.empty:
        raise ValueError("no row has an observation")
    ax = make_axes(ax, (5.6, 5.4))
    outside = (table["observed"] < table["q05"]) | (table["observed"] > table["q95"])
    few = len(table) <= 400  # thousands of overlapping bars would hide the points
    for rows, colour, where in ((~outside, BLUE, "inside"), (outside, VERMILION, "outside")):
        part = table[rows]
        label = f"{where} its 90% interval: {rows.mean():.0%}"
        if few:
            ax.vlines(part["observed"], part["q05"], part["q95"], color=colour, lw=0.9, alpha=0.35)
        ms, alpha = (3.5, 0.8) if few else (2.5, 0.5)
        ax.plot(part["observed"], part["mean"], "o", color=colour, ms=ms, mew=0, alpha=alpha, label=label)
    ends = [table[["observed", "mean"]].min().min(), table[["observed", "mean"]].max().max()]
    ax.plot(ends, ends, color=BLACK, lw=1.2, label="predicted = observed")
    error = np.sqrt(((table["mean"] - table["observed"]) ** 2).mean())
    ax.set_title(f"RMSE {with_unit(f'{error:.3g}', unit, brackets=False)}, {len(table)} rows", fontsize=10)
    ax.set(xlabel=with_unit(f"observed {quantity}", unit), ylabel=with_unit(f"predicted {quantity}", unit))
    ax.legend(loc="upper left", fontsize=9)
    return ax


def unit_lines(
    table: pd.DataFrame,
    unit: str,
    x: str | None = None,
    *,
    units: Sequence | None = None,
    panels: int = 6,
    quantity: str = "y",
    measure: str = "",
) -> Figure:
    """Truth, prediction and 90% ribbon along the rows of a few units, one small panel each.

    Titles give each unit's RMSE over the rows whose label the model did not see.

    Args:
        table: Frame with columns ``observed``, ``mean``, ``q05``, ``q95``, the column named by `unit` and, if the model
            saw some of the labels, the boolean column ``labelled``. ``observed`` may hold NaN.
        unit: Name of the column that tells units apart.
        x: Name of the column for the horizontal axis; None counts the rows of each unit from 0.
        units: Units to show; by default `panels` of them, evenly from the best predicted to the worst.
        panels: Number of units to choose if `units` is not given.
        quantity: Name of the predicted quantity.
        measure: Unit of measure of the quantity.

    Raises:
        ValueError: A column is missing, or no unit is left.
        KeyError: A unit that the table does not have.

    Example:
        >>> import numpy as np
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> rng = np.random.default_rng(0)
        >>> mean = rng.normal(50.0, 10.0, size=40)
        >>> observed = mean + rng.normal(size=40)
        >>> table = pd.DataFrame({"observed": observed, "mean": mean, "q05": mean - 2, "q95": mean + 2})
        >>> figure = zoo.plots.unit_lines(table.assign(well=np.repeat(["A", "B"], 20)), "well", quantity="flow")
        >>> len(figure.axes), figure.axes[0].get_title()[:6]
        (2, 'well A')
    """
    table = require_columns(table, ("observed", "mean", "q05", "q95", unit, *([x] if x else [])))
    squared = (table["mean"] - table["observed"]) ** 2
    if "labelled" in table:
        squared = squared.where(~table["labelled"].astype(bool))
    error = squared.groupby(table[unit]).mean() ** 0.5
    if units is None:
        ranked = (error.dropna() if error.notna().any() else error).sort_values().index
        units = ranked[np.unique(np.linspace(0, len(ranked) - 1, min(panels, len(ranked))).round().astype(int))]
    if unknown := [name for name in units if name not in error.index]:
        raise KeyError(f"the table has no {unit} {unknown}")
    if len(units) == 0:
        raise ValueError("no unit to show")
    columns = min(3, len(units))
    rows = -(-len(units) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax in grid.flat[len(units) :]:
        ax.remove()
    for ax, name in zip(grid.flat, units, strict=False):
        _one_unit(ax, table[table[unit] == name], x)
        score = with_unit(f", RMSE {error[name]:.3g}", measure, brackets=False) if np.isfinite(error[name]) else ""
        ax.set_title(f"{unit} {name}{score}", fontsize=9)
    figure.supxlabel(x or "row position", fontsize=10)
    figure.supylabel(with_unit(quantity, measure), fontsize=10)
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def interval_coverage(nominal: Any, empirical: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Share of truths inside their intervals against the nominal coverage; a good model follows the diagonal.

    Args:
        nominal: Nominal coverages in (0, 1), shape (L,).
        empirical: Model -> observed coverages, shape (L,), e.g. of `pyrozoo.coverage`.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: A model does not have L coverages.

    Example:
        >>> import pyrozoo as zoo
        >>> ax = zoo.plots.interval_coverage([0.5, 0.8, 0.9], {"SSMTL": [0.4, 0.7, 0.8], "conformal": [0.5, 0.8, 0.9]})
        >>> ax.get_xlabel()
        'nominal coverage of the interval'
    """
    nominal = np.asarray(nominal, dtype=float)
    ax = make_axes(ax, (5.4, 5.2))
    ax.plot([0, 1], [0, 1], color=BLACK, lw=1.2, label="as promised")
    for index, (model, shares) in enumerate(empirical.items()):
        shares = np.asarray(shares, dtype=float)
        if shares.shape != nominal.shape:
            raise ValueError(f"{model} has {shares.size} coverages for {nominal.size} nominal ones")
        ax.plot(nominal, shares, marker="o", ms=5, label=model, **line_style(index))
    for place, meaning in (((0.2, 0.26), "intervals too wide"), ((0.26, 0.2), "intervals too narrow")):
        ax.text(*place, meaning, color=GREY, rotation=45, ha="center", va="center", transform=ax.transAxes)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="nominal coverage of the interval", ylabel="share of truths inside")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(loc="upper left")
    return ax


def reliability(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """How often the most probable class is right against its predicted probability.

    Calibrated probabilities lie on the diagonal. The area of a point is its share of the rows, a bar is the 90%
    interval of the accuracy for independent rows; the legend gives the expected calibration error, the mean distance
    from the diagonal.

    Args:
        tables: Model -> table of `pyrozoo.scores.reliability`.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: No table, one without a line, or one that lacks a column.

    Example:
        >>> import pyrozoo as zoo
        >>> table = zoo.scores.reliability([0, 0, 0, 1], [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
        >>> ax = zoo.plots.reliability({"M3Sense": table})
        >>> ax.get_ylabel()
        'share of rows where it is right'
    """
    if not tables:
        raise ValueError("no table to draw")
    ax = make_axes(ax, (7.4, 5.2))
    ax.plot([0, 1], [0, 1], color=BLACK, lw=1.2)
    least = 1.0
    for index, (model, table) in enumerate(tables.items()):
        table = require_columns(table, ("confidence", "accuracy", "lower", "upper", "count"))
        if table.empty:
            raise ValueError(f"the table of {model!r} has no line to draw")
        share = (table["count"] / table["count"].sum()).to_numpy()
        stated, right = table["confidence"].to_numpy(), table["accuracy"].to_numpy()
        error = (share * np.abs(stated - right)).sum()
        line = line_style(index)
        ax.vlines(stated, table["lower"], table["upper"], color=line["color"], lw=1.4, alpha=0.6, zorder=2.5)
        ax.plot(stated, right, lw=1.6, label=f"{model}: {error:.1%}", clip_on=False, zorder=3, **line)
        ax.scatter(stated, right, s=8 + 400 * share, color=line["color"], lw=0, clip_on=False, zorder=3)
        least = min(least, stated.min(), table["lower"].min())
    # If all values are high, the whole square would hide their differences.
    low = np.floor(10 * least - 1e-9) / 10 - 0.05 if least > 0.4 else 0.0
    for place, meaning in (((0.1, 0.16), "too cautious"), ((0.16, 0.1), "too sure")):
        ax.text(*place, meaning, color=GREY, rotation=45, ha="center", va="center", transform=ax.transAxes)
    ax.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
    ax.set(xlabel="probability of the most probable class, mean of the bin", ylabel="share of rows where it is right")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    # Beside the axes, because bins with few rows may lie anywhere inside.
    ax.legend(title="expected\ncalibration error", loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=9)
    note = "area of a point: its\nshare of the rows\nbar: 90% interval"
    ax.text(1.03, 0.03, note, color=GREY, fontsize=9, transform=ax.transAxes)
    return ax


def _one_unit(ax: Axes, rows: pd.DataFrame, x: str | None) -> None:
    rows = rows.sort_values(x) if x else rows
    place = rows[x].to_numpy() if x else np.arange(len(rows))
    ax.spines[["top", "right"]].set_visible(False)
    ax.fill_between(place, rows["q05"], rows["q95"], color=SKY, alpha=0.35, lw=0, label="90% interval")
    ax.plot(place, rows["mean"], color=BLUE, lw=1.6, label="predicted mean")
    ax.plot(place, rows["observed"], color=BLACK, lw=1.0, label="observed")
    if "labelled" in rows:
        seen = rows["labelled"].to_numpy(dtype=bool)
        ax.plot(place[seen], rows["observed"][seen], "o", color=VERMILION, ms=5, label="labels the model saw")
