"""A batch as JSON facts beside its tensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import Batch
from .tensors import load_tensors


def _describe(batch: Batch) -> dict[str, Any]:
    coords = {k: _names_to_json(k, v) for k, v in batch.coords.items()}
    return {
        "along": dict(batch.along), "sizes": dict(batch.sizes), "rows": batch.rows, "groups": list(batch.groups),
        "labels": dict(batch.labels), "dims": {k: list(v) for k, v in batch.dims.items()},
        "info": copy.deepcopy(dict(batch.info)),
        "coords": coords,
    }  # fmt: skip


def _names_to_json(plate: str, names: np.ndarray) -> dict[str, Any]:
    values = names.astype(str).tolist() if names.dtype.kind in "mM" else names.tolist()
    for name in values:
        if not isinstance(name, str | int | float):
            kind = type(name).__name__
            raise ValueError(f"{plate} {name!r}: JSON cannot hold a {kind}; use text or numbers in the training data")
    return {"dtype": names.dtype.str, "names": values}


def _names_from_json(record: Mapping[str, Any]) -> np.ndarray:
    """Names with their types: numbers stay numbers, also next to text."""
    names = np.empty(len(record["names"]), dtype=object)
    names[:] = record["names"]
    return names.astype(record["dtype"])


def _read_prototype(path: Path) -> Batch:
    tensors, header = load_tensors(path)
    facts = json.loads(header["batch"])
    return Batch(
        tensors, facts["along"], facts["sizes"], facts["rows"], tuple(facts["groups"]), facts["labels"],
        coords={k: _names_from_json(v) for k, v in facts["coords"].items()},
        dims={k: tuple(v) for k, v in facts["dims"].items()}, info=facts["info"],
    )  # fmt: skip
