"""What a fit of the medication entry is used for: decoding, steps performed, replicates; and what it refuses."""

import os

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from medication_text import path_score

import pyrozoo as zoo
from pyrozoo.models.medication import plug_in, recordings, replicate, separate_steps, simulate
from pyrozoo.models.medication.decoding import log_scores
from pyrozoo.models.medication.experiments import report
from pyrozoo.models.medication.process import decode
from pyrozoo.models.medication.process.counts import labelled_sequences
from pyrozoo.models.medication.process.decode import NoPossiblePath
from pyrozoo.models.medication.process.segments import runs, scores
from pyrozoo.models.medication.uses.decoding import decode_recordings
from pyrozoo.models.medication.uses.replication import Replicated

DECODERS = {
    "semi-markov": ("argmax", "paper", "map", "marginal", "mea"),
    "paper": ("argmax", "paper", "map", "marginal", "mea"),
    "frame-hmm": ("argmax", "viterbi", "map", "marginal", "mea"),
}
NAMES = ["none", "one", "two"]
FEW = 20  # draws for the posterior means


@pytest.fixture(scope="module")
def data():
    """Easy recordings of the pen: 20 to fit, 8 to decode."""
    return simulate("pen", 20, "easy", 0, rate=2.0), simulate("pen", 8, "easy", 1, rate=2.0)


@pytest.fixture(scope="module")
def fits(data):
    return {
        variant: zoo.fit(
            zoo.create_model("medication", data[0], variant=variant), "closed-form", data[0], progress=False
        )
        for variant in DECODERS
    }


def made(labels, seed=0, rate=1.0, **info):
    """Recordings with these labels and random scores."""
    rng = np.random.default_rng(seed)
    score = [rng.dirichlet(np.ones(3), len(z)) * 0.7 + 0.3 * np.eye(3)[np.array(z) % 3] for z in labels]
    return recordings(score, labels, labels=NAMES, rate=rate, names=["a", "b", "c", "d"][: len(labels)], **info)


SMALL = ([0, 1, 1, 0, 2, 0], [0, 0, 1, 0, 2, 2, 0], [0, 1, 1, 1, 0, 0, 2, 0])


@pytest.fixture(scope="module")
def small():
    return zoo.fit(zoo.create_model("medication", made(SMALL)), "closed-form", made(SMALL), progress=False)


@pytest.fixture(scope="module")
def process(small):
    return plug_in(small, made(SMALL), FEW)[0]


def decoded(fit, batch, decoder=None, draws=FEW, **options):
    return decode_recordings(fit, batch, decoder, draws=draws, **options)


# ---------------------------------------------------------------- decoding
@pytest.mark.parametrize(("variant", "decoder"), [(v, d) for v, own in DECODERS.items() for d in own])
def test_every_decoder_gives_a_label_to_every_frame(fits, data, variant, decoder):
    _, test = data
    found = decoded(fits[variant], test, decoder)
    assert found.decoder == decoder
    assert [len(z) for z in found.labels] == test["lengths"].tolist()
    assert found.label_names == tuple(test.coords["label_class"])
    assert found.rate == 2.0
    for gamma in found.marginals:
        np.testing.assert_allclose(gamma.sum(1), 1, atol=1e-9)
        assert gamma.min() >= 0
    assert found.performed.shape == (8, 7)
    assert found.performed.to_numpy().min() >= 0
    assert found.performed.to_numpy().max() <= 1
    score = found.scores(test)
    assert score["frame_accuracy"] > (0.7 if decoder == "paper" else 0.9)  # the text's recursion loses whole steps
    assert score == scores(labelled_sequences(test), found.labels, found.marginals)
    if decoder == "argmax":
        parts = test["score"].split(test["lengths"].tolist())
        assert all((z == part.numpy().argmax(1)).all() for z, part in zip(found.labels, parts, strict=True))
    if decoder == "marginal":
        assert all((z == gamma.argmax(1)).all() for z, gamma in zip(found.labels, found.marginals, strict=True))


