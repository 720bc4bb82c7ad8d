"""Scores of predictions: plain functions of ``(truth, prediction)`` that return one float (`reliability` a table).

The first axis of every argument has N rows; a pandas Series is taken by position, whatever its index. Arguments of
different lengths, and empty, infinite or NaN values raise ``ValueError``: a score over the rows that are present would
hide what is missing. Scores of point predictions and labels are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import binomtest
from sklearn import metrics as sk


def rmse(truth: Any, prediction: Any) -> float:
    """Root mean squared error, in the unit of ``truth``.

    Args:
        truth: True values, shape (N,).
        prediction: Predicted values, shape (N,).

    Example:
        >>> import pyrozoo as zoo
        >>> round(zoo.scores.rmse([1.0, 2.0], [1.0, 4.0]), 3)
        1.414
    """
    return float(sk.root_mean_squared_error(*_numbers(truth=truth, prediction=prediction)))


def mae(truth: Any, prediction: Any) -> float:
    """Mean absolute error, in the unit of ``truth``.

    Args:
        truth: True values, shape (N,).
        prediction: Predicted values, shape (N,).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.mae([1.0, 2.0], [1.0, 4.0])
        1.0
    """
    return float(sk.mean_absolute_error(*_numbers(truth=truth, prediction=prediction)))


def mape(truth: Any, prediction: Any) -> float:
    """Mean absolute error relative to each truth, in percent.

    Args:
        truth: True values, shape (N,).
        prediction: Predicted values, shape (N,).

    Raises:
        ValueError: A truth is 0; the message names its row.

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.mape([1.0, 2.0], [1.0, 4.0])
        50.0
    """
    truth, prediction = _numbers(truth=truth, prediction=prediction)
    if zeros := np.flatnonzero(truth == 0).tolist():
        raise ValueError(f"mape divides by truth, which is 0 in row {zeros[0]} ({len(zeros)} rows in all): use wmape")
    return float(100.0 * sk.mean_absolute_percentage_error(truth, prediction))


def wmape(truth: Any, prediction: Any) -> float:
    """Sum of absolute errors relative to the sum of absolute truths, in percent.

    Args:
        truth: True values, shape (N,).
        prediction: Predicted values, shape (N,).

    Raises:
        ValueError: Every truth is 0.

    Example:
        Unlike `mape`, it may have truths that are 0:

        >>> import pyrozoo as zoo
        >>> zoo.scores.wmape([0.0, 2.0, 2.0], [1.0, 2.0, 1.0])
        50.0
    """
    truth, prediction = _numbers(truth=truth, prediction=prediction)
    total = np.abs(truth).sum()
    if total == 0:
        raise ValueError("wmape divides by the sum of |truth|, which is 0: use mae")
    return float(100.0 * np.abs(truth - prediction).sum() / total)


def r2(truth: Any, prediction: Any) -> float:
    """Share of the variance of ``truth`` that is explained: 1 is perfect, 0 as good as the mean, below 0 worse.

    Args:
        truth: True values, shape (N,).
        prediction: Predicted values, shape (N,).

    Raises:
        ValueError: Fewer than two rows, or a constant truth.

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.r2([1.0, 2.0, 3.0], [1.0, 2.0, 2.0])
        0.5
    """
    truth, prediction = _numbers(truth=truth, prediction=prediction)
    if truth.size < 2 or np.ptp(truth) == 0:
        raise ValueError("r2 needs at least two different truths: use rmse")
    return float(sk.r2_score(truth, prediction))


def crps_samples(truth: Any, prediction: Any) -> float:
    """Continuous ranked probability score of predictive draws, in the unit of ``truth``; lower is better.

    Mean over rows of ``E|X - y| - E|X - X'| / 2``, where X and X' are chosen independently from the row's S draws: the
    score of the empirical distribution. With one draw it is the absolute error.

    Args:
        truth: True values y, shape (N,).
        prediction: Draws, shape (N, S).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.crps_samples([0.0, 1.0], [[-1.0, 1.0], [1.0, 1.0]])
        0.25
    """
    draws = _finite(prediction, "prediction")
    if draws.ndim != 2 or draws.shape[1] == 0:
        raise ValueError(f"prediction has shape {draws.shape}: give draws as (rows, draws)")
    truth = _column(truth, "truth", len(draws))
    n_draws = draws.shape[1]
    # Over sorted draws, the sum of |x_i - x_j| over pairs i < j is the sum of (2 i - S + 1) x_i, i from 0.
    weights = 2 * np.arange(n_draws) - n_draws + 1
    half_spread = np.sort(draws, axis=1) @ weights / n_draws**2
    return float((np.abs(draws - truth[:, None]).mean(axis=1) - half_spread).mean())


def crps_normal(truth: Any, mean: Any, sd: Any) -> float:
    """Continuous ranked probability score of normal predictions, in the unit of ``truth``; lower is better.

    Args:
        truth: True values, shape (N,).
        mean: Predicted means, shape (N,).
        sd: Predicted standard deviations, shape (N,), positive.

    Example:
        >>> import pyrozoo as zoo
        >>> sure, unsure = zoo.scores.crps_normal([0.0], [2.0], [0.5]), zoo.scores.crps_normal([0.0], [2.0], [2.0])
        >>> sure > unsure  # a wrong prediction costs less with an honest standard deviation
        True
    """
    truth, mean, sd = _normals(truth, mean, sd)
    z = (truth - mean) / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return float((sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))).mean())


def nll_normal(truth: Any, mean: Any, sd: Any) -> float:
    """Mean negative log density of normal predictions, in nats per row; lower is better.

    Args:
        truth: True values, shape (N,).
        mean: Predicted means, shape (N,).
        sd: Predicted standard deviations, shape (N,), positive.

    Example:
        >>> import pyrozoo as zoo
        >>> round(zoo.scores.nll_normal([0.0, 1.0], [0.0, 0.5], [1.0, 1.0]), 3)
        0.981
    """
    truth, mean, sd = _normals(truth, mean, sd)
    return float((0.5 * ((truth - mean) / sd) ** 2 + np.log(sd) + 0.5 * np.log(2 * np.pi)).mean())


def coverage(truth: Any, lower: Any, upper: Any) -> float:
    """Share of truths inside their interval, ends included: near 0.9 for good 90 % intervals.

    Args:
        truth: True values, shape (N,).
        lower: Lower ends of the intervals, shape (N,).
        upper: Upper ends of the intervals, shape (N,).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.coverage([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0], [3.0, 3.0, 3.0, 3.0])
        0.75
    """
    truth, lower, upper = _intervals(truth, lower, upper)
    return float(((lower <= truth) & (truth <= upper)).mean())


def interval_width(truth: Any, lower: Any, upper: Any) -> float:
    """Mean width of the intervals, in the unit of ``truth``, which is only checked.

    Args:
        truth: True values, shape (N,); they do not change the result.
        lower: Lower ends of the intervals, shape (N,).
        upper: Upper ends of the intervals, shape (N,).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.interval_width([1.0, 2.0], [0.0, 1.0], [2.0, 5.0])
        3.0
    """
    _, lower, upper = _intervals(truth, lower, upper)
    return float((upper - lower).mean())


def interval_score(truth: Any, lower: Any, upper: Any, level: float = 0.9) -> float:
    """Mean width plus a penalty for each miss, in the unit of ``truth``; lower is better.

    A truth outside costs ``2 / (1 - level)`` times its distance from the interval, so that the true central interval
    is the best answer (Gneiting and Raftery 2007, eq. 43).

    Args:
        truth: True values, shape (N,).
        lower: Lower ends of the intervals, shape (N,).
        upper: Upper ends of the intervals, shape (N,).
        level: Nominal coverage of the intervals, in (0, 1).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.interval_score([1.0, 2.0], [0.0, 0.0], [2.0, 1.0], level=0.5)  # widths 2 and 1, one miss by 1
        3.5
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a nominal coverage between 0 and 1, such as 0.9")
    truth, lower, upper = _intervals(truth, lower, upper)
    miss = np.maximum(lower - truth, 0) + np.maximum(truth - upper, 0)
    return float((upper - lower + 2 / (1 - level) * miss).mean())


