"""The simulator of the m3sense entry: layout of the batch, streams of people, and the measured sizes of effects."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import find_peaks

from pyrozoo.data.batch import Batch
from pyrozoo.models.m3sense.data.physiology import STATES, Physiology
from pyrozoo.models.m3sense.data.simulator import CLASSES, DATASETS_SIMULATED, _response, simulate, simulate_all

SIGNALS = ("bvp", "eda", "temp")
ALIKE = Physiology(between=0.0, within=0.0, report_noise=0.0)


def refuses(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


def same(a: Batch, b: Batch, n: int) -> bool:
    return all(torch.equal(a[name][:n], b[name][:n]) for name in SIGNALS)


def state_of(batch: Batch) -> np.ndarray:
    return batch.coords["state_class"][batch.truth["state"]]


def changes(batch: Batch, quantity: str, before: str, after: str) -> np.ndarray:
    """Change of each person's median of a quantity between two states, a ratio of levels."""
    value, state, person = batch.truth[quantity], state_of(batch), batch["subject"].numpy()
    pairs = [[np.median(value[(person == p) & (state == name)]) for name in (before, after)] for p in np.unique(person)]
    before, after = np.array(pairs).T
    return after / before if quantity == "scl" else after - before


@pytest.fixture(scope="module")
def stress() -> Batch:
    return simulate("simulated stress", n_subjects=150, n_windows=20)


@pytest.fixture(scope="module")
def anxiety() -> Batch:
    return simulate("simulated anxiety", n_subjects=150, n_windows=20)


@pytest.fixture(scope="module")
def joined() -> Batch:
    return simulate_all(seed=1, n_subjects=3, n_windows=8, rates={"bvp": 16})


# ------------------------------------------------------------------ layout
def test_layout_of_one_data_set():
    batch = simulate("simulated stress", n_subjects=3, n_windows=6)
    assert (batch.rows, batch.groups, batch.n_rows) == ("window", ("subject",), 18)
    assert [tuple(batch[name].shape) for name in SIGNALS] == [(18, 1280), (18, 80), (18, 80)]
    assert all(batch[name].dtype == torch.get_default_dtype() for name in SIGNALS)
    assert batch.dims == {name: (f"{name}_time",) for name in SIGNALS}
    assert batch.coords["subject"].tolist() == ["stress/S01", "stress/S02", "stress/S03"]
    assert batch["subject"].tolist() == np.repeat([0, 1, 2], 6).tolist()
    assert dict(batch.info) | {"rates": None} == {
        "name": "simulated stress", "simulated": True, "seed": 0, "seconds": 20.0, "rates": None,
    }  # fmt: skip
    assert batch.info["rates"] == {"bvp": 64.0, "eda": 4.0, "temp": 4.0}


def test_people_are_as_many_as_in_the_paper_by_default():
    people = {name: simulate(name, n_windows=4, seconds=1.0).sizes["subject"] for name in DATASETS_SIMULATED}
    assert list(people.values()) == [55, 32, 15, 15, 12]


def test_truth_lies_along_windows_and_people(joined: Batch):
    along = {name: joined.along[name] for name in joined.truth}
    windows = {"heart_rate", "scl", "scr_rate", "temperature", "state"}
    assert {name for name, plate in along.items() if plate == "window"} == windows
    assert {plate for name, plate in along.items() if name not in windows} == {"subject"}
    assert all(len(value) == joined.sizes[along[name]] for name, value in joined.truth.items())
    one = joined.subset(np.flatnonzero(joined.group_names("subject") == "emotion/S02"))
    assert len(one.truth["heart_rate"]) == 8
    assert one.truth["person_scl"] == joined.truth["person_scl"][4]


def test_labels_are_those_of_the_own_data_set_only(joined: Batch):
    names = joined.coords["dataset_class"][joined["dataset"].numpy()]
    for task, classes in CLASSES.items():
        seen = joined.observed(f"y_{task}")
        assert (seen == (names == f"simulated {task}")).all()
        assert joined.coords[f"y_{task}_class"].tolist() == list(classes)
        y = joined[f"y_{task}"]
        assert y.dtype == torch.long
        assert 0 <= int(y.min()) <= int(y.max()) < len(classes)
    unlabelled = np.isin(names, ["simulated work", "simulated exercise"])
    assert not any(joined.observed(f"y_{task}")[unlabelled].any() for task in CLASSES)
    assert unlabelled.sum() == 2 * 3 * 8


