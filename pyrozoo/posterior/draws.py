"""Draws: named arrays with the name of every axis, saved without pickle; needs neither torch nor ArviZ."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..files import read_npz, replacing

SAMPLE_DIMS = ("chain", "draw")


_FORMAT = "pyrozoo.draws/1"


@dataclass(frozen=True, eq=False)
class Draws:
    """Named arrays of draws, predictions and data, with the name of every axis.

    The first two axes of every array are S chains (restarts) and T draws, except in groups whose name ends in
    ``_data``, which hold data and not draws. Independent draws of one guide are one chain, ``S = 1``.

    Args:
        groups: Group name (``posterior``, ``log_likelihood``, ``observed_data``, ...) -> variable -> array of shape
            ``(S, T, *plates, *event)``, or ``(*plates, *event)`` in a ``_data`` group. NaN stands for an entry that
            was not observed.
        dims: Variable -> names of its axes after (chain, draw): plates, outermost first, then event axes. Variables
            without further axes may be left out. Arrays of the groups whose name begins with ``log_`` have one number
            per plate entry and take the first names only.
        coords: Axis name -> its labels, one per entry. An axis without labels is numbered from 0. Further entries
            describe the entries of an axis, which ``dims`` names for them.
        attrs: Facts about the run (model, guide, seed, ...), each a scalar or a string; other values are kept as JSON.
        plates: Names of the axes that are plates; the others are event axes.
        targets: Variables that may be observed in part, see `pyrozoo.to_arviz`.

    Raises:
        ValueError: An array or a coordinate holds Python objects other than strings.

    Example:
        Draws of any origin, saved and loaded without pickle:

        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> c = np.random.default_rng(0).normal(size=(1, 100, 3))  # chains, draws, units
        >>> draws = zoo.Draws({"posterior": {"c": c}}, dims={"c": ("unit",)}, coords={"unit": ["A", "B", "C"]})
        >>> draws.axes("posterior", "c")
        ('chain', 'draw', 'unit')
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draws.save(pathlib.Path(folder) / "draws.npz")
        ...     again = zoo.Draws.load(pathlib.Path(folder) / "draws.npz")
        >>> np.array_equal(again.groups["posterior"]["c"], c)
        True
    """

    groups: dict[str, dict[str, np.ndarray]]
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    coords: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    plates: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        groups = {
            group: {name: _as_array(value, f"{group}/{name}") for name, value in variables.items()}
            for group, variables in self.groups.items()
        }
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "dims", {name: tuple(names) for name, names in self.dims.items()})
        object.__setattr__(self, "coords", {n: _as_array(v, f"coordinate {n!r}") for n, v in self.coords.items()})
        object.__setattr__(self, "attrs", dict(self.attrs))
        for name in ("plates", "targets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def axes(self, group: str, name: str) -> tuple[str, ...]:
        """Names of all axes of one array, (chain, draw) included."""
        named = self.dims.get(name, ())
        if group.endswith("_data"):
            return named
        if group.startswith("log_"):
            named = named[: max(self.groups[group][name].ndim - len(SAMPLE_DIMS), 0)]
        return (*SAMPLE_DIMS, *named)

    def validate(self) -> None:
        """Check that every axis has a name and that all lengths agree.

        Raises:
            ValueError: A name that cannot be stored; an axis without a name or named twice; a coordinate whose length
                differs from its axis; or two lengths for one axis within a group. The message names group, variable
                and axis, and says what to change.
        """
        for group, variables in self.groups.items():
            lengths: dict[str, tuple[int, str]] = {}
            for name, array in variables.items():
                place = f"{group}/{name}"
                axes = self.axes(group, name)
                self._check_names(place, group, name, axes)
                if array.ndim != len(axes):
                    raise ValueError(
                        f"{place} has shape {array.shape}, {array.ndim} axes, but {len(axes)} names {axes}: "
                        f"give dims[{name!r}] one name per axis"
                        + ("" if group.endswith("_data") else " after the leading (chain, draw)")
                    )
                for axis, length in zip(axes, array.shape, strict=True):
                    self._check_length(place, axis, length, lengths)

    def _check_names(self, place: str, group: str, name: str, axes: tuple[str, ...]) -> None:
        if "/" in name or "/" in group:
            raise ValueError(f"{place}: group and variable names cannot hold '/': rename the site")
        for axis in axes:
            if axes.count(axis) > 1:
                raise ValueError(f"{place}: axis {axis!r} is named twice in {axes}: give each axis its own name")
            if axis in self.groups[group]:
                raise ValueError(f"{place}: axis {axis!r} has the name of a variable of {group}: rename the axis")

    def _check_length(self, place: str, axis: str, length: int, seen: dict[str, tuple[int, str]]) -> None:
        if axis in self.coords and self.coords[axis].shape != (length,):
            raise ValueError(
                f"{place}: axis {axis!r} has length {length} but coords[{axis!r}] has shape "
                f"{self.coords[axis].shape}: give one label per entry, or none"
            )
        first, where = seen.setdefault(axis, (length, place))
        if first != length:
            raise ValueError(
                f"{place}: axis {axis!r} has length {length} but {first} in {where}: "
                "arrays of one group share their axes; give the two axes different names or cut one array"
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write one ``.npz`` file: a JSON header and plain arrays, readable without pickle.

        The file appears under its name only when it is complete.

        Raises:
            ValueError: See `validate`.
        """
        self.validate()
        header = {
            "format": _FORMAT,
            "groups": {group: list(variables) for group, variables in self.groups.items()},
            "dims": self.dims,
            "coords": list(self.coords),
            "attrs": plain_attrs(self.attrs),
            "plates": self.plates,
            "targets": self.targets,
        }
        arrays = {f"groups/{g}/{n}": a for g, variables in self.groups.items() for n, a in variables.items()}
        arrays |= {f"coords/{n}": a for n, a in self.coords.items()}
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Draws:
        """Read a file that `save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: No such file.
            ValueError: The file is truncated, damaged, or was not written by `save`.
        """
        stored = read_npz(path, ["header"], writer="Draws.save")
        try:
            header = json.loads(str(stored["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']!r}, not {_FORMAT!r}")
            draws = cls(
                groups={g: {n: stored[f"groups/{g}/{n}"] for n in ns} for g, ns in header["groups"].items()},
                dims=header["dims"],
                coords={n: stored[f"coords/{n}"] for n in header["coords"]},
                attrs=header["attrs"],
                plates=header.get("plates", ()),  # files of earlier versions have neither
                targets=header.get("targets", ()),
            )
            draws.validate()
        except Exception as error:  # a header of another origin may raise any type of error
            raise ValueError(
                f"{os.fspath(path)}: no complete file of draws ({type(error).__name__}: {error}); "
                "write it again with Draws.save"
            ) from error
        return draws


def _as_array(value: Any, place: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "OT":  # text from pandas; stored as fixed-width unicode, which needs no pickle
        if not all(isinstance(entry, str) for entry in array.flat):
            raise ValueError(f"{place} holds Python objects: give numbers or strings")
        array = array.astype(str)
    return array


def plain_attrs(attrs: dict[str, Any]) -> dict[str, str | int | float]:
    """Attributes in a form that netCDF can hold: numbers and strings unchanged, anything else as JSON text."""
    plain = {}
    for name, value in attrs.items():
        value = value.item() if isinstance(value, np.generic) else value
        is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        plain[name] = value if is_plain else json.dumps(value)
    return plain
