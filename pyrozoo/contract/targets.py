"""Clauses about targets: predictions against draws, densities against brute force, the order of names."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..criticism.importance import log_density
from ..criticism.predictive_density import log_predictive
from ..data.batch import Batch
from ..inference.copies import isolated, run_seed
from ..inference.fitted import Fit, Run, identity, prototype_of
from ..modeling.base import ZooModel
from ..modeling.enumeration import frames_of
from ..modeling.hidden import OBSERVED, UNOBSERVED, public_name
from ..posterior.drawing import draw
from ..posterior.predicting import predict_with_draws
from ..posterior.sites import is_factor
from .densities import EXACT, elbo_terms, latents_only, require
from .subject import Skipped, Subject

N_DRAWS = 25
FAR = 5.0  # standard errors; of some hundred predictions none is so far off by chance


def _as_fit(model: ZooModel, guide: Any, batch: Batch, label: str) -> Fit:
    run = Run(0, model, guide, pd.DataFrame(), "finished")
    return Fit([run], label, {}, identity(batch), prototype_of(batch, model), train=batch)


# -------------------------------------------------------------------- C20
def predicted_moments(subject: Subject) -> None:
    """C20: predictions are the moments of draws of the target given the inputs, within Monte Carlo error."""
    if hasattr(subject.parts.VARIANTS[subject.variant], "predict"):  # before it is built, which may take long
        raise Skipped("the model predicts by itself")
    with subject.built() as (model, guide, batch):
        if not model.targets:
            raise Skipped("the model has no target")
        fit, hidden = _as_fit(model, guide, batch, subject.guide), batch.hide()
        predicted = predict_with_draws(fit, batch, draws=N_DRAWS, seed=0, quantiles=(0.5,))[1]
        drawn = draw(fit, hidden, draws=N_DRAWS, seed=1).groups
        for target, own in predicted.items():
            held = {**drawn.get("posterior", {}), **drawn.get("posterior_predictive", {})}
            require(target in held, f"target {target!r}: no draws of it; see `draw`")
            values = torch.as_tensor(held[target][0]).double()
            values = values.reshape(N_DRAWS, batch.n_rows, -1)
            if own.values is None:
                classes = own.exact.shape[-1]
                values = torch.nn.functional.one_hot(values[..., 0].long(), classes).double()
                mean, variance = own.exact, own.exact * (1 - own.exact)
            else:
                mean, variance = own.exact[0], own.exact[1] - own.exact[0] ** 2
            error = (values.mean(0) - mean).abs()
            # Either is a mean over draws. The frequency of a rare class is not normal: a few draws more or less.
            rare = FAR / N_DRAWS if own.values is None else 0.0
            far = error > FAR * (2 * variance.clamp(min=0) / N_DRAWS).sqrt() + rare + EXACT
            if bool(far.any()):
                row = int(far.any(-1).nonzero()[0])
                raise AssertionError(
                    f"target {target!r}, row {row}: predicted {mean[row].tolist()}, but {N_DRAWS} draws have the mean "
                    f"{values[:, row].mean(0).tolist()}; does the model read a hidden target, or a "
                    "distribution state a wrong mean?"
                )


# -------------------------------------------------------------------- C21
def brute_force(subject: Subject) -> None:
    """C21: log densities of rows, of observed sites and of held-out targets are sums over the enumerated sites."""
    with subject.built() as (model, guide, batch):
        for name, site in _sites(poutine.trace(model).get_trace(**model.arguments(batch))):
            if name in model.enumerated and set(frames_of(site).values()) != {model.rows}:
                raise Skipped(f"{name!r} lies along plates inside the rows; see C14")
        fit = _as_fit(model, guide, batch, subject.guide)
        found = log_density(fit, batch, draws=1, progress=False).to_numpy()
        with isolated(0), torch.no_grad():
            drawn = poutine.trace(guide).get_trace(**model.arguments(batch))
            by_hand = _by_row(model, _evidence(model, drawn, batch)) - _guide_rows(model, drawn)
        _require_equal("log_density", found, by_hand)
        _check_likelihoods(fit, batch)
        if hasattr(model, "predict"):
            return
        for target in model.targets:
            if target in batch.labels and batch.observed(target).any():
                _check_held_out(fit, batch, target)


def _check_likelihoods(fit: Fit, batch: Batch) -> None:
    """Compare the log likelihood of each observed site along the rows with a sum over the enumerated sites."""
    model, guide = fit.model, fit.guide
    found = draw(fit, batch, draws=1, seed=0, predictive=False).groups.get("log_likelihood", {})
    with isolated(run_seed(0, 0)), torch.no_grad():
        drawn = poutine.trace(guide).get_trace(**model.arguments(batch))
        weights, terms = [], defaultdict(list)
        for values, sites in _assigned(model, drawn, batch):
            given = [site for name, site in sites.items() if name in values or is_factor(site)]
            weights.append(sum((_row_term(model, site, batch.n_rows) for site in given), torch.zeros(batch.n_rows)))
            for name in found:
                site = sites.get(name + OBSERVED, sites.get(name))
                if site is not None:
                    terms[name].append(_by_position(model, site, batch.n_rows))
        for name, term in terms.items():
            share = torch.stack(weights).log_softmax(0)
            by_hand = (
                (torch.stack(term) + share.reshape(*share.shape, *(1,) * (term[0].dim() - 1))).logsumexp(0).flatten()
            )
            own = found[name][0, 0].reshape(-1)
            _require_equal(f"log_likelihood of {name!r}", np.where(np.isnan(own), by_hand, own), by_hand)


def _check_held_out(fit: Fit, batch: Batch, target: str) -> None:
    model, guide, seen = fit.model, fit.guide, batch.observed(target)
    found = log_predictive(fit, batch, target, draws=1).to_numpy()
    alone = batch
    for other in set(batch.labels) - {target}:
        alone = alone.relabel(np.zeros(batch.n_rows, bool), other)
    with isolated(0), torch.no_grad():
        drawn = poutine.trace(guide).get_trace(**model.arguments(batch.hide()))
        if target + UNOBSERVED in drawn.nodes or target in drawn.nodes:
            return  # the guide's own prediction
        given = _evidence(model, drawn, batch.hide(), without=model.targets)
        if target in model.enumerated:
            truth = alone[target].to(torch.double).reshape(-1)
            together = torch.stack([
                torch.where(values[target] == truth, term, -torch.inf) for values, term in zip(*given, strict=True)
            ])  # fmt: skip
        else:
            others = tuple(name for name in model.targets if name != target)
            with_truth = _evidence(model, drawn, alone, without=others, only=target)
            together = torch.stack(given[1]) + torch.stack(with_truth[1])
        by_hand = together.logsumexp(0) - torch.stack(given[1]).logsumexp(0)
    _require_equal(f"log_predictive of {target!r}", found, by_hand[torch.as_tensor(seen)])


def _require_equal(what: str, found: np.ndarray, by_hand: Tensor) -> None:
    for row, (own, other) in enumerate(zip(found.tolist(), by_hand.tolist(), strict=True)):
        same = own == other or math.isclose(own, other, rel_tol=EXACT, abs_tol=EXACT)
        require(same, f"{what}, row {row}: {own:.12g}, value by value {other:.12g}")


def _sites(trace: Trace) -> Iterator[tuple[str, dict]]:
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic"):
            yield name, site


def _evidence(
    model: ZooModel, drawn: Trace, batch: Batch, without: tuple[str, ...] = (), only: str | None = None
) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Every value of the enumerated sites, and with it the log density of the sites along the rows, each (N,).

    Args:
        model: The model.
        drawn: Trace of the guide, whose values the latents have.
        batch: The data.
        without: Observed targets to leave out.
        only: The only site to count.
    """
    chosen, terms = [], []
    for values, sites in _assigned(model, drawn, batch):
        total = torch.zeros(batch.n_rows, dtype=torch.double)
        for name, site in sites.items():
            public = public_name(name)
            if (public in without and name not in values) or only not in (None, public):
                continue
            total = total + _row_term(model, site, batch.n_rows)
        chosen.append({n: v.reshape(-1) for n, v in values.items()})
        terms.append(total)
    return chosen, terms


