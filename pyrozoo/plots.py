"""The few pictures that ArviZ does not have, drawn with matplotlib only.

Every function takes arrays or data frames, draws into ``ax`` or into a figure of its own, and returns the axes
(`unit_lines`, which needs several, the figure). Nothing touches pyplot: save with
``elbo_curves(...).figure.savefig("elbo.png")``, and show in a notebook by leaving ``.figure`` on a cell's last line.
Colours are those of Okabe and Ito, told apart with any colour vision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#707070"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PINK, SKY, BLACK)
_LINE_STYLES = ("-", "--", ":", "-.")


def elbo_curves(histories: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Evidence lower bound over training, one line per restart or model.

    The vertical axis begins at the lowest value after the first tenth of the epochs, so that the plunge of the first
    steps does not flatten the rest; what lies below is announced in the picture.

    Args:
        histories: label -> frame with columns ``epoch`` and ``elbo``, in nats per row; further columns are ignored.
        ax: axes to draw into.

    Raises:
        ValueError: no history, or one without a finite ``elbo``.
    """
    if not histories:
        raise ValueError("no history to draw")
    ax = _axes(ax, (7.5, 4.2))
    settled, lowest = [], np.inf
    for index, (label, history) in enumerate(histories.items()):
        table = history[np.isfinite(history["elbo"])]
        if table.empty:
            raise ValueError(f"history {label!r} has no finite elbo")
        epoch, elbo = table["epoch"].to_numpy(), table["elbo"].to_numpy()
        ax.plot(epoch, elbo, label=f"{label}: {elbo[-1]:.2f}", lw=1.6, **_line(index))
        settled.append(elbo[epoch >= epoch[0] + 0.1 * (epoch[-1] - epoch[0])])
        lowest = min(lowest, elbo.min())
    low, high = np.concatenate(settled).min(), max(part.max() for part in settled)
    margin = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    if lowest < low - margin:
        note = f"▼ first epochs (from {lowest:.3g}) are below the axis"
        ax.text(0.02, 0.03, note, transform=ax.transAxes, color=GREY, bbox={"color": "white", "pad": 1.5}, fontsize=9)
    ax.set(xlabel="epoch", ylabel="ELBO [nats per row]")
    many = len(histories) > 6
    ax.legend(
        title="last value", loc="center left" if many else "lower right", bbox_to_anchor=(1, 0.5) if many else None
    )
    return ax


