"""From posterior draws to ArviZ, the same way for ArviZ 0.x (InferenceData) and 1.x (xarray.DataTree).

All ArviZ calls of the package are in this file. ``arviz`` and ``xarray`` are imported inside the functions, and
neither torch nor Pyro is needed, so draws that were saved with `Draws.save` can be turned into an ArviZ object
on a machine that has only ArviZ.

What differs between the versions is settled here: the kind of object, and where a statistic lies. Pictures that are
the same under both are in `pyrozoo.plots`; every plot of the installed ArviZ takes the object, too.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import one_line, replacing, require_heaps_that_end
from .draws import SAMPLE_DIMS, Draws, plain_attrs
from .observed import for_arviz

if TYPE_CHECKING:
    import pandas as pd

SPARE = 1 << 20  # bytes of a netCDF file beside its values: names, attributes


def from_draws(draws: Draws, observed_only: bool = True) -> Any:
    """Make an ArviZ object of draws: ``InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.

    Axes are (chain, draw), then the names in ``draws.dims``, except those of targets, see `pyrozoo.to_arviz`. Each
    group carries ``inference_library="pyro"`` and ``draws.attrs``. Empty groups are left out.

    Args:
        draws: The draws.
        observed_only: Whether to leave out of the groups that belong to the data what was not observed.

    Raises:
        ValueError: See `Draws.validate`.
    """
    import xarray as xr

    draws.validate()
    attrs = {"inference_library": "pyro", **plain_attrs(draws.attrs)}
    datasets = {
        name: xr.Dataset(group.variables, coords=group.coords, attrs=attrs)
        for name, group in for_arviz(draws, observed_only).items()
    }
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
        free = shutil.disk_usage(temporary.parent).free
        if free < tree.nbytes + SPARE:  # asked first: HDF5 may end the process where a disk is full
            raise OSError(f"{path} cannot be written: it takes {tree.nbytes} bytes, and the disk has {free} left")
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
        require_heaps_that_end(Path(path))
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return _from_tree(tree.load())
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged content raises many types of error, some of them in several lines
        raise ValueError(
            f"{os.fspath(path)} is not a complete netCDF file ({one_line(error)}); write it again"
        ) from error


def summary(
    idata: Any, var_names: str | Sequence[str] | None = None, *, group: str = "posterior", width: float = 0.9,
    diagnostics: bool | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Table of means, standard deviations and intervals, one row per scalar; the same under every version of ArviZ.

    Args:
        idata: An ArviZ object.
        var_names: Variables to show, in this order; all of the group by default.
        group: Group to summarise.
        width: Probability of the equal-tailed interval.
        diagnostics: Whether to add ArviZ's ``mcse_mean``, ``ess_bulk``, ``ess_tail`` and ``r_hat``; by default if there
            are several chains. The draws of one chain of a fit are independent, and these mean nothing.

    Returns:
        DataFrame indexed by ``name[label, ...]``, with the columns ``mean``, ``sd``, the ends of the interval (``q05``
        and ``q95`` for 0.9), and the diagnostics.

    Raises:
        KeyError: A name that the group does not have.
        ValueError: Diagnostics are asked for but there is only one chain, or a width outside (0, 1).

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> rng = np.random.default_rng(0)
        >>> posterior = {"c": rng.normal(size=(1, 200, 2)), "sigma": rng.gamma(2.0, size=(1, 200))}
        >>> draws = zoo.Draws({"posterior": posterior}, dims={"c": ("unit",)}, coords={"unit": ["a", "b"]})
        >>> table = zoo.summary(zoo.to_arviz(draws))
        >>> table.index.to_list(), table.columns.to_list()
        (['c[a]', 'c[b]', 'sigma'], ['mean', 'sd', 'q05', 'q95'])
    """
    import pandas as pd

    dataset = idata[group]
    names = variable_names(dataset, var_names, group)
    several = dataset.sizes.get("chain", 1) > 1
    if not 0 < width < 1:
        raise ValueError(f"width: {width}; give a number between 0 and 1, such as 0.9")
    if diagnostics and not several:
        raise ValueError(
            "diagnostics need several chains: r_hat and effective sample size of independent draws from one guide say "
            "nothing about convergence; fit with restarts"
        )
    diagnostics = several if diagnostics is None else diagnostics
    return pd.concat([_summary(idata, name, group, width, diagnostics) for name in names])


