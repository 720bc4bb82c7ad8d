"""m3sense: handcrafted features as inputs, the rule that makes labels of probabilities, and windows as they arrive."""

import numpy as np
import pandas as pd
import pytest
import torch
from m3sense_folders import refuses
from scipy import stats

import pyrozoo as zoo
from pyrozoo.models import m3sense

RATES = {"bvp": 8.0, "eda": 4.0, "temp": 4.0}
SIZES = {"embedding": 4, "lstm_layers": 1, "hidden": (4, 4), "head": 4}
ONE = {"tasks": {"stress": 3}, **SIZES}
LATENTS = {"a_dim": 2, "q_hidden": 4}


@pytest.fixture(scope="module")
def raw():
    return m3sense.simulate("simulated stress", n_subjects=2, n_windows=8, seconds=10.0, rates=RATES)


@pytest.fixture(scope="module")
def data(raw):
    return m3sense.with_features(m3sense.standardise(raw))


def made(data, **changes):
    return zoo.create_model("m3sense", data, **{"variant": "unaligned", **ONE, **changes})


def test_features_are_standardised_by_person_whatever_the_signals_are(raw, data):
    plain = m3sense.with_features(raw)
    for name in RATES:
        values = data[f"{name}_features"]
        torch.testing.assert_close(values, plain[f"{name}_features"], rtol=1e-3, atol=1e-3)
        for person in (0, 1):
            own = values[data["subject"] == person]
            assert own.mean(0).abs().max() < 1e-5
            assert (own.std(0, unbiased=False) - 1).abs().max() < 1e-4
    matrix, names = m3sense.handcrafted(raw)
    column = matrix[:, names.index("eda_slope")]
    first = raw["subject"].numpy() == 0
    expected = (column[first] - column[first].mean()) / column[first].std()
    np.testing.assert_allclose(data["eda_features"][first][:, 6], expected, rtol=1e-3, atol=1e-4)


def test_the_pulse_has_its_rate_among_its_features_and_what_never_changes_is_zero():
    time = np.arange(160) / 8.0
    beats = np.stack([np.sin(2 * np.pi * rate * time) for rate in (1.0, 1.5, 2.0)])
    data = m3sense.from_arrays(
        {"bvp": beats, "eda": np.ones((3, 80))}, None, ["A"] * 3, None, rates={"bvp": 8.0, "eda": 4.0}
    )
    found = m3sense.with_features(data)
    names = found.coords["bvp_feature"].tolist()
    rate = found["bvp_features"][:, names.index("rate")].numpy()
    np.testing.assert_allclose(rate, np.array([-1.0, 0.0, 1.0]) * 1.5**0.5, atol=0.05)
    assert not found["eda_features"].any()


def test_features_by_ranks_are_normal_scores_that_an_outlying_window_does_not_move(raw):
    ranked, standardised = m3sense.with_features(raw, "ranks"), m3sense.with_features(raw)
    for person in (0, 1):
        own = np.flatnonzero(raw["subject"] == person)
        for name in RATES:
            values, scores = (found[f"{name}_features"][own].numpy() for found in (standardised, ranked))
            expected = stats.norm.ppf((stats.rankdata(values, axis=0) - 0.5) / len(own))
            np.testing.assert_allclose(scores, expected, atol=1e-5)
    loud = raw.with_tensors({"eda": torch.where(torch.arange(16)[:, None] == 3, 50 + raw["eda"], raw["eda"])})
    rest = np.arange(16) != 3
    moved = m3sense.with_features(loud, "ranks")["eda_features"][rest] - ranked["eda_features"][rest]
    place = stats.norm.ppf(1.5 / 8) - stats.norm.ppf(0.5 / 8)  # the widest of eight
    assert moved.abs().max() < place + 1e-5
    assert ranked.coords["eda_feature"].tolist()[:2] == ["mean_rank", "sd_rank"]
    still = m3sense.from_arrays({"eda": np.ones((3, 80))}, None, ["A"] * 3, None, rates={"eda": 4.0})
    assert not m3sense.with_features(still, "ranks")["eda_features"].any()
    with refuses("scale: 'rank' is none of ['sd', 'ranks']"):
        m3sense.with_features(raw, "rank")


