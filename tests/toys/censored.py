"""Censoring: where only a lower limit of y is known, that it is exceeded is what was observed."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import mask

import pyrozoo as zoo


class Lifetimes(zoo.ZooModel):
    """m, b ~ Normal(0, 1); log lifetime y ~ Normal(m + b x, 0.5), seen below `limit` only."""

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"m": dist.Normal(0.0, 1.0), "b": dist.Normal(0.0, 1.0)}

    def forward(self, x, limit, censored, sizes, y=None, y_labelled=True, row=None, **_):
        lifetime = dist.Normal(pyro.sample("m", self.prior("m")) + pyro.sample("b", self.prior("b")) * x, 0.5)
        beyond = dist.Bernoulli((1 - lifetime.cdf(limit)).clamp(1e-12, 1 - 1e-12))
        with self.plate("row", sizes=sizes, row=row):
            with mask(mask=y_labelled):  # a censored y is not labelled
                pyro.sample("y", lifetime, obs=y)
            with mask(mask=censored):
                pyro.sample("beyond", beyond, obs=torch.ones_like(limit))


def tiny(seed=0, n=12):
    rng = np.random.default_rng(seed)
    x, limit = rng.normal(size=n), rng.normal(0.5, 0.3, n)
    y = 0.3 + x + 0.5 * rng.normal(size=n)
    return zoo.Batch.from_arrays(
        rows={"x": x, "limit": limit, "censored": y > limit, "y": np.minimum(y, limit)}, labels={"y": y <= limit},
        name="censored", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"log-normal": Lifetimes}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-censored", title="Censored lifetimes", authors="", year=2025, version="1",
    summary="Lifetimes of which some are known to be longer than the study", variants={"log-normal": "log scale"},
    guides={"normal": "AutoNormal"}, datasets={"simulated": "simulated: 12 rows"},
    golden={"log-normal": -13.370905849132564},
)  # fmt: skip