@pytest.mark.parametrize("variant", DECODERS)
def test_without_a_name_the_models_own_decoder_is_used(fits, data, variant):
    found = decoded(fits[variant], data[1])
    assert found.decoder == fits[variant].model.default_decoder
    named = decoded(fits[variant], data[1], found.decoder)
    assert all((a == b).all() for a, b in zip(found.labels, named.labels, strict=True))


@pytest.mark.parametrize("decoder", ["paper", "map", "mea"])
def test_paths_have_a_positive_probability(fits, data, decoder):
    """No step follows another without a frame between, and no pair that was not seen."""
    fit = fits["semi-markov"]
    process, _ = plug_in(fit, data[0], FEW)
    for labels in decoded(fit, data[1], decoder).labels:
        step = labels > 0
        assert not (step[1:] & step[:-1] & (labels[1:] != labels[:-1])).any()
        assert torch.isfinite(process.log_prob(labels, np.array([len(labels)]))).all()


def test_the_exact_maximum_beats_all_other_paths(fits, data):
    fit, test = fits["paper"], data[1]
    process, power = plug_in(fit, data[0], FEW)
    own = log_scores(fit.model, test, power)
    found = {d: path_score(own, decode.decode(own, process, d), process) for d in ("map", "mea", "paper")}
    assert (found["map"] >= found["mea"] - 1e-9).all()
    assert (found["map"] >= found["paper"] - 1e-9).all()
    assert (found["map"] > found["mea"] + 1e-6).any()


def test_true_labels_are_not_used(fits, data):
    fit, test = fits["semi-markov"], data[1]
    hidden = decoded(fit, test.hide())
    seen = decoded(fit, test)
    assert hidden.frames().equals(seen.frames())
    assert hidden.performed.equals(seen.performed)


def test_a_table_of_frames(fits, data):
    fit, test = fits["semi-markov"], data[1]
    found = decoded(fit, test, seed=3)
    frames = found.frames()
    assert frames.index.names == ["recording", "frame"]
    assert len(frames) == int(test["lengths"].sum())
    labels = test.coords["label_class"].tolist()
    assert list(frames.columns) == ["label.label", *[f"label.p[{name}]" for name in labels]]
    own = frames.loc["r3"]
    assert list(own.index) == list(range(int(test["lengths"][3])))
    assert own["label.label"].tolist() == [labels[k] for k in found.labels[3]]
    np.testing.assert_array_equal(own.iloc[:, 1:].to_numpy(), found.marginals[3])
    assert zoo.predict(fit, test, draws=FEW, seed=3).equals(frames)


def test_predict_takes_a_decoder(fits, data):
    fit, test = fits["semi-markov"], data[1]
    plain = zoo.predict(fit, test, draws=FEW, decoder="argmax")["label.label"].to_numpy()
    expected = test.coords["label_class"][test["score"].numpy().argmax(1)]
    assert (plain == expected).all()
    assert (zoo.predict(fit, test, draws=FEW)["label.label"].to_numpy() != expected).any()
    with pytest.raises(ValueError, match="decoder: 'best' does not decode a process of steps; choose one of"):
        zoo.predict(fit, test, decoder="best")


@pytest.mark.parametrize("variant", DECODERS)
def test_metrics_are_those_of_the_decoding(fits, data, variant):
    fit, test = fits[variant], data[1]
    own = decoded(fit, test).scores(test)
    found = zoo.metrics(fit, test, draws=FEW)
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece")
    assert set(found) == {f"label.{name}" for name in names}
    assert found["label.accuracy"] == pytest.approx(own["frame_accuracy"])
    assert found["label.log_loss"] == pytest.approx(own["frame_nll"], rel=1e-3)  # which floors probabilities elsewhere


