"""From arrays and data frames to the parts of a `Batch`, with errors that name the entry and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .tables import check_columns, first, numeric

FRAMES = "frame"


def arrays_to_parts(
    *,
    rows: Mapping[str, Any],
    groups: Mapping[str, Any] | None,
    tables: Mapping[str, Mapping[str, Any]] | None,
    frames: Mapping[str, Sequence[Any]] | None,
    labels: Mapping[str, Any] | None,
    row_plate: str,
    dims: Mapping[str, tuple[str, ...]] | None,
    coords: Mapping[str, Any] | None,
    truth: Mapping[str, Any] | None,
    truth_along: Mapping[str, str] | None,
    dtype: torch.dtype | None,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Fields of a full batch from arrays; arguments and errors are those of `Batch.from_arrays`."""
    dtype = dtype or torch.get_default_dtype()
    n = len(next(iter(rows.values()))) if rows else len(next(iter((frames or {}).values())))
    if n == 0:
        raise ValueError("rows: there are no rows; give at least one")
    tensors: dict[str, Tensor] = {}
    along: dict[str, str] = {}
    sizes = {row_plate: n}
    coords = {k: to_names(v) for k, v in (coords or {}).items()}
    strata: dict[str, Tensor] = {}
    masks: dict[str, str] = {}
    for target, mask in (labels or {}).items():
        name = "labelled" if not masks else f"{target}_labelled"
        observed = torch.as_tensor(np.asarray(mask, dtype=bool))
        if observed.shape != (n,):
            raise ValueError(f"labels[{target!r}]: shape {tuple(observed.shape)}, expected ({n},)")
        masks[target], tensors[name], along[name] = name, observed, row_plate
        strata |= {name: observed.nonzero()[:, 0], f"un{name}": (~observed).nonzero()[:, 0]}
    refuse_taken("rows", rows, {row_plate, *tensors}, groups)
    refuse_taken("frames", frames or {}, {row_plate, *tensors, *rows}, groups)
    for group, own in (tables or {}).items():
        refuse_taken(f"tables of {group}", own, {row_plate, *tensors, *rows, *(frames or {})}, groups)
    for name, value in rows.items():
        tensor = to_tensor(name, value, n, dtype)
        if name in masks:
            tensor = blank(tensor, tensors[masks[name]])
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
    return {
        "tensors": tensors, "along": along, "sizes": sizes, "rows": row_plate, "groups": tuple(groups or ()),
        "labels": masks, "strata": strata, "coords": coords, "dims": dims or {},
        "truth": {k: np.asarray(v) for k, v in (truth or {}).items()}, "info": info,
    }  # fmt: skip


def table_to_arrays(
    df: pd.DataFrame,
    unit: str,
    x: Sequence[str],
    y: str | Sequence[str] | None,
    units: Sequence[Any] | None,
    dtype: torch.dtype | None,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of `Batch.from_arrays` from a data frame; arguments and errors are those of `Batch.from_dataframe`."""
    xs, ys = [x] if isinstance(x, str) else list(x), [] if y is None else [y] if isinstance(y, str) else list(y)
    check_columns(df, unit, xs, ys)
    missing = df[unit].isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"column {unit!r}, row {first(df.index, missing)!r}: the unit is missing; name it or drop the row"
        )
    if units is None and isinstance(df[unit].dtype, pd.CategoricalDtype):
        units = df[unit].cat.categories
    largest = torch.finfo(dtype or torch.get_default_dtype()).max
    x_values, y_values = numeric(df, xs, largest), numeric(df, ys, largest, missing_allowed=True)
    observed = ~np.isnan(y_values)
    partial = observed.any(1) & ~observed.all(1)
    if partial.any():
        row = first(df.index, partial)
        raise ValueError(f"row {row!r}: some of the targets {ys} are missing and some are not; give all or none")
    coords: dict[str, Any] = {"input": xs, "target": ys, "row": df.index.to_numpy()}
    if units is not None:
        coords["unit"] = list(units)
    rows: dict[str, Any] = {"x": x_values}
    labels = None
    if ys:
        rows["y"], labels = y_values, {"y": observed.all(1)}
    info = {"name": "data frame", "simulated": False, **info, "columns": {"unit": unit, "x": xs, "y": ys}}
    return {
        "rows": rows, "groups": {"unit": df[unit].to_numpy()}, "labels": labels, "coords": coords, "dtype": dtype,
        "dims": {"x": ("input",), "y": ("target",)}, **info,
    }  # fmt: skip


def refuse_taken(what: str, names: Iterable[str], others: set[str], groups: Iterable[str] | None) -> None:
    """Refuse names that a batch uses for other things, e.g. ``weight`` or ``<group>_ids``."""
    own = {f"{group}{suffix}" for group in groups or () for suffix in ("", "_ids", "_weight")}
    for name in names:
        if name in {"sizes", "weight", "h", "lengths"} | own | others:
            raise ValueError(f"{what}: the name {name!r} is taken by Batch; choose another")


def to_tensor(name: str, value: Any, n: int, dtype: torch.dtype) -> Tensor:
    """The value as a tensor of n entries; floating values as `dtype`."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.ascontiguousarray(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: not an array of numbers ({error})") from None
    if len(tensor) != n:
        raise ValueError(f"{name}: {len(tensor)} entries, expected {n}")
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def blank(tensor: Tensor, observed: Tensor) -> Tensor:
    """Set unobserved entries to zero: Pyro's validation rejects NaN even where it is masked."""
    mask = observed.reshape(observed.shape + (1,) * (tensor.dim() - 1))
    return torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


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
        return torch.as_tensor(codes.astype(np.int64)), np.asarray(found)
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
