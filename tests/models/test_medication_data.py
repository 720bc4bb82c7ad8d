"""The data of the medication entry: protocols, simulator, files, watch sessions, and segments."""

import hashlib
import pickle
import re
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrozoo.data.batch import Batch
from pyrozoo.data.folders import data_path
from pyrozoo.models.medication.data import datasets, readers, simulator
from pyrozoo.models.medication.data import recordings as data
from pyrozoo.models.medication.data.protocols import INHALER, PEN, PROTOCOLS, Protocol
from pyrozoo.models.medication.data.validation import check_labels
from pyrozoo.models.medication.process import segments

LABELS = ["non-event", "shake", "press"]
DEVICES = list(PROTOCOLS)


def by_recording(batch: Batch, name: str) -> list[np.ndarray]:
    return [part.numpy() for part in torch.split(batch[name], batch["lengths"].tolist())]


def accuracy(batch: Batch) -> float:
    return segments.frame_accuracy(batch["label"].numpy(), batch["score"].argmax(1).numpy())


def refuses(message: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=re.escape(message))


# ------------------------------------------------------------------ protocols
def small(**changes) -> Protocol:
    given = {
        "name": "two steps",
        "steps": ("a", "b"),
        "duration_mean": [2.0, 3.0],
        "duration_sd": [0.5, 0.5],
        "next_step": {(0, 1): 0.7, (0, 2): 0.1, (1, 2): 0.9, (2, 1): 0.3},
        "gap_mean": {(1, 2): 1.0, (2, 1): 4.0},
        "gap_sd": {(1, 2): 0.3, (2, 1): 1.0},
        "start_wait": 5.0,
        "end_wait": 6.0,
        "sources": "none",
    }
    return Protocol(**(given | changes))


def test_the_matrix_holds_the_order_and_what_is_left_for_the_end():
    protocol = small()
    np.testing.assert_allclose(protocol.matrix(), [[0.2, 0.7, 0.1], [0.1, 0.0, 0.9], [0.7, 0.3, 0.0]], atol=1e-15)
    assert protocol.labels == ("non-event", "a", "b")


@pytest.mark.parametrize("device", DEVICES)
def test_our_protocols_are_whole(device):
    protocol = PROTOCOLS[device]
    matrix, n = protocol.matrix(), len(protocol.steps)
    assert protocol.name == device
    assert n == {"inhaler": 8, "pen": 7}[device]
    assert matrix.shape == (n + 1, n + 1)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    assert matrix[n, 0] == 1  # nothing follows the last step
    assert matrix[0, 0] == 0  # something is always begun
    assert set(protocol.gap_mean) == set(protocol.gap_sd) == {pair for pair in protocol.next_step if pair[0]}
    assert "assumptions" in protocol.sources


def test_documented_times_lie_in_their_ranges():
    inhaler, pen = (dict(zip(p.steps, p.duration_mean, strict=True)) for p in (INHALER, PEN))
    assert 3 <= inhaler["shake"] <= 5
    assert 5 <= inhaler["hold breath"] <= 10
    assert 6 <= pen["hold needle in skin"] <= 10
    assert all(15 <= INHALER.gap_mean[7, k] <= 30 for k in (2, 3))


def test_only_the_inhaler_has_a_second_puff():
    assert {pair for pair in INHALER.next_step if pair[1] < pair[0]} == {(7, 2), (7, 3)}
    assert all(h < k for h, k in PEN.next_step)
    np.testing.assert_allclose(INHALER.matrix()[7], [0.05, 0, 0.25, 0.1, 0, 0, 0, 0, 0.6], atol=1e-15)


def test_a_gap_over_a_step_left_out_is_both_gaps():
    assert PEN.gap_mean[1, 3] == PEN.gap_mean[1, 2] + PEN.gap_mean[2, 3]


def test_a_protocol_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        PEN.name = "other"
    with pytest.raises(ValueError, match="read-only"):
        PEN.duration_mean[0] = 1.0
    with pytest.raises(TypeError):
        PEN.next_step[0, 1] = 1.0
    with pytest.raises(TypeError):
        PROTOCOLS["other"] = PEN


def test_a_protocol_keeps_its_own_copies():
    given = np.array([2.0, 3.0])
    protocol = small(duration_mean=given)
    given[0] = 99
    assert protocol.duration_mean[0] == 2


def test_a_changed_protocol_is_made_by_replace():
    assert replace(PEN, start_wait=1.0).start_wait == 1.0
    assert {field.name for field in fields(PEN)} >= {"steps", "sources", "end_wait"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ()}, "steps: (); give at least one name"),
        ({"steps": ("a", "a")}, "each of its own"),
        ({"steps": ("a", "non-event")}, "none 'non-event', which is label 0"),
        ({"duration_mean": [1.0]}, "duration_mean: [1.0]; give 2 positive numbers"),
        ({"duration_sd": [1.0, 0.0]}, "duration_sd: [1.0, 0.0]; give 2 positive"),
        ({"duration_sd": [1.0, np.nan]}, "duration_sd: [1.0, nan]"),
        ({"next_step": {(0, 3): 1.0}}, "next_step[0, 3]: the labels are 0 (start) or 1..2 before, and 1..2 after"),
        ({"next_step": {(0, 0): 1.0}}, "next_step[0, 0]: the labels"),
        ({"next_step": {(0, 1): 1.5}}, "next_step[0, 1]: 1.5 is not a probability"),
        ({"next_step": {(0, 1): np.nan}}, "next_step[0, 1]: nan is not a probability"),
        ({"next_step": {(0, 1): 0.7, (0, 2): 0.7}}, "next_step: the probabilities after label 0 sum to 1.4"),
        ({"next_step": {(1, 1): 0.5}}, "gap_mean[1, 1]: None; the step may follow"),
        ({"gap_sd": {(1, 2): 0.0, (2, 1): 1.0}}, "gap_sd[1, 2]: 0.0; the step may follow"),
        ({"start_wait": 0.0}, "start_wait: 0.0 is not a positive number of seconds"),
        ({"end_wait": np.inf}, "end_wait: inf is not"),
        (
            {"next_step": {(0, 1): 1.0, (1, 2): 1.0, (2, 1): 1.0}},
            "next_step: after label 0 the steps never end; leave some row on its way below 1",
        ),
    ],
)
def test_an_impossible_protocol_is_refused(changes, message):
    with refuses(message):
        small(**changes)


def test_an_endless_loop_that_is_never_reached_is_allowed():
    small(next_step={(0, 1): 1.0, (2, 2): 1.0}, gap_mean={(2, 2): 1.0}, gap_sd={(2, 2): 1.0})


# ------------------------------------------------------------------ simulated labels
RATE = 5.0


@pytest.fixture(scope="module", params=DEVICES)
def drawn(request) -> tuple[Protocol, list[segments.Runs]]:
    protocol, rng = PROTOCOLS[request.param], np.random.default_rng(3)
    return protocol, [segments.runs(simulator.simulate_labels(protocol, rng, RATE)) for _ in range(1500)]


def lengths_by(drawn: list[segments.Runs]) -> tuple[dict, dict, dict, list, list]:
    """Durations by step, gaps by pair, orders by pair (0 at the end: no further step), leads and tails, in frames."""
    duration, gap, order, lead, tail = {}, {}, {}, [], []
    for label, start, stop in drawn:
        length = stop - start
        lead.append(length[0])
        tail.append(length[-1])
        steps = np.flatnonzero(label)
        for h, k in pairwise([0, *label[steps], 0]):
            order[h, k] = order.get((h, k), 0) + 1
        for i in steps:
            duration.setdefault(label[i], []).append(length[i])
        for i, j in pairwise(steps):
            assert j == i + 2  # exactly one non-event segment between two steps
            gap.setdefault((label[i], label[j]), []).append(length[i + 1])
    return duration, gap, order, lead, tail