def test_a_set_without_labels_has_all_targets_all_the_same():
    batch = simulate("simulated work", n_subjects=2, n_windows=5, seconds=5.0)
    assert set(batch.labels) == {"y_anxiety", "y_emotion", "y_stress"}
    assert not any(batch.observed(target).any() for target in batch.labels)


def test_joined_data_are_the_single_ones(joined: Batch):
    names = joined.coords["dataset_class"][joined["dataset"].numpy()]
    for name in DATASETS_SIMULATED:
        own = simulate(name, seed=1, n_subjects=3, n_windows=8, rates={"bvp": 16})
        assert same(joined.subset(np.flatnonzero(names == name)), own, own.n_rows)
    some = simulate_all(1, 3, 8, rates={"bvp": 16}, datasets=DATASETS_SIMULATED[2:4])
    assert set(some["dataset"].tolist()) == {2, 3}


def test_every_person_has_every_state_of_a_protocol():
    batch = simulate("simulated stress", n_subjects=20, n_windows=4, seconds=1.0)
    y = batch["y_stress"].numpy().reshape(20, 4)
    assert all(set(row) == {0, 1, 2} for row in y)
    assert (y[:, 0] == 0).all()  # baseline comes first
    assert len({tuple(row) for row in y}) == 2  # stress and amusement in either order
    shares = np.bincount(simulate("simulated stress", n_subjects=2)["y_stress"].numpy()) / 80
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


def test_emotion_has_the_majority_of_the_paper():
    batch = simulate("simulated emotion", n_subjects=300, n_windows=20, seconds=4.0)
    assert float(batch["y_emotion"].float().mean()) == pytest.approx(0.25, abs=0.04)


# ------------------------------------------------------------------ streams
def test_deterministic_and_seeded():
    first, again, other = (simulate("simulated anxiety", s, 2, 4) for s in (0, 0, 1))
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256


@pytest.mark.parametrize("dataset", DATASETS_SIMULATED)
def test_more_people_leave_the_first_as_they_are(dataset: str):
    few, many = simulate(dataset, 3, 2, 5, 5.0), simulate(dataset, 3, 4, 5, 5.0)
    assert same(few, many, 10)
    assert np.array_equal(few.truth["state"], many.truth["state"][:10])
    assert not torch.equal(many["eda"][:5], many["eda"][5:10])


def test_more_windows_leave_people_as_they_are():
    few, many = (simulate("simulated stress", 0, 3, n, 5.0) for n in (4, 9))
    own = [name for name in few.truth if few.along[name] == "subject"]
    assert len(own) == 8
    assert all(np.array_equal(few.truth[name], many.truth[name]) for name in own)


def test_rates_decimate_the_same_signal():
    full = simulate("simulated stress", 0, 2, 5)
    part = simulate("simulated stress", 0, 2, 5, rates={"bvp": 16, "eda": 2})
    assert [tuple(part[name].shape) for name in SIGNALS] == [(10, 320), (10, 40), (10, 80)]
    assert part.info["rates"] == {"bvp": 16.0, "eda": 2.0, "temp": 4.0}
    assert torch.equal(part["temp"], full["temp"])
    error = part["bvp"] - full["bvp"][:, ::4]
    assert float(error.std() / full["bvp"].std()) < 0.1  # filtered: the noise above 8 Hz is gone


# ------------------------------------------------------------------ sizes
def test_levels_at_rest_are_the_measured_ones(stress: Batch):
    rest = state_of(stress) == "baseline"
    truth = {name: np.median(stress.truth[name][rest]) for name in ("scl", "scr_rate", "temperature", "heart_rate")}
    assert truth["scl"] == pytest.approx(0.40, rel=0.3)
    assert truth["scr_rate"] == pytest.approx(1.4, rel=0.25)
    assert truth["temperature"] == pytest.approx(33.7, abs=0.5)
    assert truth["heart_rate"] == pytest.approx(69.5, abs=3)


