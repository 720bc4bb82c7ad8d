"""Diagnostics on fits whose answers are known."""

import contract.entry_events as entry_events
import contract.entry_mixture as entry_mixture
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal

import pyrozoo as zoo
from pyrozoo import scores
from pyrozoo.criticism import scoring as diagnostics
from pyrozoo.criticism.importance import pareto_k
from pyrozoo.criticism.sbc import rank_p_value
from pyrozoo.models.ssmtl.entry import tiny
from pyrozoo.posterior.columns import columns_of, summary
from pyrozoo.posterior.drawing import prior_predictive
from pyrozoo.posterior.predicting import predict_with_draws
from pyrozoo.posterior.target_draws import Predicted


@pytest.fixture(scope="module")
def data():
    return tiny(0)[0]


def fitted(data, guide, **settings):
    model = zoo.create_model("ssmtl", data, **tiny(0)[1])
    return zoo.fit(model, guide, data, steps=30, progress=False, **settings)


@pytest.fixture(scope="module")
def paper(data):
    return fitted(data, "paper")


def test_pareto_k_is_that_of_the_tail():
    generator = torch.Generator().manual_seed(0)
    log_uniform = -torch.rand(20_000, generator=generator).log()  # exponential, so that exp(k e) has Pareto tail k
    assert pareto_k(0.7 * log_uniform) == pytest.approx(0.7, abs=0.1)  # its standard error is about (1 + k) / sqrt(424)
    assert pareto_k(torch.zeros(100)) == float("-inf")


def test_khat_per_row_tells_a_guide_that_is_too_narrow(data, paper):
    wide = zoo.khat(paper, draws=200).median()
    with torch.no_grad():
        paper.guide.local.g_z.net[-1].bias[paper.model.z_dim :] -= 2.0
    try:
        assert zoo.khat(paper, draws=200).median() > wide
    finally:
        with torch.no_grad():
            paper.guide.local.g_z.net[-1].bias[paper.model.z_dim :] += 2.0


def test_khat_per_group_is_nan_where_its_own_noise_decides(paper):
    noisy = zoo.khat(paper, per="unit", draws=50, inner=1)
    assert noisy.isna().any()
    assert list(noisy.index) == paper.prototype.coords["unit"].tolist()


def test_khat_refuses_other_data_and_joint_guides(data, paper):
    with pytest.raises(ValueError, match="training data"):
        zoo.khat(paper, data.hide())
    with pytest.raises(ValueError, match="joint over all units"):
        zoo.khat(fitted(data, AutoMultivariateNormal), per="unit", draws=25, inner=1)


@pytest.mark.parametrize("guide", ["paper", "normal"])
def test_latent_report_reads_the_guides_own_distribution(data, guide):
    report = zoo.latent_report(fitted(data, guide), data, "c", draws=5)
    assert np.isfinite(report.table["kl"]).all()
    assert (report.table["sd"] > 0).all()
    assert report.means.shape == (data.sizes["unit"], 2)
    assert set(report.probes.index) >= {"shut_in", "c1"}


def test_predictions_of_a_minibatch_keep_their_rows_names(data, paper):
    part = data.take([3, 7])
    assert zoo.predict(paper, part, draws=3).index.tolist() == [3, 7]


def test_compare_ranks_by_the_log_predictive_density(data, paper):
    better = fitted(data, "paper", lr=1e-2)
    table = zoo.compare({"worse": paper, "better": better, "same": better}, data, draws=20)
    assert table.loc["better", "elpd"] == pytest.approx(table.loc["same", "elpd"])
    assert table["difference"].max() == 0
    assert table.index[-1] == "worse"
    pointwise = zoo.log_predictive(paper, data, draws=20)
    assert table.loc["worse", "elpd"] == pytest.approx(pointwise.sum())
    assert len(pointwise) == data.observed("y").sum()


