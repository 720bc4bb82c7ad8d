"""Decoding while frames arrive: equal to the exact decoding of the frames so far."""

import numpy as np
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.models import medication
from pyrozoo.models.medication import StepProcess, decode_recordings, plug_in, recordings
from pyrozoo.models.medication.online import LiveDecoding, _cannot_reach
from pyrozoo.models.medication.process import decode

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:on held-out parts"),  # of a few frames with random scores
]

NAMES = ["non-event", "one", "two", "three"]
TOUCHING = [[0, 1, 1, 2, 2, 2, 0, 3, 3, 1, 1, 1, 0, 2, 2, 3, 0], [1, 1, 2, 0, 0, 3, 3, 3, 1, 2, 2, 0, 3, 3]]


def made(labels=TOUCHING, seed=0):
    rng = np.random.default_rng(seed)
    score = [0.5 * rng.dirichlet(np.ones(4), len(z)) + 0.5 * np.eye(4)[z] for z in labels]
    return recordings(score, labels, labels=NAMES, rate=2.0)


@pytest.fixture(scope="module", params=["semi-markov", "frame-hmm"])
def fit(request):
    data = made()
    model = zoo.create_model("medication", data, variant=request.param, power=0.7)
    return zoo.fit(model, "closed-form", data, progress=False)


def test_every_frame_is_that_of_the_exact_decoding_so_far(fit):
    data, lag = made(TOUCHING[:1], seed=1), 3
    score = data["score"].numpy()
    score[5] = np.nan
    live = zoo.stream(fit, lag=lag / 2.0)
    process, power = plug_in(fit, data)
    potentials = np.where(np.isnan(score), 0.0, power * np.log(np.maximum(score, fit.model.floor)))
    for t, frame in enumerate(score):
        settled = live.push(frame)
        so_far = [potentials[: t + 1]]
        [gamma] = decode.marginals(so_far, process)
        np.testing.assert_allclose(live.now, gamma[-1], atol=1e-9)
        np.testing.assert_allclose(live.performed, decode.step_performed(so_far, process)[0], atol=1e-9)
        assert settled.index.tolist() == ([t - lag] if t >= lag else [])
        if t >= lag:
            np.testing.assert_allclose(settled.iloc[0, 1:].astype(float), gamma[-1 - lag], atol=1e-9)
    rest = live.finish()
    np.testing.assert_allclose(rest.iloc[:, 1:].astype(float), gamma[-lag:], atol=1e-9)
    assert rest.index.tolist() == list(range(len(score) - lag, len(score)))


def test_a_full_lag_gives_the_table_of_predict(fit):
    data = made(TOUCHING[:1], seed=2)
    live = zoo.stream(fit, lag=100.0)
    assert live.push(data["score"][:4]).empty
    assert live.push(data["score"][4:]).empty
    expected = decode_recordings(fit, data, "marginal").frames()
    found = live.finish()
    assert list(found) == list(expected)
    np.testing.assert_allclose(found.iloc[:, 1:].astype(float), expected.iloc[:, 1:].astype(float), atol=1e-6)
    assert found["label.label"].tolist() == expected["label.label"].tolist()


def test_memory_does_not_grow(fit):
    live = zoo.stream(fit, lag=1.0)
    score = made()["score"].numpy()
    sizes = []
    for _ in range(3):
        live.push(score)
        sizes.append((len(live._window), len(live._short), sum(state.size for state in live._states)))
    assert len(set(sizes)) == 1
    assert live.frame == 3 * len(score)


def test_a_step_is_lost_where_no_usual_way_leads_to_it():
    pairs = [(0, 1), (1, 2), (2, 3)]
    table = np.full((3, 4), 0.25)  # no gap is longer than four frames: nothing leaves it then
    model = StepProcess(NAMES, pairs=pairs, caps=[6, 8, 5], initial=[1.0, 0, 0, 0], gap_table=table[:2])
    values = {site: prior.mean for site, prior in model.priors().items()}
    values["stick"] = torch.tensor([0.95, 0.95, 0.95])
    process = model.process(model.parameters_of(values))
    nodes = {"wait": 0, "gap 1": 1, "gap 2": 2, "gap 3": 3, "one": 4, "two": 5, "three": 6}
    for step, kept in (
        (1, ["wait", "one"]),
        (2, ["wait", "gap 1", "one", "two"]),
        (3, [n for n in nodes if n != "gap 3"]),
    ):
        assert sorted(set(nodes.values()) - {nodes[name] for name in kept}) == _cannot_reach(process, step).tolist()


def test_omitted_and_too_short_steps_raise_an_alarm():
    pairs = [(0, 1), (1, 2), (1, 3), (2, 3)]  # step two may be left out
    model = StepProcess(NAMES, pairs=pairs, rate=2.0, power=1.0)
    values = {site: prior.mean for site, prior in model.priors().items()}
    values |= {"duration_mean": torch.full((3,), 6.0), "duration_sd": torch.full((3,), 1.0)}
    values |= {"gap_mean": torch.full((3,), 3.0), "gap_sd": torch.full((3,), 1.0)}
    process = model.process(model.parameters_of(values))

    def alarms(steps):
        labels = [0] * 6
        for k, frames in steps:
            labels += [k] * frames + [0] * 6
        live = LiveDecoding(model, process, 1.0, lag=4)
        live.push(0.02 + 0.94 * np.eye(4)[[*labels, *[0] * 6]])
        return [(alarm.kind, alarm.step) for alarm in live.alarms]

    assert alarms([(1, 12), (2, 12), (3, 12)]) == []
    assert alarms([(1, 12), (3, 12)]) == [("omitted", "two")]
    assert alarms([(1, 12), (2, 5), (3, 12)]) == [("too short", "two")]


def test_bad_samples_and_options_are_refused(fit):
    live = zoo.stream(fit)
    with pytest.raises(ValueError, match=r"the live recording: 2 scores in a frame for 4 labels"):
        live.push(np.full((2, 2), 0.5))
    assert live.push(np.zeros((0, 4))).empty
    with pytest.raises(ValueError, match="lag: -1"):
        zoo.stream(fit, lag=-1)
    with pytest.raises(ValueError, match="alarm: 2"):
        zoo.stream(fit, alarm=2)
    assert medication.LiveDecoding.__name__ == type(live).__name__


def test_a_model_that_predicts_no_stream_says_so():
    with pytest.raises(TypeError, match="SSMTL does not predict online"):
        zoo.stream(zoo.load_reference("ssmtl/dryer"))
