"""Transforms of x and y that belong to the model: densities with the Jacobian, everything else in the data's units."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import yeojohnson

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.inference import covariances
from pyrozoo.inference.label_process import LabelProcess
from pyrozoo.modeling.warps import Columnwise, Warped
from pyrozoo.models.ssmtl import calibrate, impute, what_if

SPECS = [None, "log", "logit", ("yeo-johnson", 0.0), ("yeo-johnson", 0.7), ("yeo-johnson", 2.0)]
X = {"p": "log", "share": "logit"}


def table(n=90, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({"well": rng.choice(list("abc"), n), "u": rng.normal(size=n), "p": np.exp(rng.normal(size=n))})
    df["share"] = 1 / (1 + np.exp(-rng.normal(size=n)))
    df["q"] = np.where(rng.random(n) < 0.5, np.exp(0.5 * df["u"] + 0.1 * rng.normal(size=n)), np.nan)
    df["p"] = df["p"].where(rng.random(n) > 0.1)
    return df


def read(df):
    return zoo.Batch.from_dataframe(df, unit="well", x=["u", "p", "share"], y="q")


def create(data, **more):
    return zoo.create_model(
        "ssmtl", data, c_dim=2, z_dim=2, width=8, **{"x_transform": X, "y_transform": "log", **more}
    )


@pytest.fixture(scope="module")
def fit():
    data = read(table())
    return zoo.fit(create(data), "paper", data, steps=60, progress=False)


# -------------------------------------------------------------------- the transform
def test_every_column_goes_there_and_back_with_its_jacobian():
    warp, x = Columnwise(SPECS), torch.randn(20, len(SPECS), dtype=torch.double)
    assert torch.allclose(warp.inv(warp(x)), x)
    (derivative,) = torch.autograd.grad(warp(x.requires_grad_()).sum(), x)  # of each entry by its own
    x = x.detach()
    assert torch.allclose(warp.log_abs_det_jacobian(x, warp(x)), derivative.log(), atol=1e-9)
    np.testing.assert_allclose(yeojohnson(warp(x)[:, 4].numpy(), 0.7), x[:, 4], atol=1e-9)


def test_density_and_moments_of_a_logarithm_are_those_of_log_normal():
    normal, value = dist.Normal(torch.tensor([[0.3]]).double(), 0.6), torch.tensor([[2.0]]).double()
    own, known = Warped(normal, [Columnwise(["log"])]), dist.LogNormal(normal.loc, normal.scale)
    for name in ("mean", "variance"):
        assert float(getattr(own, name)) == pytest.approx(float(getattr(known, name)), rel=1e-9)
    assert float(own.log_prob(value)) == pytest.approx(float(known.log_prob(value)), rel=1e-12)


# -------------------------------------------------------------------- in the model
def test_log_y_is_a_normal_model_of_the_logarithm_with_the_jacobian():
    """The same weights on log q, whose row densities differ by log q where it is observed, and nowhere else."""
    df = table()
    data, logged = read(df), read(df.assign(q=np.log(df["q"])))
    fits = [
        zoo.fit(create(rows, y_transform=t), "paper", rows, steps=1, progress=False)
        for rows, t in ((data, "log"), (logged, None))
    ]
    assert torch.allclose(fits[0].model.y_loc, fits[1].model.y_loc, rtol=1e-5)
    for part in ("model", "guide"):
        getattr(fits[1], part).load_state_dict(getattr(fits[0], part).state_dict())
    own, plain = (zoo.log_density(fit, rows, draws=5) for fit, rows in zip(fits, (data, logged), strict=True))
    np.testing.assert_allclose(own, plain - np.log(df["q"]).fillna(0), atol=2e-3)
    tables = [zoo.predict(fit, rows, draws=20) for fit, rows in zip(fits, (data, logged), strict=True)]
    np.testing.assert_allclose(np.log(tables[0]["y.q50"]), tables[1]["y.q50"], atol=0.05)
    scores = [zoo.log_predictive(fit, rows, draws=20) for fit, rows in zip(fits, (data, logged), strict=True)]
    np.testing.assert_allclose(scores[0], scores[1] - np.log(df["q"]).dropna(), atol=2e-3)


def test_everything_is_in_the_units_of_the_table(fit, tmp_path):
    df, data = table(), read(table())
    predicted = zoo.predict(fit, df, draws=30)
    assert (predicted["y.q05"] > 0).all()
    assert (predicted["y.mean"] > predicted["y.q50"]).mean() > 0.9  # right-skewed
    fit.save(tmp_path / "run")
    pd.testing.assert_frame_equal(zoo.predict(zoo.load(tmp_path / "run"), df, draws=30), predicted)
    scores = zoo.metrics(fit, data, draws=30)
    assert scores["y.mape"] > 0
    assert "y.crps_draws" in scores
    assert "y.crps" not in scores  # that of a normal distribution
    assert len(zoo.coverage(fit, data, draws=30)) == 3
    assert np.isfinite(zoo.compare({"a": fit}, data, draws=5)["elpd"]).all()
    checks = zoo.ppc(fit, data, draws=5).set_index(["component", "statistic"])["replicated"]
    assert checks["q", "min"] > 0
    assert 0 < checks["share", "min"] < checks["share", "max"] < 1


def test_uses_work_in_the_units_of_the_table(fit):
    df = table(seed=1)
    drawn = impute(fit, df.head(15), draws=50, progress=False).draws.groups["posterior"]
    assert (drawn["x"][..., 1:] > 0).all()
    assert (drawn["x"][..., 2] < 1).all()
    assert (drawn["y"] > 0).all()
    found = what_if(fit, "a", {"share": [0.2, 0.8]}, draws=50, progress=False).table
    assert found["share"].tolist() == [0.2, 0.8]
    with pytest.raises(ValueError, match="no place on the scale of the model's transforms"):
        what_if(fit, "a", {"share": [1.2]}, draws=50, progress=False)
    assert np.isfinite(zoo.predict(calibrate(fit, read(df), steps=2, progress=False), df, draws=5)).all().all()


def test_a_cross_fitted_law_and_its_process_add_on_the_scale_of_the_transform(monkeypatch):
    monkeypatch.setattr(covariances, "STEPS", 20)
    data = read(table().fillna({"p": 1.0}))
    fit = zoo.cross_fitted(
        create(data), "amortized", data, folds=2, repeats=1, restarts=2, steps=10, draws=20, progress=False
    )  # fmt: skip
    logs = read(table().fillna({"p": 1.0}).assign(q=lambda df: np.log(df["q"])))
    alone = LabelProcess.learn(create(logs, y_transform=None), logs, "y")
    for found, wanted in zip(*(own.predict(fit.model, data) for own in (fit.law.process, alone)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert fit.law.parts["y"].w > 0.5
    predicted = zoo.predict(fit, data, quantiles=(0.05, 0.5, 0.95))
    assert (predicted["y.q05"] > 0).all()
    low, middle, high = (np.log(predicted[f"y.{q}"]) for q in ("q05", "q50", "q95"))
    np.testing.assert_allclose(high - middle, middle - low, rtol=1e-4)  # a t distribution of the logarithm
    scores = zoo.metrics(fit, data)
    assert scores["y.nll"] == pytest.approx(-zoo.log_predictive(fit, data).mean())
    assert (zoo.draw(fit, data, draws=3).groups["cross_fitted_predictive"]["y"] > 0).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"y_transform": "sqrt"}, ValueError, r"y_transform: 'sqrt' is none of \['log', 'logit', 'yeo-johnson'\]"),
        ({"x_transform": {"v": "log"}}, KeyError, r"x_transform: 'v' is none of the columns \['u', 'p', 'share'\]"),
        ({"x_transform": ["log"]}, ValueError, "x_transform: 1 transforms for 3 columns"),
        ({"x_transform": "log"}, ValueError, r"column 'u', row \d+: -.* has no log, which takes positive numbers"),
        ({"y_transform": "logit"}, ValueError, r"column 'q', row \d+: .* has no logit, which takes numbers between"),
    ],
)
def test_transforms_that_cannot_be(given, error, message):
    with pytest.raises(error, match=message):
        create(read(table()), **given)


def test_new_values_outside_the_scale_are_refused(fit):
    with pytest.raises(ValueError, match=r"column 'p', row 3: -1 has no log"):
        zoo.predict(fit, table().assign(p=-1.0).loc[3:], draws=2)
    with pytest.raises(ValueError, match="yeo-johnson needs its power"):
        zoo.create_model("ssmtl", x_dim=1, y_transform="yeo-johnson")


def test_transforms_on_the_command_line(tmp_path):
    table().to_csv(tmp_path / "wells.csv", index=False)
    data, run, out = (str(tmp_path / name) for name in ("wells.csv", "run", "out.csv"))
    columns = [
        "--unit",
        "well",
        "--x",
        "u,p,share",
        "--y",
        "q",
        "--y-transform",
        "yeo-johnson",
        "--x-transform",
        "p=log",
    ]
    quick = ["--no-cross-fit", "--steps", "5", "--set", "width=8"]
    assert main(["fit", "ssmtl", "--data", data, *columns, *quick, "--out", run]) == 0
    assert zoo.load(run).model.config["x_transform"] == [None, "log", None]
    assert main(["predict", run, "--data", data, "--out", out]) == 0
    assert np.isfinite(pd.read_csv(out)["y.mean"]).all()
