"""Scores against numbers worked out by hand, scikit-learn, and numerical integration."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from sklearn import metrics as sk

from pyrozoo.criticism.scores import (
    accuracy,
    balanced_accuracy,
    brier,
    coverage,
    crps_normal,
    crps_samples,
    ece,
    interval_score,
    interval_width,
    log_loss,
    macro_f1,
    mae,
    mape,
    per_group,
    r2,
    reliability,
    rmse,
    summarise,
    wmape,
)

TRUTH = [1.0, 2.0, 4.0]
PREDICTION = [1.5, 2.0, 3.0]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (rmse, np.sqrt((0.25 + 0 + 1) / 3)),
        (mae, 0.5),
        (mape, 100 * (0.5 + 0 + 0.25) / 3),
        (wmape, 100 * 1.5 / 7),
        (r2, 1 - 1.25 / (16 / 9 + 1 / 9 + 25 / 9)),
    ],
)
def test_point_scores_by_hand(metric, expected):
    score = metric(TRUTH, PREDICTION)
    assert type(score) is float
    assert score == pytest.approx(expected, abs=1e-12)


def test_interval_scores_by_hand():
    lower, upper = [0.0, 3.0, 3.0], [2.0, 5.0, 4.0]
    assert coverage(TRUTH, lower, upper) == pytest.approx(2 / 3)  # the end at 4 counts as inside
    assert interval_width(TRUTH, lower, upper) == pytest.approx(5 / 3)
    assert interval_score(TRUTH, lower, upper, level=0.8) == pytest.approx((2 + (2 + 10 * 1) + 1) / 3)


def test_true_interval_has_the_best_interval_score():
    truth = np.random.default_rng(0).normal(size=20_000)

    def score(half_width):
        ends = np.full_like(truth, half_width)
        return interval_score(truth, -ends, ends, level=0.9)

    best = score(stats.norm.ppf(0.95))
    assert best < score(1.4)
    assert best < score(1.9)


def test_normal_crps():
    truth, mean, sd = np.array([0.3, -1.0]), np.array([0.0, 0.5]), np.array([0.7, 2.0])

    def squared_distance(y, m, s):
        below = integrate.quad(lambda t: stats.norm.cdf(t, m, s) ** 2, m - 12 * s, y)[0]
        return below + integrate.quad(lambda t: stats.norm.sf(t, m, s) ** 2, y, m + 12 * s)[0]

    expected = np.mean([squared_distance(*row) for row in zip(truth, mean, sd, strict=True)])
    assert crps_normal(truth, mean, sd) == pytest.approx(expected, abs=1e-6)


def test_crps_of_draws_equals_the_double_sum_over_pairs():
    rng = np.random.default_rng(1)
    truth, draws = rng.normal(size=5), rng.normal(size=(5, 7))
    pairs = np.abs(draws[:, :, None] - draws[:, None, :]).mean(axis=(1, 2))
    expected = (np.abs(draws - truth[:, None]).mean(axis=1) - pairs / 2).mean()
    assert crps_samples(truth, draws) == pytest.approx(expected, abs=1e-12)


def test_crps_of_draws_tends_to_the_normal_one_and_one_draw_is_the_absolute_error():
    rng = np.random.default_rng(2)
    truth = np.array([0.0, 2.0])
    draws = rng.normal(1.0, 2.0, size=(2, 20_000))
    expected = crps_normal(truth, np.ones(2), np.full(2, 2.0))
    assert crps_samples(truth, draws) == pytest.approx(expected, abs=0.03)
    assert crps_samples(TRUTH, np.array(PREDICTION)[:, None]) == pytest.approx(mae(TRUTH, PREDICTION))


def test_label_scores():
    truth = ["a", "a", "a", "b", "b", "c"]
    prediction = ["a", "a", "b", "b", "c", "d"]
    assert accuracy(truth, prediction) == pytest.approx(3 / 6)
    assert balanced_accuracy(truth, prediction) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert macro_f1(truth, prediction) == pytest.approx((0.8 + 0.5 + 0 + 0) / 4)
    seen = np.array(["a", "a", "b", "b", "c", "a"])
    assert balanced_accuracy(truth, seen) == pytest.approx(sk.balanced_accuracy_score(truth, seen))


def test_probability_scores_by_hand_with_unsorted_classes():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6]])
    truth = ["walk", "sit"]
    classes = ["walk", "run", "sit"]
    assert log_loss(truth, probabilities, classes) == pytest.approx(-(np.log(0.7) + np.log(0.6)) / 2)
    assert brier(truth, probabilities, classes) == pytest.approx((0.14 + 0.24) / 2)


def test_two_class_brier_is_the_usual_one():
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    assert brier([0, 1, 1], probabilities) == pytest.approx((0.04 + 0.16 + 0.81) / 3)
    assert log_loss([1, 1, 1], probabilities) == pytest.approx(-np.log([0.2, 0.6, 0.1]).mean())


def test_calibration_error_by_hand_in_bins_of_equal_width():
    """Confidences 0.6, 0.6 | 0.9, 0.9, 0.81 with one right of two and two of three; the truth "c" is never probable."""
    probabilities = [[0.6, 0.4, 0], [0.4, 0.6, 0], [0.9, 0.1, 0], [0.05, 0.9, 0.05], [0.19, 0.81, 0]]
    truth, classes = ["b", "c", "b", "a", "c"], ["b", "a", "c"]
    table = reliability(truth, probabilities, classes)
    assert list(table.index) == pytest.approx([0.6, 0.9])  # a bin holds its upper end
    np.testing.assert_allclose(table["confidence"], [0.6, 0.87])
    np.testing.assert_allclose(table["accuracy"], [1 / 2, 2 / 3])
    assert table["count"].tolist() == [2, 3]
    expected = (2 * 0.1 + 3 * (0.87 - 2 / 3)) / 5
    assert ece(truth, probabilities, classes) == pytest.approx(expected)
    assert type(ece(truth, probabilities, classes)) is float
    assert ece(truth, probabilities, classes, bins=1) == pytest.approx(abs(3.81 / 5 - 3 / 5))


def test_precision_does_not_move_a_row_to_another_bin():
    top = np.linspace(0.5, 1, 51)
    probabilities, truth = np.stack([top, 1 - top], 1), np.zeros(51)
    counts = reliability(truth, probabilities)["count"]
    assert counts.tolist() == [1, 10, 10, 10, 10, 10]
    assert reliability(truth, probabilities.astype(np.float32))["count"].tolist() == counts.tolist()


def test_honest_probabilities_are_calibrated_and_sure_ones_are_not():
    rng = np.random.default_rng(4)
    probabilities = rng.dirichlet([0.5, 0.5, 0.5], 20_000)
    truth = (rng.random((20_000, 1)) > probabilities.cumsum(1)).sum(1)
    assert ece(truth, probabilities) < 0.01
    sharp = probabilities**3 / (probabilities**3).sum(1, keepdims=True)
    assert ece(truth, sharp) > 0.08
    table = reliability(truth, probabilities)
    assert ((table["lower"] <= table["accuracy"]) & (table["accuracy"] <= table["upper"])).all()
    share, _, _, upper, count = table[["accuracy", "confidence", "lower", "upper", "count"]].iloc[-1]
    half = 1.6448536 * np.sqrt(share * (1 - share) / count + 1.6448536**2 / (4 * count**2))
    assert upper == pytest.approx((share + 1.6448536**2 / (2 * count) + half) / (1 + 1.6448536**2 / count))
    assert table["count"].sum() == 20_000


def test_scores_per_group_and_their_summary():
    groups = ["w2", "w1", "w2"]
    scores = per_group(mae, TRUTH, PREDICTION, groups)
    pd.testing.assert_series_equal(scores, pd.Series({"w1": 0.0, "w2": 0.75}, name="mae"))
    inside = per_group(coverage, TRUTH, ([0, 0, 0], [1.5, 1.5, 5]), groups)
    assert inside.to_dict() == {"w1": 0.0, "w2": 1.0}
    draws = np.array(PREDICTION)[:, None]
    assert per_group(crps_samples, TRUTH, draws, groups)["w2"] == pytest.approx(0.75)
    assert summarise(pd.Series(np.arange(11.0))) == {"mean": 5.0, "p10": 1.0, "p50": 5.0, "p90": 9.0}


def test_group_scores_agree_with_pandas():
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"g": rng.integers(0, 40, 500), "y": rng.normal(size=500), "p": rng.normal(size=500)})
    expected = ((table["y"] - table["p"]) ** 2).groupby(table["g"]).mean() ** 0.5
    scores = per_group(rmse, table["y"], table["p"], table["g"])
    np.testing.assert_allclose(scores, expected)
    assert list(scores.index) == list(expected.index)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rmse([1.0], [1.0, 2.0]), "rows differ: truth 1, prediction 2"),
        (lambda: rmse([], []), "truth is empty"),
        (lambda: mae([1.0, 2.0], [1.0, np.nan]), "prediction holds nan in row 1"),
        (lambda: mae([[1.0]], [[1.0]]), "one number per row"),
        (lambda: mape([1.0, 0.0], [1.0, 1.0]), "0 in row 1"),
        (lambda: wmape([0.0], [1.0]), "use mae"),
        (lambda: r2([1.0, 1.0], [1.0, 2.0]), "two different truths"),
        (lambda: crps_samples([1.0, 2.0], [1.0, 2.0]), "rows, draws"),
        (lambda: crps_samples([1.0, 2.0], np.zeros((5, 2))), "truth has 2 rows where 5"),
        (lambda: crps_normal([1.0], [1.0], [0.0]), "must be positive"),
        (lambda: coverage([1.0], [2.0], [0.0]), "lower exceeds upper in row 0"),
        (lambda: interval_score([1.0], [0.0], [2.0], level=90), "between 0 and 1"),
        (lambda: accuracy(["a", None], ["a", "b"]), "no label in row 1"),
        (lambda: accuracy(["a"], ["a", "b"]), "rows differ"),
        (lambda: macro_f1([], []), "truth is empty"),
        (lambda: brier([0, 1], [[0.5, 0.6], [0.5, 0.5]]), "sum to 1"),
        (lambda: log_loss([0, 5], [[0.5, 0.5], [0.5, 0.5]]), "not among the classes"),
        (lambda: log_loss([0], [[0.5, 0.5]], ["a"]), "1 classes for 2 columns"),
        (lambda: log_loss([0], [0.5]), "at least two classes"),
        (lambda: ece([0, 5], [[0.5, 0.5], [0.5, 0.5]]), "not among the classes"),
        (lambda: ece([0], [[0.5, 0.6]]), "sum to 1"),
        (lambda: ece([0], [[0.5, 0.5]], bins=0), "bins is 0: give a whole number of at least 1"),
        (lambda: reliability([0], [[0.5, 0.5]], bins=2.5), "bins is 2.5"),
        (lambda: per_group(rmse, [1.0], [1.0], ["a", "b"]), "2 groups"),
        (lambda: per_group(rmse, [], [], []), "no rows"),
        (lambda: per_group(rmse, [1.0, 2.0], [1.0, 2.0], ["a", None]), "row 1 has no group"),
        (lambda: per_group(mape, [1.0, 0.0], [1.0, 1.0], ["a", "b"]), "group b: mape"),
        (lambda: summarise(pd.Series([1.0, np.nan])), "scores holds nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
