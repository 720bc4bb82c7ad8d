"""What pictures of an ArviZ object share: choosing scalars, intervals, densities and panels."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from ..posterior.export import highest_density, variable_names

SAMPLES = ("chain", "draw")


@dataclass(frozen=True)
class Scalar:
    """Draws of one number: its label, such as ``c[A, 0]``, and values of shape (chains, draws)."""

    label: str
    values: np.ndarray


def models_of(idata: Any) -> dict[str, Any]:
    """ArviZ objects by the name of their model; a single object has the name "".

    Raises:
        ValueError: No model.
    """
    # An ArviZ object of either version is no plain dict.
    models = dict(idata) if isinstance(idata, dict) else {"": idata}
    if not models:
        raise ValueError("idata: no model to draw")
    return models


def group_of(idata: Any, group: str, remedy: str = "") -> Any:
    """One group of an ArviZ object of either version.

    Raises:
        ValueError: The object has no such group.
    """
    if group not in idata:
        raise ValueError(f"the ArviZ object has no group {group!r}" + (f"; {remedy}" if remedy else ""))
    return idata[group]


def scalars(
    idata: Any, var_names: str | Sequence[str] | None, coords: Mapping[str, Any] | None, group: str, most: int
) -> list[Scalar]:
    """The scalars to show, in the order of `var_names`.

    Args:
        idata: An ArviZ object.
        var_names: Names of variables of the group; all by default.
        coords: Axis -> label, or list of labels, to keep.
        group: Name of the group.
        most: Largest number of scalars that the picture can show.

    Raises:
        KeyError: No variable, axis or label of this name.
        ValueError: No such group, or more than `most` scalars.
    """
    remedy = "draw it by to_arviz(..., prior=True)" if group.startswith("prior") else ""
    dataset = group_of(idata, group, remedy)
    chosen = [pick(dataset[name], coords) for name in variable_names(dataset, var_names, group)]
    check_axes(dataset, coords)
    count = sum(int(np.prod([n for axis, n in array.sizes.items() if axis not in SAMPLES])) for array in chosen)
    if count > most:
        sizes = {str(array.name): dict(array.sizes) for array in chosen}
        raise ValueError(f"{count} numbers to show, more than {most}, in {sizes}: choose by var_names and coords")
    return list(itertools.chain.from_iterable(map(_split, chosen)))


def check_axes(dataset: Any, coords: Mapping[str, Any] | None) -> None:
    """Refuse coords of an axis that the group does not have."""
    if unknown := set(coords or {}) - set(dataset.dims):
        raise KeyError(f"coords: no axis {sorted(unknown)}; axes are {sorted(map(str, dataset.dims))}")


def pick(array: Any, coords: Mapping[str, Any] | None) -> Any:
    """The entries of a variable with these labels; axes that it does not have are ignored."""
    for axis, labels in (coords or {}).items():
        if axis not in array.dims:
            continue
        wanted = list(labels) if isinstance(labels, list | tuple | np.ndarray) else [labels]
        known = array[axis].values.tolist() if axis in array.coords else list(range(array.sizes[axis]))
        if missing := [label for label in wanted if label not in known]:
            raise KeyError(f"coords: {axis} has no {missing[:3]}; it has {known[:8]}{' ...' if len(known) > 8 else ''}")
        array = array.isel({axis: [known.index(label) for label in wanted]})
    return array


def _split(array: Any) -> list[Scalar]:
    axes = [axis for axis in array.dims if axis not in SAMPLES]
    values = array.transpose(*SAMPLES, *axes).values
    labels = [array[axis].values if axis in array.coords else range(array.sizes[axis]) for axis in axes]
    named = itertools.product(*labels)
    flat = values.reshape(*values.shape[:2], -1)
    return [
        Scalar(f"{array.name}[{', '.join(map(str, names))}]" if axes else str(array.name), flat[..., i])
        for i, names in enumerate(named)
    ]


# -------------------------------------------------------------------- statistics
def interval_of(values: np.ndarray, interval: str, width: float) -> tuple[float, float]:
    """Ends of the interval of some draws: equal-tailed ("eti") or of highest density ("hdi")."""
    if interval == "eti":
        low, high = np.quantile(values, [(1 - width) / 2, (1 + width) / 2])
        return float(low), float(high)
    return highest_density(np.asarray(values, dtype=float).ravel(), width)


def interval_name(interval: str, width: float) -> str:
    """Words for the interval, such as "90% equal-tailed interval".

    Raises:
        ValueError: Another kind than "eti" and "hdi", or a width outside (0, 1).
    """
    if interval not in ("eti", "hdi"):
        raise ValueError(f"interval: {interval!r}; give 'eti' (equal-tailed) or 'hdi' (highest density)")
    if not 0 < width < 1:
        raise ValueError(f"width: {width}; give a number between 0 and 1, such as 0.9")
    return f"{100 * width:.4g}% {'equal-tailed' if interval == 'eti' else 'highest-density'} interval"


def draw_density(ax: Axes, values: np.ndarray, **style: Any) -> None:
    """Draw a density over the range of the values; bars for whole numbers; a line for values that are all equal."""
    values = np.asarray(values).ravel()
    style = {"lw": 1.6} | style
    if np.ptp(values) == 0:
        ax.axvline(float(values[0]), **style)
    elif values.dtype.kind in "iub":
        levels, counts = np.unique(values, return_counts=True)
        label = style.pop("label", None)
        ax.vlines(levels, 0, counts / counts.sum(), lw=4, color=style["color"], alpha=0.6, label=label)
    else:
        grid = np.linspace(values.min(), values.max(), 200)
        ax.plot(grid, gaussian_kde(np.asarray(values, float))(grid), **style)
    ax.autoscale(True, axis="y")  # over all densities of these axes
    ax.set_ylim(bottom=0)
    ax.set_yticks([])


# -------------------------------------------------------------------- panels
def panels(
    count: int, size: tuple[float, float], figsize: tuple[float, float] | None, columns: int = 4
) -> tuple[Figure, list[Axes]]:
    """A figure with this many axes of a size in inches, in lines of at most `columns`."""
    columns = min(count, columns)
    lines = -(-count // columns)
    figure = Figure(figsize=figsize or (max(4.0, size[0] * columns), size[1] * lines + 0.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for ax in axes[count:]:
        ax.set_axis_off()
    for ax in axes[:count]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[:count])


def legend_below(figure: Figure, ax: Axes) -> None:
    """One legend for all panels, below them."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        columns = max(1, int(figure.get_figwidth() / (0.9 + 0.085 * max(map(len, labels)))))
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns), fontsize=9)


def headline(figure: Figure, title: str, default: str) -> None:
    """The figure's title, in lines that fit its width."""
    text = title if title else textwrap.fill(default, int(11 * figure.get_figwidth()))
    figure.suptitle(text, fontsize=10)


def short(label: str, width: int = 24) -> str:
    """The label in lines of this width."""
    return textwrap.fill(label, width)
