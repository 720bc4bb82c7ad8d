"""Clauses about densities: gradients, minibatches, enumeration, the golden log joint.

All run in double precision, so that only rounding has to be tolerated.
"""

from __future__ import annotations

import inspect
import itertools
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from ..data.batch import Batch
from ..data.build import mask_alias
from ..inference.copies import default_dtype, isolated
from ..inference.losses import Loss
from ..inference.minibatches import can_take_present, rows_per_group, sample_minibatches
from ..modeling.base import ZooModel
from ..modeling.enumeration import density_sites
from ..modeling.guides import with_support
from .describing import trace_of
from .subject import Skipped, Subject

EXACT = 1e-9  # relative; sums of some hundred terms in double precision round at 1e-13
MOST_ASSIGNMENTS = 4096


# -------------------------------------------------------------------- traces
def latents(model: ZooModel, batch: Mapping[str, Any]) -> dict[str, dict]:
    """Sites that a guide must sample."""
    sites = density_sites(trace_of(model, model, batch))
    return {name: site for name, site in sites.items() if not site["is_observed"] and name not in model.enumerated}


def require(condition: Any, message: str) -> None:
    """Raise AssertionError with `message` unless the condition holds, also under ``python -O``."""
    if not bool(condition):
        raise AssertionError(message)


# -------------------------------------------------------------------- C4
def gradients(subject: Subject) -> None:
    """C4: no parameter of model or guide is unused, and no gradient is non-finite."""
    with subject.built() as (model, guide, batch):
        loss = Loss(model, guide, model.elbo())
        # With a swapped prior, parameters of the default prior are rightly unused.
        checked = {n: p for n, p in loss.named_parameters() if not (subject.swapped and n.startswith("model."))}
        reached = dict.fromkeys(checked, False)
        for _ in range(3):  # a rectified unit can be inactive in one draw
            loss.zero_grad(set_to_none=True)
            if checked:
                loss(batch).backward()
            for name, parameter in checked.items():
                gradient = parameter.grad
                require(gradient is not None, f"{name}: no gradient; use the parameter or remove it")
                assert gradient is not None
                require(torch.isfinite(gradient).all(), f"{name}: its gradient is not finite on the tiny data")
                reached[name] |= bool(gradient.any())
        dead = sorted(name for name, seen in reached.items() if not seen)
        require(not dead, f"the gradient of {dead} is exactly zero; the loss does not depend on it")