def whole_frames_moments(mean: float, sd: float) -> tuple[float, float]:
    """Mean and sd of a Gaussian rounded to whole frames, 1 or more, by adding up the probabilities of the frames."""
    from scipy.stats import norm

    frames = np.arange(1, int(mean + 10 * sd) + 2)
    share = norm.cdf((frames + 0.5 - mean) / sd) - norm.cdf((frames - 0.5 - mean) / sd)
    share /= share.sum()
    centre = share @ frames
    return centre, np.sqrt(share @ (frames - centre) ** 2)


def assert_moments(values: list, mean: float, sd: float) -> None:
    expected, spread = whole_frames_moments(mean, sd)
    assert abs(np.mean(values) - expected) < 4 * spread / np.sqrt(len(values)) + 1e-9
    if len(values) > 200:
        assert np.std(values) == pytest.approx(spread, rel=4 / np.sqrt(2 * len(values)) + 0.02)


def test_durations_are_those_of_the_protocol(drawn):
    protocol, runs = drawn
    duration = lengths_by(runs)[0]
    assert set(duration) == set(range(1, len(protocol.steps) + 1))
    for k, values in duration.items():
        assert_moments(values, protocol.duration_mean[k - 1] * RATE, protocol.duration_sd[k - 1] * RATE)


def test_gaps_are_those_of_the_protocol(drawn):
    protocol, runs = drawn
    gap = lengths_by(runs)[1]
    assert set(gap) == set(protocol.gap_mean)
    for pair, values in gap.items():
        assert_moments(values, protocol.gap_mean[pair] * RATE, protocol.gap_sd[pair] * RATE)


def test_the_order_is_that_of_the_protocol(drawn):
    protocol, runs = drawn
    order, matrix = lengths_by(runs)[2], protocol.matrix()
    for h in range(len(matrix)):
        total = sum(count for (before, _), count in order.items() if before == h)
        for k in range(len(matrix)):
            share, p = order.get((h, k), 0) / total, matrix[h, k]
            assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / total), (h, k)


def test_leads_and_tails_are_geometric(drawn):
    protocol, runs = drawn
    *_, lead, tail = lengths_by(runs)
    for values, wait in ((lead, protocol.start_wait), (tail, protocol.end_wait)):
        mean = wait * RATE
        assert min(values) >= 1
        assert abs(np.mean(values) - mean) < 4 * mean / np.sqrt(len(values))
        # The share that waits longer than the mean tells a geometric from other laws of that mean.
        longer = (1 - 1 / mean) ** int(mean)
        assert abs(np.mean(np.array(values) > mean) - longer) < 4 * np.sqrt(longer * (1 - longer) / len(values))


def test_a_protocol_may_end_at_once():
    protocol = small(next_step={(0, 1): 0.0}, gap_mean={}, gap_sd={})
    labels = simulator.simulate_labels(protocol, np.random.default_rng(0), RATE)
    assert len(labels) >= 2
    assert not labels.any()


def test_steps_much_shorter_than_a_frame_take_one_frame():
    protocol = small(duration_mean=[0.05, 0.05], duration_sd=[1e-3, 1e-3], start_wait=0.1)
    rng = np.random.default_rng(0)
    runs = [segments.runs(simulator.simulate_labels(protocol, rng, 1.0)) for _ in range(50)]
    assert {int(n) for label, start, stop in runs for n in (stop - start)[label > 0]} == {1}
    assert {int(stop[0]) for label, _, stop in runs if label.any()} == {1}


