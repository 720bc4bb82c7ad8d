"""An entry as third-party code writes it: enumerated classes, a group table, labels on some rows."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyrozoo import Batch, Card, Site, ZooGuide, ZooModel
from pyrozoo.modeling.guides import auto


class Mixture(ZooModel):
    """b_g ~ N(0, 1); k_n ~ Categorical(pi); y_n ~ N(mu[k_n] + b_g + w u_g, sigma^2), k seen on labelled rows."""

    plate_dims = {"group": -1, "row": -1}
    targets = enumerated = ("k",)

    def __init__(self, n_groups, n_features, n_classes=2, priors=None):
        super().__init__()
        self.n_groups = n_groups
        self.mu, self.w = nn.Parameter(torch.linspace(-1, 1, n_classes)), nn.Parameter(0.1 * torch.ones(n_features))
        self.logits, self.log_sigma = nn.Parameter(torch.zeros(n_classes)), nn.Parameter(torch.zeros(()))
        self.set_priors(priors)

    @classmethod
    def sizes_from(cls, data):
        return {"n_groups": data.sizes["group"], "n_features": data["u"].shape[1]}

    def priors(self):
        return {"b": dist.Normal(self.mu.new_zeros(()), 1.0)}

    def encode(self, u, **_):
        return u @ self.w

    def forward(self, y, group, u, sizes, k=None, labelled=None, row=None, h=None, **_):
        h = self.encode(u) if h is None else h
        with self.plate("group", sizes=sizes):
            b = pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            drawn = pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            if k is not None:  # obs_mask would drop the enumeration: rule out the other classes instead
                pyro.factor("label", torch.where(labelled & (drawn != k), -torch.inf, 0.0).to(y))
            pyro.sample("y", dist.Normal(self.mu[drawn] + (b + h)[..., group], self.log_sigma.exp()), obs=y)


class MeanField(ZooGuide):
    """q(b_g) = N(m_g - a h_g, s_g^2): what the group table explains is taken off the level."""

    def __init__(self, model):
        super().__init__(model)
        self.m, self.log_s = nn.Parameter(torch.zeros(model.n_groups)), nn.Parameter(torch.zeros(model.n_groups))
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, u, sizes, h=None, **_):
        h = self.model.encode(u) if h is None else h
        with self.model.plate("group", sizes=sizes):
            pyro.sample("b", dist.Normal(self.m - self.a * h, self.log_s.exp()))


def tiny(seed=0, n=14):
    rng = np.random.default_rng(seed)
    group, k, u = np.arange(n) % 3, rng.integers(2, size=n), rng.normal(size=(3, 2))
    y = 3.0 * k + rng.normal(size=3)[group] + u.sum(1)[group] + 0.3 * rng.normal(size=n)
    batch = Batch.from_arrays(
        rows={"y": y, "k": k}, groups={"group": group}, tables={"group": {"u": u}}, labels={"k": np.arange(n) % 2 == 0},
        coords={"group": np.arange(3), "k_class": ["low", "high"]}, name="mixture", simulated=True,
    )  # fmt: skip
    return batch, {}


VARIANTS = {"mixture": Mixture}
GUIDES = {"mean-field": MeanField, "normal": auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = Card(
    name="toy-mixture", title="Mixture with group effects", authors="", year=2024, version="1",
    summary="Classes of rows, some labelled, in groups with features",
    variants={"mixture": "two or more classes"},
    sites={"mixture": {
        "b": Site("latent", ("group",), (), "Normal(0, 1)"),
        "k": Site("enumerated", ("row",)),
        "y": Site("observed", ("row",)),
    }},
    guides={"mean-field": "independent groups", "normal": "AutoNormal"},
    datasets={"simulated": "simulated: three groups"},
    calibrated=("b",), golden={"mixture": -47.503494350384756},
)  # fmt: skip
