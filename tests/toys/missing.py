"""Missing y: two targets, each missing in rows of its own, and a mask for each."""

import numpy as np
import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import mask

import pyrozoo as zoo


class TwoLabs(zoo.ZooModel):
    """a, b ~ Normal(0, 1); y_a ~ Normal(a x, 0.5), y_b ~ Normal(b x, 0.5)."""

    targets = ("y_a", "y_b")

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"a": dist.Normal(0.0, 1.0), "b": dist.Normal(0.0, 1.0)}

    def forward(self, x, sizes, y_a=None, y_b=None, y_a_labelled=True, y_b_labelled=True, row=None, **_):
        a, b = pyro.sample("a", self.prior("a")), pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            with mask(mask=y_a_labelled):  # a missing value is held as 0, and counts for nothing
                pyro.sample("y_a", dist.Normal(a * x, 0.5), obs=y_a)
            with mask(mask=y_b_labelled):
                pyro.sample("y_b", dist.Normal(b * x, 0.5), obs=y_b)


def tiny(seed=0, n=12):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return zoo.Batch.from_arrays(
        rows={"x": x, "y_a": x + 0.5 * rng.normal(size=n), "y_b": -x + 0.5 * rng.normal(size=n)},
        labels={"y_a": np.arange(n) % 3 > 0, "y_b": np.arange(n) % 4 > 0}, name="missing", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"two labs": TwoLabs}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-missing", title="Two laboratories", authors="", year=2025, version="1",
    summary="Two targets that are missing in different rows", variants={"two labs": "two lines"},
    guides={"normal": "AutoNormal"}, datasets={"simulated": "simulated: 12 rows"},
    golden={"two labs": -32.89853142777442},
)  # fmt: skip
