"""An entry as third-party code writes it: parameters only, ragged recordings, a conjugate fit in closed form."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pad_sequence

import pyrozoo
from pyrozoo import Batch, Card, Site, ZooGuide, ZooModel
from pyrozoo.modeling.guides import auto

RATES, SHARES = np.array([0.5, 2.0, 4.0]), np.array([0.2, 0.3, 0.5])


class Events(ZooModel):
    """rate_j ~ Gamma(2, 1), share ~ Dirichlet(1); kind_t ~ Categorical(share), duration_t ~ Exp(rate[kind_t])."""

    targets = ()
    dims = {"rate": ("type",), "share": ("type",), "kind": ("frame",), "duration": ("frame",)}

    def __init__(self, n_types=3, priors=None):
        super().__init__()
        self.n_types = n_types
        self.set_priors(priors)

    def priors(self):
        rate = dist.Gamma(2.0, 1.0).expand([self.n_types]).to_event(1)
        return {"rate": rate, "share": dist.Dirichlet(torch.ones(self.n_types))}

    def forward(self, kind, duration, lengths, sizes, row=None, **_):
        rate, share = pyro.sample("rate", self.prior("rate")), pyro.sample("share", self.prior("share"))
        pieces = lengths.tolist()
        kind = pad_sequence(kind.split(pieces), batch_first=True)
        duration = pad_sequence(duration.split(pieces), batch_first=True, padding_value=1.0)
        mask = torch.arange(kind.shape[1]) < lengths[:, None]
        with self.plate("row", sizes=sizes, row=row):
            kind = pyro.sample("kind", dist.Categorical(share[..., None, :]).mask(mask).to_event(1), obs=kind)
            own_rate = (one_hot(kind, self.n_types).to(rate) @ rate[..., None]).squeeze(-1)
            pyro.sample("duration", dist.Exponential(own_rate).mask(mask).to_event(1), obs=duration)


class Conjugate(ZooGuide):
    """The exact posterior: Gamma(a, b) rates, Dirichlet(c) shares; the priors before `solve`."""

    def __init__(self, model):
        super().__init__(model)
        rate = model.prior("rate").base_dist
        for name, value in (("a", rate.concentration), ("b", rate.rate), ("c", model.prior("share").concentration)):
            self.register_buffer(name, value.clone())

    def solve(self, train):
        seen = one_hot(train["kind"], len(self.a)).to(self.a)
        self.a += seen.sum(0)
        self.b += train["duration"].to(self.a) @ seen
        self.c += seen.sum(0)

    def forward(self, **_):
        pyro.sample("rate", dist.Gamma(self.a, self.b).to_event(1))
        pyro.sample("share", dist.Dirichlet(self.c))


def tiny(seed=0, n=7):
    rng = np.random.default_rng(seed)
    kinds = [rng.choice(3, size=size, p=SHARES) for size in rng.integers(1, 6, size=n)]
    durations = [rng.exponential(1 / RATES[kind]) for kind in kinds]
    return Batch.from_arrays(rows={}, frames={"kind": kinds, "duration": durations}, name="events", simulated=True), {}


def recovery(seed):
    data, _ = tiny(seed, n=200)
    found = pyrozoo.fit(Events(), Conjugate, data, seed=seed)
    draws = pyrozoo.draw(found, data, draws=100, sites=["rate", "share"], predictive=False).groups["posterior"]
    return {"rate": float(draws["rate"][..., 1].mean()), "share": float(draws["share"][..., 1].mean())}


VARIANTS = {"events": Events}
GUIDES = {"conjugate": Conjugate, "normal": auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = Card(
    name="toy-events", title="Durations of events", authors="", year=2024, version="1",
    summary="Kinds and durations of events in recordings of different lengths",
    variants={"events": "exponential durations"},
    sites={"events": {
        "rate": Site("latent", (), ("type",), "Gamma(2, 1)"),
        "share": Site("latent", (), ("type",), "Dirichlet of ones"),
        "kind": Site("observed", ("row",), ("frame",)),
        "duration": Site("observed", ("row",), ("frame",)),
    }},
    guides={"conjugate": "exact, from counts", "normal": "AutoNormal"},
    datasets={"simulated": "simulated: seven recordings"},
    # 200 recordings of 3 events on average, 0.3 of them of this kind: standard errors 2 / sqrt(180), sqrt(0.21 / 600);
    # over 3 seeds sqrt(3) smaller.
    expected={"rate": (2.0, 0.086, 4.0), "share": (0.3, 0.011, 4.0)},
    golden={"events": -36.254786367660735},
)  # fmt: skip
