"""Pictures of durations, gaps and the order of steps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .....plots.style import BLACK, BLUE, GREY, SKY, line_style, make_axes, with_unit
from .parts import NON_EVENT, probabilities_of, shaped


def implied_durations(
    durations: Mapping[str, tuple[Any, Any]],
    *,
    reference: str | None = None,
    quantity: str = "duration of the step",
    ax: Axes | None = None,
) -> Axes:
    """Distributions of a duration that models imply, as densities per second, with mean and standard deviation.

    For instance, the intended Gaussian against the distribution that results if its CDF is taken as the hazard of a
    frame: the durations become shorter, the more so the more frames there are in a second.

    Args:
        durations: Name -> ages in seconds, ascending, and the probability that the duration ends at that age, both of
            shape (n,).
        reference: Name of the intended distribution, drawn in black over grey.
        quantity: Name of the duration.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: No distribution, fewer than two ages, ages that do not ascend, probabilities that do not sum to 1
            within one percent, or a reference that is not among the names.
    """
    if not durations:
        raise ValueError("no distribution to draw")
    if reference is not None and reference not in durations:
        raise ValueError(f"reference {reference!r} is not among {list(durations)}")
    ax = make_axes(ax, (7.5, 4.2))
    furthest, index = 0.0, 0
    for name, (ages, probabilities) in durations.items():
        ages, probabilities = _age_distribution(name, ages, probabilities)
        density = probabilities / np.gradient(ages)
        mean = float(ages @ probabilities)
        sd = float(np.sqrt((ages - mean) ** 2 @ probabilities))
        if name == reference:
            line: dict[str, Any] = {"color": BLACK, "ls": "-"}
            ax.fill_between(ages, density, color=GREY, alpha=0.2, lw=0)
        else:
            line = line_style(index)
            index += 1
        digits = max(0, 1 - int(np.floor(np.log10(sd)))) if sd > 0 else 2
        ax.plot(ages, density, lw=1.8, label=f"{name}: {mean:.{digits}f} ± {sd:.{digits}f} s", **line)
        ax.vlines(mean, 0, np.interp(mean, ages, density), color=line["color"], ls="--", lw=1.3)
        furthest = max(furthest, ages[min(int(np.searchsorted(probabilities.cumsum(), 0.9995)), len(ages) - 1)])
    ax.set(xlabel=with_unit(quantity, "s"), ylabel="density [per s]", xlim=(0, furthest))
    ax.set_ylim(bottom=0)
    ax.legend(title="mean (dashed) ± standard deviation", fontsize=9, title_fontsize=9)
    return ax


def replicated_durations(
    observed: Mapping[str, Any],
    replicated: Mapping[str, Sequence[Any]],
    *,
    names: Sequence[str],
    unit: str = "s",
    quantity: str = "duration",
) -> Figure:
    """Histogram of each step's observed durations against those of replicated data sets, one small panel each.

    Args:
        observed: Step -> durations, shape (n,); empty for a step that was never observed.
        replicated: Step -> one array of durations per draw. Draws in which the step does not occur are left out.
        names: Steps to show, in order.
        unit: Unit of measure.
        quantity: Name of the measured quantity.

    Raises:
        ValueError: No step to show, one that ``observed`` or ``replicated`` lacks, a value that is not finite, or a
            step without any replicated value.
    """
    if len(names) == 0:
        raise ValueError("no step to show")
    for argument, values in {"observed": observed, "replicated": replicated}.items():
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"{argument} has no step {missing}; it has {list(values)}")
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(2.7 * columns, 6), 2.0 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[len(names) :]:
        ax.remove()
    for ax, name in zip(grid.flat, names, strict=False):
        _one_step(ax, name, observed[name], replicated[name])
    figure.supxlabel(with_unit(quantity, unit), fontsize=10)
    figure.supylabel(with_unit("density", unit and f"per {unit}"), fontsize=10)
    handles = {label: handle for ax in grid.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def transition_map(
    D: Any,
    row_names: Sequence[str],
    column_names: Sequence[str],
    low: Any = None,
    high: Any = None,
    *,
    interval: str = "90% interval",
    ax: Axes | None = None,
) -> Axes:
    """Probability of the next step given the last one; cells that are zero stay empty.

    Args:
        D: Probabilities, shape (R, C), whose rows sum to at most 1.
        row_names: Names of the R last steps, the start among them if it has a row.
        column_names: Names of the C next steps, the end among them if it has a column.
        low: Lower ends of the intervals, shape (R, C), written in small type below each value.
        high: Upper ends of the intervals, shape (R, C).
        interval: Name of the intervals, for the note above the map.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: Shapes that do not fit, a number outside [0, 1], a row that sums to more than 1, or `low` or `high`
            alone.
    """
    shape = len(row_names), len(column_names)
    D = probabilities_of("D", shaped("D", D, shape))
    if (too_much := D.sum(axis=1) > 1 + 1e-6).any():
        raise ValueError(f"rows of D sum to more than 1: {[row_names[i] for i in np.flatnonzero(too_much).tolist()]}")
    if (low is None) != (high is None):
        raise ValueError("low and high are both given or neither")
    ends = None
    if low is not None:
        ends = [probabilities_of(name, shaped(name, end, shape)) for name, end in (("low", low), ("high", high))]
        if (ends[0] > ends[1]).any():
            raise ValueError("low is above high")
    ax = make_axes(ax, (0.85 * shape[1] + 2.4, 0.55 * shape[0] + 1.7))
    ax.spines[:].set_visible(False)
    cmap = LinearSegmentedColormap.from_list("probability", ["#E8F1F7", BLUE])
    image = ax.pcolormesh(np.ma.masked_equal(D, 0), cmap=cmap, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for row, column in np.argwhere(D > 0):
        value, place = D[row, column], (column + 0.5, row + 0.5)
        style: dict[str, Any] = {"ha": "center", "color": "white" if value > 0.6 else BLACK}
        text = "<0.01" if value < 0.005 else f"{value:.2f}"
        ax.text(*place, text, va="center" if ends is None else "bottom", fontsize=10, **style)
        if ends is not None:
            least, most = (end[row, column] for end in ends)
            between = "<0.01" if most < 0.005 else f"{least:.2f}–{most:.2f}"
            ax.text(place[0], place[1] + 0.12, between, va="top", fontsize=7, **style)
    many = max(len(str(name)) for name in column_names) > 9
    angle: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if many else {}
    ax.set_xticks(np.arange(shape[1]) + 0.5, column_names, **angle)
    ax.set_yticks(np.arange(shape[0]) + 0.5, row_names)
    ax.tick_params(length=0)
    ax.vlines(np.arange(shape[1] + 1), 0, shape[0], color=NON_EVENT, lw=0.6)
    ax.hlines(np.arange(shape[0] + 1), 0, shape[1], color=NON_EVENT, lw=0.6)
    ax.set(xlabel="next step", ylabel="last step", ylim=(shape[0], 0))
    note = "empty: zero" if ends is None else f"small type: {interval}; empty: zero"
    ax.set_title(note, fontsize=9, color=GREY, loc="left")
    ax.figure.colorbar(image, ax=ax, label="probability", fraction=0.05, pad=0.02)
    return ax


def _age_distribution(name: str, ages: Any, probabilities: Any) -> tuple[np.ndarray, np.ndarray]:
    ages, probabilities = np.asarray(ages, dtype=float), np.asarray(probabilities, dtype=float)
    if ages.ndim != 1 or ages.shape != probabilities.shape or ages.size < 2:
        raise ValueError(f"{name!r}: ages {ages.shape} and probabilities {probabilities.shape} are not both (n > 1,)")
    if not (np.diff(ages) > 0).all():
        raise ValueError(f"{name!r}: ages do not ascend")
    total = probabilities_of(f"{name!r}: probabilities", probabilities).sum()
    if not 0.99 <= total <= 1.01:
        raise ValueError(f"{name!r}: probabilities sum to {total:.3g}, not to 1; are there enough ages?")
    return ages, probabilities / total


def _one_step(ax: Axes, name: str, observed: Any, draws: Sequence[Any]) -> None:
    observed = np.asarray(observed, dtype=float).ravel()
    draws = [values for draw in draws if (values := np.asarray(draw, dtype=float).ravel()).size]
    if not draws:
        raise ValueError(f"step {name!r} has no replicated value")
    pooled = np.concatenate(draws)
    if not (np.isfinite(observed).all() and np.isfinite(pooled).all()):
        raise ValueError(f"step {name!r} has values that are not finite")
    ends = np.concatenate([observed, np.quantile(pooled, [0.005, 0.995])])
    low, high = ends.min(), ends.max()
    typical = observed.size or np.median([len(draw) for draw in draws])
    edges = np.linspace(low, high if high > low else low + 1, int(np.clip(3 * typical ** (1 / 3), 8, 25)) + 1)
    curves = np.stack([np.histogram(draw, edges)[0] / (len(draw) * np.diff(edges)) for draw in draws])
    band = np.quantile(curves, [0.05, 0.95], axis=0)
    ax.stairs(band[1], edges, baseline=band[0], fill=True, color=SKY, alpha=0.5, label="90% of replications")
    ax.stairs(curves.mean(axis=0), edges, baseline=None, color=BLUE, lw=1.5, label="mean of replications")
    if observed.size:
        density = np.histogram(observed, edges)[0] / (observed.size * np.diff(edges))
        centres = (edges[:-1] + edges[1:]) / 2
        ax.plot(centres, density, color=BLACK, lw=0.9, marker="o", ms=3.5, mew=0, label="observed")
    ax.set_title(textwrap.fill(f"{name} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{observed.size})", 34), fontsize=9)
    ax.set_ylim(bottom=0)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
