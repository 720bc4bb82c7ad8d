"""Prediction through the generative model against an exact answer: SSMTL with linear networks is linear-Gaussian."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.criticism.conformal import conformal
from pyrozoo.criticism.reweighting import predict_by_importance
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.guides import PaperGuide
from pyrozoo.models.ssmtl.model import SSMTL

pytestmark = pytest.mark.usefixtures("double_precision")

A, B, SX, SY = 1.0, 2.0, 0.5, 0.4  # x = A z + SX e, y = B z + SY e


def linear_fit(head_scale=0.3, head_shift=0.4):
    """A fit with known weights: an exact q(z | x, y), and a head whose scale and mean are off by what is given."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"u": np.arange(40) % 2, "x": rng.normal(size=40), "y": rng.normal(size=40)})
    batch = zoo.Batch.from_dataframe(frame, unit="u", x=["x"], y="y")
    model = SSMTL(x_dim=1, y_dim=1, n_units=2, c_dim=1, z_dim=1, depth=0, floor=0.0)
    fitted = zoo.fit(model, PaperGuide, batch, steps=1, progress=False)
    local, decoder = fitted.guide.local, fitted.model.decoder
    precision = 1 + A**2 / SX**2 + B**2 / SY**2
    slope, sd = exact_prediction()
    with torch.no_grad():
        for net in (decoder, local.g_y, local.g_z):
            for parameter in net.parameters():
                parameter.zero_()
        decoder.net[0].weight[:2, 0] = torch.tensor([A, B])
        decoder.net[0].bias[2:] = torch.tensor([SX, SY]).log()
        local.g_y.net[0].weight[0, 0] = slope
        local.g_y.net[0].bias[:] = torch.tensor([head_shift * sd, math.log(head_scale * sd)])
        local.g_z.net[0].weight[0, :2] = torch.tensor([A / SX**2, B / SY**2]) / precision
        local.g_z.net[0].bias[1] = -0.5 * math.log(precision)
    return fitted, batch


def exact_prediction():
    """Slope and standard deviation of p(y | x)."""
    slope = A * B / (A**2 + SX**2)
    return slope, math.sqrt(B**2 + SY**2 - slope * A * B)


def test_importance_finds_the_exact_prediction_where_the_head_is_overconfident():
    fitted, batch = linear_fit()
    slope, sd = exact_prediction()
    head = zoo.predict(fitted, batch, draws=50)
    assert head["y.sd"].to_numpy() == pytest.approx(0.3 * sd)
    table = predict_by_importance(fitted, batch, draws=2, particles=4000, quantiles=(0.05, 0.5, 0.95))
    mean = slope * batch["x"][:, 0].numpy()
    error = sd / np.sqrt(table["y.ess"].to_numpy())
    assert (np.abs(table["y.mean"] - mean) < 5 * error).all()
    assert table["y.sd"].to_numpy() == pytest.approx(sd, rel=0.1)
    for q, z in (("q05", -1.6449), ("q50", 0.0), ("q95", 1.6449)):
        assert np.abs(table[f"y.{q}"] - mean - z * sd).mean() < 0.06 * sd
    assert (table["y.khat"] < 0.5).all()
    assert (table["y.ess"] > 1000).all()


def test_without_widening_khat_tells_that_the_head_is_too_narrow():
    fitted, batch = linear_fit()
    table = predict_by_importance(fitted, batch, draws=1, particles=4000, widen=(1,))
    assert table["y.khat"].median() > 0.75  # 1 - 0.3^2 in theory


def test_an_exact_head_has_equal_weights():
    fitted, batch = linear_fit(head_scale=1.0, head_shift=0.0)
    table = predict_by_importance(fitted, batch, draws=3, particles=50, widen=(1,))
    assert table["y.ess"].to_numpy() == pytest.approx(150.0)
    assert np.isneginf(table["y.khat"]).all()


def test_blocks_rows_and_seeds(monkeypatch):
    fitted, batch = linear_fit()
    call = {"draws": 2, "particles": 7, "seed": 5}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = predict_by_importance(fitted, batch, **call)
    assert torch.equal(state, torch.get_rng_state())
    pd.testing.assert_frame_equal(first, predict_by_importance(fitted, batch, **call))
    assert (first["y.mean"] != predict_by_importance(fitted, batch, **{**call, "seed": 6})["y.mean"]).all()
    monkeypatch.setattr(
        "pyrozoo.criticism.reweighting.ROWS", 4000
    )  # 100 particles of 40 rows at once, and one left over
    table = predict_by_importance(fitted, batch, draws=2, particles=2001, seed=5)
    assert np.abs(table["y.mean"] - exact_prediction()[0] * batch["x"][:, 0].numpy()).max() < 0.3
    assert (table["y.ess"] <= 4002).all()


def test_labels_of_the_rows_do_not_matter():
    fitted, batch = linear_fit()
    call = {"draws": 1, "particles": 20}
    pd.testing.assert_frame_equal(
        predict_by_importance(fitted, batch, **call), predict_by_importance(fitted, batch.hide(), **call)
    )


@pytest.mark.parametrize("guide", ["paper", "amortized", "normal"])
def test_every_guide_of_the_entry_proposes_and_is_calibrated(guide):
    train, test = simulate(n_units=4, n_labelled=4, n_unlabelled=6, n_test=5)
    model = zoo.create_model("ssmtl", train, width=8, depth=1, c_dim=2)
    fitted = zoo.fit(model, guide, train, steps=3, progress=False)
    found = conformal(fitted, test, level=0.8, predictor=predict_by_importance, draws=2, particles=20)
    table = found.predict(test)
    assert np.isfinite(table[["y.mean", "y.lower", "y.upper", "y.ess"]]).all(axis=None)
    assert found.coverage(test)["empirical"][0] >= 0.8
