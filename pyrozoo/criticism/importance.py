"""Importance weights of a guide: Pareto k per plate position, and the log density of rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.ops.stats import fit_generalized_pareto
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from tqdm.auto import tqdm

from ..data.batch import Batch
from ..inference.copies import isolated
from ..inference.fitted import Fit, Run
from ..posterior.traces import Pair, chunks, outside, pair, plates_of, squeezed

ROUNDING = 1e-5
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
        per: The row plate (default, where rows have latents) or a group. Of a model all of whose latents lie outside
            the plates there is one k, of all of them together (NaN where the guide is a point).
        only: Names of the groups to look at, where all would take long; needs `per` to be a group.
        draws: Importance draws per position.
        inner: Draws of the rows' latents per draw of the groups'.
        seed: Of the draws.

    Returns:
        k by position, named by the plate's coordinates; -inf where the guide is exact and the weights have no tail,
        NaN where the inner estimates are too noisy to tell, or where the guide holds a group's latents at a point, of
        which weights say nothing.

    Raises:
        ValueError: Data other than the training data, or none; an unknown plate; a guide that is joint over groups;
            groups whose latents are parents of other groups'.
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
        if _only_globals(fit.best, batch):
            k = np.nan if _is_point(fit.best, batch) else pareto_k(_global_weights(fit.best, batch, draws))
            return pd.Series([k], index=pd.Index(["all latents"], name="latents"), name="khat")
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
            untold = (noise > NOISE) | _at_a_point(fit.best, batch, per)[places]
            values = np.where(untold, np.nan, values)
    return pd.Series(values, index=pd.Index(names[places], name=per), name="khat")


def log_density(
    fit: Fit, batch: Batch, *, draws: int = 100, seed: int = 0, batch_size: int = 4096, progress: bool = True
) -> pd.Series:
    """Log density of what each row shows, given what the fit learned about the row's group; nats.

    ::

        log 1/S sum_s p(row, latents_s | globals_s) / q(latents_s | row, globals_s),   globals_s ~ q,

    of the inputs and of the targets where they are observed; hide these (``batch.hide()``) for the inputs alone.
    Enumerated latents are summed out. It is a lower bound in the mean, which rises to the log density under
    q(globals) as draws grow (importance weighted autoencoders, Burda et al. 2016, eq. 8); exact at any number of draws
    where the guide is. Densities are those of the data's units: compare rows and fits, not data in other units.

    Rows that the fit was trained on shaped q(globals), and so did the rows here where an amortised guide reads a new
    group from them: such rows look more probable than new rows of the same group do.

    Args:
        fit: The fit; its best restart.
        batch: Rows of groups that the fit knows, or that its guide is amortised over.
        draws: S, importance draws per row.
        seed: Of the draws.
        batch_size: Rows at once; bounds the memory, and the values change with it only as with the seed.
        progress: Show a progress bar.

    Returns:
        One value per row, named by row.
    """
    index = pd.Index(batch.names(batch.rows), name=batch.rows)
    total = over_rows(
        fit, batch, _log_sum, draws=draws, seed=seed, batch_size=batch_size, desc="log density" if progress else None
    )
    return pd.Series(total.cpu().numpy() - np.log(draws), index, name="log density")


def over_rows(
    fit: Fit, batch: Batch, reduce: Callable[[Iterator[tuple[Pair, Tensor]]], Tensor], *, draws: int, seed: int,
    batch_size: int, desc: str | None,
) -> Tensor:  # fmt: skip
    """Reduce importance draws of the rows' latents, `batch_size` rows at a time; return the results end to end.

    `reduce` gets an iterator over the draws for B rows, of their traces and log weights (B,); it returns (B, ...).
    A log weight is p over q of the row's own terms, given the draw of everything outside the rows; in double precision.

    Raises:
        ValueError: `draws` or `batch_size` below 1.
    """
    for name, value in (("draws", draws), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: {value}; at least 1 is needed")
    parts = []
    with isolated(seed), torch.no_grad():
        data = fit.prepare(batch)
        with tqdm(total=draws * data.n_rows, desc=desc, disable=desc is None, unit="draw") as bar:
            for rows in torch.arange(data.n_rows).split(batch_size):
                parts.append(reduce(_weighted_draws(fit.best, data.take(rows), draws, bar)))
    return torch.cat(parts)


def _weighted_draws(run: Run, part: Batch, draws: int, bar: tqdm) -> Iterator[tuple[Pair, Tensor]]:
    rows = run.model.rows
    for _ in range(draws):
        drawn = pair(run.model, run.guide, part)
        p, q = drawn.by_plate("model")[rows], drawn.by_plate("guide").get(rows)
        bar.update(part.n_rows)
        yield drawn, (p if q is None else p - q).double().reshape(part.n_rows)


def _log_sum(terms: Iterator[tuple[Pair, Tensor]]) -> Tensor:
    """Log of the summed weights, one draw in memory at a time."""
    return functools.reduce(torch.logaddexp, (log_weight for _, log_weight in terms))


def pareto_k(log_weights: Tensor) -> float:
    """Shape of the generalised Pareto distribution fitted to the tail of importance weights, shape (S,).

    -inf where all weights agree: there is no tail; inf where a few of them are all there is.
    """
    n_tail = min(len(log_weights) // 5, int(3 * len(log_weights) ** 0.5))
    largest = log_weights.sort().values
    weights = (largest - largest[-1]).exp()
    excess = weights[-n_tail:] - weights[-n_tail - 1]
    # A tail thinner than what single precision leaves of log densities is rounding. The fit divides by a quartile.
    if n_tail < 5 or float(excess[-1]) < ROUNDING * float(weights[-1]):
        return float("-inf")
    excess = excess[excess > 0]
    return float(fit_generalized_pareto(excess)[0]) if len(excess) >= 5 else float("inf")


def _shapes(log_weights: Tensor, places: np.ndarray) -> np.ndarray:
    return np.array([pareto_k(log_weights[:, i].double()) for i in places])


def _only_globals(run: Run, batch: Batch) -> bool:
    """Whether no latent lies along a plate."""
    drawn = pair(run.model, run.guide, batch)
    return not run.model.enumerated and all(not plates_of(site) for _, site in drawn.sites("guide"))


def _is_point(run: Run, batch: Batch) -> bool:
    """Whether two draws of all latents agree."""
    first, second = (dict(pair(run.model, run.guide, batch).sites("guide")) for _ in range(2))
    return all(torch.equal(site["value"], second[name]["value"]) for name, site in first.items())


def _global_weights(run: Run, batch: Batch, draws: int) -> Tensor:
    """Log weights (S,) of all latents together."""
    out = []
    for _ in range(draws):
        drawn = pair(run.model, run.guide, batch)
        p, q = (sum(term.double().sum() for term in drawn.by_plate(part).values()) for part in ("model", "guide"))
        out.append(p - q)
    return torch.stack(out)


def _row_weights(run: Run, batch: Batch, draws: int) -> Tensor:
    """Log weights (S, N) of the rows' latents given one draw of everything else."""
    rows = run.model.rows
    fixed = outside(poutine.trace(run.guide).get_trace(**run.model.arguments(batch)), {rows})
    return torch.cat([_log_weights(run, batch, fixed, n)[rows] for n in chunks(draws, batch)])