def _assigned(model: ZooModel, drawn: Trace, batch: Batch) -> Iterator[tuple[dict[str, Tensor], dict[str, dict]]]:
    """Every value of the enumerated sites, and with it the sites along the rows, the latents held at those drawn."""
    arguments = model.arguments(batch)
    fixed = {name: site["value"] for name, site in latents_only(drawn).nodes.items()}
    plain = poutine.trace(poutine.condition(model, data=fixed)).get_trace(**arguments)
    supports = {n: plain.nodes[n]["fn"].enumerate_support(expand=False).reshape(-1) for n in model.enumerated}
    for values in itertools.product(*supports.values()):
        own = {n: torch.full_like(plain.nodes[n]["value"], float(v)) for n, v in zip(supports, values, strict=True)}
        trace = poutine.trace(poutine.condition(model, data={**fixed, **own})).get_trace(**arguments)
        yield own, {name: site for name, site in _sites(trace) if model.rows in frames_of(site).values()}


def _row_term(model: ZooModel, site: Mapping[str, Any], n: int) -> Tensor:
    """Log density of a site at each row, summed over plates inside the rows."""
    return _by_position(model, site, n).reshape(n, -1).sum(1)


def _by_position(model: ZooModel, site: Mapping[str, Any], n: int) -> Tensor:
    """Log density of a site at each row and each position of plates inside the rows, (N, ...)."""
    dim = next(dim for dim, plate in frames_of(site).items() if plate == model.rows)
    density = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"]).double()
    sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    shape = [sizes.get(d, 1) if d != dim else n for d in range(dim, 0)]
    return density.expand(shape)


def _by_row(model: ZooModel, evidence: tuple[list[dict[str, Tensor]], list[Tensor]]) -> Tensor:
    return torch.stack(evidence[1]).logsumexp(0)


def _guide_rows(model: ZooModel, drawn: Trace) -> Tensor | float:
    """Log density of the guide's latents along the rows, without its factors."""
    total: Tensor | float = 0.0
    for _, site in _sites(drawn):
        if model.rows in frames_of(site).values() and not site["is_observed"]:
            total = total + _row_term(model, site, len(drawn.nodes[model.rows]["value"]))
    return total


# -------------------------------------------------------------------- C22
def order_of_names(subject: Subject) -> None:
    """C22: a batch whose names come in another order has the same terms of the loss."""
    with subject.built() as (model, guide, batch):
        terms = []
        for data in (batch, _reversed(batch)):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                terms.append(elbo_terms(model, guide, data))
    for name, term in terms[0].items():
        same = math.isclose(terms[1][name], term, rel_tol=EXACT, abs_tol=EXACT)
        require(
            same, f"the order of names changes {name} from {term:.12g} to {terms[1][name]:.12g}; take tensors, masks "
            "and targets by their names, such as `<target>_labelled`",
        )  # fmt: skip


def _reversed(batch: Batch) -> Batch:
    parts = ("tensors", "along", "labels", "sizes", "coords", "dims")
    changed: dict[str, Any] = {part: dict(reversed(getattr(batch, part).items())) for part in parts}
    return dataclasses.replace(batch, **changed)
