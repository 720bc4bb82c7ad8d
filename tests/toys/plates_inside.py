"""Several plates of observations: persons are the rows; their visits and their answers are plates inside."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.ops.indexing import Vindex
from pyro.poutine import mask
from torch.nn.utils.rnn import pad_sequence

import pyrozoo as zoo


class Patients(zoo.ZooModel):
    """k_p ~ Categorical(0.5, 0.5); x of a visit ~ Normal(mu[k_p], 1), an answer ~ Bernoulli(logits w[k_p])."""

    rows = "person"
    plate_dims = {"person": -2}  # left of the plates inside, which hold all that a row holds
    targets = enumerated = ("k",)
    dims = {"mu": ("k_class",), "w": ("k_class",)}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        each = dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1)
        return {"mu": each, "w": each}

    def forward(self, x, lengths, answer, sizes, person=None, **_):
        mu, w = pyro.sample("mu", self.prior("mu")), pyro.sample("w", self.prior("w"))
        x = pad_sequence(x.split(lengths.tolist()), batch_first=True)  # persons have different numbers of visits
        with self.plate("person", sizes=sizes, person=person):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            with pyro.plate("visit", x.shape[1], dim=-1), mask(mask=torch.arange(x.shape[1]) < lengths[:, None]):
                pyro.sample("x", dist.Normal(Vindex(mu)[..., k], 1.0), obs=x)
            with pyro.plate("question", answer.shape[1], dim=-1):
                pyro.sample("answer", dist.Bernoulli(logits=Vindex(w)[..., k]), obs=answer)


def tiny(seed=0, n=6):
    rng = np.random.default_rng(seed)
    return zoo.Batch.from_arrays(
        rows={"answer": rng.integers(2, size=(n, 3)).astype(float)},
        frames={"x": [rng.normal(size=1 + i % 3) for i in range(n)]}, row_plate="person",
        name="plates inside", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"classes": Patients}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-plates-inside", title="Classes of patients", authors="", year=2025, version="1",
    summary="Visits and answers of patients", variants={"classes": "two classes, summed out"},
    guides={"normal": "AutoNormal"}, datasets={"simulated": "simulated: 6 patients"},
    golden={"classes": -39.06142341200719},
)  # fmt: skip
