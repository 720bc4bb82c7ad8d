"""Scores of class probabilities, and their calibration; `pyrozoo.scores` has them, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn import metrics as sk

from .arguments import check_probabilities


def brier(truth: Any, prediction: Any, classes: Sequence | None = None) -> float:
    """Mean squared error of class probabilities (Brier score); lower is better.

    The sum over the classes, from 0 to 2; for two classes half of it, from 0 to 1, as is usual.

    Args:
        truth: True labels, shape (N,).
        prediction: Class probabilities, shape (N, C).
        classes: Label of each column; 0 ... C - 1 by default.

    Example:
        >>> import pyrozoo as zoo
        >>> probabilities = [[0.5, 0.5], [1.0, 0.0]]
        >>> zoo.scores.brier(["calm", "calm"], probabilities, classes=["calm", "stress"])
        0.125
    """
    codes, probabilities = check_probabilities(truth, prediction, classes)
    n_classes = probabilities.shape[1]
    # scikit-learn takes two classes as the probability of the second.
    answers = probabilities[:, 1] if n_classes == 2 else probabilities
    return float(sk.brier_score_loss(codes, answers, labels=np.arange(n_classes)))


def log_loss(truth: Any, prediction: Any, classes: Sequence | None = None) -> float:
    """Mean negative log probability of the right class, in nats per row; lower is better.

    A probability of 0 counts as the machine epsilon of its floating-point type, so that the score is finite.

    Args:
        truth: True labels, shape (N,).
        prediction: Class probabilities, shape (N, C).
        classes: Label of each column; 0 ... C - 1 by default.

    Example:
        >>> import pyrozoo as zoo
        >>> probabilities = [[0.5, 0.5], [0.25, 0.75]]
        >>> round(zoo.scores.log_loss(["calm", "stress"], probabilities, classes=["calm", "stress"]), 3)
        0.49
    """
    codes, probabilities = check_probabilities(truth, prediction, classes)
    return float(sk.log_loss(codes, probabilities, labels=np.arange(probabilities.shape[1])))


def ece(truth: Any, prediction: Any, classes: Sequence | None = None, bins: int = 10) -> float:
    """Expected calibration error of the most probable class, from 0 to 1; lower is better.

    Mean distance between confidence and accuracy over the bins of `reliability`, weighted by their numbers of rows (Guo
    et al. 2017, eq. 3). If bins have few rows, it is above 0 even for calibrated probabilities: compare models on the
    same rows.

    Args:
        truth: True labels, shape (N,).
        prediction: Class probabilities, shape (N, C).
        classes: Label of each column; 0 ... C - 1 by default.
        bins: Number of bins of equal width.

    Example:
        >>> import pyrozoo as zoo
        >>> always_sure = [[1.0, 0.0]] * 4
        >>> zoo.scores.ece([0, 0, 0, 1], always_sure)  # sure of all, right in three of four
        0.25
    """
    table = reliability(truth, prediction, classes, bins)
    return float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["count"]))


def reliability(truth: Any, prediction: Any, classes: Sequence | None = None, bins: int = 10) -> pd.DataFrame:
    """How often the most probable class is right, by its predicted probability (its confidence).

    Bins are of equal width, ((k - 1) / bins, k / bins], the most common choice; those without a row are left out.

    Args:
        truth: True labels, shape (N,).
        prediction: Class probabilities, shape (N, C).
        classes: Label of each column; 0 ... C - 1 by default.
        bins: Number of bins.

    Returns:
        One line per bin, indexed by its upper end: mean ``confidence``, ``accuracy``, ``lower`` and ``upper``, the 90 %
        interval of the accuracy by Wilson's score for independent rows, and ``count``.

    Raises:
        ValueError: ``bins`` is no whole number of at least 1, or another argument is wrong.

    Example:
        >>> import pyrozoo as zoo
        >>> probabilities = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
        >>> zoo.scores.reliability([0, 0, 0, 1], probabilities)[["confidence", "accuracy", "count"]]
             confidence  accuracy  count
        bin
        0.6         0.6       0.5      2
        0.9         0.9       1.0      2
    """
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
        raise ValueError(f"bins is {bins!r}: give a whole number of at least 1, such as 10")
    codes, probabilities = check_probabilities(truth, prediction, classes)
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    # Rounded, so that 0.6 lies in the same bin in single and in double precision.
    place = np.clip(np.ceil(np.round(confidence * bins, 6)), 1, bins)
    rows = pd.DataFrame({"confidence": confidence, "accuracy": probabilities.argmax(axis=1) == codes})
    parts = rows.groupby(pd.Index(place / bins, name="bin"))
    hits, count = parts["accuracy"].sum(), parts.size()
    ends = [binomtest(k, n).proportion_ci(0.9, method="wilson") for k, n in zip(hits, count, strict=True)]
    table = parts.mean().astype(float)
    return table.assign(lower=[end.low for end in ends], upper=[end.high for end in ends], count=count)
