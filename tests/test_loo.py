"""Leave-one-out cross-validation equals brute force, with latents of rows integrated out in every way."""

import math

import arviz
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta

import pyrozoo as zoo
from pyrozoo.modeling.guides import auto

pytestmark = pytest.mark.usefixtures("double_precision")
Y = np.array([0.3, -0.8, 1.1, 0.2, -0.1, 0.9, -1.2, 0.4])


class Plain(zoo.ZooModel):
    """m ~ N(0, 1), y ~ N(m, 2), the latter with or without a normal latent per row."""

    def __init__(self, kind="plain", priors=None):
        super().__init__()
        self.kind = kind
        self.row_sites = ("z",) if kind == "latent" else ()
        self.enumerated = ("k",) if kind == "enumerated" else ()
        self.set_priors(priors)

    def priors(self):
        return {"m": dist.Normal(0.0, 1.0), **({"z": lambda m: dist.Normal(m, 1.0)} if self.kind == "latent" else {})}

    def forward(self, y, sizes, row=None, **_):
        m = pyro.sample("m", self.prior("m"))
        with self.plate("row", sizes=sizes, row=row):
            if self.kind == "latent":
                pyro.sample("y", dist.Normal(pyro.sample("z", self.prior("z", m)), 1.0), obs=y)
            elif self.kind == "enumerated":
                k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
                pyro.sample("y", dist.Normal(m + 2.0 * k - 1.4, 1.0), obs=y)
            else:
                pyro.sample("y", dist.Normal(m, math.sqrt(2.0)), obs=y)


class Posterior(zoo.ZooGuide):
    """The exact posterior of m from a table of quantiles, and q(z | m, y) exact or too wide."""

    wide = 1.0

    def __init__(self, model):
        super().__init__(model)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("sd", torch.ones(()))

    def solve(self, train):
        grid, density = posterior(self.model.kind, np.arange(len(Y)))
        self.mean = torch.tensor((grid * density).sum())
        self.sd = torch.tensor(math.sqrt((grid**2 * density).sum() - self.mean.item() ** 2))

    def forward(self, y, sizes, row=None, **_):
        m = pyro.sample("m", dist.Normal(self.mean, self.sd))
        if self.model.kind == "latent":
            with self.model.plate("row", sizes=sizes, row=row):
                pyro.sample("z", dist.Normal((m + y) / 2, self.wide * math.sqrt(0.5)))


class Wide(Posterior):
    wide = 1.3


def log_density(kind, y, m):
    def normal(mean, sd):
        return -0.5 * ((y - mean) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi))

    if kind == "enumerated":
        return np.logaddexp(math.log(0.3) + normal(m - 1.4, 1.0), math.log(0.7) + normal(m + 0.6, 1.0))
    return normal(m, math.sqrt(2.0))


def posterior(kind, rows):
    """A grid, and the posterior given these rows."""
    grid = np.linspace(-4, 4, 2001)
    total = -0.5 * grid**2 + sum(log_density(kind, Y[i], grid) for i in rows)
    weights = np.exp(total - total.max())
    return grid, weights / weights.sum()


def by_hand(kind):
    out = []
    for i in range(len(Y)):
        grid, density = posterior(kind, [j for j in range(len(Y)) if j != i])
        out.append(math.log((np.exp(log_density(kind, Y[i], grid)) * density).sum()))
    return np.array(out)


def fitted(kind, guide=Posterior):
    return zoo.fit(Plain(kind), guide, zoo.Batch.from_arrays(rows={"y": Y}), progress=False)


@pytest.mark.parametrize(
    ("kind", "guide", "options", "tolerance"),
    [
        ("plain", Posterior, {"draws": 4000}, 0.02),
        ("enumerated", Posterior, {"draws": 4000}, 0.04),  # its posterior is normal only nearly
        ("latent", Posterior, {"draws": 200, "inner": 1}, 0.06),  # exact given m, with any number of draws
        ("latent", Wide, {"draws": 200, "inner": 60}, 0.08),
    ],
)
def test_it_equals_brute_force(kind, guide, options, tolerance):
    found, exact = zoo.loo(fitted(kind, guide), **options), by_hand(kind)
    np.testing.assert_allclose(found.rows["elpd"], exact, atol=tolerance)
    assert found.elpd_loo == pytest.approx(found.rows["elpd"].sum())
    assert found.se == pytest.approx(np.sqrt(len(Y)) * found.rows["elpd"].std(ddof=0))
    assert (found.rows["k"] < 0.7).all()
    assert 0 < found.p_loo < 2
    latents = found.rows["k_latents"]
    assert (latents == -np.inf).all() if guide is Posterior else (latents < 0.7).all()
    assert "not to be trusted" not in repr(found)


def test_arviz_agrees_where_no_latent_lies_along_the_rows():
    fit = fitted("plain")
    theirs = arviz.loo(zoo.to_arviz(fit, fit.train, draws=1000), pointwise=True)
    ours = zoo.loo(fit, draws=1000, seed=1)
    rows, p = (theirs.loo_i, theirs.p_loo) if hasattr(theirs, "loo_i") else (theirs.elpd_i, theirs.p)  # ArviZ 0.x, 1.x
    np.testing.assert_allclose(ours.rows["elpd"], rows.values, atol=0.05)
    assert ours.p_loo == pytest.approx(p, abs=0.15)


def test_a_point_and_other_data_are_refused():
    fit = fitted("plain")
    with pytest.raises(ValueError, match="pass the training data of this fit"):
        zoo.loo(fit, fit.train.subset([0, 1]))
    with pytest.raises(ValueError, match="at least 25"):
        zoo.loo(fit, draws=3)
    with pytest.raises(ValueError, match="all draws of its guide are equal"):
        zoo.loo(fitted("plain", auto(AutoDelta)))


def test_rows_that_cannot_be_left_out_are_counted():
    rows = pd.DataFrame({"elpd": [-1.0, -1.0, -1.0], "k": [0.2, 0.8, np.inf], "k_latents": [0.9, -np.inf, -np.inf]})
    assert repr(zoo.Loo(-3.0, 0.0, 1.0, rows)).endswith("3 rows; 3 of 3 not to be trusted (k > 0.7))")
