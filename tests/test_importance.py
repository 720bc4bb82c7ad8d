"""The log density of rows against exact answers: linear Gaussian, enumerated, conjugate."""

import math

import numpy as np
import pyro
import pytest
import torch
from contract import entry_events, entry_mixture
from pyro.distributions import Dirichlet, Gamma
from scipy.special import gammaln
from scipy.stats import multivariate_normal
from torch.distributions import Categorical, Normal

import pyrozoo as zoo
from pyrozoo.criticism.importance import log_density
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.guides import PaperGuide
from pyrozoo.models.ssmtl.model import SSMTL

pytestmark = pytest.mark.usefixtures("double_precision")

POINT = -40.0  # log scale of a guide that is a point in double precision


# ---------------------------------------------------------------- SSMTL without hidden layers
W = np.array([0.8, -1.5, 1.1])  # z to x1, x2, y
V = np.array([[1.0, 0.2], [0.5, -0.7], [-0.3, 0.9]])  # c to x1, x2, y
B, S = np.array([0.1, -0.2, 0.3]), np.array([0.5, 0.8, 0.4])
LOC, SCALE = np.array([50.0, 80.0, 40.0]), np.array([25.0, 20.0, 12.0])
COV = np.outer(W, W) + np.diag(S**2)


def set_linear(net, weight, bias, scale):
    """Let a network without hidden layers return loc = weight @ input + bias, and a constant scale."""
    (layer,) = net.net
    out = len(bias)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:out] = torch.as_tensor(weight)
        layer.bias[:out] = torch.as_tensor(bias)
        layer.bias[out:] = torch.as_tensor(np.log(scale))


def posterior(W, cov):
    """Weight matrix and standard deviation of E[z | v] = weight @ (v - V c - b) for v ~ N(W z + V c + b, ...)."""
    weight = np.linalg.solve(cov, W)
    return weight, math.sqrt(1 - weight @ W)


def linear_fit(exact=True):
    """SSMTL with one z: (x, y) given c is normal with a known covariance, and the row guide can be exact."""
    train, test = simulate(n_units=3, n_labelled=2, n_unlabelled=3, n_test=4, dtype=torch.float64)
    model = SSMTL(2, 1, 3, c_dim=2, z_dim=1, depth=0, floor=0.0, alpha=0.0,
                  x_loc=LOC[:2], x_scale=SCALE[:2], y_loc=LOC[2:], y_scale=SCALE[2:])  # fmt: skip
    fit = zoo.fit(model, PaperGuide, train, steps=1, progress=False)
    guide = fit.guide
    set_linear(fit.model.decoder, np.column_stack([W, V]), B, S)
    slope = np.linalg.solve(COV[:2, :2], COV[:2, 2])  # E[y | x, c], linear in x and c
    sd = np.array([math.sqrt(COV[2, 2] - slope @ COV[:2, 2])])
    set_linear(guide.local.g_y, np.r_[slope, V[2] - slope @ V[:2]][None], [B[2] - slope @ B[:2]], sd)
    weight, sd = posterior(W, COV)
    set_linear(guide.local.g_z, np.r_[weight, -weight @ V][None], [-weight @ B], [sd if exact else 2 * sd])
    with torch.no_grad():
        guide.c_loc.copy_(torch.tensor([[0.5, -1.0], [0.0, 0.3], [1.2, 0.7]]))
        guide.c_log_scale.fill_(POINT)
    noise = multivariate_normal(cov=COV).rvs(test.n_rows, random_state=0)
    values = LOC + SCALE * (guide.c_loc.detach().numpy()[test["unit"]] @ V.T + B + noise)
    return fit, test.with_tensors({"x": torch.as_tensor(values[:, :2]), "y": torch.as_tensor(values[:, 2:])})


def exact(fit, batch, seen, spread=0.0):
    """log p of the standardised x, or x and y, with c integrated over N(c_loc, spread^2), in the data's units."""
    n = 3 if seen else 2
    values = ((np.column_stack([batch["x"], batch["y"]]) - LOC) / SCALE)[:, :n]
    c = fit.guide.c_loc.detach().numpy()[batch["unit"]]
    cov = (COV + spread**2 * V @ V.T)[:n, :n]
    return multivariate_normal(cov=cov).logpdf(values - c @ V[:n].T - B[:n]) - np.log(SCALE[:n]).sum()


def test_one_draw_of_an_exact_guide_gives_the_log_density():
    fit, test = linear_fit()
    found = log_density(fit, test, draws=1, progress=False)
    np.testing.assert_allclose(found, exact(fit, test, seen=True), rtol=1e-9)
    assert found.index.name == "row"
    assert found.index.tolist() == list(range(12))


def test_hidden_targets_are_integrated_out_row_by_row():
    fit, test = linear_fit()
    half = test.relabel(np.arange(12) % 2 == 0)
    found = log_density(fit, half, draws=1, progress=False).to_numpy()
    expected = np.where(np.arange(12) % 2 == 0, exact(fit, test, seen=True), exact(fit, test, seen=False))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_groups_uncertainty_counts():
    fit, test = linear_fit()
    with torch.no_grad():
        fit.guide.c_log_scale.fill_(math.log(0.3))
    found = log_density(fit, test, draws=500, progress=False)
    expected = exact(fit, test, seen=True, spread=0.3)
    assert np.abs(found - expected).max() < 0.2
    assert np.abs(exact(fit, test, seen=True) - expected).max() > 0.4  # the bound above would notice