def test_features_of_another_scale_than_those_of_the_fit_are_refused(raw, data):
    fit = zoo.fit(made(data), "none", data, steps=1, progress=False)
    with refuses("_feature: the batch has ['mean_rank'"):
        zoo.predict(fit, m3sense.with_features(m3sense.standardise(raw), "ranks"))


def test_features_are_added_once_and_last(raw, data):
    with refuses("the data have features already"):
        m3sense.with_features(data)
    with refuses("features of their signals, which would no longer be theirs; add them last"):
        m3sense.at_rates(data, RATES)
    with refuses("add them last"):
        m3sense.detrended(m3sense.with_features(raw))
    with refuses("add them last"):
        m3sense.merge([data])
    with refuses("inputs: 'features', but bvp has no handcrafted features; add them to the data by"):
        made(m3sense.standardise(raw), inputs="features")
    with refuses("inputs: 'feature' is none of"):
        made(data, inputs="feature")
    fit = zoo.fit(made(data), "none", data, steps=1, progress=False)
    with refuses("bvp_features: the model reads 11 handcrafted features, the data have none; add those"):
        zoo.predict(fit, m3sense.standardise(raw))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (None, ["bvp_features", "eda_features", "temp_features"]),
        ("signals", ["bvp", "eda", "temp"]),
        ("both", ["bvp", "eda", "temp", "bvp_features", "eda_features", "temp_features"]),
    ],
)
def test_networks_read_what_inputs_says(data, inputs, expected):
    model = made(data, **({} if inputs is None else {"inputs": inputs}))
    assert list(model.representation.encoders) == expected
    assert model.encode(**data).shape == (1, 16, 4)


@pytest.mark.parametrize("variant", ["m3sense", "latent", "generative"])
def test_every_variant_learns_from_features_and_is_saved(variant, data, tmp_path):
    fit = zoo.fit(made(data, variant=variant, **LATENTS), "paper", data, steps=3, progress=False)
    table = zoo.predict(fit, data, draws=4)
    fit.save(tmp_path / "run")
    pd.testing.assert_frame_equal(zoo.predict(zoo.load(tmp_path / "run"), data, draws=4), table)


def test_a_program_reads_the_features_of_its_fit(data, tmp_path):
    fit = zoo.fit(made(data, inputs="both"), "none", data, steps=3, progress=False)
    program = m3sense.to_program(fit, tmp_path / "watch.pt2")
    assert list(program.inputs) == list(fit.model.representation.encoders)
    (p,) = torch.export.load(program.path).module()(*(data[name] for name in program.inputs))
    expected = zoo.predict(fit, data).filter(like=".p[").to_numpy()
    np.testing.assert_allclose(p.detach().numpy(), expected, atol=1e-5)