def test_stress_changes_people_as_measured(stress: Batch):
    median = {
        name: np.median(changes(stress, name, "baseline", "stress"))
        for name in ("scl", "scr_rate", "temperature", "heart_rate")
    }
    assert 3 < median["scl"] < 6.5  # measured 4.5
    assert 4.5 < median["scr_rate"] < 8.5  # 6.8
    assert -1.4 < median["temperature"] < -0.7  # -1.2 (of people), -0.8 (of medians)
    assert 8 < median["heart_rate"] < 14.5  # 8.5 (of people), 14 (of medians)
    low, high = np.quantile(changes(stress, "heart_rate", "baseline", "stress"), [0.1, 0.9])
    assert low > -4
    assert high < 35


def test_amusement_is_cooler_and_otherwise_like_baseline(stress: Batch):
    assert np.median(changes(stress, "scl", "baseline", "amusement")) == pytest.approx(1.1, abs=0.25)
    assert np.median(changes(stress, "temperature", "baseline", "amusement")) == pytest.approx(-0.9, abs=0.3)
    assert abs(np.median(changes(stress, "heart_rate", "baseline", "amusement"))) < 2


def test_high_anxiety_is_like_an_interview(anxiety: Batch):
    assert 5 < np.median(changes(anxiety, "heart_rate", "low anxiety", "high anxiety")) < 14
    high = state_of(anxiety) == "high anxiety"
    assert 5 < np.median(anxiety.truth["scr_rate"][high]) < 8
    assert 1.5 < np.median(changes(anxiety, "scl", "low anxiety", "high anxiety")) < 2.7


def test_self_reports_agree_with_most_states(anxiety: Batch):
    agree = (anxiety["y_anxiety"].numpy() == 1) == (state_of(anxiety) == "high anxiety")
    assert agree.mean() == pytest.approx(0.85, abs=0.05)
    exact = simulate("simulated anxiety", 0, 5, 8, 2.0, physiology=Physiology(report_noise=0.0))
    assert ((exact["y_anxiety"].numpy() == 1) == (state_of(exact) == "high anxiety")).all()


def test_emotion_hardly_changes_anything():
    batch = simulate("simulated emotion", n_subjects=60, n_windows=20, physiology=ALIKE)
    assert 1.0 < np.median(changes(batch, "scl", "other emotion", "high emotion")) < 1.25
    assert 0 < np.median(changes(batch, "heart_rate", "other emotion", "high emotion")) < 3


def test_exercise_raises_the_heart_rate_and_moves_the_sensor():
    batch = simulate("simulated exercise", n_subjects=12, n_windows=30)
    moving = state_of(batch) == "exercise"
    assert 12 < np.median(changes(batch, "heart_rate", "rest", "exercise")) < 30
    assert 1.2 < np.median(changes(batch, "scl", "rest", "exercise")) < 3
    power = np.abs(np.fft.rfft(batch["bvp"].numpy(), axis=1)) ** 2
    frequency = np.fft.rfftfreq(1280, 1 / 64)
    share = power[:, (frequency > 0.25) & (frequency < 0.65)].sum(1) / power[:, 1:].sum(1)
    assert np.median(share[moving]) > 0.5
    assert np.median(share[~moving]) < 0.3


def test_the_body_lags_behind_a_change_in_one_recording():
    batch = simulate("simulated exercise", 0, 8, 30, seconds=5.0, physiology=ALIKE)
    rate, state = batch.truth["heart_rate"].reshape(8, 30), state_of(batch).reshape(8, 30)
    p, w = np.argwhere((state[:, 1:] == "exercise") & (state[:, :-1] == "rest"))[0]
    assert 0 < rate[p, w + 1] - rate[p, w] < 10


def test_people_differ_as_much_as_stress_changes_them(stress: Batch):
    truth = stress.truth
    for name, own in (("scl", np.log(truth["person_scl"])), ("heart_rate", truth["person_heart_rate"])):
        change = changes(stress, name, "baseline", "stress")
        effect = np.median(np.log(change) if name == "scl" else change)
        assert 0.5 < own.std() / effect < 2


def test_sizes_switch_differences_off():
    none = replace(ALIKE, effect=0.0)
    batch = simulate("simulated stress", 0, 4, 8, 5.0, physiology=none)
    assert np.ptp(batch.truth["scl"]) < 1e-12
    assert np.ptp(batch.truth["heart_rate"]) < 1e-12
    assert (batch.truth["reactivity_hr"] == 1).all()
    states = {**STATES, "stress": replace(STATES["stress"], hr_bpm=40.0)}
    batch = simulate("simulated stress", 0, 4, 8, 5.0, physiology=replace(ALIKE, states=states))
    assert changes(batch, "heart_rate", "baseline", "stress") == pytest.approx(40.0)