@given(mean=st.floats(0.01, 300), sd=st.floats(0.01, 100), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_lengths_are_positive_whatever_the_numbers(mean, sd, seed):
    length = simulator._whole_frames(np.random.default_rng(seed), mean, sd)
    assert 1 <= length <= mean + 12 * sd + 1


# ------------------------------------------------------------------ simulated scores
PLAIN = {"strength": 4.0, "noise": 0.0, "burst_rate": 0.0, "burst_length": 1.0}
BLOCKS = np.repeat([0, 1, 0, 2, 0], [30, 30, 30, 30, 30])


def test_without_errors_the_highest_score_is_the_label():
    score = simulator.simulate_scores(BLOCKS, 3, np.random.default_rng(0), RATE, **PLAIN)
    np.testing.assert_array_equal(score.argmax(1), BLOCKS)
    inside = score[15]  # far from a boundary the logits are strength for the label, and 0 relative to it for others
    np.testing.assert_allclose(inside, np.exp([4.0, 0, 0]) / np.exp([4.0, 0, 0]).sum(), rtol=1e-12)


def test_boundaries_are_blurred():
    score = simulator.simulate_scores(BLOCKS, 3, np.random.default_rng(0), RATE, **PLAIN)
    rise = score[24:36, 1]
    assert (np.diff(rise) >= 0).all()
    assert score[29, 1] > score[15, 1]
    np.testing.assert_allclose(score[29, 1], score[30, 0], rtol=1e-10)  # symmetric about the boundary


def test_noise_has_its_size_and_its_correlation_in_time():
    noise = simulator._autoregressive(np.random.default_rng(0), (20_000, 20), time=9.5)
    phi = np.exp(-1 / 9.5)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert noise[0].std() == pytest.approx(1, abs=0.5)
    for lag in (1, 5, 10):
        correlation = (noise[lag:] * noise[:-lag]).mean() / (noise**2).mean()
        assert correlation == pytest.approx(phi**lag, abs=0.02)


def test_noise_starts_in_its_stationary_state():
    rng = np.random.default_rng(0)
    first = np.array([simulator._autoregressive(rng, (3, 2), time=9.5) for _ in range(4000)])
    np.testing.assert_allclose(first.std(0), 1, atol=0.05)


def test_bursts_come_at_their_rate_and_follow_the_confusion_matrix():
    labels, rate = np.full(200_000, 3), 10.0
    seen = simulator._confuse(labels, 6, np.random.default_rng(0), rate, burst_rate=0.01, burst_length=0.5)
    wrong = segments.runs(seen)
    share = np.mean(seen != labels)
    # 200 bursts of about 1 + 4.5 frames each: int() cuts half a frame off the exponential.
    assert share == pytest.approx(0.01 / rate * 5.5, rel=0.25)
    confusion = simulator._confusion(6)
    taken = wrong.label[wrong.label != 3]
    frequency = np.bincount(taken, minlength=6) / len(taken)
    assert (np.abs(frequency - confusion[3]) < 4 * np.sqrt(confusion[3] / len(taken)) + 1e-9).all()


@pytest.mark.parametrize("n_labels", [2, 3, 9])
def test_the_confusion_matrix_favours_non_event_and_neighbours(n_labels):
    matrix = simulator._confusion(n_labels)
    np.testing.assert_allclose(matrix.sum(1), 1)
    assert not matrix.diagonal().any()
    assert (matrix[1:, 0] == matrix[1:].max(1)).all()
    if n_labels > 4:
        assert matrix[4, 3] == matrix[4, 5] > matrix[4, 1] > 0
    np.testing.assert_allclose(matrix[0, 1:], 1 / (n_labels - 1))


HARD = simulator.DIFFICULTIES["hard"]


def test_temperature_changes_confidence_and_no_order():
    plain, hot = (
        simulator.simulate_scores(BLOCKS, 3, np.random.default_rng(0), RATE, temperature=temperature, **HARD)
        for temperature in (1.0, 3.0)
    )
    np.testing.assert_array_equal(plain.argmax(1), hot.argmax(1))
    np.testing.assert_allclose(np.log(hot / hot[:, :1]), 3 * np.log(plain / plain[:, :1]), rtol=1e-9, atol=1e-9)


def test_scores_are_softmax_or_sigmoids_of_the_same_logits():
    softmax, sigmoid = (
        simulator.simulate_scores(BLOCKS, 3, np.random.default_rng(0), RATE, sigmoid=kind, **HARD)
        for kind in (False, True)
    )
    assert softmax.dtype == sigmoid.dtype == np.float64
    np.testing.assert_allclose(softmax.sum(1), 1, atol=1e-12)
    assert np.abs(sigmoid.sum(1) - 1).max() > 0.1
    logit = np.log(sigmoid / (1 - sigmoid))
    np.testing.assert_allclose(np.exp(logit) / np.exp(logit).sum(1, keepdims=True), softmax, rtol=1e-9)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_the_rate_changes_frames_and_hardly_the_difficulty(rate):
    assert accuracy(simulator.simulate("pen", 150, rate=rate)) == pytest.approx(
        accuracy(simulator.simulate("pen", 150)), abs=0.06
    )


# ------------------------------------------------------------------ simulated data
@pytest.mark.parametrize(("difficulty", "expected"), [("easy", 0.91), ("medium", 0.72), ("hard", 0.47)])
def test_difficulties_have_their_accuracy(difficulty, expected):
    each = [accuracy(simulator.simulate(device, 200, difficulty)) for device in DEVICES]
    assert np.mean(each) == pytest.approx(expected, abs=0.02)
    assert np.ptp(each) < 0.06


@pytest.mark.parametrize("device", DEVICES)
def test_a_simulated_batch_has_its_parts(device):
    batch = simulator.simulate(device, 5, n_unlabelled=3, dtype=torch.float64)
    protocol = PROTOCOLS[device]
    assert batch.rows == "recording"
    assert batch.n_rows == 8
    assert batch["score"].dtype == torch.float64
    assert batch["label"].dtype == torch.int64
    assert batch["score"].shape == (int(batch["lengths"].sum()), len(protocol.labels))
    assert batch.along["score"] == batch.along["label"] == "frame"
    assert batch.dims["score"] == ("label_class",)
    assert "label" not in batch.dims
    assert batch.coords["label_class"].tolist() == list(protocol.labels)
    assert batch.names("recording").tolist() == [f"r{i}" for i in range(8)]
    assert batch["labelled"].tolist() == [True] * 5 + [False] * 3
    assert batch.labels == {"label": "labelled"}
    torch.testing.assert_close(batch["score"].sum(1), torch.ones(len(batch["score"]), dtype=torch.float64))
    info = {"name": f"simulated-{device}", "simulated": True, "device": device, "difficulty": "medium", "seed": 0}
    assert dict(batch.info) == info | {"rate": 5.0, "scores": "softmax"}


def test_the_floating_type_is_torchs_default():
    assert simulator.simulate(n_recordings=1)["score"].dtype == torch.get_default_dtype()


def test_the_truth_holds_every_label():
    batch = simulator.simulate("pen", 4, n_unlabelled=2)
    truth, lengths, label = batch.truth["true_label"], batch["lengths"].numpy(), by_recording(batch, "label")
    assert batch.along["true_label"] == "recording"
    assert truth.shape == (6, lengths.max())
    for row, n in zip(truth, lengths, strict=True):
        assert (row[:n] >= 0).all()
        assert (row[n:] == -1).all()
    for i in range(4):
        np.testing.assert_array_equal(truth[i, : lengths[i]], label[i])
    assert not label[4].any()
    assert truth[4].max() > 0
    np.testing.assert_array_equal(batch.subset([5, 1]).truth["true_label"], truth[[5, 1]])


def test_the_same_seed_gives_the_same_data_and_another_one_others():
    assert simulator.simulate(n_recordings=4).sha256 == simulator.simulate(n_recordings=4).sha256
    assert simulator.simulate(n_recordings=4).sha256 != simulator.simulate(n_recordings=4, seed=1).sha256


def test_fewer_recordings_are_the_first_ones_of_more():
    few, many = simulator.simulate("pen", 3, n_unlabelled=1), simulator.simulate("pen", 5, n_unlabelled=4)
    for name in ("score", "label"):
        few_parts, many_parts = by_recording(few, name), by_recording(many, name)
        for i, j in zip(range(4), [0, 1, 2, 5], strict=True):
            np.testing.assert_array_equal(few_parts[i], many_parts[j])


def test_difficulty_and_kind_of_scores_change_no_label():
    plain = simulator.simulate("pen", 3)
    for other in (simulator.simulate("pen", 3, "hard"), simulator.simulate("pen", 3, sigmoid=True)):
        assert torch.equal(other["label"], plain["label"])
        assert not torch.equal(other["score"], plain["score"])
    assert torch.equal(simulator.simulate("pen", 3, sigmoid=True)["score"].argmax(1), plain["score"].argmax(1))


def test_all_recordings_may_be_unlabelled():
    batch = simulator.simulate("pen", 0, n_unlabelled=2)
    assert batch["labelled"].tolist() == [False, False]
    assert not batch["label"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "spray"}, "device: 'spray' is none of ['inhaler', 'pen']"),
        ({"difficulty": "absurd"}, "difficulty: 'absurd' is none of ['easy', 'medium', 'hard']"),
        ({"n_recordings": -1}, "n_recordings: -1 is negative"),
        ({"n_unlabelled": -2}, "n_unlabelled: -2 is negative"),
        ({"n_recordings": 0}, "score: there are no recordings; give at least one"),
        ({"rate": 0.0}, "rate: 0.0 is not a positive number of frames per second"),
        ({"rate": np.nan}, "rate: nan is not a positive"),
    ],
)
def test_impossible_simulations_are_refused(options, message):
    with refuses(message):
        simulator.simulate(**options)


def test_the_data_sets_have_their_names():
    assert list(datasets.DATASETS) == ["simulated-inhaler", "simulated-pen", "watch"]
    for name in ("simulated-inhaler", "simulated-pen"):
        train, test = datasets.DATASETS[name]()
        assert (train.n_rows, test.n_rows) == (60, 60)
        assert train.info["name"] == test.info["name"] == name
        assert train.info["simulated"] is True
        assert train.info["seed"] != test.info["seed"]
    train, test = datasets.DATASETS["watch"](fold=3)
    assert (train.n_rows, test.n_rows) == (18, 2)


def test_options_of_data_sets_pass_through():
    options = {"n_recordings": 2, "n_test": 3, "difficulty": "easy", "rate": 2.0, "n_unlabelled": 4, "sigmoid": True}
    train, test = datasets.DATASETS["simulated-pen"](seed=7, **options)
    assert (train.n_rows, test.n_rows) == (6, 3)
    assert test["labelled"].all()
    for batch in (train, test):
        assert batch.info["rate"] == 2.0
        assert batch.info["difficulty"] == "easy"
        assert batch.info["scores"] == "sigmoid"


def test_no_two_seeds_share_recordings():
    seeds = [
        batch.info["seed"] for seed in range(4) for batch in simulator.simulated(n_recordings=1, n_test=1, seed=seed)
    ]
    assert len(set(seeds)) == 8


# ------------------------------------------------------------------ recordings
def rows(*frames: tuple[float, ...]) -> np.ndarray:
    return np.array(frames)


SCORE = [rows((0.8, 0.1, 0.1), (0.2, 0.7, 0.1)), rows((0.3, 0.3, 0.4))]


def build(score=SCORE, label=None, **options) -> Batch:
    return data.recordings(score, label, **{"labels": LABELS, "rate": 2.0, "names": ["ann", "bob"]} | options)


def test_recordings_become_a_batch():
    batch = build(label=[[0, 1], None], subjects=["p", "q"], name="clinic", simulated=False, dtype=torch.float64)
    np.testing.assert_array_equal(batch["score"], np.concatenate(SCORE))
    assert batch["label"].tolist() == [0, 1, 0]
    assert batch["labelled"].tolist() == [True, False]
    assert batch["lengths"].tolist() == [2, 1]
    assert batch.names("recording").tolist() == ["ann", "bob"]
    assert batch.group_names("subject").tolist() == ["p", "q"]
    assert dict(batch.info) == {"rate": 2.0, "name": "clinic", "simulated": False}
    assert isinstance(batch.info["rate"], float)


def test_recordings_without_labels_names_or_subjects():
    batch = build(names=None)
    assert batch["labelled"].tolist() == [False, False]
    assert batch.names("recording").tolist() == ["r0", "r1"]
    assert batch.groups == ()


