"""From arrays and data frames to the parts of a `Batch`, with errors that name the entry and the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .tables import check_columns, first, indicators, numeric

FRAMES = "frame"
TIME = "time"  # coordinate of the rows by which they are ordered
MAIN = "y"  # target whose mask is called ``labelled``, as is that of an only target
SEEN = "_seen"  # ending of the name of the mask of a tensor in which values are missing
# Facts about data that builders take as keyword arguments; others go into info={...}.
PROVENANCE = (
    "name", "simulated", "seed", "source", "reference", "licence", "rate", "rate_assumed", "rates", "seconds",
    "standardised",
)  # fmt: skip


def arrays_to_parts(
    *,
    rows: Mapping[str, Any],
    groups: Mapping[str, Any] | None,
    tables: Mapping[str, Mapping[str, Any]] | None,
    frames: Mapping[str, Sequence[Any]] | None,
    labels: Mapping[str, Any] | None,
    seen: Mapping[str, Any] | None,
    row_plate: str,
    dims: Mapping[str, tuple[str, ...]] | None,
    coords: Mapping[str, Any] | None,
    row_coords: Mapping[str, Any] | None,
    truth: Mapping[str, Any] | None,
    truth_along: Mapping[str, str] | None,
    dtype: torch.dtype | None,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Fields of a full batch from arrays; arguments and errors are those of `Batch.from_arrays`."""
    dtype = floating(dtype)
    n = _number_of_rows(rows, frames or {})
    tensors: dict[str, Tensor] = {}
    along: dict[str, str] = {}
    sizes = {row_plate: n}
    coords = {k: to_names(v) for k, v in (coords or {}).items()}
    if row_plate in coords and coords[row_plate].shape != (n,):
        raise ValueError(f"coords[{row_plate!r}]: shape {coords[row_plate].shape}, expected ({n},)")
    strata: dict[str, Tensor] = {}
    masks: dict[str, str] = {}
    labels = labels or {}
    for target, mask in labels.items():
        name = "labelled" if target == MAIN or len(labels) == 1 else mask_alias(target)
        observed = torch.as_tensor(to_mask(f"labels[{target!r}]", mask, n))
        masks[target], tensors[name], along[name] = name, observed, row_plate
        strata |= {name: observed.nonzero()[:, 0], f"un{name}": (~observed).nonzero()[:, 0]}
    if unknown := sorted(set(seen or {}) - set(rows)):
        raise ValueError(f"seen: there is no array {unknown[0]!r} in rows, only {list(rows)}")
    taken = {row_plate, *tensors, *(mask_alias(target) for target in masks), *(name + SEEN for name in seen or {})}
    refuse_taken("rows", rows, taken, groups)
    refuse_taken("frames", frames or {}, {*taken, *rows}, groups)
    for group, own in (tables or {}).items():
        refuse_taken(f"tables of {group}", own, {*taken, *rows, *(frames or {})}, groups)
    for name, value in rows.items():
        tensor = to_tensor(name, value, n, dtype)
        if name in masks:
            tensor = blank(tensor, tensors[masks[name]])
        if seen and name in seen:
            mask = _seen_mask(name, seen[name], tensor)
            if name in masks:
                _require_agreement(name, mask, tensors[masks[name]])
            tensors[name + SEEN], along[name + SEEN] = mask, row_plate
            tensor = torch.where(tensors[name + SEEN], tensor, torch.zeros((), dtype=tensor.dtype))
        require_finite(name, tensor)
        tensors[name], along[name] = tensor, row_plate
    for name, pieces in (frames or {}).items():
        add_frames(tensors, along, name, pieces, n, dtype, row_plate)
        if name in masks:
            tensors[name] = blank(tensors[name], tensors[masks[name]].repeat_interleave(tensors["lengths"]))
    for group, values in (groups or {}).items():
        index, coords[group] = group_index(group, values, n, coords.get(group))
        tensors[group], along[group] = index, row_plate
        sizes[group] = len(coords[group])
        for name, value in (tables or {}).get(group, {}).items():
            tensors[name], along[name] = to_tensor(name, value, sizes[group], dtype), group
            require_finite(name, tensors[name])
    tensors[row_plate], along[row_plate] = torch.arange(n), row_plate
    sizes |= {stratum: len(positions) for stratum, positions in strata.items()}
    along |= truth_along or {}
    for name, value in (row_coords or {}).items():
        if name in {*coords, *tensors, *along, row_plate}:
            raise ValueError(f"row_coords: the name {name!r} is taken; choose another")
        coords[name], along[name] = to_names(value), row_plate
        if coords[name].shape != (n,):
            raise ValueError(f"row_coords: {name} has shape {coords[name].shape}, expected ({n},)")
        if name == TIME and pd.isna(coords[name]).any():
            row = int(pd.isna(coords[name]).argmax())
            raise ValueError(f"row_coords: {name}, entry {row}: the time is missing; give it or drop the row")
    return {
        "tensors": tensors, "along": along, "sizes": sizes, "rows": row_plate, "groups": tuple(groups or ()),
        "labels": masks, "strata": strata, "coords": coords, "dims": dims or {},
        "truth": {k: np.asarray(v) for k, v in (truth or {}).items()}, "info": info,
    }  # fmt: skip


