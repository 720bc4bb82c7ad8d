import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import pyrozoo as zoo
from pyrozoo.criticism.importance import log_density
from pyrozoo.experiments.running import run
from pyrozoo.inference.copies import default_dtype
from pyrozoo.models.ssmtl.data.datasets import dryer
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.entry import tiny
from pyrozoo.models.ssmtl.experiments import faults
from pyrozoo.models.ssmtl.uses.surveillance import alarm_threshold, inject_fault, monitor, trailing_mean

PRESSURE = "pressure_bar"


@pytest.fixture(scope="module")
def wells():
    return simulate(n_units=3, n_labelled=2, n_unlabelled=2, n_test=8)[1]


@pytest.fixture(scope="module")
def reference():
    """The shipped fit, and some batches of the dryer without targets."""
    data = dryer().hide()
    return zoo.load_reference("ssmtl/dryer"), data.subset(np.flatnonzero(data["unit"].numpy() < 8))


# ---------------------------------------------------------------- faults
def change(faulty, clean):
    """What was added to the pressure, by unit: shape (units, rows of a unit)."""
    return (faulty["x"] - clean["x"])[:, 1].reshape(3, 8).numpy()


@pytest.mark.parametrize(
    ("kind", "start", "expected"),
    [
        ("bias", 0.5, [0, 0, 0, 0, 3, 3, 3, 3]),
        ("bias", 0.0, [3] * 8),
        ("drift", 0.5, [0, 0, 0, 0, 0.75, 1.5, 2.25, 3]),
        ("drift", 0.6, [0, 0, 0, 0, 0, 1, 2, 3]),
    ],
)
def test_bias_and_drift_add_to_the_later_rows_of_each_unit(wells, kind, start, expected):
    before = wells.sha256
    faulty, mask = inject_fault(wells, PRESSURE, kind, 3.0, start=start)
    np.testing.assert_allclose(change(faulty, wells), [expected] * 3, atol=1e-4)
    np.testing.assert_array_equal(mask.reshape(3, 8), [np.array(expected) != 0] * 3)
    assert torch.equal(faulty["x"][:, 0], wells["x"][:, 0])
    assert torch.equal(faulty["y"], wells["y"])
    assert wells.sha256 == before


def test_a_stuck_sensor_holds_the_last_value_before_the_fault(wells):
    faulty, mask = inject_fault(wells, PRESSURE, "stuck", 2, start=0.5, units=[1])
    pressure = faulty["x"][:, 1].reshape(3, 8)
    clean = wells["x"][:, 1].reshape(3, 8)
    assert torch.equal(pressure[1, 4:6], clean[1, 3].expand(2))
    assert np.flatnonzero(mask).tolist() == [12, 13]
    assert torch.equal(pressure.flatten()[~mask], clean.flatten()[~mask])


def test_rows_of_units_need_not_lie_together(wells):
    order = np.random.default_rng(0).permutation(24)
    mixed = wells.subset(order)
    faulty, mask = inject_fault(mixed, PRESSURE, "drift", 1.0, start=0.5)
    for unit in range(3):
        rows = np.flatnonzero(mixed.group_names("unit") == unit)
        added = (faulty["x"] - mixed["x"])[rows, 1].numpy()
        np.testing.assert_allclose(added, [0, 0, 0, 0, 0.25, 0.5, 0.75, 1], atol=1e-4)
        np.testing.assert_array_equal(mask[rows], added != 0)


def test_of_a_target_only_observed_rows_become_faulty(wells):
    seen = np.tile([True, False], 12)
    faulty, mask = inject_fault(wells.relabel(seen), "flow_m3_per_h", "bias", 5.0, start=0.5)
    np.testing.assert_array_equal(mask.reshape(3, 8), [[False] * 4 + [True, False, True, False]] * 3)
    np.testing.assert_allclose((faulty["y"] - wells.relabel(seen)["y"])[:, 0], 5.0 * mask, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("volume", "bias", 1.0), KeyError, "'volume' is no column of the batch; it has .*pressure_bar"),
        ((PRESSURE, "noise", 1.0), ValueError, "kind: 'noise' is none of"),
        ((PRESSURE, "bias", np.nan), ValueError, "size: nan is not finite"),
        ((PRESSURE, "stuck", 1.5), ValueError, "size: 1.5; of a stuck sensor"),
        ((PRESSURE, "stuck", 7), ValueError, "unit 0 has 8 rows with 'pressure_bar', of which 6 come before"),
    ],
)
def test_impossible_faults_raise(wells, arguments, error, message):
    with pytest.raises(error, match=message):
        inject_fault(wells, *arguments)


def test_unknown_units_and_starts_raise(wells):
    with pytest.raises(KeyError, match="no rows of unit 'A'"):
        inject_fault(wells, PRESSURE, "bias", 1.0, units=["A"])
    with pytest.raises(ValueError, match=r"start: 1\.0"):
        inject_fault(wells, PRESSURE, "bias", 1.0, start=1.0)
    with pytest.raises(ValueError, match="too few"):
        inject_fault(wells, PRESSURE, "stuck", 1, start=0.0)


