"""A variational autoencoder of binary images, as a user of Pyro writes one, by hand, and the products it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional

from pyrozoo.inference.copies import default_dtype


class Sizes(NamedTuple):
    """Images of a minibatch, and the network sizes of Pyro's tutorial."""

    images: int = 256
    pixels: int = 784
    hidden: int = 400
    z_dim: int = 50


TUTORIAL = Sizes()


class Product(NamedTuple):
    """A linear layer: (rows, inputs) x (inputs, outputs); `data`: its inputs need no gradient."""

    rows: int
    inputs: int
    outputs: int
    data: bool = False


class Model(PyroModule):
    """z ~ N(0, I), pixels ~ Bernoulli(decoder(z)).

    Named otherwise than the guide's network: SVI knows parameters by name, and leaves the second of a name untrained.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.z_dim = sizes.z_dim
        self.decoder = _network(sizes.z_dim, sizes.hidden, sizes.pixels)

    def forward(self, images: Tensor) -> None:
        with pyro.plate("image", len(images)):
            prior = dist.Normal(images.new_zeros(len(images), self.z_dim), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            pyro.sample("pixels", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=images)


class Guide(PyroModule):
    """q(z | pixels) = N(loc, scale^2), loc and log scale of one network."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = _network(sizes.pixels, sizes.hidden, 2 * sizes.z_dim)

    def forward(self, images: Tensor) -> None:
        with pyro.plate("image", len(images)):
            loc, log_scale = self.encoder(images).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class PlainVAE(nn.Module):
    """The same networks and objective in plain PyTorch; Monte Carlo in place of the analytic KL, as Trace_ELBO."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = _network(sizes.pixels, sizes.hidden, 2 * sizes.z_dim)
        self.decoder = _network(sizes.z_dim, sizes.hidden, sizes.pixels)

    def forward(self, images: Tensor) -> Tensor:
        """The negative ELBO, summed over the images."""
        loc, log_scale = self.encoder(images).chunk(2, -1)
        noise = torch.randn_like(loc)
        z = loc + log_scale.exp() * noise
        # log q(z) - log p(z): the constants cancel
        kl = (0.5 * (z.square() - noise.square()) - log_scale).sum()
        return kl + functional.binary_cross_entropy_with_logits(self.decoder(z), images, reduction="sum")


def simulated(sizes: Sizes = TUTORIAL, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random binary images, simulated: what is on them makes no difference to the time of a step."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(sizes.images, sizes.pixels, generator=generator) < 0.2).to(dtype)


def pyro_vae(sizes: Sizes = TUTORIAL, seed: int = 0) -> tuple[Model, Guide, tuple[Tensor]]:
    """Model, guide and their arguments, for ``SVI(model, guide, ...)`` and ``Trace_ELBO()(model, guide)`` alike."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, guide = Model(sizes), Guide(sizes)
    return model, guide, (simulated(sizes, dtype=torch.get_default_dtype()),)


def plain_copy(model: Model, guide: Guide, sizes: Sizes) -> PlainVAE:
    """The hand-written model with the same weights."""
    plain = PlainVAE(sizes).to(next(model.parameters()))
    with torch.no_grad():
        for own, pyros in _pairs(plain, model, guide):
            own.copy_(pyros)
    return plain


def plain_step(sizes: Sizes = TUTORIAL, seed: int = 0) -> Callable[[], None]:
    """One step of fused Adam on the images, started where `pyro_vae` with the same seed is."""
    model, guide, (images,) = pyro_vae(sizes, seed)
    plain = plain_copy(model, guide, sizes)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        loss = plain(images)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def disagreement(sizes: Sizes = TUTORIAL) -> dict[str, float]:
    """Largest relative difference between Pyro's and the hand-written loss, and between their gradients.

    In double precision, with the same weights and, both drawing z alone, with the same noise by the same seed. The
    difference of a gradient is relative to the parameter's largest entry.
    """
    with default_dtype(torch.float64):
        model, guide, (images,) = pyro_vae(sizes)
        plain, losses = plain_copy(model, guide, sizes), []
        with torch.random.fork_rng(), pyro.get_param_store().scope():
            for loss in (Trace_ELBO()(model, guide), plain):
                torch.manual_seed(1)
                losses.append(loss(images))
                losses[-1].backward()
    pyros, own = (float(loss.detach()) for loss in losses)
    gradients = [float((a.grad - b.grad).abs().max() / b.grad.abs().max()) for a, b in _pairs(plain, model, guide)]
    return {"loss": abs(own / pyros - 1), "gradients": max(gradients)}


# ------------------------------------------------------------------------------------------------------------ floor
def products(sizes: Sizes = TUTORIAL) -> list[Product]:
    """The linear layers of a step."""
    rows, pixels, hidden, z_dim = sizes
    return [
        Product(rows, pixels, hidden, data=True), Product(rows, hidden, 2 * z_dim),
        Product(rows, z_dim, hidden), Product(rows, hidden, pixels),
    ]  # fmt: skip


def floor(layers: Iterable[Product]) -> Callable[[], None]:
    """All matrix products of a step, forward and backward, into buffers that are there: no step can be faster.

    Every product has its own shape and transposition, as autograd has it. Copies to and from memory count, too.
    """
    arguments: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows, inputs, outputs, data in layers:
        x, weight, y = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        arguments += [(x, weight.t(), torch.empty_like(y)), (y.t(), x, torch.empty_like(weight))]
        if not data:
            arguments.append((y, weight, torch.empty_like(x)))

    @torch.no_grad()
    def multiply() -> None:
        for left, right, out in arguments:
            torch.mm(left, right, out=out)

    return multiply


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, outputs))


def _pairs(plain: PlainVAE, model: Model, guide: Guide) -> Iterator[tuple[Any, Any]]:
    """The parameters of the hand-written model, each with Pyro's."""
    for own, pyros in ((plain.encoder, guide.encoder), (plain.decoder, model.decoder)):
        yield from zip(own.parameters(), pyros.parameters(), strict=True)