def latent_map(
    points: Any,
    sd: Any = None,
    labels: Sequence[str] | None = None,
    truth: Any = None,
    truth_label: str = "truth",
    name: str = "z",
    ax: Axes | None = None,
) -> Axes:
    """Posterior means of a latent vector in the plane; the first two principal components when K > 2.

    Args:
        points: posterior means, shape (n, K), K at least 2.
        sd: posterior standard deviations, shape (n, K), drawn as crosses of one sd; correlations are left out.
        labels: n names; up to 15 of the outermost points carry theirs.
        truth: n values to colour by, numbers or classes.
        truth_label: what ``truth`` is, with its unit.
        name: site name of the latent, for the axes.
        ax: axes to draw into.

    Raises:
        ValueError: ``points`` is not (n, K) with K at least 2, or another argument has another length.
    """
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(f"points has shape {points.shape}: a map needs (points, K) with K of 2 or more")
    for argument, values in {"sd": sd, "labels": labels, "truth": truth}.items():
        if values is not None and len(values) != len(points):
            raise ValueError(f"{argument} has {len(values)} entries for {len(points)} points")
    ax = _axes(ax, (6.5, 5.4))
    plane, spread, axis_names = _to_plane(points, None if sd is None else np.asarray(sd, dtype=float), name)
    if spread is not None:
        ax.errorbar(*plane.T, *spread.T[::-1], fmt="none", ecolor=GREY, elinewidth=0.6, alpha=0.5, label="±1 sd")
    _coloured_points(ax, plane, truth, truth_label)
    if labels is not None:
        for i in _outermost(plane, 15):
            ax.annotate(str(labels[i]), plane[i], xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    ax.set_aspect("equal", adjustable="datalim")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", title=truth_label if _is_class(truth) else None, markerscale=1 if len(plane) < 300 else 2)
    return ax


def predicted_vs_observed(table: pd.DataFrame, quantity: str = "y", unit: str = "", ax: Axes | None = None) -> Axes:
    """Predictions with 90% intervals against what was observed; a good point lies on the diagonal.

    Beyond 400 rows the intervals themselves are left out; colour still says which rows lie outside theirs.

    Args:
        table: columns ``observed``, ``mean``, ``q05``, ``q95``, one row per prediction; rows without an observation
            (NaN) are left out.
        quantity: what is predicted.
        unit: its unit of measure.
        ax: axes to draw into.

    Raises:
        ValueError: a column is missing, or no row has an observation.
    """
    table = _table(table, ("observed", "mean", "q05", "q95")).dropna(subset="observed")
    if table.empty:
        raise ValueError("no row has an observation")
    ax = _axes(ax, (5.6, 5.4))
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
    ax.set_title(f"RMSE {_with_unit(f'{error:.3g}', unit, brackets=False)}, {len(table)} rows", fontsize=10)
    ax.set(xlabel=_with_unit(f"observed {quantity}", unit), ylabel=_with_unit(f"predicted {quantity}", unit))
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
        table: columns ``observed``, ``mean``, ``q05``, ``q95``, the column ``unit`` and, if there are labels the model
            saw, the boolean column ``labelled``. ``observed`` may hold NaN.
        unit: name of the column that tells units apart.
        x: column for the horizontal axis; None counts the rows of each unit from 0.
        units: units to show; by default ``panels`` of them, evenly from the best predicted to the worst.
        panels: number of units to choose when ``units`` is not given.
        quantity: what is predicted.
        measure: its unit of measure.

    Raises:
        ValueError: a column is missing, or no unit is left.
        KeyError: a unit that the table does not have.
    """
    table = _table(table, ("observed", "mean", "q05", "q95", unit, *([x] if x else [])))
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
        score = _with_unit(f", RMSE {error[name]:.3g}", measure, brackets=False) if np.isfinite(error[name]) else ""
        ax.set_title(f"{unit} {name}{score}", fontsize=9)
    figure.supxlabel(x or "row position", fontsize=10)
    figure.supylabel(_with_unit(quantity, measure), fontsize=10)
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def interval_coverage(nominal: Any, empirical: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Share of truths inside their intervals against the share promised; a good model follows the diagonal.

    Args:
        nominal: promised coverages in (0, 1), shape (L,).
        empirical: model -> observed coverages, shape (L,).
        ax: axes to draw into.

    Raises:
        ValueError: a model has another number of coverages.
    """
    nominal = np.asarray(nominal, dtype=float)
    ax = _axes(ax, (5.4, 5.2))
    ax.plot([0, 1], [0, 1], color=BLACK, lw=1.2, label="as promised")
    for index, (model, shares) in enumerate(empirical.items()):
        shares = np.asarray(shares, dtype=float)
        if shares.shape != nominal.shape:
            raise ValueError(f"{model} has {shares.size} coverages for {nominal.size} nominal ones")
        ax.plot(nominal, shares, marker="o", ms=5, label=model, **_line(index))
    for place, meaning in (((0.2, 0.26), "intervals too wide"), ((0.26, 0.2), "intervals too narrow")):
        ax.text(*place, meaning, color=GREY, rotation=45, ha="center", va="center", transform=ax.transAxes)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="nominal coverage of the interval", ylabel="share of truths inside")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(loc="upper left")
    return ax


