"""Scores with standard errors: each group is left out once, so that its rows need not be independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

Score = Callable[[np.ndarray], Any]


def totals(losses: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums over the rows of each group, and their number in the last column.

    Args:
        losses: What is summed, shape (N,) or (N, S).
        groups: Group of each row, shape (N,).

    Returns:
        Shape (G, S + 1).
    """
    rows = np.column_stack([np.asarray(losses, dtype=float).reshape(len(groups), -1), np.ones(len(groups))])
    codes = pd.factorize(np.asarray(groups))[0]
    out = np.zeros((codes.max() + 1, rows.shape[1]))
    np.add.at(out, codes, rows)
    return out


def mean_of(sums: np.ndarray) -> np.ndarray:
    """Mean of the first loss over all rows, from totals (..., S + 1)."""
    return sums[..., 0] / sums[..., -1]


def root_of(sums: np.ndarray) -> np.ndarray:
    """Root of that mean: an RMSE from squared errors."""
    return np.sqrt(mean_of(sums))


def with_error(score: Score, *parts: np.ndarray) -> tuple[float, float | None]:
    """A score, or the difference of the scores of two sets of totals, with its jackknife standard error over groups.

    Args:
        score: Function of the totals of all rows, shape (..., S + 1).
        *parts: One or two sets of totals by group, shape (G, S + 1), of the same groups in the same order.

    Returns:
        The score, or the first less the second, and its standard error; None with a single group.

    Raises:
        ValueError: The sets have different groups.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.criticism.jackknife import mean_of, totals, with_error
        >>> value, error = with_error(mean_of, totals(np.array([1.0, 3.0]), np.array(["a", "b"])))
        >>> value, round(error, 6)  # the standard error of a mean of two
        (2.0, 1.0)
    """
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"numbers of groups differ: {[len(part) for part in parts]}")

    def of(sums: list[np.ndarray]) -> np.ndarray:
        values = [np.asarray(score(one)) for one in sums]
        return values[0] if len(values) == 1 else values[0] - values[1]

    whole = [part.sum(0) for part in parts]
    value, n = float(of(whole)), len(parts[0])
    if n < 2:
        return value, None
    left_out = of([total - part for total, part in zip(whole, parts, strict=True)])
    return value, float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