def _group_weights(run: Run, batch: Batch, per: str, draws: int, inner: int, vary: bool) -> Tensor:
    """Log weights (S, M) of the groups' latents, the rows' latents integrated out; `vary` draws the groups' anew."""
    rows = run.model.rows
    outer = poutine.trace(run.guide).get_trace(**run.model.arguments(batch))
    if any(s["infer"].get("is_auxiliary") and not s["cond_indep_stack"] for _, s in outer.iter_stochastic_nodes()):
        raise ValueError(f"per: this guide is joint over all {per}s, so that none has weights of its own")
    out, first = [], None
    for _ in range(draws):
        group_draw = pair(run.model, run.guide, batch, outside(outer, {rows, per})).guide if vary else outer
        fixed = outside(group_draw, {rows})
        terms = [_log_weights(run, batch, fixed, n) for n in chunks(inner, batch)]
        others = {plate: term[:1] for plate, term in terms[0].items() if plate not in (rows, per)}
        first = first or others
        if any(not torch.allclose(term, first[plate]) for plate, term in others.items()):
            raise ValueError(
                f"per: densities outside the {per}s depend on the {per}s' latents, and k would leave them out"
            )
        total = terms[0][per][0] if per in terms[0] else torch.zeros(batch.sizes[per], device=batch[per].device)
        by_row = torch.cat([term[rows] for term in terms]).logsumexp(0) - np.log(inner)
        out.append(total.double().index_add(0, batch[per], by_row.double()))
    return torch.stack(out)


def _at_a_point(run: Run, batch: Batch, per: str) -> np.ndarray:
    """Whether two draws of the groups' latents agree, by group, (M,)."""
    moved = torch.zeros(batch.sizes[per], dtype=torch.bool, device=batch[per].device)
    first, second = (poutine.trace(run.guide).get_trace(**run.model.arguments(batch)) for _ in range(2))
    for name, site in first.iter_stochastic_nodes():
        if plates_of(site) == (per,):
            differs = squeezed(site["value"], site) != squeezed(second.nodes[name]["value"], site)
            moved |= differs.reshape(len(moved), -1).any(1)
    return (~moved).cpu().numpy()


def _log_weights(run: Run, batch: Batch, fixed: Trace, draws: int) -> dict[str, Tensor]:
    """Log weights (S, ...) by plate, of what is not fixed."""
    drawn = pair(run.model, run.guide, batch, fixed, copies=draws)
    p, q = drawn.by_plate("model"), drawn.by_plate("guide")
    weights = {plate: term - q[plate] if plate in q else term for plate, term in p.items()}
    return {k: w.reshape(-1, w.shape[-1] if w.dim() else 1).expand(draws, -1) for k, w in weights.items()}
