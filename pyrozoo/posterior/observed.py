"""What ArviZ gets of draws: targets at the entries where they were observed, since no check of ArviZ knows NaN."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .draws import SAMPLE_DIMS, Draws

CHECKED = ("observed_data", "log_likelihood", "posterior_predictive", "prior_predictive")  # groups that belong together


@dataclass
class Group:
    """Variables of one group: name -> (axes, array, attributes); and coordinates: name -> (axis, labels)."""

    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = field(default_factory=dict)
    coords: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)


def for_arviz(draws: Draws, observed_only: bool = True) -> dict[str, Group]:
    """Arrange draws so that every check of ArviZ is right without further arguments.

    Observed variables lose event axes that are all of length one, whose names become attributes: a single target has
    the shape of its log likelihood.

    With `observed_only`, the groups `CHECKED` hold targets at their observed entries:

    * the plate axis of a target ``y`` is ``y_row``, labelled with the names of the rows (and ``y_time`` with their
      times, if there are any), because two targets may be observed on different rows; it holds the rows where y is
      observed (all rows of the predictive groups, where y is observed nowhere);
    * if rows are observed in part (the padding of recordings), observed and predictive values lie along one axis
      ``y_entry``, with the coordinates ``y_row``, ``y_frame``;
    * observed values are whole numbers if the predictive values are.

    Variables that are not in ``draws.targets`` keep their axes unless entries are missing.

    Args:
        draws: Validated draws.
        observed_only: Whether to leave out what was not observed; otherwise NaN stands there.

    Returns:
        Group -> its variables and coordinates; empty groups are left out.
    """
    out: dict[str, Group] = {}
    for group, variables in draws.groups.items():
        own = Group()
        for name, array in variables.items():
            axes, attrs = draws.axes(group, name), {}
            if any(name in draws.groups.get(checked, {}) for checked in CHECKED):
                named = {axis: draws.coords[axis] for axis in axes if axis in draws.coords}
                axes, array = _without_single(draws, axes, array)
                attrs = {axis: str(names[0]) for axis, names in named.items() if axis not in axes}
                if observed_only and group in CHECKED:
                    found = _Seen.of(draws, name).select(group, axes, array)
                    if found is None:
                        continue
                    axes, array, coords = found
                    own.coords |= coords
            own.variables[name] = axes, array, attrs
        for axes, array, _ in own.variables.values():
            for axis, n in zip(axes, array.shape, strict=True):
                if not axis.endswith("_entry") or axis in draws.coords:
                    own.coords.setdefault(axis, (axis, draws.coords.get(axis, np.arange(n))))
        used = {axis for own_axes, *_ in own.variables.values() for axis in own_axes}
        for name, labels in draws.coords.items():  # further names of the positions along an axis, such as times
            if name not in used and draws.dims.get(name, ("",))[0] in used:
                own.coords[name] = (draws.dims[name][0], labels)
        if own.variables:
            out[group] = own
    return out


def _without_single(draws: Draws, axes: tuple[str, ...], array: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Drop the event axes if all of them have length one; only draws that name their plates tell which these are."""
    event = [i for i, axis in enumerate(axes) if axis not in (*SAMPLE_DIMS, *draws.plates)] if draws.plates else []
    if not event or any(array.shape[i] != 1 for i in event):
        return axes, array
    return tuple(axis for i, axis in enumerate(axes) if i not in event), array.squeeze(tuple(event))


@dataclass
class _Seen:
    """Where a variable was observed.

    Attributes:
        name: Name of the variable.
        mask: True where a value was observed, along its axes; None if it has no observed data.
        along: Axis that rows can be left out of; "" if only single entries can.
        own: Whether the plate axes have names of their own.
        labels: Axis -> its labels.
        beside: Further names of the positions along an axis, such as times: name -> its axis.
        whole: Whether the predictive values are whole numbers.
    """

    name: str
    mask: np.ndarray | None
    along: str
    own: tuple[str, ...]
    labels: dict[str, np.ndarray]
    beside: dict[str, str]
    whole: np.dtype | None

    @classmethod
    def of(cls, draws: Draws, name: str) -> _Seen:
        """Read from the observed data where they have values."""
        mask: np.ndarray | None = None
        along = ""
        plates = draws.plates or draws.dims.get(name, ())[:1]
        if name in (held := draws.groups.get("observed_data", {})):
            axes, array = _without_single(draws, draws.axes("observed_data", name), held[name])
            mask = seen = np.asarray(~np.isnan(array) if array.dtype.kind == "f" else np.ones(array.shape, bool))
            rows = seen.reshape(len(seen), -1) if seen.ndim else seen.reshape(1, 1)
            if axes and axes[0] in plates and (rows.any(1) == rows.all(1)).all():
                along = axes[0]
        missing = mask is not None and not mask.all()
        own = (
            tuple(axis for axis in plates if axis in draws.dims.get(name, ()))
            if missing or name in draws.targets
            else ()
        )
        whole = {
            held[name].dtype
            for group in ("posterior_predictive", "prior_predictive")
            if name in (held := draws.groups.get(group, {})) and held[name].dtype.kind in "iu"
        }
        beside = {k: axes[0] for k, axes in draws.dims.items() if k in draws.coords and len(axes) == 1}
        return cls(name, mask, along, own, dict(draws.coords), beside, min(whole, default=None, key=str))

    def select(
        self, group: str, axes: tuple[str, ...], array: np.ndarray
    ) -> tuple[tuple[str, ...], np.ndarray, dict[str, tuple[str, np.ndarray]]] | None:
        """Axes, values and coordinates of the variable in one group; None if nothing of it was observed."""
        lead = sum(axis in SAMPLE_DIMS for axis in axes)
        rest = axes[lead:]
        seen = self.mask
        if group == "log_likelihood" and seen is None:
            seen = np.asarray(~np.isnan(array).any((0, 1)))
        elif seen is not None and group == "log_likelihood":
            seen = np.asarray(seen.any(tuple(range(len(rest), seen.ndim))))
        if seen is not None and not seen.any():
            if not group.endswith("_predictive"):
                return None
            seen = None
        renamed = tuple(f"{self.name}_{axis}" if axis in self.own else axis for axis in rest)
        places: dict[str, tuple[str, np.ndarray]]  # axis of the draws -> axis for ArviZ, and the positions kept
        if seen is None or seen.all():
            shape = array.shape[lead:]
            places = {axis: (own, np.arange(n)) for axis, own, n in zip(rest, renamed, shape, strict=True)}
        elif rest and (self.along or (group == "log_likelihood" and seen.ndim == 1)):
            kept = np.asarray(seen.reshape(seen.shape[0], -1).any(1))
            array = np.compress(kept, array, axis=lead)
            places = {rest[0]: (renamed[0], np.flatnonzero(kept))}
        else:
            found, entry = np.nonzero(seen), f"{self.name}_entry"
            array = array[(slice(None),) * lead + found]
            places = {axis: (entry, place) for axis, place in zip(rest, found, strict=True)}
            renamed = (entry,)
        coords = {}
        for axis, (own, place) in places.items():
            coords[axis if own == axis else f"{self.name}_{axis}"] = (
                own,
                self.labels[axis][place] if axis in self.labels else place,
            )
            for further in (name for name, along in self.beside.items() if along == axis and own != axis):
                coords[f"{self.name}_{further}"] = own, self.labels[further][place]
        if group == "observed_data" and self.whole is not None and array.dtype.kind == "f":
            array = array.astype(self.whole)
        return (*axes[:lead], *renamed), array, coords
