"""The data, baselines and published numbers of ssmtl."""

import hashlib
import re
from functools import partial

import numpy as np
import pytest
import torch

from pyrozoo.data.batch import Batch
from pyrozoo.data.folders import data_path
from pyrozoo.experiments.record import PUBLISHED
from pyrozoo.models.ssmtl.data.datasets import DATASETS, draw_labels, dryer
from pyrozoo.models.ssmtl.data.drifting import simulate_drift
from pyrozoo.models.ssmtl.data.simulator import PRESETS, simulate
from pyrozoo.models.ssmtl.experiments import baselines
from pyrozoo.models.ssmtl.experiments.baselines import BASELINES, stl
from pyrozoo.models.ssmtl.experiments.published import TABLE_1, TABLE_2

small = partial(simulate, n_units=8, n_labelled=4, n_unlabelled=6, n_test=10)


def target(batch: Batch) -> np.ndarray:
    return batch["y"][:, 0].double().numpy()


def rmse(prediction: np.ndarray, batch: Batch) -> float:
    return float(np.sqrt(np.mean((prediction - target(batch)) ** 2)))


@pytest.fixture(scope="module")
def noise_free() -> Batch:
    return small(sigma_p=0.0, sigma_q=0.0, dtype=torch.float64)[1]


@pytest.fixture(scope="module")
def dryer_parts() -> tuple[Batch, Batch]:
    data = dryer()
    labelled = draw_labels(data, 5, seed=0)
    return data.relabel(labelled), data.subset(np.flatnonzero(~labelled))


# ------------------------------------------------------------------ simulation
def test_noise_free_rows_solve_the_physics_in_si_units(noise_free):
    """Equations 25 and 26 with the pressures in Pa and the flow in m3/s, from the physical parameters."""
    unit = noise_free["unit"].numpy()
    par = {key: value[unit] for key, value in noise_free.truth.items() if noise_free.along[key] == "unit"}
    (u, p), q = noise_free["x"].numpy().T, target(noise_free)
    q_si, p_si, share = q / 3600, p * 1e5, u / 100
    choke = par["valve_area"] * share * np.sqrt(2 * (p_si - par["outlet"] * 1e5) / par["density"])
    pipe = par["shut_in"] * 1e5 - par["friction"] * 8 * par["density"] * par["height"] * q_si**2 / (
        np.pi**2 * par["diameter"] ** 5
    )
    np.testing.assert_allclose(q_si, choke, rtol=1e-9)
    np.testing.assert_allclose(p_si, pipe, rtol=1e-9)


def test_noise_free_rows_solve_the_reduced_equations(noise_free):
    """Equations 27 and 28 with c1..c4."""
    unit = noise_free["unit"].numpy()
    c1, c2, c3, c4 = (noise_free.truth[key][unit] for key in ("c1", "c2", "c3", "c4"))
    (u, p), q = noise_free["x"].numpy().T, target(noise_free)
    np.testing.assert_allclose(q, np.sqrt((u / 100) ** 2 * (c2 * p - c1)), rtol=1e-9)
    np.testing.assert_allclose(p, c3 - c4 * q**2, rtol=1e-9)
    np.testing.assert_array_equal(noise_free.truth["flow"], q)


def test_noise_has_the_given_size():
    quiet = simulate(40, seed=3, sigma_p=0.0, sigma_q=0.0, dtype=torch.float64)[1]
    noisy = simulate(40, seed=3, sigma_p=0.4, sigma_q=1.5, dtype=torch.float64)[1]
    difference = noisy["x"] - quiet["x"]
    assert torch.equal(noisy["x"][:, 0], quiet["x"][:, 0])
    # 4,000 rows: the standard error of a standard deviation is 1.1 % of it.
    assert difference[:, 1].std().item() == pytest.approx(0.4, rel=0.05)
    assert (target(noisy) - noisy.truth["flow"]).std() == pytest.approx(1.5, rel=0.05)


def test_batches_are_as_documented():
    train, test = small(seed=1)
    assert train["x"].shape == (80, 2)
    assert train["y"].shape == (80, 1)
    assert train["x"].dtype == torch.get_default_dtype()
    assert test["x"].shape == (80, 2)
    assert test.observed().all()
    np.testing.assert_array_equal(train.observed().reshape(8, 10), np.tile(np.arange(10) < 4, (8, 1)))
    np.testing.assert_array_equal(train.coords["unit"], test.coords["unit"])
    np.testing.assert_array_equal(train.truth["c4"], test.truth["c4"])
    assert list(train.coords["input"]) == ["choke_opening_percent", "pressure_bar"]
    assert list(train.coords["target"]) == ["flow_m3_per_h"]
    assert train.truth["c1"].shape == (8,)
    assert train.truth["flow"].shape == (80,)
    for batch in (train, test):
        assert batch.info["name"] == "simulated"
        assert batch.info["simulated"] is True


