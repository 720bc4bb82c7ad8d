"""predict_rows(): predictions of tables larger than memory, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.batch import Batch
from ..inference.copies import run_seed
from ..inference.fitted import Fit, holds_group
from .predicting import predict


def predict_rows(
    fit: Fit, batch: Batch, *, rows: int = 10_000, seed: int = 0, **options: Any
) -> Iterator[pd.DataFrame]:
    """Predict as `pyrozoo.predict` does, `rows` rows at a time, in memory for these and their groups.

    A group that the guide is amortised over and that was in the training data keeps the support rows that it had there;
    a new one is known by those of its rows that are in the same part, so keep its rows together.

    Args:
        fit: The fit.
        batch: Data, on disk or not.
        rows: Rows of a part.
        seed: Of the draws; each part has its own.
        **options: Of `pyrozoo.predict`, e.g. ``draws``.

    Yields:
        The predictions of the next rows.
    """
    amortised = {group for group in getattr(fit.guide, "amortized", ()) if holds_group(fit.model, group)}
    places = {group: {name: i for i, name in enumerate(fit.prototype.coords[group].tolist())} for group in amortised}
    for i, start in enumerate(range(0, batch.n_rows, rows)):
        part = batch.subset(torch.arange(start, min(start + rows, batch.n_rows)))
        yield predict(_narrowed(fit, part, places), part, seed=run_seed(seed, i), **options)


def _narrowed(fit: Fit, part: Batch, places: dict[str, dict[Any, int]]) -> Fit:
    """The fit, of the groups that its guide is amortised over knowing only those of `part`: no draw is for others."""
    prototype = fit.prototype
    for group, place in places.items():
        known = np.array([place[name] for name in part.coords[group].tolist() if name in place], dtype=int)
        if not len(known):  # all of them are new: their positions are their own
            known = np.zeros(1, int)
        tensors = {
            k: v[torch.as_tensor(known, device=v.device)] if prototype.along[k] == group else v
            for k, v in prototype.tensors.items()
        }
        prototype = dataclasses.replace(
            prototype, tensors=tensors, sizes={**prototype.sizes, group: len(known)},
            coords={**prototype.coords, group: prototype.coords[group][known]},
        )  # fmt: skip
    return dataclasses.replace(fit, prototype=prototype)
