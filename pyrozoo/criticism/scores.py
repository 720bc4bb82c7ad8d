"""Scores of predictions: functions of ``(truth, prediction)`` that return a float; `reliability` and `pit` return more.

The first axis of every argument has N rows; a pandas Series is taken by position, whatever its index. Arguments of
different lengths, and empty, infinite or NaN values raise ``ValueError``: a score over the rows that are present would
hide what is missing. Scores of point predictions and labels are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr
from sklearn import metrics as sk

from .arguments import check_column, check_finite, check_intervals, check_labels, check_normals, check_numbers
from .class_scores import brier, ece, log_loss, reliability

__all__ = [
    "accuracy", "balanced_accuracy", "brier", "coverage", "crps_by_row", "crps_normal", "crps_samples", "ece",
    "interval_score", "interval_width", "log_loss", "macro_f1", "mae", "mape", "per_group", "pit", "r2",
    "reliability", "rmse", "summarise", "wmape",
]  # fmt: skip


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
    return float(sk.root_mean_squared_error(*check_numbers(truth=truth, prediction=prediction)))


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
    return float(sk.mean_absolute_error(*check_numbers(truth=truth, prediction=prediction)))


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
    truth, prediction = check_numbers(truth=truth, prediction=prediction)
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
    truth, prediction = check_numbers(truth=truth, prediction=prediction)
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
    truth, prediction = check_numbers(truth=truth, prediction=prediction)
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
    return float(crps_by_row(truth, prediction).mean())


def crps_by_row(truth: Any, prediction: Any) -> np.ndarray:
    """Continuous ranked probability score of each row's predictive draws, see `crps_samples`.

    Args:
        truth: True values y, shape (N,).
        prediction: Draws, shape (N, S).

    Returns:
        Shape (N,), in the unit of ``truth``.

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.scores.crps_by_row([0.0, 1.0], [[-1.0, 1.0], [1.0, 1.0]]).tolist()
        [0.5, 0.0]
    """
    draws = check_finite(prediction, "prediction")
    if draws.ndim != 2 or draws.shape[1] == 0:
        raise ValueError(f"prediction has shape {draws.shape}: give draws as (rows, draws)")
    truth = check_column(truth, "truth", len(draws))
    n_draws = draws.shape[1]
    # Over sorted draws, the sum of |x_i - x_j| over pairs i < j is the sum of (2 i - S + 1) x_i, i from 0.
    weights = 2 * np.arange(n_draws) - n_draws + 1
    half_spread = np.sort(draws, axis=1) @ weights / n_draws**2
    return np.abs(draws - truth[:, None]).mean(axis=1) - half_spread


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
    truth, mean, sd = check_normals(truth, mean, sd)
    z = (truth - mean) / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return float((sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))).mean())


def pit(truth: Any, prediction: Any, seed: int = 0) -> np.ndarray:
    """Randomised probability integral transform of each truth among its predictive draws, shape (N,), in (0, 1).

    The rank of the truth among its S draws, with ties and the place between two draws chosen at random: exactly uniform
    if truth and draws have one distribution, also for counts (Czado, Gneiting and Held 2009).

    Args:
        truth: True values, shape (N,).
        prediction: Draws, shape (N, S).
        seed: Random seed.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> rng = np.random.default_rng(0)
        >>> u = zoo.scores.pit(rng.poisson(2.0, size=1000), rng.poisson(2.0, size=(1000, 99)))
        >>> np.histogram(u, bins=4, range=(0, 1))[0].tolist()
        [236, 261, 267, 236]
    """
    draws = check_finite(prediction, "prediction")
    if draws.ndim != 2 or draws.shape[1] == 0:
        raise ValueError(f"prediction has shape {draws.shape}: give draws as (rows, draws)")
    truth = check_column(truth, "truth", len(draws))[:, None]
    below, ties = (draws < truth).sum(1), (draws == truth).sum(1)
    return (below + np.random.default_rng(seed).random(len(draws)) * (ties + 1)) / (draws.shape[1] + 1)


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
    truth, lower, upper = check_intervals(truth, lower, upper)
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
    _, lower, upper = check_intervals(truth, lower, upper)
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
    truth, lower, upper = check_intervals(truth, lower, upper)
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
    return float(sk.accuracy_score(*check_labels(truth, prediction)))


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
    truth, prediction = check_labels(truth, prediction)
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
    return float(sk.f1_score(*check_labels(truth, prediction), average="macro", zero_division=0))


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
    values = check_column(scores, "scores")
    p10, p50, p90 = np.percentile(values, [10, 50, 90])
    return {"mean": float(values.mean()), "p10": float(p10), "p50": float(p50), "p90": float(p90)}