def test_truth_follows_a_subset():
    rows = np.array([75, 3, 12])
    test = small(seed=1)[1]
    part = test.subset(rows)
    np.testing.assert_array_equal(part.truth["flow"], test.truth["flow"][rows])
    np.testing.assert_array_equal(part.truth["c2"], test.truth["c2"][[0, 1, 7]])


def test_values_stay_in_their_ranges():
    test = simulate(100, 1, 0, 20, seed=2, u_range=(20.0, 60.0), height=(2000.0, 2000.0), dtype=torch.float64)[1]
    u = test["x"][:, 0]
    assert 20 <= u.min() < 21
    assert 59 < u.max() <= 60
    for key, low, high in (("diameter", 0.08, 0.15), ("valve_area", 4e-4, 6e-4), ("shut_in", 60, 150)):
        assert low <= test.truth[key].min() < test.truth[key].max() <= high
    np.testing.assert_array_equal(test.truth["height"], 2000.0)
    flow = simulate(200, seed=0)[1].truth["flow"]
    assert (flow > 0).all()  # 10 % choke opening or more


def test_same_seed_is_equal_and_another_differs():
    first, again, other = (small(seed=seed) for seed in (5, 5, 6))
    for one, two, three in zip(first, again, other, strict=True):
        assert one.sha256 == two.sha256
        assert one.sha256 != three.sha256


def test_more_rows_of_one_kind_extend_it_and_change_no_other():
    few_train, few_test = small(seed=7)
    many_train, many_test = small(seed=7, n_unlabelled=25)
    assert few_test.sha256 == many_test.sha256
    few, many = few_train["x"].reshape(8, 10, 2), many_train["x"].reshape(8, 29, 2)
    assert torch.equal(few, many[:, :10])
    assert torch.equal(few_train["y"][few_train.observed()], many_train["y"][many_train.observed()])
    more_labels = small(seed=7, n_labelled=6)[0]["x"].reshape(8, 12, 2)
    assert torch.equal(more_labels[:, :4], few[:, :4])
    assert torch.equal(more_labels[:, 6:], few[:, 4:])


def test_parts_are_different_draws():
    train, test = simulate(5, 10, 10, 10, seed=0)
    u = torch.cat([train["x"][:, 0], test["x"][:, 0]])
    assert len(u.unique()) == len(u)