def test_metrics_and_coverage_agree_with_the_predictions(data, paper):
    prediction = zoo.predict(paper, data, draws=20, quantiles=(0.05, 0.95))[data.observed("y")]
    truth = data["y"][:, 0].numpy()[data.observed("y")]
    found = zoo.metrics(paper, data, draws=20)
    assert found["y.rmse"] == pytest.approx(np.sqrt(np.mean((prediction["y.mean"] - truth) ** 2)), rel=1e-5)
    behind = predict_with_draws(paper, data, draws=20, seed=0, quantiles=())[1]["y"]
    drawn = behind.values[:, data.observed("y"), 0].numpy()
    assert drawn.shape == (20, len(truth))
    assert not np.allclose(drawn[0], drawn[1])
    pairs = np.abs(drawn[:, None] - drawn[None]).mean((0, 1))
    assert found["y.crps_draws"] == pytest.approx((np.abs(drawn - truth).mean(0) - pairs / 2).mean(), rel=1e-5)
    inside = ((prediction["y.q05"] <= truth) & (truth <= prediction["y.q95"])).mean()
    assert found["y.cover90"] == pytest.approx(inside)
    assert zoo.coverage(paper, data, levels=(90,), draws=20)["empirical"].item() == pytest.approx(inside)


def test_scores_of_several_components_are_pooled():
    rng = np.random.default_rng(0)
    truth, drawn = rng.normal(size=(6, 2)), rng.normal(size=(6, 2, 9))
    part = {}
    for j, name in enumerate(("a", "b")):
        levels = {q: np.quantile(drawn[:, j], q, axis=-1) for q in (0.05, 0.1, 0.25, 0.75, 0.9, 0.95)}
        part |= columns_of(f"y[{name}]", summary(drawn[:, j].mean(-1), drawn[:, j].std(-1), levels))
    behind = Predicted(torch.as_tensor(drawn).movedim(-1, 0), torch.zeros(2, 6, 2), "real")
    found = diagnostics._number_scores(truth, pd.DataFrame(part), "y", behind, np.ones(6, bool), seed=0)
    assert found["mae"] == pytest.approx(np.abs(truth - drawn.mean(-1)).mean())
    each = [scores.crps_samples(truth[:, j], drawn[:, j]) for j in (0, 1)]
    assert found["crps_draws"] == pytest.approx(np.mean(each))
    low, high = np.quantile(drawn, (0.25, 0.75), axis=-1)
    assert found["cover50"] == pytest.approx(((low <= truth) & (truth <= high)).mean())


def test_scores_of_a_discrete_target_are_those_of_its_probabilities():
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 50)
    names, truth = np.array(["a", "b", "c"]), np.arange(50) % 3
    part = pd.DataFrame(probabilities, columns=[f"k.p[{name}]" for name in names])
    found = diagnostics._discrete_scores(truth, part.assign(**{"k.label": names[probabilities.argmax(1)]}), "k")
    names_of_scores = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece")
    assert list(found) == list(names_of_scores)
    assert found["accuracy"] == (probabilities.argmax(1) == truth).mean()
    assert found["brier"] == pytest.approx(((probabilities - np.eye(3)[truth]) ** 2).sum(1).mean())
    assert found["ece"] == scores.ece(names[truth], probabilities, names)


def test_ppc_notices_a_model_that_has_not_seen_the_data(data, paper):
    table = zoo.ppc({"paper": paper}, data, draws=20)
    assert set(table["site"]) == {"x", "y"}
    assert table["p"].between(0, 1).all()
    with torch.no_grad():
        paper.model.y_loc += 1e4
    try:
        shifted = zoo.ppc(paper, data, draws=20)
        assert shifted.query("site == 'y' and statistic == 'mean'")["p"].item() == 1.0
    finally:
        with torch.no_grad():
            paper.model.y_loc -= 1e4


def test_rank_p_value():
    assert rank_p_value(np.arange(100), draws=99) == pytest.approx(1.0)
    assert rank_p_value(np.zeros(100), draws=99) < 1e-6


# ---------------------------------------------------------------- prior predictive draws
@pytest.fixture(scope="module")
def mixture():
    data, _ = entry_mixture.tiny()
    model = entry_mixture.Mixture(**entry_mixture.Mixture.sizes_from(data))
    return zoo.fit(model, entry_mixture.MeanField, data, steps=20, progress=False), data


@pytest.fixture(scope="module")
def events():
    data, _ = entry_events.tiny()
    return zoo.fit(entry_events.Events(), entry_events.Conjugate, data), data


