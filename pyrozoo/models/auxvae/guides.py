"""Guides of AuxVAE: families of q(z | x, x_aux), whose parameters come from one encoder (eq. 9, 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ...modeling.guides import NoLatents
from .local_guide import PaperGuide, StyleAwareGuide, scale_of


class LowRankGuide(PaperGuide):
    """q(z | x, x_aux) with a covariance of rank 2 beside the diagonal: correlated latent dimensions.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> small = {"channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2}
        >>> model = zoo.create_model("auxvae", train, z_dim=2, **small)
        >>> fit = zoo.fit(model, "lowrank", train, epochs=2, progress=False)
        >>> zoo.draw(fit, test, draws=10).groups["posterior"]["z"].shape  # chains, draws, trials, K
        (1, 10, 32, 2)
    """

    rank = 2
    outputs = 2 + rank

    def posterior(self, out: Tensor) -> dist.Distribution:
        loc, raw, *factors = out.chunk(self.outputs, -1)
        return dist.LowRankMultivariateNormal(loc, 0.1 * torch.stack(factors, -1), scale_of(raw) ** 2)


class DeltaGuide(PaperGuide):
    """One point z per trial, the most probable one; with a beta near 0 the model is a plain autoencoder.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> small = {"channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2}
        >>> model = zoo.create_model("auxvae", train, z_dim=2, **small)
        >>> fit = zoo.fit(model, "delta", train, epochs=2, progress=False)
        >>> zoo.draw(fit, test, draws=10).groups["posterior"]["z"].shape  # chains, draws, trials, K
        (1, 10, 32, 2)
    """

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
