"""Diagnostics on fits whose answers are known."""

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal

import pyrozoo as zoo
from pyrozoo.diagnostics import rank_p_value
from pyrozoo.importance import pareto_k
from pyrozoo.models.ssmtl.entry import tiny


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
    inside = ((prediction["y.q05"] <= truth) & (truth <= prediction["y.q95"])).mean()
    assert found["y.cover90"] == pytest.approx(inside)
    assert zoo.coverage(paper, data, levels=(90,), draws=20)["empirical"].item() == pytest.approx(inside)


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
