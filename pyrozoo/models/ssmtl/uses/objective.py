"""The objective of each unit, the networks given: log density of its rows, and the alpha term."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Normal
from torch import Tensor

from ....data.batch import Batch
from ....inference.fitted import Run
from ....inference.losses import NonFiniteLoss
from ....modeling.enumeration import COPIES
from ....modeling.guides import declared
from ....posterior.traces import Pair

ROWS_AT_ONCE = 8192  # larger pieces fall out of the cache


def row_terms(run: Run, batch: Batch, c: Tensor) -> tuple[Tensor, Tensor]:
    """Log p - log q of every row, (S, N), and its alpha term, (S, N), given contexts c (S, M, K).

    Each row's latents are drawn once. The exponential of the first result is an unbiased estimate of p(x, y | c), or of
    p(x | c) for a row without a label, so that the first result itself estimates the log from below.
    """
    arguments, local = run.model.arguments(batch), declared(run.guide, "local")
    model = poutine.condition(run.model, data={"c": c})
    with pyro.plate(COPIES, len(c), dim=-2):
        latents = poutine.trace(local or _nothing).get_trace(**arguments, c=c)
        joint = poutine.trace(poutine.replay(model, trace=latents)).get_trace(**arguments)
    drawn = Pair(latents, joint, nesting=2, rows=run.model.rows, draws=len(c))
    rows = drawn.by_plate("model")["row"] - drawn.by_plate("guide").get("row", 0.0)
    if "y_head" not in latents.nodes:
        return rows, torch.zeros_like(rows)
    factor = latents.nodes["y_head"]
    return rows, -factor["fn"].log_prob(factor["value"])  # a factor of the guide enters the objective with a minus sign


def _nothing(**_: Any) -> None:
    """Stand in for the row guide if rows have no latents."""


def by_unit(rows: Tensor, batch: Batch) -> Tensor:
    """Sum over the rows of each unit: (S, N) to (S, M)."""
    out = torch.zeros(len(rows), batch.sizes["unit"], dtype=torch.double, device=rows.device)
    return out.index_add_(1, batch["unit"], rows.double())


def pieces(c: Tensor, batch: Batch) -> Iterator[Tensor]:
    """Split draws c (S, M, K) into pieces of about `ROWS_AT_ONCE` rows x draws."""
    return iter(c.split(max(1, ROWS_AT_ONCE // batch.n_rows)))


def unit_objective(run: Run, batch: Batch, loc: Tensor, log_scale: Tensor, draws: int) -> Tensor:
    """Objective of each unit, (M,), in nats, for q(c) = N(loc, exp(log_scale)^2), with the same noise in every call."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(run.seed)
        noise = torch.randn(draws, 1, loc.shape[-1]).to(loc)
        q = Normal(loc, log_scale.exp()).to_event(1)
        c = loc + log_scale.exp() * noise
        outer = run.model.prior("c").log_prob(c) - q.log_prob(c)
        rows = [by_unit(torch.add(*row_terms(run, batch, part)), batch) for part in pieces(c, batch)]
        return (outer.double() + torch.cat(rows)).mean(0)


def require_finite(objective: Tensor, batch: Batch) -> Tensor:
    """Return the objective of each unit, (M,); raise an error that names the units where it is not finite."""
    bad = ~torch.isfinite(objective)
    if bool(bad.any()):
        names = batch.names("unit")[bad.cpu().numpy()].tolist()
        raise NonFiniteLoss(f"the objective of unit(s) {names[:5]} is not finite; try a smaller learning rate")
    return objective
