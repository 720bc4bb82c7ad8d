"""Targets that are missing one by one: the known ones are data, the others latent; exact where the answer is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from toys import multivariate

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.inference import covariances
from pyrozoo.inference.label_process import LabelProcess, learn_process
from pyrozoo.models.ssmtl import calibrate, impute, monitor
from pyrozoo.reports.study import Study

TARGETS = ["oil", "water"]


def table(n=80, seed=0, whole=False):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({"well": rng.choice(list("abc"), n), "u": rng.normal(size=n), "p": 3 + rng.normal(size=n)})
    df["oil"], df["water"] = 5 + df["u"] + 0.1 * rng.normal(size=n), 9 + df["p"] + 0.1 * rng.normal(size=n)
    kinds = rng.integers(4, size=n)  # both, oil alone, water alone, none
    if whole:
        return df.mask((kinds == 3)[:, None] & df.columns.isin(TARGETS))
    return df.assign(oil=df["oil"].where(kinds < 2), water=df["water"].where(kinds % 2 == 0))


def read(df, **more):
    return zoo.Batch.from_dataframe(df, unit="well", x=["u", "p"], y=TARGETS, **more)


def made(data, variant="ssmtl", **more):
    sizes = {"c_dim": 2, "z_dim": 2, "width": 8, **more}
    return zoo.create_model("ssmtl", data, variant=variant, **{k: v for k, v in sizes.items() if _takes(variant, k)})


def _takes(variant, name):
    return not ((variant == "ssl-vae" and name == "c_dim") or (variant == "mtl" and name == "z_dim"))


@pytest.fixture(scope="module")
def fit():
    data = read(table())
    return zoo.fit(made(data, width=16), "paper", data, steps=60, progress=False)


# -------------------------------------------------------------------- exact
def linear():
    """A linear Gaussian SSMTL of one unit, whose two targets are independent given x: the guide is exact."""
    model = zoo.create_model(
        "ssmtl", x_dim=2, y_dim=2, c_dim=1, z_dim=2, depth=0, floor=0.0, alpha=0.0
    ).double()  # fmt: skip
    guide = zoo.create_guide(model, "paper").double()
    loadings, noise = torch.tensor([[1.0, 0.7], [0.6, 1.3]]).double(), torch.tensor([[0.5, 0.4], [0.8, 0.3]]).double()
    with torch.no_grad():
        for network in (model.decoder, guide.local.g_y, guide.local.g_z):
            network.net[-1].weight.zero_()
            network.net[-1].bias.zero_()
        decoder, head, rows = model.decoder.net[-1], guide.local.g_y.net[-1], guide.local.g_z.net[-1]
        for d in range(2):  # x_d and y_d are of z_d alone
            (a, b), (s, t) = loadings[d], noise[d]
            decoder.weight[d, d], decoder.weight[2 + d, d] = a, b
            decoder.bias[4 + d], decoder.bias[6 + d] = s.log(), t.log()
            one = 1 / (1 + a**2 / s**2)  # variance of z_d given x_d, and given both
            both = 1 / (1 + a**2 / s**2 + b**2 / t**2)
            head.weight[d, d], head.bias[2 + d] = b * one * a / s**2, 0.5 * (b**2 * one + t**2).log()
            rows.weight[d, d], rows.weight[d, 2 + d] = both * a / s**2, both * b / t**2
            rows.bias[2 + d] = 0.5 * both.log()
        guide.c_loc.zero_(), guide.c_log_scale.zero_()  # q(c) is the prior: c is in no density
    covariance = torch.zeros(4, 4).double()
    for d in range(2):
        own = loadings[d][:, None] * loadings[d] + torch.diag(noise[d] ** 2)
        covariance[d::2, d::2] = own
    return model, guide, covariance


def test_rows_with_some_of_their_targets_have_the_exact_evidence():
    """Every draw of the ELBO is log p of what is seen, the other targets integrated out."""
    model, guide, covariance = linear()
    x, y = torch.randn(40, 2, dtype=torch.double), torch.randn(40, 2, dtype=torch.double)
    seen = torch.tensor([[True, True], [True, False], [False, True], [False, False]]).repeat(10, 1)
    data = zoo.Batch.from_arrays(
        rows={"x": x, "y": torch.where(seen, y, torch.nan)}, groups={"unit": ["a"] * 40},
        labels={"y": seen.any(1)}, seen={"y": seen}, dtype=torch.double,
    )  # fmt: skip
    exact = 0.0
    for i in range(40):
        entries = [0, 1, *(2 + torch.arange(2)[seen[i]]).tolist()]
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(len(entries)).double(), covariance[entries][:, entries]
        )
        exact += float(normal.log_prob(torch.cat([x[i], y[i]])[entries]))
    elbo = -model.elbo().loss(model, guide, **model.arguments(data))
    assert elbo == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("variant", "guide"), [("ssmtl", "paper"), ("ssmtl", "amortized"), ("ssl-vae", "paper"),
                                                ("mtl", "mvn")])  # fmt: skip
def test_rows_with_all_or_none_have_the_same_densities_bit_by_bit(variant, guide):
    """A mask by entry that says no more than that of the rows changes nothing, whatever it is made of."""
    data = read(table(whole=True))
    model = made(data, variant)
    made_guide = zoo.create_guide(model, guide)
    seen = torch.as_tensor(data.known())
    by_entry = zoo.Batch(**{**vars(data), "tensors": {**data.tensors, "y_seen": seen},
                            "along": {**data.along, "y_seen": "row"}})  # fmt: skip
    assert "y_seen" not in data.tensors
    found = []
    for batch in (data, by_entry):
        batch = batch.with_support(8) if guide == "amortized" else batch
        torch.manual_seed(0)
        arguments = model.arguments(batch)
        drawn = poutine.trace(made_guide).get_trace(**arguments)
        joint = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(**arguments)
        drawn.compute_log_prob(), joint.compute_log_prob()
        found.append([drawn.log_prob_sum(), joint.log_prob_sum()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_what_is_missing_is_never_read(fit):
    data = read(table())
    assert data.known().sum(0).tolist() == table()[TARGETS].notna().sum().tolist()
    other = data.with_tensors({"y": torch.where(data["y_seen"], data["y"], torch.full_like(data["y"], 1e3))})
    a, b = (zoo.log_density(fit, rows, draws=20) for rows in (data, other))
    pd.testing.assert_series_equal(a, b)
    assert zoo.metrics(fit, data, draws=20) == zoo.metrics(fit, other, draws=20)


def test_a_log_scale_knows_only_what_is_seen():
    df = table()
    data = read(df)
    model = zoo.create_model("ssmtl", data, y_transform="log", width=8)
    np.testing.assert_allclose(model.y_loc, np.log(df[TARGETS]).mean(), rtol=1e-5)
    fit = zoo.fit(model, "paper", data, steps=3, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()
    assert np.isfinite(zoo.metrics(fit, data, draws=20)["y.nll"])


# -------------------------------------------------------------------- masks of a batch
def test_masks_follow_the_rows():
    data = read(table())
    np.testing.assert_array_equal(data.observed(), data.known().any(1))
    assert data.sizes["labelled"] == int(data.observed().sum())
    both = np.flatnonzero(data.known().all(1))
    assert "y_seen" not in data.hide().tensors
    assert "y_seen" not in data.relabel(np.isin(np.arange(data.n_rows), both)).tensors
    half = data.relabel(np.arange(data.n_rows) % 2 == 0)
    np.testing.assert_array_equal(half.known(), data.known() & (np.arange(data.n_rows) % 2 == 0)[:, None])
    assert not half["y"][torch.as_tensor(~half.known())].any()


def test_a_mask_that_contradicts_the_labels_is_refused():
    arrays = {"rows": {"x": np.zeros((2, 1)), "y": np.zeros((2, 2))}, "groups": {"unit": ["a", "a"]}}
    with pytest.raises(ValueError, match=r"seen\['y'\], entry 1: a row has a label where any"):
        zoo.Batch.from_arrays(**arrays, labels={"y": [True, False]}, seen={"y": np.array([[True, False]] * 2)})


# -------------------------------------------------------------------- scores
def test_every_target_is_scored_by_its_own_labels(fit):
    data, df = read(table()), table()
    predicted = zoo.predict(fit, data, draws=50)
    assert list(predicted)[::7] == ["y[oil].mean", "y[water].mean"]
    errors = [predicted[f"y[{name}].mean"] - df[name] for name in TARGETS]
    scores = zoo.metrics(fit, data, draws=50)
    assert scores["y.rmse"] == pytest.approx(np.sqrt(np.nanmean(np.square(errors))), rel=1e-5)
    inside = [(df[name] >= predicted[f"y[{name}].q05"]) & (df[name] <= predicted[f"y[{name}].q95"]) for name in TARGETS]
    share = sum(i[df[name].notna()].sum() for i, name in zip(inside, TARGETS, strict=True)) / data.known().sum()
    assert scores["y.cover90"] == pytest.approx(share)
    assert zoo.coverage(fit, data, levels=(90,), draws=50)["empirical"][0] == pytest.approx(share)
    assert zoo.metrics(fit, data, by="unit", draws=20)["y.rows"].sum() == data.observed().sum()
    u = zoo.pit(fit, data, draws=50)
    np.testing.assert_array_equal(u.notna(), data.known()[data.observed()])


def test_the_density_of_one_target_is_its_own(fit):
    """Of a row with one target, the log predictive density does not depend on the other's value or units."""
    df = table()
    only = df[df["oil"].notna() & df["water"].isna()]
    one, both = zoo.log_predictive(fit, read(only), draws=50), read(only.assign(water=12.0))
    model, guide = fit.model, fit.guide
    with torch.no_grad():
        data, whole = fit.prepare(read(only).hide()), fit.prepare(both)
        torch.manual_seed(0)
        c = guide.c_loc + guide.c_log_scale.exp() * torch.randn(4000, *guide.c_loc.shape)
        inputs = model.inputs(data["x"])
        q = model.y_given(*guide.local.g_y(*inputs, c[:, data["unit"]]))
        exact = q.base_dist.log_prob(whole["y"])[..., 0].logsumexp(0) - np.log(4000)
    np.testing.assert_allclose(one, exact, atol=0.1)


