"""What predictions are scored against: the observed rows and components of a target, in its units."""

from __future__ import annotations

import numpy as np

from ..data.batch import Batch
from ..data.values import SEEN
from ..inference.fitted import Fit
from ..posterior.new_groups import ready
from ..posterior.target_draws import observed_target


def rows_with(test: Batch, target: str) -> np.ndarray:
    """Where a target is observed, (N,); nowhere in data that do not hold it."""
    return test.observed(target) if target in test.labels else np.zeros(test.n_rows, bool)


def rows_to_score(test: Batch, target: str) -> np.ndarray:
    """Where a target is observed, (N,)."""
    seen = rows_with(test, target)
    if not seen.any():
        raise ValueError(f"no row of the test data has its {target!r}, so there is nothing to score")
    return seen


def truth_of(fit: Fit, test: Batch, target: str, seen: np.ndarray) -> np.ndarray:
    """What the model observes of a target of numbers on the rows `seen`, (n, J); NaN in components that a row lacks."""
    value = observed_target(*ready(fit, test), target).double().cpu().numpy()[seen].reshape(seen.sum(), -1)
    entries = entries_of(test, target)
    if np.isnan(value[test.observed(target)[seen]]).any():
        raise ValueError(f"target: the model observes values of {target!r} that are no numbers (NaN)")
    return value if entries is None else np.where(entries[seen], value, np.nan)


def known_sum(density: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Sum over the components that each row has, (n,), of log densities (n, J) of the truth, NaN where unknown."""
    return np.where(np.isnan(truth), 0.0, density).sum(1)


def entries_of(test: Batch, target: str) -> np.ndarray | None:
    """Which components (N, J) rows have of a target that some have in part; None where rows have all or none."""
    return test.known(target) if target + SEEN in test.tensors else None
