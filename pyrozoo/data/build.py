"""From arrays and data frames to the parts of a `Batch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .tables import check_columns, first, indicators, numeric
from .values import (
    SEEN,
    blank,
    check_precision,
    floating,
    group_index,
    name_list,
    require_finite,
    require_mapping,
    to_mask,
    to_names,
    to_seen_mask,
    to_tensor,
    to_times,
)

FRAMES = "frame"
TIME = "time"  # coordinate of the rows by which they are ordered
MAIN = "y"  # target whose mask is called ``labelled``, as is that of an only target
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
            mask = to_seen_mask(name, seen[name], tensor)
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


def _require_agreement(target: str, seen: Tensor, labelled: Tensor) -> None:
    """Refuse entries (N, D) of a target that are known in rows without a label, and labelled rows without any."""
    wrong = seen.reshape(len(seen), -1).any(1) != labelled
    if bool(wrong.any()):
        raise ValueError(
            f"seen[{target!r}], entry {int(wrong.nonzero()[0, 0])}: a row has a label where any of its entries is "
            f"known; give labels[{target!r}] that says so"
        )


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
