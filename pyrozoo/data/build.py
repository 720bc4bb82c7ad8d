"""From arrays and data frames to the parts of a `Batch`, with errors that name the entry and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

FRAMES = "frame"


def _refuse_taken(what: str, names: Iterable[str], others: set[str], groups: Iterable[str] | None) -> None:
    """Refuse names that a batch uses for other things, e.g. ``weight`` or ``<group>_ids``."""
    own = {f"{group}{suffix}" for group in groups or () for suffix in ("", "_ids", "_weight")}
    for name in names:
        if name in {"sizes", "weight", "h", "lengths"} | own | others:
            raise ValueError(f"{what}: the name {name!r} is taken by Batch; choose another")


def _tensor(name: str, value: Any, n: int, dtype: torch.dtype) -> Tensor:
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.ascontiguousarray(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: not an array of numbers ({error})") from None
    if len(tensor) != n:
        raise ValueError(f"{name}: {len(tensor)} entries, expected {n}")
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _blank(tensor: Tensor, observed: Tensor) -> Tensor:
    """Set unobserved entries to zero: Pyro's validation rejects NaN even where it is masked."""
    mask = observed.reshape(observed.shape + (1,) * (tensor.dim() - 1))
    return torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def _require_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        first = (~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)).nonzero()[0, 0]
        raise ValueError(f"{name}, entry {int(first)}: not finite; impute it or drop the row")


def _add_frames(
    tensors: dict, along: dict, name: str, pieces: Sequence[Any], n: int, dtype: torch.dtype, row_plate: str
) -> None:
    lengths = torch.tensor([len(piece) for piece in pieces])
    if len(lengths) != n:
        raise ValueError(f"{name}: {len(lengths)} recordings, expected {n}")
    if "lengths" in tensors and not torch.equal(tensors["lengths"], lengths):
        row = int((tensors["lengths"] != lengths).nonzero()[0, 0])
        raise ValueError(f"{name}, recording {row}: its length differs from the other frame arrays'")
    flat = np.concatenate([np.asarray(piece) for piece in pieces])
    tensors[name], along[name] = _tensor(name, flat, int(lengths.sum()), dtype), FRAMES
    _require_finite(name, tensors[name])
    tensors["lengths"], along["lengths"] = lengths, row_plate


def _group_index(group: str, values: Any, n: int, names: np.ndarray | None) -> tuple[Tensor, np.ndarray]:
    values = _names(values)
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


def _names(values: Any) -> np.ndarray:
    """Array of names, each as it was given: NumPy alone would turn [1, "a"] into two strings, and tuples into rows."""
    if isinstance(values, Tensor):
        return values.cpu().numpy()
    return values if isinstance(values, np.ndarray) else pd.Index(list(values), tupleize_cols=False).to_numpy()