def accuracy(truth: Any, prediction: Any) -> float:
    """Share of rows with the right label.

    Args:
        truth: True labels, shape (N,).
        prediction: Predicted labels, shape (N,).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.accuracy(["calm", "calm", "stress", "stress"], ["calm", "calm", "calm", "stress"])
        0.75
    """
    return float(sk.accuracy_score(*_labels(truth, prediction)))


def balanced_accuracy(truth: Any, prediction: Any) -> float:
    """Recall averaged over the classes that occur in ``truth``.

    Args:
        truth: True labels, shape (N,).
        prediction: Predicted labels, shape (N,).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.balanced_accuracy(["calm", "calm", "calm", "stress"], ["calm", "calm", "calm", "calm"])
        0.5
    """
    truth, prediction = _labels(truth, prediction)
    # The same number as balanced_accuracy_score, which warns about a predicted class that has no truth.
    return float(sk.recall_score(truth, prediction, labels=np.unique(truth), average="macro", zero_division=0))


def macro_f1(truth: Any, prediction: Any) -> float:
    """F1 averaged over the classes that occur in ``truth`` or ``prediction``; a class never right counts 0.

    Args:
        truth: True labels, shape (N,).
        prediction: Predicted labels, shape (N,).

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.macro_f1(["calm", "calm", "stress", "stress"], ["calm", "stress", "calm", "stress"])
        0.5
    """
    return float(sk.f1_score(*_labels(truth, prediction), average="macro", zero_division=0))


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
    codes, probabilities = _probabilities(truth, prediction, classes)
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
    codes, probabilities = _probabilities(truth, prediction, classes)
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
    codes, probabilities = _probabilities(truth, prediction, classes)
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    # Rounded, so that 0.6 lies in the same bin in single and in double precision.
    place = np.clip(np.ceil(np.round(confidence * bins, 6)), 1, bins)
    rows = pd.DataFrame({"confidence": confidence, "accuracy": probabilities.argmax(axis=1) == codes})
    parts = rows.groupby(pd.Index(place / bins, name="bin"))
    hits, count = parts["accuracy"].sum(), parts.size()
    ends = [binomtest(k, n).proportion_ci(0.9, method="wilson") for k, n in zip(hits, count, strict=True)]
    table = parts.mean().astype(float)
    return table.assign(lower=[end.low for end in ends], upper=[end.high for end in ends], count=count)


