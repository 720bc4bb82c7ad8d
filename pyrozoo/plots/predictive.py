"""Pictures that compare data with what the model predicts of them, the same under ArviZ 0.x and 1.x."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..posterior.export import smoothed_weights, variable_names
from .scalars import SAMPLES, check_axes, group_of, headline, legend_below, models_of, panels, pick
from .style import BLACK, BLUE, GREY, SKY, line_style

MOST_COMPONENTS = 12
TO_OBSERVE = "give data with observed targets to to_arviz, and sites=None or with their names"


@dataclass(frozen=True)
class _Panel:
    """Observed values (n,) and replicated ones (S, n) of one component, with the name of its variable."""

    label: str
    name: str
    observed: np.ndarray
    replicated: np.ndarray


def ppc(
    idata: Any, var_names: str | Sequence[str] | None = None, *, coords: Mapping[str, Any] | None = None,
    group: str = "posterior_predictive", width: float = 0.9, title: str = "",
    figsize: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Histogram of the observed values against those of replicated data sets: does the model make such data?

    Histograms share their bins, so a bound or a spike of the data stays visible, which a smoothed density would blur.
    Classes and small counts have a bar each. Components of a vector have panels of their own, up to 12 of them; the
    entries of longer ones are put together.

    Args:
        idata: An ArviZ object with ``observed_data``.
        var_names: Observed variables to show; all by default.
        coords: Axis -> label, or list of labels, to keep, e.g. ``{"input": "pressure"}``.
        group: "posterior_predictive", or "prior_predictive" to ask what the priors say.
        width: Share of the replications in the band.
        title: First line of the title.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: A group is missing, NaN among the observed values, or more than 24 panels.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> figure = zoo.plots.ppc(zoo.to_arviz(fit, data, draws=20, sites=["y"]))
        >>> figure.axes[0].get_title()
        'y, 231 values'
    """
    if not 0 < width < 1:
        raise ValueError(f"width: {width}; give a number between 0 and 1, such as 0.9")
    found = list(_panels(idata, var_names, coords, group))
    if len(found) > 24:
        raise ValueError(f"{len(found)} components to show, more than 24: choose by var_names and coords")
    figure, axes = panels(len(found), (3.2, 2.4), figsize)
    for one, ax in zip(found, axes, strict=True):
        _compare(ax, one, width)
        ax.set_title(f"{one.label}, {one.observed.size:,} values", fontsize=10)
    headline(figure, title, f"observed and {group.replace('_', ' ')} values")
    legend_below(figure, axes[0])
    return figure


def _compare(ax: Axes, one: _Panel, width: float) -> None:
    observed, replicated = one.observed, one.replicated
    low, high = (1 - width) / 2, (1 + width) / 2
    whole = observed.dtype.kind in "iu" and np.ptp(np.concatenate([observed, replicated.ravel()])) < 40
    if whole:
        levels = np.arange(min(observed.min(), replicated.min()), max(observed.max(), replicated.max()) + 1)
        edges = np.concatenate([levels - 0.5, levels[-1:] + 0.5])
        scale = np.full(len(levels), 1 / observed.size)
    else:
        edges = shared_bins(observed.astype(float), replicated.astype(float))
        scale = 1 / (observed.size * np.diff(edges))
    curves = np.stack([np.histogram(row, edges)[0] * scale for row in replicated])
    band = np.quantile(curves, [low, high], axis=0)
    if whole:
        ax.bar(levels, np.histogram(observed, edges)[0] * scale, 0.7, color=GREY, alpha=0.5, label="observed")
        error = np.abs(band - curves.mean(0))
        ax.errorbar(levels, curves.mean(0), error, fmt="o", ms=5, color=BLUE, capsize=3,
                    label=f"mean and {width:.0%} of {len(curves)} replications")  # fmt: skip
        if len(levels) <= 12:
            ax.set_xticks(levels)
        ax.set_ylabel("share", fontsize=9)
    else:
        ax.stairs(
            band[1], edges, baseline=band[0], fill=True, color=SKY, alpha=0.5, label=f"{width:.0%} of replications"
        )
        mean = f"mean of {len(curves)} replications"
        ax.stairs(curves.mean(axis=0), edges, baseline=None, color=BLUE, lw=1.6, label=mean)
        ax.stairs(np.histogram(observed, edges)[0] * scale, edges, baseline=None, color=BLACK, lw=1.6, label="observed")
        beyond = ((replicated < edges[0]) | (replicated > edges[-1])).mean()
        if beyond >= 0.0005:
            ax.set_xlabel(f"{beyond:.1%} of the replicated values lie beyond", fontsize=8, color=GREY, loc="right")
        ax.set_yticks([])
        ax.set_ylabel("density", fontsize=9)
    ax.set_ylim(bottom=0)


