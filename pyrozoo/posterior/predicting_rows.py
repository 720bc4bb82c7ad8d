"""predict_rows(): predictions of tables larger than memory, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.batch import Batch
from ..inference.aligning import holds_group
from ..inference.copies import run_seed
from ..inference.fitted import Fit
from ..modeling.guides import declared
from .predicting import predict


def predict_rows(
    fit: Fit, batch: Batch, *, rows: int = 10_000, seed: int = 0, **options: Any
) -> Iterator[pd.DataFrame]:
    """Predict as `pyrozoo.predict` does, part by part, with memory for one part of `rows` rows and their groups.

    For a group over which the guide is amortised: if it was in the training data, it keeps the support rows that it had
    there; if it is new, only those of its rows that are in the same part inform its latents, so keep the rows of a new
    group together.

    Args:
        fit: The fit.
        batch: Data, on disk or not.
        rows: Number of rows per part.
        seed: Random seed for the draws; each part derives its own.
        **options: Arguments of `pyrozoo.predict`, e.g. ``draws``.

    Yields:
        Table of predictions for the next rows.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(300))
        >>> [len(table) for table in zoo.predict_rows(fit, data, rows=200, draws=10)]
        [200, 100]
    """
    amortised = {group for group in declared(fit.guide, "amortized") if holds_group(fit.model, group)}
    places = {group: {name: i for i, name in enumerate(fit.prototype.coords[group].tolist())} for group in amortised}
    for i, start in enumerate(range(0, batch.n_rows, rows)):
        part = batch.subset(torch.arange(start, min(start + rows, batch.n_rows)))
        yield predict(_narrowed(fit, part, places), part, seed=run_seed(seed, i), **options)


def _narrowed(fit: Fit, part: Batch, places: dict[str, dict[Any, int]]) -> Fit:
    """The fit, knowing only the groups in `part` where its guide is amortised over them, so that it draws no others."""
    prototype = fit.prototype
    for group, place in places.items():
        known = np.array([place[name] for name in part.coords[group].tolist() if name in place], dtype=int)
        if not len(known):  # all groups are new: one known group stays, so that the tables are not empty
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
