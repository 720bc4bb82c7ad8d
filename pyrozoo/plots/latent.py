"""Pictures of a latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .style import BLUE, COLOURS, GREY, make_axes


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
        points: Posterior means, shape (n, K), K at least 2.
        sd: Posterior standard deviations, shape (n, K), drawn as crosses of one sd; correlations are left out.
        labels: Names of the n points; up to 15 of the outermost points are labelled with them.
        truth: Values to colour the n points by, numbers or classes.
        truth_label: Name of ``truth``, with its unit.
        name: Name of the latent site, for the axes.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: ``points`` is not (n, K) with K at least 2, or another argument does not have n entries.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> means = zoo.latent_report(fit, data, "c", draws=10).means
        >>> ax = zoo.plots.latent_map(means, labels=means.index, name="c")
        >>> ax.get_xlabel()
        'c: 1st component (...% of variance)'
    """
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(f"points has shape {points.shape}: a map needs (points, K) with K of 2 or more")
    for argument, values in {"sd": sd, "labels": labels, "truth": truth}.items():
        if values is not None and len(values) != len(points):
            raise ValueError(f"{argument} has {len(values)} entries for {len(points)} points")
    ax = make_axes(ax, (6.5, 5.4))
    plane, spread, axis_names = _to_plane(points, None if sd is None else np.asarray(sd, dtype=float), name)
    if spread is not None:
        (first, second), (first_sd, second_sd) = plane.T, spread.T
        ax.errorbar(
            first, second, second_sd, first_sd, fmt="none", ecolor=GREY, elinewidth=0.6, alpha=0.5, label="±1 sd"
        )
    _coloured_points(ax, plane, truth, truth_label)
    if labels is not None:
        for i in _outermost(plane, 15):
            ax.annotate(str(labels[i]), plane[i], xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    ax.set_aspect("equal", adjustable="datalim")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", title=truth_label if _is_class(truth) else None, markerscale=1 if len(plane) < 300 else 2)
    return ax


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
    """Points farthest from the centre, without those whose name would overlap another's."""
    chosen: list[int] = []
    room = np.ptp(plane, axis=0) * (0.15, 0.03)
    for i in np.argsort(-np.linalg.norm(plane - plane.mean(axis=0), axis=1)):
        if len(chosen) < count and all((np.abs(plane[i] - plane[j]) > room).any() for j in chosen):
            chosen.append(int(i))
    return chosen


def _coloured_points(ax: Axes, plane: np.ndarray, truth: Any, truth_label: str) -> None:
    size = 26 if len(plane) < 300 else 9
    if truth is None:
        ax.scatter(plane[:, 0], plane[:, 1], s=size, color=BLUE, lw=0)
    elif _is_class(truth):
        for index, value in enumerate(np.unique(truth)):
            colour, marker = COLOURS[index % len(COLOURS)], "os^D"[index // len(COLOURS) % 4]
            own = plane[np.asarray(truth) == value]
            ax.scatter(own[:, 0], own[:, 1], s=size, color=colour, marker=marker, lw=0, label=str(value))
    else:
        values = np.asarray(truth, dtype=float)
        shown = ax.scatter(plane[:, 0], plane[:, 1], s=size, c=values, cmap="viridis", lw=0, zorder=3)
        ax.figure.colorbar(shown, ax=ax, label=truth_label)
