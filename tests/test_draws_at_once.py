"""Many draws in one pass: equal to one draw after the other, and one after the other where a model asks for that."""

import functools
import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from scipy.stats import norm

import pyrozoo as zoo
from pyrozoo.posterior import many
from pyrozoo.posterior.many import chunks, pairs, within

N_GROUPS, N_ROWS = 3, 12


class Levels(zoo.ZooModel):
    """level_g ~ N(0, 1), y ~ N(level_g, 0.5)."""

    plate_dims = {"group": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.calls = 0
        self.set_priors(priors)

    def priors(self):
        return {"level": dist.Normal(0.0, 1.0)}

    def look_up(self, level, group):
        return level[..., group]

    def forward(self, group, sizes, y=None, y_labelled=True, row=None, **_):
        self.calls += 1
        with self.plate("group", sizes=sizes):
            level = pyro.sample("level", self.prior("level"))
            pyro.deterministic("square", torch.stack([level, level**2], -1))
            pyro.deterministic("constant", torch.ones(N_GROUPS, 2))
        with self.plate("row", sizes=sizes, row=row), poutine.mask(mask=y_labelled):
            pyro.sample("y", dist.Normal(self.look_up(level, group), 0.5), obs=y)


class FromTheLeft(Levels):
    """A model that looks up the first dimension."""

    def look_up(self, level, group):
        return level[group]


class Mixture(zoo.ZooModel):
    """k ~ Bernoulli(0.3), y ~ N(2 k, 1), no other latent: the posterior of k is known."""

    targets = enumerated = ("k",)

    def __init__(self, priors=None):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))  # a fit needs one
        self.set_priors(priors)

    def forward(self, y, sizes, row=None, **_):
        with self.plate("row", sizes=sizes, row=row):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(2.0 * k + self.shift, 1.0), obs=y)


def data(n=N_ROWS):
    rng = np.random.default_rng(0)
    group = np.arange(n) % N_GROUPS
    return zoo.Batch.from_arrays(
        rows={"y": rng.normal(group - 1.0, 0.5)}, groups={"group": group}, labels={"y": np.ones(n, bool)}
    )


@functools.cache
def fitted(kind=Levels, guide=AutoNormal):
    return zoo.fit(kind(), guide, data(), steps=20, lr=0.05, progress=False)


def one_by_one(monkeypatch):
    monkeypatch.setattr(many, "broadcasts", lambda *_, **__: False)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def densities(fit, drawn):
    """Log joint, log guide and log likelihood by hand of each of the draws."""
    level, batch = drawn.groups["posterior"]["level"][0], data()
    y, group = batch["y"].numpy(), batch["group"].numpy()
    likelihood = norm.logpdf(y, level[:, group], 0.5)
    joint = norm.logpdf(level).sum(1) + likelihood.sum(1)
    loc, scale = _moments(fit, batch)
    return joint, norm.logpdf(level, loc, scale).sum(1), likelihood


