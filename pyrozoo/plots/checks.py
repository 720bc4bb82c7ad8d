"""Pictures of checks: Pareto k, models compared, prior sensitivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..posterior.export import smoothed_weights, variable_names
from .draws import draw_forest
from .scalars import SAMPLES, group_of, legend_below, pick, scalars
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, line_style, make_axes, require_columns

if TYPE_CHECKING:
    from ..criticism.comparing_guides import GuideComparison


def khat(values: pd.Series, title: str = "", ax: Axes | None = None) -> Axes:
    """Pareto shape of the importance weights, sorted: above 0.7 the guide cannot stand in for the posterior.

    Args:
        values: Result of `pyrozoo.khat`, one number per row, unit or recording; the three worst are named by their
            index. Minus infinity (no tail), NaN (not known) and infinity (bad) are counted but have no point.
        title: Title of the axes.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: No value is given.

    Example:
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> k = pd.Series([0.1, 0.3, 0.6, 0.9], index=pd.Index(["A", "B", "C", "D"], name="unit"))
        >>> ax = zoo.plots.khat(k)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['good, up to 0.5: 50.0%', 'usable, up to 0.7: 25.0%', 'bad, above 0.7: 25.0%']
    """
    if len(values) == 0:
        raise ValueError("values: there is no k to draw")
    ax = make_axes(ax, (7.0, 4.2))
    ranked = values.replace(-np.inf, np.nan).dropna().sort_values()
    position, share = np.arange(len(ranked)), 1 / len(values)
    parts = (
        (ranked <= 0.5, GREEN, "good, up to 0.5"),
        ((ranked > 0.5) & (ranked <= 0.7), ORANGE, "usable, up to 0.7"),
        (ranked > 0.7, VERMILION, "bad, above 0.7"),
    )
    for rows, colour, meaning in parts:
        label = f"{meaning}: {rows.sum() * share:.1%}"
        ax.plot(position[rows], ranked[rows], "o", ms=4, mew=0, color=colour, label=label)
    for count, meaning in ((np.isneginf(values).sum(), "no tail to fit"), (values.isna().sum(), "cannot be told")):
        if count:
            ax.plot([], [], " ", label=f"{meaning}: {count * share:.1%}")
    for threshold in (0.5, 0.7):
        ax.axhline(threshold, color=BLACK, lw=0.9, ls="--")
    beside_left: dict[str, Any] = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
    for place in [i for i in position if 0.7 < ranked.iloc[i] < np.inf][-3:]:
        ax.annotate(str(ranked.index[place]), (place, ranked.iloc[place]), fontsize=8, **beside_left)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=f"{values.index.name or 'row'}, sorted", ylabel=r"Pareto $\hat{k}$", title=title)
    ax.legend(loc="upper left")
    return ax


def compare(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
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
        >>> ax = zoo.plots.compare(pd.DataFrame.from_dict(lines, orient="index", columns=columns))
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


def guides(
    comparison: GuideComparison, var_names: str | Sequence[str] | None = None, *,
    coords: Mapping[str, Any] | None = None, interval: str = "eti", width: float = 0.9,
    title: str = "guides on the same networks", figsize: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Guides side by side: their intervals as a forest, ELBO with its standard error, Pareto k, and a predictive score.

    Args:
        comparison: Result of `pyrozoo.compare_guides`.
        var_names: Latents to show; all that were compared by default.
        coords: Axis -> label, or list of labels, to keep.
        interval: "eti", equal-tailed, or "hdi", of highest density.
        width: Probability of the interval.
        title: Title of the figure.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: More than 100 numbers, or an unknown interval.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=10, n_unlabelled=0)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, width=8, alpha=0.0)
        >>> guides = {"paper": "paper", "mvn": "mvn"}
        >>> found = zoo.compare_guides(model, guides, train, test, draws=25, steps=5, progress=False)
        >>> figure = zoo.plots.guides(found, coords={"unit": [0, 1]})
        >>> [ax.get_xlabel() for ax in figure.axes[1:]]
        ['ELBO [nats per row]', 'median Pareto k', 'y.crps']
    """
    table = comparison.table
    found = {name: scalars(one, var_names, coords, "posterior", 100) for name, one in comparison.idata.items()}
    lines = len(next(iter(found.values())))
    height = 1.6 + max((0.22 + 0.12 * (len(found) - 1)) * lines, 0.32 * len(found))
    figure = Figure(figsize=figsize or (11.0, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    left, *others = figure.subplots(1, 4, width_ratios=(2.4, 1, 1, 1))
    draw_forest(left, found, interval, width)
    score = table.columns[4]  # after elbo, elbo_se, khat, bad
    names = {"elbo": "ELBO [nats per row]", "khat": "median Pareto k", score: score}
    for ax, (column, label) in zip(others, names.items(), strict=True):
        for m, (value, error) in enumerate(zip(table[column], table["elbo_se"], strict=True)):
            style = {"color": line_style(m)["color"], "marker": "o", "ms": 6, "capsize": 3}
            ax.errorbar(value, m, xerr=error if column == "elbo" else None, **style)
        ax.set(xlabel=label, ylim=(len(table) - 0.4, -0.6))
        ax.set_yticks(range(len(table)), [])
        ax.grid(axis="x", lw=0.4, alpha=0.6)
        ax.locator_params(axis="x", nbins=4)
    others[1].axvline(0.7, color=BLACK, lw=0.9, ls="--")
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    legend_below(figure, left)
    return figure


def psense(
    source: Any, var_names: str | Sequence[str] | None = None, *, coords: Mapping[str, Any] | None = None,
    powers: Sequence[float] = (0.5, 0.71, 1.41, 2.0), shift: str = "shift",
    label: str = "shift of the mean [posterior sd]", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """How far each posterior mean or prediction moves when its prior changes; a flat line depends on the data alone.

    Of an ArviZ object: the prior of each position is raised to a power, by Pareto-smoothed weights of the draws; above
    1 it is stronger. Of a table of `pyrozoo.prior_sensitivity`: other priors, too, and predictions.

    One line per position and component. The five that move most have colours and names; if there are more than 100
    lines, the others are a band. Crosses mark values with unreliable importance weights: ignore them.

    Args:
        source: An ArviZ object with ``log_prior``, or the table ``latents`` or ``predictions`` of
            `pyrozoo.PriorSensitivity`.
        var_names: Latents of the ArviZ object to show; by default all with a prior.
        coords: Axis -> label, or list of labels, to keep of the ArviZ object.
        powers: Powers of the prior, for an ArviZ object.
        shift: Name of the table's column to draw.
        label: Label of the vertical axis, with its unit.
        ax: Axes to draw into; a new figure by default.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: A column is missing, no ``log_prior``, more than 2,000 lines, or no line to draw.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> idata = zoo.to_arviz(fit, data, draws=50, sites=["c"])
        >>> ax = zoo.plots.psense(idata, "c", coords={"unit": [1, 2, 3]})
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['power 0.5', 'power 0.71', 'as fitted', 'power 1.41', 'power 2']
    """
    is_table = isinstance(source, pd.DataFrame)
    table = source if is_table else _powered(source, var_names, coords, powers)
    known = {"prior", "factor", "target", "component", "reliable", shift}
    position = next((str(name) for name in table.columns if name not in known), "")
    table = require_columns(table, ("prior", "factor", "component", "reliable", shift))
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


def _powered(
    idata: Any, var_names: str | Sequence[str] | None, coords: Mapping[str, Any] | None, powers: Sequence[float]
) -> pd.DataFrame:
    """Shifts of the means of an ArviZ object, by its latents, positions and powers of the prior."""
    if not powers or any(power <= 0 or power == 1 for power in powers):
        raise ValueError(f"powers: {list(powers)}; give positive numbers other than 1")
    densities = group_of(idata, "log_prior", "make it by to_arviz of a fit")
    rows = []
    for name in variable_names(densities, var_names, "log_prior"):
        density = pick(densities[name], coords)
        axes = [axis for axis in density.dims if axis not in SAMPLES]
        places = density.transpose(*SAMPLES, *axes).values
        log_prior = places.reshape(places.shape[0] * places.shape[1], -1)
        own = scalars(
            idata, name, {a: v for a, v in (coords or {}).items() if a in idata["posterior"].dims}, "posterior", 2000
        )
        width = len(own) // log_prior.shape[1]
        limit = min(0.7, 1 - 1 / np.log10(len(log_prior)))  # Vehtari et al. 2024: S draws support no more
        for power in powers:
            weights, k = smoothed_weights((power - 1) * log_prior)
            for i, s in enumerate(own):
                values = s.values.ravel()
                spread = values.std()
                moved = (weights[:, i // width] @ values - values.mean()) / spread if spread > 0 else 0.0
                rows.append((f"power {power:g}", power, s.label, 0, moved, bool(k[i // width] <= limit)))
    return pd.DataFrame(rows, columns=["prior", "factor", "latent", "component", "shift", "reliable"])


def _prior_order(table: pd.DataFrame) -> tuple[list[str], int]:
    """Names of the priors, powers first and in order, "as fitted" among them, and the number of these first names."""
    factors = table.groupby("prior", sort=False)["factor"].first()
    powers = factors[factors.index.str.startswith("power ") & factors.notna()].sort_values()
    joined = [*powers.index[powers < 1], "as fitted", *powers.index[powers >= 1]]
    return [*joined, *factors.index.drop(powers.index)], len(joined)
