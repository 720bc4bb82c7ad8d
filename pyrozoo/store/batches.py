"""A batch as one file: its tensors, with names, plates and provenance as JSON beside them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.batch import Batch
from ..files import one_line
from .tensors import load_tensors, save_tensors

_NAMES = r"[<>|=]?([biuf]\d{1,2}|O|[US]\d{1,9}|M8(\[\w+\])?)"  # types of names along a plate


def save_batch(path: Path, batch: Batch) -> None:
    """Write a batch to one safetensors file; truth and strata are left out.

    Raises:
        ValueError: A name along a plate or dimension that JSON cannot hold.
    """
    save_tensors(path, batch.tensors, {"batch": json.dumps(_facts(batch))})


def load_batch(path: Path) -> Batch:
    """Read what `save_batch` wrote.

    Raises:
        ValueError: Truncated, or not such a file.
    """
    tensors, header = load_tensors(path)
    try:
        facts = json.loads(header["batch"])
        batch = Batch(
            tensors, facts["along"], facts["sizes"], facts["rows"], tuple(facts["groups"]), facts["labels"],
            coords={k: names_from_json(v) for k, v in facts["coords"].items()},
            dims={k: tuple(v) for k, v in facts["dims"].items()}, info=facts["info"],
        )  # fmt: skip
        _check(batch)
    except Exception as error:  # text of any kind may stand there, in place of what `save_batch` wrote
        raise ValueError(f"{path}: not a batch ({type(error).__name__}: {one_line(error)[:200]})") from error
    return batch


def _check(batch: Batch) -> None:
    """Refuse a batch whose parts do not belong together.

    Raises:
        ValueError: A tensor, its plate, the plate's size and its names do not agree.
    """
    sizes, plates = batch.sizes, {batch.rows, *batch.groups}
    if not all(type(size) is int and size >= 0 for size in sizes.values()) or not plates <= set(sizes):
        raise ValueError("sizes are not those of its plates")
    if not {*plates, *batch.labels.values()} <= set(batch.tensors) <= set(batch.along):
        raise ValueError("it lacks a tensor")
    for group in batch.groups:
        index = batch.tensors[group]
        held = {len(v) for k, v in batch.tensors.items() if batch.along.get(k) == group}
        if group in batch.coords:
            held |= {len(batch.coords[group])}
        if index.shape != (batch.n_rows,) or index.dtype != torch.int64 or not held <= {sizes[group]}:
            raise ValueError(f"its {group}s are not the {sizes[group]} that it declares")
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < sizes[group]):
            raise ValueError(f"a row of no known {group}")


def names_to_json(plate: str, names: np.ndarray) -> dict[str, Any]:
    """Names along a plate as JSON holds them; times as text.

    Raises:
        ValueError: A name is neither text nor a number nor a time.
    """
    values = names.astype(str if names.dtype.kind == "M" else object).tolist()
    for name in values:
        if not isinstance(name, str | int | float):
            kind = type(name).__name__
            raise ValueError(f"{plate} {name!r}: JSON cannot hold a {kind}; use text or numbers in the training data")
    return {"dtype": names.dtype.str, "names": values}


def names_from_json(record: Mapping[str, Any]) -> np.ndarray:
    """Names with their types: numbers stay numbers, also next to text.

    Raises:
        ValueError: Not a list of names, or the type is none that names have.
    """
    found, dtype = record["names"], str(record["dtype"])
    scalar = isinstance(found, list) and all(isinstance(name, str | int | float) for name in found)
    if not scalar or not re.fullmatch(_NAMES, dtype):
        raise ValueError(f"names of type {dtype[:60]!r}; they are text, numbers or times")
    names = np.empty(len(found), dtype=object)
    names[:] = found
    kind = np.dtype(dtype)
    if kind.kind in "US":  # any width can be declared, and that much memory would be taken for every name
        longest = max((len(str(name)) for name in found), default=0)
        kind = np.dtype(f"{kind.kind}{max(1, min(longest, kind.itemsize // np.dtype(f'{kind.kind}1').itemsize))}")
    return names.astype(kind)


def _facts(batch: Batch) -> dict[str, Any]:
    return {
        "along": dict(batch.along), "sizes": dict(batch.sizes), "rows": batch.rows, "groups": list(batch.groups),
        "labels": dict(batch.labels), "dims": {k: list(v) for k, v in batch.dims.items()},
        "info": copy.deepcopy(dict(batch.info)),
        "coords": {k: names_to_json(k, v) for k, v in batch.coords.items()},
    }  # fmt: skip