def test_checks_and_arviz_know_the_entries(fit):
    data = read(table())
    table_of = zoo.ppc(fit, data, draws=20, sites=["y"]).set_index(["component", "statistic"])
    assert table_of.loc[("oil", "mean"), "observed"] == pytest.approx(table()["oil"].mean(), rel=1e-5)
    idata = zoo.to_arviz(fit, data, draws=5)
    assert idata["observed_data"]["y"].sizes == {"y_entry": int(data.known().sum())}
    assert set(np.unique(idata["observed_data"]["y_target"])) == set(TARGETS)
    assert idata["posterior_predictive"]["y"].sizes["y_entry"] == data.known().sum()
    everything = zoo.to_arviz(fit, data, draws=5, observed_only=False)["observed_data"]["y"].to_numpy()
    np.testing.assert_array_equal(np.isnan(everything), ~data.known())
    assert zoo.khat(fit, data, draws=100, per="row").notna().any()
    ax = zoo.plots.predicted_vs_observed(zoo.predict(fit, data, draws=20), data, "y[water]")
    assert ax.get_title().endswith(f", {table()['water'].notna().sum()} rows")


@pytest.mark.parametrize(("variant", "guide"), [("ssmtl", "amortized"), ("ssl-vae", "paper"), ("mtl", "paper")])
def test_every_model_of_targets_trains_on_them(variant, guide):
    data = read(table())
    fit = zoo.fit(made(data, variant), guide, data, steps=3, batch_size=30, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()
    assert np.isfinite(zoo.metrics(fit, data, draws=10)["y.nll"])
    drawn = zoo.draw(fit, data, draws=2)
    np.testing.assert_array_equal(np.isnan(drawn.groups["observed_data"]["y"]), ~data.known())


def test_new_units_are_read_with_their_own_gaps():
    """Support rows of known units keep their masks beside those of a new unit without gaps, and the reverse."""
    df = table()
    data = read(df)
    fit = zoo.fit(made(data), "amortized", data, steps=3, progress=False)
    new = df.assign(well=df["well"].replace("a", "new"))
    known = (new["well"] != "new").to_numpy()
    alone, beside = (zoo.predict(fit, fit.batch(part), draws=20) for part in (df, new))
    np.testing.assert_array_equal(alone[known], beside[known])


def test_a_cross_fit_learns_a_law_and_a_process_of_each_target(monkeypatch, tmp_path):
    monkeypatch.setattr(covariances, "STEPS", 20)
    data = read(table(100))
    fit = zoo.cross_fitted(made(data), "paper", data, folds=2, repeats=1, restarts=1, steps=5, draws=20, progress=False)
    assert list(fit.law.parts) == ["y[oil]", "y[water]"]
    assert min(part.w for part in fit.law.parts.values()) > 0.8, "five steps teach the networks nothing"
    scores = zoo.metrics(fit, data, draws=20)
    assert scores["y.rmse"] < 0.3  # of targets with a standard deviation of 1 and a noise of 0.1
    loaded = zoo.load(fit.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(*(zoo.predict(one, data, draws=5) for one in (fit, loaded)))
    assert Study(fit, data, data, draws=20)._law_of(data).process.known(data).shape == (100, 2)


@pytest.mark.parametrize("timed", [True, False])
def test_the_process_of_a_target_is_that_of_the_target_alone(timed, monkeypatch):
    monkeypatch.setattr(covariances, "STEPS", 10)
    df = table(90).assign(day=np.arange(90) % 30)
    df.loc[df["well"] == "c", "water"] = np.nan
    more = {"time": "day"} if timed else {}
    data = read(df, **more)
    both = learn_process(made(data), data, "y")
    assert both.timed == timed
    mean, sd = both.predict(made(data), data)
    for j, name in enumerate(TARGETS):
        own = zoo.Batch.from_dataframe(df, unit="well", x=["u", "p"], y=name, **more)
        alone = LabelProcess.learn(made(own), own, "y")
        for found, wanted in zip((mean, sd), alone.predict(made(own), own), strict=True):
            np.testing.assert_array_equal(found[..., j], wanted[..., 0])
        np.testing.assert_array_equal(both.known(data)[:, j], alone.known(own))
        if timed:
            np.testing.assert_array_equal(both.lag(data)[:, j], alone.lag(own))
    assert (both.known(data).mean(0) < 1).tolist() == [False, True]
    with pytest.raises(ValueError, match="no row has a label of 'water'; leave it out, or use process=False"):
        learn_process(made(data), read(df.assign(water=df["water"].where(df.index < 0))), "y")


def test_uses_take_them_or_say_why_not(fit):
    df = table()
    new = read(df.assign(well=df["well"] + "2"))
    assert calibrate(fit, new, steps=3, starts=1, progress=False).units["labelled"].sum() == new.observed().sum()
    few = df[:12]
    found = impute(fit, few, draws=20, sweeps=4, rounds=1, progress=False)
    assert len(found.table) == few[TARGETS].isna().sum().sum()
    with pytest.raises(ValueError, match="some rows have part of their targets"):
        monitor(fit, read(df), progress=False)
    with pytest.raises(ValueError, match="held_out: some rows have part of 'y' only"):
        zoo.conformal(fit, read(df))


def test_a_report_scores_each_target_by_its_labels(fit):
    df = table(60, seed=1)
    outcomes = Study(fit, read(table()), read(df), draws=20).outcomes
    assert {own.name: len(own.truth) for own in outcomes} == {f"y[{name}]": df[name].notna().sum() for name in TARGETS}
    for own, name in zip(outcomes, TARGETS, strict=True):
        np.testing.assert_allclose(own.truth, df[name].dropna(), rtol=1e-6)
        assert len(own.table) == len(own.keys) == len(own.truth) == len(own.rivals["ridge"].values)


def test_the_command_line_takes_them(tmp_path, capsys):
    table(60).to_csv(tmp_path / "wells.csv", index=False)
    given = ["--data", str(tmp_path / "wells.csv"), "--unit", "well", "--x", "u,p", "--y", "oil,water"]
    run = str(tmp_path / "run")
    assert main(["fit", "ssmtl", *given, "--no-cross-fit", "--steps", "5", "--out", run]) == 0
    out = tmp_path / "new.csv"
    assert main(["predict", run, "--data", str(tmp_path / "wells.csv"), "--out", str(out)]) == 0
    assert {"y[oil].mean", "y[water].mean"} <= set(pd.read_csv(out))
    assert main(["metrics", run, "--data", str(tmp_path / "wells.csv")]) == 0
    assert "y.rmse" in capsys.readouterr().out


def test_other_models_refuse_them_by_row():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"a": rng.normal(size=6), "b": rng.normal(size=6)}, index=range(20, 26))
    df.loc[23, "b"] = np.nan
    data = zoo.Batch.from_columns(df, targets={"y": ["a", "b"]})
    with pytest.raises(ValueError, match=r"row 23: some of the targets \['a', 'b'\] are missing .* Panel takes all or"):
        zoo.fit(multivariate.Panel(2), AutoNormal, data, steps=1, progress=False)


def test_rows_on_disk_have_all_or_none(tmp_path):
    with pytest.raises(ValueError, match=r"chunk 1, .*some of the targets are missing"):
        zoo.write_rows(tmp_path / "wells", table(), unit="well", x=["u", "p"], y=TARGETS)