def test_a_table_of_segments(fits, data):
    found = decoded(fits["semi-markov"], data[1])
    table = found.segments()
    for name, labels in zip(found.names, found.labels, strict=True):
        label, start, stop = runs(labels)
        own = table[table["recording"] == name]
        assert own["label"].tolist() == [found.label_names[k] for k in label[label > 0]]
        np.testing.assert_allclose(own["start_s"], start[label > 0] / 2.0)
        np.testing.assert_allclose(own["stop_s"], stop[label > 0] / 2.0)


def test_scores_count_the_labelled_recordings_only(fits, data):
    fit, test = fits["semi-markov"], data[1]
    some = test.with_tensors({"labelled": torch.arange(8) < 3})
    assert decoded(fit, some).scores(some) == decoded(fit, test.subset([0, 1, 2])).scores(test.subset([0, 1, 2]))


def test_omitted_steps_are_told_from_performed_ones(fits, data):
    _, test = data
    found = decoded(fits["semi-markov"], test).performed
    assert found.index.tolist() == [f"r{i}" for i in range(8)]
    assert found.columns.tolist() == test.coords["label_class"][1:].tolist()
    really = np.array([[(z == k).any() for k in range(1, 8)] for z in labelled_sequences(test)])
    assert (~really).sum() == 7
    assert (found.to_numpy()[really] > 0.75).all()
    assert (found.to_numpy()[~really] < 0.01).sum() == 6  # the classifier claims the seventh


def test_means_are_taken_over_draws_or_marginals_averaged(fits, data):
    fit, test = fits["semi-markov"], data[1].subset([0, 1])
    plain = decoded(fit, test)
    averaged = decoded(fit, test, average=6)
    again = decoded(fit, test, average=6)
    other = decoded(fit, test, average=6, seed=1)
    assert averaged.frames().equals(again.frames())
    assert not averaged.frames().equals(plain.frames())
    assert not averaged.frames().equals(other.frames())
    for a, b in zip(averaged.marginals, plain.marginals, strict=True):
        np.testing.assert_allclose(a.sum(1), 1)
        assert abs(a - b).mean() < 0.02
    assert (averaged.performed - plain.performed).abs().to_numpy().mean() < 0.05
    marginal = decoded(fit, test, "marginal", average=6)
    assert all((z == gamma.argmax(1)).all() for z, gamma in zip(marginal.labels, averaged.marginals, strict=True))


@pytest.mark.parametrize("decoder", ["argmax", "map", "paper"])
def test_only_marginals_are_averaged(fits, data, decoder):
    with pytest.raises(ValueError, match=f"average: the decoder '{decoder}' plugs in the means; 'marginal' and 'mea'"):
        decoded(fits["semi-markov"], data[1], decoder, average=3)


def test_the_plugged_in_process_has_the_posterior_means(fits, data):
    fit = fits["semi-markov"]
    process, power = plug_in(fit, data[0], draws=400)
    guide = fit.guide
    expected = torch.exp(guide.power_loc + guide.power_scale**2 / 2)
    assert power == pytest.approx(expected.item(), rel=0.1)
    assert process.lead == ()
    one, other = (plug_in(fit, data[0], draws=FEW)[0] for _ in range(2))
    assert torch.equal(one.log_length, other.log_length)
    _, fixed = plug_in(fits["paper"], data[0])
    assert fixed == 1.0


