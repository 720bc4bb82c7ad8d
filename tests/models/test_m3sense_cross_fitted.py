"""m3sense: fits that leave people out, and processes on their labels beside them."""

import functools

import numpy as np
import pandas as pd
import pytest
from m3sense_folders import refuses

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.inference import covariances
from pyrozoo.inference.label_process import FLOOR, LabelProcess
from pyrozoo.models import m3sense
from pyrozoo.models.m3sense.entry import CROSS_FITS

RATES = {"bvp": 8.0, "eda": 4.0, "temp": 4.0}
SIZES = {"embedding": 4, "lstm_layers": 1, "hidden": (4, 4), "head": 4, "a_dim": 2, "q_hidden": 4}
FEW = {**CROSS_FITS, "folds": 2, "steps": 3, "progress": False}


@pytest.fixture(scope="module")
def raw():
    return m3sense.simulate("simulated stress", n_subjects=5, n_windows=12, seconds=10.0, rates=RATES)


@pytest.fixture(scope="module")
def parts(raw):
    return m3sense.split_subjects(m3sense.with_features(m3sense.standardise(raw)), 0.2, 0)


@pytest.fixture(scope="module", autouse=True)
def short_searches():
    """Few steps for the hyperparameters of the processes, so that the tests are quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariances, "STEPS", 5)
        yield


@pytest.fixture(scope="module")
def fit(parts):
    model = zoo.create_model("m3sense", parts[0], tasks={"stress": 3}, **SIZES)
    return zoo.cross_fitted(model, "paper", parts[0], **FEW)


def probabilities(table):
    return table.filter(like="y_stress.p[").to_numpy()


def test_a_process_on_the_labels_has_the_share_where_networks_have_learned_nothing(fit, parts):
    test = parts[1]
    law, process = fit.law.parts["y_stress"], fit.law.process
    assert (len(fit.runs), fit.law.facts["by"], fit.law.facts["members"]) == (2, "subject", 4)
    assert law.w > 0.5, "three steps teach the networks nothing"
    kinds = process.probabilities(fit.model, test)
    assert kinds.shape == (2, test.n_rows, 3)
    np.testing.assert_allclose(kinds.sum(-1), 1.0)
    assert kinds.min() > FLOOR / 2
    networks = np.mean([probabilities(zoo.predict(fit, test, restart=r)) for r in range(2)], 0)
    mixture = (1 - law.w) * networks + law.w * ((1 - law.u) * kinds[0] + law.u * kinds[1])
    powers = mixture ** (1 / law.t)
    table = zoo.predict(fit, test)
    np.testing.assert_allclose(probabilities(table), powers / powers.sum(1, keepdims=True), atol=1e-6)
    decided = test.coords["y_stress_class"][fit.model.decide("y_stress", probabilities(table))]
    assert table["y_stress.label"].tolist() == decided.tolist()
    assert zoo.metrics(fit, test)["y_stress.log_loss"] < zoo.metrics(fit, test, restart=0)["y_stress.log_loss"]
    density = zoo.log_predictive(fit, test, "y_stress")
    truth = probabilities(table)[np.arange(test.n_rows), test["y_stress"].numpy()]
    np.testing.assert_allclose(density, np.log(truth))


def test_means_of_one_hot_classes_sum_to_one_and_new_people_are_known_by_their_features_alone(fit, parts):
    train, _ = parts
    process = fit.law.process
    mean, sd = process.predict(fit.model, train)
    np.testing.assert_allclose(mean.sum(-1), 1.0, atol=1e-6)
    assert (sd > 0).all()
    assert (process.classes, process.open_units) == (3, True)
    renamed = train.subset(np.arange(6))
    renamed.coords["subject"][:] = [f"new {k}" for k in range(len(renamed.coords["subject"]))]
    np.testing.assert_allclose(
        process.probabilities(fit.model, renamed), process.probabilities(fit.model, train)[:, :6]
    )


def test_a_class_that_training_lacks_has_a_place(parts, fit):
    train, _ = parts
    two = train.subset(np.flatnonzero(train["y_stress"].numpy() < 2))
    process = LabelProcess.learn(fit.model, two, "y_stress", classes=3)
    found = process.probabilities(fit.model, train)
    assert found.shape[-1] == 3
    assert found[..., 2].max() < 2 * FLOOR


def test_the_whole_is_saved_and_loaded_and_streams_predict_alike(fit, parts, raw, tmp_path):
    loaded = zoo.load(fit.save(tmp_path / "run"))
    assert {path.suffix for path in (tmp_path / "run").iterdir()} <= {".json", ".safetensors"}
    assert loaded.law == fit.law
    for data in parts:
        pd.testing.assert_frame_equal(zoo.predict(loaded, data), zoo.predict(fit, data))
    name = parts[1].group_names("subject")[0]
    own = raw.subset(np.flatnonzero(raw.group_names("subject") == name))
    signals = {modality: own[modality].numpy().ravel() for modality in RATES}
    live = zoo.stream(loaded, person=own)
    found = live.push(m3sense.samples_of(m3sense.Recording("S", signals, RATES), parts[0]))
    np.testing.assert_allclose(probabilities(found), probabilities(zoo.predict(fit, parts[1])), atol=1e-5)


def test_what_holds_one_network_refuses_the_whole(fit, tmp_path):
    with refuses("fit: it was cross-fitted, and predicts by several networks and a law"):
        m3sense.to_program(fit, tmp_path / "watch.pt2")


@pytest.mark.parametrize(("people", "law"), [(5, True), (4, False)])
def test_the_command_line_cross_fits_by_people_where_there_are_enough(people, law, raw, tmp_path, capsys):
    few = raw.subset(np.flatnonzero(raw["subject"].numpy() < people))
    m3sense.write_windows(tmp_path / "windows.npz", few)
    sizes = [f"--set={name}={value if isinstance(value, int) else '4,4'}" for name, value in SIZES.items()]
    command = ["fit", "m3sense", "--data", str(tmp_path / "windows.npz"), "--steps", "2", *sizes]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert ("probabilities corrected on 60 labels" in said) == law
    assert ("one plain fit, not cross-fitted: there are labels of 4 subjects, at least 5 are needed" in said) != law
    assert (zoo.load(tmp_path / "run").law is not None) == law
    assert main([*command, "--no-cross-fit", "--out", str(tmp_path / "plain")]) == 0
    assert zoo.load(tmp_path / "plain").law is None


@pytest.mark.parametrize("given", [{}, {"batch_size": 64}])
def test_a_default_step_never_holds_a_single_window(given):
    small = {"n_subjects": 5, "n_windows": 13, "rates": {"eda": 4}}
    data = m3sense.with_features(m3sense.simulate("simulated stress", seed=0, **small))  # 65 windows, 64 in a step
    model = zoo.create_model("m3sense", data, inputs="features")
    fit = functools.partial(zoo.fit, model, "paper", data, steps=2, progress=False, **given)
    if given:
        with pytest.raises(ValueError, match="a minibatch of one window has no batch statistics"):
            fit()
    else:
        assert fit().settings["batch_size"] == 65
