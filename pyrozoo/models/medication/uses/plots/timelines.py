"""Pictures of recordings labelled frame by frame: what was done when, for how long, and in which order.

Label 0 is the non-event, labels 1..S are the steps. Every function takes arrays, draws into ``ax`` or into a figure of
its own, and returns the axes (`timeline` and `replicated_durations`, which need several, the figure). Nothing touches
pyplot: save with ``timeline(...).savefig("timeline.png")``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from .....plots.style import BLACK, GREY, VERMILION, line_style, make_axes
from .parts import NON_EVENT, STEP_COLOURS, ink_on, percent, probabilities_of, shaped

_MOST_COLUMNS = 2000  # largest number of columns of a stack of marginals: more than a picture has pixels


def timeline(
    rows: Mapping[str, Any],
    labels: Sequence[str],
    *,
    rate: float = 1.0,
    marginals: Any = None,
    performed: Any = None,
    truth: Any = None,
    title: str = "",
) -> Figure:
    """Labels of one recording along time, one ribbon per decoder, with their posterior probabilities.

    If there are more than 2000 frames, the marginals shown are means over equally long pieces of the recording.

    Args:
        rows: Name -> labels in 0..K-1, shape (T,), drawn from top to bottom; label 0 is the non-event.
        labels: Names of the K labels, the non-event first; at most 12 steps.
        rate: Number of frames per second.
        marginals: Posterior probability of each label at each frame, shape (T, K), stacked below the ribbons.
        performed: Probability that each step was performed at all, shape (K-1,), as bars at the right.
        truth: Whether each step was in fact performed, shape (K-1,), written beside its bar; needs ``performed``.
        title: Title of the figure.

    Raises:
        ValueError: No row, a label that has no name, too many steps, or shapes that do not fit.
    """
    ribbons = _ribbons(rows, len(labels))
    n_frames, n_labels = len(next(iter(ribbons.values()))), len(labels)
    if not rate > 0:
        raise ValueError(f"rate is {rate}, it must be positive")
    if marginals is not None:
        marginals = shaped("marginals", marginals, (n_frames, n_labels))
        if marginals.min() < 0 or not np.allclose(marginals.sum(axis=1), 1, atol=1e-3):
            raise ValueError("marginals are not probabilities that sum to 1 at every frame")
    if performed is not None:
        performed = probabilities_of("performed", shaped("performed", performed, (n_labels - 1,)))
    if truth is not None:
        if performed is None:
            raise ValueError("truth is drawn beside performed, which is not given")
        truth = shaped("truth", truth, (n_labels - 1,)).astype(bool)
    heights = [0.34 * len(ribbons) + 0.3, *([1.7] if marginals is not None else [])]
    bars = 0.0 if performed is None else 0.28 * (n_labels - 1) + 0.5
    longest = max(len(str(label)) for label in labels) + 2
    across = max(1, min(n_labels, int(10.5 / (0.075 * longest + 0.6))))  # entries that fit side by side
    legend = 0.22 * -(-n_labels // across) + 0.3
    figure = Figure(figsize=(11, max(sum(heights) + 0.5, bars) + legend + 0.4 * bool(title)), layout="constrained")
    columns = 1 if performed is None else 2
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights, width_ratios=[3.4, 1][:columns])
    axes = [figure.add_subplot(grid[0, 0])]
    _draw_ribbons(axes[0], ribbons, rate)
    if marginals is not None:
        axes.append(figure.add_subplot(grid[1, 0], sharex=axes[0]))
        _draw_stack(axes[1], marginals, rate)
        axes[0].tick_params(labelbottom=False)
    axes[0].set_xlim(0, n_frames / rate)
    axes[-1].set_xlabel("time [s]")
    if performed is not None:
        _draw_performed(figure.add_subplot(grid[:, 1]), performed, truth, labels[1:])
    handles = [Patch(color=STEP_COLOURS[k - 1], label=f"{k} {labels[k]}") for k in range(1, n_labels)]
    handles.append(Patch(color=NON_EVENT, label=labels[0]))
    figure.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def marginal_reliability(
    tables: Mapping[str, tuple[Any, Any]], *, ax: Axes | None = None, quantity: str = "label", bins: int = 10
) -> Axes:
    """Share of frames whose label is right against its predicted probability; calibrated ones lie on the diagonal.

    Every bin holds about the same number of frames (equal confidences share a bin), and a point's area is the bin's
    share of frames. The expected calibration error is the mean distance from the diagonal, weighted by these shares.

    Args:
        tables: Name -> confidences in [0, 1] and whether the frame was right, both of shape (n,). From marginals and
            true labels: ``marginals.max(axis=1), marginals.argmax(axis=1) == truth``.
        ax: Axes to draw into; a new figure by default.
        quantity: Name of the predicted quantity.
        bins: Number of bins.

    Raises:
        ValueError: No table or an empty one, shapes that do not fit, or a confidence outside [0, 1].
    """
    if not tables:
        raise ValueError("no table to draw")
    ax = make_axes(ax, (5.6, 5.4))
    ax.plot([0, 1], [0, 1], color=BLACK, lw=1.2)
    least = 1.0
    for index, (name, (confidence, correct)) in enumerate(tables.items()):
        confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
        if confidence.ndim != 1 or confidence.shape != correct.shape or confidence.size == 0:
            raise ValueError(f"{name!r}: confidence {confidence.shape} and correct {correct.shape} are not both (n,)")
        probabilities_of(f"{name!r}: confidence", confidence)
        share, stated, right = _equal_count_bins(confidence, correct, bins)
        least = min(least, stated.min(), right.min())
        error = (share * np.abs(stated - right)).sum()
        line = line_style(index)
        ax.plot(stated, right, lw=1.6, label=f"{name}: {error:.1%}", clip_on=False, zorder=3, **line)
        ax.scatter(stated, right, s=400 * share, color=line["color"], lw=0, clip_on=False, zorder=3)
    # If all values are high, the whole square would hide their differences.
    low = np.floor(10 * least - 1e-9) / 10 - 0.05 if least > 0.5 else 0.0
    for place, meaning in (((0.1, 0.16), "too cautious"), ((0.16, 0.1), "too sure")):
        ax.text(*place, meaning, color=GREY, rotation=45, ha="center", va="center", transform=ax.transAxes)
    ax.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
    ax.set(xlabel=f"confidence in the {quantity}, mean of the bin", ylabel=f"share of frames whose {quantity} is right")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    note = "area of a point: its share of the frames"
    ax.text(0.98, 0.03, note, ha="right", color=GREY, fontsize=9, transform=ax.transAxes)
    ax.legend(loc="upper left", title="expected calibration error", fontsize=9, title_fontsize=9)
    return ax


def _ribbons(rows: Mapping[str, Any], n_labels: int) -> dict[str, np.ndarray]:
    if not rows:
        raise ValueError("no row to draw")
    if not 2 <= n_labels <= len(STEP_COLOURS) + 1:
        raise ValueError(f"{n_labels} labels: there are colours for 1 to {len(STEP_COLOURS)} steps and the non-event")
    ribbons = {name: np.asarray(values) for name, values in rows.items()}
    first, n_frames = next((name, values.size) for name, values in ribbons.items())
    for name, values in ribbons.items():
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
            raise ValueError(f"row {name!r} has shape {values.shape} and type {values.dtype}: it needs T whole numbers")
        if len(values) != n_frames:
            raise ValueError(f"row {name!r} has {len(values)} frames, {first!r} has {n_frames}")
        if values.min() < 0 or values.max() >= n_labels:
            raise ValueError(f"row {name!r} has labels from {values.min()} to {values.max()}, of {n_labels} names")
    return ribbons


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First frame, number of frames and label of every stretch of equal labels."""
    first = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    return first, np.diff(np.append(first, len(values))), values[first]


