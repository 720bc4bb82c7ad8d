"""Steps that touch, recordings of several passes, missing frames, unknown labels, and the power by held-out parts."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.__main__ import main
from pyrozoo.models import medication
from pyrozoo.models.medication import StepProcess, decode_recordings, plug_in, recordings, separate_steps
from pyrozoo.models.medication.experiments.touching import hsmm, manual_work
from pyrozoo.models.medication.guides import ClosedForm
from pyrozoo.models.medication.power import held_out_power, pieces_of, vanilla_chain
from pyrozoo.models.medication.process import decode
from pyrozoo.models.medication.process.counts import Counts
from pyrozoo.models.medication.process.durations import residual

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:on held-out parts"),  # of a few frames with random scores
]

NAMES = ["non-event", "one", "two"]
PASS = [0, 0, 1, 1, 1, 2, 2, 0, 1, 1, 0, 0, 2, 2]
ONCE = [[0, 1, 1, 2, 2, 0], [0, 0, 1, 1, 0, 2, 2, 0], [0, 1, 2, 2, 0, 0]]


def made(labels, seed=0, names=NAMES, noise=0.4, **arguments):
    rng = np.random.default_rng(seed)
    k = len(names)
    first = 0 if arguments.get("non_event", True) else 1
    score = [
        noise * rng.dirichlet(np.ones(k), len(z)) + (1 - noise) * np.eye(k)[np.maximum(np.array(z) - first, 0)]
        for z in labels
    ]
    return recordings(score, labels, labels=names, rate=1.0, **arguments)


def test_empty_gaps_are_counted_pair_by_pair():
    data = made(ONCE)
    model = zoo.create_model("medication", data)
    assert model.direct == pytest.approx(2 / 3)
    assert model.coords["touching"] == ["one → two"]
    fit = zoo.fit(model, "closed-form", data, progress=False)
    # Beta(2/3, 1/3), two empty gaps and one that is not
    assert float(fit.guide.means()["direct"][0]) == pytest.approx((2 + 2 / 3) / 4)
    gaps = Counts.of([np.array(z) for z in ONCE], 2).gaps
    assert gaps == {(1, 2): [1]}  # an empty gap has no length


@pytest.mark.parametrize("guide", ["ml", "normal"])
def test_empty_gaps_are_fitted_and_saved(guide, tmp_path):
    data = made(ONCE * 4)
    fit = zoo.fit(
        zoo.create_model("medication", data), guide, data, progress=False, **({} if guide == "ml" else {"steps": 100})
    )
    values = zoo.draw(fit, data.subset([0]), draws=50, predictive=False).groups["posterior"]["direct"]
    assert values.mean() == pytest.approx(2 / 3, abs=0.2)
    fit.save(tmp_path / "run")
    again = decode_recordings(zoo.load(tmp_path / "run"), data, "map", draws=5)
    assert [own.tolist() for own in again.labels[:3]] == ONCE


def test_labels_without_touching_steps_give_the_model_of_before():
    apart = [[0, 1, 1, 0, 2, 2, 0], [0, 0, 1, 0, 0, 2, 0]]
    config = zoo.create_model("medication", made(apart)).config
    assert not {"direct", "end", "cyclic", "alpha"} & set(config)
    assert zoo.create_model("medication", made(ONCE), duration="cdf").direct > 0
    for bad, message in (
        ({"direct": 2.0}, "direct: 2"),
        ({"end": -1.0}, "end: -1"),
        ({"cyclic": True, "end": 1.0}, "no end"),
    ):
        with pytest.raises(ValueError, match=message):
            StepProcess(NAMES, **bad)


def test_without_an_end_the_rows_of_d_sum_to_one():
    model = StepProcess(NAMES, pairs=[(0, 1), (1, 2), (2, 1), (1, 1)], end=0, direct=0.3)
    assert model.coords["open_pair"] == ["one → one"]
    values = {site: prior.sample() for site, prior in model.priors().items()}
    parameters = model.parameters_of(values)
    sums = np.bincount(model.pairs.h, parameters["D"].numpy(), 3)
    np.testing.assert_allclose(sums, 1.0)
    assert parameters["end"].tolist() == [0, 0, 0]
    cyclic = StepProcess(NAMES, pairs=[(0, 1), (1, 2)], cyclic=True)
    assert cyclic.pairs.names(NAMES) == ["start → one", "one → two", "two → one"]
    paths = np.array(list(itertools.product(range(3), repeat=5)))
    total = model.process(parameters).log_prob(paths.ravel(), np.full(len(paths), 5)).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-9)


def test_recordings_of_several_passes_are_decoded_to_their_end():
    train, test = made([PASS * 4, PASS * 3]), made([PASS * 5], seed=1)
    model = zoo.create_model("medication", train)
    assert model.end == 0
    fit = zoo.fit(model, "closed-form", train, progress=False)
    for decoder in ("map", "mea"):
        assert decode_recordings(fit, test, decoder).scores(test)["frame_accuracy"] > 0.9


def test_an_end_counts_where_the_last_gap_is_longer_than_those_before():
    short, long = [*PASS, *PASS, 0], [*PASS, *PASS, *[0] * 9]
    assert Counts.of([np.array(short)], 2).ends.tolist() == [0, 0, 0]
    assert Counts.of([np.array(long)], 2).ends.tolist() == [0, 0, 1]
    assert Counts.of([np.array(ONCE[0])], 2).ends.tolist() == [0, 0, 1]  # one pass: as it was


def test_an_end_of_a_few_recordings_is_no_end_of_the_procedure():
    ended, going_on = [*PASS, *PASS, *[0] * 9], PASS * 2
    arguments = [StepProcess.sizes_from(made([ended] * n + [going_on] * (4 - n))) for n in (1, 2)]
    assert [own["end"] for own in arguments] == [0.0, 0.5 * 2 / 16]  # two ends in sixteen passes


def test_the_wait_of_several_passes_is_what_is_left_of_a_gap():
    # One recording has one first wait only: a decoding must not wait on where steps are unclear.
    train = made([PASS * 12], noise=0.9)
    model = zoo.create_model("medication", train)
    assert model.wait == "gap"
    assert "start_rate" not in model.priors()
    fit = zoo.fit(model, "closed-form", train, progress=False)
    labels = decode_recordings(fit, made([PASS * 12], seed=1, noise=0.9), "map").labels[0]
    assert (labels > 0).argmax() < 10
    process, _ = medication.plug_in(fit, train, 5)
    for n in (1, 3, 40):
        assert decode.log_evidence([np.zeros((n, 3))], process.graph())[0] == pytest.approx(0.0, abs=1e-9)
    assert zoo.create_model("medication", made(ONCE)).wait == "rate"  # one pass: any wait
    assert zoo.create_model("medication", train, duration="cdf").wait == "rate"  # the text's reading
    with pytest.raises(ValueError, match="wait: 'long' is neither 'rate' nor 'gap'"):
        StepProcess(NAMES, wait="long")


def test_what_is_left_of_segments_is_the_law_of_a_random_frame():
    law = torch.tensor([[0.5, 0.2, 0.2, 0.1, 0.0], [0.0, 0.0, 0.3, 0.0, 0.7]], dtype=torch.double)
    at_least = law.flip(-1).cumsum(-1).flip(-1)
    rate = torch.tensor([0.9, 0.2], dtype=torch.double)
    padded = torch.nn.functional.pad(at_least, (0, 2)).log()
    exactly, more = residual(padded, rate.log())
    # Of every frame of a segment of d frames, one each has d, d - 1, ..., 1 frames to go.
    count = torch.zeros(5, dtype=torch.double)
    for own, weight in zip(law, rate, strict=True):
        for d, share in enumerate(own, start=1):
            count[:d] += weight * share
    torch.testing.assert_close(exactly.exp()[:5], count / count.sum(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(more.exp()[:5], (count / count.sum()).flip(0).cumsum(0).flip(0), rtol=1e-9, atol=1e-12)


def test_a_decoding_that_leaves_the_rest_out_is_a_warning():
    train = made([[0, 1, 1, 0, 2, 2, 0, 0]] * 3)
    fit = zoo.fit(zoo.create_model("medication", train, power=1.0), "closed-form", train, progress=False)
    with pytest.warns(UserWarning, match=r"1 of 1 recordings stay in non-event .*'r0' from frame .*cyclic=True"):
        decode_recordings(fit, made([[0, 1, 1, 0, 2, 2, 0, *[1] * 14]], noise=0.9, seed=5), "map")


def test_without_non_event_only_steps_are_decoded():
    labels = [[1, 1, 2, 2, 2, 1, 1, 2, 2, 1] * 2, [2, 2, 1, 1, 1, 2, 2, 1] * 2]
    data = made(labels, names=NAMES[1:], non_event=False)
    model = zoo.create_model("medication", data)
    assert model.direct == 1
    assert not {"direct", "gap_mean", "gap_sd"} & set(model.priors())
    fit = zoo.fit(model, "closed-form", data, progress=False)
    for decoder in ("map", "mea", "marginal", "paper"):
        own = decode_recordings(fit, data, decoder)
        assert min(z.min() for z in own.labels) == 1
        assert max(gamma[:, 0].max() for gamma in own.marginals) < 1e-9


def test_unknown_labels_are_summed_out_of_the_log_joint():
    """The log joint with unknown labels is that of all completions, summed."""
    labels = np.array([0, 1, 1, 2, 0, 2])
    known = labels.copy()
    known[[1, 3]] = -1
    model = StepProcess(NAMES, direct=0.4, typical=[2.0, 1.0], caps=[4, 4, 4], initial=[0.6, 0.2, 0.2])
    torch.manual_seed(0)
    values = {site: prior.sample() for site, prior in model.priors().items()}

    batch = made([labels.tolist()], 3)
    completions = []
    for pair in itertools.product(range(3), repeat=2):
        z = labels.copy()
        z[[1, 3]] = pair
        completions.append(z)
    process = model.process(model.parameters_of(values))
    prior = [float(process.log_prob(z, np.array([6]))) for z in completions]
    q = float(values["power"]) * model.log_potentials(batch["score"]).numpy()
    scored = [p + q[np.arange(6), z].sum() for p, z in zip(prior, completions, strict=True)]
    [total] = decode.log_evidence([q], process)
    expected = np.logaddexp.reduce(prior) + np.logaddexp.reduce(scored) - total
    data = batch.with_tensors({"label": torch.as_tensor(known)})
    traced = pyro.poutine.trace(pyro.poutine.condition(model, values)).get_trace(**dict(data))
    traced.compute_log_prob()
    found = float(traced.nodes["label"]["log_prob_sum"]) + float(traced.nodes["evidence"]["log_prob_sum"])
    assert found == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("guide", ["closed-form", "ml"])
def test_recordings_labelled_in_part_are_fitted_and_held(guide):
    labels = [np.array(PASS * 3) for _ in range(3)]
    truth = made([z.tolist() for z in labels])
    for z in labels:
        z[10:16] = -1
    data = truth.with_tensors({"label": torch.as_tensor(np.concatenate(labels))})
    fit = zoo.fit(zoo.create_model("medication", data), guide, data, progress=False)
    own = decode_recordings(fit, data, known=True, draws=20)
    for found, z in zip(own.labels, labels, strict=True):
        assert (found[z >= 0] == z[z >= 0]).all()
    assert own.scores(data)["frame_accuracy"] == 1.0
    assert own.scores(truth)["frame_accuracy"] > 0.8


def test_separated_steps_are_joined_again():
    data = made(ONCE)
    apart = separate_steps(data.subset([0, 1]))
    parts = [z.numpy() for z in apart["label"].split(apart["lengths"].tolist())]
    assert parts[0].tolist() == [0, 1, 1, 0, 2, 0]
    own = medication.Decoded(["a", "b"], tuple(NAMES), 1.0, parts, [np.eye(3)[z] for z in parts], pd.DataFrame(), "map")
    assert [z.tolist() for z in own.joined().labels] == [ONCE[0], [0, 0, 1, 1, 2, 2, 2, 0]]
    assert own.joined().labels[0].tolist() == own.joined().marginals[0].argmax(1).tolist()
    assert own.labels[0].tolist() == parts[0].tolist()


# ---------------------------------------------------------------- the power
def test_groups_that_are_held_out():
    of_recordings = pieces_of(StepProcess(NAMES), made(ONCE))
    assert [piece.group for piece in of_recordings] == [0, 1, 2]
    of_subjects = pieces_of(StepProcess(NAMES), made(ONCE * 2, subjects=list("aabbcc")))
    assert [piece.group for piece in of_subjects] == [0, 0, 1, 1, 2, 2]
    [whole] = [np.array(PASS * 4)]
    blocks = pieces_of(StepProcess(NAMES), made([whole.tolist()]))
    assert len(blocks) == 5
    assert np.concatenate([piece.labels for piece in blocks]).tolist() == whole.tolist()
    assert all(piece.labels[0] > 0 for piece in blocks[1:])
    assert [piece.goes_on for piece in blocks] == [True] * 4 + [False]
    assert Counts.of([piece.to_learn for piece in blocks], 2).ends.sum() == 0


def test_a_power_below_the_vanilla_chain_says_so():
    """A process whose durations are wrong, and scores that are right."""
    data = made([[0, 0, *[1] * n, 0, 0, *[2] * n, 0, 0] for n in (2, 2, 2, 40)], noise=0.5)
    model = zoo.create_model("medication", data)
    learned = ClosedForm(model).means()
    wrong = learned | {"duration_mean": torch.tensor([30.0, 1.0]), "duration_sd": torch.tensor([0.5, 0.5])}
    message = r"frame accuracy of 0\.\d+, the vanilla chain \d\.\d+.* compare variant 'frame-hmm'"
    with pytest.warns(UserWarning, match=message):
        held_out_power(model, data, lambda seen: model.parameters_of(wrong))


def test_the_chain_of_the_comparison_is_that_of_the_variant():
    data = made(ONCE)
    fit = zoo.fit(zoo.create_model("medication", data, variant="frame-hmm"), "closed-form", data, progress=False)
    initial, transition = vanilla_chain([np.array(z) for z in ONCE], 3)
    means = fit.guide.means()
    np.testing.assert_allclose(means["A"].numpy(), transition, rtol=1e-6)
    np.testing.assert_allclose(means["initial"].numpy(), initial, rtol=1e-6)


def test_khat_says_that_the_posterior_is_cut():
    data = made([[0, 1, 1, 0, 2, 2, 0]] * 4)
    fit = zoo.fit(zoo.create_model("medication", data), "closed-form", data, progress=False)
    with pytest.warns(UserWarning, match=r"StepProcess is cut: p\(label \| score\) informs the power alone"):
        zoo.khat(fit, draws=25)
    fixed = zoo.fit(zoo.create_model("medication", data, power=1.0), "closed-form", data, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        zoo.khat(fixed, draws=25)


# ---------------------------------------------------------------- the baseline, the command line
def test_the_plain_hsmm_is_a_distribution():
    [labels] = [np.array(PASS * 3)]
    graph = hsmm([labels], 3)
    for n in (1, 4, 30):
        assert decode.log_evidence([np.zeros((n, 3))], graph)[0] == pytest.approx(0.0, abs=1e-9)


def test_manual_work_has_short_and_touching_steps():
    data = manual_work(0, 2)
    labels = data["label"].numpy()
    counts = Counts.of([z.numpy() for z in data["label"].split(data["lengths"].tolist())], 6)
    assert min(map(min, counts.durations)) == 1
    assert sum(counts.direct.values()) > sum(map(len, counts.gaps.values())) > 0
    assert min(counts.passes) > 5
    assert (manual_work(0, 2)["label"].numpy() == labels).all()
    assert int(manual_work(0, 1, kind="without")["label"].min()) == 1


def test_decoder_words_and_separation_on_the_command_line(tmp_path, capsys):
    data = made(ONCE * 2)
    score, lengths = data["score"].numpy(), data["lengths"].tolist()
    file = tmp_path / "work.npz"
    np.savez(
        file, score=score, label=data["label"].numpy(), recording=np.repeat([f"r{i}" for i in range(6)], lengths),
        labels=NAMES, rate=1.0,
    )  # fmt: skip
    words = ["--set", "law=lognormal", "--set", "emission=beta", "--set", "power=fit"]
    assert main(["fit", "medication", "--data", str(file), *words, "--out", str(tmp_path / "run")]) == 0
    assert zoo.load(tmp_path / "run").model.law == "lognormal"
    out = tmp_path / "labels.csv"
    assert main(["predict", str(tmp_path / "run"), "--data", str(file), "--decoder", "map", "--out", str(out)]) == 0
    text = ["fit", "medication", "--variant", "paper", "--data", str(file), "--out", str(tmp_path / "text")]
    assert main(text) == 2
    assert "goes straight to" in capsys.readouterr().err
    assert main([*text, "--separate-steps", "borrow"]) == 0
    assert plug_in(zoo.load(tmp_path / "text"), data)[1] == 1.0
    assert medication.read(file).n_rows == 6