def reliability(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """How often the most probable class is right against how probable it was said to be.

    Honest probabilities lie on the diagonal. The area of a point is its share of the rows, a bar the 90% interval of
    the accuracy for independent rows; the legend gives the expected calibration error, the mean distance to the
    diagonal.

    Args:
        tables: model -> table of `pyrozoo.scores.reliability`.
        ax: axes to draw into.

    Raises:
        ValueError: no table, one without a line, or one that lacks a column.
    """
    if not tables:
        raise ValueError("no table to draw")
    ax = _axes(ax, (7.4, 5.2))
    ax.plot([0, 1], [0, 1], color=BLACK, lw=1.2)
    least = 1.0
    for index, (model, table) in enumerate(tables.items()):
        table = _table(table, ("confidence", "accuracy", "lower", "upper", "count"))
        if table.empty:
            raise ValueError(f"the table of {model!r} has no line to draw")
        share = (table["count"] / table["count"].sum()).to_numpy()
        stated, right = table["confidence"].to_numpy(), table["accuracy"].to_numpy()
        error = (share * np.abs(stated - right)).sum()
        line = _line(index)
        ax.vlines(stated, table["lower"], table["upper"], color=line["color"], lw=1.4, alpha=0.6, zorder=2.5)
        ax.plot(stated, right, lw=1.6, label=f"{model}: {error:.1%}", clip_on=False, zorder=3, **line)
        ax.scatter(stated, right, s=8 + 400 * share, color=line["color"], lw=0, clip_on=False, zorder=3)
        least = min(least, stated.min(), table["lower"].min())
    # Where all is high, the whole square would hide what differs.
    low = np.floor(10 * least - 1e-9) / 10 - 0.05 if least > 0.4 else 0.0
    for place, meaning in (((0.1, 0.16), "too cautious"), ((0.16, 0.1), "too sure")):
        ax.text(*place, meaning, color=GREY, rotation=45, ha="center", va="center", transform=ax.transAxes)
    ax.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
    ax.set(xlabel="probability of the most probable class, mean of the bin", ylabel="share of rows where it is right")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    # Beside the axes: bins with few rows lie anywhere inside.
    ax.legend(title="expected\ncalibration error", loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=9)
    note = "area of a point: its\nshare of the rows\nbar: 90% interval"
    ax.text(1.03, 0.03, note, color=GREY, fontsize=9, transform=ax.transAxes)
    return ax


def ppc_density(observed: Any, replicated: Any, label: str = "y", unit: str = "", ax: Axes | None = None) -> Axes:
    """Histogram of the observed values against those of replicated data sets.

    Histograms share their bins, so a bound or a spike of the data stays visible, which a smoothed density would blur.

    Args:
        observed: shape (n,); entries that were not observed (NaN) are left out on both sides.
        replicated: S replicated data sets, shape (S, n); 30 are drawn, band and mean are over all.
        label: what was observed.
        unit: its unit of measure.
        ax: axes to draw into.

    Raises:
        ValueError: shapes do not fit, or nothing was observed.
    """
    observed, replicated = np.asarray(observed, dtype=float), np.asarray(replicated, dtype=float)
    if observed.ndim != 1 or replicated.ndim != 2 or replicated.shape[1] != observed.size:
        raise ValueError(f"observed {observed.shape} and replicated {replicated.shape} are not (n,) and (S, n)")
    seen = ~np.isnan(observed)
    if not seen.any():
        raise ValueError(f"no observed value of {label}")
    observed, replicated = observed[seen], replicated[:, seen]
    ax = _axes(ax, (6.8, 4.2))
    edges = _shared_bins(observed, replicated)
    scale = 1 / (observed.size * np.diff(edges))
    curves = np.stack([np.histogram(row, edges)[0] * scale for row in replicated])
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    ax.stairs(high, edges, baseline=low, fill=True, color=SKY, alpha=0.5, label="90% of replications")
    for curve in curves[np.linspace(0, len(curves) - 1, min(30, len(curves))).astype(int)]:
        ax.stairs(curve, edges, baseline=None, color=BLUE, lw=0.5, alpha=0.3)
    ax.stairs(curves.mean(axis=0), edges, baseline=None, color=BLUE, lw=2, label=f"mean of {len(curves)} replications")
    ax.stairs(np.histogram(observed, edges)[0] * scale, edges, baseline=None, color=BLACK, lw=2, label="observed")
    beyond = ((replicated < edges[0]) | (replicated > edges[-1])).mean()
    if beyond >= 0.0005:
        ax.set_title(f"{beyond:.1%} of the replicated values lie beyond the axis", fontsize=9, color=GREY, loc="right")
    ax.set(xlabel=_with_unit(label, unit), ylabel=_with_unit("density", unit and f"per {unit}"))
    ax.set_ylim(bottom=0)
    ax.legend(loc="best", fontsize=9)
    return ax


def khat_plot(khat: pd.Series, title: str = "", ax: Axes | None = None) -> Axes:
    """Pareto shape of the importance weights, sorted: above 0.7 the guide cannot stand in for the posterior.

    Args:
        khat: one value per row, unit or recording; the three worst are named by their index. Minus infinity (no tail),
            NaN (cannot be told) and infinity, which is bad, are counted but have no point.
        title: title of the axes.
        ax: axes to draw into.

    Raises:
        ValueError: no value is given.
    """
    if len(khat) == 0:
        raise ValueError("khat is empty")
    ax = _axes(ax, (7.0, 4.2))
    ranked = khat.replace(-np.inf, np.nan).dropna().sort_values()
    position, share = np.arange(len(ranked)), 1 / len(khat)
    parts = (
        (ranked <= 0.5, GREEN, "good, up to 0.5"),
        ((ranked > 0.5) & (ranked <= 0.7), ORANGE, "usable, up to 0.7"),
        (ranked > 0.7, VERMILION, "bad, above 0.7"),
    )
    for rows, colour, meaning in parts:
        label = f"{meaning}: {rows.sum() * share:.1%}"
        ax.plot(position[rows], ranked[rows], "o", ms=4, mew=0, color=colour, label=label)
    for count, meaning in ((np.isneginf(khat).sum(), "no tail to fit"), (khat.isna().sum(), "cannot be told")):
        if count:
            ax.plot([], [], " ", label=f"{meaning}: {count * share:.1%}")
    for threshold in (0.5, 0.7):
        ax.axhline(threshold, color=BLACK, lw=0.9, ls="--")
    beside_left = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 8}
    for place in [i for i in position if 0.7 < ranked.iloc[i] < np.inf][-3:]:
        ax.annotate(str(ranked.index[place]), (place, ranked.iloc[place]), **beside_left)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=f"{khat.index.name or 'row'}, sorted", ylabel=r"Pareto $\hat{k}$", title=title)
    ax.legend(loc="upper left")
    return ax