def test_prior_draws_have_the_moments_of_the_prior_and_of_the_data_given_it(mixture):
    fit, data = mixture
    drawn = prior_predictive(fit, data, draws=400)
    b, k, y = (drawn.groups[g][v][0] for g, v in (("prior", "b"), ("prior", "k"), ("prior_predictive", "y")))
    assert b.mean() == pytest.approx(0.0, abs=4 / np.sqrt(b.size))
    assert b.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / b.size))
    share = fit.model.logits.softmax(0)[1].item()
    assert k.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / k.size))  # labels do not reach it
    level = b[:, data["group"]] + fit.model.encode(data["u"]).detach().numpy()[data["group"]]
    mean = fit.model.mu.detach().numpy()[k] + level
    assert (y - mean).std() == pytest.approx(fit.model.log_sigma.exp().item(), rel=0.1)
    np.testing.assert_allclose(drawn.groups["observed_data"]["y"], data["y"].numpy())
    assert drawn.dims["b"] == ("group",)
    zoo.to_arviz(drawn)


def test_calibration_of_recordings(events):
    _, data = events
    ranks = zoo.sbc(entry_events.Events(), entry_events.Conjugate, data, "rate", simulations=40, draws=49)
    assert len(ranks) == 40 * 3
    assert rank_p_value(ranks["rank"], 49, bins=5) > 1e-3


def test_what_a_site_outside_all_plates_cannot_have_is_said(events):
    fit, data = events
    with pytest.raises(ValueError, match="'rate' lies along no plate"):
        zoo.latent_report(fit, data, "rate")


def test_draw_adds_the_same_prior_draws_and_keeps_its_posterior_draws(mixture):
    fit, data = mixture
    alone, both = zoo.draw(fit, data, draws=3), zoo.draw(fit, data, draws=3, prior=True)
    prior = prior_predictive(fit, data, draws=3)
    for group in ("posterior", "posterior_predictive"):
        for name, values in alone.groups[group].items():
            np.testing.assert_array_equal(both.groups[group][name], values)
    for group in ("prior", "prior_predictive"):
        for name, values in prior.groups[group].items():
            np.testing.assert_array_equal(both.groups[group][name], values)