# ------------------------------------------------------------------ signals
def test_beats_are_at_the_heart_rate(stress: Batch):
    still = np.flatnonzero(state_of(stress) == "baseline")[:200]
    seen = []
    for wave in stress["bvp"].numpy()[still]:
        peaks = find_peaks(wave, distance=22, prominence=0.5 * np.ptp(wave))[0]
        seen.append(60 * 64 / np.median(np.diff(peaks)) if len(peaks) > 3 else np.nan)
    error = np.array(seen) - stress.truth["heart_rate"][still]
    assert np.nanmedian(np.abs(error)) < 2
    assert abs(np.nanmedian(error)) < 1


def test_skin_conductance_is_level_and_responses(stress: Batch):
    over = stress["eda"].numpy().mean(1) - stress.truth["scl"]
    state = state_of(stress)
    assert (over > -0.05 * stress.truth["scl"]).all()  # responses only add; what is left is noise
    assert over[state == "stress"].mean() > 3 * over[state == "baseline"].mean()
    assert 0.01 <= float(stress["eda"].min()) <= float(stress["eda"].max()) < 60
    assert np.median(np.abs(stress["temp"].numpy().mean(1) - stress.truth["temperature"])) < 0.01


def test_response_has_the_measured_shape():
    kernel = _response(*Physiology().scr_kernel_s)
    assert kernel.argmax() / 4 == pytest.approx(3.07, abs=0.13)
    assert kernel.max() == pytest.approx(1, abs=0.01)
    assert kernel[0] < 0.02
    slow = np.log(kernel[160] / kernel[200]) / 10  # after 40 s only the slow decay is left
    assert 1 / slow == pytest.approx(14.1, rel=0.02)


def test_windows_follow_one_another():
    batch = simulate("simulated exercise", 0, 2, 8, physiology=Physiology(noise=(0.0, 0.0, 0.0, 0.0)))
    temp = batch["temp"].numpy().reshape(2, 8, 80)
    assert np.abs(temp[:, 1:, 0] - temp[:, :-1, -1]).max() < 0.3
    assert np.isfinite(batch["bvp"].numpy()).all()


def test_fast_enough():
    start = time.process_time()
    simulate("simulated anxiety")
    assert time.process_time() - start < 10


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "wesad"}, "dataset: 'wesad'"),
        ({"seed": -1}, "seed: -1"),
        ({"n_subjects": 0}, "n_subjects: 0"),
        ({"n_windows": 3}, "n_windows: 3"),
        ({"n_windows": 4.5}, "n_windows: 4.5"),
        ({"seconds": 0.5}, "seconds: 0.5"),
        ({"seconds": 20.1}, "seconds: 20.1"),
        ({"seconds": float("nan")}, "seconds: nan"),
        ({"rates": {"acc": 4}}, "rates: acc"),
        ({"rates": {"bvp": 128}}, "rates: bvp at 128 Hz"),
        ({"rates": {"bvp": 15}}, "rates: bvp at 15 Hz"),
        ({"rates": {"bvp": 0.5}, "seconds": 5.0}, "rates: bvp at 0.5 Hz"),
        ({"physiology": Physiology(effect=-1.0)}, "physiology.effect: -1.0"),
        ({"physiology": Physiology(scl_us=(0.0, 1.0))}, "physiology.scl_us: (0.0, 1.0)"),
        ({"physiology": Physiology(drift=(0.1, float("inf"), 0.1, 0.1))}, "physiology.drift: (0.1, inf"),
        ({"physiology": Physiology(drift_s=(1.0, 2.0))}, "physiology.drift_s: (1.0, 2.0)"),
        ({"physiology": Physiology(states={"rest": STATES["rest"]})}, "physiology.states: 'amusement' is missing"),
    ],
)
def test_bad_arguments_are_named(given: dict, message: str):
    with refuses(message):
        simulate(**{"dataset": "simulated stress", "n_subjects": 1, "n_windows": 4, **given})


def test_data_sets_are_named_once():
    with refuses("dataset: ('simulated work', 'simulated work')"):
        simulate_all(datasets=("simulated work", "simulated work"))
    with refuses("dataset: ()"):
        simulate_all(datasets=())
