"""Importance weights of a guide: Pareto k per plate position, and the log density of rows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor
from tqdm.auto import tqdm

from ..data.batch import Batch, require_batch
from ..inference.copies import isolated
from ..inference.fitted import Fit, Run
from ..posterior.many import chunks, pairs, within
from ..posterior.new_groups import ready
from ..posterior.sites import plates_of, squeezed
from ..posterior.traces import Pair, outside, pair

ROUNDING = 1e-5
GLOBAL = "global"  # judges all latents together
BAD = 0.7  # k above which weights are not to be trusted
NOISE = 0.5  # largest k of the inner estimates alone at which k still says something about the guide


def khat(
    fit: Fit, data: Batch | None = None, *, per: str | None = None, only: Any = None, draws: int = 200, inner: int = 10,
    seed: int = 0,
) -> pd.Series:  # fmt: skip
    """Pareto k of the importance weights p / q, one per plate position: is the guide wide enough, row by row?

    Below 0.5 is good, up to 0.7 usable; above 0.7 the posterior has mass where the guide has almost none. Per row:
    the weights of the row's own latents, given one draw of everything outside the rows. Per group: the weights of the
    group's latents, with its rows' latents integrated out by `inner` importance samples each; never the joint weights
    over a group's rows, which fail for any guide if there are many rows.

    For a group with many rows, the sum of its rows' estimates is noisy. The same weights with the group's latents held
    fixed show this noise alone: if their k is above 0.5, the result is NaN; then use a larger `inner`.

    Args:
        fit: The fit; its best restart is checked.
        data: The training data; needed for a fit that was loaded, which does not hold them.
        per: Name of the row plate, of a group, or "global": one k of all latents together (NaN if the guide is a
            point), for a model that samples none along the rows. By default the row plate if the guide samples latents
            along it, else "global". Enumerated latents are summed out, and are no reason to look at the rows.
        only: Names of the rows or groups to look at, to save time; all by default. `per` says which.
        draws: Number of importance draws per position, at least 25.
        inner: Number of draws of the rows' latents per draw of the groups'.
        seed: Random seed for the draws.

    Returns:
        k by position, indexed by the plate's coordinates; -inf where the guide is exact and the weights have no tail;
        NaN where the inner estimates are too noisy, or where the guide holds a group's latents at a point, so that
        the weights say nothing. ``attrs`` holds what was judged: ``per``, and ``latents``, the names of the sites.

    Raises:
        ValueError: Data other than the training data, or none; an unknown plate, or one without sampled latents; too
            few draws; names in `only` that `per` lacks; a guide that is joint over groups; groups whose latents are
            parents of other groups' own.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=10, n_unlabelled=0)
        >>> fit = zoo.fit(zoo.create_model("ssmtl", train, width=16), "paper", train, steps=20, progress=False)
        >>> k = zoo.khat(fit, draws=50)
        >>> k.shape  # one k per row
        (40,)
        >>> k.attrs
        {'per': 'row', 'latents': ('y_unobserved', 'z')}
        >>> bool((k < 0.7).mean() > 0.5)  # the guide is wide enough for most rows
        True
        >>> zoo.khat(fit, per="unit", only=[0, 2], draws=25).index.to_list()
        [0, 2]
    """
    data = training_data(fit, data, "k-hat is about the data the guide was fitted to")
    if per not in (None, GLOBAL, *fit.model.plate_dims):
        raise ValueError(f"per: {per!r} is no plate of the model; plates are {sorted(fit.model.plate_dims)}")
    if draws < 25:
        raise ValueError(f"draws: {draws} weights have no tail to fit; use at least 25, better 200")
    if fit.model.cut:
        warnings.warn(
            f"the posterior of {type(fit.model).__name__} is cut: {fit.model.cut}. The log joint, by which k-hat (and "
            "MCMC) judge, is not, so that a large k does not say that the guide is wrong",
            stacklevel=2,
        )
    with isolated(seed), torch.no_grad():
        batch = fit.prepare(data)
        per, judged = _judged(fit.best, batch, per)
        if per == GLOBAL:
            k = np.nan if is_point(fit.best, batch) else pareto_k(_global_weights(fit.best, batch, draws))
            return _named(pd.Series([k], pd.Index(["all latents"], name="latents"), name="khat"), per, judged)
        names = batch.names(per)
        places = np.arange(len(names)) if only is None else pd.Index(names).get_indexer(pd.Index(only))
        if only is not None:
            if (places < 0).any():
                unknown = [name for name, place in zip(only, places, strict=True) if place < 0]
                raise ValueError(f"only: {unknown[:5]} are no names of a {per}")
            rows = batch[per].cpu().numpy() if per != fit.model.rows else np.arange(batch.n_rows)
            batch = batch.take(np.flatnonzero(np.isin(rows, places)))
        if per == fit.model.rows:  # of the rows taken, in the order of the data
            held = places if only is None else np.searchsorted(np.unique(places), places)
            values = shapes(row_weights(fit.best, batch, draws), held)
        else:
            values = shapes(_group_weights(fit.best, batch, per, draws, inner, vary=True), places)
            noise = shapes(_group_weights(fit.best, batch, per, draws, inner, vary=False), places)
            untold = (noise > NOISE) | _at_a_point(fit.best, batch, per)[places]
            values = np.where(untold, np.nan, values)
    return _named(pd.Series(values, index=pd.Index(names[places], name=per), name="khat"), per, judged)


def log_density(
    fit: Fit, batch: Batch, *, draws: int = 100, seed: int = 0, batch_size: int = 4096, progress: bool = True
) -> pd.Series:
    """Log density of each row's observed values, given what the fit learned about the row's group; in nats.

    ::

        log 1/S sum_s p(row, latents_s | globals_s) / q(latents_s | row, globals_s),   globals_s ~ q,

    for the inputs and the observed targets; hide the targets (``batch.hide()``) for the inputs alone. Enumerated
    latents are summed out. The expected value is a lower bound, which rises to the log density under q(globals) as S
    grows (importance weighted autoencoders, Burda et al. 2016, eq. 8); with an exact guide it is exact for any S.
    Densities depend on the units of measure: compare rows and fits, not data in other units.

    Training rows have shaped q(globals), and so have the rows here if an amortised guide reads a new group from them:
    such rows look more probable than new rows of the same group.

    Args:
        fit: The fit; its best restart is used.
        batch: Rows; a group that the training data lack has latents from its prior, see `predict`.
        draws: Number S of importance draws per row.
        seed: Random seed for the draws.
        batch_size: Number of rows at once, which bounds the memory. Another value changes the result only as another
            seed does.
        progress: Whether to show a progress bar.

    Returns:
        One value per row, indexed by row name.

    Raises:
        ValueError: `draws` or `batch_size` below 1.
        KeyError: A group was not in the training data, and the guide is not amortised over it.

    Example:
        Which rows are unusual?

        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> density = zoo.log_density(fit, data.hide(), draws=20, progress=False)
        >>> density.shape
        (231,)
        >>> unusual = density[density < density.quantile(0.05)]
        >>> len(unusual)
        12
    """
    require_batch("batch", batch)
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

    For each block of B rows, `reduce` gets an iterator over parts of S draws: pairs of traces and log weights (S, B),
    and returns (B, ...). A log weight is log p - log q of the row's own terms, given the draw of everything outside the
    rows; in double precision.

    Raises:
        ValueError: `draws` or `batch_size` below 1.
    """
    for name, value in (("draws", draws), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: {value}; at least 1 is needed")
    parts = []
    with isolated(seed), torch.no_grad():
        run, data = ready(fit, batch)
        with tqdm(total=draws * data.n_rows, desc=desc, disable=desc is None, unit="draw") as bar:
            for rows in torch.arange(data.n_rows).split(batch_size):
                parts.append(reduce(_weighted_draws(run, data.take(rows), draws, bar)))
    return torch.cat(parts)


def _weighted_draws(run: Run, part: Batch, draws: int, bar: tqdm) -> Iterator[tuple[Pair, Tensor]]:
    rows = run.model.rows
    for drawn in pairs(run.model, run.guide, part, draws):
        p, q = drawn.by_plate("model")[rows], drawn.by_plate("guide").get(rows)
        bar.update(part.n_rows * drawn.draws)
        yield drawn, (p if q is None else p - q).double()


def _log_sum(terms: Iterator[tuple[Pair, Tensor]]) -> Tensor:
    """Log of the summed weights, one part of the draws in memory at a time."""
    return functools.reduce(torch.logaddexp, (log_weight.logsumexp(0) for _, log_weight in terms))


def pareto_k(log_weights: Tensor) -> float:
    """Shape of the generalised Pareto distribution fitted to the tail of importance weights, shape (S,).

    -inf if all weights are equal, so that there is no tail; inf if fewer than five weights of the tail stand out.
    """
    n_tail = min(len(log_weights) // 5, int(3 * len(log_weights) ** 0.5))
    largest = log_weights.sort().values
    weights = (largest - largest[-1]).exp()
    excess = weights[-n_tail:] - weights[-n_tail - 1]
    # A tail thinner than the single-precision error of log densities is rounding. The fit divides by a quartile.
    if n_tail < 5 or float(excess[-1]) < ROUNDING * float(weights[-1]):
        return float("-inf")
    excess = excess[excess > 0]
    return float(fit_generalized_pareto(excess)[0]) if len(excess) >= 5 else float("inf")


def training_data(fit: Fit, data: Batch | None, why: str) -> Batch:
    """The training data, as given or as the fit holds them.

    Raises:
        ValueError: Other data, or none.
    """
    data = fit.train if data is None else data
    if data is None or data.sha256 != fit.data["sha256"]:
        raise ValueError(f"{why}: pass the training data of this fit")
    return data


def shapes(log_weights: Tensor, places: np.ndarray) -> np.ndarray:
    """Pareto k of log weights (S, N) at some positions."""
    return np.array([pareto_k(log_weights[:, i].double()) for i in places])


def _judged(run: Run, batch: Batch, per: str | None) -> tuple[str, tuple[str, ...]]:
    """Plate whose positions are judged, or "global", and the sites of the guide that `khat` then judges."""
    rows = run.model.rows
    sites = dict(pair(run.model, run.guide, batch).sites("guide"))
    latents = [name for name, site in sites.items() if not site["infer"].get("is_auxiliary")] or list(sites)
    plates = {name: plates_of(sites[name]) for name in latents}
    in_rows = [name for name, own in plates.items() if rows in own]
    if per is None:
        per = rows if in_rows else GLOBAL
    if per == rows and not in_rows:
        raise ValueError(
            f"per: the guide samples no latent along the {rows}s, so that their weights are all equal whatever the "
            f"guide; its latents are {sorted(plates)}: use per='global' or the group that they lie along"
        )
    if per == GLOBAL and in_rows:
        raise ValueError(
            f"per: the guide samples {sorted(in_rows)} along the {rows}s, and joint weights over many {rows}s have a "
            f"heavy tail with any guide; use per={rows!r} or a group"
        )
    return per, tuple(latents) if per == GLOBAL else tuple(name for name, own in plates.items() if per in own)


def _named(k: pd.Series, per: str, latents: tuple[str, ...]) -> pd.Series:
    k.attrs = {"per": per, "latents": latents}
    return k


def is_point(run: Run, batch: Batch) -> bool:
    """Whether two draws of all latents agree."""
    first, second = (dict(pair(run.model, run.guide, batch).sites("guide")) for _ in range(2))
    return all(torch.equal(site["value"], second[name]["value"]) for name, site in first.items())


def _global_weights(run: Run, batch: Batch, draws: int) -> Tensor:
    """Log weights (S,) of all latents together."""
    return torch.cat(
        [drawn.total("model") - drawn.total("guide") for drawn in pairs(run.model, run.guide, batch, draws)]
    )


def row_weights(run: Run, batch: Batch, draws: int) -> Tensor:
    """Log weights (S, N) of the rows' latents given one draw of everything else."""
    rows = run.model.rows
    fixed = outside(poutine.trace(run.guide).get_trace(**run.model.arguments(batch)), {rows})
    return torch.cat([log_weights(part)[rows] for part in pairs(run.model, run.guide, batch, draws, fixed=fixed)])


def _group_weights(run: Run, batch: Batch, per: str, draws: int, inner: int, vary: bool) -> Tensor:
    """Log weights (S, M) of the groups' latents, the rows' latents integrated out; `vary`: redraw the former."""
    rows = run.model.rows
    outer = poutine.trace(run.guide).get_trace(**run.model.arguments(batch))
    if any(s["infer"].get("is_auxiliary") and not s["cond_indep_stack"] for _, s in outer.iter_stochastic_nodes()):
        raise ValueError(f"per: this guide is joint over all {per}s, so that none has weights of its own")
    out: list[Tensor] = []
    first: dict[str, Tensor] | None = None
    fixed = outside(outer, {rows, per}) if vary else outer
    whole = chunks(draws * inner, batch)[0]  # draws of the rows at once, `inner` for each draw of the groups
    at_once = max(1, whole // inner) * batch.n_rows
    for group_draws in pairs(run.model, run.guide, batch, draws, fixed=fixed, at_once=at_once):
        terms = [log_weights(part) for part in within(group_draws, run.model, run.guide, batch, inner, {rows})]
        others = {plate: term for plate, term in terms[0].items() if plate not in (rows, per)}
        first = first or {plate: term[:1] for plate, term in others.items()}
        if any(not torch.allclose(term, first[plate]) for plate, term in others.items()):
            raise ValueError(
                f"per: densities outside the {per}s depend on the {per}s' latents, and k would leave them out"
            )
        n = group_draws.draws
        by_row = torch.cat([term[rows] for term in terms]).reshape(n, inner, -1).logsumexp(1) - np.log(inner)
        own = terms[0][per][:: inner if n > 1 else 1][:n] if per in terms[0] else by_row.new_zeros(n, batch.sizes[per])
        out.append(own.double().index_add(1, batch[per], by_row.double()))
    return torch.cat(out)


def _at_a_point(run: Run, batch: Batch, per: str) -> np.ndarray:
    """Whether two draws of the groups' latents agree, by group, (M,)."""
    moved = torch.zeros(batch.sizes[per], dtype=torch.bool, device=batch[per].device)
    first, second = (poutine.trace(run.guide).get_trace(**run.model.arguments(batch)) for _ in range(2))
    for name, site in first.iter_stochastic_nodes():
        if plates_of(site) == (per,):
            differs = squeezed(site["value"], site) != squeezed(second.nodes[name]["value"], site)
            moved |= differs.reshape(len(moved), -1).any(1)
    return (~moved).cpu().numpy()


def log_weights(drawn: Pair) -> dict[str, Tensor]:
    """Log weights by plate, (draws, plate), of the sites of the guide that are not fixed."""
    p, q = drawn.by_plate("model"), drawn.by_plate("guide")
    return {plate: (term - q[plate] if plate in q else term).reshape(drawn.draws, -1) for plate, term in p.items()}