def test_sigmoids_zeros_and_rounding_above_one_are_allowed():
    batch = build([rows((0.0, 0.0, 0.0), (1.0, 1.0, 1 + 1e-7)), np.zeros((1, 3), np.float32)])
    assert batch["score"].max() == 1
    assert batch["score"].min() == 0


def test_whole_scores_and_labels_of_other_types_are_taken():
    batch = build([np.eye(3, dtype=int), [[1, 0, 0]]], [np.array([0.0, 1.0, 2.0]), np.array([2], np.uint8)])
    assert batch["score"].is_floating_point()
    assert batch["label"].tolist() == [0, 1, 2, 2]


def test_a_batch_does_not_share_memory_with_its_arrays():
    score = [rows((0.8, 0.1, 0.1))]
    batch = data.recordings(score, labels=LABELS, rate=1, dtype=torch.float64)
    score[0][:] = 9
    assert batch["score"].max() < 1


def test_steps_without_a_gap_are_separated():
    score = [np.full((n, 3), 0.1 * n) for n in (7, 3, 4)]
    label = [[0, 1, 2, 2, 1, 1, 0], None, [2, 2, 1, 1]]
    batch = build(score, label, names=["ann", "bob", "cy"])
    assert dict(batch.info) == {"rate": 2.0}
    with refuses("recording 'ann', frame 2: 'shake' goes straight to 'press'"):
        check_labels(batch)
    apart = data.separate_steps(batch)
    assert [part.tolist() for part in by_recording(apart, "label")] == [
        [0, 1, 0, 2, 0, 1, 0],
        [0, 0, 0],
        [2, 2, 0, 1],
    ]
    check_labels(apart)
    assert batch["label"].tolist()[:3] == [0, 1, 2]  # the batch given stays as it is
    assert data.separate_steps(apart) is apart
    for name in set(batch.tensors) - {"label"}:
        assert apart[name] is batch[name]
    assert apart.sizes == batch.sizes
    assert apart["label"].dtype == batch["label"].dtype


def test_steps_are_separated_in_the_recordings_of_a_minibatch():
    batch = build([np.full((4, 3), 0.3), np.full((2, 3), 0.3)], [[1, 2, 2, 0], [0, 1]])
    assert data.separate_steps(batch.take([1, 0]))["label"].tolist() == [0, 1, 1, 0, 2, 0]


@pytest.mark.parametrize(
    ("short", "expected", "counts"),
    [
        ("borrow", [1, 1, 0, 2, 0, 1, 0], {"separated": 2, "borrowed": 1, "merged": 0}),
        ("merge", [1, 1, 0, 2, 2, 2, 0], {"separated": 1, "borrowed": 0, "merged": 1}),
    ],
)
def test_short_steps_borrow_or_merge(short, expected, counts):
    label = [1, 1, 2, 2, 2, 1, 0]
    apart = data.separate_steps(build([np.full((7, 3), 0.3)], [label], names=["ann"]), short=short)
    assert apart["label"].tolist() == expected
    assert {name: apart.info[name] for name in counts} == counts
    check_labels(apart)


def test_a_short_step_needs_something_to_borrow():
    batch = build([np.full((3, 3), 0.3)], [[1, 2, 0]], names=["ann"])
    with refuses("recording 'ann', frame 1: 'press' follows 'shake'"):
        data.separate_steps(batch, short="borrow")
    with refuses("short: 'drop' is none of"):
        data.separate_steps(batch, short="drop")


def test_missing_frames_and_unknown_labels_are_kept():
    score = np.full((4, 3), 0.3)
    score[2] = np.nan
    batch = build([score], [[0, -1, 1, -1]], names=["ann"])
    assert batch["score"][2].tolist() == [data.MISSING] * 3
    assert batch["label"].tolist() == [0, -1, 1, -1]
    assert not build([score], [[-1] * 4], names=["ann"])["labelled"].any()
    score[1, 2] = np.nan
    with refuses(
        "recording 'ann', frame 1: the score of 'press', nan, is not finite; give all scores of a frame, or NaN"
    ):
        build([score], names=["ann"])


def test_recordings_without_non_event_have_steps_only():
    score = [np.full((3, 2), 0.5)]
    batch = data.recordings(score, [[1, 2, 1]], labels=LABELS[1:], rate=1, non_event=False)
    assert batch.columns("score") == ["non-event", "shake", "press"]
    assert batch["score"][0].tolist() == [0.0, 0.5, 0.5]
    with refuses(
        "frame 0: the label 0 is none of 1..2; give -1 where the label is not known, and number the steps from 1"
    ):
        data.recordings(score, [[0, 1, 1]], labels=LABELS[1:], rate=1, non_event=False)


def test_nothing_is_separated_where_there_is_nothing_to():
    apart, unlabelled = build(label=[[1, 0], [2]]), build()
    for batch in (apart, unlabelled, simulator.simulate("pen", 2, n_unlabelled=1), datasets.watch_sessions_all()):
        assert data.separate_steps(batch) is batch
    # Labels of a recording that is not labelled are none.
    hidden = apart.with_tensors({"label": torch.tensor([1, 2, 1]), "labelled": torch.tensor([False, True])})
    assert data.separate_steps(hidden) is hidden


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([[0, 0], [0, 1, 2, 0]], "recording 'bob', frame 2: 'press' follows 'shake' without a non-event frame between"),
        ([[0, 0], [0, 1, 1, 2]], "recording 'bob', frame 3: 'press' follows 'shake'"),
        ([[1, 2], [1, 2, 2, 0]], "recording 'ann', frame 1: 'press' follows 'shake'"),
        (
            [[0, 0], [1, 2, 2, 1]],
            "recording 'bob', frame 3: 'shake' follows 'press' without a non-event frame between them and has this "
            "frame only, so that it would vanish; give short='borrow' or short='merge', label a frame beside it "
            "non-event, or leave the recording out",
        ),
    ],
)
def test_a_step_that_would_vanish_is_refused(label, message):
    with refuses(message):
        data.separate_steps(build([np.full((2, 3), 0.3), np.full((4, 3), 0.3)], label))


BAD = rows((0.8, 0.1, 0.1), (0.2, 0.7, 0.1))


def with_cell(value: float) -> list[np.ndarray]:
    bad = BAD.copy()
    bad[1, 2] = value
    return [SCORE[0], bad]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": []}, "score: there are no recordings; give at least one"),
        ({"score": [SCORE[0], np.zeros((0, 3))]}, "recording 'bob': it has no frames; leave it out"),
        ({"score": [SCORE[0], np.zeros(3)]}, "recording 'bob': scores of shape (3,); give one row for each frame"),
        (
            {"score": [SCORE[0], np.zeros((4, 2))]},
            "recording 'bob': 2 scores in a frame for 3 labels ['non-event', 'shake', 'press']; give a score to each",
        ),
        ({"score": [SCORE[0], [["x"] * 3]]}, "recording 'bob': its scores are not numbers"),
        ({"score": [SCORE[0], [[0.1], [0.1, 0.2]]]}, "recording 'bob': its scores are not numbers"),
        ({"score": with_cell(np.nan)}, "recording 'bob', frame 1: the score of 'press', nan, is not finite; give all"),
        ({"score": with_cell(np.inf)}, "recording 'bob', frame 1: the score of 'press', inf, is not finite"),
        ({"score": with_cell(-0.5)}, "recording 'bob', frame 1: the score of 'press', -0.5, is negative; give prob"),
        ({"score": with_cell(30.0)}, "recording 'bob', frame 1: the score of 'press', 30, is above 1; give prob"),
        ({"label": [[0, 1]]}, "label: 1 entries for 2 recordings; give one for each"),
        ({"label": [[0, 1], [0, 1]]}, "recording 'bob': labels of shape (2,) for 1 frames; give one for each"),
        (
            {"label": [[0, 3], None]},
            "recording 'ann', frame 1: the label 3 is none of 0..2; give -1 where the label is not known",
        ),
        ({"label": [[-2, 0], None]}, "recording 'ann', frame 0: the label -2 is none of 0..2"),
        ({"label": [[0, np.nan], None]}, "recording 'ann', frame 1: the label nan is none of"),
        ({"label": [[0, 0.5], None]}, "recording 'ann', frame 1: the label 0.5 is none of"),
        ({"label": [["a", "b"], None]}, "recording 'ann': its labels are <U1 values; give whole numbers 0..2"),
        ({"names": ["ann", "ann"]}, "names: 'ann' is the name of two recordings; give each its own"),
        ({"names": ["ann"]}, "names: 1 entries for 2 recordings"),
        ({"subjects": ["p"]}, "subjects: 1 entries for 2 recordings"),
        ({"labels": ["a", "a", "b"]}, "labels: ['a', 'a', 'b']; give non-event and at least one step, each a name"),
        ({"labels": ["a"]}, "labels: ['a']; give non-event and at least one step"),
        ({"rate": 0}, "rate: 0 is not a positive number of frames per second"),
        ({"rate": -1.0}, "rate: -1.0 is not"),
        ({"rate": np.inf}, "rate: inf is not"),
    ],
)
def test_wrong_recordings_are_refused(options, message):
    with refuses(message):
        build(**options)


