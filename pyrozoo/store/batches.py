"""A batch as one file: its tensors, with names, plates and provenance as JSON beside them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import Batch
from .tensors import load_tensors, save_tensors


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
    facts = json.loads(header["batch"])
    return Batch(
        tensors, facts["along"], facts["sizes"], facts["rows"], tuple(facts["groups"]), facts["labels"],
        coords={k: names_from_json(v) for k, v in facts["coords"].items()},
        dims={k: tuple(v) for k, v in facts["dims"].items()}, info=facts["info"],
    )  # fmt: skip


def names_to_json(plate: str, names: np.ndarray) -> dict[str, Any]:
    """Names along a plate as JSON holds them; times as text.

    Raises:
        ValueError: A name is neither text nor a number.
    """
    values = names.astype(str).tolist() if names.dtype.kind in "mM" else names.tolist()
    for name in values:
        if not isinstance(name, str | int | float):
            kind = type(name).__name__
            raise ValueError(f"{plate} {name!r}: JSON cannot hold a {kind}; use text or numbers in the training data")
    return {"dtype": names.dtype.str, "names": values}


def names_from_json(record: Mapping[str, Any]) -> np.ndarray:
    """Names with their types: numbers stay numbers, also next to text."""
    names = np.empty(len(record["names"]), dtype=object)
    names[:] = record["names"]
    return names.astype(record["dtype"])


def _facts(batch: Batch) -> dict[str, Any]:
    return {
        "along": dict(batch.along), "sizes": dict(batch.sizes), "rows": batch.rows, "groups": list(batch.groups),
        "labels": dict(batch.labels), "dims": {k: list(v) for k, v in batch.dims.items()},
        "info": copy.deepcopy(dict(batch.info)),
        "coords": {k: names_to_json(k, v) for k, v in batch.coords.items()},
    }  # fmt: skip
