"""From posterior draws to ArviZ, the same way for ArviZ 0.x (InferenceData) and 1.x (xarray.DataTree).

All ArviZ calls of the package are in this file. ``arviz`` and ``xarray`` are imported inside the functions, and
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

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import one_line, replacing
from .draws import SAMPLE_DIMS, Draws, plain_attrs

if TYPE_CHECKING:
    import pandas as pd


def from_draws(draws: Draws) -> Any:
    """Make an ArviZ object of draws: ``InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.

    Axes are (chain, draw), then the names in ``draws.dims``. Each group carries ``inference_library="pyro"`` and
    ``draws.attrs``. Empty groups are left out.

    Raises:
        ValueError: See `Draws.validate`.
    """
    import xarray as xr

    draws.validate()
    attrs = {"inference_library": "pyro", **plain_attrs(draws.attrs)}
    datasets = {}
    for group, variables in draws.groups.items():
        if not variables:
            continue
        arrays = {name: (draws.axes(group, name), array) for name, array in variables.items()}
        sizes = {axis: n for axes, array in arrays.values() for axis, n in zip(axes, array.shape, strict=True)}
        coords: dict[str, Any] = {axis: draws.coords.get(axis, np.arange(n)) for axis, n in sizes.items()}
        for name, values in draws.coords.items():
            if name not in sizes and draws.dims.get(name, ("",))[0] in sizes:
                coords[name] = (draws.dims[name], values)
        datasets[group] = xr.Dataset(arrays, coords=coords, attrs=attrs)
    return _from_tree(xr.DataTree.from_dict(datasets))


def save_netcdf(idata: Any, path: str | os.PathLike) -> None:
    """Write an ArviZ object as netCDF, which either version of ArviZ reads.

    The file appears under its name only when it is complete.

    Args:
        idata: An ArviZ object, e.g. of `to_arviz`.
        path: File to write, or to replace.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> idata = zoo.to_arviz(zoo.Draws({"posterior": {"sigma": np.ones((1, 50))}}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zoo.save_netcdf(idata, pathlib.Path(folder) / "posterior.nc")
        ...     again = zoo.load_netcdf(pathlib.Path(folder) / "posterior.nc")
        >>> again["posterior"]["sigma"].sizes["draw"]
        50
    """
    tree = idata if _arviz_major() >= 1 else idata.to_datatree()
    with replacing(path) as temporary:
        try:
            tree.to_netcdf(temporary, engine="h5netcdf")
        except RuntimeError as error:  # HDF5's own, in several lines, if the disk is full
            raise OSError(f"{path} cannot be written; is the disk full? ({one_line(error)})") from error


def load_netcdf(path: str | os.PathLike) -> Any:
    """Read a netCDF file, written by `save_netcdf` or by ArviZ, into memory.

    Args:
        path: File to read.

    Returns:
        ``InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is truncated or no netCDF file.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> idata = zoo.to_arviz(zoo.Draws({"posterior": {"sigma": np.ones((2, 50))}}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zoo.save_netcdf(idata, pathlib.Path(folder) / "posterior.nc")
        ...     again = zoo.load_netcdf(pathlib.Path(folder) / "posterior.nc")
        >>> again["posterior"]["sigma"].dims
        ('chain', 'draw')
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
    """Table of means, standard deviations and intervals, one row per scalar.

    Variables are summarised one at a time, because ArviZ 1.x labels rows wrongly when variables of one call order their
    axes differently. The draws of one chain are independent, so r_hat and effective sample size mean nothing there:
    with one chain only ``kind="stats"`` or ``"stats_median"`` is possible.

    Args:
        idata: An ArviZ object.
        var_names: Variables to show, in this order; all of the group by default.
        group: Group to summarise.
        **kw: Further arguments of ``arviz.summary``.

    Returns:
        DataFrame indexed by ``name[label, ...]``; its columns depend on the version of ArviZ.

    Raises:
        KeyError: A name that the group does not have.
        ValueError: A table with diagnostics is asked for but there is only one chain, or an option that needs all
            variables at once (``filter_vars``, ``fmt``).

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> rng = np.random.default_rng(0)
        >>> posterior = {"c": rng.normal(size=(1, 200, 2)), "sigma": rng.gamma(2.0, size=(1, 200))}
        >>> draws = zoo.Draws({"posterior": posterior}, dims={"c": ("unit",)}, coords={"unit": ["a", "b"]})
        >>> zoo.summary(zoo.to_arviz(draws)).index.to_list()
        ['c[a]', 'c[b]', 'sigma']
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
    """Plot the interval of every scalar, one line each. Returns what the installed ArviZ returns."""
    return _arviz().plot_forest(idata, var_names=var_names, **kw)


def plot_trace(idata: Any, var_names: str | Sequence[str] | None = None, **kw: Any) -> Any:
    """Plot densities and draws in order, one row per variable. Returns what the installed ArviZ returns."""
    return _by_version("plot_trace", "plot_trace_dist")(idata, var_names=var_names, **kw)


def plot_dist(idata: Any, var_names: str | Sequence[str] | None = None, **kw: Any) -> Any:
    """Plot marginal posterior densities with intervals. Returns what the installed ArviZ returns."""
    return _by_version("plot_posterior", "plot_dist")(idata, var_names=var_names, **kw)


def plot_ppc(idata: Any, var_names: str | Sequence[str] | None = None, *, curves: int = 50, **kw: Any) -> Any:
    """Plot the density of the observed values against densities of replicated data sets.

    Entries that were not observed (NaN) are left out of both. Returns what the installed ArviZ returns.

    Args:
        idata: An ArviZ object with ``observed_data`` and ``posterior_predictive``.
        var_names: Observed variables to show; all by default.
        curves: Largest number of replicated data sets to draw.
        **kw: Further arguments of ``plot_ppc`` of ArviZ 0.x or ``plot_ppc_dist`` of 1.x.

    Raises:
        KeyError: A name that was not observed.
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
    """ArviZ object with the observed entries only, flattened: neither version of ArviZ can draw a density with NaN."""
    groups: dict[str, dict[str, np.ndarray]] = {"observed_data": {}, "posterior_predictive": {}}
    for name in names:
        observed = idata["observed_data"][name]
        replicated = idata["posterior_predictive"][name].transpose(*SAMPLE_DIMS, *observed.dims).values
        seen = ~np.isnan(observed.values.ravel())
        groups["observed_data"][name] = observed.values.ravel()[seen]
        groups["posterior_predictive"][name] = replicated.reshape(*replicated.shape[:2], -1)[..., seen]
    return from_draws(Draws(groups, dims={name: (f"{name}_entry",) for name in names}))
