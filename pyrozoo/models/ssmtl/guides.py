"""Guides of SSMTL and its relatives: q(c) by family, each composed with the row guide q(y, z | x, c)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.nn.functional import embedding

from ...modeling.guides import ComposedGuide, ZooGuide, auto
from .context_model import ContextModel
from .local_guide import RowGuide
from .nets import SetEncoder

C_SPREAD = 0.1


C_SCALE = math.exp(-3.0)


class ContextGuide(ZooGuide):
    """Base class of the guides: q(c) of the units from `contexts` of a subclass, then the model's row guide."""

    sparse: Mapping[str, tuple[str, ...]] = {"unit": ()}

    def __init__(self, model: ContextModel) -> None:
        super().__init__(model)
        if not model.c_dim:
            raise ValueError(f"{type(model).__name__} has no contexts for this guide; use the guide 'paper'")

    def contexts(self, unit_ids: Tensor | None, **batch: Any) -> dist.Distribution:
        """Return q(c) of the units `unit_ids` (U,), by default of all M: batch shape (U,), event shape (K,)."""
        raise NotImplementedError

    def forward(
        self, sizes: Mapping[str, int], unit_ids: Tensor | None = None, unit_weight: Tensor | None = None, **batch: Any
    ) -> None:
        model = self.model
        with model.plate("unit", sizes=sizes, unit_ids=unit_ids), model.weighted(unit_weight):
            c = pyro.sample("c", self.contexts(unit_ids, **batch))
        if self.local is not None:
            self.local(sizes=sizes, c=c, **batch)


class PaperGuide(ContextGuide):
    """The paper's guide: q(c_i) = N(m_i, diag s_i^2) with free parameters per unit (eq. 11), and `RowGuide`.

    Every unit has its own parameters, so a unit that was not in the training data has no posterior here.

    Shapes: c_loc (M, K), m; c_log_scale (M, K), log s.
    """

    sparse = {"unit": ("c_loc", "c_log_scale")}

    def __init__(self, model: ContextModel) -> None:
        super().__init__(model)
        self.c_loc = nn.Parameter(C_SPREAD * torch.randn(model.n_units, model.c_dim))
        self.c_log_scale = nn.Parameter(torch.full((model.n_units, model.c_dim), math.log(C_SCALE)))
        self.local = model.local_guide()

    def contexts(self, unit_ids: Tensor | None, **batch: Any) -> dist.Distribution:
        loc, log_scale = (lines(table, unit_ids) for table in (self.c_loc, self.c_log_scale))
        return dist.Normal(loc, log_scale.exp()).to_event(1)  # eq. 11


class MVNGuide(ContextGuide):
    """q(c_i) = N(m_i, L_i L_i') with a full covariance per unit, and `RowGuide`: eq. 11 without its independence.

    Shapes: c_loc (M, K); c_tril (M, K * K), each line a K x K matrix with the strict lower triangle of L_i and, on its
    diagonal, the logarithm of the diagonal of L_i.
    """

    sparse = {"unit": ("c_loc", "c_tril")}

    def __init__(self, model: ContextModel) -> None:
        super().__init__(model)
        start = math.log(C_SCALE) * torch.eye(model.c_dim)
        self.c_loc = nn.Parameter(C_SPREAD * torch.randn(model.n_units, model.c_dim))
        self.c_tril = nn.Parameter(start.flatten().repeat(model.n_units, 1))
        self.local = model.local_guide()

    def contexts(self, unit_ids: Tensor | None, **batch: Any) -> dist.Distribution:
        loc, flat = (lines(table, unit_ids) for table in (self.c_loc, self.c_tril))
        square = flat.unflatten(-1, (loc.shape[-1], loc.shape[-1]))
        scale_tril = square.tril(-1) + torch.diag_embed(square.diagonal(dim1=-2, dim2=-1).exp())
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class DeltaGuide(ContextGuide):
    """One point per unit: the most probable context, without uncertainty (maximum a posteriori), and `RowGuide`.

    Shapes: c_loc (M, K).
    """

    sparse = {"unit": ("c_loc",)}

    def __init__(self, model: ContextModel) -> None:
        super().__init__(model)
        self.c_loc = nn.Parameter(C_SPREAD * torch.randn(model.n_units, model.c_dim))
        self.local = model.local_guide()

    def contexts(self, unit_ids: Tensor | None, **batch: Any) -> dist.Distribution:
        return dist.Delta(lines(self.c_loc, unit_ids), event_dim=1)


