"""M3Sense and its variants in plain PyTorch, losses written by hand without Pyro: what a step is compared with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

ADAM = functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2, fused=True)  # as the zoo's fit_defaults
CLIP = 10.0
UNKNOWN = -100  # label of a window of another task; cross_entropy passes it over


class PlainM3Sense(nn.Module):
    """The paper's loss, sum over windows and tasks of CE(F_T(X_T), y_T) + gamma KL[q(a_T | X_T) || N(0, I)].

    The KL is the closed form, and a_T, which nothing reads, is not drawn.

    Args:
        networks: The zoo's, by name: "representation", "posteriors" of the guide, and those that `uses` names.
        gamma: Weight of the KL.
        n_rows: Windows of the full data.
    """

    uses: tuple[str, ...] = ("classifiers",)

    def __init__(self, networks: Mapping[str, nn.Module | nn.Parameter], gamma: float, n_rows: int) -> None:
        super().__init__()
        self.gamma, self.n_rows = gamma, n_rows
        for name in ("representation", "posteriors", *self.uses):
            setattr(self, name, networks[name])

    def forward(self, signals: Mapping[str, Tensor], labels: tuple[Tensor, ...], summaries: Tensor) -> Tensor:
        """N / B times the loss of standardised signals (B, samples); labels (B,) of each task, `UNKNOWN` elsewhere."""
        losses = [self.task(i, h, y) for i, (h, y) in enumerate(zip(self.representation(signals), labels, strict=True))]
        return self.n_rows / len(summaries) * sum(losses)

    def task(self, i: int, h: Tensor, y: Tensor) -> Tensor:
        loc, sd = self.posterior(i, h)
        return _cross_entropy(self.classifiers[i](h), y) + self.gamma * _kl(loc, sd)

    def posterior(self, i: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(a_T | X_T), (B, A) each."""
        loc, raw = self.posteriors[i](h).chunk(2, -1)
        return loc, 1e-3 + functional.softplus(raw)


class PlainLatent(PlainM3Sense):
    """The same with labels from a draw of a_T: CE(F_T(a_T), y_T) + gamma KL."""

    def task(self, i: int, h: Tensor, y: Tensor) -> Tensor:
        loc, sd = self.posterior(i, h)
        return _cross_entropy(self.classifiers[i](loc + sd * torch.randn_like(loc)), y) + self.gamma * _kl(loc, sd)


class PlainGenerative(PlainM3Sense):
    """Places of the classes, and summaries decoded from all latents; an unknown label is summed out."""

    uses = ("class_logits", "places", "decoder", "f_log_sd")

    def forward(self, signals: Mapping[str, Tensor], labels: tuple[Tensor, ...], summaries: Tensor) -> Tensor:
        latents, loss = [], torch.zeros_like(summaries[0, 0])
        for i, (h, y) in enumerate(zip(self.representation(signals), labels, strict=True)):
            loc, sd = self.posterior(i, h)
            a = loc + sd * torch.randn_like(loc)
            each = self.class_logits[i].log_softmax(-1) + _log_normal(a[:, None], self.places[i], 1.0).sum(-1)
            given = each.gather(-1, y.clamp(min=0)[:, None])[:, 0]
            log_prior = torch.where(y == UNKNOWN, each.logsumexp(-1), given).sum()
            loss = loss + self.gamma * (_log_normal(a, loc, sd).sum() - log_prior)
            latents.append(a)
        sd = 1e-3 + self.f_log_sd.exp()
        loss = loss - _log_normal(summaries, self.decoder(torch.cat(latents, -1)), sd).sum()
        return self.n_rows / len(summaries) * loss


PLAIN = {"m3sense": PlainM3Sense, "latent": PlainLatent, "generative": PlainGenerative}


def plain_epoch(
    model: PlainM3Sense, signals: Mapping[str, Tensor], labels: tuple[Tensor, ...], summaries: Tensor, batch_size: int
) -> Callable[[], None]:
    """One pass over the windows in random order, one clipped optimiser step per minibatch."""
    optimizer, generator = ADAM(model.parameters()), torch.Generator().manual_seed(0)

    def epoch() -> None:
        model.train()
        for some in torch.randperm(model.n_rows, generator=generator).split(batch_size):
            loss = model(
                {name: x[some] for name, x in signals.items()}, tuple(y[some] for y in labels), summaries[some]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip(model)
            optimizer.step()

    return epoch


def clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(logits, y, ignore_index=UNKNOWN, reduction="sum")


def _kl(loc: Tensor, sd: Tensor) -> Tensor:
    """KL[N(loc, sd^2) || N(0, 1)], summed."""
    return 0.5 * (loc.square() + sd.square() - 1.0).sum() - sd.log().sum()


def _log_normal(value: Tensor, loc: Tensor, sd: Tensor | float) -> Tensor:
    log_sd = sd.log() if isinstance(sd, Tensor) else math.log(sd)
    return -0.5 * ((value - loc) / sd) ** 2 - log_sd - 0.5 * math.log(2 * math.pi)