def _summary(idata: Any, name: str, group: str, width: float, diagnostics: bool) -> pd.DataFrame:
    """Rows of one variable: ArviZ 1.x labels those of several wrongly if the variables order their axes differently."""
    import pandas as pd

    from .columns import quantile_name, tails  # here, since it needs pandas

    array = idata[group][name]
    axes = [axis for axis in array.dims if axis not in SAMPLE_DIMS]
    values = array.transpose(*SAMPLE_DIMS, *axes).values
    flat = values.reshape(values.shape[0] * values.shape[1], -1)
    labels = [array[axis].values if axis in array.coords else range(array.sizes[axis]) for axis in axes]
    index = [f"{name}[{', '.join(map(str, own))}]" for own in itertools.product(*labels)] if axes else [name]
    low, high = tails(width)
    columns = {"mean": flat.mean(0), "sd": flat.std(0, ddof=1)}
    columns |= {quantile_name(q): np.quantile(flat, q, axis=0) for q in (low, high)}
    table = pd.DataFrame(columns, index=index)
    if not diagnostics:
        return table
    more = _arviz().summary(idata, var_names=[name], group=group, kind="diagnostics", round_to="none")
    kept = [column for column in ("mcse_mean", "ess_bulk", "ess_tail", "r_hat") if column in more]
    return table.assign(**{column: more[column].to_numpy(dtype=float) for column in kept})


def variable_names(dataset: Any, var_names: str | Sequence[str] | None, group: str) -> list[str]:
    """Names of variables as a list, all of the group by default.

    Raises:
        KeyError: A name that the group does not have.
    """
    known = list(dataset.data_vars)
    names = known if var_names is None else [var_names] if isinstance(var_names, str) else list(var_names)
    if unknown := [name for name in names if name not in known]:
        raise KeyError(f"{group} has no variable {unknown}; it has {known}")
    return names


def highest_density(values: np.ndarray, width: float) -> tuple[float, float]:
    """The shortest interval of this probability, of draws (S,)."""
    argument = "prob" if _arviz_major() >= 1 else "hdi_prob"
    low, high = np.asarray(_arviz().hdi(values, **{argument: width})).ravel()
    return float(low), float(high)


def smoothed_weights(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed importance weights of draws.

    Args:
        log_ratios: Log importance ratios of S draws at P positions, shape (S, P).

    Returns:
        Weights (S, P) that sum to one over the draws, and the shape k of their tails (P,); -inf where the largest
        ratios are equal but for single precision, so that there is no tail to fit, and the weights are the ratios.
    """
    import xarray as xr

    n = len(log_ratios)
    weights = np.exp(log_ratios - log_ratios.max(axis=0, initial=-np.inf))
    weights /= weights.sum(axis=0)
    k = np.full(log_ratios.shape[1], -np.inf)
    tail = np.sort(log_ratios, axis=0)[-math.ceil(min(0.2 * n, 3 * math.sqrt(n))) :]
    resolution = 8 * np.finfo(np.float32).eps * np.abs(log_ratios).max(axis=0, initial=1.0)
    own = np.ptp(tail, axis=0) > resolution
    if own.any():
        ratios = np.ascontiguousarray(log_ratios[:, own].T, dtype=float)
        if _arviz_major() >= 1:  # takes log likelihoods, whose negative the ratios are
            _arviz()
            array = xr.DataArray(-ratios, dims=("position", "draw"))
            found, shapes = (part.values for part in array.azstats.psislw(dim="draw", r_eff=1.0))
        else:
            found, shapes = _arviz().psislw(ratios)
        weights[:, own], k[own] = np.exp(found).T, np.atleast_1d(shapes)
    return weights, k


def _arviz() -> Any:
    with warnings.catch_warnings():
        # ArviZ 0.x announces its refactoring at every first import; here both versions are served.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    return arviz


def _arviz_major() -> int:
    # hasattr(arviz, "InferenceData") is true in 1.x too, where the name stands for DataTree.
    return int(_arviz().__version__.split(".")[0])


def _from_tree(tree: Any) -> Any:
    return tree if _arviz_major() >= 1 else _arviz().InferenceData.from_datatree(tree)
