import types

import numpy as np
import pandas as pd
import pytest
import torch

import pyrozoo as zoo
from pyrozoo import Batch
from pyrozoo.criticism.conformal import Conformal, conformal, cross_conformal, rank
from pyrozoo.criticism.folds import fit_folds, fold_data, hold_out, label_folds
from pyrozoo.criticism.reweighting import predict_by_importance
from pyrozoo.criticism.scores import coverage, interval_score
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.posterior.columns import column, quantile_name

pytestmark = pytest.mark.usefixtures("double_precision")


def stub(value=0.0):
    """What calibration needs of a fit, with a constant for predictors to use."""
    model = types.SimpleNamespace(targets=("y",), enumerated=(), open_groups=())
    return types.SimpleNamespace(model=model, train=None, data={"sha256": ""}, value=value)


def rows(x, y, groups=None, observed=None):
    groups = {} if groups is None else {"groups": {"unit": groups}}
    observed = np.ones(len(y), bool) if observed is None else observed
    return Batch.from_arrays(rows={"x": x, "y": y}, labels={"y": observed}, **groups)


def overconfident(fitted, batch, seed=0, quantiles=()):
    """Means x + a constant, with standard deviations a fifth of the true 1 + |x|."""
    x = batch["x"].numpy()
    table = pd.DataFrame({"y.mean": x + fitted.value, "y.sd": 0.2 * (1 + np.abs(x))})
    for q in quantiles:
        table[column("y", quantile_name(q))] = table["y.mean"] + (q - 0.5) * table["y.sd"]
    return table


# ---------------------------------------------------------------- the quantile, by hand
def test_rank_is_the_finite_sample_quantile():
    assert [rank(9, 0.9), rank(4, 0.8), rank(10, 0.9), rank(99, 0.9), rank(1, 0.5)] == [9, 4, 10, 90, 1]
    assert rank(19, 0.55) == 11, "20 x 0.55 is 11.000000000000002 in floating point"
    with pytest.raises(ValueError, match=r"8 labels are too few to calibrate at level 0[.]9, which takes 9"):
        rank(8, 0.9)


