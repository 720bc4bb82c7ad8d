"""q(a_T | X_T) of the windows (eq. 12): what the model composes with an AutoGuide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional

from ...modeling.base import ZooModel
from ...modeling.guides import ZooGuide

SD_FLOOR = 1e-3


class PaperGuide(ZooGuide):
    """q(a_T | X_T) = N(mu_T, diag sigma_T^2) for every task and every window, labelled or not (eq. 12).

    Args:
        model: Model with a latent per task.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate, standardise
        >>> fit = zoo.load_reference("m3sense/simulated")
        >>> type(fit.guide).__name__
        'PaperGuide'
        >>> new = standardise(simulate("simulated stress", seed=1, n_subjects=1, n_windows=6, rates={"bvp": 8}))
        >>> draws = zoo.draw(fit, new, draws=10, predictive=False)
        >>> draws.groups["posterior"]["a_stress"].shape  # chains, draws, windows, dimensions of the latent
        (1, 10, 6, 16)
    """

    outputs = 2  # numbers per latent dimension

    def __init__(self, model: ZooModel) -> None:
        super().__init__(model)
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(model.out_dim, model.q_hidden), nn.ReLU(),
                nn.Linear(model.q_hidden, self.outputs * model.a_dim),
            )
            for _ in model.tasks
        )  # fmt: skip

    def forward(
        self, sizes: Mapping[str, int], window: Tensor | None = None, h: Tensor | None = None, **batch: Any
    ) -> None:
        model = self.model
        h = model.encode(**batch) if h is None else h
        with model.plate("window", sizes=sizes, window=window), poutine.scale(scale=model.gamma):
            for i, task in enumerate(model.tasks):
                pyro.sample(f"a_{task}", self.posterior(self.networks[i](h[i])))  # eq. 12

    def posterior(self, out: Tensor) -> dist.Distribution:
        """Distribution q(a_T | X_T), batch (B,), event (A,), from a network's output (B, outputs x A) (eq. 12)."""
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, SD_FLOOR + functional.softplus(raw)).to_event(1)