# ------------------------------------------------------------------ npz files
FIELDS = {
    "score": np.concatenate(SCORE),
    "recording": np.array(["ann", "ann", "bob"]),
    "label": np.array([0, 1, -1]),
    "labels": np.array(LABELS),
    "rate": np.array(2.0),
}


def npz(folder, leave_out=(), **changes):
    path = folder / "scores.npz"
    np.savez(path, **{name: value for name, value in (FIELDS | changes).items() if name not in leave_out})
    return path


def test_an_npz_file_is_read(tmp_path):
    batch = readers.read(npz(tmp_path))
    expected = build(label=[[0, 1], None], name="scores", simulated=False)
    assert batch.sha256 == expected.sha256
    assert batch.names("recording").tolist() == ["ann", "bob"]
    assert batch.coords["label_class"].tolist() == LABELS
    assert dict(batch.info) == {"rate": 2.0, "name": "scores", "simulated": False, "source": "scores.npz"}


def test_an_npz_file_may_be_scores_and_recordings_only(tmp_path):
    batch = readers.read(str(npz(tmp_path, leave_out=["label", "labels", "rate"], recording=np.array([7, 7, 8]))))
    assert batch["labelled"].tolist() == [False, False]
    assert batch.coords["label_class"].tolist() == ["non-event", "step 1", "step 2"]
    assert batch.names("recording").tolist() == ["7", "8"]
    assert batch.info["rate"] == 1.0
    assert batch.info["rate_assumed"] is True


def test_arguments_say_what_the_file_does_not(tmp_path):
    batch = readers.read(npz(tmp_path, leave_out=["labels", "rate"]), labels=["none", "a", "b"], rate=4)
    assert batch.coords["label_class"].tolist() == ["none", "a", "b"]
    assert batch.info["rate"] == 4.0
    assert "rate_assumed" not in batch.info


def test_the_argument_sets_the_order_of_the_files_labels(tmp_path):
    score, label = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 0, 2])
    path = npz(tmp_path, score=score, label=label, recording=np.array(["a"] * 4))
    batch = readers.read(path, labels=["non-event", "press", "shake"])
    assert batch["label"].tolist() == [0, 2, 0, 1]
    assert batch["score"].argmax(1).tolist() == [0, 2, 1, 0]
    unlabelled = readers.read(npz(tmp_path), labels=["shake", "press", "non-event"])
    assert unlabelled["label"].tolist() == [2, 0, 0]
    assert unlabelled["labelled"].tolist() == [True, False]
    assert unlabelled["score"][0].tolist() == pytest.approx([0.1, 0.1, 0.8])


def test_a_simulated_batch_survives_a_file(tmp_path):
    batch = simulator.simulate("pen", 4)
    names = np.repeat(batch.names("recording").astype(str), batch["lengths"])
    path = npz(
        tmp_path,
        score=batch["score"].numpy(),
        label=batch["label"].numpy(),
        recording=names,
        labels=batch.coords["label_class"].astype(str),
        rate=batch.info["rate"],
    )
    assert readers.read(path).sha256 == batch.sha256


def test_a_loader_takes_steps_without_a_gap_as_they_are(tmp_path):
    batch = readers.read(npz(tmp_path, label=np.array([1, 2, 0])))
    assert batch["label"].tolist() == [1, 2, 0]
    assert dict(batch.info) == {"rate": 2.0, "name": "scores", "simulated": False, "source": "scores.npz"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leave_out": ["score"]}, "array 'score' is missing; the file has ['recording', 'label', 'labels', 'rate']"),
        ({"leave_out": ["recording"]}, "array 'recording' is missing"),
        ({"score": np.zeros(3)}, "field 'score': float64 of shape (3,); give numbers, shape (N, K)"),
        ({"score": np.array([["a"]])}, "field 'score': <U1 of shape (1, 1)"),
        ({"recording": np.array(["a"])}, "field 'recording': <U1 of shape (1,); give the name of each of 3 frames'"),
        ({"recording": np.zeros(3)}, "field 'recording': float64 of shape (3,)"),
        (
            {"recording": np.array(["a", "b", "a"])},
            "field 'recording', row 2: 'a' goes on after another recording; put the frames of each recording together",
        ),
        ({"recording": np.array(["a", " ", "b"])}, "field 'recording', row 1: the name is missing; name the recording"),
        ({"label": np.array([0, 5, -1])}, "field 'label', row 1: 5 is none of 0..2; give the number of a label, or -1"),
        ({"label": np.array([0, -2, -1])}, "field 'label', row 1: -2 is none of 0..2"),
        ({"label": np.array([0.0, 1.0, 1.0])}, "field 'label': float64 of shape (3,); give a whole number for each"),
        ({"label": np.array([0])}, "field 'label': int64 of shape (1,)"),
        ({"labels": np.array(["a", "b"])}, "field 'labels': shape (2,); give the names of the 3 scores"),
        ({"labels": np.array([1, 2, 3])}, "field 'labels': shape (3,)"),
        ({"labels": np.array(["a", "a", "b"])}, "labels: ['a', 'a', 'b']; give non-event"),
        ({"rate": np.array([1.0, 2.0])}, "field 'rate': [1.0, 2.0]; give one positive number of frames per second"),
        ({"rate": np.array(-1.0)}, "field 'rate': -1.0; give one positive number"),
        ({"rate": np.array("fast")}, "field 'rate': fast; give one positive number"),
        ({"score": FIELDS["score"] * [np.nan, 1, 1]}, "recording 'ann', frame 0: the score of 'non-event', nan"),
        ({"non_event": np.array(2)}, "field 'non_event': 2; give True or False"),
        ({"non_event": np.array(False)}, "field 'label', row 0: 0 is none of 1..3"),
        ({"score": np.zeros((0, 3)), "recording": np.zeros(0, str), "label": np.zeros(0, int)}, "no recordings"),
        (
            {"recording": np.array(["ann", "ann", "bob"], dtype=object)},
            "array 'recording' cannot be read (it holds Python objects, which could run code; give numbers, or text",
        ),
    ],
)
def test_wrong_npz_files_are_refused(tmp_path, changes, message):
    path = npz(tmp_path, **changes)
    with refuses(message) as caught:
        readers.read(path)
    assert str(path) in str(caught.value)