class FlowGuide(ContextGuide):
    """c_i = m_i + s_i f(e; h_i), e ~ N(0_K, I_K): a spline flow that all units share, and `RowGuide`.

    f is an autoregressive linear-rational spline (Dolatabadi et al. 2020), so that posteriors may be skewed or
    multimodal.

    Args:
        model: SSMTL, MTL or MLVAE.
        embedding: H, length of the vector h_i that identifies a unit to the flow.
        width: Number of hidden units of the flow's network per dimension of c.
        bins: Number of pieces of each spline.

    Shapes: c_loc (M, K), m; c_log_scale (M, K), log s; c_embedding (M, H), h.
    """

    sparse = {"unit": ("c_loc", "c_log_scale", "c_embedding")}

    def __init__(self, model: ContextModel, embedding: int = 8, width: int = 16, bins: int = 8) -> None:
        super().__init__(model)
        n_units, c_dim = model.n_units, model.c_dim
        self.c_loc = nn.Parameter(C_SPREAD * torch.randn(n_units, c_dim))
        self.c_log_scale = nn.Parameter(torch.full((n_units, c_dim), math.log(C_SCALE)))
        self.c_embedding = nn.Parameter(C_SPREAD * torch.randn(n_units, embedding))
        self.flow = transforms.conditional_spline_autoregressive(
            c_dim, embedding, hidden_dims=[width * c_dim], count_bins=bins
        )
        self.local = model.local_guide()

    def contexts(self, unit_ids: Tensor | None, **batch: Any) -> dist.Distribution:
        loc, log_scale, told = (lines(table, unit_ids) for table in (self.c_loc, self.c_log_scale, self.c_embedding))
        base = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
        affine = transforms.AffineTransform(loc, log_scale.exp(), event_dim=1)
        return dist.TransformedDistribution(base, [self.flow.condition(told), affine])


class AmortizedGuide(ContextGuide):
    """q(c_i | support rows of unit i) from a set encoder, and `RowGuide`: an unseen unit needs no optimisation.

    Departs from eq. 11, where q(c_i) is free. The batch must hold the support: ``batch.with_support(guide.support)``
    adds it (`fit` and the functions on a fit do it themselves).

    Args:
        model: SSMTL, MTL or MLVAE.
        support: Largest number of rows of a unit that the encoder reads.
        width: Number of hidden units of the encoder.
    """

    amortized = ("unit",)

    def __init__(self, model: ContextModel, support: int = 32, width: int = 64) -> None:
        super().__init__(model)
        self.support = support
        self.encoder = SetEncoder(model.inputs_dim + (model.y_dim + 1 if model.y_dim else 0), model.c_dim, width)
        with torch.no_grad():  # start as narrow as the paper's guide: a wide q(c) drowns the context's signal
            head = cast(nn.Linear, self.encoder.head.net[-1])
            head.bias[model.c_dim :].fill_(math.log(C_SCALE))
        self.local = model.local_guide()

    def contexts(
        self, unit_ids: Tensor | None, support_x: Tensor | None = None, support_y: Tensor | None = None,
        support_labelled: Tensor | None = None, support_mask: Tensor | None = None,
        support_x_seen: Tensor | None = None, support_y_seen: Tensor | None = None, **batch: Any,
    ) -> dist.Distribution:  # fmt: skip
        if support_x is None or support_mask is None:
            raise ValueError(
                "the amortised guide reads each unit's support rows; pass batch.with_support(guide.support)"
            )
        model = self.model
        held = support_mask[..., None].expand_as(support_x)  # the padding is no data, and has no logarithm
        held = held if support_x_seen is None else held & support_x_seen
        rows = model.inputs(model.filled(support_x, held), support_x_seen)
        if support_y is None or support_labelled is None or not model.y_dim:
            support_y, support_labelled = support_x[..., : model.y_dim], torch.zeros_like(support_mask)
        if model.y_dim:
            known = support_labelled[..., None]
            known = known if support_y_seen is None else known & support_y_seen
            y = support_y if model.y_warp is None else torch.where(known, support_y, model.y_warp(model.y_loc))
            share = known.to(support_x).mean(-1, keepdim=True)  # of a row's targets; 0 and 1 without gaps
            rows += [model.standardise_y(y) * known, share]
        loc, scale = self.encoder(torch.cat(rows, -1), support_mask, support_labelled)
        return dist.Normal(loc, scale).to_event(1)


def lines(table: Tensor, unit_ids: Tensor | None) -> Tensor:
    """Return the lines `unit_ids` (U,) of a table (M, ...), with a sparse gradient; the whole table for None."""
    return table if unit_ids is None else embedding(unit_ids, table, sparse=True)


def paper(model: ContextModel) -> nn.Module:
    """Make the paper's guide: `PaperGuide`, or `RowGuide` alone for a model without contexts."""
    return PaperGuide(model) if model.c_dim else RowGuide(model)


def normal(model: ContextModel) -> ComposedGuide:
    """Make an AutoNormal guide of the contexts, composed with the row guide; it starts like the paper's."""
    return auto(AutoNormal, init_loc_fn=near_zero, init_scale=C_SCALE)(model)


def near_zero(site: dict) -> Tensor:
    """Initial value of a context, as the paper's guide has it."""
    return C_SPREAD * torch.randn_like(site["fn"].sample().detach())


GUIDES: dict[str, Callable[..., nn.Module]] = {
    "paper": paper,
    "mvn": MVNGuide,
    "flow": FlowGuide,
    "delta": DeltaGuide,
    "amortized": AmortizedGuide,
    "normal": normal,
}
