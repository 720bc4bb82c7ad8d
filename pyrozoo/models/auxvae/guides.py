"""Guides of AuxVAE: q(z | x, x_aux) by family, read from one encoder (equations 9 and 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ...modeling.guides import NoLatents
from .local_guide import PaperGuide, StyleAwareGuide, scale_of


class LowRankGuide(PaperGuide):
    """q(z | x, x_aux) with covariance diag + low rank: latent dimensions that are uncertain together."""

    rank = 2
    outputs = 2 + rank

    def posterior(self, out: Tensor) -> dist.Distribution:
        loc, raw, *factors = out.chunk(self.outputs, -1)
        return dist.LowRankMultivariateNormal(loc, 0.1 * torch.stack(factors, -1), scale_of(raw) ** 2)


class DeltaGuide(PaperGuide):
    """One point z per trial: the most probable one; with a beta near 0 a plain autoencoder."""

    outputs = 1

    def posterior(self, out: Tensor) -> dist.Distribution:
        return dist.Delta(out, event_dim=1)


GUIDES: Mapping[str, Callable[..., nn.Module]] = {
    "paper": PaperGuide,
    "lowrank": LowRankGuide,
    "delta": DeltaGuide,
    "style_aware": StyleAwareGuide,
    "none": NoLatents,
}