def test_arguments_that_contradict_the_file_are_refused(tmp_path):
    with refuses("field 'rate': 2, but the argument rate says 3; leave the wrong one out"):
        readers.read(npz(tmp_path), rate=3.0)
    assert readers.read(npz(tmp_path), rate=2).info["rate"] == 2.0
    with refuses("the file lacks ['inhale'] and has ['press'] beside; give the names of the file, in any order"):
        readers.read(npz(tmp_path), labels=["non-event", "shake", "inhale"])
    with refuses("recording 'ann': 3 scores in a frame for 2 labels ['non-event', 'shake']"):
        readers.read(npz(tmp_path, leave_out=["labels", "label"]), labels=["non-event", "shake"])
    with refuses("rate: 0 is not a positive"):
        readers.read(npz(tmp_path, leave_out=["rate"]), rate=0)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_truncated_npz_file_is_refused(tmp_path, share):
    path = npz(tmp_path, score=np.random.default_rng(0).random((3, 3)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with refuses(f"{path}: no npz file, or only a part of one"):
        readers.read(path)


def test_a_damaged_npz_file_is_refused(tmp_path):
    path = npz(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(FIELDS["score"].tobytes())] ^= 255
    path.write_bytes(content)
    with refuses("array 'score' cannot be read (Bad CRC-32"):
        readers.read(path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))


def test_no_code_of_a_file_is_run(tmp_path):
    path = tmp_path / "scores.npz"
    path.write_bytes(pickle.dumps(Bomb()))
    with refuses("no npz file, or only a part of one"):
        readers.read(path)
    np.savez(path, **FIELDS | {"label": np.array([Bomb()] * 3, dtype=object)})
    with refuses("array 'label' cannot be read (it holds Python objects"):
        readers.read(path)


def test_a_single_array_is_refused(tmp_path):
    path = tmp_path / "scores.npz"
    with path.open("wb") as file:
        np.save(file, FIELDS["score"])
    with refuses("no npz file, or only a part of one (File is not a zip file); write it again with numpy.savez"):
        readers.read(path)


def test_missing_files_and_other_endings_are_refused(tmp_path):
    with refuses("nowhere.npz: there is no such file", FileNotFoundError):
        readers.read(tmp_path / "nowhere.npz")
    with refuses("scores.xlsx: a file .xlsx; give one of ['.csv', '.npz']"):
        readers.read(tmp_path / "scores.xlsx")
    with refuses("a file without ending"):
        readers.read(tmp_path / "scores")


# ------------------------------------------------------------------ csv files
CSV = """recording,frame,label,non-event,shake,press
ann,0,non-event,0.8,0.1,0.1
ann,1,shake,0.2,0.7,0.1
bob,5,,0.3,0.3,0.4
"""


def csv(folder, text=CSV, **options):
    path = folder / "scores.csv"
    path.write_text(text, **{"encoding": "utf-8"} | options)
    return path


def test_a_csv_file_is_read(tmp_path):
    batch = readers.read(csv(tmp_path), rate=2)
    assert batch.sha256 == build(label=[[0, 1], None]).sha256
    assert batch.coords["label_class"].tolist() == LABELS
    assert batch.names("recording").tolist() == ["ann", "bob"]
    assert dict(batch.info) == {"rate": 2.0, "name": "scores", "simulated": False, "source": "scores.csv"}


def test_a_csv_file_as_spreadsheets_write_it(tmp_path):
    text = CSV.replace("non-event,0.8", "0.0,0.8").replace(",shake,0.2", ",1,0.2").replace(",press", ", press ")
    path = csv(tmp_path, text.replace("\n", "\r\n") + "\r\n", encoding="utf-8-sig")
    batch = readers.read(path)
    assert batch.sha256 == build(label=[[0, 1], None]).sha256
    assert batch.coords["label_class"].tolist() == LABELS
    assert batch.info["rate_assumed"] is True


def test_a_csv_file_may_be_scores_and_recordings_only(tmp_path):
    batch = readers.read(csv(tmp_path, "off,on,recording\n0.5,0.5,1\n1,0,1\n0,1,02\n"))
    assert batch.coords["label_class"].tolist() == ["off", "on"]
    assert batch.names("recording").tolist() == ["1", "02"]  # names are text, even where they look like numbers
    assert batch["labelled"].tolist() == [False, False]


def test_a_csv_file_may_have_an_empty_column_of_labels(tmp_path):
    batch = readers.read(csv(tmp_path, "recording,label,off,on\na,,0.5,0.5\nb,,0.5,0.5\n"))
    assert batch["labelled"].tolist() == [False, False]


def test_names_that_look_like_missing_values_are_names(tmp_path):
    batch = readers.read(csv(tmp_path, "recording,label,None,NA\nNaN,NA,0.5,0.5\nnull,None,0.5,0.5\n"))
    assert batch.names("recording").tolist() == ["NaN", "null"]
    assert batch["label"].tolist() == [1, 0]


def test_the_argument_sets_the_order_of_the_columns(tmp_path):
    batch = readers.read(csv(tmp_path), labels=["non-event", "press", "shake"])
    assert batch["label"].tolist() == [0, 2, 0]
    assert batch["score"][1].tolist() == pytest.approx([0.2, 0.1, 0.7])
    with refuses("the labels of the file are ['non-event', 'shake', 'press'], those asked for ['non-event', 'inhale']"):
        readers.read(csv(tmp_path), labels=["non-event", "inhale"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty; give a line of headers"),
        (CSV.splitlines()[0], "there are no frames; give at least one row"),
        (CSV.replace("recording", "patient"), "column 'recording' is missing; the file has ['patient', 'frame',"),
        ("recording,label,a\nx,a,1\n", "1 columns of scores ['a']; give one for non-event and one for each step"),
        (CSV.replace("press", "shake"), "the header 'shake' is empty or there twice"),
        (CSV.replace("press", ""), "the header '' is empty or there twice; give each column a name of its own"),
        (CSV.replace("0.7", "high"), "column 'shake', row 2: the cell holds 'high', which is no number; give a score"),
        (CSV.replace("0.7", ""), "column 'shake', row 2: the cell is empty; give a score between 0 and 1"),
        (CSV.replace("0.3,0.4", "0.3"), "column 'press', row 3: the cell is empty"),
        (CSV.replace("0.7", "nan"), "column 'shake', row 2: the cell holds 'nan', which is no number"),
        (CSV.replace("0.7", "inf"), "recording 'ann', frame 1: the score of 'shake', inf, is not finite"),
        (CSV.replace("0.7", "-0.7"), "recording 'ann', frame 1: the score of 'shake', -0.7, is negative"),
        (CSV.replace("ann,1", "ann,0"), "column 'frame', row 2: frame 0 of recording 'ann' follows frame 0; put"),
        (CSV.replace("ann,1", "ann,x"), "column 'frame', row 2: the cell holds 'x', which is no number; number"),
        (CSV.replace("bob,5", ",5"), "field 'recording', row 3: the name is missing"),
        (CSV + "ann,2,,1,0,0\n", "field 'recording', row 4: 'ann' goes on after another recording"),
        (CSV.replace(",shake,0", ",inhale,0"), "column 'label', row 2: 'inhale' is neither one of the labels ['non-"),
        (CSV.replace(",shake,0", ",3,0"), "column 'label', row 2: '3' is neither one of the labels"),
        (CSV.replace(",shake,0", ",-1,0"), "column 'label', row 2: '-1' is neither"),
        (CSV.replace(",shake,0", ",0.5,0"), "column 'label', row 2: '0.5' is neither"),
        (CSV.replace("0.7,0.1", "0.7,0.1,0.9"), "a row has more cells than there are headers"),
        (CSV.replace("0.1\n", "0.1,9\n").replace("0.4\n", "0.4,9\n"), "a row has more cells than there are headers"),
    ],
)
def test_wrong_csv_files_are_refused(tmp_path, text, message):
    path = csv(tmp_path, text)
    with refuses(message) as caught:
        readers.read(path)
    assert str(path) in str(caught.value)


def test_a_csv_file_in_another_encoding_is_refused(tmp_path):
    path = csv(tmp_path, CSV.replace("ann", "zoë"), encoding="latin1")
    with refuses("it is not text in UTF-8; save it as a csv file in that encoding"):
        readers.read(path)
    assert readers.read(csv(tmp_path, CSV.replace("ann", "zoë"))).names("recording").tolist() == ["zoë", "bob"]


# ------------------------------------------------------------------ watch sessions
@pytest.fixture(scope="module")
def watch() -> dict[str, np.ndarray]:
    with np.load(data_path("watch_sessions/watch_sessions.npz"), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_the_file_of_watch_sessions_is_the_one_its_readme_names():
    readme = data_path("watch_sessions/README.md").read_text(encoding="utf-8")
    content = data_path("watch_sessions/watch_sessions.npz").read_bytes()
    assert f"`{hashlib.sha256(content).hexdigest()}`" in readme
    assert f"{len(content):,} bytes" in readme
    assert len(content) < 2_000_000
    maker = data_path("watch_sessions/make.py").read_text(encoding="utf-8")
    (source,) = re.findall(r'SOURCE_SHA256 = "([0-9a-f]{64})"', maker)
    assert source in readme
    assert "Copyright (c) 2018, David M. Burns" in readme


def test_the_arrays_are_those_of_the_readme(watch):
    readme = data_path("watch_sessions/README.md").read_text(encoding="utf-8")
    n = len(watch["label"])
    assert n == 5200
    for name, value in watch.items():
        shape = ", ".join("N" if size == n else str(size) for size in value.shape) + ("," if value.ndim == 1 else "")
        kind = "text" if value.dtype.kind == "U" else str(value.dtype)
        assert f"| `{name}` | ({shape}) {kind} |" in readme
    assert len(re.findall(r"^\| `\w+` \|", readme, re.MULTILINE)) == len(watch)


def test_watch_sessions_are_staged_as_the_readme_says(watch):
    for i in range(20):
        label, start, stop = segments.runs(watch["label"][watch["session"] == i])
        assert label.tolist() == [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]
        gap = (stop - start)[label == 0]
        assert gap.min() >= 3
        assert gap.max() <= 12
    assert (np.diff(watch["session"]) >= 0).all()
    assert watch["steps"][0] == "non-event"
    assert watch["rate"] == 1.0
    assert list(zip(watch["subject"], watch["side"], strict=True)) == [(s, a) for s in range(1, 11) for a in (0, 1)]


def test_nested_scores_are_probabilities_that_differ_between_folds(watch):
    score, owner = watch["score"], watch["subject"][watch["session"]] - 1
    np.testing.assert_allclose(score.sum(-1), 1, atol=1e-6)
    assert score.min() >= 0
    # Each (fold, owner) has a forest of its own, but for the pairs (j, i) and (i, j), which have disjoint rows.
    for i in range(10):
        own = score[:, owner == i]
        for a, b in pairwise(range(10)):
            assert not np.array_equal(own[a], own[b])


def test_no_scored_frame_was_in_the_training_of_its_forest(watch):
    """A forest scores what it was trained on almost without error; a new person it does not."""
    owner = watch["subject"][watch["session"]] - 1
    right = watch["score"].argmax(-1) == watch["label"]
    by_fold = np.array([[right[j, owner == i].mean() for i in range(10)] for j in range(10)])
    test = by_fold.diagonal()
    assert np.mean(right[owner, np.arange(len(owner))]) == pytest.approx(0.811, abs=0.001)
    assert (test.min(), test.max()) == pytest.approx((0.687, 0.933), abs=0.001)
    # Scored by forests without them, people are as hard in the folds of others as in their own.
    assert by_fold.max() < 0.97
    training = (by_fold.sum(0) - test) / 9
    assert np.corrcoef(training, test)[0, 1] > 0.9
    assert -0.03 < training.mean() - test.mean() < 0.01


@pytest.mark.parametrize("fold", [None, 0, 4, 9])
def test_a_fold_of_watch_sessions(watch, fold):
    train, test = datasets.watch_sessions(fold)
    j = fold or 0
    assert (train.n_rows, test.n_rows) == (18, 2)
    assert set(test.group_names("subject")) == {f"S{j + 1}"}
    assert set(train.group_names("subject")) == {f"S{i + 1}" for i in range(10)} - {f"S{j + 1}"}
    assert test.names("recording").tolist() == [f"S{j + 1} left", f"S{j + 1} right"]
    own = watch["subject"][watch["session"]] == j + 1
    np.testing.assert_array_equal(test["score"], watch["score"][j, own].astype(test["score"].numpy().dtype))
    np.testing.assert_array_equal(train["score"], watch["score"][j, ~own].astype(train["score"].numpy().dtype))
    np.testing.assert_array_equal(train["label"], watch["label"][~own])
    for batch in (train, test):
        assert batch["labelled"].all()
        assert batch.coords["label_class"].tolist() == watch["steps"].tolist()
        assert batch.info["name"] == "watch_sessions"
        assert batch.info["simulated"] is False
        assert batch.info["semi_synthetic"] is True
        assert batch.info["rate"] == 1.0
        assert (batch.info["fold"], batch.info["test_subject"]) == (j, f"S{j + 1}")


def test_all_watch_sessions_have_the_scores_of_their_own_folds():
    batch = datasets.watch_sessions_all()
    assert batch.n_rows == 20
    assert batch.sizes["subject"] == 10
    assert int(batch["lengths"].sum()) == 5200
    assert "fold" not in batch.info
    for fold in (0, 7):
        test = datasets.watch_sessions(fold)[1]
        assert torch.equal(batch.subset([2 * fold, 2 * fold + 1])["score"], test["score"])


@pytest.mark.parametrize("fold", [-1, 10, 1.5, np.nan, "S1"])
def test_a_fold_that_is_not_there_is_refused(fold):
    with refuses(f"fold: {fold!r}; the 10 test subjects have the positions 0..9"):
        datasets.watch_sessions(fold)


def test_reading_the_maker_runs_nothing_of_a_pickle():
    """The unpickler of the maker script takes arrays, and no function that a file names."""
    import importlib.util
    import io

    spec = importlib.util.spec_from_file_location("make_watch_sessions", data_path("watch_sessions/make.py"))
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    with pytest.raises(pickle.UnpicklingError, match="which is no part of an array"):
        maker.ArraysOnly(io.BytesIO(pickle.dumps(Bomb()))).load()
    # An array as NumPy 1 wrote it.
    array = np.arange(6.0).reshape(2, 3)
    content = pickle.dumps(array, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(maker.ArraysOnly(io.BytesIO(content)).load(), array)


# ------------------------------------------------------------------ segments
sequences = st.lists(st.integers(0, 3), min_size=1, max_size=30).map(np.array)


def test_runs():
    label, start, stop = segments.runs(np.array([0, 0, 2, 2, 2, 1, 0]))
    assert label.tolist() == [0, 2, 1, 0]
    assert start.tolist() == [0, 2, 5, 6]
    assert stop.tolist() == [2, 5, 6, 7]
    assert [len(part) for part in segments.runs(np.zeros(0, int))] == [0, 0, 0]
    assert segments.runs([3]).label.tolist() == [3]


@given(sequences)
def test_runs_are_the_sequence(z):
    label, start, stop = segments.runs(z)
    np.testing.assert_array_equal(np.repeat(label, stop - start), z)
    assert (label[1:] != label[:-1]).all()
    assert (start[1:] == stop[:-1]).all()


def test_a_table_of_steps():
    table = segments.segment_table(
        [np.array([0, 0, 1, 1, 1, 0, 2, 2]), np.array([0, 0]), np.array([2, 0, 0, 0, 1])], ["a", "b", "c"], LABELS, 2.0
    )
    assert table.columns.tolist() == ["recording", "label", "start_s", "stop_s", "duration_s", "gap_s", "previous"]
    assert table["recording"].tolist() == ["a", "a", "c", "c"]
    assert table["label"].tolist() == ["shake", "press", "press", "shake"]
    assert table["start_s"].tolist() == [1.0, 3.0, 0.0, 2.0]
    assert table["stop_s"].tolist() == [2.5, 4.0, 0.5, 2.5]
    assert table["duration_s"].tolist() == [1.5, 1.0, 0.5, 0.5]
    assert table["gap_s"].isna().tolist() == table["previous"].isna().tolist() == [True, False, True, False]
    assert table["gap_s"].dropna().tolist() == [0.5, 1.5]
    assert table["previous"].dropna().tolist() == ["shake", "press"]


def test_a_table_without_steps_keeps_its_columns():
    table = segments.segment_table([np.zeros(3, int)], ["a"], LABELS, 1.0)
    assert table.empty
    assert table["gap_s"].dtype == float
    assert np.isnan(table["duration_s"].mean())
    assert segments.segment_table([], [], LABELS, 1.0).columns.tolist() == table.columns.tolist()


def test_a_table_of_simulated_data_has_the_gaps_of_the_labels():
    batch = simulator.simulate("pen", 20)
    table = segments.segment_table(by_recording(batch, "label"), batch.names("recording"), PEN.labels, 5.0)
    assert isinstance(table, pd.DataFrame)
    assert set(table["label"]) == set(PEN.steps)
    later = table.dropna(subset="previous")
    assert (later["gap_s"] >= 0.2 - 1e-9).all()
    assert len(table) - len(later) <= 20


def test_frame_accuracy():
    assert segments.frame_accuracy([0, 1, 2, 2], [0, 1, 1, 0]) == 0.5


def test_segment_f1_by_hand():
    truth = [np.array([0, 1, 1, 1, 1, 0, 2, 2, 0])]
    assert segments.segment_f1(truth, truth) == 1
    # Step 1: IoU 3/4. Step 2: of two halves each has IoU 1/2, and only one can be right.
    guess = [np.array([0, 1, 1, 1, 0, 0, 2, 0, 2])]
    assert segments.segment_f1(truth, guess) == pytest.approx(2 * 2 / (2 + 3))
    assert segments.segment_f1(truth, guess, iou=0.75) == pytest.approx(2 * 1 / (2 + 3))
    assert segments.segment_f1(truth, guess, iou=0.8) == 0


def test_segments_of_another_step_or_recording_do_not_match():
    a, b, none = np.array([0, 1, 1]), np.array([0, 2, 2]), np.array([0, 0, 0])
    assert segments.segment_f1([a], [b]) == 0
    assert segments.segment_f1([a, none], [none, a]) == 0
    assert segments.segment_f1([a, b], [a, none]) == pytest.approx(2 / 3)
    assert segments.segment_f1([none], [none]) == 1
    assert segments.segment_f1([], []) == 1


def test_the_best_overlap_is_matched_first():
    # The first predicted segment overlaps with both true ones; in the order of time it would take the first.
    truth = [np.array([1, 0, 1, 1, 1, 1, 0, 0])]
    guess = [np.array([1, 1, 1, 1, 1, 1, 0, 1])]
    assert segments.segment_f1(truth, guess, iou=0.1) == pytest.approx(2 / 4)
    assert segments.segment_f1(guess, truth, iou=0.1) == pytest.approx(2 / 4)


def slow_f1(truth, guess, iou):
    right = total = 0
    for z, y in zip(truth, guess, strict=True):
        parts = [[(k, set(range(a, b))) for k, a, b in zip(*segments.runs(s), strict=True) if k > 0] for s in (z, y)]
        total += len(parts[0]) + len(parts[1])
        pairs = sorted(
            ((len(g & p) / len(g | p), i, j) for i, (k, g) in enumerate(parts[0]) for j, (m, p) in enumerate(parts[1])
             if k == m),
            key=lambda pair: -pair[0],
        )  # fmt: skip
        used_i, used_j = set(), set()
        for overlap, i, j in pairs:
            if overlap >= iou and i not in used_i and j not in used_j:
                used_i.add(i)
                used_j.add(j)
                right += 1
    return 2 * right / total if total else 1.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30), st.sampled_from([0.2, 0.5]))
@settings(deadline=None)
def test_segment_f1_is_that_of_sets_of_frames(frames, iou):
    z, y = np.array(frames).T
    assert segments.segment_f1([z], [y], iou) == pytest.approx(slow_f1([z], [y], iou))


def slow_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(new[-1] + 1, row[j] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


@given(st.lists(st.integers(1, 4), max_size=15), st.lists(st.integers(1, 4), max_size=15))
@settings(deadline=None)
def test_the_edit_distance_is_levenshteins(a, b):
    assert segments._levenshtein(np.array(a, int), np.array(b, int)) == slow_distance(a, b)


def test_the_edit_score_sees_the_order_only():
    truth = np.array([0, 1, 1, 0, 2, 0, 3])
    assert segments.edit_score(truth, truth) == 1
    assert segments.edit_score(truth, np.array([1, 0, 2, 2, 2, 3, 3])) == 1
    assert segments.edit_score(truth, np.array([1, 0, 0, 0, 0, 3, 0])) == pytest.approx(2 / 3)
    assert segments.edit_score(truth, np.array([1, 0, 2, 0, 1, 0, 3])) == pytest.approx(3 / 4)
    assert segments.edit_score(truth, np.zeros(7, int)) == 0
    assert segments.edit_score(np.zeros(7, int), np.zeros(7, int)) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
@settings(deadline=None)
def test_scores_lie_between_0_and_1_and_are_1_for_the_truth(frames):
    z, y = np.array(frames).T
    assert all(0 <= value <= 1 for value in segments.scores([z], [y]).values())
    assert set(segments.scores([z, y], [z, y]).values()) == {1.0}


def test_all_scores_together():
    truth, guess = [np.array([0, 1, 1, 0]), np.array([0, 2])], [np.array([0, 1, 1, 1]), np.array([0, 0])]
    out = segments.scores(truth, guess)
    assert out == pytest.approx({"frame_accuracy": 4 / 6, "segment_f1": 2 / 3, "edit": 0.5})
    marginals = [np.full((4, 3), 1 / 3), np.array([[1.0, 0, 0], [1.0, 0, 0]])]
    nll = (4 * np.log(3) - np.log(1e-12)) / 6
    assert segments.scores(truth, guess, marginals) == pytest.approx(out | {"frame_nll": nll})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segments.runs(np.zeros((2, 2))), "labels: shape (2, 2); give one label for each frame, shape (T,)"),
        (lambda: segments.frame_accuracy([0, 1], [0]), "prediction: 1 frames, but the truth has 2"),
        (lambda: segments.frame_accuracy([], []), "truth: there are no frames; give at least one"),
        (lambda: segments.frame_accuracy([[0]], [0]), "truth: shape (1, 1)"),
        (lambda: segments.segment_f1([[0]], []), "prediction: 0 recordings, but the truth has 1"),
        (lambda: segments.segment_f1([[0], [0]], [[0], [0, 1]]), "recording 1: prediction: 2 frames, but the truth"),
        (lambda: segments.segment_f1([[0]], [[0]], iou=0), "iou: 0 is not in (0, 1]"),
        (lambda: segments.edit_score([0], [0, 1]), "prediction: 2 frames, but the truth has 1"),
        (lambda: segments.scores([], []), "truth: there are no recordings; give at least one"),
        (lambda: segments.scores([[0]], [[0]], []), "marginals: 0 recordings, but the truth has 1"),
        (
            lambda: segments.scores([[0, 1]], [[0, 1]], [np.ones((1, 2))]),
            "marginals, recording 0: shape (1, 2); give a probability for each of 2 frames and each label",
        ),
        (lambda: segments.scores([[0, 2]], [[0, 1]], [np.ones((2, 2))]), "marginals, recording 0: shape (2, 2)"),
        (lambda: segments.segment_table([[0]], [], LABELS, 1), "names: 0 names for 1 recordings; give one for each"),
        (lambda: segments.segment_table([[0]], ["a"], LABELS, 0), "rate: 0 is not a positive number of frames"),
        (lambda: segments.segment_table([[3]], ["a"], LABELS, 1), "recording 'a': label 3 has no name; label_names"),
        (lambda: segments.segment_table([[-1]], ["a"], LABELS, 1), "recording 'a': label -1 has no name"),
    ],
)
def test_impossible_segments_are_refused(call, message):
    with refuses(message):
        call()