def prior_shifts(
    table: pd.DataFrame, position: str, shift: str = "shift", label: str = "shift of the mean [posterior sd]",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """How far each posterior mean or prediction moves when its prior is changed; a flat line leans on the data.

    One line per position and component. The five that move most have colours and names; of more than 100 lines the
    others are a band. Crosses are values whose importance weights are unreliable: do not read them.

    Args:
        table: ``latents`` or ``predictions`` of `pyrozoo.sensitivity.PriorSensitivity`: columns ``prior``, ``factor``,
            ``component``, ``reliable``, `position` and `shift`.
        position: column that tells positions apart, e.g. ``"unit"`` or ``"row"``.
        shift: column to draw.
        label: what it is, with its unit.
        ax: axes to draw into.

    Raises:
        ValueError: a column is missing, or there is no line to draw.
    """
    table = _table(table, ("prior", "factor", "component", "reliable", position, shift))
    if table.empty:
        raise ValueError("the table has no line to draw")
    ax = _axes(ax, (7.5, 4.4))
    ticks, joined = _prior_order(table)
    keys = [position, *[name for name in ("target", "component") if name in table and table[name].nunique() > 1]]
    lines = table.pivot_table(index=keys, columns="prior", values=shift, sort=False).assign(**{"as fitted": 0.0})[ticks]
    good = table.pivot_table(index=keys, columns="prior", values="reliable", sort=False, aggfunc="min")
    good = good.assign(**{"as fitted": True})[ticks].astype(bool).loc[lines.index]
    most = lines.abs().where(good, 0.0).max(axis=1).sort_values(ascending=False).index[:5]
    places, many = np.arange(len(ticks)), len(lines) > 100
    if many:
        low, high = np.nanquantile(lines.where(good), [0.05, 0.95], axis=0)
        ax.fill_between(places[:joined], low[:joined], high[:joined], color=GREY, alpha=0.25, lw=0)
        ax.vlines(places[joined:], low[joined:], high[joined:], color=GREY, alpha=0.25, lw=8)
        ax.plot([], [], color=GREY, alpha=0.25, lw=8, label=f"90% of all {len(lines)}")
    for _, row in lines.drop(most).iloc[: 0 if many else None].iterrows():
        ax.plot(places[:joined], row.iloc[:joined], color=GREY, lw=0.8, alpha=0.5)
        ax.plot(places[joined:], row.iloc[joined:], ".", color=GREY, ms=4, alpha=0.5)
    for index, key in enumerate(most):
        name = ", ".join(str(part) for part in (key if isinstance(key, tuple) else (key,)))
        ax.plot(places[:joined], lines.loc[key].iloc[:joined], marker="o", ms=4, label=name, **_line(index))
        ax.plot(places[joined:], lines.loc[key].iloc[joined:], "o", ms=4, color=_line(index)["color"])
    shown = lines.loc[most] if many else lines
    bad = ~good.loc[shown.index].to_numpy()
    if bad.any():
        share = (~good.drop(columns="as fitted")).to_numpy().mean()
        crosses = np.where(bad, shown, np.nan).ravel()
        ax.plot(np.tile(places, len(shown)), crosses, "x", color=BLACK, ms=6, label=f"unreliable: {share:.0%}")
    ax.axhline(0, color=BLACK, lw=0.8)
    ax.set_xticks(places, ticks, rotation=30 if len(ticks) > 4 else 0)
    ax.set(xlabel="prior", ylabel=label)
    ax.legend(title=", ".join(keys), loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return ax


def _prior_order(table: pd.DataFrame) -> tuple[list[str], int]:
    """Names of the priors, powers first and in order, "as fitted" among them, and how many names these are."""
    factors = table.groupby("prior", sort=False)["factor"].first()
    powers = factors[factors.index.str.startswith("power ") & factors.notna()].sort_values()
    joined = [*powers.index[powers < 1], "as fitted", *powers.index[powers >= 1]]
    return [*joined, *factors.index.drop(powers.index)], len(joined)


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        ax = Figure(figsize=size, layout="constrained").subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _line(index: int) -> dict[str, str]:
    return {"color": COLOURS[index % len(COLOURS)], "ls": _LINE_STYLES[index // len(COLOURS) % len(_LINE_STYLES)]}


def _with_unit(text: str, unit: str, brackets: bool = True) -> str:
    if not unit:
        return text
    return f"{text} [{unit}]" if brackets else f"{text} {unit}"


def _table(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    if missing := [name for name in columns if name not in table.columns]:
        raise ValueError(f"the table has no column {missing}; it has {list(table.columns)}")
    return table


def _is_class(truth: Any) -> bool:
    if truth is None:
        return False
    values = np.asarray(truth)
    return values.dtype.kind not in "fiu" or (values.dtype.kind in "iu" and len(np.unique(values)) <= len(COLOURS))


def _to_plane(
    points: np.ndarray, sd: np.ndarray | None, name: str
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, str]]:
    if points.shape[1] == 2:
        return points, sd, (f"{name}[0]", f"{name}[1]")
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2).fit(points)
    spread = None if sd is None else np.sqrt(sd**2 @ pca.components_.T**2)
    first, second = pca.explained_variance_ratio_
    names = (f"{name}: 1st component ({first:.0%} of variance)", f"{name}: 2nd component ({second:.0%} of variance)")
    return pca.transform(points), spread, names


def _outermost(plane: np.ndarray, count: int) -> list[int]:
    """Points farthest from the centre, leaving out those whose name would fall on another's."""
    chosen: list[int] = []
    room = np.ptp(plane, axis=0) * (0.15, 0.03)
    for i in np.argsort(-np.linalg.norm(plane - plane.mean(axis=0), axis=1)):
        if len(chosen) < count and all((np.abs(plane[i] - plane[j]) > room).any() for j in chosen):
            chosen.append(int(i))
    return chosen


def _coloured_points(ax: Axes, plane: np.ndarray, truth: Any, truth_label: str) -> None:
    size = 26 if len(plane) < 300 else 9
    if truth is None:
        ax.scatter(*plane.T, s=size, color=BLUE, lw=0)
    elif _is_class(truth):
        for index, value in enumerate(np.unique(truth)):
            colour, marker = COLOURS[index % len(COLOURS)], "os^D"[index // len(COLOURS) % 4]
            ax.scatter(
                *plane[np.asarray(truth) == value].T, s=size, color=colour, marker=marker, lw=0, label=str(value)
            )
    else:
        shown = ax.scatter(*plane.T, s=size, c=np.asarray(truth, dtype=float), cmap="viridis", lw=0, zorder=3)
        ax.figure.colorbar(shown, ax=ax, label=truth_label)


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


def _shared_bins(observed: np.ndarray, replicated: np.ndarray) -> np.ndarray:
    """Bin edges over the observed range and a quarter of it on each side, as far as replications reach."""
    low, high = observed.min(), observed.max()
    reach = (high - low) / 4 or 1.0
    low, high = min(low, max(replicated.min(), low - reach)), max(high, min(replicated.max(), high + reach))
    return np.linspace(low, high if high > low else low + 1, int(np.clip(3 * observed.size ** (1 / 3), 12, 60)) + 1)