def _draw_ribbons(ax: Axes, ribbons: Mapping[str, np.ndarray], rate: float) -> None:
    for place, values in enumerate(ribbons.values()):
        start, length, label = (part / rate if i < 2 else part for i, part in enumerate(_runs(values)))
        end = len(values) / rate
        ax.broken_barh([(0, end)], (place - 0.4, 0.8), color=NON_EVENT, lw=0)
        event = label > 0
        colours = np.array([to_rgb(colour) for colour in STEP_COLOURS])[label[event] - 1]
        spans = np.column_stack([start[event], length[event]])
        ax.broken_barh(spans.tolist(), (place - 0.4, 0.8), facecolors=colours, lw=0)
        wide = event & (length > np.where(label < 10, 0.013, 0.022) * end)
        for left, width, step in zip(start[wide], length[wide], label[wide], strict=True):
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "clip_on": True}
            ax.text(left + width / 2, place, str(step), color=ink_on(STEP_COLOURS[step - 1]), **style)
    ax.set_yticks(range(len(ribbons)), list(ribbons))
    ax.set_ylim(len(ribbons) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _draw_stack(ax: Axes, marginals: np.ndarray, rate: float) -> None:
    """Stack the steps from below, the non-event on top; curves pass through the middle of each frame."""
    edges = np.unique(np.linspace(0, len(marginals), min(len(marginals), _MOST_COLUMNS) + 1).astype(int))
    means = np.add.reduceat(marginals, edges[:-1]) / np.diff(edges)[:, None]
    middle = np.concatenate([[0], (edges[:-1] + edges[1:]) / 2, [len(marginals)]]) / rate
    order = [*range(1, means.shape[1]), 0]
    top = np.vstack([np.zeros(len(means)), means[:, order].cumsum(axis=1).T])
    for place, k in enumerate(order):
        if means[:, k].max() > 1e-4:
            colour = STEP_COLOURS[k - 1] if k else NON_EVENT
            low, high = np.pad(top[place : place + 2], ((0, 0), (1, 1)), mode="edge")
            ax.fill_between(middle, low, high, color=colour, lw=0)
    ax.set(ylim=(0, 1), ylabel="posterior\nprobability")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.spines[["top", "right"]].set_visible(False)


def _draw_performed(ax: Axes, performed: np.ndarray, truth: np.ndarray | None, names: Sequence[str]) -> None:
    places = np.arange(len(performed))
    ax.barh(places, 1, color="#F4F4F4", height=0.7)
    ax.barh(places, performed, color=STEP_COLOURS[: len(performed)], height=0.7)
    for place, value in zip(places.tolist(), performed, strict=True):
        inside = value > 0.5
        colour = ink_on(STEP_COLOURS[place]) if inside else BLACK
        x, ha = (value - 0.03, "right") if inside else (value + 0.03, "left")
        ax.text(x, place, percent(value), ha=ha, va="center", fontsize=8, color=colour)
    wrapped = [textwrap.fill(f"{step} {name}", 22) for step, name in enumerate(names, 1)]
    ax.set_yticks(places, wrapped, fontsize=8)
    ax.set(xlim=(0, 1), ylim=(len(performed) - 0.5, -0.5), xlabel="P(step performed)")
    ax.set_xticks([0, 0.5, 1])
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    if truth is not None:
        for place, done in zip(places.tolist(), truth, strict=True):
            style: dict[str, Any] = {"color": BLACK} if done else {"color": VERMILION, "weight": "bold"}
            ax.text(1.04, place, "done" if done else "omitted", va="center", fontsize=8, **style)
        ax.text(1.04, -0.45, "truth", va="bottom", fontsize=9, color=GREY)


def _equal_count_bins(
    confidence: np.ndarray, correct: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of frames, mean confidence and share of right frames in each bin."""
    if bins < 1:
        raise ValueError(f"bins is {bins}, it must be 1 or more")
    inner = np.unique(np.quantile(confidence, np.arange(1, bins) / bins))
    place = np.searchsorted(inner, confidence, side="left")
    count = np.bincount(place)
    used = count > 0
    sums = (np.bincount(place, weights=values)[used] for values in (confidence, correct))
    stated, right = (total / count[used] for total in sums)
    return count[used] / confidence.size, stated, right
