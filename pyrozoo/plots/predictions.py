"""Pictures of predictions: against the truth, along rows, intervals, class probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..criticism import scores
from ..posterior.columns import classes, column, interval_names, probabilities
from .observations import groups_of, labels_observed, numbers_observed, one_component, one_per_row, rows_seen
from .style import (
    BLACK,
    BLUE,
    GREY,
    SKY,
    VERMILION,
    line_style,
    make_axes,
    require_columns,
    require_tables,
    with_unit,
)

if TYPE_CHECKING:
    from ..data.batch import Batch  # which imports PyTorch


def predicted_vs_observed(
    table: pd.DataFrame, observed: Batch | Any, target: str | None = None, *, quantity: str = "", unit: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Predictions with 90% intervals against what was observed; a good point lies on the diagonal.

    Beyond 400 rows the intervals themselves are left out; colour still says which rows lie outside theirs.

    Args:
        table: Table of `pyrozoo.predict`, with ``y.mean``, ``y.q05`` and ``y.q95``.
        observed: The Batch that was predicted, or the true values, shape (N,), taken by position. Rows without an
            observation (in an array: NaN) are left out.
        target: Name of a continuous target, e.g. ``"y"``; of one of several components ``"y[a]"``; by default the
            first of the table.
        quantity: Name of the predicted quantity for the labels; by default `target`.
        unit: Unit of measure of the quantity.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: The table has no such target or lacks a quantile, has other rows than what was observed, or no row
            has an observation.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> ax = zoo.plots.predicted_vs_observed(zoo.predict(fit, data, draws=50), data, quantity="tank level")
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('observed tank level', 'predicted tank level')
    """
    component = one_component(table, target)
    rows = _with_ends(table, component, numbers_observed(table, observed, component)).dropna(subset="observed")
    if rows.empty:
        raise ValueError("no row has an observation")
    quantity = quantity or component
    ax = make_axes(ax, (5.6, 5.4))
    outside = (rows["observed"] < rows["low"]) | (rows["observed"] > rows["high"])
    few = len(rows) <= 400  # thousands of overlapping bars would hide the points
    for chosen, colour, where in ((~outside, BLUE, "inside"), (outside, VERMILION, "outside")):
        part = rows[chosen]
        label = f"{where} its 90% interval: {chosen.mean():.0%}"
        if few:
            ax.vlines(part["observed"], part["low"], part["high"], color=colour, lw=0.9, alpha=0.35)
        ms, alpha = (3.5, 0.8) if few else (2.5, 0.5)
        ax.plot(part["observed"], part["mean"], "o", color=colour, ms=ms, mew=0, alpha=alpha, label=label)
    ends = [rows[["observed", "mean"]].min().min(), rows[["observed", "mean"]].max().max()]
    ax.plot(ends, ends, color=BLACK, lw=1.2, label="predicted = observed")
    error = np.sqrt(((rows["mean"] - rows["observed"]) ** 2).mean())
    ax.set_title(f"RMSE {with_unit(f'{error:.3g}', unit, brackets=False)}, {len(rows)} rows", fontsize=10)
    ax.set(xlabel=with_unit(f"observed {quantity}", unit), ylabel=with_unit(f"predicted {quantity}", unit))
    ax.legend(loc="upper left", fontsize=9)
    return ax


