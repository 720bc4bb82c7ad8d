"""Inputs with gaps: missing values are integrated out, exactly where the exact answer is known; and categories."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.inference import covariances
from pyrozoo.inference.label_process import LabelProcess
from pyrozoo.models.ssmtl import calibrate, impute, inject_fault, monitor

LOADINGS = torch.tensor([[1.0, 0.5], [-0.7, 1.2], [0.3, -0.8], [0.9, 0.4]], dtype=torch.double)  # of x1, x2, x3 and y
NOISE = torch.tensor([0.5, 0.4, 0.7, 0.3], dtype=torch.double)


def table(n=90, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({"well": rng.choice(list("abc"), n), "u": rng.normal(size=n), "p": 3 + rng.normal(size=n)})
    df["q"] = np.where(rng.random(n) < 0.5, df["u"] + df["p"], np.nan)
    df["p"] = df["p"].where(rng.random(n) > 0.2)
    return df


def read(df, **more):
    return zoo.Batch.from_dataframe(df, unit="well", **{"x": ["u", "p"], "y": "q", **more})


@pytest.fixture(scope="module")
def fit():
    data = read(table())
    return zoo.fit(zoo.create_model("ssmtl", data, c_dim=2, z_dim=2, width=16), "paper", data, steps=40, progress=False)


# -------------------------------------------------------------------- exact
def linear(gaps, seen):
    """A linear Gaussian SSMTL of one unit, with the exact posterior of rows that show `seen` as its guide."""
    model = zoo.create_model(
        "ssmtl", x_dim=3, c_dim=1, z_dim=2, depth=0, floor=0.0, alpha=0.0, gaps=gaps
    ).double()  # fmt: skip
    guide = zoo.create_guide(model, "paper").double()
    with torch.no_grad():
        for network in (model.decoder, guide.local.g_y, guide.local.g_z):
            network.net[-1].weight.zero_()
            network.net[-1].bias.zero_()
        layer = model.decoder.net[-1]
        layer.weight[:4, :2], layer.bias[4:] = LOADINGS, NOISE.log()
        guide.c_loc.zero_(), guide.c_log_scale.zero_()  # q(c) is the prior: c is in no density
        a, noise = LOADINGS[:3][seen], NOISE[:3][seen]
        own = torch.linalg.inv(torch.eye(2) + (a / noise[:, None] ** 2).T @ a)  # covariance of z given x_seen
        gain = own @ (a / noise[:, None] ** 2).T
        head = guide.local.g_y.net[-1]
        head.weight[0, : head.weight.shape[1]][torch.tensor(seen)] = LOADINGS[3] @ gain
        head.bias[1] = 0.5 * (LOADINGS[3] @ own @ LOADINGS[3] + NOISE[3] ** 2).log()
        a, noise = torch.cat([a, LOADINGS[3:]]), torch.cat([noise, NOISE[3:]])
        whole = torch.linalg.inv(torch.eye(2) + (a / noise[:, None] ** 2).T @ a)
        rows = guide.local.g_z.net[-1]
        rows.weight[:2, [*seen, model.inputs_dim]] = whole @ (a / noise[:, None] ** 2).T
    return model, guide, whole


@pytest.mark.parametrize(("gaps", "seen"), [(0.0, [0, 1, 2]), (0.1, [0, 1, 2]), (0.1, [0, 2]), (0.1, [1])])
def test_rows_with_gaps_have_the_exact_evidence(gaps, seen):
    """The guide is the exact posterior of a linear model, so that every draw of the ELBO is log p of what is seen."""
    model, guide, whole = linear(gaps, seen)
    # z is rotated so that its posterior has no correlation: then a diagonal q(z) is exact.
    values, rotation = torch.linalg.eigh(whole)
    with torch.no_grad():
        model.decoder.net[-1].weight[:, :2] = model.decoder.net[-1].weight[:, :2] @ rotation
        layer = guide.local.g_z.net[-1]
        layer.weight[:2] = rotation.T @ layer.weight[:2]
        layer.bias[2:] = 0.5 * values.log()
    x = torch.randn(20, 3, dtype=torch.double)
    mask = torch.zeros(20, 3, dtype=torch.bool)
    mask[:, seen] = True
    y, labelled = torch.randn(20, 1, dtype=torch.double), torch.arange(20) < 12
    data = zoo.Batch.from_arrays(
        rows={"x": torch.where(mask, x, torch.nan), "y": y}, groups={"unit": ["a"] * 20}, labels={"y": labelled},
        seen={"x": mask}, dtype=torch.double,
    )  # fmt: skip
    model.eval(), guide.eval()
    elbo = -model.elbo().loss(model, guide, **model.arguments(data))
    covariance = LOADINGS @ LOADINGS.T + torch.diag(NOISE**2)
    exact = 0.0
    for rows, entries in ((labelled, [*seen, 3]), (~labelled, seen)):
        values = torch.cat([x, y], 1)[rows][:, entries]
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(len(entries)).double(), covariance[entries][:, entries]
        )
        exact += float(normal.log_prob(values).sum())
    assert elbo == pytest.approx(exact, abs=1e-9)


def test_a_missing_input_is_never_read(fit):
    df = table()
    data = read(df)
    other = data.with_tensors({"x": torch.where(data["x_seen"], data["x"], torch.full_like(data["x"], 1e3))})
    pd.testing.assert_frame_equal(zoo.predict(fit, data, draws=20), zoo.predict(fit, other, draws=20))
    a, b = (zoo.log_density(fit, rows, draws=20) for rows in (data, other))
    pd.testing.assert_series_equal(a, b)
    assert not np.allclose(a, zoo.log_density(fit, read(df.fillna({"p": 3.0})), draws=20))


def test_a_cross_fit_with_its_process_reads_no_missing_input(monkeypatch):
    monkeypatch.setattr(covariances, "STEPS", 10)
    data = read(table(60))
    model = zoo.create_model("ssmtl", data, c_dim=2, z_dim=2, width=8)
    fit = zoo.cross_fitted(model, "amortized", data, folds=2, repeats=1, restarts=1, steps=3, draws=20, progress=False)
    assert fit.law.process is not None
    other = data.with_tensors({"x": torch.where(data["x_seen"], data["x"], torch.full_like(data["x"], 1e3))})
    pd.testing.assert_frame_equal(zoo.predict(fit, data, draws=20), zoo.predict(fit, other, draws=20))


def test_the_process_fills_a_gap_from_rows_that_are_alike(monkeypatch):
    """p is a function of u that is no line, so that the mean of the unit says nothing of it."""
    monkeypatch.setattr(covariances, "STEPS", 20)
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"well": np.repeat(list("abc"), 40), "u": rng.uniform(-2, 2, 120)})
    whole = df.assign(p=df["u"] ** 2, q=3 * df["u"] ** 2)
    gapped = whole.assign(p=whole["p"].where(rng.random(120) > 0.3))
    data = read(gapped)
    model = zoo.create_model("ssmtl", data, c_dim=2, z_dim=2, width=8)
    process = LabelProcess.learn(model, data, "y")
    assert process.tensors["rows"].shape == (120, 4)
    means = [process.predict(model, rows)[0].mean(0)[:, 0] for rows in (data, read(whole))]
    missing = gapped["p"].isna().to_numpy()
    np.testing.assert_allclose(means[0][~missing], means[1][~missing])
    assert np.sqrt(np.mean((means[0] - whole["q"])[missing] ** 2)) < 0.2 * whole["q"].std()
    assert "rows" not in LabelProcess.learn(model, read(whole), "y").tensors


def test_standardisation_knows_only_what_is_seen():
    df = table()
    sizes = type(zoo.create_model("ssmtl", read(df))).sizes_from(read(df))
    assert sizes["x_loc"][1] == pytest.approx(df["p"].mean(), rel=1e-6)
    assert sizes["x_scale"][1] == pytest.approx(df["p"].std(ddof=0), rel=1e-6)
    with pytest.raises(ValueError, match="column 'p': it has no value in the training data"):
        zoo.create_model("ssmtl", read(df.assign(p=np.nan)))


def test_training_hides_inputs_from_model_and_guide_alike(fit):
    model, data = fit.model.fresh(), read(table())
    torch.manual_seed(0)
    hidden = [model.train().arguments(data)["x_seen"] for _ in range(50)]
    share = 1 - torch.stack(hidden).double().mean(0)[data["x_seen"]].mean()
    assert abs(float(share) - model.gaps) < 0.01
    assert not any((seen & ~data["x_seen"]).any() for seen in hidden)
    assert torch.equal(model.eval().arguments(data)["x_seen"], data["x_seen"])


@pytest.mark.parametrize("guide", ["paper", "amortized"])
@pytest.mark.parametrize("variant", ["ssmtl", "ml-vae", "ssl-vae"])
def test_gaps_in_every_model_of_the_inputs(variant, guide):
    if (variant, guide) == ("ssl-vae", "amortized"):
        return  # it has no contexts
    data = read(table(), **({"y": None} if variant == "ml-vae" else {}))
    model = zoo.create_model("ssmtl", data, variant=variant, z_dim=2, width=8)
    fit = zoo.fit(model, guide, data, steps=3, batch_size=30, progress=False)
    drawn = zoo.draw(fit, data, draws=3)
    np.testing.assert_array_equal(np.isnan(drawn.groups["observed_data"]["x"]), ~data["x_seen"].numpy())
    assert zoo.to_arviz(drawn)["observed_data"]["x"].size == int(data["x_seen"].sum())


def test_saved_and_loaded_with_gaps(fit, tmp_path):
    fit.save(tmp_path / "run")
    new = table(seed=1).drop(columns="q")
    loaded = zoo.load(tmp_path / "run")
    pd.testing.assert_frame_equal(zoo.predict(fit, new, draws=10), zoo.predict(loaded, new, draws=10))
    assert np.isfinite(zoo.predict(loaded, new.assign(p=np.nan), draws=10)).all().all()


def test_uses_on_rows_with_gaps(fit):
    df = table(seed=2)
    found = impute(fit, df.head(12), draws=50, progress=False).table.loc[(slice(None), "p"), "mean"]
    assert len(found) == df["p"].head(12).isna().sum()
    new = read(df.assign(well="new"))
    assert np.isfinite(zoo.predict(calibrate(fit, new, steps=3, progress=False), new, draws=5)).all().all()
    with pytest.raises(ValueError, match="batch: rows with missing inputs have scores of their own; impute them"):
        monitor(fit, read(df).hide(), progress=False)
    checks = zoo.ppc(fit, read(df), draws=5, sites=["x"])
    assert list(checks["component"].unique()) == ["u", "p"]
    assert inject_fault(read(df), "u", "bias", 1.0)[1].any()


def test_a_model_of_complete_inputs_refuses_gaps():
    data = read(table())
    with pytest.raises(ValueError, match=r"column 'p', row .*: the value is missing, and MTL takes complete inputs"):
        zoo.fit(zoo.create_model("ssmtl", data, variant="mtl", width=4), "paper", data, steps=1, progress=False)
    with pytest.raises(ValueError, match=r"made for complete ones; create_model makes it for gaps .* or by gaps=0.05"):
        zoo.fit(zoo.create_model("ssmtl", data, gaps=0.0, width=4), "paper", data, steps=1, progress=False)
    with pytest.raises(ValueError, match=r"gaps: 1\.0; give a share"):
        zoo.create_model("ssmtl", data, gaps=1.0)
    whole = read(table().dropna(subset=["p"]))
    plain = zoo.fit(zoo.create_model("ssmtl", whole, width=4), "paper", whole, steps=1, progress=False)
    with pytest.raises(ValueError, match="made for complete ones"):
        zoo.predict(plain, data, draws=2)
    ready = zoo.fit(zoo.create_model("ssmtl", whole, width=4, gaps=0.1), "paper", whole, steps=1, progress=False)
    assert np.isfinite(zoo.predict(ready, data, draws=2)).all().all()


# -------------------------------------------------------------------- categories
def test_categories_become_inputs_with_names():
    df = table(6).assign(
        stage=pd.Categorical(["b", "a", None, "b", "b", "a"]), on=[True, False, True, True, False, True]
    )
    data = read(df, x=["stage", "u", "on"])
    assert data.columns("x") == ["stage=a", "stage=b", "u", "on"]
    assert data["x"][:, [0, 1, 3]].tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 0, 1]]
    assert data["x_seen"][2].tolist() == [False, False, True, True]
    assert data.info["levels"] == {"stage": ["a", "b"], "on": [True]}
    assert data.info["columns"]["x"] == ["stage", "u", "on"]
    again = read(df.assign(stage=df["stage"].astype(object)).iloc[:1], x=["stage"], levels={"stage": ["a", "b", "c"]})
    assert again["x"].tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("x", "levels", "error", "message"),
    [
        (["s"], {}, TypeError, r"column 's' holds .* or, if it is an input that holds categories, by .astype\('cat"),
        (["s"], {"s": ["a"]}, ValueError, r"column 's', row 11: 'b' is none of its categories \['a'\]; correct it"),
        (["s"], {"s": ["a", "a", "b"]}, ValueError, r"column 's': a category of .* is there twice"),
        (
            ["s"],
            {"s": ["a", "b", ("c",)]},
            TypeError,
            r"column 's': the category \('c',\) is neither text nor a number",
        ),
        (
            ["s", "s=a"],
            {"s": ["a", "b"]},
            ValueError,
            "column 's=a': a category of another column would have this name",
        ),
        (["s"], {"u": ["a"]}, KeyError, r"levels: 'u' is none of the inputs \['s'\]"),
    ],
)
def test_categories_that_cannot_be(x, levels, error, message):
    df = pd.DataFrame({"well": ["a", "a"], "s": ["a", "b"], "s=a": [0.0, 1.0], "u": [0, 1]}, index=[10, 11])
    with pytest.raises(error, match=message):
        zoo.Batch.from_dataframe(df, unit="well", x=x, levels=levels)


def test_gaps_and_categories_on_the_command_line(tmp_path, capsys):
    df = table().assign(stage=np.random.default_rng(0).choice(["idle", "run", ""], 90))
    df.to_csv(tmp_path / "wells.csv", index=False)
    columns = ["--unit", "well", "--x", "u,p,stage", "--category", "stage", "--y", "q"]
    quick = ["--no-cross-fit", "--steps", "5", "--set", "width=8"]
    run, out, data = (str(tmp_path / name) for name in ("run", "out.csv", "wells.csv"))
    assert main(["fit", "ssmtl", "--data", data, *columns, *quick, "--out", run]) == 0
    assert main(["predict", run, "--data", data, "--out", out]) == 0
    assert np.isfinite(pd.read_csv(out)["y.mean"]).all()
    assert main(["metrics", run, "--data", data]) == 0
    capsys.readouterr()
    df.assign(stage="flood").to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", run, "--data", str(tmp_path / "new.csv"), "--out", str(tmp_path / "b.csv")]) == 2
    assert "column 'stage', row 0: 'flood' is none of its categories ['idle', 'run']" in capsys.readouterr().err
    more = ["--out", str(tmp_path / "other")]
    assert main(["fit", "ssmtl", "--data", data, *columns, "--category", "well", *quick, *more]) == 2
    assert "--category well: it is none of the inputs" in capsys.readouterr().err
    df.assign(stage=["idle", "run", "NA"] * 30).to_csv(tmp_path / "new.csv", index=False)  # missing, as R writes it?
    assert main(["fit", "ssmtl", "--data", str(tmp_path / "new.csv"), *columns, *quick, *more]) == 2
    assert "'stage', row 2 (from 0, below the header): 'NA' may be a category or a missing" in capsys.readouterr().err