def provenance(function: str, arguments: Iterable[str], given: Mapping[str, Any], own: Any) -> dict[str, Any]:
    """Facts about the data: those with a name of `PROVENANCE`, and `own`, a mapping with any others.

    Args:
        function: Name of the function that was called, for the message.
        arguments: Names of its other arguments, for the message.
        given: Keyword arguments that are none of these.
        own: The caller's ``info``.

    Raises:
        TypeError: A keyword argument is neither an argument nor provenance, or `own` is no mapping.
    """
    unknown = sorted(set(given) - set(PROVENANCE))
    if unknown:
        raise TypeError(
            f"{function}() has no argument {unknown[0]!r}; its arguments are {list(arguments)}, and facts about the "
            f"data are {list(PROVENANCE)}; give others as info={{{unknown[0]!r}: ...}}"
        )
    require_mapping("info", own)
    return {**given, **(own or {})}


def _seen_mask(name: str, value: Any, tensor: Tensor) -> Tensor:
    """A boolean tensor of the shape of `tensor`, True where its value is known."""
    mask = torch.as_tensor(value)
    if mask.dtype != torch.bool or mask.shape != tensor.shape:
        raise ValueError(
            f"seen[{name!r}]: {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}; give True or "
            f"False for each entry, {tuple(tensor.shape)}"
        )
    return mask


def _require_agreement(target: str, seen: Tensor, labelled: Tensor) -> None:
    """Refuse entries (N, D) of a target that are known in rows without a label, and labelled rows without any."""
    wrong = seen.reshape(len(seen), -1).any(1) != labelled
    if bool(wrong.any()):
        raise ValueError(
            f"seen[{target!r}], entry {int(wrong.nonzero()[0, 0])}: a row has a label where any of its entries is "
            f"known; give labels[{target!r}] that says so"
        )


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


def _number_of_rows(rows: Any, frames: Any) -> int:
    for what, value in (("rows", rows), ("frames", frames)):
        require_mapping(what, value)
    if not rows and not frames:
        raise ValueError("rows: there are no arrays; give at least one, or frames")
    name, value = next(iter((rows or frames).items()))
    try:
        n = len(value)
    except TypeError:
        raise TypeError(f"{name}: a {type(value).__name__} without a length; give one entry per row") from None
    if n == 0:
        raise ValueError("rows: there are no rows; give at least one")
    return n