def per_group(metric: Callable[..., float], truth: Any, prediction: Any, groups: Any, **options: Any) -> pd.Series:
    """One score per group, indexed by the sorted group names.

    Args:
        metric: A function of this module, or any function with the same arguments.
        truth: True values or labels, shape (N,).
        prediction: Array whose first axis has N rows, or a tuple of such arrays for a metric that takes several:
            ``per_group(coverage, truth, (lower, upper), groups)``.
        groups: Group of each row, shape (N,).
        **options: Further arguments of ``metric``.

    Raises:
        ValueError: Lengths differ, a row has no group, or a score cannot be computed; the message names the group.

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.per_group(zoo.scores.mae, [1.0, 2.0, 3.0], [1.0, 3.0, 6.0], ["a", "b", "b"]).to_list()
        [0.0, 2.0]
    """
    truth = np.asarray(truth)
    arguments = [np.asarray(a) for a in (prediction if isinstance(prediction, tuple) else (prediction,))]
    codes, names = pd.factorize(np.asarray(groups), sort=True)
    if any(len(a) != len(codes) for a in (truth, *arguments)):
        raise ValueError(f"{len(truth)} truths, {[len(a) for a in arguments]} predictions and {len(codes)} groups")
    if len(codes) == 0:
        raise ValueError("no rows to score")
    if missing := np.flatnonzero(codes < 0).tolist():
        raise ValueError(f"row {missing[0]} has no group ({len(missing)} rows in all)")
    scores = {}
    ends = np.cumsum(np.bincount(codes))[:-1]
    for name, rows in zip(names, np.split(np.argsort(codes, kind="stable"), ends), strict=True):
        try:
            scores[name] = metric(truth[rows], *(a[rows] for a in arguments), **options)
        except ValueError as error:
            raise ValueError(f"group {name}: {error}") from error
    return pd.Series(scores, name=getattr(metric, "__name__", None), dtype=float)


def summarise(scores: pd.Series) -> dict[str, float]:
    """Mean and 10th, 50th and 90th percentile of scores, for instance over units.

    Args:
        scores: One score per unit, e.g. of `per_group`.

    Example:
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> zoo.scores.summarise(pd.Series([1.0, 2.0, 3.0]))
        {'mean': 2.0, 'p10': 1.2, 'p50': 2.0, 'p90': 2.8}
    """
    values = _column(scores, "scores")
    p10, p50, p90 = np.percentile(values, [10, 50, 90])
    return {"mean": float(values.mean()), "p10": float(p10), "p50": float(p50), "p90": float(p90)}


def _finite(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError(f"{name} is empty")
    if not np.isfinite(array).all():
        first = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name} holds {array[tuple(first)]} in row {first[0]}: leave out rows that have no value")
    return array


def _column(values: Any, name: str, length: int | None = None) -> np.ndarray:
    array = _finite(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: give one number per row")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} has {len(array)} rows where {length} are expected")
    return array


def _numbers(**columns: Any) -> list[np.ndarray]:
    arrays = [_column(values, name) for name, values in columns.items()]
    if len({len(array) for array in arrays}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in zip(columns, arrays, strict=True))
        raise ValueError(f"numbers of rows differ: {lengths}")
    return arrays


def _normals(truth: Any, mean: Any, sd: Any) -> list[np.ndarray]:
    arrays = _numbers(truth=truth, mean=mean, sd=sd)
    if (bad := np.flatnonzero(arrays[2] <= 0)).size:
        raise ValueError(f"sd is {arrays[2][bad[0]]} in row {bad[0]}: it must be positive")
    return arrays


def _intervals(truth: Any, lower: Any, upper: Any) -> list[np.ndarray]:
    arrays = _numbers(truth=truth, lower=lower, upper=upper)
    if (bad := np.flatnonzero(arrays[1] > arrays[2])).size:
        raise ValueError(f"lower exceeds upper in row {bad[0]}: were they swapped?")
    return arrays


def _labels(truth: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
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


def _probabilities(truth: Any, prediction: Any, classes: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Position of each true label in ``classes``, and the checked probabilities."""
    probabilities = _finite(prediction, "prediction")
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"prediction has shape {probabilities.shape}: give (rows, classes), at least two classes")
    labels, _ = _labels(truth, np.zeros(len(probabilities)))
    if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise ValueError("prediction holds no probabilities: each row must be non-negative and sum to 1")
    known = pd.Index(np.arange(probabilities.shape[1]) if classes is None else classes)
    if len(known) != probabilities.shape[1]:
        raise ValueError(f"{len(known)} classes for {probabilities.shape[1]} columns of probabilities")
    codes = known.get_indexer(labels)
    if (codes < 0).any():
        raise ValueError(f"truth holds {labels[codes < 0][0]!r}, which is not among the classes {list(known)}")
    return codes, probabilities
