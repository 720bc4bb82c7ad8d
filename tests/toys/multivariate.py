"""Multivariate: a row holds several values that are correlated given all else."""

import numpy as np
import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import mask

import pyrozoo as zoo


class Panel(zoo.ZooModel):
    """mu_d ~ Normal(0, 1), scale_d ~ HalfNormal(1), L ~ LKJCholesky; y ~ MultivariateNormal(mu, scale L L' scale)."""

    dims = {"mu": ("lab",), "scale": ("lab",), "corr": ("lab", "lab_too"), "y": ("lab",)}

    def __init__(self, n_labs, priors=None):
        super().__init__()
        self.n_labs = n_labs
        self.set_priors(priors)

    @classmethod
    def sizes_from(cls, data):
        return {"n_labs": data["y"].shape[1]}

    def priors(self):
        each = (self.n_labs,)
        return {
            "mu": dist.Normal(0.0, 1.0).expand(each).to_event(1),
            "scale": dist.HalfNormal(1.0).expand(each).to_event(1),
            "corr": dist.LKJCholesky(self.n_labs, 2.0),
        }

    def forward(self, y, sizes, y_labelled=True, row=None, **_):
        mu, scale, corr = (pyro.sample(site, self.prior(site)) for site in ("mu", "scale", "corr"))
        with self.plate("row", sizes=sizes, row=row), mask(mask=y_labelled):
            pyro.sample("y", dist.MultivariateNormal(mu, scale_tril=scale[..., None] * corr), obs=y)


def tiny(seed=0, n=12):
    rng = np.random.default_rng(seed)
    y = rng.multivariate_normal([0.5, -0.5], [[1.0, 0.6], [0.6, 1.0]], size=n)
    return zoo.Batch.from_arrays(
        rows={"y": y}, labels={"y": np.arange(n) % 4 > 0}, dims={"y": ("lab",)}, coords={"lab": ["first", "second"]},
        name="multivariate", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"panel": Panel}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-multivariate", title="A panel of values", authors="", year=2025, version="1",
    summary="Correlated values of a row", variants={"panel": "MultivariateNormal"}, guides={"normal": "AutoNormal"},
    datasets={"simulated": "simulated: 12 rows of 2 values"}, golden={"panel": -30.539057357814148},
)  # fmt: skip