def test_presets_differ_in_the_valve_area_only():
    same, any_ = (simulate(30, seed=0, **PRESETS[key])[1].truth for key in ("same-valve", "any-valve"))
    np.testing.assert_array_equal(same["diameter"], any_["diameter"])
    assert np.ptp(same["valve_area"]) <= 2e-4 < np.ptp(any_["valve_area"]) <= 5e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_units": 0}, "n_units: 0"),
        ({"n_labelled": -1}, "n_labelled: -1"),
        ({"n_test": 0}, "n_test: 0"),
        ({"n_labelled": 0, "n_unlabelled": 0}, "n_labelled, n_unlabelled"),
        ({"shut_in": (20.0, 150.0)}, r"shut_in: .*outlet"),
        ({"outlet": (5.0, 60.0)}, r"shut_in: .*outlet"),
        ({"diameter": (0.15, 0.08)}, "diameter"),
        ({"valve_area": (0.0, 1e-4)}, "valve_area"),
        ({"density": (float("nan"), 900.0)}, "density"),
        ({"height": (1500.0, float("inf"))}, "height"),
        ({"u_range": (0.0, 101.0)}, "u_range"),
        ({"u_range": (50.0, 50.0)}, "u_range"),
        ({"sigma_p": -0.1}, "sigma_p"),
        ({"sigma_q": float("nan")}, "sigma_q"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(**arguments)


def test_no_labels_and_no_unlabelled_rows_are_allowed():
    assert not small(n_labelled=0)[0].observed().any()
    assert small(n_unlabelled=0)[0].observed().all()


# ------------------------------------------------------------------ dryer
def test_dryer_is_the_file_its_readme_describes():
    content = data_path("dryer/dryer.csv").read_bytes()
    readme = data_path("dryer/README.md").read_text(encoding="utf-8")
    assert re.findall(r"`([0-9a-f]{64})`", readme) == [hashlib.sha256(content).hexdigest()]
    assert f"{len(content):,} bytes" in readme
    for column in content.split(b"\n")[0].decode().strip().split(","):
        assert f"| `{column}` |" in readme


def test_dryer_facts():
    data = dryer()
    assert data.n_rows == 9220
    assert data.sizes["unit"] == 71
    rows = np.bincount(data["unit"].numpy())
    assert (rows.min(), rows.max()) == (89, 201)
    assert data.observed().all()
    assert torch.isfinite(data["x"]).all()
    assert data["x"].shape == (9220, 9)
    assert "ClockTime" not in data.coords["input"]
    assert list(data.coords["target"]) == ["CollectorTankLevel"]
    assert data.info["simulated"] is False
    assert "process-improve 2.2.0" in data.info["source"]


def test_dryer_clock_shows_that_rows_are_chronological():
    data = dryer(clock=True)
    assert data["x"].shape == (9220, 10)
    assert data.coords["input"][-1] == "ClockTime"
    unit, time = data["unit"].numpy(), data["x"][:, -1].numpy()
    assert (np.diff(unit) >= 0).all()
    np.testing.assert_array_equal(np.diff(time)[np.diff(unit) == 0], 1)


# ------------------------------------------------------------------ labels
def test_draw_labels_takes_as_many_of_each_unit(dryer_parts):
    train, test = dryer_parts
    np.testing.assert_array_equal(np.bincount(train["unit"].numpy()[train.observed()]), 5)
    assert train.observed().sum() == 355
    assert test.n_rows == 8865
    assert test.observed().all()


def test_draw_labels_is_fixed_by_its_seed_and_nested():
    data = dryer()
    assert np.array_equal(draw_labels(data, 5, 0), draw_labels(data, 5, 0))
    assert not np.array_equal(draw_labels(data, 5, 0), draw_labels(data, 5, 1))
    assert not (draw_labels(data, 3, 0) & ~draw_labels(data, 5, 0)).any()
    assert not draw_labels(data, 0, 0).any()


def test_draw_labels_chooses_among_labelled_rows_only():
    train = small(seed=0)[0]
    chosen = draw_labels(train, 4, seed=1)
    np.testing.assert_array_equal(chosen, train.observed())


def test_draw_labels_names_a_unit_with_too_few():
    train = Batch.from_arrays(
        rows={"x": np.zeros((5, 1)), "y": np.zeros((5, 1))},
        groups={"unit": ["well A", "well A", "well B", "well B", "well B"]},
        labels={"y": [True, True, True, False, False]},
    )
    with pytest.raises(ValueError, match="unit well B has 1 labelled rows"):
        draw_labels(train, 2, seed=0)
    with pytest.raises(ValueError, match="per_unit: -1"):
        draw_labels(train, -1, seed=0)


def test_data_sets_load_by_name():
    assert set(DATASETS) == {"simulated", "simulated-any-valve", "simulated-drift", "dryer"}
    train, test = DATASETS["simulated"](seed=0)
    assert (train.n_rows, test.n_rows) == (5250, 5000)
    assert DATASETS["simulated-any-valve"](seed=0)[0].info["name"] == "simulated-any-valve"
    assert DATASETS["dryer"]().info["name"] == "dryer"


# ------------------------------------------------------------------ baselines
@pytest.fixture
def few_trees(monkeypatch):
    """For what does not depend on how many there are."""
    monkeypatch.setattr(baselines, "_N_TREES", 20)


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("name", BASELINES)
def test_baseline_beats_the_mean_and_repeats_itself(name):
    train, test = simulate(8, 5, 20, 20, seed=11)
    prediction = BASELINES[name](train, test, 0)
    assert prediction.shape == (test.n_rows,)
    assert rmse(prediction, test) < 0.9 * rmse(target(train)[train.observed()].mean(), test)
    if name != "STL":  # STL_default_gamma is the same function, and six times as fast
        np.testing.assert_array_equal(prediction, BASELINES[name](train, test, 0))


def test_units_and_their_unlabelled_rows_help_on_the_dryer(dryer_parts, monkeypatch):
    monkeypatch.setattr(baselines, "_N_TREES", 60)
    train, test = dryer_parts
    error = {name: rmse(BASELINES[name](train, test, 0), test) for name in BASELINES if "STL" not in name}
    assert error["trees_with_unit_means"] < error["trees_with_offset"] - 2 < error["pooled_trees"] - 3
    assert error["trees_with_unit_means_and_offset"] < error["trees_with_unit_means"] + 0.2
    assert error["pooled_trees"] == pytest.approx(12.9, abs=1.0)


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("name", [n for n in BASELINES if n != "STL"])  # STL_default_gamma is the same function
def test_baselines_match_units_by_name_not_by_position(name):
    train, test = small(seed=4)
    rows = np.flatnonzero(np.isin(test["unit"].numpy(), [2, 5]))[::-1].copy()
    part = test.subset(rows)
    np.testing.assert_allclose(BASELINES[name](train, part, 0), BASELINES[name](train, test, 0)[rows])


def test_stl_learns_a_line_from_three_labels():
    x = np.linspace(-1, 1, 20)[:, None]
    data = Batch.from_arrays(rows={"x": x, "y": 3 * x + 1}, groups={"unit": np.zeros(20)}, labels={"y": np.ones(20)})
    train = data.relabel(np.isin(np.arange(20), [0, 9, 19]))
    assert rmse(stl(train, data), data) < 0.1


def test_stl_falls_back_where_labels_are_few():
    train = Batch.from_arrays(
        rows={"x": np.arange(9.0)[:, None], "y": np.arange(9.0)[:, None] ** 2},
        groups={"unit": np.repeat([0, 1, 2], 3)},
        labels={"y": np.array([1, 1, 1, 1, 1, 0, 0, 0, 0], bool)},
    )
    prediction = stl(train, train)
    np.testing.assert_allclose(prediction[3:6], (9 + 16) / 2)
    np.testing.assert_allclose(prediction[6:], (0 + 1 + 4 + 9 + 16) / 5)


def test_stl_survives_constant_columns():
    rows = {"x": np.ones((4, 2)), "y": np.full((4, 1), 7.0)}
    train = Batch.from_arrays(rows=rows, groups={"unit": np.zeros(4)}, labels={"y": np.ones(4)})
    np.testing.assert_allclose(stl(train, train), 7.0)


def test_offset_is_nothing_with_one_label_per_unit():
    train, test = small(seed=0, n_labelled=1)
    plain, offset = (BASELINES[name](train, test, 0) for name in ("pooled_trees", "trees_with_offset"))
    np.testing.assert_array_equal(plain, offset)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_refuse_what_they_cannot_learn_from(name):
    train, test = small(seed=0)
    with pytest.raises(ValueError, match="no row is labelled"):
        BASELINES[name](train.hide(), test)
    two = Batch.from_arrays(
        rows={"x": np.zeros((4, 1)), "y": np.zeros((4, 2))}, groups={"unit": np.zeros(4)}, labels={"y": np.ones(4)}
    )
    with pytest.raises(ValueError, match="one target"):
        BASELINES[name](two, two)


@pytest.mark.parametrize("name", BASELINES)
def test_only_pooled_trees_accept_an_unknown_unit(name):
    train, test = small(seed=0)
    known = train.subset(np.flatnonzero(train["unit"].numpy() < 7))
    if name == "pooled_trees":
        assert np.isfinite(BASELINES[name](known, test, 0)).all()
    else:
        with pytest.raises(KeyError, match="unknown unit"):
            BASELINES[name](known, test, 0)


# ------------------------------------------------------------------ published numbers
@pytest.mark.parametrize(("table", "number"), [(TABLE_1, 1), (TABLE_2, 2)])
def test_published_tables(table, number):
    assert [(row["model"], row["ratio"]) for row in table] == [
        ("STL", None),
        ("MTL", None),
        ("SSMTL", 1),
        ("SSMTL", 5),
        ("SSMTL", 20),
    ]
    for row in table:
        assert row["mape_p10"] < row["mape_p50"] < row["mape_p90"]
        assert row["source"] == PUBLISHED
        assert row["reference"].endswith(f"Table {number}")
    assert np.all(np.diff([row["mape"] for row in table]) < 0)


def test_wells_that_drift_lose_pressure_and_gain_water():
    train, test = simulate_drift(6, 100, 10, seed=1, sigma_q=0.0)
    assert (train.n_rows, train.sizes["labelled"], test.n_rows) == (6 * 75, 6 * 7, 6 * 25)
    assert np.array_equal(test.time.reshape(6, 25)[0], np.arange(76.0, 101.0))
    whole = {
        name: np.concatenate([part.truth[name].reshape(6, -1) for part in (train, test)], 1) for name in train.truth
    }
    assert (np.diff(whole["shut_in"]) < 0).all()
    assert (np.diff(whole["water_cut"]) >= 0).all()
    seen = train.observed("y")
    assert train["y"][:, 0].numpy()[seen] == pytest.approx(train.truth["oil"][seen], abs=1e-4)
    again, _ = simulate_drift(6, 100, 10, seed=1, sigma_q=0.0)
    assert again.sha256 == train.sha256


def test_drift_needs_days_to_train_and_to_test():
    with pytest.raises(ValueError, match="every 200"):
        simulate_drift(2, 100, 200)
