"""Crossed groups: persons answer items, and each answer is a row that looks up both."""

import numpy as np
import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import mask

import pyrozoo as zoo


class Answers(zoo.ZooModel):
    """theta_p, b_i ~ Normal(0, 1), a_i ~ LogNormal(0, 0.5); y ~ Bernoulli with logits a_i (theta_p - b_i)."""

    plate_dims = {"person": -1, "item": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"theta": dist.Normal(0.0, 1.0), "a": dist.LogNormal(0.0, 0.5), "b": dist.Normal(0.0, 1.0)}

    def forward(self, person, item, sizes, y=None, y_labelled=True, row=None, **_):
        with self.plate("person", sizes=sizes):
            theta = pyro.sample("theta", self.prior("theta"))
        with self.plate("item", sizes=sizes):
            a, b = pyro.sample("a", self.prior("a")), pyro.sample("b", self.prior("b"))
        logits = a[..., item] * (theta[..., person] - b[..., item])
        with self.plate("row", sizes=sizes, row=row), mask(mask=y_labelled):
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def tiny(seed=0, persons=4, items=3):
    rng = np.random.default_rng(seed)
    person, item = (index.ravel() for index in np.indices((persons, items)))
    theta, b = rng.normal(size=persons), rng.normal(size=items)
    y = (rng.random(persons * items) < 1 / (1 + np.exp(b[item] - theta[person]))).astype(float)
    return zoo.Batch.from_arrays(
        rows={"y": y}, groups={"person": person, "item": item}, labels={"y": rng.random(len(y)) < 0.8},
        name="crossed", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"2pl": Answers}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-crossed", title="Item response", authors="", year=2025, version="1",
    summary="Answers of persons to items", variants={"2pl": "two parameters per item"},
    guides={"normal": "AutoNormal"}, datasets={"simulated": "simulated: 4 persons, 3 items"},
    golden={"2pl": -14.118394607571908},
)  # fmt: skip