def table_to_arrays(
    df: pd.DataFrame,
    unit: str,
    x: Sequence[str],
    y: str | Sequence[str] | None,
    units: Sequence[Any] | None,
    time: str | None,
    levels: Mapping[str, Sequence[Any]],
    dtype: torch.dtype | None,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of `Batch.from_arrays` from a data frame; arguments and errors are those of `Batch.from_dataframe`."""
    xs, ys = (name_list(what, given) for what, given in (("x", x), ("y", y)))
    if not xs:
        raise ValueError("x: name at least one input column")
    arrays = columns_to_arrays(
        df, groups={"unit": unit}, rows={"x": xs}, targets={"y": ys} if ys else {}, labels=True, dtype=dtype,
        names={} if units is None else {"unit": units}, dims={"x": ("input",), "y": ("target",)}, info=info,
        time=time, levels=levels,
    )  # fmt: skip
    arrays["coords"].setdefault("target", [])
    arrays["info"]["columns"].setdefault("y", [])
    return arrays


def name_list(what: str, given: Any) -> list[Any]:
    """Names of columns as a list: of one name, which may be a number, of several, or of None.

    Raises:
        TypeError: A set, which has no order.
    """
    if isinstance(given, Set):
        raise TypeError(f"{what}: a {type(given).__name__} has no order; give a list of columns")
    return [] if given is None else list(given) if pd.api.types.is_list_like(given) else [given]


def columns_to_arrays(
    df: pd.DataFrame,
    *,
    groups: Mapping[str, str],
    rows: Mapping[str, str | list[str]],
    targets: Mapping[str, str | list[str]],
    labels: bool,
    names: Mapping[str, Sequence[Any]],
    dims: Mapping[str, tuple[str, ...]],
    time: str | None,
    levels: Mapping[str, Sequence[Any]],
    dtype: torch.dtype | None,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of `Batch.from_arrays` from a data frame; arguments and errors are those of `Batch.from_columns`."""
    for group, column in groups.items():
        if pd.api.types.is_list_like(column) and not isinstance(column, tuple):
            raise TypeError(f"{group}: a {type(column).__name__}; give the name of the one column that holds it")
    columns = {**groups, **rows, **targets}
    listed = {name: own if isinstance(own, list) else [own] for name, own in columns.items()}
    inputs = [c for name in rows for c in listed[name]]
    beside = [time] if time is not None and time not in inputs else []
    check_columns(df, [c for name, own in listed.items() if labels or name not in targets for c in own] + beside)
    kind = floating(dtype)
    coords: dict[str, Any] = {"row": df.index.to_numpy()}
    for group, column in groups.items():
        missing = df[column].isna().to_numpy()
        if missing.any():
            raise ValueError(
                f"column {column!r}, row {first(df.index, missing)!r}: the {group} is missing; name it or drop the row"
            )
        if group in names:
            coords[group] = list(names[group])
        elif isinstance(df[column].dtype, pd.CategoricalDtype):
            coords[group] = df[column].cat.remove_unused_categories().cat.categories
    read = [name for name in (*rows, *targets) if labels or name not in targets]
    largest = torch.finfo(kind).max
    df, found = indicators(df, [c for name in rows if isinstance(rows[name], list) for c in listed[name]], levels)
    listed |= {name: [c for own in listed[name] for c in found.get(own, {own: own})] for name in rows}
    numbers = {name: numeric(df, listed[name], largest) for name in read}
    for name, values in numbers.items():  # after every cell was found to be a number
        for j, column in enumerate(listed[name]):
            check_precision(f"column {column!r}", values[:, j], kind)
    own_dims = dict(dims)
    arrays: dict[str, Any] = {}
    labelled: dict[str, np.ndarray] = {}
    seen: dict[str, Tensor] = {}
    for name in (*rows, *targets):
        several = isinstance(columns[name], list)
        if several:
            own_dims.setdefault(name, (f"{name}_column",))
            coords[own_dims[name][0]] = listed[name]
        if name not in numbers:
            array = torch.zeros(len(df), len(listed[name]), dtype=kind)
            labelled[name] = np.zeros(len(df), bool)
        else:
            array = torch.as_tensor(numbers[name])
            if name in targets:
                known = ~array.isnan()
                labelled[name] = known.any(1).numpy()
                if several and bool((known.any(1) & ~known.all(1)).any()):
                    seen[name] = known
            elif bool(array.isnan().any()):
                seen[name] = ~array.isnan() if several else ~array.isnan()[:, 0]
        arrays[name] = array.to(kind) if several else array.to(kind)[:, 0]
    return {
        "rows": arrays, "groups": {group: df[column].to_numpy() for group, column in groups.items()},
        "labels": labelled or None, "seen": seen or None, "coords": coords, "dtype": dtype, "dims": own_dims,
        "row_coords": None if time is None else {TIME: to_times(f"column {time!r}", df[time])},
        "info": {"name": "data frame", "simulated": False, **info, "columns": columns}
        | ({} if time is None else {"time": time})
        | ({"levels": {c: list(own.values()) for c, own in found.items()}} if found else {}),
    }  # fmt: skip


def mask_alias(target: str) -> str:
    """Name under which a model receives the mask of a target, whatever other targets there are."""
    return f"{target}_labelled"


def refuse_taken(what: str, names: Iterable[str], others: set[str], groups: Iterable[str] | None) -> None:
    """Refuse names that a batch uses for other things, e.g. ``weight`` or ``<group>_ids``."""
    own = {f"{group}{suffix}" for group in groups or () for suffix in ("", "_ids", "_weight")}
    for name in names:
        if name in {"sizes", "weight", "h", "lengths"} | own | others:
            raise ValueError(f"{what}: the name {name!r} is taken by Batch; choose another")


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


def add_frames(
    tensors: dict, along: dict, name: str, pieces: Sequence[Any], n: int, dtype: torch.dtype, row_plate: str
) -> None:
    """Add one ragged array per row to `tensors`: flat along its first axis, with ``lengths`` along the rows."""
    lengths = torch.tensor([len(piece) for piece in pieces])
    if len(lengths) != n:
        raise ValueError(f"{name}: {len(lengths)} recordings, expected {n}")
    if "lengths" in tensors and not torch.equal(tensors["lengths"], lengths):
        row = int((tensors["lengths"] != lengths).nonzero()[0, 0])
        raise ValueError(f"{name}, recording {row}: its length differs from the other frame arrays'")
    flat = np.concatenate([np.asarray(piece) for piece in pieces])
    tensors[name], along[name] = to_tensor(name, flat, int(lengths.sum()), dtype), FRAMES
    require_finite(name, tensors[name])
    tensors["lengths"], along["lengths"] = lengths, row_plate


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