def ppc_pit(
    idata: Any, var_names: str | Sequence[str] | None = None, *, coords: Mapping[str, Any] | None = None,
    group: str = "posterior_predictive", width: float = 0.9, title: str = "",
    figsize: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Is each predictive distribution as wide as it should be? Ranks of the observed values among their replications.

    The curve is the share of ranks (probability integral transforms, PIT) up to p, minus p. It stays in the band for a
    calibrated model. Intervals are too narrow where it is above the band at the left and below it at the right, too
    wide where it is the other way round; a curve above the band throughout says that predictions are too high.

    The data were used for the fit: see `loo_pit`, or give rows that were held out. Ties, as of classes, are broken at
    random, with a fixed seed; of classes without an order the curve says little: see `reliability`.

    Args:
        idata: An ArviZ object with ``observed_data``, or several by the names of their models.
        var_names: Observed variables to show, a panel each; all by default.
        coords: Axis -> label, or list of labels, to keep.
        group: "posterior_predictive" or "prior_predictive".
        width: Probability that the whole curve of a calibrated model is in the band, at least (Dvoretzky, Kiefer,
            Wolfowitz, for independent values).
        title: First line of the title.
        figsize: Width and height in inches.

    Returns:
        The figure.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: A group is missing, or NaN among the observed values.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> figure = zoo.plots.ppc_pit(zoo.to_arviz(fit, data, draws=20, sites=["y"]))
        >>> figure.axes[0].get_title()
        'y, 231 values'
    """
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, np.ndarray]] = {}
    for model, one in models_of(idata).items():
        for name, own in itertools.groupby(_panels(one, var_names, coords, group), lambda panel: panel.name):
            parts = [(part.replicated < part.observed, part.replicated == part.observed) for part in own]
            values = [less.mean(0) + rng.random(less.shape[1]) * tie.mean(0) for less, tie in parts]
            found.setdefault(name, {})[model] = np.concatenate(values)
    return _pit_figure(found, width, title or "ranks of the observed values among their predictions", figsize)


def loo_pit(
    idata: Any, var_names: str | Sequence[str] | None = None, *, coords: Mapping[str, Any] | None = None,
    width: float = 0.9, title: str = "", figsize: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """As `ppc_pit`, each value predicted without itself, by Pareto-smoothed importance weights of the draws.

    The weights correct for the value's effect on what all values share. They cannot take back what a value did to
    latents of its own row: then k is high, and rows that were held out are the check to use.

    Args:
        idata: An ArviZ object with ``observed_data``, ``posterior_predictive`` and ``log_likelihood``, or several by
            the names of their models.
        var_names: Observed variables to show, a panel each; all by default.
        coords: Axis -> label, or list of labels, to keep.
        width: Probability that the whole curve of a calibrated model is in the band, at least.
        title: First line of the title.
        figsize: Width and height in inches.

    Returns:
        The figure; its title says for how many values the weights fail (k above 0.7).

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: A group is missing, or a variable has no log likelihood for each value.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> figure = zoo.plots.loo_pit(zoo.to_arviz(fit, data, draws=50, sites=["y"]))
        >>> figure.axes[0].get_title()
        'y, 231 values'
    """
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, np.ndarray]] = {}
    failed = []
    for model, one in models_of(idata).items():
        densities = group_of(one, "log_likelihood", TO_OBSERVE)
        for panel in _panels(one, var_names, coords, "posterior_predictive", split=False):
            name = panel.name
            density = pick(densities[name], coords)
            rest = [axis for axis in density.dims if axis not in SAMPLES]
            log_likelihood = density.transpose(*SAMPLES, *rest).values.reshape(len(panel.replicated), -1)
            if log_likelihood.shape != panel.replicated.shape:
                raise ValueError(
                    f"{name}: {panel.observed.size} observed values, but {log_likelihood.shape[1]} log likelihoods, of "
                    f"{', '.join(map(str, rest))}: they cannot be left out one at a time; use ppc_pit"
                )
            weights, k = smoothed_weights(-log_likelihood)
            failed.append((k > 0.7).mean())
            less, tie = panel.replicated < panel.observed, panel.replicated == panel.observed
            pit = (weights * less).sum(0) + rng.random(less.shape[1]) * (weights * tie).sum(0)
            found.setdefault(name, {})[model] = pit
    heading = f"ranks, each value left out; weights fail (k > 0.7) for {max(failed):.0%} of values"
    return _pit_figure(found, width, title or heading, figsize)


def _pit_figure(
    found: Mapping[str, Mapping[str, np.ndarray]], width: float, title: str, figsize: tuple[float, float] | None
) -> Figure:
    if not 0 < width < 1:
        raise ValueError(f"width: {width}; give a number between 0 and 1, such as 0.9")
    figure, axes = panels(len(found), (3.6, 2.8), figsize, columns=3)
    for ax, (name, models) in zip(axes, found.items(), strict=True):
        n = min(len(pit) for pit in models.values())
        band = np.sqrt(np.log(2 / (1 - width)) / (2 * n))
        ax.axhspan(-band, band, color=GREY, alpha=0.2, lw=0, label=f"{width:.0%} of calibrated models stay here")
        for m, (model, pit) in enumerate(models.items()):
            p = np.linspace(0, 1, 201)
            share = np.searchsorted(np.sort(pit), p, side="right") / len(pit)
            ax.plot(p, share - p, label=model or None, lw=1.6, **line_style(m))
        ax.axhline(0, color=BLACK, lw=0.8, ls="--")
        reach = max(1.3 * band, 1.1 * max(np.abs(ax.get_ylim())))
        ax.set(xlim=(0, 1), ylim=(-reach, reach))
        ax.set_title(f"{name}, {n:,} values", fontsize=10)
        ax.text(0.03, 0.97, "above left: too narrow", transform=ax.transAxes, fontsize=8, color=GREY, va="top")
        ax.text(0.03, 0.03, "below left: too wide", transform=ax.transAxes, fontsize=8, color=GREY)
    axes[0].set(xlabel="rank p (PIT)", ylabel="share of ranks up to p, minus p")
    headline(figure, "", title)
    legend_below(figure, axes[0])
    return figure


# -------------------------------------------------------------------- values
def _panels(
    idata: Any, var_names: str | Sequence[str] | None, coords: Mapping[str, Any] | None, group: str, split: bool = True
) -> Iterator[_Panel]:
    """Observed and replicated values, component by component where these are few."""
    observed_data, predictive = (group_of(idata, name, TO_OBSERVE) for name in ("observed_data", group))
    check_axes(observed_data, coords)
    for name in variable_names(observed_data, var_names, "observed_data"):
        if name not in predictive:
            raise ValueError(f"{group} has no {name!r}; draw it by to_arviz(..., predictive=True)")
        observed = pick(observed_data[name], coords)
        if observed.dtype.kind == "f" and bool(np.isnan(observed.values).any()):
            raise ValueError(f"{name} holds NaN: make the object by to_arviz(..., observed_only=True)")
        replicated = pick(predictive[name], coords).transpose(*SAMPLES, *observed.dims).values
        values, replicated = observed.values, replicated.reshape(-1, *observed.shape)
        event = _event_axes(idata, name, observed) if split else ()
        count = int(np.prod([observed.sizes[axis] for axis in event]))
        if not event or count > MOST_COMPONENTS:
            yield _Panel(name, name, values.ravel(), replicated.reshape(len(replicated), -1))
            continue
        labels = [observed[a].values if a in observed.coords else range(observed.sizes[a]) for a in event]
        values, replicated = values.reshape(-1, count), replicated.reshape(len(replicated), -1, count)
        for j, named in enumerate(itertools.product(*labels)):
            yield _Panel(f"{name}[{', '.join(map(str, named))}]", name, values[:, j], replicated[:, :, j])


def _event_axes(idata: Any, name: str, observed: Any) -> tuple[str, ...]:
    """Axes of one observation; without log likelihood, which says what an observation is, all but the first."""
    held = group_of(idata, "log_likelihood") if "log_likelihood" in idata else {}
    plates = held[name].dims[2:] if name in held else observed.dims[:1]
    axes = tuple(axis for axis in observed.dims if axis not in plates)
    return axes if axes == observed.dims[len(observed.dims) - len(axes) :] and len(axes) < len(observed.dims) else ()


def shared_bins(observed: np.ndarray, replicated: np.ndarray) -> np.ndarray:
    """Bin edges over the observed range, extended on each side to the replications by at most a quarter of it."""
    low, high = observed.min(), observed.max()
    reach = (high - low) / 4 or 1.0
    low, high = min(low, max(replicated.min(), low - reach)), max(high, min(replicated.max(), high + reach))
    return np.linspace(low, high if high > low else low + 1, int(np.clip(3 * observed.size ** (1 / 3), 12, 60)) + 1)