def test_a_lower_bound_that_tightens_with_draws():
    fit, test = linear_fit(exact=False)
    expected = exact(fit, test, seen=False)
    gaps, errors = [], []
    for draws in (1, 20):
        repeats = [log_density(fit, test.hide(), draws=draws, seed=seed, progress=False) for seed in range(12)]
        means = (expected - np.array(repeats)).mean(1)
        gaps.append(float(means.mean()))
        errors.append(float(means.std(ddof=1)) / math.sqrt(len(means)))
    assert abs(gaps[0] - (1.5 - math.log(2))) < 4 * errors[0]  # KL from a guide that is twice as wide
    assert gaps[0] > 4 * abs(gaps[1])
    assert gaps[1] > -3 * errors[1]


def test_rows_at_once_change_nothing_but_noise_and_the_callers_random_state_stays():
    fit, test = linear_fit()
    before = torch.get_rng_state()
    found = [log_density(fit, test, draws=2, batch_size=n, progress=False) for n in (1, 5, 12, 100)]
    assert torch.equal(before, torch.get_rng_state())
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9)
    noisy, test = linear_fit(exact=False)
    first, again, other = (log_density(noisy, test, draws=2, seed=seed, progress=False) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not np.allclose(first, other)


def test_a_part_of_the_rows_keeps_its_names_and_values():
    fit, test = linear_fit()
    part = test.subset([2, 7, 11])
    found = log_density(fit, part, draws=1, progress=False)
    assert found.index.tolist() == part.names("row").tolist()
    np.testing.assert_allclose(found, exact(fit, test, seen=True)[[2, 7, 11]], rtol=1e-9)


def test_bad_numbers_raise():
    fit, _ = linear_fit()
    _, other = simulate(n_units=5, n_labelled=2, n_unlabelled=3, n_test=4, dtype=torch.float64)
    with pytest.raises(ValueError, match="draws: 0"):
        log_density(fit, other, draws=0, progress=False)
    with pytest.raises(ValueError, match="batch_size: 0"):
        log_density(fit, other, batch_size=0, progress=False)


# ---------------------------------------------------------------- other entries
@pytest.mark.parametrize("log_scale", [POINT, math.log(0.5)])
def test_enumerated_classes_are_summed_out(log_scale):
    data, _ = entry_mixture.tiny()
    model = entry_mixture.Mixture(**entry_mixture.Mixture.sizes_from(data))
    fit = zoo.fit(model, entry_mixture.MeanField, data, steps=5, progress=False)
    with torch.no_grad():
        fit.guide.log_s.fill_(log_scale)
    found = log_density(fit, data, draws=1 if log_scale == POINT else 500, progress=False)
    with torch.no_grad():  # brute force: sum over classes, quadrature over the group's level
        h = fit.model.encode(data["u"])
        at, weight = np.polynomial.hermite_e.hermegauss(40)
        b = (fit.guide.m - fit.guide.a * h)[data["group"], None] + math.exp(log_scale) * torch.as_tensor(at)
        level = (b + h[data["group"], None])[..., None] + fit.model.mu
        terms = Categorical(logits=fit.model.logits).logits + Normal(level, fit.model.log_sigma.exp()).log_prob(
            data["y"][:, None, None].double()
        )
        impossible = data["labelled"][:, None] & (data["k"][:, None] != torch.arange(2))
        terms = terms.masked_fill(impossible[:, None], -torch.inf).logsumexp(-1)
        expected = (terms + torch.as_tensor(np.log(weight / weight.sum()))).logsumexp(-1)
    np.testing.assert_allclose(found, expected, atol=1e-9 if log_scale == POINT else 0.15)


def test_recordings_are_rows():
    data, _ = entry_events.tiny()
    fit = zoo.fit(entry_events.Events(), entry_events.Conjugate, data, progress=False)
    found = log_density(fit, data, draws=400, batch_size=4, progress=False)
    a, b, c = (getattr(fit.guide, name).numpy() for name in "abc")
    ends = data["lengths"].numpy().cumsum()
    expected = [
        _log_evidence(a, b, c, *(part[end - n : end] for part in (data["kind"].numpy(), data["duration"].numpy())))
        for end, n in zip(ends, data["lengths"].numpy(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_latents_outside_all_plates_have_one_k():
    data, _ = entry_events.tiny()
    exact = zoo.fit(entry_events.Events(), entry_events.Conjugate, data, progress=False)
    assert zoo.khat(exact).to_dict() == {"all latents": -np.inf}

    class Narrow(entry_events.Conjugate):
        """A tenth of the posterior's width."""

        def forward(self, **_):
            pyro.sample("rate", Gamma(100 * self.a, 100 * self.b).to_event(1))
            pyro.sample("share", Dirichlet(100 * self.c))

    narrow = zoo.khat(zoo.fit(entry_events.Events(), Narrow, data, progress=False), draws=500)
    assert narrow["all latents"] > 0.7


def _log_evidence(a, b, c, kind, duration):
    """Log of a recording's likelihood, averaged over Gamma(a, b) rates and Dirichlet(c) shares in closed form."""
    n, total = np.bincount(kind, minlength=3), np.bincount(kind, duration, minlength=3)
    shares = gammaln(c.sum()) - gammaln(c.sum() + n.sum()) + (gammaln(c + n) - gammaln(c)).sum()
    rates = (a * np.log(b) - gammaln(a) + gammaln(a + n) - (a + n) * np.log(b + total)).sum()
    return shares + rates