def unit_lines(
    table: pd.DataFrame,
    observed: Batch | Any,
    target: str | None = None,
    *,
    group: Any = None,
    x: Any = None,
    seen: Batch | Any = None,
    show: Sequence | None = None,
    panels: int = 6,
    quantity: str = "",
    unit: str = "",
) -> Figure:
    """Truth, prediction and 90% ribbon along the rows of a few groups, such as units, one small panel each.

    Titles give each group's RMSE over the rows whose label the model did not see.

    Args:
        table: Table of `pyrozoo.predict`, with ``y.mean``, ``y.q05`` and ``y.q95``.
        observed: The Batch that was predicted, or the true values, shape (N,), taken by position; NaN where there is
            none.
        target: Name of a continuous target, e.g. ``"y"``; of one of several components ``"y[a]"``; by default the
            first of the table.
        group: Name of a group of the Batch, by default its first; or the name of each row's group, shape (N,), e.g. a
            column of your table.
        x: Position of each row on the horizontal axis, shape (N,); a Series labels the axis by its name. By default
            their time, if the table has it, or else the rows of each group count from 0.
        seen: Rows whose label the model saw: the training Batch, if it has the same rows, or booleans, shape (N,).
        show: Groups to show; by default `panels` of them, evenly from the best predicted to the worst.
        panels: Number of groups to choose if `show` is not given.
        quantity: Name of the predicted quantity for the labels; by default `target`.
        unit: Unit of measure of the quantity.

    Raises:
        ValueError: The table has no such target or lacks a quantile, has other rows than an argument, or no group is
            left.
        KeyError: A group to show that the rows do not have.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(400))
        >>> figure = zoo.plots.unit_lines(zoo.predict(fit, data, draws=50), data, quantity="tank level")
        >>> len(figure.axes), figure.axes[0].get_title()[:4]
        (3, 'unit')
    """
    component = one_component(table, target)
    rows = _with_ends(table, component, numbers_observed(table, observed, component))
    group, rows["group"] = groups_of(table, observed, group)
    if x is None and "time" in table:
        x = pd.Series(table["time"].to_numpy(), name="time")
    rows["x"] = rows.groupby("group").cumcount() if x is None else one_per_row(table, np.asarray(x))
    rows["seen"] = False if seen is None else rows_seen(table, seen, component)
    error = ((rows["mean"] - rows["observed"]) ** 2).where(~rows["seen"]).groupby(rows["group"]).mean() ** 0.5
    if show is None:
        ranked = (error.dropna() if error.notna().any() else error).sort_values().index
        show = ranked[np.unique(np.linspace(0, len(ranked) - 1, min(panels, len(ranked))).round().astype(int))]
    if unknown := [name for name in show if name not in error.index]:
        raise KeyError(f"the rows have no {group} {unknown}")
    if len(show) == 0:
        raise ValueError(f"no {group} to show")
    figure, grid = _panels(len(show))
    for ax, name in zip(grid, show, strict=True):
        _one_unit(ax, rows[rows["group"] == name])
        score = with_unit(f", RMSE {error[name]:.3g}", unit, brackets=False) if np.isfinite(error[name]) else ""
        ax.set_title(f"{group} {name}{score}", fontsize=9)
    figure.supxlabel("row position" if x is None else str(getattr(x, "name", None) or "x"), fontsize=10)
    figure.supylabel(with_unit(quantity or component, unit), fontsize=10)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def interval_coverage(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Share of truths inside their intervals against the nominal coverage; a good model follows the diagonal.

    Args:
        tables: Model -> table of `pyrozoo.coverage` or `pyrozoo.Conformal.coverage`, with columns ``nominal`` and
            ``empirical``; several components are a line each.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: No table, or one that lacks a column.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> ax = zoo.plots.interval_coverage({"SSMTL": zoo.coverage(fit, data, draws=50)})
        >>> ax.get_xlabel()
        'nominal coverage of the interval'
    """
    require_tables(tables)
    ax = make_axes(ax, (5.4, 5.2))
    ax.plot([0, 1], [0, 1], color=BLACK, lw=1.2, label="as promised")
    lines: dict[str, pd.DataFrame] = {}
    for model, table in tables.items():
        require_columns(table, ("nominal", "empirical"))
        if "component" in table and table["component"].nunique() > 1:
            lines |= {f"{model}, {name}": part for name, part in table.groupby("component", sort=False)}
        else:
            lines[model] = table
    for index, (label, table) in enumerate(lines.items()):
        table = table.sort_values("nominal")
        ax.plot(table["nominal"], table["empirical"], marker="o", ms=5, label=label, **line_style(index))
    for place, meaning in (((0.2, 0.26), "intervals too wide"), ((0.26, 0.2), "intervals too narrow")):
        ax.text(*place, meaning, color=GREY, rotation=45, ha="center", va="center", transform=ax.transAxes)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="nominal coverage of the interval", ylabel="share of truths inside")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(loc="upper left")
    return ax


def reliability(
    tables: Mapping[str, pd.DataFrame], observed: Batch | Any = None, target: str = "", *, bins: int = 10,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """How often the most probable class is right against its predicted probability.

    Calibrated probabilities lie on the diagonal. The area of a point is its share of the rows, a bar is the 90%
    interval of the accuracy for independent rows; the legend gives the expected calibration error, the mean distance
    from the diagonal.

    Args:
        tables: Model -> table of `pyrozoo.predict` on the same rows; or of `pyrozoo.scores.reliability`, which needs no
            further argument.
        observed: The Batch that was predicted, or the true labels by name, shape (N,). Rows without a label (in an
            array: None) are left out.
        target: Name of a discrete target, e.g. ``"y_stress"``.
        bins: Number of bins of equal width.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: No table, one without a line, one that lacks a column or the target, or one of other rows than what
            was observed.

    Example:
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> sure, unsure = [0.9, 0.9, 0.6, 0.6], [0.1, 0.1, 0.4, 0.4]
        >>> table = pd.DataFrame({"k.label": "calm", "k.p[calm]": sure, "k.p[stress]": unsure})
        >>> ax = zoo.plots.reliability({"M3Sense": table}, ["calm", "calm", "calm", "stress"], "k")
        >>> ax.get_legend().get_texts()[0].get_text()
        'M3Sense: 10.0%'
    """
    require_tables(tables)
    if observed is not None:
        tables = {model: _reliability_of(table, observed, target, bins) for model, table in tables.items()}
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


def _reliability_of(table: pd.DataFrame, observed: Batch | Any, target: str, bins: int) -> pd.DataFrame:
    truth = labels_observed(table, observed, target)
    known = ~pd.isna(truth)
    if not known.any():
        raise ValueError("no row has an observation")
    return scores.reliability(truth[known], probabilities(table, target)[known], classes(table, target), bins)


def _with_ends(table: pd.DataFrame, component: str, observed: np.ndarray) -> pd.DataFrame:
    """Frame of the observed values, the mean, and the ends of the 90% interval."""
    names = [column(component, quantity) for quantity in ("mean", *interval_names(0.9))]
    mean, low, high = (require_columns(table, names)[name].to_numpy() for name in names)
    return pd.DataFrame({"observed": observed, "mean": mean, "low": low, "high": high})


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many small axes, up to three side by side."""
    columns = min(3, number)
    lines = -(-number // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel().tolist()
    for ax in grid[number:]:
        ax.remove()
    return figure, grid[:number]


def _one_unit(ax: Axes, rows: pd.DataFrame) -> None:
    rows = rows.sort_values("x")
    ax.spines[["top", "right"]].set_visible(False)
    ax.fill_between(rows["x"], rows["low"], rows["high"], color=SKY, alpha=0.35, lw=0, label="90% interval")
    ax.plot(rows["x"], rows["mean"], color=BLUE, lw=1.6, label="predicted mean")
    ax.plot(rows["x"], rows["observed"], color=BLACK, lw=1.0, label="observed")
    if rows["seen"].any():
        part = rows[rows["seen"]]
        ax.plot(part["x"], part["observed"], "o", color=VERMILION, ms=5, label="labels the model saw")
