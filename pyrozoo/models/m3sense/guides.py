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
    """q(a_T | X_T) as a normal whose covariance is a diagonal plus a matrix of rank 2.

    Args:
        model: Model with a latent per task.

    Example:
        >>> import pyrozoo as zoo
        >>> import torch
        >>> model = zoo.load_reference("m3sense/simulated").model
        >>> guide = zoo.create_guide(model, "lowrank")
        >>> output = torch.zeros(5, guide.outputs * model.a_dim)  # of a task's network, for five windows
        >>> guide.posterior(output).covariance_matrix.shape
        torch.Size([5, 16, 16])
    """

    rank = 2
    outputs = 2 + rank

    def posterior(self, out: Tensor) -> dist.Distribution:
        loc, raw, *factors = out.chunk(self.outputs, -1)
        sd = SD_FLOOR + functional.softplus(raw)
        if not bool(torch.isfinite(out).all()):  # the factorisation would fail with an error that names no site
            return dist.Normal(loc, sd, validate_args=False).to_event(1)
        return dist.LowRankMultivariateNormal(loc, 0.1 * torch.stack(factors, -1), sd**2)


class DeltaGuide(PaperGuide):
    """A point estimate of a_T per window and task.

    Args:
        model: Model with a latent per task.

    Example:
        >>> import pyrozoo as zoo
        >>> import torch
        >>> model = zoo.load_reference("m3sense/simulated").model
        >>> guide = zoo.create_guide(model, "delta")
        >>> point = guide.posterior(torch.ones(5, model.a_dim)).sample()
        >>> point.shape, bool((point == 1).all())
        (torch.Size([5, 16]), True)
    """

    outputs = 1

    def posterior(self, out: Tensor) -> dist.Distribution:
        return dist.Delta(out, event_dim=1)


GUIDES: Mapping[str, Callable[..., nn.Module]] = {
    "paper": PaperGuide,
    "lowrank": LowRankGuide,
    "delta": DeltaGuide,
    "none": NoLatents,
}
