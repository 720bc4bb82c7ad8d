"""A sequence of states: a hidden Markov model per row, its states enumerated inside pyro.markov."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.ops.indexing import Vindex
from pyro.poutine import mask

import pyrozoo as zoo

STEPS = 4


class Chain(zoo.ZooModel):
    """z_0 ~ Categorical(0.5, 0.5), z_t ~ Categorical(moves[z_(t-1)]), x_t ~ Normal(mu[z_t], 1) for t < long."""

    rows = "sequence"
    plate_dims = {"sequence": -1}
    enumerated = tuple(f"z_{t}" for t in range(STEPS))
    targets = (f"z_{STEPS - 1}",)  # predict the last state
    dims = {"mu": ("state",)}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"mu": dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1)}

    def forward(self, x, long, sizes, sequence=None, **_):
        mu, z = pyro.sample("mu", self.prior("mu")), None
        first, moves = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.3, 0.7]])
        with self.plate("sequence", sizes=sizes, sequence=sequence):
            for t in pyro.markov(range(STEPS)):  # what reads a state belongs inside the loop
                z = pyro.sample(
                    f"z_{t}", dist.Categorical(first if z is None else moves[z]), infer={"enumerate": "parallel"}
                )
                with mask(mask=t < long):  # sequences of unequal lengths
                    pyro.sample(f"x_{t}", dist.Normal(Vindex(mu)[..., z], 1.0), obs=x[:, t])


def tiny(seed=0, n=6):
    rng = np.random.default_rng(seed)
    rows = {"x": rng.normal(size=(n, STEPS)), "long": 2 + np.arange(n) % 3}
    return zoo.Batch.from_arrays(rows=rows, row_plate="sequence", name="states", simulated=True), {}


VARIANTS, GUIDES = {"chain": Chain}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-states", title="Hidden states", authors="", year=2025, version="1", summary="States along sequences",
    variants={"chain": "two states, summed out"}, guides={"normal": "AutoNormal"},
    datasets={"simulated": "simulated: 6 sequences"}, golden={"chain": -27.935508866541003},
)  # fmt: skip