def test_labels_follow_the_rule(data):
    rare = data.relabel(data["y_stress"].numpy() != 2, "y_stress")
    model = made(rare, tasks={"stress": 3})
    assert model.shares["stress"][2] == 0
    p = np.array([[0.7, 0.29, 0.01], [0.05, 0.05, 0.9]])
    share = np.array(model.shares["stress"][:2])
    assert model.decide("y_stress", p).tolist() == [(p[0, :2] / share).argmax(), (p[1, :2] / share).argmax()]
    assert made(rare, rule="likeliest").decide("y_stress", p).tolist() == [0, 2]
    with refuses("rule: 'fair' is none of ['balanced', 'likeliest']"):
        made(data, rule="fair")
    fit = zoo.fit(made(data), "none", data, steps=3, progress=False)
    table, classes = zoo.predict(fit, data), data.coords["y_stress_class"]
    ratio = table.filter(like=".p[").to_numpy() / np.array(fit.model.shares["stress"])
    assert table["y_stress.label"].tolist() == classes[ratio.argmax(1)].tolist()
    truth = classes[data["y_stress"].numpy()]
    expected = zoo.scores.balanced_accuracy(truth, table["y_stress.label"])
    assert zoo.metrics(fit, data)["y_stress.balanced_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(("variant", "fusion"), [("latent", "cam-projected"), ("m3sense", "cam"), ("unaligned", "sum")])
def test_one_task_of_a_fit_predicts_as_all_do(variant, fusion):
    data = m3sense.simulate_all(0, n_subjects=1, n_windows=4, seconds=5.0, rates=RATES)
    latents = {} if variant == "unaligned" else LATENTS
    model = zoo.create_model("m3sense", data, variant=variant, fusion=fusion, unimodal="sum", **SIZES, **latents)
    guide = "none" if variant == "unaligned" else "delta"
    fit = zoo.fit(model, guide, data, steps=3, restarts=2, progress=False)
    table = zoo.predict(fit, data, draws=2)
    for task in ("anxiety", "stress"):
        one = m3sense.only_task(fit, task)
        found = zoo.predict(one, data, draws=2)
        names = [name for name in table if name.startswith(f"y_{task}.p")]
        np.testing.assert_allclose(found[names], table[names], atol=1e-6)
        assert not [name for name in found if "emotion" in name]
    with refuses("task: 'sleep' is no task of the fit"):
        m3sense.only_task(fit, "sleep")


# -------------------------------------------------------------------- windows as they arrive
@pytest.mark.parametrize(("inputs", "scale"), [("features", "ranks"), ("both", "sd"), ("signals", "sd")])
def test_windows_of_a_stream_are_predicted_as_offline(raw, inputs, scale):
    data = m3sense.with_features(m3sense.standardise(raw), scale)
    fit = zoo.fit(made(data, inputs=inputs), "none", data, steps=3, progress=False)
    own = raw.subset(np.flatnonzero(raw["subject"] == 0))
    signals = {name: own[name].numpy().ravel() for name in RATES}
    samples = m3sense.samples_of(m3sense.Recording("S", signals, RATES), data)
    live = zoo.stream(fit, person=own)
    tables = [live.push(piece) for piece in np.array_split(samples, 7)]
    found = pd.concat([table for table in tables if len(table)])
    expected = zoo.predict(fit, m3sense.with_features(m3sense.standardise(own), scale))
    assert found["end"].tolist() == [10.0 * (k + 1) for k in range(8)]
    names = list(expected.filter(like=".p["))
    np.testing.assert_allclose(found[names], expected[names], atol=1e-5)
    assert len(live.kept) == 80  # memory does not grow
    assert len(zoo.stream(fit, person=own, step=2.5).push(samples[:160])) == 5


def test_what_a_stream_cannot_use_is_refused(raw, data):
    fit = zoo.fit(made(data), "none", data, steps=1, progress=False)
    own = raw.subset(np.flatnonzero(raw["subject"] == 0))
    for options, message in (
        ({}, "person: the fit's data are standardised by person; give windows of the person"),
        ({"person": raw}, "give those of one person"),
        ({"person": data.subset([0, 1])}, "person: its windows are standardised or have features already"),
        ({"person": own, "step": 0.3}, "step: 0.3 s; samples of bvp: 2.4 is no whole number"),
    ):
        with refuses(message):
            zoo.stream(fit, **options)
    with refuses("eda is at 8 Hz; the windows have it at 4 Hz"):
        signals = {name: np.ones(80) for name in RATES}
        m3sense.samples_of(m3sense.Recording("S", signals, {**RATES, "eda": 8.0}), data)


def test_scores_are_of_the_first_target_that_has_a_label():
    small = {"n_subjects": 2, "n_windows": 4, "rates": {"bvp": 8}}
    data = m3sense.standardise(m3sense.simulate("simulated stress", seed=1, **small))
    fit = zoo.load_reference("m3sense/simulated")  # of three tasks, of which the data label the last
    assert fit.model.targets[-1] == zoo.log_predictive(fit, data, draws=2).name[6:-1] == "y_stress"
    assert zoo.compare({"one": fit}, data, draws=2).shape == (1, 4)
