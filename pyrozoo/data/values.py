"""One array or column of a `Batch`: converted, and refused by an error that names the entry and the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .tables import first

SEEN = "_seen"  # ending of the name of the mask of a tensor in which values are missing


def to_seen_mask(name: str, value: Any, tensor: Tensor) -> Tensor:
    """A boolean tensor of the shape of `tensor`, True where its value is known."""
    mask = torch.as_tensor(value)
    if mask.dtype != torch.bool or mask.shape != tensor.shape:
        raise ValueError(
            f"seen[{name!r}]: {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}; give True or "
            f"False for each entry, {tuple(tensor.shape)}"
        )
    return mask


def require_mapping(what: str, value: Any) -> None:
    """Refuse what is neither a mapping nor None."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{what}: a {type(value).__name__}; give a mapping, name -> value")


def to_mask(what: str, value: Any, n: int) -> np.ndarray:
    """A boolean array of n entries: of True and False or of 0 and 1, nothing else.

    Raises:
        TypeError, ValueError: Another shape, text, numbers other than 0 and 1, or missing values.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"{what}: entries of a masked array are hidden; give True or False for each row")
    mask = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if mask.shape != (n,):
        raise ValueError(f"{what}: shape {mask.shape}, expected ({n},)")
    if mask.dtype.kind in "biuf" or (mask.dtype == object and all(isinstance(v, bool | np.bool_) for v in mask)):
        if mask.dtype.kind in "bO" or bool(np.isin(mask, (0, 1)).all()):
            return mask.astype(bool)
        raise ValueError(f"{what}: it holds {mask[~np.isin(mask, (0, 1))][0]!r}; give True or False for each row")
    raise TypeError(f"{what}: {mask.dtype} values, such as {mask[0]!r}; give True or False for each row")


def name_list(what: str, given: Any) -> list[Any]:
    """Names of columns as a list: of one name, which may be a number, of several, or of None.

    Raises:
        TypeError: A set, which has no order.
    """
    if isinstance(given, Set):
        raise TypeError(f"{what}: a {type(given).__name__} has no order; give a list of columns")
    return [] if given is None else list(given) if pd.api.types.is_list_like(given) else [given]


def check_precision(what: str, values: np.ndarray | Tensor, dtype: torch.dtype) -> None:
    """Say where numbers lose precision in a floating type, as times since 1970 do in 32 bits.

    Args:
        what: Name of the values, for the message.
        values: Double-precision values, NaN where unknown.
        dtype: The floating type.

    Raises:
        ValueError: Rounding moves values by more than a fiftieth of their standard deviation. By more than a thousandth
            is a warning.
    """
    if dtype.itemsize >= 8:
        return
    tensor = torch.as_tensor(values).double()
    tensor = tensor[~tensor.isnan()]
    if not len(tensor):
        return
    spread = tensor.std(unbiased=False)
    if float(spread) <= 1e-12 * float(tensor.abs().max()):  # a constant, up to rounding in double precision
        return
    lost = float((tensor.to(dtype).double() - tensor).abs().max() / spread)
    if not lost > 1e-3:
        return
    distinct = len(tensor.to(dtype).unique()), len(tensor.unique())
    short = str(dtype).removeprefix("torch.")
    message = (
        f"{what} loses precision as {short}: its values are near {float(tensor.mean()):.10g} with standard deviation "
        f"{float(spread):.4g}, and {distinct[0]} of {distinct[1]} distinct ones remain; subtract a constant (of times: "
        "the first one), or compute in double precision from the start: torch.set_default_dtype(torch.float64)"
    )
    if lost > 0.02:
        raise ValueError(message)
    warnings.warn(message, stacklevel=2)


def to_tensor(name: str, value: Any, n: int, dtype: torch.dtype) -> Tensor:
    """The value as a tensor of n entries; floating values as `dtype`."""
    if np.ma.is_masked(value):
        raise ValueError(f"{name}: entries of a masked array are hidden; fill them, or drop these rows")
    if hasattr(value, "toarray") or (isinstance(value, Tensor) and value.layout != torch.strided):
        raise TypeError(f"{name}: a sparse {type(value).__name__}; make it dense: .to_dense() or .toarray()")
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.ascontiguousarray(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: not an array of numbers ({error})") from None
    tensor = tensor.detach()
    if tensor.is_complex():
        raise TypeError(f"{name}: complex numbers; give real ones")
    if tensor.dim() == 0:
        raise TypeError(f"{name}: a single number; give {n} entries")
    if len(tensor) != n:
        raise ValueError(f"{name}: {len(tensor)} entries, expected {n}")
    if tensor.dtype == torch.float64:
        for part, values in columns_of(name, tensor):
            check_precision(part, values, dtype)
        if bool((tensor.abs() > torch.finfo(dtype).max).logical_and(tensor.isfinite()).any()):
            largest = float(tensor[tensor.isfinite()].abs().max())
            raise ValueError(f"{name}: {largest:g} is too large for {dtype}; change its unit of measure")
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def floating(dtype: Any) -> torch.dtype:
    """A floating type of torch, by default torch's own.

    Raises:
        TypeError: Something else, such as a type of NumPy or of whole numbers.
    """
    if dtype is None:
        return torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype: {dtype!r}; give a floating type of torch, such as torch.float64")
    return dtype


def columns_of(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """The columns of a table (N, D) with their names; signals (many columns) and other tensors as a whole."""
    if tensor.dim() != 2 or tensor.shape[1] > 32:
        return [(name, tensor.flatten())]
    return [(f"{name}, column {j}", tensor[:, j]) for j in range(tensor.shape[1])]


def blank(tensor: Tensor, observed: Tensor) -> Tensor:
    """Set unobserved entries to zero: Pyro's validation rejects NaN even where it is masked."""
    mask = observed.reshape(observed.shape + (1,) * (tensor.dim() - 1))
    return torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def first_missing(data: Any, name: str) -> str:
    """Words that name the first missing value of a tensor along the rows of a batch; empty if none is missing."""
    seen = data.tensors.get(name + SEEN)
    if seen is None or bool(seen.all()):
        return ""
    row, *column = (~seen).nonzero()[0].tolist()
    what = f"column {data.columns(name)[column[0]]!r}" if len(column) == 1 else name
    return f"{what}, row {data.names(data.rows)[[row]].tolist()[0]!r}: the value is missing"


