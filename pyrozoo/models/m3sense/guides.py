"""Guides of M3Sense: q(a_T | X_T) of every task by family, read from the shared representation (eq. 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...modeling.guides import NoLatents
from .local_guide import SD_FLOOR, PaperGuide


class LowRankGuide(PaperGuide):
    """q(a_T | X_T) with a covariance of low rank beside the diagonal."""

    rank = 2
    outputs = 2 + rank

    def posterior(self, out: Tensor) -> dist.Distribution:
        loc, raw, *factors = out.chunk(self.outputs, -1)
        sd = SD_FLOOR + functional.softplus(raw)
        if not bool(torch.isfinite(out).all()):  # the factorisation would fail before anybody learns which site it is
            return dist.Normal(loc, sd, validate_args=False).to_event(1)
        return dist.LowRankMultivariateNormal(loc, 0.1 * torch.stack(factors, -1), sd**2)


class DeltaGuide(PaperGuide):
    """One point a_T per window."""

    outputs = 1

    def posterior(self, out: Tensor) -> dist.Distribution:
        return dist.Delta(out, event_dim=1)


GUIDES: Mapping[str, Callable[..., nn.Module]] = {
    "paper": PaperGuide,
    "lowrank": LowRankGuide,
    "delta": DeltaGuide,
    "none": NoLatents,
}