# -------------------------------------------------------------------- C5
def unbiased_minibatches(subject: Subject) -> None:
    """C5: with draws replayed, minibatches weighted by their share sum to the full batch, site by site."""
    with subject.built() as (model, guide, batch):
        sizes = [max(1, batch.n_rows // 3), math.ceil(batch.n_rows * 0.6)]  # the last batch of the second is ragged
        for size in dict.fromkeys(sizes):
            _compare(model, guide, batch, size, f"minibatches of {size} of {batch.n_rows} rows")
        if not batch.strata or "weight" not in inspect.signature(model.forward).parameters:
            return
        even = [rows[: len(rows) // 2 * 2] for rows in batch.strata.values()]
        if not all(map(len, even)):
            return
        part = rows_of(batch, torch.cat(even).sort().values)
        equal = {stratum: len(rows) // 2 for stratum, rows in part.strata.items()}
        _compare(model, guide, part, equal, f"minibatches of {equal} rows")
        first = {stratum: None if i == 0 else size for i, (stratum, size) in enumerate(equal.items())}
        _compare(model, guide, part, first, f"minibatches of {first} rows")


def _compare(model: ZooModel, guide: Any, batch: Batch, size: Any, what: str) -> None:
    """Compare minibatches with all groups and, if the pair accepts them, those with only the groups of their rows."""
    _compare_sums(model, guide, batch, size, None, what)
    if can_take_present(model, guide, batch):
        counts = rows_per_group(batch, size)
        _compare_sums(model, guide, batch, size, counts, f"{what} with the groups present")


def _compare_sums(
    model: ZooModel, guide: Any, batch: Batch, size: Any, group_rows: Mapping[str, Tensor] | None, what: str
) -> None:
    drawn = without_points(trace_of(guide, model, batch))
    full = elbo_terms(model, poutine.replay(guide, trace=latents_only(drawn)), batch)
    parts = list(sample_minibatches(batch, size, torch.Generator().manual_seed(0), group_rows))
    total: dict[str, float] = defaultdict(float)
    for part in parts:
        # Strata are cut into equal parts, where every minibatch has the same share.
        share = 1 / len(parts) if isinstance(size, Mapping) else part.n_rows / batch.n_rows
        held = {model.rows: part[model.rows], **{group: part[f"{group}_ids"] for group in group_rows or {}}}
        fixed = latents_only(drawn, held)
        for name, term in elbo_terms(model, poutine.replay(guide, trace=fixed), part).items():
            total[name] += share * term
    require(set(total) == set(full), f"{what}: sites {sorted(set(total) ^ set(full))} are in one and not in the other")
    for name, term in full.items():
        same = math.isclose(total[name], term, rel_tol=EXACT, abs_tol=EXACT)
        require(
            same, f"{what}: {name} sums to {total[name]:.12g}, on the full batch it is {term:.12g}; open the row plate "
            "with self.plate(...), outside it use no quantity that depends on which rows are in the minibatch",
        )  # fmt: skip


def elbo_terms(model: ZooModel, guide: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """Terms of the ELBO per site; for an enumerated model, whose sites do not separate, per part."""
    guide_trace = trace_of(guide, model, batch)
    terms = {f"guide site {n!r}": t for n, t in log_densities(guide_trace).items()}
    if model.enumerated:
        return {**terms, "the ELBO": -Loss(model, guide, model.elbo()).value(batch)}
    model_trace = trace_of(poutine.replay(model, trace=guide_trace), model, batch)
    return {**terms, **{f"model site {n!r}": t for n, t in log_densities(model_trace).items()}}


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """A data set of the given rows that keeps all groups and their tables, because the guide was made for them."""
    part = batch.subset(rows)
    for group in batch.groups:
        tables = {k: v for k, v in batch.tensors.items() if batch.along[k] == group}
        part = part.align(group, batch.coords[group]).with_tables(group, tables)
    return part


def log_densities(trace: Trace) -> dict[str, float]:
    """Summed log density of every site, including factors, scaled as in the ELBO."""
    with torch.no_grad():
        trace.compute_log_prob()
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}
    return {name: float(site["log_prob_sum"]) for name, site in sites.items()}


def without_points(trace: Trace) -> Trace:
    """Drop Delta sites: their log density becomes -inf when a minibatch rounds differently."""
    kept = trace.copy()
    for name, site in trace.nodes.items():
        base = site.get("fn")
        while isinstance(base, torch.distributions.Independent):
            base = base.base_dist
        if site["type"] == "sample" and isinstance(base, dist.Delta) and not site["is_observed"]:
            kept.remove_node(name)
    return kept


def latents_only(trace: Trace, held: Mapping[str, Tensor] | None = None) -> Trace:
    """The unobserved sites of a trace; sites along a plate in `held` are restricted to the positions given there."""
    fixed = Trace()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or site["is_observed"]:
            continue
        value = site["value"]
        for frame in site["cond_indep_stack"]:
            if held is not None and frame.name in held:
                value = value.index_select(frame.dim - site["fn"].event_dim, held[frame.name])
        fixed.add_node(name, **{**site, "value": value})
    return fixed


# -------------------------------------------------------------------- C14
def enumeration(subject: Subject) -> None:
    """C14: the enumerated ELBO is the log-sum-exp over all assignments; the entry's own decoding equals brute force."""
    with subject.built() as (model, guide, batch):
        exact = getattr(subject.parts, "EXACT", {}).get(subject.variant)
        first = subject.leads and not subject.swapped  # an entry's algorithms know neither guide nor prior
        if exact is not None and first:
            for seed in range(3):
                _check_exact(exact(seed))
        if not model.enumerated:
            if exact is None or not first:
                raise Skipped("nothing is enumerated" + ("; see the first guide for decoding" if exact else ""))
            return
        # Rows spread over the data, so that labelled and unlabelled ones are among them.
        part = rows_of(batch, torch.linspace(0, batch.n_rows - 1, min(4, batch.n_rows)).long())
        drawn = latents_only(trace_of(guide, model, part))
        replayed = poutine.replay(guide, trace=drawn)
        exact = -Loss(model, replayed, model.elbo()).value(part)
        joint = []
        for values in assignments(model, part):
            conditioned = poutine.condition(poutine.replay(model, trace=drawn), data=values)
            joint.append(sum(log_densities(trace_of(conditioned, model, part)).values()))
        by_hand = float(torch.tensor(joint).logsumexp(0)) - sum(log_densities(trace_of(replayed, model, part)).values())
        same = math.isclose(exact, by_hand, rel_tol=EXACT)
        require(same, f"the enumerated ELBO is {exact:.12g}, over {len(joint)} assignments one by one {by_hand:.12g}")


def _check_exact(pairs: Mapping[str, tuple[Any, Any]]) -> None:
    for what, (found, by_hand) in pairs.items():
        found, by_hand = torch.as_tensor(found, dtype=torch.double), torch.as_tensor(by_hand, dtype=torch.double)
        same = torch.allclose(found, by_hand, rtol=EXACT, atol=EXACT)
        require(same, f"{what}: {found.tolist()}, by brute force {by_hand.tolist()}")


def assignments(model: ZooModel, batch: Batch) -> Iterable[dict[str, Tensor]]:
    """Yield all joint values of the enumerated sites.

    Args:
        model: The model.
        batch: The data.

    Raises:
        Skipped: There are more than `MOST_ASSIGNMENTS`.
    """
    trace = trace_of(model, model, batch)
    sites = {name: trace.nodes[name] for name in model.enumerated}
    supports = {name: site["fn"].enumerate_support(expand=False).reshape(-1) for name, site in sites.items()}
    slots = [(name, i) for name, site in sites.items() for i in range(site["value"].numel())]
    total = math.prod(len(supports[name]) for name, _ in slots)
    if total > MOST_ASSIGNMENTS:
        raise Skipped(
            f"{total} assignments of the enumerated sites on {batch.n_rows} rows are too many to go through; make the "
            "entry's `tiny` smaller, such as 3 steps of 2 states"
        )
    for values in itertools.product(*(supports[name].tolist() for name, _ in slots)):
        out = {name: site["value"].clone().reshape(-1) for name, site in sites.items()}
        for (name, i), value in zip(slots, values, strict=True):
            out[name][i] = value
        yield {name: value.reshape(sites[name]["value"].shape) for name, value in out.items()}


# -------------------------------------------------------------------- C19
def hidden_labels(subject: Subject) -> None:
    """C19: with labels hidden in further rows, the ELBO does not depend on what these rows hold."""
    with subject.built() as (model, guide, batch):
        if not batch.labels:
            raise Skipped("no target of the tiny data has a mask; give labels={target: mask} to have this checked")
        for target, mask in batch.labels.items():
            every_other = batch[mask].cumsum(0) % 2 == 0
            hidden = with_support(guide, batch.relabel(every_other, target))
            told = hidden.with_tensors({target: batch[target]})
            drawn = latents_only(without_points(trace_of(guide, model, hidden)))
            terms, others = (elbo_terms(model, poutine.replay(guide, trace=drawn), part) for part in (hidden, told))
            for name, term in terms.items():
                same = math.isclose(others[name], term, rel_tol=EXACT, abs_tol=EXACT)
                require(
                    same, f"{name} depends on the values of {target!r} in rows where it is hidden, which hold 0: a fit "
                    f"would train on these; mask the site by {mask_alias(target)!r} (poutine.mask, .mask or obs_mask)",
                )  # fmt: skip


# -------------------------------------------------------------------- C16
def golden(subject: Subject) -> None:
    """C16: the log joint density, at parameters and latents set by a formula, is the one on the card."""
    value = golden_log_joint(subject)
    said = subject.card.golden.get(subject.variant)
    require(said is not None, f"the card has no golden value; add golden={{{subject.variant!r}: {value!r}}}")
    assert said is not None
    same = math.isclose(said, value, rel_tol=EXACT)
    require(
        same, f"the log density changed: {value!r}, the card has {said!r}. If that is meant: the new value, and of "
        'an entry that others use a new version in card and model, and a line "Log density changed" in the change log',
    )  # fmt: skip


def golden_log_joint(subject: Subject) -> float:
    """Log joint density of the tiny data at parameters and latents that depend on no random number generator."""
    with default_dtype(torch.float64), isolated(0), torch.no_grad():
        model, batch = subject.model(), subject.data()
        for name, parameter in model.named_parameters():
            parameter.copy_(_waves(parameter.shape, name))
        model.eval()
        fixed = {}
        for name, site in latents(model, batch).items():
            if site["fn"].support.is_discrete:
                fixed[name] = torch.zeros_like(site["value"])
                continue
            transform = biject_to(site["fn"].support)
            fixed[name] = transform(_waves(transform.inverse_shape(site["value"].shape), name))
        conditioned = poutine.condition(model, data=fixed)

        def nothing(**_: Any) -> None:
            """Guide of a model without free latents: the enumerated ones are summed out."""

        return -float(model.elbo().loss(conditioned, nothing, **model.arguments(batch)))


def _waves(shape: Iterable[int], name: str) -> Tensor:
    shape, phase = torch.Size(shape), zlib.crc32(name.encode()) % 1000  # independent of other names
    return (0.1 * torch.sin(torch.arange(shape.numel(), dtype=torch.float64) + phase)).reshape(shape)
