"""From posterior draws to ArviZ, the same way for ArviZ 0.x (InferenceData) and 1.x (xarray.DataTree).

Every ArviZ call of the package is in this file. ``arviz`` and ``xarray`` are imported inside the functions, and
neither torch nor Pyro is needed, so draws that were saved with `Draws.save` can be turned into an ArviZ object
on a machine that has only ArviZ.

Names in both versions:

=====================  ======================  ==================
here                   ArviZ 0.x               ArviZ 1.x
=====================  ======================  ==================
`from_draws`           ``InferenceData``       ``DataTree``
`summary`              ``summary``             ``summary``
`plot_forest`          ``plot_forest``         ``plot_forest``
`plot_trace`           ``plot_trace``          ``plot_trace_dist``
`plot_dist`            ``plot_posterior``      ``plot_dist``
`plot_ppc`             ``plot_ppc``            ``plot_ppc_dist``
=====================  ======================  ==================
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_DIMS = ("chain", "draw")
_FORMAT = "pyrozoo.draws/1"


@dataclass(frozen=True, eq=False)
class Draws:
    """Named arrays of draws, predictions and data, with the name of every axis.

    S chains (restarts) and T draws lead the shape of every array, except in groups whose name ends in ``_data``,
    which hold data and not draws. Independent draws of one guide are one chain, ``S = 1``.

    Args:
        groups: group name (``posterior``, ``log_likelihood``, ``observed_data``, ...) -> variable -> array of shape
            ``(S, T, *plates, *event)``, or ``(*plates, *event)`` in a ``_data`` group. NaN stands for an entry that
            was not observed.
        dims: variable -> names of its axes after (chain, draw): plates, outermost first, then event axes. Variables
            without further axes may be left out. Arrays of the groups whose name begins with ``log_`` have one number
            per plate entry and take the first names only.
        coords: axis name -> its labels, one per entry. An axis without labels is numbered from 0.
        attrs: facts about the run (model, guide, seed, ...), each a scalar or a string; other values are kept as JSON.

    Raises:
        ValueError: an array or a coordinate holds Python objects other than strings.
    """

    groups: dict[str, dict[str, np.ndarray]]
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    coords: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = {
            group: {name: _as_array(value, f"{group}/{name}") for name, value in variables.items()}
            for group, variables in self.groups.items()
        }
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "dims", {name: tuple(names) for name, names in self.dims.items()})
        object.__setattr__(self, "coords", {n: _as_array(v, f"coordinate {n!r}") for n, v in self.coords.items()})
        object.__setattr__(self, "attrs", dict(self.attrs))

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
            ValueError: a name that cannot be stored, an axis without a name or named twice, a coordinate whose length
                differs from its axis, or two lengths for one axis within a group. The message names group, variable
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

        The file appears under its name only when complete.
        """
        self.validate()
        header = {
            "format": _FORMAT,
            "groups": {group: list(variables) for group, variables in self.groups.items()},
            "dims": self.dims,
            "coords": list(self.coords),
            "attrs": _plain_attrs(self.attrs),
        }
        arrays = {f"groups/{g}/{n}": a for g, variables in self.groups.items() for n, a in variables.items()}
        arrays |= {f"coords/{n}": a for n, a in self.coords.items()}
        with _replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Draws:
        """Read a file of `save`. Nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated, damaged, or was not written by `save`.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                if header["format"] != _FORMAT:
                    raise ValueError(f"format {header['format']!r}, not {_FORMAT!r}")
                draws = cls(
                    groups={g: {n: stored[f"groups/{g}/{n}"] for n in ns} for g, ns in header["groups"].items()},
                    dims=header["dims"],
                    coords={n: stored[f"coords/{n}"] for n in header["coords"]},
                    attrs=header["attrs"],
                )
                draws.validate()
                return draws
        except FileNotFoundError:
            raise
        # numpy and zipfile answer a damaged or foreign file with any of these; UnpicklingError is an Exception only.
        except Exception as error:
            raise ValueError(
                f"{os.fspath(path)} is not a complete file of draws ({type(error).__name__}: {error}); "
                "write it again with Draws.save"
            ) from error


def from_draws(draws: Draws) -> Any:
    """ArviZ object of draws: ``InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.

    Axes are (chain, draw), then the names in ``draws.dims``. Each group carries ``inference_library="pyro"`` and
    ``draws.attrs``. Empty groups are left out.

    Raises:
        ValueError: see `Draws.validate`.
    """
    import xarray as xr

    draws.validate()
    attrs = {"inference_library": "pyro", **_plain_attrs(draws.attrs)}
    datasets = {}
    for group, variables in draws.groups.items():
        if not variables:
            continue
        arrays = {name: (draws.axes(group, name), array) for name, array in variables.items()}
        sizes = {axis: n for axes, array in arrays.values() for axis, n in zip(axes, array.shape, strict=True)}
        coords = {axis: draws.coords.get(axis, np.arange(n)) for axis, n in sizes.items()}
        datasets[group] = xr.Dataset(arrays, coords=coords, attrs=attrs)
    return _from_tree(xr.DataTree.from_dict(datasets))


def to_arviz(fit_or_draws: Any, batch: Any = None, *, draws: int = 500, seed: int = 0, **options: Any) -> Any:
    """ArviZ object of a fit, by drawing from its guide, or of draws made before.

    Args:
        fit_or_draws: a fit, or a `Draws`, which is converted as it is.
        batch: data to draw for; a fit needs it, finished draws have it in them.
        draws: number of draws per chain; a chain is one restart of the fit.
        seed: seed of the draws.
        **options: passed to `pyrozoo.draw`.

    Returns:
        ``InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.

    Raises:
        TypeError: a fit without ``batch``, or a `Draws` with ``batch`` or ``options``.
        ValueError: see `Draws.validate`.
    """
    if isinstance(fit_or_draws, Draws):
        if batch is not None or options:
            raise TypeError("these draws are already made: batch and options go with a fit")
        return from_draws(fit_or_draws)
    if batch is None:
        raise TypeError("give the data to draw for: to_arviz(fit, batch)")
    from .drawing import draw

    return from_draws(draw(fit_or_draws, batch, draws=draws, seed=seed, **options))


def save_netcdf(idata: Any, path: str | os.PathLike) -> None:
    """Write an ArviZ object as netCDF, which either version of ArviZ reads.

    The file appears under its name only when complete.
    """
    tree = idata if _arviz_major() >= 1 else idata.to_datatree()
    with _replacing(path) as temporary:
        tree.to_netcdf(temporary, engine="h5netcdf")


def load_netcdf(path: str | os.PathLike) -> Any:
    """Read a netCDF file of `save_netcdf` or of ArviZ into memory.

    Returns:
        ``InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated or no netCDF file.
    """
    import xarray as xr

    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return _from_tree(tree.load())
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} is not a complete netCDF file ({error}); write it again") from error


def summary(
    idata: Any, var_names: str | Sequence[str] | None = None, *, group: str = "posterior", **kw: Any
) -> pd.DataFrame:
    """Table of means, standard deviations and intervals, one row per scalar, each under its right label.

    Variables are summarised one at a time: ArviZ 1.x labels rows wrongly when variables of one call order their axes
    differently. With one chain the draws are independent, r_hat and effective sample size say nothing, and only
    ``kind="stats"`` or ``"stats_median"`` is given.

    Args:
        idata: an ArviZ object.
        var_names: variables to show, in this order; all of the group by default.
        group: group to summarise.
        **kw: passed to ``arviz.summary``.

    Returns:
        DataFrame indexed by ``name[label, ...]``; its columns depend on the version of ArviZ.

    Raises:
        KeyError: a name that the group does not have.
        ValueError: a table with diagnostics is asked for but there is only one chain, or an option that needs all
            variables at once (``filter_vars``, ``fmt``).
    """
    import pandas as pd

    az = _arviz()
    if refused := {"filter_vars", "fmt"} & set(kw):
        raise ValueError(f"summary goes variable by variable, without {sorted(refused)}: give var_names in full")
    dataset = idata[group]
    names = _names(dataset, var_names, group)
    one_chain = dataset.sizes.get("chain", 1) == 1
    kind = kw.pop("kind", "stats" if one_chain else "all")
    if one_chain and not kind.startswith("stats"):
        raise ValueError(
            f"kind={kind!r} needs several chains: r_hat and effective sample size of independent draws from one guide "
            "say nothing about convergence; use kind='stats', or fit with restarts"
        )
    tables = [az.summary(idata, var_names=[name], group=group, kind=kind, **kw) for name in names]
    return pd.concat(tables)


def plot_forest(idata: Any, var_names: str | Sequence[str] | None = None, **kw: Any) -> Any:
    """Intervals of every scalar, one line each. Returns what the installed ArviZ returns."""
    return _arviz().plot_forest(idata, var_names=var_names, **kw)


def plot_trace(idata: Any, var_names: str | Sequence[str] | None = None, **kw: Any) -> Any:
    """Density and draws in order, one row per variable. Returns what the installed ArviZ returns."""
    return _by_version("plot_trace", "plot_trace_dist")(idata, var_names=var_names, **kw)


def plot_dist(idata: Any, var_names: str | Sequence[str] | None = None, **kw: Any) -> Any:
    """Marginal posterior densities with intervals. Returns what the installed ArviZ returns."""
    return _by_version("plot_posterior", "plot_dist")(idata, var_names=var_names, **kw)


def plot_ppc(idata: Any, var_names: str | Sequence[str] | None = None, *, curves: int = 50, **kw: Any) -> Any:
    """Density of the observed values against densities of replicated data sets.

    Entries that were not observed (NaN) are left out of both.

    Args:
        idata: an ArviZ object with ``observed_data`` and ``posterior_predictive``.
        var_names: observed variables; all by default.
        curves: number of replicated data sets, at most.
        **kw: passed to ``plot_ppc`` of ArviZ 0.x or ``plot_ppc_dist`` of 1.x.

    Raises:
        KeyError: a name that was not observed.
    """
    names = _names(idata["observed_data"], var_names, "observed_data")
    shown = _observed_entries(idata, names)
    if _arviz_major() >= 1:
        return _arviz().plot_ppc_dist(shown, var_names=names, num_samples=curves, **kw)
    return _arviz().plot_ppc(shown, var_names=names, num_pp_samples=curves, **kw)


def _arviz() -> Any:
    with warnings.catch_warnings():
        # ArviZ 0.x announces its refactoring at every first import; here both versions are served.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    return arviz


def _arviz_major() -> int:
    # hasattr(arviz, "InferenceData") is true in 1.x too, where the name stands for DataTree.
    return int(_arviz().__version__.split(".")[0])


def _by_version(before_1: str, since_1: str) -> Any:
    return getattr(_arviz(), since_1 if _arviz_major() >= 1 else before_1)


def _from_tree(tree: Any) -> Any:
    return tree if _arviz_major() >= 1 else _arviz().InferenceData.from_datatree(tree)


def _names(dataset: Any, var_names: str | Sequence[str] | None, group: str) -> list[str]:
    known = list(dataset.data_vars)
    names = known if var_names is None else [var_names] if isinstance(var_names, str) else list(var_names)
    if unknown := [name for name in names if name not in known]:
        raise KeyError(f"{group} has no variable {unknown}; it has {known}")
    return names


def _observed_entries(idata: Any, names: list[str]) -> Any:
    """Object with the observed entries only, flattened: neither version of ArviZ draws a density around NaN."""
    groups: dict[str, dict[str, np.ndarray]] = {"observed_data": {}, "posterior_predictive": {}}
    for name in names:
        observed = idata["observed_data"][name]
        replicated = idata["posterior_predictive"][name].transpose(*SAMPLE_DIMS, *observed.dims).values
        seen = ~np.isnan(observed.values.ravel())
        groups["observed_data"][name] = observed.values.ravel()[seen]
        groups["posterior_predictive"][name] = replicated.reshape(*replicated.shape[:2], -1)[..., seen]
    return from_draws(Draws(groups, dims={name: (f"{name}_entry",) for name in names}))


def _as_array(value: Any, place: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "OT":  # text from pandas; stored as fixed-width unicode, which needs no pickle
        if not all(isinstance(entry, str) for entry in array.flat):
            raise ValueError(f"{place} holds Python objects: give numbers or strings")
        array = array.astype(str)
    return array


def _plain_attrs(attrs: dict[str, Any]) -> dict[str, str | int | float]:
    """Attributes that netCDF can hold: numbers and strings as they are, anything else as JSON text."""
    plain = {}
    for name, value in attrs.items():
        value = value.item() if isinstance(value, np.generic) else value
        is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        plain[name] = value if is_plain else json.dumps(value)
    return plain


@contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Path to write to; it replaces ``path`` when the block ends well and is removed otherwise."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
