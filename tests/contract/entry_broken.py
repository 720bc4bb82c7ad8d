"""The toy entries with one mistake each, which the contract must find."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from entry_events import Conjugate, Events, tiny
from entry_mixture import MeanField, Mixture
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class BatchSizedPlate(Mixture):
    """The row plate has the size of the minibatch, not of the data."""

    def plate(self, name, *, sizes, **batch):
        if name == "row":
            return pyro.plate("row", len(batch["row"]), dim=-1)
        return super().plate(name, sizes=sizes, **batch)


class OwnIndices(Mixture):
    """The row plate draws its own indices."""

    def plate(self, name, *, sizes, **batch):
        if name == "row":
            return pyro.plate("row", sizes["row"], subsample_size=len(batch["row"]), dim=-1)
        return super().plate(name, sizes=sizes, **batch)


class Unused(Mixture):
    """One parameter too many."""

    def __init__(self, n_groups, n_features, n_classes=2, priors=None):
        super().__init__(n_groups, n_features, n_classes, priors)
        self.extra = nn.Parameter(torch.zeros(2))


class DeafToPriors(Mixture):
    """Takes priors and ignores them."""

    def __init__(self, n_groups, n_features, n_classes=2, priors=None):
        super().__init__(n_groups, n_features, n_classes)


class OtherScale(Mixture):
    """Another density under the same version."""

    def priors(self):
        return {"b": dist.Normal(self.mu.new_zeros(()), 1.001)}


class RandomDensity(Mixture):
    """The density depends on the random state."""

    def encode(self, u, **_):
        return u @ self.w + 0.1 * torch.randn(len(u)).to(u)


class CrossedRows(Mixture):
    """y of a row depends on the class of another one, which enumeration along the plate does not see."""

    def forward(self, y, group, sizes, row=None, **_):
        with self.plate("group", sizes=sizes):
            b = pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(self.mu[k] + self.mu[k.flip(-1)] + b[..., group], 1.0), obs=y)


class Reshaped(Mixture):
    """Takes the class for one value per row, whatever its shape."""

    def means(self, k):
        return nn.functional.one_hot(k.reshape(-1), 2).to(self.mu) @ self.mu

    def forward(self, y, group, sizes, row=None, **_):
        with self.plate("group", sizes=sizes):
            b = pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(self.means(k) + b[..., group], 1.0), obs=y)


class FirstClass(Reshaped):
    """Takes the first class for that of every row, where all classes come at once."""

    def means(self, k):
        return self.mu[k if k.dim() == 1 and len(k) > 1 else k.reshape(-1)[0]]


class NoMask(Mixture):
    """Takes the class of every row for a label, also of those where it is hidden."""

    def forward(self, y, labelled=None, **batch):
        super().forward(y=y, labelled=torch.ones_like(y, dtype=torch.bool), **batch)


class OneDraw(Events):
    """Right for one draw alone: the means of several are mixed up."""

    def forward(self, duration, sizes, row=None, **batch):
        rate = pyro.sample("rate", self.prior("rate"))
        share = pyro.sample("share", self.prior("share"))
        pieces = batch["lengths"].tolist()
        kind = pad_sequence(batch["kind"].split(pieces), batch_first=True)
        duration = pad_sequence(duration.split(pieces), batch_first=True, padding_value=1.0)
        mask = torch.arange(kind.shape[1]) < batch["lengths"][:, None]
        with self.plate("row", sizes=sizes, row=row):
            kind = pyro.sample("kind", dist.Categorical(share[..., None, :]).mask(mask).to_event(1), obs=kind)
            own = rate.reshape(-1)[kind]
            pyro.sample("duration", dist.Exponential(own).mask(mask).to_event(1), obs=duration)


class NoShare(Conjugate):
    """Forgets a latent."""

    def forward(self, **_):
        pyro.sample("rate", dist.Gamma(self.a, self.b).to_event(1))


class WrongSupport(Conjugate):
    """A normal distribution for a positive latent."""

    def forward(self, **_):
        pyro.sample("rate", dist.Normal(self.a, 0.01).to_event(1))
        pyro.sample("share", dist.Dirichlet(self.c))


class Worse(Conjugate):
    """Its closed form is far off."""

    def solve(self, train):
        self.a += 1000.0


class HiddenState(Conjugate):
    """What it learns is in no state_dict."""

    def __init__(self, model):
        super().__init__(model)
        self.seen = torch.zeros(())

    def solve(self, train):
        self.seen = self.seen + len(train["kind"])

    def forward(self, **_):
        pyro.sample("rate", dist.Gamma(self.a + self.seen, self.b).to_event(1))
        pyro.sample("share", dist.Dirichlet(self.c))


class Unseeded(MeanField):
    """Noise from a generator that no seed reaches."""

    def forward(self, u, sizes, h=None, **batch):
        noise = torch.as_tensor(np.random.default_rng().normal(size=len(u))).to(u)
        super().forward(u=u, sizes=sizes, h=noise, **batch)


class Shared(MeanField):
    """All instances train one tensor."""

    memory = nn.Parameter(torch.zeros(3))

    def __init__(self, model):
        super().__init__(model)
        self.m = self.memory


class NeedsH(MeanField):
    """Cannot be called without the representation that the zoo computes."""

    def forward(self, u, sizes, h, **batch):
        super().forward(u=u, sizes=sizes, h=h, **batch)


VARIANTS = {"events": Events}
GUIDES = {"conjugate": HiddenState}
__all__ = ["tiny"]


class SingleConstant(Mixture):
    """Computes with a constant of the module, in single precision."""

    weights = torch.ones(2)

    def encode(self, u, **_):
        return u @ self.weights * self.w.sum()
