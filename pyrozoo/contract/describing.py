"""What a model samples, read from its trace: the facts that a card states, or leaves to the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace

from ..modeling import priors as prior_tools
from ..modeling.base import ZooModel
from ..modeling.enumeration import density_sites
from ..modeling.registry import Site
from ..posterior.sites import plates_of

HALVES = ("_observed", "_unobserved")


def trace_of(function: Any, model: ZooModel, batch: Mapping[str, Any]) -> Trace:
    """Trace of the model or of its guide on a batch, without gradients."""
    with torch.no_grad():
        return poutine.trace(function).get_trace(**model.arguments(batch))


def traced_sites(model: ZooModel, trace: Trace) -> dict[str, Site]:
    """Sites as a card describes them; the two halves of an obs_mask site are one partly observed site.

    Args:
        model: The model.
        trace: Trace of the model.

    Raises:
        ValueError: ``model.dims`` does not name the event dimensions of a site.
    """
    found = {}
    for name, site in density_sites(trace).items():
        halved = [name.removesuffix(half) for half in HALVES if name.endswith(half)]
        public = halved[0] if halved and halved[0] in trace.nodes else name
        masked = site["mask"] is not None and not torch.as_tensor(site["mask"]).all()
        kind = "observed" if site["is_observed"] else "latent"
        if public != name or (site["is_observed"] and masked):
            kind = "partly observed"
        if name in model.enumerated:
            kind = "enumerated"
        dims = tuple(model.dims.get(public, ()))
        event_dim = site["fn"].event_dim
        if len(dims) != event_dim:
            raise ValueError(f"site {name!r} has {event_dim} event dimension(s), model.dims names {dims}")
        found[public] = Site(kind, plates_of(site), dims, _prior_text(model, public, site["fn"]))
    for name, site in trace.nodes.items():
        if name not in found and site["type"] == "sample" and site["infer"].get("_deterministic"):
            found[name] = Site("deterministic", plates_of(site), tuple(model.dims.get(name, ())))
    return found


def _prior_text(model: ZooModel, name: str, fn: Any) -> str:
    """Default prior of a site as text: ``Normal(0, 1)``, ``Normal given m, s``, or the family where it has arrays."""
    prior = model.priors().get(name)
    if prior is None:
        return ""
    if not isinstance(prior, dist.Distribution):
        return f"{_family(fn)} given {', '.join(inspect.signature(prior).parameters)}"
    described = prior_tools.to_json(prior)
    if not described:  # of parameters that learn, or of other distributions
        return _family(prior)
    values = list(described["arguments"].values())
    if not all(isinstance(value, int | float) for value in values):
        return f"{_family(prior)} with arrays"
    return f"{described['name']}({', '.join(f'{value:g}' for value in values)})"


def _family(fn: Any) -> str:
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return type(fn).__name__
