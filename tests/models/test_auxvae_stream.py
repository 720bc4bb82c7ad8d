"""auxvae: a load for a sliding window of a walk in progress."""

import numpy as np
import pytest
from auxvae_small import SIZES

import pyrozoo as zoo
from pyrozoo.models import auxvae
from pyrozoo.models.auxvae.data.simulator import resample

CHANNELS = [0, 20, 57]


@pytest.fixture(scope="module")
def fit():
    walks = auxvae.simulate(n_participants=2, n_steps=24, duration_s=3.0)
    data = auxvae.to_batch(
        x=walks["x"][..., CHANNELS].numpy(), x_aux=walks["x_aux"][..., CHANNELS].numpy(), y=walks["y"].numpy(),
        style=walks["style"].numpy(), participant=walks.group_names("participant"), channels=["a", "b", "c"],
        participants=walks.coords["participant"], styles=walks.coords["style_class"],
    )  # fmt: skip
    model = zoo.create_model("auxvae", data, **{**SIZES, "fusion": "departure"})
    return zoo.fit(model, "paper", data, epochs=1, progress=False)


def recordings(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(60, 3)), rng.normal(size=(75, 3))


def offline(fit, walk, own):
    row = auxvae.to_batch(
        x=resample(walk, 24)[None], y=[np.nan], style=np.array([-1]), participant=["A"], x_aux=resample(own, 24)[None],
        participants=["A"], channels=["a", "b", "c"], styles=auxvae.STYLES,
    )  # fmt: skip
    return zoo.predict(fit, row, seed=4, draws=20)


@pytest.mark.parametrize("sizes", [[75], [1] * 75, [10, 45, 20]])
def test_windows_of_a_stream_are_predicted_as_offline(fit, sizes):
    own, walk = recordings()
    live = zoo.stream(fit, x_aux=own, length=50, step=10, seed=4, draws=20)
    pieces = np.split(walk, np.cumsum(sizes)[:-1])
    tables = [table for piece in pieces if len(table := live.push(piece))]
    found = {sample: line for table in tables for sample, line in table.iterrows()}
    assert list(found) == [49, 59, 69]
    for sample, line in found.items():
        expected = offline(fit, walk[sample - 49 : sample + 1], own).iloc[0]
        assert line.drop("style.label").astype(float).to_dict() == pytest.approx(
            expected.drop("style.label").astype(float).to_dict(), rel=1e-6
        )
        assert line["style.label"] == expected["style.label"]
    assert len(live.kept) == 50  # memory does not grow
    assert len(live.finish()) == 0


def test_samples_that_cannot_be_used_are_refused(fit):
    own, walk = recordings()
    live = zoo.stream(fit, x_aux=own, length=50)
    assert live.window.step == 5
    with pytest.raises(ValueError, match=r"samples: shape \(5, 2\); give \(samples, 3 channels\)"):
        live.push(walk[:5, :2])
    with pytest.raises(ValueError, match="samples, 3 of these: channel 'b' is nan"):
        live.push(np.where((np.arange(5) == 3)[:, None] & (np.arange(3) == 1), np.nan, walk[:5]))
    live.finish()
    with pytest.raises(ValueError, match="finished"):
        live.push(walk)
    for wrong, message in (
        ({"length": 20}, "n_steps: 24; a walk of 20 samples"), ({"length": 50, "step": 0}, "step: 0"),
        ({"length": 50, "x_aux": own[:, :2]}, "x_aux: shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            zoo.stream(fit, **{"x_aux": own, **wrong})