def test_prior_draws_of_a_model_leave_the_caller_alone(data):
    model = zoo.create_model("ssmtl", data, **tiny(0)[1])
    pyro.clear_param_store()
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    first, again = (prior_predictive(model, data, draws=2, sites=["c", "y"]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(pyro.get_param_store().keys())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert {g: set(v) for g, v in first.groups.items()} == {
        "prior": {"c"}, "prior_predictive": {"y"}, "observed_data": {"y"}, "constant_data": {"unit_idx"},
    }  # fmt: skip
    np.testing.assert_array_equal(first.groups["prior_predictive"]["y"], again.groups["prior_predictive"]["y"])
    # Every row has a drawn y, also those whose label is known.
    assert np.isfinite(first.groups["prior_predictive"]["y"]).all()
    assert np.isnan(first.groups["observed_data"]["y"]).sum() == (~data.observed("y")).sum()


def test_a_fit_draws_from_the_prior_of_units_that_it_has_not_seen(data, paper):
    new = data.subset(np.arange(4))
    new = zoo.Batch.from_arrays(
        rows={"x": new["x"].numpy(), "y": new["y"].numpy()}, groups={"unit": ["new"] * 4},
        labels={"y": np.zeros(4, bool)}, name="new", simulated=True,
    )  # fmt: skip
    with pytest.raises(KeyError, match="unknown unit"):
        zoo.draw(paper, new, draws=1)
    assert prior_predictive(paper, new, draws=2).groups["prior"]["c"].shape == (1, 2, 1, 2)


def test_ragged_recordings_keep_their_padding_out_of_the_checks(events):
    fit, data = events
    observed = zoo.draw(fit, data, draws=2).groups["observed_data"]
    lengths = data["lengths"].numpy()
    for site in ("kind", "duration"):
        assert (np.isfinite(observed[site]).sum(1) == lengths).all()
    table = zoo.ppc(fit, data, draws=50)
    assert table["component"].unique().tolist() == ["all"]
    mean = table.query("site == 'duration' and statistic == 'mean'")["observed"].item()
    assert mean == pytest.approx(data["duration"].mean().item())


def test_classes_are_checked_by_their_shares_and_changes():
    from pyrozoo.models.medication import simulate as recordings

    data = recordings("pen", n_recordings=6, rate=1.0)
    fit = zoo.fit(zoo.create_model("medication", data), "closed-form", data, progress=False)
    table = zoo.ppc(fit, data, draws=20, sites=["label"]).set_index(["component", "statistic"])
    names, labels = data.coords["label_class"], data["label"].numpy()
    shares = table.xs("share", level="statistic")["observed"]
    assert shares.to_list() == pytest.approx([(labels == k).mean() for k in range(len(names))])
    assert table.loc[("all", "changes"), "observed"] == pytest.approx((np.diff(labels) != 0).mean())
    assert table["p"].between(0, 1).all()


def test_prior_checks_find_a_prior_far_from_the_data(mixture):
    _, data = mixture
    sizes = entry_mixture.Mixture.sizes_from(data)
    good = entry_mixture.Mixture(**sizes)
    far = entry_mixture.Mixture(**sizes, priors={"b": dist.Normal(50.0, 1.0)})
    table = zoo.ppc({"good": good, "far": far}, data, draws=100, against="prior").query("statistic == 'mean'")
    assert 0.01 < table.query("model == 'good'")["p"].item() < 0.99
    assert table.query("model == 'far'")["p"].item() == 1.0
    with pytest.raises(ValueError, match="against: 'guide' is neither"):
        zoo.ppc(good, data, against="guide")


# ---------------------------------------------------------------- comparison
def test_probability_of_an_enumerated_class_is_bayes_rule(mixture):
    fit, data = mixture
    with torch.no_grad():
        fit.guide.log_s -= 30.0  # a point, so that one draw is the posterior
    try:
        found = zoo.log_predictive(fit, data, "k", draws=1)
        with torch.no_grad():
            b = poutine.trace(fit.guide).get_trace(**data).nodes["b"]["value"] + fit.model.encode(data["u"])
            normal = dist.Normal(fit.model.mu + b[data["group"], None], fit.model.log_sigma.exp())
            joint = fit.model.logits.log_softmax(0) + normal.log_prob(data["y"][:, None].float())
            exact = joint.log_softmax(-1).gather(1, data["k"][:, None])[:, 0].numpy()
    finally:
        with torch.no_grad():
            fit.guide.log_s += 30.0
    np.testing.assert_allclose(found, exact[data.observed("k")], rtol=1e-4, atol=1e-5)
    table = zoo.compare({"a": fit, "b": fit}, data, "k", draws=5)
    assert table["difference"].eq(0).all()
    with pytest.raises(ValueError, match=r"'y' is not predicted by this model; its targets are \('k',\)"):
        zoo.compare({"a": fit}, data, "y")


def test_whole_rows_are_compared_where_models_explain_the_same_values(data, paper, mixture, events):
    table = zoo.compare({"a": paper, "same": paper}, data, None, draws=5)
    assert table["elpd"].nunique() == 1
    assert np.isfinite(table["elpd"]).all()
    assert np.isfinite(zoo.compare({"a": mixture[0]}, mixture[1], None, draws=5)["elpd"]).all()
    assert np.isfinite(zoo.compare({"a": events[0]}, events[1], None, draws=5)["elpd"]).all()


def test_whole_rows_of_different_values_are_not_compared(data, paper):
    discriminative = zoo.create_model("ssmtl", data, variant="mtl", c_dim=2, width=8, depth=1)
    other = zoo.fit(discriminative, "paper", data, steps=3, progress=False)
    with pytest.raises(ValueError, match=r"'ssmtl' explains \['x', 'y'\] and 'mtl' \['y'\].*different values"):
        zoo.compare({"ssmtl": paper, "mtl": other}, data, None, draws=5)
    with pytest.raises(ValueError, match="there is none to compare"):
        zoo.compare({}, data)


def test_scores_that_are_not_defined_are_left_out():
    """A truth of 0 has no relative error, one row and equal truths have no variance; the others keep their scores."""
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"well": list("aaaaabbbbbcd"), "u": rng.normal(size=12), "q": rng.normal(size=12)})
    df.loc[0, "q"], df.loc[11, "q"] = 0.0, np.nan
    data = zoo.Batch.from_dataframe(df, unit="well", x=["u"], y="q")
    fit = zoo.fit(zoo.create_model("ssmtl", data, width=8), "paper", data, steps=2, progress=False)
    assert "y.mape" not in zoo.metrics(fit, data, draws=2)
    table = zoo.metrics(fit, data, by="unit", draws=2)
    assert table["y.rows"].to_list() == [5, 5, 1, 0]
    assert table["y.mape"].isna().to_list() == [True, False, False, True]
    assert table["y.r2"].isna().to_list() == [False, False, True, True]
    assert table["y.nll"].isna().to_list() == [False, False, False, True]
