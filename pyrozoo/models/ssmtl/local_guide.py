"""q(y, z | x, c) of the rows: what the model composes with an AutoGuide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ...modeling.base import ZooModel
from ...modeling.guides import ZooGuide
from ...modeling.hidden import of_entries
from .nets import GaussianMLP, by_entry


class RowGuide(ZooGuide):
    """q(y, z | x, c) = q(y | x, c) q(z | x, y, c) of every row (eq. 10, 12, 13); y only where it is not observed.

    q(y | x, c) is also the soft sensor that predicts. Its log density on the labelled rows, times alpha, joins the
    objective (eq. 20) as the factor ``y_head``: a factor of the guide enters the ELBO with a minus sign.

    For a model without contexts it is q(y | x) q(z | x, y), for one without targets q(z | x, c).

    Where inputs are missing, x_seen (B, Dx) marks the others, and x stands for these, see `ContextModel.inputs`. Where
    rows have part of their targets, y_seen (B, Dy) marks these: they are data, the others are drawn from q(y | x, c),
    and the alpha term has the density of what is seen. N^l counts rows with any.

    Shapes: c (..., M, K), one context per unit; head_weight (B,) replaces N / N^l in the alpha term: N_i / N_i^l of the
    row's unit where each unit counts as if it were trained alone; the others are those of `SSMTL`.
    """

    def __init__(self, model: ZooModel) -> None:
        super().__init__(model)
        seen = model.inputs_dim + model.c_dim
        head = (seen, model.y_dim, model.width, model.depth, model.floor, model.dropout)
        self.g_y = GaussianMLP(*head) if model.y_dim else None
        self.g_z = GaussianMLP(seen + model.y_dim, model.z_dim, model.width, model.depth)

    def forward(
        self, x: Tensor, unit: Tensor, sizes: Mapping[str, int], c: Tensor | None = None, y: Tensor | None = None,
        labelled: Tensor | None = None, row: Tensor | None = None, weight: Tensor | None = None,
        head_weight: Tensor | None = None, x_seen: Tensor | None = None, y_seen: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        model = self.model
        inputs, context = model.inputs(x, x_seen), [] if c is None else [c[..., unit, :]]
        with model.plate("row", sizes=sizes, row=row), model.weighted(weight):
            if self.g_y is None:
                pyro.sample("z", dist.Normal(*self.g_z(*inputs, *context)).to_event(1))  # eq. 13 without y
                return
            y, labelled = model.targets_of(x, y, labelled, y_seen)
            q_y = model.y_given(*self.g_y(*inputs, *context))
            with poutine.mask(mask=~labelled if y_seen is None else True):
                hidden = q_y if y_seen is None else of_entries(q_y, ~y_seen)
                y_unobserved = pyro.sample("y_unobserved", hidden)  # eq. 12
            if model.alpha and sizes.get("labelled", 0):
                share = sizes["row"] / sizes["labelled"] if head_weight is None else head_weight
                head = of_entries(q_y, y_seen).log_prob(y)
                head = torch.where(labelled, head, torch.zeros(()).to(y)) if y_seen is None else head
                pyro.factor("y_head", -model.alpha * share * head, has_rsample=True)  # eq. 20, times N
            y = model.standardise_y(torch.where(by_entry(labelled), y, y_unobserved))
            pyro.sample("z", dist.Normal(*self.g_z(*inputs, y, *context)).to_event(1))  # eq. 13