@pytest.mark.parametrize("score", ["absolute", "normalised", "quantile"])
def test_ends_by_hand(score):
    x = np.array([0.0, 1.0, -1.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    error = np.array([1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0])
    held_out, new = rows(x, x + error), rows(np.array([2.0]), np.array([0.0]))
    sd, sd_new = 0.2 * (1 + np.abs(x)), 0.2 * 3.0
    found = conformal(stub(), held_out, level=(0.5, 0.85, 0.9), score=score, predictor=overconfident)
    table = found.predict(new)
    for level, k in ((0.5, 5), (0.85, 9), (0.9, 9)):
        half = {"absolute": np.abs(error), "normalised": np.abs(error) / sd}.get(score)
        unit = {"absolute": 1.0, "normalised": sd_new}.get(score, 1.0)
        base = 0.0
        if score == "quantile":
            half, base = np.abs(error) - level / 2 * sd, level / 2 * sd_new
        quantile = np.sort(half)[k - 1]
        assert found.quantiles.loc[level, 0] == pytest.approx(quantile, rel=1e-12)
        ends = table[[f"y.lower{level * 100:g}", f"y.upper{level * 100:g}"]].to_numpy()[0]
        assert ends == pytest.approx([2 - base - unit * quantile, 2 + base + unit * quantile], rel=1e-12)


def test_an_interval_shrunk_beyond_nothing_has_width_zero():
    def wide(fitted, batch, seed=0, quantiles=()):
        table = pd.DataFrame({"y.mean": np.zeros(batch.n_rows), "y.sd": np.ones(batch.n_rows)})
        half = np.where(batch["x"].numpy() > 0, 0.5, 5.0)
        return table.assign(**{"y.q05": 1 - half, "y.q95": 1 + half})

    held_out = rows(np.zeros(9), np.ones(9))
    table = conformal(stub(), held_out, score="quantile", predictor=wide).predict(rows(np.ones(1), np.ones(1)))
    assert table[["y.lower", "y.upper"]].to_numpy().tolist() == [[1.0, 1.0]]


def test_cross_ends_are_order_statistics_over_labels():
    rng = np.random.default_rng(0)
    fits = [stub(value) for value in (-0.3, 0.1, 0.4)]
    parts = [rows(rng.normal(size=n), rng.normal(size=n)) for n in (5, 4, 6)]
    new = rows(np.array([-1.0, 0.5]), np.zeros(2))
    found = cross_conformal(list(zip(fits, parts, strict=True)), level=0.8, predictor=overconfident)
    table = found.predict(new)
    for i, x in enumerate((-1.0, 0.5)):
        low, high = [], []
        for fitted, part in zip(fits, parts, strict=True):
            xs, ys = part["x"].numpy(), part["y"].numpy()
            for r in np.abs(ys - xs - fitted.value) / (0.2 * (1 + np.abs(xs))):
                low.append(x + fitted.value - r * 0.2 * (1 + abs(x)))
                high.append(x + fitted.value + r * 0.2 * (1 + abs(x)))
        # 16 x 0.8 = 12.8: the 13th of 15 from below, and from above
        assert table["y.lower"][i] == pytest.approx(sorted(low)[15 - 13], rel=1e-12)
        assert table["y.upper"][i] == pytest.approx(sorted(high)[13 - 1], rel=1e-12)
        assert table["y.mean"][i] == pytest.approx(x + np.mean([-0.3, 0.1, 0.4]), rel=1e-12)


# ---------------------------------------------------------------- coverage
@pytest.mark.parametrize("score", ["absolute", "normalised", "quantile"])
def test_coverage_is_nominal_over_repetitions_whatever_the_predictor(score):
    rng = np.random.default_rng(3)
    n, repetitions, n_test = 19, 200, 60
    inside, naive = [], []
    for _ in range(repetitions):
        x = rng.normal(size=n + n_test)
        y = x + 0.7 + (1 + np.abs(x)) * rng.standard_t(3, size=len(x))
        found = conformal(stub(), rows(x[:n], y[:n]), score=score, predictor=overconfident)
        table = found.predict(rows(x[n:], y[n:]))
        inside.append(coverage(y[n:], table["y.lower"], table["y.upper"]))
        naive.append(coverage(y[n:], *(table["y.mean"] + side * 1.645 * table["y.sd"] for side in (-1, 1))))
    assert np.mean(naive) < 0.35
    # 18 of 20: exactly 0.9; the tolerance is four standard errors of the mean over repetitions
    assert abs(np.mean(inside) - 0.9) < 4 * np.std(inside) / np.sqrt(repetitions) < 0.025


def test_cross_coverage_is_near_nominal():
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(150):
        y = rng.normal(size=25 + 40)
        fold = np.arange(25) % 5
        pairs = [(stub(y[:25][fold != k].mean()), rows(np.zeros(5), y[:25][fold == k])) for k in range(5)]
        found = cross_conformal(pairs, level=0.8, score="absolute", predictor=overconfident)
        table = found.predict(rows(np.zeros(40), y[25:]))
        inside.append(coverage(y[25:], table["y.lower"], table["y.upper"]))
    error = np.std(inside) / np.sqrt(len(inside))
    assert 0.8 - 4 * error < np.mean(inside) < 0.8 + 4 * error + 2 / 26


def test_coverage_table_against_scores():
    rng = np.random.default_rng(5)
    x, unit = rng.normal(size=60), np.repeat(["a", "b", "c"], 20)
    y = x + rng.normal(size=60) * np.repeat([0.1, 1.0, 3.0], 20)
    test = rows(x, y, unit, observed=np.arange(60) % 4 > 0)
    found = conformal(stub(), rows(x[::4], y[::4], unit[::4]), level=0.8, predictor=overconfident)
    line = found.coverage(test).iloc[0]
    keep = np.arange(60) % 4 > 0
    table = found.predict(test)[keep]
    low, high = table["y.lower"].to_numpy(), table["y.upper"].to_numpy()
    inside = (low <= y[keep]) & (y[keep] <= high)
    each = [inside[unit[keep] == name].mean() for name in "abc"]
    assert line["empirical"] == inside.mean()
    assert line["width"] == pytest.approx((high - low).mean())
    assert line["score"] == pytest.approx(interval_score(y[keep], low, high, level=0.8))
    assert [line["unit_sd"], line["unit_min"]] == pytest.approx([np.std(each), min(each)])
    assert found.labels.to_dict() == {"a": 5, "b": 5, "c": 5}
    assert "15 labels of 3 units" in repr(found)


# ---------------------------------------------------------------- labels that calibrate
def test_folds_deal_labels_evenly_within_groups():
    unit = np.repeat(np.arange(7), 9)
    batch = rows(np.arange(63.0), np.arange(63.0), unit, observed=np.arange(63) % 9 < 5)
    fold = label_folds(batch, 5, seed=1)
    assert ((fold >= 0) == batch.observed("y")).all()
    assert all(sorted(fold[(unit == u) & (fold >= 0)]) == [0, 1, 2, 3, 4] for u in range(7))
    assert (fold == label_folds(batch, 5, seed=1)).all()
    assert (fold != label_folds(batch, 5, seed=2)).any()
    assert max(np.bincount(label_folds(batch, 4, seed=0)[batch.observed("y")])) == 9  # 35 labels in 4 folds
    with pytest.raises(ValueError, match="between 2 and the number of labels, 35"):
        label_folds(batch, 36)


def test_held_out_labels_are_not_in_training():
    batch = rows(np.arange(20.0), np.arange(20.0), np.arange(20) % 2, observed=np.arange(20) < 10)
    pairs = fold_data(batch, 5)
    assert sorted(y for _, held_out in pairs for y in held_out["y"].tolist()) == list(range(10))
    for train, held_out in pairs:
        assert train.n_rows == 20
        assert train.sizes["labelled"] == 8
        assert held_out.n_rows == 2
        assert not train.observed("y")[held_out["x"].long()].any()
    train, held_out = hold_out(batch, inputs=False)
    assert train.n_rows == 18
    assert not set(train["x"].tolist()) & set(held_out["x"].tolist())


# ---------------------------------------------------------------- errors
def test_errors_name_what_is_wrong():
    x = np.arange(12.0)
    held_out = rows(x, x + 1)
    call = {"predictor": overconfident}
    with pytest.raises(ValueError, match="12 labels are too few"):
        conformal(stub(), held_out, level=0.95, **call)
    with pytest.raises(ValueError, match="no row has its 'y'"):
        conformal(stub(), held_out.hide(), **call)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal(stub(), held_out, level=90, **call)
    with pytest.raises(ValueError, match="none of"):
        conformal(stub(), held_out, score="signed", **call)
    with pytest.raises(ValueError, match="none of the model's targets"):
        conformal(stub(), held_out, target="k", **call)
    with pytest.raises(ValueError, match="no row has its 'y'"):
        conformal(stub(), held_out, **call).coverage(held_out.hide())
    with pytest.raises(ValueError, match="row 3: its predicted sd is not positive"):
        conformal(stub(), held_out, predictor=lambda f, b, seed: overconfident(f, b).assign(**{"y.sd": np.abs(x - 3)}))


def test_a_discrete_target_has_no_intervals():
    held_out = Batch.from_arrays(rows={"x": np.arange(9.0), "y": np.arange(9)}, labels={"y": np.ones(9, bool)})
    with pytest.raises(ValueError, match="'y' is discrete"):
        conformal(stub(), held_out, predictor=overconfident)


# ---------------------------------------------------------------- with real fits
@pytest.fixture(scope="module")
def wells(double_precision):
    train, test = simulate(n_units=6, n_labelled=5, n_unlabelled=10, n_test=20, seed=0)
    model = zoo.create_model("ssmtl", train, width=8, depth=1, c_dim=2)
    pairs = fit_folds(model, "paper", train, seed=3, steps=60, progress=False)
    return train, test, pairs


def test_a_real_fit_is_calibrated_reproducibly(wells):
    _, test, pairs = wells
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = conformal(*pairs[0], level=0.8, draws=20)
    tables = [conformal(*pairs[0], level=0.8, draws=20, seed=seed).predict(test) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], first.predict(test))
    assert (tables[0]["y.lower"] != tables[2]["y.lower"]).any()
    plain = zoo.predict(pairs[0][0], test, draws=20)
    pd.testing.assert_frame_equal(tables[0][plain.columns], plain)
    assert ((tables[0]["y.lower"] < plain["y.mean"]) & (plain["y.mean"] < tables[0]["y.upper"])).all()


def test_cross_conformal_of_real_fits(wells):
    train, test, pairs = wells
    found = cross_conformal(pairs, level=(0.5, 0.9), draws=20)
    assert isinstance(found, Conformal)
    assert found.n == 30
    assert len(found.fits) == 5
    table = found.predict(test)
    means = [zoo.predict(fitted, test, draws=20)["y.mean"] for fitted, _ in pairs]
    assert table["y.mean"].to_numpy() == pytest.approx(np.mean(means, axis=0))
    assert (table["y.upper90"] > table["y.upper50"]).all()
    assert found.coverage(test)["nominal"].tolist() == [0.5, 0.9]
    assert found.labels.to_dict() == dict.fromkeys(range(6), 5)
    with pytest.raises(ValueError, match="labels were in training"):
        conformal(pairs[0][0], train.subset(np.flatnonzero(pairs[0][0].train.observed("y"))))


def test_an_unseen_unit_is_refused_as_by_predict(wells):
    _, _, pairs = wells
    other, _ = simulate(n_units=9, n_labelled=5, n_unlabelled=1, n_test=2, seed=1)
    with pytest.raises(KeyError, match="unknown unit"):
        conformal(pairs[0][0], other, level=0.8)
    with pytest.raises(KeyError, match="unknown unit"):
        conformal(*pairs[0], level=0.8, draws=5).predict(other)


def test_components_are_calibrated_one_by_one():
    rng = np.random.default_rng(0)
    x, unit = rng.normal(size=(60, 1)), np.arange(60) % 3
    y = np.concatenate([x + 0.1 * rng.normal(size=(60, 1)), 5 * rng.normal(size=(60, 1))], axis=1)
    frame = pd.DataFrame({"u": unit, "x": x[:, 0], "a": y[:, 0], "b": y[:, 1]})
    batch = Batch.from_dataframe(frame, unit="u", x=["x"], y=["a", "b"])
    train, held_out = hold_out(batch, 3)
    model = zoo.create_model("ssmtl", train, variant="mtl", width=8, depth=1, c_dim=1)
    fitted = zoo.fit(model, "paper", train, steps=60, progress=False)
    found = conformal(fitted, held_out, level=0.8, draws=20, score="absolute")
    table, own = found.predict(batch), zoo.predict(fitted, held_out, draws=20)
    for j, name in enumerate("ab"):
        errors = np.sort(np.abs(held_out["y"].numpy()[:, j] - own[f"y[{name}].mean"]))
        assert found.quantiles.loc[0.8, j] == pytest.approx(errors[17 - 1])  # 21 x 0.8 = 16.8
        width = table[f"y[{name}].upper"] - table[f"y[{name}].lower"]
        assert width.to_numpy() == pytest.approx(2 * errors[16])
    assert found.coverage(batch)["component"].tolist() == ["y[a]", "y[b]"]
    assert found.n == 20
    with pytest.raises(ValueError, match="draws no 'y'"):
        predict_by_importance(fitted, batch)