# ---------------------------------------------------------------- replicated recordings
def test_replicated_recordings_are_like_the_observed_ones(fits, data):
    fit, train = fits["semi-markov"], data[0]
    found = replicate(fit, train, draws=12, seed=1)
    assert {k: v.shape for k, v in found.n_steps.items()} == {"observed": (20,), "replicated": (12, 20)}
    truth = labelled_sequences(train)
    assert found.n_steps["observed"].tolist() == [int((runs(z).label > 0).sum()) for z in truth]
    assert abs(found.n_steps["replicated"].mean() - found.n_steps["observed"].mean()) < 2.0
    assert found.replicated["draw"].unique().tolist() == list(range(12))
    for kind in ("duration", "gap"):
        observed, new = found.values(kind)
        assert observed.keys() == new.keys()
        assert all(len(draws) == 12 for draws in new.values())
        for name, own in observed.items():
            if len(own) >= 15:
                drawn = np.concatenate(new[name])
                assert abs(drawn.mean() - own.mean()) < 0.25 * own.mean(), name
    names = set(train.coords["label_class"][1:])
    assert set(found.values()[0]) <= names
    assert all(" → " in name for name in found.values("gap")[0])
    again = replicate(fit, train, draws=12, seed=1)
    pd.testing.assert_frame_equal(found.replicated, again.replicated)


def test_complete_segments_of_observed_recordings(small):
    found = replicate(small, made(SMALL), draws=2)
    table = found.observed.groupby(["kind", "name"])["seconds"].apply(list).to_dict()
    assert table == {("duration", "one"): [2, 1, 3], ("duration", "two"): [1, 2, 1], ("gap", "one → two"): [1, 1, 2]}


def test_draws_without_a_complete_segment_count_too():
    labels = ([0, 0, 0], [0, 1, 0], [0, 0, 0])
    data = made(labels)
    fit = zoo.fit(zoo.create_model("medication", data), "closed-form", data, progress=False)
    found = replicate(fit, data, draws=8, seed=0)
    complete = found.replicated.groupby("draw").size()
    assert 0 < len(complete) < 8
    _, new = found.values()
    assert [len(own) for own in new["one"]] == [complete.get(draw, 0) for draw in range(8)]
    nothing = replicate(fit, data.subset([0]), draws=1, seed=0)
    assert (nothing.observed.empty, nothing.values()) == (True, ({}, {}))


def test_values_of_draws_without_segments_are_empty():
    observed = pd.DataFrame({"kind": ["duration"], "name": ["one"], "seconds": [2.0]})
    replicated = pd.DataFrame({"kind": ["duration"], "name": ["one"], "seconds": [3.0], "draw": [0]})
    found = Replicated(observed, replicated, {"observed": np.ones(1), "replicated": np.ones((3, 1))})
    own, new = found.values()
    assert own["one"].tolist() == [2.0]
    assert [z.tolist() for z in new["one"]] == [[3.0], [], []]


def test_there_is_nothing_to_compare_without_labels(small):
    with pytest.raises(ValueError, match="no recording is labelled"):
        replicate(small, made(SMALL).hide())


# ---------------------------------------------------------------- what does not fit
def test_recordings_at_another_rate_are_refused(fits, data):
    other = simulate("pen", 2, "easy", 1, rate=5.0)
    for use in (decoded, replicate, zoo.predict):
        with pytest.raises(ValueError, match=r"5 frames per second, the model has 2; resample them, or fit"):
            use(fits["semi-markov"], other)
    with pytest.raises(ValueError, match=r"5 frames per second, the model has 2"):
        zoo.fit(fits["semi-markov"].model, "closed-form", other, progress=False)
    with pytest.raises(ValueError, match=r"5 frames per second, the model has 2"):
        decoded(fits["frame-hmm"], other)  # A holds for a frame, whatever it lasts


def test_a_rate_that_was_merely_assumed_is_no_contradiction(small):
    data = made(SMALL, rate=4.0, rate_assumed=True)
    assert decoded(small, data).rate == 1.0


