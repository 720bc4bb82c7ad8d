"""Pictures of posterior draws, the same under ArviZ 0.x and 1.x."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom, rankdata

from .scalars import (
    Scalar,
    draw_density,
    headline,
    interval_name,
    interval_of,
    legend_below,
    models_of,
    panels,
    scalars,
    short,
)
from .style import BLACK, BLUE, GREY, VERMILION, line_style

Names = str | Sequence[str] | None
Coords = Mapping[str, Any] | None
Size = tuple[float, float] | None


def forest(
    idata: Any, var_names: Names = None, *, coords: Coords = None, group: str = "posterior", interval: str = "eti",
    width: float = 0.9, names: Sequence[str] | None = None, truth: Any = None, title: str = "", figsize: Size = None,
) -> Figure:  # fmt: skip
    """Mean and interval of many numbers, one line each; several models side by side.

    Thick lines are intervals of half the draws, thin ones of `width`. Restarts are put together.

    Args:
        idata: An ArviZ object, or several by the names of their models.
        var_names: Variables to show; all of the group by default.
        coords: Axis -> label, or list of labels, to keep.
        group: Group to draw from.
        interval: "eti", equal-tailed, or "hdi", of highest density.
        width: Probability of the interval.
        names: Names of the lines, in the place of ``variable[label]``.
        truth: True values to mark, one per line, where they are known (of simulated data).
        title: First line of the title; the interval is stated below it.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: More than 100 numbers, no such group, an unknown interval, or not one name or true value per line.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> c = np.random.default_rng(0).normal(size=(1, 100, 3))
        >>> idata = zoo.to_arviz(zoo.Draws({"posterior": {"c": c}}, {"c": ("unit",)}, {"unit": ["A", "B", "C"]}))
        >>> figure = zoo.plots.forest({"paper": idata, "mvn": idata}, coords={"unit": ["A", "C"]})
        >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        ['c[A]', 'c[C]']
    """
    models = models_of(idata)
    found = {name: scalars(one, var_names, coords, group, 100) for name, one in models.items()}
    lines = len({s.label for own in found.values() for s in own})
    figure, (ax,) = panels(1, (6.5, 0.8 + (0.22 + 0.12 * (len(models) - 1)) * lines), figsize)
    draw_forest(ax, found, interval, width, names, truth, title)
    if len(models) > 1 or truth is not None:
        legend_below(figure, ax)
    return figure


def draw_forest(
    ax: Axes, found: Mapping[str, list[Scalar]], interval: str, width: float, names: Sequence[str] | None = None,
    truth: Any = None, title: str = "",
) -> None:  # fmt: skip
    """Draw mean and interval of each number, by the name of the model, into axes; see `forest`."""
    words = interval_name(interval, width)
    labels = list(dict.fromkeys(s.label for own in found.values() for s in own))
    for what, given in (("names", names), ("truth", truth)):
        if given is not None and np.size(given) != len(labels):
            raise ValueError(f"{what}: {np.size(given)} for {len(labels)} lines, {labels[0]} to {labels[-1]}")
    step = 0.7 / len(found)
    for m, (name, own) in enumerate(found.items()):
        color = line_style(m)["color"]
        for s in own:
            y = labels.index(s.label) + step * (m - (len(found) - 1) / 2)
            values = s.values.ravel()
            ax.plot(interval_of(values, interval, width), (y, y), color=color, lw=1.2)
            ax.plot(interval_of(values, interval, width / 2 if width < 0.5 else 0.5), (y, y), color=color, lw=3.2)
            ax.plot(values.mean(), y, "o", ms=4.5, mfc="white", mec=color)
        ax.plot([], [], color=color, marker="o", mfc="white", label=name or "posterior")
    if truth is not None:
        ax.plot(np.ravel(truth), range(len(labels)), "D", ms=5, color=VERMILION, label="truth", zorder=5)
    ax.set_yticks(range(len(labels)), [short(label, 40) for label in (labels if names is None else names)], fontsize=9)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="x", lw=0.4, alpha=0.6)
    inner = 100 * (width / 2 if width < 0.5 else 0.5)
    ax.set_title("\n".join(filter(None, (title, f"mean, {inner:g}% and {words}"))), fontsize=10)


def posterior(
    idata: Any, var_names: Names = None, *, coords: Coords = None, group: str = "posterior", interval: str = "eti",
    width: float = 0.9, title: str = "", figsize: Size = None,
) -> Figure:  # fmt: skip
    """Marginal density of each number, with its mean and interval; several models in the same panels.

    Args:
        idata: An ArviZ object, or several by the names of their models.
        var_names: Variables to show; all of the group by default.
        coords: Axis -> label, or list of labels, to keep.
        group: Group to draw from.
        interval: "eti", equal-tailed, or "hdi", of highest density.
        width: Probability of the interval.
        title: First line of the title; the interval is stated below it.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: More than 24 numbers, no such group, or an unknown interval.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> sigma = np.random.default_rng(0).gamma(2.0, size=(1, 100))
        >>> figure = zoo.plots.posterior(zoo.to_arviz(zoo.Draws({"posterior": {"sigma": sigma}})))
        >>> figure.get_suptitle()
        'mean and 90% equal-tailed interval'
    """
    words = interval_name(interval, width)
    found = {name: scalars(one, var_names, coords, group, 24) for name, one in models_of(idata).items()}
    labels = list(dict.fromkeys(s.label for own in found.values() for s in own))
    figure, axes = panels(len(labels), (2.6, 2.0), figsize)
    for ax, label in zip(axes, labels, strict=True):
        ax.set_title(short(label), fontsize=9)
    for m, (name, own) in enumerate(found.items()):
        for s in own:
            ax, values, style = axes[labels.index(s.label)], s.values.ravel(), line_style(m)
            draw_density(ax, s.values, label=name, **style)
            low, high = interval_of(values, interval, width)
            foot = -0.05 - 0.06 * m
            line = {"transform": ax.get_xaxis_transform(), "color": style["color"], "clip_on": False}
            ax.plot((low, high), (-foot, -foot), lw=3, alpha=0.7, **line)
            ax.plot(values.mean(), -foot, "o", ms=5, mec="white", **line)
            if len(found) == 1:
                ax.set_xlabel(f"{values.mean():.3g}  [{low:.3g}, {high:.3g}]", fontsize=9)
    headline(figure, title and f"{title}\nmean and {words}", f"mean and {words}")
    if len(found) > 1:
        legend_below(figure, axes[0])
    return figure


def trace(
    idata: Any, var_names: Names = None, *, coords: Coords = None, group: str = "posterior", title: str = "",
    figsize: Size = None,
) -> Figure:  # fmt: skip
    """Density of each number, and its draws in order, by chain.

    A chain is one restart of a fit, or one chain of MCMC. Draws of a guide are independent: only differences between
    restarts say something there, about the optimum that each one found.

    Args:
        idata: An ArviZ object.
        var_names: Variables to show; all of the group by default.
        coords: Axis -> label, or list of labels, to keep.
        group: Group to draw from.
        title: Title of the figure.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: More than 12 numbers, or no such group.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> sigma = np.random.default_rng(0).gamma(2.0, size=(2, 100))
        >>> figure = zoo.plots.trace(zoo.to_arviz(zoo.Draws({"posterior": {"sigma": sigma}})))
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['chain 0', 'chain 1']
    """
    found = scalars(idata, var_names, coords, group, 12)
    figure, axes = panels(2 * len(found), (4.0, 1.5), figsize, columns=2)
    for s, left, right in zip(found, axes[::2], axes[1::2], strict=True):
        for chain, values in enumerate(s.values):
            style = {"color": line_style(chain)["color"], "alpha": 0.8}
            draw_density(left, values, **style)
            right.plot(values, lw=0.7, label=f"chain {chain}", **style)
        left.set_title(s.label, fontsize=9, loc="left")
        right.set_xlim(0, s.values.shape[1] - 1)
    axes[-1].set_xlabel("draw")
    axes[-2].set_xlabel("value")
    headline(figure, title, "density, and draws in order")
    legend_below(figure, axes[1])
    return figure


def rank(
    idata: Any, var_names: Names = None, *, coords: Coords = None, group: str = "posterior", title: str = "",
    figsize: Size = None,
) -> Figure:  # fmt: skip
    """Ranks of each chain's draws among all draws: chains that agree have flat lines within the band.

    One chain is cut into its first and its second half. The band holds a bin of 95 % of flat histograms.

    Args:
        idata: An ArviZ object.
        var_names: Variables to show; all of the group by default.
        coords: Axis -> label, or list of labels, to keep.
        group: Group to draw from.
        title: First line of the title.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: More than 24 numbers, no such group, or fewer than 20 draws of each line.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> sigma = np.random.default_rng(0).gamma(2.0, size=(1, 100))
        >>> figure = zoo.plots.rank(zoo.to_arviz(zoo.Draws({"posterior": {"sigma": sigma}})))
        >>> [text.get_text() for text in figure.legends[0].get_texts()][:2]
        ['first half', 'second half']
    """
    found = scalars(idata, var_names, coords, group, 24)
    figure, axes = panels(len(found), (2.8, 1.9), figsize)
    for s, ax in zip(found, axes, strict=True):
        values, names = s.values, [f"chain {i}" for i in range(len(s.values))]
        if len(values) == 1:
            half = values.shape[1] // 2
            values, names = values[:, : 2 * half].reshape(2, half), ["first half", "second half"]
        n = values.shape[1]
        if n < 20:
            raise ValueError(f"{s.label}: {n} draws of each line are too few for ranks; use at least 20")
        bins = int(np.clip(n // 10, 5, 20))
        ranks = (rankdata(values.ravel(), method="ordinal").reshape(values.shape) - 0.5) / values.size
        edges = np.linspace(0, 1, bins + 1)
        low, high = binom.ppf([0.025, 0.975], n, 1 / bins) / n * bins
        ax.axhspan(low, high, color=GREY, alpha=0.2, lw=0, label="95% of bins, if chains agree")
        for i, (own, name) in enumerate(zip(ranks, names, strict=True)):
            counts = np.histogram(own, edges)[0] / n * bins
            ax.stairs(counts, edges, baseline=None, color=line_style(i)["color"], lw=1.6, label=name)
        ax.axhline(1, color=BLACK, lw=0.8, ls="--")
        ax.set(xlim=(0, 1), ylim=(0, max(2.0, ax.get_ylim()[1])), xticks=(0, 0.5, 1))
        ax.set_title(short(s.label), fontsize=9)
    axes[0].set(xlabel="rank among all draws", ylabel="density")
    headline(figure, title, "ranks of the draws: flat, if the chains agree")
    handles, labels = axes[0].get_legend_handles_labels()
    order = [*range(1, len(labels)), 0]
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center",
        ncols=min(len(labels), 3), fontsize=9,
    )  # fmt: skip
    return figure


def pair(
    idata: Any, var_names: Names = None, *, coords: Coords = None, group: str = "posterior", title: str = "",
    figsize: Size = None,
) -> Figure:  # fmt: skip
    """Two numbers at a time: which are correlated in the posterior? Densities lie on the diagonal.

    Args:
        idata: An ArviZ object.
        var_names: Variables to show; all of the group by default.
        coords: Axis -> label, or list of labels, to keep.
        group: Group to draw from.
        title: Title of the figure.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: Fewer than two or more than six numbers, or no such group.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> c = np.random.default_rng(0).normal(size=(1, 100, 3))
        >>> figure = zoo.plots.pair(zoo.to_arviz(zoo.Draws({"posterior": {"c": c}}, {"c": ("unit",)})))
        >>> len(figure.axes)
        6
    """
    found = scalars(idata, var_names, coords, group, 6)
    n = len(found)
    if n < 2:
        raise ValueError(f"{found[0].label} alone makes no pair; choose two numbers or more by var_names and coords")
    figure = Figure(figsize=figsize or (1.6 * n + 1.2, 1.6 * n + 0.8), layout="constrained")
    grid = figure.add_gridspec(n, n)
    for i, j in itertools.combinations_with_replacement(range(n), 2):
        column, line = found[i], found[j]
        ax = figure.add_subplot(grid[j, i])
        ax.spines[["top", "right"]].set_visible(False)
        if i == j:
            draw_density(ax, line.values, color=BLUE)
        else:
            x, y = column.values.ravel(), line.values.ravel()
            ax.plot(x, y, ".", ms=4, mew=0, alpha=min(1.0, 300 / len(x)), color=BLUE, rasterized=True)
            if np.ptp(x) > 0 < np.ptp(y):
                ax.set_title(f"r = {np.corrcoef(x, y)[0, 1]:.2f}", fontsize=8, loc="right", pad=2)
        ax.tick_params(labelsize=8, labelbottom=j == n - 1, labelleft=i == 0)
        ax.set_xlabel(short(column.label, 16) if j == n - 1 else "", fontsize=8)
        ax.set_ylabel(short(line.label, 16) if i == 0 else "", fontsize=8)
    headline(figure, title, "draws of two numbers at a time, and their correlation r")
    return figure


def prior_posterior(
    idata: Any, var_names: Names = None, *, coords: Coords = None, title: str = "", figsize: Size = None
) -> Figure:
    """Prior and posterior density of each number: what was learned from the data?

    Args:
        idata: An ArviZ object with the groups ``prior`` and ``posterior``: ``to_arviz(..., prior=True)``.
        var_names: Variables to show; all of the prior by default.
        coords: Axis -> label, or list of labels, to keep.
        title: First line of the title.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: More than 24 numbers, or a group is missing.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> draws = np.random.default_rng(0).normal(size=(1, 100))
        >>> idata = zoo.to_arviz(zoo.Draws({"prior": {"mu": draws}, "posterior": {"mu": 1 + draws / 4}}))
        >>> figure = zoo.plots.prior_posterior(idata)
        >>> figure.axes[0].get_title()  # how much narrower the posterior is
        'mu: sd × 0.25'
    """
    before = scalars(idata, var_names, coords, "prior", 24)
    names = list(dict.fromkeys(s.label.partition("[")[0] for s in before)) if var_names is None else var_names
    after = {s.label: s for s in scalars(idata, names, coords, "posterior", 24)}
    figure, axes = panels(len(before), (2.6, 1.9), figsize)
    for prior, ax in zip(before, axes, strict=True):
        values = after[prior.label].values
        draw_density(ax, prior.values, label="prior", color=GREY, ls="--")
        draw_density(ax, values, label="posterior", color=BLUE)
        # Prior draws may reach far beyond where the posterior lies.
        low, high = np.quantile(prior.values, [0.005, 0.995])
        reach = 3 * values.std()
        ax.set_xlim(min(low, values.min() - reach), max(high, values.max() + reach))
        spread = prior.values.std()
        told = f": sd × {values.std() / spread:.2f}" if spread > 0 else ""
        ax.set_title(short(prior.label) + told, fontsize=9)
    headline(figure, title, "prior and posterior; sd × 0.1: a tenth of the spread of the prior")
    legend_below(figure, axes[0])
    return figure
