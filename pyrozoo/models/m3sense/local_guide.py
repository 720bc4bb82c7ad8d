"""q(a_T | X_T) of the windows (eq. 12): what the model composes with an AutoGuide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional

from ...modeling.base import LocalParams, ZooModel

SD_FLOOR = 1e-3


class PaperGuide(LocalParams, PyroModule):
    """q(a_T | X_T) = N(mu_T, diag sigma_T^2) for every task and every window, labelled or not (eq. 12)."""

    outputs = 2  # numbers per latent dimension

    def __init__(self, model: ZooModel) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the model's parameters are not the guide's
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
        model = self._model[0]
        h = model.encode(**batch) if h is None else h
        with model.plate("window", sizes=sizes, window=window), poutine.scale(scale=model.gamma):
            for i, task in enumerate(model.tasks):
                pyro.sample(f"a_{task}", self.posterior(self.networks[i](h[i])))

    def posterior(self, out: Tensor) -> dist.Distribution:
        """q(a_T) from a network's output, (B, outputs A)."""
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, SD_FLOOR + functional.softplus(raw)).to_event(1)
