"""Counts: a Poisson rate per group, times the exposure of a row."""

import numpy as np
import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import mask

import pyrozoo as zoo


class Rates(zoo.ZooModel):
    """m ~ Normal(0, 1), level_g ~ Normal(m, 0.5); y ~ Poisson(exposure exp(level_g))."""

    plate_dims = {"site": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"m": dist.Normal(0.0, 1.0), "level": lambda m: dist.Normal(m, 0.5)}

    def forward(self, site, exposure, sizes, y=None, y_labelled=True, row=None, **_):
        m = pyro.sample("m", self.prior("m"))
        with self.plate("site", sizes=sizes):
            level = pyro.sample("level", self.prior("level", m))
        with self.plate("row", sizes=sizes, row=row), mask(mask=y_labelled):
            pyro.sample("y", dist.Poisson(exposure * level[..., site].exp()), obs=y)


def tiny(seed=0, n=12):
    rng = np.random.default_rng(seed)
    site, exposure, level = np.arange(n) % 3, rng.uniform(0.5, 3.0, n), rng.normal(size=3)
    y = rng.poisson(exposure * np.exp(level[site])).astype(float)
    return zoo.Batch.from_arrays(
        rows={"exposure": exposure, "y": y}, groups={"site": site}, labels={"y": np.arange(n) % 4 > 0},
        name="counts", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"poisson": Rates}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-counts", title="Counts with exposure", authors="", year=2025, version="1",
    summary="A rate of events per site", variants={"poisson": "Poisson"}, guides={"normal": "AutoNormal"},
    datasets={"simulated": "simulated: 12 rows of 3 sites"}, golden={"poisson": -16.016022640254498},
)  # fmt: skip