def test_recordings_with_other_labels_are_refused(fits, small):
    with pytest.raises(ValueError, match=r"label_class: the batch has .* where the fit was trained on"):
        decoded(fits["semi-markov"], simulate("inhaler", 2, "easy", 1, rate=2.0))
    wide = recordings([np.ones((4, 4)) / 4], [[0, 1, 2, 3]], labels=[*NAMES, "three"], rate=1.0)
    with pytest.raises(ValueError, match=r"score: 4 columns, the model has 3 labels .*; give one score per label"):
        zoo.fit(small.model, "closed-form", wide, progress=False)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (np.zeros((3, 3)), TypeError, r"log_scores: give a list of recordings, .* for one: \[array\]"),
        ([np.zeros((3, 2))], ValueError, r"recording 0: scores of shape \(3, 2\); .*\(frames, 3\)"),
        ([np.zeros(3)], ValueError, r"recording 0: scores of shape \(3,\)"),
        ([np.zeros((2, 3)), np.zeros((0, 3))], ValueError, "recording 1: there are no frames; leave it out"),
    ],
)
@pytest.mark.parametrize("function", [decode.decode, decode.marginals, decode.log_evidence, decode.step_performed])
def test_scores_of_another_form_are_refused(process, function, scores, error, message):
    with pytest.raises(error, match=message):
        function(scores, process)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "the log score is -inf; a score of zero; raise it to a floor, e.g. 1e-4"),
        (np.nan, "the log score is nan; give all scores of a frame, or NaN for all of them where it is missing"),
        (np.inf, "the log score is inf; give all scores of a frame, or NaN for all of them where it is missing"),
    ],
)
def test_scores_that_are_no_numbers_are_named(process, value, message):
    score = [np.full((4, 3), 0.3), np.full((5, 3), 0.3)]
    score[1][3, 2] = value
    with np.errstate(divide="ignore"):
        given = [np.log(own) for own in score]
    for decoder in DECODERS["semi-markov"]:
        with pytest.raises(ValueError, match=f"^recording 'b', frame 3, label 2: {message}$"):
            decode.decode(given, process, decoder, names=["a", "b"])


def test_missing_scores_of_a_batch_are_named(small):
    data = made(SMALL)
    score = data["score"].clone()
    score[8, 1] = np.nan  # the third frame of the second recording
    broken = data.with_tensors({"score": score})
    with pytest.raises(ValueError, match="recording 'b', frame 2, label 1: the log score is nan; give all"):
        decoded(small, broken)
    with pytest.raises(zoo.NonFiniteLoss, match="look for NaN in the data"):
        zoo.fit(small.model, "closed-form", broken, progress=False)


def test_zero_scores_of_a_batch_are_raised_to_the_floor(small):
    score = [np.eye(3)[[0, 1, 1, 0, 2, 0]]]
    found = decoded(small, recordings(score, labels=NAMES, rate=1.0), "map")
    assert found.labels[0].tolist() == [0, 1, 1, 0, 2, 0]


@pytest.mark.parametrize("variant", DECODERS)
def test_a_recording_of_one_frame(fits, variant):
    labels = fits[variant].prototype.coords["label_class"].tolist()
    score = np.full((1, 8), 0.02)
    score[0, 0] = 0.86
    one = recordings([score], labels=labels, rate=2.0)
    for decoder in DECODERS[variant]:
        found = decoded(fits[variant], one, decoder)
        assert found.labels[0].tolist() == [0]
        assert found.marginals[0].shape == (1, 8)
        np.testing.assert_allclose(found.performed.to_numpy()[0], found.marginals[0][0, 1:], atol=1e-9)


def test_decoders_belong_to_their_process(fits, data):
    with pytest.raises(ValueError, match=r"'viterbi' does not decode a process of steps; choose one of \['argmax'"):
        decoded(fits["semi-markov"], data[1], "viterbi")
    with pytest.raises(ValueError, match="'paper' does not decode a frame-level chain; choose one of"):
        decoded(fits["frame-hmm"], data[1], "paper")


