"""Guides of SSMTL: the paper's, an amortised one, and the row guide that AutoGuides are composed with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from ...base import LocalParams
from ...guides import ComposedGuide, auto
from .model import SSMTL, ContextModel, fill_targets
from .nets import GaussianMLP, SetEncoder

C_SPREAD = 0.1
C_SCALE = math.exp(-3.0)


class RowGuide(LocalParams, PyroModule):
    """q(y, z | x, c) = q(y | x, c) q(z | x, y, c) of every row (eq. 11 to 13), y only where it is not observed.

    q(y | x, c) is also the soft sensor that predicts. Its log density on the labelled rows, times alpha, joins the
    objective (eq. 19) as the factor ``y_head``: a factor of the guide enters the ELBO with a minus sign.

    Shapes: c (..., M, K), one context per unit; the others as in `SSMTL`.
    """

    def __init__(self, model: SSMTL) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the model's parameters are not the guide's
        self.g_y = GaussianMLP(model.x_dim + model.c_dim, model.y_dim, model.width, model.depth, model.floor)
        self.g_z = GaussianMLP(model.x_dim + model.y_dim + model.c_dim, model.z_dim, model.width, model.depth)

    def forward(
        self, x: Tensor, unit: Tensor, sizes: Mapping[str, int], c: Tensor, y: Tensor | None = None,
        labelled: Tensor | None = None, row: Tensor | None = None, weight: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        model = self._model[0]
        y, labelled = fill_targets(x, y, labelled, model.y_dim)
        c = c[..., unit, :]
        x = ((x - model.x_loc) / model.x_scale).expand(c.shape[:-1] + x.shape[-1:])
        with model.plate("row", sizes=sizes, row=row), model.weighted(weight):
            loc, scale = self.g_y(x, c)
            q_y = dist.Normal(model.y_loc + model.y_scale * loc, model.y_scale * scale).to_event(1)
            with poutine.mask(mask=~labelled):
                y_unobserved = pyro.sample("y_unobserved", q_y)  # eq. 12
            if model.alpha and sizes.get("labelled", 0):
                share = sizes["row"] / sizes["labelled"]
                head = torch.where(labelled, q_y.log_prob(y), torch.zeros(()).to(y))
                pyro.factor("y_head", -model.alpha * share * head, has_rsample=True)  # eq. 19, times N
            y = torch.where(labelled[:, None], y, y_unobserved)
            y = (y - model.y_loc) / model.y_scale
            pyro.sample("z", dist.Normal(*self.g_z(x, y, c)).to_event(1))  # eq. 13


class PaperGuide(LocalParams, PyroModule):
    """The paper's guide: q(c_i) = N(m_i, diag s_i^2) with free parameters per unit (eq. 10), and `RowGuide`.

    Every unit has its own parameters, so a unit that was not in the training data has no posterior here.
    """

    def __init__(self, model: ContextModel) -> None:
        super().__init__()
        self._model = (model,)
        self.c_loc = nn.Parameter(C_SPREAD * torch.randn(model.n_units, model.c_dim))
        self.c_log_scale = nn.Parameter(torch.full((model.n_units, model.c_dim), math.log(C_SCALE)))
        self.local = model.local_guide()

    def forward(self, sizes: Mapping[str, int], **batch: Any) -> None:
        with self._model[0].plate("unit", sizes=sizes):
            c = pyro.sample("c", dist.Normal(self.c_loc, self.c_log_scale.exp()).to_event(1))  # eq. 10
        if self.local is not None:
            self.local(sizes=sizes, c=c, **batch)


class AmortizedGuide(LocalParams, PyroModule):
    """q(c_i | support rows of unit i) by a set encoder, and `RowGuide`: an unseen unit needs no optimisation.

    Departs from eq. 10, where q(c_i) is free. The batch must hold the support: ``batch.with_support(guide.support)``
    adds it (`fit` and the functions on a fit do it themselves).

    Attributes:
        support: Most rows of a unit that the encoder reads.
        amortized: Groups whose posterior needs no parameters of their own.
    """

    amortized = ("unit",)

    def __init__(self, model: ContextModel, support: int = 32, width: int = 64) -> None:
        super().__init__()
        self._model = (model,)
        self.support = support
        self.encoder = SetEncoder(model.x_dim + model.y_dim + 1, model.c_dim, width)
        with torch.no_grad():  # start as narrow as the paper's guide: a wide q(c) drowns the context's signal
            head = self.encoder.head.net[-1]
            head.bias[model.c_dim :].fill_(math.log(C_SCALE))
        self.local = model.local_guide()

    def forward(
        self, sizes: Mapping[str, int], support_x: Tensor | None = None, support_y: Tensor | None = None,
        support_labelled: Tensor | None = None, support_mask: Tensor | None = None, **batch: Any,
    ) -> None:  # fmt: skip
        if support_x is None or support_mask is None:
            raise ValueError(
                "the amortised guide reads each unit's support rows; pass batch.with_support(guide.support)"
            )
        model = self._model[0]
        if support_y is None or support_labelled is None:
            support_y = support_x.new_zeros((*support_x.shape[:-1], model.y_dim))
            support_labelled = torch.zeros_like(support_mask)
        seen = support_labelled[..., None].to(support_x)
        x = (support_x - model.x_loc) / model.x_scale
        y = (support_y - model.y_loc) / model.y_scale * seen
        loc, scale = self.encoder(torch.cat([x, y, seen], -1), support_mask, support_labelled)
        with model.plate("unit", sizes=sizes):
            c = pyro.sample("c", dist.Normal(loc, scale).to_event(1))
        if self.local is not None:
            self.local(sizes=sizes, c=c, **batch)


def normal(model: ContextModel) -> ComposedGuide:
    """AutoNormal on the contexts, composed with the row guide: the paper's family, started likewise."""

    def near_zero(site: dict) -> Tensor:
        return C_SPREAD * torch.randn_like(site["fn"].sample().detach())

    return auto(AutoNormal, init_loc_fn=near_zero, init_scale=C_SCALE)(model)


GUIDES: dict[str, Any] = {"paper": PaperGuide, "amortized": AmortizedGuide, "normal": normal}
