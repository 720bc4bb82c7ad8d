"""Gaps in a table of numbers, filled from the rows that are most alike."""

from __future__ import annotations

import numpy as np

NEIGHBOURS, MOST = 5, 10_000  # rows that fill a gap, and rows at most among which they are sought


def fill_from_neighbours(x: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Fill each gap with the mean of the five nearest rows that have a value there, weighted by 1 / distance.

    The distance of two rows is Euclidean over the columns that both have, scaled up to all columns (scikit-learn's
    `KNNImputer`); columns should therefore have like scales.

    Args:
        x: Rows, (N, D), NaN where a value is missing.
        among: Rows among which the nearest are sought, (R, D), NaN likewise. A column without a value there is filled
            with 0.

    Returns:
        The rows without gaps, (N, D). Rows without a gap are as they were.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.data.neighbours import fill_from_neighbours
        >>> known = np.array([[0.0, 1.0], [0.0, 1.0], [9.0, 4.0]])
        >>> fill_from_neighbours(np.array([[0.0, np.nan]]), known).tolist()
        [[0.0, 1.0]]
    """
    holes = np.isnan(x).any(1)
    if not holes.any():
        return x
    from sklearn.impute import KNNImputer  # half a second, needed by tables with gaps alone

    imputer = KNNImputer(n_neighbors=NEIGHBOURS, weights="distance", keep_empty_features=True).fit(among)
    out = x.copy()
    out[holes] = imputer.transform(x[holes])
    return out