def require_finite(name: str, tensor: Tensor) -> None:
    """Refuse a floating tensor with NaN or infinity; the message names the entry."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        first = (~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)).nonzero()[0, 0]
        raise ValueError(f"{name}, entry {int(first)}: not finite; impute it or drop the row")


def to_times(what: str, series: pd.Series) -> np.ndarray:
    """Times of N rows as numbers or ``datetime64``; times with a zone become those of UTC.

    Raises:
        TypeError, ValueError: Text or other objects, or a missing time; the message names the row.
    """
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    kinds = pd.api.types
    is_number = kinds.is_numeric_dtype(series) and not kinds.is_bool_dtype(series)
    if not (is_number or kinds.is_datetime64_any_dtype(series)):
        raise TypeError(f"{what}: {series.dtype} values; give numbers, or times by pandas.to_datetime")
    missing = series.isna().to_numpy()
    if is_number:
        missing = missing | ~np.isfinite(series.to_numpy(dtype=float, na_value=np.nan))
    if missing.any():
        raise ValueError(f"{what}, row {first(series.index, missing)!r}: the time is missing; give it or drop the row")
    return series.to_numpy(dtype=float) if kinds.is_extension_array_dtype(series) and is_number else series.to_numpy()


def group_index(group: str, values: Any, n: int, names: np.ndarray | None) -> tuple[Tensor, np.ndarray]:
    """Position of each row's group, shape (n,), and the groups' names."""
    values = to_names(values)
    if len(values) != n:
        raise ValueError(f"{group}: {len(values)} entries, expected {n}")
    try:
        codes, found = pd.factorize(values)
    except TypeError as error:
        raise TypeError(f"{group}: its names cannot be compared ({error}); use strings or numbers") from None
    if (codes < 0).any():
        raise ValueError(f"{group}, row {int((codes < 0).argmax())}: the {group} is missing; name it or drop the row")
    if names is None:
        return torch.as_tensor(codes.astype(np.int64)), _in_microseconds(np.asarray(found))
    index = pd.Index(names, tupleize_cols=False)
    if not index.is_unique:
        raise ValueError(f"{group} {index[index.duplicated()].tolist()[0]!r} is given twice in the list of {group}s")
    codes = index.get_indexer(pd.Index(values, tupleize_cols=False))
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        raise ValueError(f"{group}, row {row}: {values[row]!r} is not among the given {group}s")
    empty = np.setdiff1d(np.arange(len(names)), codes)
    if len(empty):
        raise ValueError(f"{group} {index[empty[0]]!r} has no rows; drop it from the list of {group}s")
    return torch.as_tensor(codes.astype(np.int64)), names


def to_names(values: Any) -> np.ndarray:
    """Names as they are given: NumPy alone would turn [1, "a"] into two strings, and tuples into rows of a matrix."""
    if isinstance(values, Tensor):
        return values.cpu().numpy()
    return values if isinstance(values, np.ndarray) else pd.Index(list(values), tupleize_cols=False).to_numpy()


def _in_microseconds(names: np.ndarray) -> np.ndarray:
    """Times in microseconds, as Python has them, where that is exact; of pandas 2's nanoseconds it makes numbers."""
    if names.dtype.kind not in "mM":
        return names
    exact = names.astype(f"{names.dtype.kind}8[us]")
    return exact if bool((exact.astype(names.dtype) == names).all()) else names
