"""Checks of the arguments of scores: each returns them as arrays, or raises ``ValueError`` with the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from ..data.batch import Batch
    from ..modeling.base import ZooModel


def target_of(model: ZooModel, target: str | None, fits: Callable[[str], bool] = lambda _: True) -> str:
    """The target that was given, or the model's first one that `fits`; without such a one its first."""
    if target is not None:
        return target
    if not model.targets:
        raise ValueError(
            f"target: {type(model).__name__} predicts no target; `log_density` scores what it observes, "
            "`draw` gives its latents"
        )
    return next(filter(fits, model.targets), model.targets[0])


def labelled_in(data: Batch) -> Callable[[str], bool]:
    """Whether some row of the data has its value of a target, by the target's name."""
    return lambda target: target in data.labels and bool(data.observed(target).any())


def check_finite(values: Any, name: str) -> np.ndarray:
    """Values as finite numbers, at least one, of any shape."""
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError(f"{name} is empty")
    if not np.isfinite(array).all():
        first = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name} holds {array[tuple(first)]} in row {first[0]}: leave out rows that have no value")
    return array


def check_column(values: Any, name: str, length: int | None = None) -> np.ndarray:
    """One number per row, shape (N,), of the given length."""
    array = check_finite(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: give one number per row")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} has {len(array)} rows where {length} are expected")
    return array


def check_numbers(**columns: Any) -> list[np.ndarray]:
    """Columns of numbers, each of shape (N,)."""
    arrays = [check_column(values, name) for name, values in columns.items()]
    if len({len(array) for array in arrays}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in zip(columns, arrays, strict=True))
        raise ValueError(f"numbers of rows differ: {lengths}")
    return arrays


def check_normals(truth: Any, mean: Any, sd: Any) -> list[np.ndarray]:
    """Truths, and means and positive standard deviations of normal predictions, each of shape (N,)."""
    arrays = check_numbers(truth=truth, mean=mean, sd=sd)
    if (bad := np.flatnonzero(arrays[2] <= 0)).size:
        raise ValueError(f"sd is {arrays[2][bad[0]]} in row {bad[0]}: it must be positive")
    return arrays


def check_intervals(truth: Any, lower: Any, upper: Any) -> list[np.ndarray]:
    """Truths, and ends of intervals in their order, each of shape (N,)."""
    arrays = check_numbers(truth=truth, lower=lower, upper=upper)
    if (bad := np.flatnonzero(arrays[1] > arrays[2])).size:
        raise ValueError(f"lower exceeds upper in row {bad[0]}: were they swapped?")
    return arrays


def check_labels(truth: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted labels, each of shape (N,)."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    for name, values in (("truth", truth), ("prediction", prediction)):
        if values.size == 0:
            raise ValueError(f"{name} is empty")
        if values.ndim != 1:
            raise ValueError(f"{name} has shape {values.shape}: give one label per row")
        if (missing := np.flatnonzero(pd.isna(values))).size:
            raise ValueError(f"{name} has no label in row {missing[0]}: leave out unlabelled rows")
    if len(truth) != len(prediction):
        raise ValueError(f"numbers of rows differ: truth {len(truth)}, prediction {len(prediction)}")
    return truth, prediction


def check_probabilities(truth: Any, prediction: Any, classes: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Position of each true label in ``classes``, and the checked probabilities."""
    probabilities = check_finite(prediction, "prediction")
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"prediction has shape {probabilities.shape}: give (rows, classes), at least two classes")
    labels, _ = check_labels(truth, np.zeros(len(probabilities)))
    if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise ValueError("prediction holds no probabilities: each row must be non-negative and sum to 1")
    known = pd.Index(np.arange(probabilities.shape[1]) if classes is None else classes)
    if len(known) != probabilities.shape[1]:
        raise ValueError(f"{len(known)} classes for {probabilities.shape[1]} columns of probabilities")
    codes = known.get_indexer(labels)
    if (codes < 0).any():
        raise ValueError(f"truth holds {labels[codes < 0][0]!r}, which is not among the classes {list(known)}")
    return codes, probabilities