# ---------------------------------------------------------------- scores
def test_trailing_means_stay_inside_their_unit():
    score, units = np.array([1.0, 10.0, 3.0, 20.0, 5.0]), np.array(["b", "a", "b", "a", "b"])
    np.testing.assert_array_equal(trailing_mean(score, units, 2), [np.nan, np.nan, 2.0, 15.0, 4.0])
    np.testing.assert_array_equal(trailing_mean(score, units, 1), score)


def test_the_threshold_keeps_the_rate_of_false_alarms():
    rng = np.random.default_rng(0)
    clean = rng.gumbel(size=(4000, 100))
    thresholds = np.array([alarm_threshold(part[:99], 0.1) for part in clean])
    rate = (clean[:, 99] > thresholds).mean()
    assert abs(rate - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)  # exactly 0.1 on average for 99 exchangeable rows
    assert alarm_threshold(np.array([np.nan, 1.0, 3.0, 2.0]), 0.25) == 3.0


def test_too_few_reference_rows_raise():
    assert alarm_threshold(np.arange(99.0), 0.01) == 98.0
    with pytest.raises(ValueError, match=r"98 scored rows .* cannot show .* give at least 99"):
        alarm_threshold(np.arange(98.0), 0.01)
    with pytest.raises(ValueError, match="false_alarms: 0"):
        alarm_threshold(np.arange(98.0), 0)


# ---------------------------------------------------------------- the monitor
def test_the_score_is_minus_the_log_density(reference):
    fit, data = reference
    part = data.subset(np.arange(0, data.n_rows, 40))
    table = monitor(fit, part, draws=3, progress=False)
    expected = log_density(fit, part, draws=3, progress=False)
    np.testing.assert_allclose(table["score"], -expected, rtol=1e-9)
    assert table.index.equals(expected.index)
    assert list(table.columns[:3]) == ["unit", "score", "suspect"]
    assert list(table.columns[3:]) == [f"surprise[{name}]" for name in data.coords["input"]]


def test_the_surprise_of_an_input_is_its_density_given_the_others():
    """Two inputs, linear and Gaussian: log p(x2 | x1) in closed form."""
    with default_dtype(torch.float64):
        data, _ = tiny(0)
        model = zoo.create_model("ssmtl", data, c_dim=1, z_dim=1, depth=0, floor=0.0, width=1)
        fit = zoo.fit(model, "paper", data, steps=1, progress=False)
        w, s = np.array([0.4, -0.5]), np.array([0.9, 0.8])
        cov = np.outer(w, w) + np.diag(s**2)
        gain = np.linalg.solve(cov, w)
        with torch.no_grad():
            for net in (fit.model.decoder, fit.guide.local.g_z):
                net.net[0].weight.zero_()
                net.net[0].bias.zero_()
            fit.model.decoder.net[0].weight[:2, 0] = torch.as_tensor(w)
            fit.model.decoder.net[0].bias[3:5] = torch.as_tensor(np.log(s))
            fit.guide.local.g_z.net[0].weight[0, :2] = torch.as_tensor(gain)
            fit.guide.local.g_z.net[0].bias[1] = 0.5 * np.log(1 - gain @ w)
        part = data.hide().subset(np.arange(6))
        table = monitor(fit, part, draws=200, progress=False)
        x = ((part["x"] - fit.model.x_loc) / fit.model.x_scale).numpy()
        for d, name in enumerate(data.coords["input"]):
            slope = cov[0, 1] / cov[1 - d, 1 - d]
            variance = cov[d, d] - slope * cov[0, 1]
            exact = 0.5 * (x[:, d] - slope * x[:, 1 - d]) ** 2 / variance + 0.5 * np.log(2 * np.pi * variance)
            np.testing.assert_allclose(table[f"surprise[{name}]"], exact, atol=0.3)


def test_a_biased_sensor_of_the_dryer_is_found_and_named(reference):
    fit, data = reference
    sd = float(data["x"][:, 6].std())
    assert str(data.coords["input"][6]) == "JacketTemperature"
    faulty, mask = inject_fault(data, "JacketTemperature", "bias", sd)
    rows = np.flatnonzero(mask)[::4]
    clean = monitor(fit, data.subset(rows), draws=20, progress=False)
    table = monitor(fit, faulty.subset(rows), draws=20, progress=False)
    truth = np.repeat([0, 1], len(rows))
    assert roc_auc_score(truth, np.r_[clean["score"], table["score"]]) > 0.9
    assert (table["suspect"] == "JacketTemperature").mean() > 0.7
    assert (clean["suspect"] == "JacketTemperature").mean() < 0.4


