"""Clauses about sites: what model and guides sample, along which plates, from which priors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch.distributions import biject_to

from ..data.batch import Batch
from ..inference.losses import Loss
from ..modeling import priors as prior_tools
from ..modeling.base import ZooModel
from ..modeling.enumeration import density_sites
from ..modeling.guides import auto, outer_sites
from ..modeling.registry import Site
from ..posterior.sites import plates_of
from .densities import EXACT, latents, latents_only, log_densities, require
from .describing import trace_of, traced_sites
from .subject import Subject, guides_of, other_prior, other_priors, swappable


# -------------------------------------------------------------------- C2
def card_facts(subject: Subject) -> None:
    """C2: sites, plates, dims, kinds, priors, version and the keys of every table on the card are those of the code."""
    card, parts = subject.card, subject.parts
    for facts in ("variants", "guides", "datasets", "experiments"):
        named, own = set(getattr(card, facts)), set(getattr(parts, facts.upper(), {}))
        require(named == own, f"card.{facts} has {sorted(named)}, {facts.upper()} has {sorted(own)}; make them equal")
    described, variants = sorted(card.sites), sorted(card.variants)
    same = not described or described == variants
    require(same, f"card.sites has {described}, the variants are {variants}; leave it out, or name all")
    with subject.built() as (model, _, batch):
        require(model.version == card.version, f"version {card.version!r} on the card, {model.version!r} in the class")
        trace = trace_of(model, model, batch)
        found = traced_sites(model, trace)
        if card.sites:
            _check_sites(card.sites[subject.variant], found, model)
        # Plates inside the rows may be the model's own, opened with pyro.plate at the size of what a row holds.
        plates = {plate for site in found.values() for plate in site.plates if model.rows not in site.plates}
        plates |= {plate for plate in batch.sizes for site in found.values() if plate in site.plates}
        require(plates <= set(model.plate_dims), f"plate_dims lacks {sorted(plates - set(model.plate_dims))}")
        for name in model.row_sites:
            on_rows = name in trace.nodes and model.rows in plates_of(trace.nodes[name])
            require(on_rows, f"row_sites names {name!r}, which is no site on the row plate")
        for what in ("targets", "enumerated"):
            missing = set(getattr(model, what)) - set(found)
            none = "; a model that predicts nothing has targets = ()" if what == "targets" else ""
            require(not missing, f"{what} names {sorted(missing)}, which the model does not sample{none}")


def _check_sites(said: Mapping[str, Site], found: Mapping[str, Site], model: ZooModel) -> None:
    require(set(said) == set(found), f"card.sites names {sorted(said)}, the model samples {sorted(found)}")
    for name, site in found.items():
        for fact in ("kind", "plates", "dims"):
            on_card, traced = getattr(said[name], fact), getattr(site, fact)
            require(on_card == traced, f"site {name!r}: {fact} is {on_card} on the card and {traced} in the trace")
        _check_prior(model, name, said[name])


def _check_prior(model: ZooModel, name: str, said: Site) -> None:
    default = model.priors().get(name)
    if default is None:
        return
    require(said.prior, f"site {name!r}: the model has a prior and the card names none")
    try:
        with_text = prior_tools.parse(said.prior)
    except ValueError:
        return  # a prior with arrays or parents is described in words
    require(isinstance(default, dist.Distribution), f"site {name!r}: the card says {said.prior}, the prior has parents")
    assert isinstance(default, dist.Distribution)
    on_card = prior_tools.fit_to_site(with_text, name, default)
    value = default.sample((5,))
    same = torch.allclose(on_card.log_prob(value), default.log_prob(value), rtol=EXACT)
    require(same, f"site {name!r}: the card says {said.prior}, which is not the default prior {default}")


# -------------------------------------------------------------------- C3
def guide_sites(subject: Subject) -> None:
    """C3: the guide samples exactly the latents that are not enumerated, on the same supports."""
    with subject.built() as (model, guide, batch):
        sampled = {n: s for n, s in density_sites(trace_of(guide, model, batch)).items() if not s["is_observed"]}
        needed = latents(model, batch)
        missing, extra = set(needed) - set(sampled), set(sampled) - set(needed)
        require(not missing, f"the guide does not sample {sorted(missing)}")
        require(not extra, f"the guide samples {sorted(extra)}, no latent of the model")
        for name, site in needed.items():
            _check_support(name, site, sampled[name])
        value = Loss(model, guide, model.elbo()).value(batch)  # validates shapes, supports and plates
        require(math.isfinite(value), f"the loss of the tiny data is {value}")


def _check_support(name: str, site: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    both = "site {!r}: {} {} in the model, {} in the guide".format
    for what, fact in (("plates", plates_of), ("shape", lambda node: tuple(node["value"].shape))):
        require(fact(site) == fact(own), both(name, what, fact(site), fact(own)))
    support, guide_support = site["fn"].support, own["fn"].support
    if isinstance(own["fn"], dist.Delta):  # of an AutoGuide, which has transformed the value already
        require(support.check(own["value"]).all(), f"site {name!r}: a value of the guide is outside {support}")
    elif support.is_discrete or guide_support.is_discrete:
        require(str(support) == str(guide_support), both(name, "support", support, guide_support))
    else:
        for source, target in ((guide_support, support), (support, guide_support)):
            transform = biject_to(source)
            wide = transform(3.0 * torch.randn(transform.inverse_shape(own["value"].shape)))
            require(target.check(wide).all(), both(name, "support", support, guide_support))


# -------------------------------------------------------------------- C6
AUTOS = (autoguide.AutoNormal, autoguide.AutoDelta, autoguide.AutoDiagonalNormal, autoguide.AutoMultivariateNormal)


def plate_indices(subject: Subject) -> None:
    """C6: a minibatch's indices reach the plates of the model and of every guide, in the order given."""
    autos = AUTOS if outer_sites(subject.model()) else ()  # else they have nothing to cover
    for guide in [*guides_of(subject.card, subject.variant), *autos]:
        given = guide if isinstance(guide, str) else auto(guide)
        with subject.built(guide=given) as (model, module, batch):
            if not isinstance(guide, str) and model.row_sites and model.local_guide() is None:
                continue  # an AutoGuide must be composed with a guide of the rows
            part = batch.take(torch.arange(batch.n_rows).flip(0)[: max(2, batch.n_rows // 2)])
            guide_trace = trace_of(module, model, part)
            model_trace = trace_of(poutine.replay(model, trace=guide_trace), model, part)
            label = guide if isinstance(guide, str) else guide.__name__
            for what, trace in (("model", model_trace), (f"guide {label!r}", guide_trace)):
                _check_plates(what, trace, model, part)


def _check_plates(what: str, trace: Trace, model: ZooModel, part: Batch) -> None:
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or not site_is_subsample(node):
            continue
        if name not in model.plate_dims:
            whole = name not in part.sizes and len(node["value"]) == node["fn"].size
            require(whole, f"{what} opens plate {name!r}; plate_dims has {sorted(model.plate_dims)}")
            continue
        expected = part[name] if name == model.rows else torch.arange(part.sizes[name])
        same = torch.equal(torch.as_tensor(node["value"]), expected)
        require(same, f"{what}: plate {name!r} runs over other indices than the batch's; open it with model.plate(...)")
        size = node["fn"].size
        require(size == part.sizes[name], f"{what}: plate {name!r} has size {size}, the data have {part.sizes[name]}")


# -------------------------------------------------------------------- C12
def prior_swaps(subject: Subject) -> None:
    """C12: a prior given by name changes that site's log probability and no other; a wrong one raises."""
    with subject.built() as (model, guide, batch):
        drawn = latents_only(trace_of(guide, model, batch))
        first = trace_of(poutine.replay(model, trace=drawn), model, batch)
        before, drawn = log_densities(first), latents_only(first)  # with values of the enumerated sites
        for site, prior in other_priors(model).items():
            swapped = subject.model(priors={site: prior}).eval()
            swapped.load_state_dict(model.state_dict(), strict=False)  # a default prior may have parameters of its own
            after = log_densities(trace_of(poutine.replay(swapped, trace=drawn), swapped, batch))
            changed = {name for name in before if after[name] != before[name]}
            require(changed == {site}, f"a prior given for {site!r} changes the log probability of {sorted(changed)}")
        _check_wrong_priors(subject, model)


def _check_wrong_priors(subject: Subject, model: ZooModel) -> None:
    _raises(KeyError, "an unknown site", subject, "no such site", dist.Normal(0.0, 1.0))
    for site in swappable(model):
        default = model.priors()[site]
        if not isinstance(default, dist.Distribution):
            continue
        fitting: dist.Distribution = other_prior(default) or default
        wide = fitting.expand((2, 7)).to_event(2)
        _raises(ValueError, f"a wrong event shape for {site!r}", subject, site, wide)
        real = default.support.check(default.sample() * 0 - 1.0).all()
        other = dist.Exponential(1.0) if real else dist.Normal(0.0, 1.0)
        _raises(ValueError, f"a wrong support for {site!r}", subject, site, other)


def _raises(error: type[Exception], what: str, subject: Subject, site: str, prior: Any) -> None:
    try:
        subject.model(priors={site: prior})
    except error:
        return
    raise AssertionError(f"{what} raises no {error.__name__}; the constructor should call self.set_priors(priors)")