def _moments(fit, batch):
    fn = poutine.trace(fit.guide).get_trace(**batch).nodes["level_unconstrained"]["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn.mean.detach().numpy(), fn.stddev.detach().numpy()


def test_densities_are_those_of_each_draw_by_hand():
    fit = fitted()
    drawn = zoo.draw(fit, data(), draws=40)
    joint, guide, likelihood = densities(fit, drawn)
    np.testing.assert_allclose(drawn.groups["sample_stats"]["lp"][0], joint, rtol=1e-10)
    np.testing.assert_allclose(drawn.groups["sample_stats"]["lq"][0], guide, rtol=1e-10)
    np.testing.assert_allclose(drawn.groups["log_likelihood"]["y"][0], likelihood, rtol=1e-10)


def test_draws_have_the_distribution_of_the_guide():
    fit, n = fitted(), 2_000
    level = zoo.draw(fit, data(), draws=n, predictive=False).groups["posterior"]["level"][0]
    loc, scale = _moments(fit, data())
    assert (abs(level.mean(0) - loc) < 4 * scale / n**0.5).all()
    assert (abs(level.var(0, ddof=1) / scale**2 - 1) < 4 * (2 / n) ** 0.5).all()
    assert (abs(np.corrcoef(level.T)[np.triu_indices(N_GROUPS, 1)]) < 4 / n**0.5).all()
    assert (abs(np.corrcoef(level[1:, 0], level[:-1, 0])[0, 1])) < 4 / n**0.5


def test_predictions_have_their_own_noise_in_every_draw_and_row():
    fit, n = fitted(guide=AutoDelta), 2_000
    y = zoo.draw(fit, data(), draws=n).groups["posterior_predictive"]["y"][0]
    assert y.shape == (n, N_ROWS)
    assert (abs(y.var(0, ddof=1) / 0.25 - 1) < 5 * (2 / n) ** 0.5).all()
    assert abs(np.corrcoef(y[:, 0], y[:, 3])[0, 1]) < 4 / n**0.5  # rows of one group


def test_enumerated_sites_are_drawn_anew_in_every_draw_though_nothing_else_is_random():
    batch, n = zoo.Batch.from_arrays(rows={"y": np.linspace(-1.0, 3.0, 9)}), 4_000
    fit = zoo.fit(Mixture(), zoo.guides.NoLatents, batch, steps=1, lr=1e-9, progress=False)
    k = zoo.draw(fit, batch, draws=n).groups["posterior"]["k"][0]
    y = batch["y"].numpy()
    one, zero = 0.3 * norm.pdf(y, 2.0), 0.7 * norm.pdf(y)
    p = one / (one + zero)
    assert (abs(k.mean(0) - p) < 4.5 * (p * (1 - p) / n) ** 0.5).all()
    assert (zoo.predict(fit, batch, draws=30)["k.p[1]"] - p).abs().max() < 1e-6


def test_nothing_random_is_one_pass():
    fit = fitted(guide=AutoDelta)
    zoo.draw(fit, data(), draws=2, predictive=False)  # the trial
    before = fit.model.calls
    drawn = zoo.draw(fit, data(), draws=60, predictive=False)
    few = fit.model.calls - before
    before = fit.model.calls
    zoo.draw(fit, data(), draws=3, predictive=False)
    assert few == fit.model.calls - before
    assert drawn.groups["posterior"]["level"].shape == (1, 60, N_GROUPS)
    assert (np.ptp(drawn.groups["sample_stats"]["lp"]) == 0).all()


def test_a_deterministic_site_that_draws_share_is_repeated_even_if_a_plate_is_as_long_as_the_draws():
    posterior = zoo.draw(fitted(), data(), draws=N_GROUPS, predictive=False).groups["posterior"]
    assert posterior["constant"].shape == posterior["square"].shape == (1, N_GROUPS, N_GROUPS, 2)
    np.testing.assert_array_equal(posterior["square"][..., 0], posterior["level"])
    assert (posterior["constant"] == 1).all()


def test_a_model_that_does_not_broadcast_is_drawn_one_by_one_and_named(monkeypatch, caplog):
    fit = fitted(FromTheLeft)
    many._say.cache_clear()
    with caplog.at_level(logging.WARNING, "pyrozoo"):
        drawn = zoo.draw(fit, data(), draws=10)
        zoo.prior_predictive(fit, data(), draws=10)
    said = [r.getMessage() for r in caplog.records if "one by one" in r.getMessage()]
    assert len(said) == 1
    assert "FromTheLeft" in said[0]
    assert "'y'" in said[0]
    np.testing.assert_allclose(drawn.groups["sample_stats"]["lp"][0], densities(fit, drawn)[0], rtol=1e-10)
    one_by_one(monkeypatch)
    again = zoo.draw(fit, data(), draws=10)
    np.testing.assert_array_equal(again.groups["posterior"]["level"], drawn.groups["posterior"]["level"])


def test_the_trial_leaves_the_random_state_as_it_is():
    fit = fitted()
    arguments = fit.model.arguments(data())
    many._TRIALS.clear()
    state = torch.get_rng_state()
    assert many.broadcasts(fit.model, fit.guide, arguments)
    assert torch.equal(torch.get_rng_state(), state)


def test_parts_depend_on_the_sizes_of_the_data_alone():
    assert chunks(500, data()) == [500]
    assert chunks(5, data(), at_once=2 * N_ROWS) == [2, 2, 1]
    assert chunks(3, data(), at_once=1) == [1, 1, 1]


def test_draws_within_a_draw_keep_the_values_outside():
    class Rows(Levels):
        row_sites = ("z",)

        def forward(self, group, sizes, y=None, row=None, **_):
            with self.plate("group", sizes=sizes):
                level = pyro.sample("level", self.prior("level"))
            with self.plate("row", sizes=sizes, row=row):
                z = pyro.sample("z", dist.Normal(level[..., group], 1.0))
                pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    model = Rows()
    guide = poutine.block(model, hide=["y"])
    with torch.no_grad():
        (outer,) = pairs(model, guide, data(), 4)
        (inner,) = within(outer, model, guide, data(), 5, {"row"})
    level, again = (part.by_draw(part.guide.nodes["level"]) for part in (outer, inner))
    assert torch.equal(again, level.repeat_interleave(5, 0))
    z = inner.by_draw(inner.guide.nodes["z"])
    assert z.shape == (20, N_ROWS)
    assert len(z.unique()) == 20 * N_ROWS


@pytest.mark.parametrize("function", [
    lambda fit: zoo.predict(fit, data(), draws=100)["y.mean"],
    lambda fit: zoo.log_predictive(fit, data(), draws=100),
    lambda fit: zoo.log_density(fit, data(), draws=100, progress=False),
    lambda fit: zoo.latent_report(fit, data(), "level", draws=100).means[0],
    lambda fit: zoo.loo(fit, data(), draws=100, progress=False).rows["elpd"],
    lambda fit: zoo.prior_sensitivity(fit, data(), draws=100, progress=False, factors=[2.0], scales=[]).latents["mean"],
], ids=["predict", "log_predictive", "log_density", "latent_report", "loo", "prior_sensitivity"])  # fmt: skip
def test_functions_say_what_they_say_one_by_one(function, monkeypatch):
    fit = fitted()
    found = function(fit)
    one_by_one(monkeypatch)
    expected = function(fit)
    assert found.index.equals(expected.index)
    np.testing.assert_allclose(found, expected, atol=0.12)