def test_a_process_without_a_possible_sequence_is_told(process):
    own = [np.zeros((1, 3)), np.zeros((3, 3))]
    stuck = np.array([1.0, 0.0, 0.0]), np.zeros((3, 3))  # it begins, and nothing follows
    graph = process.graph()
    nowhere = graph._replace(log_initial=np.full_like(graph.log_initial, -np.inf))
    assert decode.log_evidence(own, stuck).tolist() == [0.0, -np.inf]
    assert decode.log_evidence(own, nowhere).tolist() == [-np.inf, -np.inf]
    for dead, which, decoders in ((stuck, "'b'", ("map", "mea")), (nowhere, "'a'", ("map", "paper", "marginal"))):
        for decoder in decoders:
            with pytest.raises(NoPossiblePath, match=f"recording {which}: the process allows no label sequence"):
                decode.decode(own, dead, decoder, names=["a", "b"])
        with pytest.raises(NoPossiblePath, match=f"recording {which}: .*; allow more pairs or first labels"):
            decode.sample_paths(own, dead, 2, names=["a", "b"])
        with pytest.raises(NoPossiblePath, match="the process allows no label sequence"):
            decode.step_performed(own, dead)
    assert decode.decode(own[:1], stuck, "map")[0].tolist() == [0]


@pytest.mark.parametrize(
    ("initial", "transition", "message"),
    [
        (np.ones(3) / 3, np.eye(2), r"shapes \(3,\) and \(2, 2\)"),
        (np.ones(3), np.eye(3), "initial must hold probabilities"),
        (np.ones(3) / 3, np.log(np.ones((3, 3)) / 3), r"transition must hold probabilities \(no logarithms\)"),
    ],
)
def test_a_chain_of_arrays_is_checked(initial, transition, message):
    with pytest.raises(ValueError, match=message):
        decode.decode([np.zeros((4, 3))], (initial, transition))


def test_a_recording_beyond_the_memory_is_refused_before_anything_is_allocated(fits, data, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 100, "SC_PHYS_PAGES": 100}[name])
    with pytest.raises(MemoryError, match=r"recording 'r0': \d+ frames of 8 labels need about .* decode the pieces"):
        decoded(fits["semi-markov"], data[1])


# ---------------------------------------------------------------- labels that the process cannot have made
DIRECT = ([0, 1, 1, 0, 2, 0], [0, 0, 1, 1, 2, 2, 0])


