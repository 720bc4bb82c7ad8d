"""Pictures of checks: predictive densities, Pareto k, prior sensitivity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, line_style, make_axes, require_columns, with_unit


def ppc_density(observed: Any, replicated: Any, label: str = "y", unit: str = "", ax: Axes | None = None) -> Axes:
    """Histogram of the observed values against those of replicated data sets.

    Histograms share their bins, so a bound or a spike of the data stays visible, which a smoothed density would blur.

    Args:
        observed: Observed values, shape (n,); entries that were not observed (NaN) are left out on both sides.
        replicated: Replicated data sets, shape (S, n); up to 30 are drawn, band and mean are over all S.
        label: Name of the observed quantity.
        unit: Unit of measure of the quantity.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: Shapes do not fit, or nothing was observed.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> groups = zoo.draw(fit, data, draws=20, sites=["y"]).groups
        >>> observed, replicated = groups["observed_data"]["y"], groups["posterior_predictive"]["y"]
        >>> ax = zoo.plots.ppc_density(observed[:, 0], replicated[0, :, :, 0], label="tank level")
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('tank level', 'density')
    """
    observed, replicated = np.asarray(observed, dtype=float), np.asarray(replicated, dtype=float)
    if observed.ndim != 1 or replicated.ndim != 2 or replicated.shape[1] != observed.size:
        raise ValueError(f"observed {observed.shape} and replicated {replicated.shape} are not (n,) and (S, n)")
    seen = ~np.isnan(observed)
    if not seen.any():
        raise ValueError(f"no observed value of {label}")
    observed, replicated = observed[seen], replicated[:, seen]
    ax = make_axes(ax, (6.8, 4.2))
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
    ax.set(xlabel=with_unit(label, unit), ylabel=with_unit("density", unit and f"per {unit}"))
    ax.set_ylim(bottom=0)
    ax.legend(loc="best", fontsize=9)
    return ax


def khat_plot(khat: pd.Series, title: str = "", ax: Axes | None = None) -> Axes:
    """Pareto shape of the importance weights, sorted: above 0.7 the guide cannot stand in for the posterior.

    Args:
        khat: Values of `pyrozoo.khat`, one per row, unit or recording; the three worst are named by their index. Minus
            infinity (no tail), NaN (not known) and infinity (bad) are counted but have no point.
        title: Title of the axes.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: No value is given.

    Example:
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> khat = pd.Series([0.1, 0.3, 0.6, 0.9], index=pd.Index(["A", "B", "C", "D"], name="unit"))
        >>> ax = zoo.plots.khat_plot(khat)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['good, up to 0.5: 50.0%', 'usable, up to 0.7: 25.0%', 'bad, above 0.7: 25.0%']
    """
    if len(khat) == 0:
        raise ValueError("khat is empty")
    ax = make_axes(ax, (7.0, 4.2))
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
    beside_left: dict[str, Any] = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
    for place in [i for i in position if 0.7 < ranked.iloc[i] < np.inf][-3:]:
        ax.annotate(str(ranked.index[place]), (place, ranked.iloc[place]), fontsize=8, **beside_left)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=f"{khat.index.name or 'row'}, sorted", ylabel=r"Pareto $\hat{k}$", title=title)
    ax.legend(loc="upper left")
    return ax


def compare_plot(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Models by their predictive density on the same rows: how far each is behind the best, with its standard error.

    Args:
        table: Table of `pyrozoo.compare`, best first.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: A column is missing, or no model is given.

    Example:
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> lines = {"paper": [-50.0, 4.0, 0.0, 0.0], "mvn": [-62.0, 5.0, -12.0, 3.0]}
        >>> columns = ["elpd", "se", "difference", "se_difference"]
        >>> ax = zoo.plots.compare_plot(pd.DataFrame.from_dict(lines, orient="index", columns=columns))
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['paper: -50.0', 'mvn: -62.0']
    """
    require_columns(table, ("elpd", "difference", "se_difference"))
    if table.empty:
        raise ValueError("the table has no model to draw")
    ax = make_axes(ax, (6.8, 1.2 + 0.4 * len(table)))
    place = np.arange(len(table))
    ax.axvline(0, color=BLACK, lw=0.9, ls="--")
    error = table["se_difference"].fillna(0.0)  # one row has none
    ax.errorbar(table["difference"], place, xerr=error, fmt="o", color=BLUE, ms=6, capsize=3)
    ax.set_yticks(place, [f"{name}: {elpd:.1f}" for name, elpd in table["elpd"].items()])
    ax.set_ylim(len(table) - 0.5, -0.5)  # the best on top
    ax.set(xlabel="difference from the best in log predictive density [nats], ± SE", ylabel="model: elpd [nats]")
    return ax


def prior_shifts(
    table: pd.DataFrame, position: str, shift: str = "shift", label: str = "shift of the mean [posterior sd]",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """How far each posterior mean or prediction moves when its prior changes; a flat line depends on the data alone.

    One line per position and component. The five that move most have colours and names; if there are more than 100
    lines, the others are a band. Crosses mark values with unreliable importance weights: ignore them.

    Args:
        table: The table ``latents`` or ``predictions`` of `pyrozoo.PriorSensitivity`, with columns ``prior``,
            ``factor``, ``component``, ``reliable``, `position` and `shift`.
        position: Name of the column that tells positions apart, e.g. ``"unit"`` or ``"row"``.
        shift: Name of the column to draw.
        label: Label of the vertical axis, with its unit.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: A column is missing, or there is no line to draw.

    Example:
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> table = pd.DataFrame(
        ...     {
        ...         "prior": ["power 0.5", "power 0.5", "power 2", "power 2"],
        ...         "factor": [0.5, 0.5, 2.0, 2.0],
        ...         "unit": ["A", "B", "A", "B"],
        ...         "component": 0,
        ...         "shift": [0.1, 0.3, -0.1, -0.5],
        ...         "reliable": True,
        ...     }
        ... )
        >>> ax = zoo.plots.prior_shifts(table, "unit")
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['power 0.5', 'as fitted', 'power 2']
    """
    table = require_columns(table, ("prior", "factor", "component", "reliable", position, shift))
    if table.empty:
        raise ValueError("the table has no line to draw")
    ax = make_axes(ax, (7.5, 4.4))
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
        ax.plot(places[:joined], lines.loc[key].iloc[:joined], marker="o", ms=4, label=name, **line_style(index))
        ax.plot(places[joined:], lines.loc[key].iloc[joined:], "o", ms=4, color=line_style(index)["color"])
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
    """Names of the priors, powers first and in order, "as fitted" among them, and the number of these first names."""
    factors = table.groupby("prior", sort=False)["factor"].first()
    powers = factors[factors.index.str.startswith("power ") & factors.notna()].sort_values()
    joined = [*powers.index[powers < 1], "as fitted", *powers.index[powers >= 1]]
    return [*joined, *factors.index.drop(powers.index)], len(joined)


def _shared_bins(observed: np.ndarray, replicated: np.ndarray) -> np.ndarray:
    """Bin edges over the observed range, extended on each side to the replications by at most a quarter of it."""
    low, high = observed.min(), observed.max()
    reach = (high - low) / 4 or 1.0
    low, high = min(low, max(replicated.min(), low - reach)), max(high, min(replicated.max(), high + reach))
    return np.linspace(low, high if high > low else low + 1, int(np.clip(3 * observed.size ** (1 / 3), 12, 60)) + 1)