def test_alarms_and_windows(reference):
    fit, data = reference
    data = data.subset(np.flatnonzero(data["unit"].numpy() < 3))
    faulty, mask = inject_fault(
        data, "DryerPressure", "bias", 3.0 * float(data["x"][:, 1].std()), units=data.coords["unit"][:1]
    )
    table = monitor(fit, faulty, reference=data, false_alarms=0.05, window=4, draws=4, progress=False)
    first = np.r_[True, table["unit"].to_numpy()[1:] != table["unit"].to_numpy()[:-1]]
    starts = np.flatnonzero(first)
    assert len(starts) == 3
    warm_up = np.concatenate([start + np.arange(3) for start in starts])
    assert table["score"].isna().to_numpy().nonzero()[0].tolist() == warm_up.tolist()
    assert not table["alarm"].to_numpy()[warm_up].any()
    assert table["suspect"].isna().to_numpy().nonzero()[0].tolist() == warm_up.tolist()
    assert table["threshold"].nunique() == 1
    np.testing.assert_array_equal(table["alarm"], table["score"] > table["threshold"])
    assert table["alarm"][mask].mean() > 0.8
    assert table["alarm"][~mask].mean() < 0.1


def test_targets_of_all_rows_count_and_of_some_raise():
    data, sizes = tiny(0)
    fit = zoo.fit(zoo.create_model("ssmtl", data, **sizes), "paper", data, steps=2, progress=False)
    full = simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=2)[1]
    table = monitor(fit, full, draws=2, progress=False)
    assert list(table.columns[-1:]) == ["surprise[flow_m3_per_h]"]
    with pytest.raises(ValueError, match=r"batch: 12 of 30 rows have targets.*\.hide\(\)"):
        monitor(fit, data, progress=False)
    with pytest.raises(ValueError, match="reference: rows with and without targets"):
        monitor(fit, full, reference=full.hide(), progress=False)
    with pytest.raises(ValueError, match="window: 0"):
        monitor(fit, full, window=0, progress=False)


def test_a_model_without_a_density_of_the_inputs_raises():
    data, _ = tiny(0)
    fit = zoo.fit(zoo.create_model("ssmtl", data, variant="mtl", width=4), "paper", data, steps=2, progress=False)
    with pytest.raises(ValueError, match="density of the inputs, which MTL lacks"):
        monitor(fit, data.hide(), progress=False)


# ---------------------------------------------------------------- the experiment
def test_simple_monitors_by_hand():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) @ np.array([[2.0, 1.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.05]]) + 5.0
    new = x[:4] + np.array([0.0, 0.3, 0.0])
    z, z_new = (x - x.mean(0)) / x.std(0), (new - x.mean(0)) / x.std(0)
    _, _, axes = np.linalg.svd(z)
    kept = axes[:2]  # the first two of three dimensions hold 90 % of the variance
    residual = z_new - z_new @ kept.T @ kept
    np.testing.assert_allclose(faults._spe(x)(new), (residual**2).sum(1), rtol=1e-6)
    nearest = np.sort(np.linalg.norm(z_new[:, None] - z, axis=-1), 1)[:, 4]
    np.testing.assert_allclose(faults._neighbours(x)(new), nearest, rtol=1e-6)
    assert (faults._mahalanobis(x)(new) > faults._mahalanobis(x)(x[:4])).all()


def test_the_experiment_runs_and_its_records_say_which_data_are_simulated(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "SIZES", {"bias": (4.0,), "drift": (4.0,), "stuck": (5.0,)})
    monkeypatch.setattr(faults, "SMOKE_UNITS", 2)
    records = run("ssmtl", "faults", profile="smoke", out=tmp_path)
    assert {name: record["data"]["simulated"] for name, record in records.items()} == {
        "simulated": True,
        "dryer": False,
    }
    assert (tmp_path / "figures" / "faults.png").stat().st_size > 10_000
    assert len(records["simulated"]["rows"]) == 2 * 3 * (1 + len(faults.SIMPLE))
    for record in records.values():
        for row in record["rows"]:
            scores = [row[name] for name in faults.SCORES if name in row]
            assert len(scores) == (5 if row["model"] == "SSMTL" else 4)
            assert all(0 <= score <= 1 for score in scores)
    found = {(row["model"], row["fault"]): row["auroc"] for row in records["dryer"]["rows"]}
    assert all(auroc > 0.8 for (_, fault), auroc in found.items() if fault == "bias")
    again = run("ssmtl", "faults", profile="smoke", out=tmp_path)
    assert again["dryer"]["extra"]["resumed"]
    assert again["dryer"]["rows"] == records["dryer"]["rows"]


def test_a_monitor_that_sees_nothing_scores_one_half():
    data = simulate(n_units=2, n_labelled=2, n_unlabelled=2, n_test=40)[1]
    faulty, mask = inject_fault(data, PRESSURE, "bias", 100.0)

    def blind(batch):
        return np.zeros(batch.n_rows), None

    def sharp(batch):
        return batch["x"][:, 1].numpy().astype(float), np.array([PRESSURE] * batch.n_rows, object)

    assert faults._scores(faulty, mask, PRESSURE, blind, np.zeros(data.n_rows))["auroc"] == 0.5
    scores = faults._scores(faulty, mask, PRESSURE, sharp, sharp(data)[0])
    assert scores["auroc"] == scores["suspect"] == scores["detected"] == 1.0