def test_steps_without_a_gap_are_refused_with_the_remedy():
    bad, good = made(DIRECT), made(SMALL)
    message = (
        r"recording 'b', frame 4: 'one' goes straight to 'two', which has probability 0 .* "
        r"medication.separate_steps\(batch\), or take a model"
    )
    with pytest.raises(ValueError, match=message):
        zoo.create_model("medication", bad, variant="paper")
    for guide in ("closed-form", "ml", "normal"):
        with pytest.raises(ValueError, match=message):
            zoo.fit(zoo.create_model("medication", good), guide, bad, progress=False)
    separated = separate_steps(bad)
    fit = zoo.fit(zoo.create_model("medication", separated), "closed-form", separated, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()
    assert labelled_sequences(separated)[1].tolist() == [0, 0, 1, 1, 0, 2, 0]


@pytest.mark.parametrize("guide", ["closed-form", "ml", "normal"])
def test_the_blank_labels_of_unlabelled_recordings_need_not_be_possible(guide):
    """Non-event throughout, where recordings begin with a step."""
    labels = ([1, 1, 0, 2, 0], [2, 2, 2, 0, 0, 0], [1, 0, 0])
    data = made(labels).relabel([True, True, False], "label")
    model = zoo.create_model("medication", data, initial=[0, 0.5, 0.5])
    fit = zoo.fit(model, guide, data, progress=False, **({"steps": 3} if guide == "normal" else {}))
    assert np.isfinite(fit.history["elbo"]).all()
    assert (
        zoo.predict(fit, data, draws=FEW, decoder="map")["label.label"].groupby("recording").first() != "none"
    ).all()


def test_a_chain_takes_steps_without_a_gap():
    bad = made(DIRECT)
    fit = zoo.fit(zoo.create_model("medication", bad, variant="frame-hmm"), "closed-form", bad, progress=False)
    assert fit.guide.A_concentration[1, 2].item() == pytest.approx(1.1)


def test_a_pair_of_steps_that_the_model_lacks_is_refused():
    model = zoo.create_model("medication", made(SMALL))
    back = made(([0, 1, 0, 2, 0], [0, 2, 0, 1, 0]))
    with pytest.raises(ValueError, match=r"recording 'b': 'two' follows 'start', a pair that .* hold \(0, 2\)"):
        zoo.fit(model, "closed-form", back, progress=False)
    model = zoo.create_model("medication", made(SMALL), pairs=[(0, 1), (0, 2), (1, 2)])
    with pytest.raises(ValueError, match=r"recording 'b': 'one' follows 'two', a pair .* hold \(2, 1\)"):
        zoo.fit(model, "closed-form", back, progress=False)
    model = zoo.create_model("medication", made(SMALL), pairs=[(0, 1), (0, 2), (1, 2), (2, 1)])
    assert zoo.fit(model, "closed-form", back, progress=False).status == "solved"


def test_a_first_label_that_the_model_rules_out_is_refused():
    model = zoo.create_model("medication", made(SMALL), initial=[1, 0, 0])
    data = made(([0, 1, 0, 2, 0], [1, 1, 0, 2, 0]))
    with pytest.raises(ValueError, match="recording 'b' begins with 'one', which `initial` gives probability 0"):
        zoo.fit(model, "closed-form", data, progress=False)


# ---------------------------------------------------------------- figures
def test_the_timeline_shows_the_truth_and_every_decoder(data):
    train, test = data
    figure = report.timeline(train, test, 2)
    assert isinstance(figure, Figure)
    ribbons, stack, bars = figure.axes
    names = [text.get_text() for text in ribbons.get_yticklabels()]
    assert names == ["truth", "argmax", "viterbi", "paper", "map (cdf)", "mea (hazard)"]
    assert ribbons.get_xlim() == (0, float(test["lengths"][2]) / 2.0)
    assert stack.get_xlabel() == "time [s]"
    assert len(bars.patches) >= 7
    assert "r2 (simulated)" in figure.get_suptitle()


def test_reliability_and_order_of_a_fit(fits, data):
    axes = report.reliability_figure([(data[0].subset(range(3)), data[1].subset(range(2)))])
    assert {text.get_text().split(":")[0] for text in axes.get_legend().get_texts()} == {"power 1", "fitted power"}
    matrix = report.order(fits["semi-markov"], data[0].subset([0]))
    assert matrix.get_yticklabels()[0].get_text() == "start"


# ---------------------------------------------------------------- the zoo's diagnostics
def test_the_diagnostics_take_recordings():
    data = simulate("pen", 8, "easy", 0, rate=1.0)
    model = zoo.create_model("medication", data, power=1.0)
    fit = zoo.fit(model, "closed-form", data, progress=False)
    assert list(zoo.khat(fit, draws=30).index) == ["all latents"]
    assert zoo.ppc(fit, data, draws=3)["site"].eq("label").all()
    density = zoo.log_density(fit, data, draws=5, progress=False)
    assert np.isfinite(density).all()
    assert zoo.compare({"one": fit, "other": fit}, data, target=None, draws=5)["difference"].iloc[1] == 0
    ranks = zoo.sbc(model, "closed-form", data, "duration_mean", simulations=2, draws=9)
    assert len(ranks) == 2 * 7


def test_what_the_diagnostics_cannot_say_of_labels_is_said():
    data = simulate("pen", 8, "easy", 0, rate=1.0)
    fit = zoo.fit(zoo.create_model("medication", data), "closed-form", data, progress=False)
    with pytest.raises(ValueError, match="'label' is discrete and has no intervals"):
        zoo.coverage(fit, data, target="label")
    with pytest.raises(ValueError, match="predicts 'label' by itself"):
        zoo.compare({"one": fit, "other": fit}, data, target="label")
