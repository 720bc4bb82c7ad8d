"""Pareto k of a guide's importance weights, per plate position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.ops.stats import fit_generalized_pareto
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .batch import Batch
from .drawing import pair
from .fitting import Fit, Run, isolated

NOISE = 0.5  # k of the inner estimates alone, from which on k says nothing about the guide


def khat(
    fit: Fit, data: Batch | None = None, *, per: str | None = None, only: Any = None, draws: int = 200, inner: int = 10,
    seed: int = 0,
) -> pd.Series:  # fmt: skip
    """Pareto k of the importance weights p / q, one per plate position: is the guide wide enough, row by row?

    Below 0.5 good, up to 0.7 usable, above it the posterior reaches where the guide does not. Per row: the weights of
    the row's own latents given one draw of everything outside the rows. Per group: the weights of the group's
    latents, its rows' latents integrated out by `inner` importance samples each; never the joint over a group's rows,
    which fails for any guide once there are many rows.

    A group's sum of `inner` estimates is noisy where it has many rows. The same weights with the group's latents held
    fixed are that noise alone: where their k is above 0.5 the result is NaN, and `inner` must rise.

    Args:
        fit: The fit; its best restart.
        data: The training data, for a fit that was loaded.
        per: The row plate (default, where rows have latents) or a group.
        only: Names of the groups to look at, where all would take long; needs `per` to be a group.
        draws: Importance draws per position.
        inner: Draws of the rows' latents per draw of the groups'.
        seed: Of the draws.

    Returns:
        k by position, named by the plate's coordinates; -inf where the guide is exact and the weights have no tail,
        NaN where the inner estimates are too noisy to tell.

    Raises:
        ValueError: Data other than the training data, or none; an unknown plate; a guide that is joint over groups.
    """
    data = fit.train if data is None else data
    if data is None or data.sha256 != fit.data["sha256"]:
        raise ValueError("k-hat is about the data the guide was fitted to: pass the training data of this fit")
    per = per or fit.model.rows
    if per not in fit.model.plate_dims:
        raise ValueError(f"per: {per!r} is no plate of the model; plates are {sorted(fit.model.plate_dims)}")
    if draws < 25:
        raise ValueError(f"draws: {draws} weights have no tail to fit; use at least 25, better 200")
    with isolated(seed), torch.no_grad():
        batch = fit.prepare(data)
        names = batch.names(per)
        places = np.arange(len(names)) if only is None else pd.Index(names).get_indexer(pd.Index(only))
        if only is not None:
            if per == fit.model.rows or (places < 0).any():
                raise ValueError(f"only: {list(only)} are not all names of a group; per is {per!r}")
            batch = batch.take(np.flatnonzero(np.isin(batch[per].cpu().numpy(), places)))
        if per == fit.model.rows:
            values = _shapes(_row_weights(fit.best, batch, draws), places)
        else:
            values = _shapes(_group_weights(fit.best, batch, per, draws, inner, vary=True), places)
            noise = _shapes(_group_weights(fit.best, batch, per, draws, inner, vary=False), places)
            values = np.where(noise > NOISE, np.nan, values)
    return pd.Series(values, index=pd.Index(names[places], name=per), name="khat")


def pareto_k(log_weights: Tensor) -> float:
    """Shape of the generalised Pareto distribution fitted to the tail of importance weights, shape (S,).

    -inf where all weights agree: there is no tail.
    """
    n_tail = min(len(log_weights) // 5, int(3 * len(log_weights) ** 0.5))
    largest = log_weights.sort().values
    weights = (largest - largest[-1]).exp()
    excess = weights[-n_tail:] - weights[-n_tail - 1]
    if n_tail < 5 or float(excess[-1]) < 1e-9 * float(weights[-1]):
        return float("-inf")
    return float(fit_generalized_pareto(excess)[0])


def _shapes(log_weights: Tensor, places: np.ndarray) -> np.ndarray:
    return np.array([pareto_k(log_weights[:, i].double()) for i in places])


def _outside(trace: Trace, plates: set[str]) -> Trace:
    """The trace without the sites that lie along these plates: what stays fixed while they are drawn again."""
    kept = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and any(frame.name in plates for frame in site["cond_indep_stack"]):
            kept.remove_node(name)
    return kept


def _row_weights(run: Run, batch: Batch, draws: int) -> Tensor:
    """Log weights (S, N) of the rows' latents given one draw of everything else."""
    rows = run.model.rows
    fixed = _outside(poutine.trace(run.guide).get_trace(**run.model.arguments(batch)), {rows})
    return torch.stack([_log_weight(run, batch, fixed)[rows] for _ in range(draws)])


def _group_weights(run: Run, batch: Batch, per: str, draws: int, inner: int, vary: bool) -> Tensor:
    """Log weights (S, M) of the groups' latents, the rows' latents integrated out; `vary` draws the groups' anew."""
    rows = run.model.rows
    outer = poutine.trace(run.guide).get_trace(**run.model.arguments(batch))
    if any(s["infer"].get("is_auxiliary") and not s["cond_indep_stack"] for _, s in outer.iter_stochastic_nodes()):
        raise ValueError(f"per: this guide is joint over all {per}s, so that none has weights of its own")
    out = []
    for _ in range(draws):
        group_draw = pair(run.model, run.guide, batch, _outside(outer, {rows, per})).guide if vary else outer
        terms = [_log_weight(run, batch, _outside(group_draw, {rows})) for _ in range(inner)]
        total = terms[0].get(per, torch.zeros(batch.sizes[per], device=batch[per].device))
        by_row = torch.stack([term[rows] for term in terms]).logsumexp(0) - np.log(inner)
        out.append(total.double().index_add(0, batch[per], by_row.double()))
    return torch.stack(out)


def _log_weight(run: Run, batch: Batch, fixed: Trace) -> dict[str, Tensor]:
    drawn = pair(run.model, run.guide, batch, fixed)
    p, q = drawn.by_plate("model"), drawn.by_plate("guide")
    return {plate: term - q[plate] if plate in q else term for plate, term in p.items()}
