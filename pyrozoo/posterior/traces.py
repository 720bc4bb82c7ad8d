"""Traces of a guide and of the model replayed on it, and access to their sites."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import infer_discrete
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..data.batch import Batch
from ..modeling.base import ZooModel
from ..modeling.enumeration import COPIES, Factor, enumerated_plates, frames_of, is_enumerated, log_sum
from ..modeling.hidden import UNOBSERVED, public_name

AT_ONCE = 20_000  # largest number of rows times draws in memory, for rows of at most ROW_NUMBERS numbers
ROW_NUMBERS = 1_000
IMPOSSIBLE = -1e100  # a log density that stands for -inf where -inf has no derivative


@dataclass
class Pair:
    """A guide trace and the model replayed on it.

    Attributes:
        guide: Trace of the guide.
        model: Trace of the model. An enumerated site holds all values of its support, along a dimension left of those
            of the plates.
        nesting: Number of dimensions that plates use.
        rows: Name of the row plate.
    """

    guide: Trace
    model: Trace
    nesting: int
    rows: str = "row"

    def sites(self, part: str) -> Iterator[tuple[str, dict]]:
        """Sample sites of "guide" or "model" that have a density: no plates, no deterministic sites.

        A factor is part of the model's density (it may rule out classes of labelled rows). In a guide it is part of the
        objective only. Auxiliary latents of a guide (an AutoGuide's unconstrained values) carry its density.
        """
        for name, site in getattr(self, part).nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("_deterministic"):
                continue
            if part == "guide" and site["is_observed"]:
                continue
            yield name, site

    def log_density(self, site: Mapping[str, Any]) -> Tensor:
        """Pointwise log density of a site, with its mask (`unscaled_log_prob` has none), without subsampling scale."""
        return scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])

    def row_factors(self, part: str = "model") -> list[Factor]:
        """Log densities of all sites along the rows."""
        found = ((name, site) for name, site in self.sites(part) if self.rows in frames_of(site).values())
        return [Factor.of(name, site, self.log_density(site)) for name, site in found]

    def evidence(self, factors: list[Factor]) -> Tensor:
        """Log of the product of factors along the rows, enumerated sites summed out: (N,), or (copies, N)."""
        keep = frozenset({self.rows} | ({COPIES} & factors[0].plates))
        total = log_sum(factors, enumerated_plates(self.model), keep)
        return total.along((COPIES, self.rows) if COPIES in keep else (self.rows,))

    def by_plate(self, part: str) -> dict[str, Tensor]:
        """Summed log densities of "guide" or "model" per plate (``""``: outside all), one entry per plate position.

        Sites of a plate inside the row plate (the steps of a row) count with their row. Enumerated latents are summed
        out.
        """
        total: dict[str, Tensor] = {}
        places: dict[str, int] = {}
        for _, site in self.sites(part):
            plate = plate_of(site)
            if self.rows in frames_of(site).values():
                continue
            term = self.log_density(site)
            if plate:
                places[plate] = next(dim for dim, name in frames_of(site).items() if name == plate)
            else:
                term = term.sum()
            total[plate] = total[plate] + term if plate in total else term
        out = {k: v.reshape(v.shape[: v.dim() + places[k] + 1]) if k else v for k, v in total.items()}
        factors = self.row_factors(part)
        return out | ({self.rows: self.evidence(factors)} if factors else {})

    def log_likelihood(self) -> dict[str, Tensor]:
        """Log density of every observed site per position, given the guide's latents, enumerated ones summed out.

        Factors that weight the values of enumerated sites are conditioned on: for a row whose class is labelled, it is
        the density given that class.
        """
        sites = dict(self.sites("model"))
        enumerated = enumerated_plates(self.model)
        weights = [
            factor for factor in (self.row_factors() if enumerated else [])
            if is_enumerated(sites[factor.site])
            or (is_factor(sites[factor.site]) and any(axis in enumerated for axis in factor.axes))
        ]  # fmt: skip
        out = {}
        for name, site in sites.items():
            if site["is_observed"] and not is_factor(site):
                density = self.log_density(site)
                if density.dim() > self.nesting:
                    density = density + self.shares(site, weights).log().to(density)
                    density = density.logsumexp(tuple(range(density.dim() - self.nesting)))
                out[name] = density
        return out

    def shares(self, site: Mapping[str, Any], factors: list[Factor] | None = None) -> Tensor:
        """Probabilities of the values of the enumerated sites that a site along the rows depends on.

        They are the derivatives of the log evidence by the site's log density. Along the dimensions of that density, in
        double precision; 1 for a site that depends on no enumerated one.

        Args:
            site: The site.
            factors: What the probabilities are conditional on; by default all data, and the guide's latents.
        """
        shape = torch.broadcast_shapes(
            site["fn"].batch_shape, site["value"].shape[: site["value"].dim() - site["fn"].event_dim]
        )
        given = self.row_factors() if factors is None else factors
        with torch.enable_grad():
            zeros = torch.zeros(shape, dtype=torch.double, device=site["value"].device, requires_grad=True)
            own = Factor.of("", site, zeros)
            if not any(isinstance(axis, int) for axis in own.axes):
                return torch.ones_like(zeros)
            # Finite, because the derivative of a sum of nothing but -inf is NaN.
            total = self.evidence([*(f.to(torch.double, floor=IMPOSSIBLE) for f in given), own])
            return torch.autograd.grad(total.sum(), zeros)[0]

    def log_given(self, site: Mapping[str, Any], log_density: Tensor) -> Tensor:
        """Log of the mean of a density over the enumerated sites given the data, per row; in double precision.

        Args:
            site: The site of the model or the guide whose dimensions the density has.
            log_density: Its logarithm.
        """
        own = Factor.of("", site, log_density).to(torch.double)
        if not any(isinstance(axis, int) for axis in own.axes):
            return self.evidence([own])
        given = [factor.to(torch.double) for factor in self.row_factors()]
        return self.evidence([*given, own]) - self.evidence(given)

    def log_conditional(self, name: str, value: Tensor) -> Tensor:
        """Log probability per row that an enumerated site has this `value`, given the data and the guide's latents."""
        site = self.model.nodes[name]
        row = next(dim for dim, plate in frames_of(site).items() if plate == self.rows)
        same = site["value"] == value.reshape(value.shape + (1,) * (-1 - row) if value.dim() else ())
        return self.log_given(site, torch.where(same, 0.0, -torch.inf))

    def target(self, name: str) -> dict:
        """The site that predicts a target: the guide's if the guide samples the target, else the model's; unmasked.

        Raises:
            ValueError: The target is a function of other sites, which has no density of its own.
        """
        places = [(part, own) for part in (self.guide, self.model) for own in (name + UNOBSERVED, name)]
        site = next(part.nodes[own] for part, own in places if own in part.nodes)
        if site["infer"].get("_deterministic"):
            raise ValueError(f"{name!r} is a function of other sites and has no density of its own")
        return unmasked(site)


def pair(
    model: ZooModel, guide: Any, batch: Mapping[str, Any], fixed: Trace | None = None, copies: int | None = None,
    targets_only: bool = False, hidden: tuple[str, ...] = (),
) -> Pair:  # fmt: skip
    """Draw once from the guide and run the model given that draw, enumerating what the model enumerates.

    Args:
        model: The model.
        guide: The guide.
        batch: Data.
        fixed: Guide trace whose values are kept (e.g. those of the globals); sites that it lacks are drawn.
        copies: Number of draws at once, along a dimension left of those of the plates; None for one draw without it.
        targets_only: Whether to leave out the sites that no target depends on, if the model can
            (`ZooModel.targets_alone`).
        hidden: Targets whose data do not count: they are hidden, and a model without a mask would read them as zeros.
    """
    arguments = model.arguments(batch)
    source = guide if fixed is None else poutine.replay(guide, trace=fixed)
    nesting = model.max_plate_nesting
    many = contextlib.nullcontext()
    if copies is not None:
        nesting += 1
        many = pyro.plate(COPIES, copies, dim=-nesting)
    with many:
        guide_trace = poutine.trace(source).get_trace(**arguments)
    if targets_only:
        arguments |= model.targets_alone
    held = given(model, guide_trace)
    if model.enumerated:
        held = poutine.enum(held, first_available_dim=-1 - nesting)
    with many, _Hidden(hidden):
        trace = poutine.trace(held).get_trace(**arguments)
    for name in guide_trace.stochastic_nodes:
        if name in trace.nodes:
            trace.nodes[name]["is_observed"] = False
    return Pair(guide_trace, trace, nesting, model.rows)


class _Hidden(Messenger):
    """Mask the data of the named targets."""

    def __init__(self, targets: tuple[str, ...]) -> None:
        super().__init__()
        self.targets = targets

    def _pyro_sample(self, msg: dict) -> None:
        if msg["is_observed"] and public_name(msg["name"]) in self.targets and not msg["infer"].get("_deterministic"):
            msg["mask"] = False


def given(model: Any, guide_trace: Trace) -> Any:
    """The model with its latents held at the values of a guide trace.

    Conditioned, not replayed: for a replayed site Pyro forgets on which enumerated sites its density depends.
    """
    latents = {name: site["value"] for name, site in guide_trace.iter_stochastic_nodes() if not site_is_subsample(site)}
    return poutine.condition(model, data=latents)


def row_blocks(batch: Batch) -> Iterator[Batch]:
    """Yield the batch in blocks of rows small enough for memory; for computations that are independent per row."""
    size = max(1, AT_ONCE * ROW_NUMBERS // max(row_numbers(batch), ROW_NUMBERS))
    if size >= batch.n_rows:
        yield batch
        return
    for rows in torch.arange(batch.n_rows).split(size):
        yield batch.take(rows)


def row_numbers(batch: Batch) -> int:
    """Count of numbers in one row."""
    return sum(t[0].numel() for name, t in batch.tensors.items() if batch.along[name] == batch.rows)


def chunks(draws: int, batch: Batch, at_once: int | None = None) -> list[int]:
    """Split `draws` into parts, so that rows times draws in memory are bounded; return the size of each part.

    Args:
        draws: Total number of draws.
        batch: Data whose rows are drawn for.
        at_once: Largest number of rows times draws in memory; by default 20,000, or fewer if rows are long.
    """
    if at_once is None:
        at_once = AT_ONCE * ROW_NUMBERS // max(row_numbers(batch), ROW_NUMBERS)
    size = max(1, min(draws, at_once // batch.n_rows))
    return [min(size, draws - done) for done in range(0, draws, size)]


def outside(trace: Trace, plates: set[str]) -> Trace:
    """The trace without the sites along these plates: the part that stays fixed while those are drawn again."""
    kept = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and any(frame.name in plates for frame in site["cond_indep_stack"]):
            kept.remove_node(name)
    return kept


def enumerated_values(model: ZooModel, guide_trace: Trace, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Enumerated sites drawn from their conditional given the guide's latents and the data."""
    if not model.enumerated:
        return {}
    sampled = infer_discrete(given(model, guide_trace), first_available_dim=-1 - model.max_plate_nesting, temperature=1)
    nodes = poutine.trace(sampled).get_trace(**arguments, **model.targets_alone).nodes
    return {name: nodes[name]["value"] for name in model.enumerated if name in nodes}


def predictive_trace(
    model: ZooModel, guide_trace: Trace, arguments: Mapping[str, Any], enumerated: dict[str, Tensor]
) -> Trace:
    """Trace of the model given the latents of one draw, with the observed sites drawn anew."""
    free = poutine.condition(poutine.uncondition(model), data=enumerated)
    return poutine.trace(poutine.replay(free, trace=guide_trace)).get_trace(**arguments)


def model_trace(model: ZooModel, guide: Any, data: Mapping[str, Any]) -> Trace:
    """Trace of the model given one draw of the guide, with enumerated sites drawn from their conditional."""
    arguments = model.arguments(data)
    guide_trace = poutine.trace(guide).get_trace(**arguments)
    enumerated = enumerated_values(model, guide_trace, arguments)
    substituted = poutine.condition(model, data=enumerated)
    trace = poutine.trace(poutine.replay(substituted, trace=guide_trace)).get_trace(**arguments)
    for name in enumerated:
        trace.nodes[name]["is_observed"] = False
    return trace


# -------------------------------------------------------------------- sites
def named_sites(trace: Trace) -> Iterator[tuple[str, dict]]:
    """Sites that a user knows by name, with deterministic sites, without plates and factors."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("is_auxiliary"):
            yield name, site


def is_data(site: Mapping[str, Any]) -> bool:
    """Whether a site holds data: it is observed and not a plate, factor or deterministic site."""
    if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("is_auxiliary"):
        return False
    return site["is_observed"] and not site["infer"].get("_deterministic")


def is_factor(site: Mapping[str, Any]) -> bool:
    """Whether a site is a `pyro.factor`."""
    return site["is_observed"] and bool(site["infer"].get("is_auxiliary"))


def is_discrete(site: Mapping[str, Any]) -> bool:
    """Whether a site has a discrete support."""
    try:
        return not site["value"].is_floating_point() or site["fn"].support.is_discrete
    except NotImplementedError:
        return False


def class_support(site: Mapping[str, Any]) -> Tensor | None:
    """Values (K,) of a site whose values are classes; None for counts and numbers, also of several components.

    Raises:
        ValueError: A site of several classes at once, whose codes are no numbers.
    """
    fn = base = site["fn"]
    while isinstance(base, torch.distributions.Independent | dist.ExpandedDistribution):
        base = base.base_dist
    counts = hasattr(base, "total_count") or not base.has_enumerate_support or base.event_dim
    if counts or not is_discrete(site):
        return None
    if fn.event_shape.numel() == 1:
        return base.enumerate_support(expand=False).reshape(-1)
    if isinstance(base, torch.distributions.Categorical):
        raise ValueError(f"{site['name']}: it holds several classes at once; make each of them a target of its own")
    return None


def moments(fn: Any, value: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """First and second moments of a distribution, (2, *shape); of one draw, `value`, where it states none."""
    try:
        mean, square = fn.mean, fn.variance + fn.mean**2
    except NotImplementedError:
        mean, square = value.double(), value.double() ** 2
    return torch.stack([mean.expand(shape), square.expand(shape)])


def is_half(name: str, trace: Trace) -> bool:
    """True for y_observed and y_unobserved, the two sites Pyro makes of an obs_mask site y; only y is shown."""
    return name != public_name(name) and public_name(name) in trace.nodes


def plate_of(site: Mapping[str, Any]) -> str:
    """Name of the innermost plate of a site; "" if it is outside all plates."""
    frames = frames_of(site)
    return frames[max(frames)] if frames else ""


def plates_of(site: Mapping[str, Any]) -> tuple[str, ...]:
    """Plates of a site, outermost first."""
    return tuple(name for _, name in sorted(frames_of(site).items()))


def squeezed(value: Tensor, site: Mapping[str, Any], density: bool = False) -> Tensor:
    """Drop the singleton dimensions that belong to no plate of the site; a plate of size one stays."""
    frames, event = frames_of(site), site["fn"].event_dim
    n = (
        value.dim()
        if density
        else (-min(frames, default=0) if site["infer"].get("_deterministic") else value.dim() - event)
    )
    keep = [i for i in range(n) if i - n in frames]
    return value.reshape([value.shape[i] for i in keep] + list(value.shape[n:]))


def event_dims(model: ZooModel, name: str, site: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the event dimensions of a site: the model's, else ``<site>_dim_0``, ``<site>_dim_1``, ..."""
    n = squeezed(site["value"], site).dim() - len(frames_of(site))
    named = tuple(model.dims.get(public_name(name), ()))
    return named if len(named) == n else tuple(f"{public_name(name)}_dim_{i}" for i in range(n))


def unmasked(site: Mapping[str, Any]) -> dict:
    """The site with a distribution that has no mask: what it says of a value does not depend on which are observed."""
    return {**site, "fn": _without_mask(site["fn"])}


def _without_mask(fn: Any) -> Any:
    if isinstance(fn, dist.MaskedDistribution):
        return _without_mask(fn.base_dist)
    base = getattr(fn, "base_dist", None)
    bare = base if base is None else _without_mask(base)
    if bare is base:
        return fn
    fn = copy.copy(fn)
    fn.base_dist = bare
    return fn


def observed_values(site: Mapping[str, Any]) -> np.ndarray:
    """The data of a site, NaN where nothing was observed, including the padding of recordings of unequal lengths."""
    value, inner = site["value"], site["fn"]
    while hasattr(inner, "base_dist"):
        inner = inner.base_dist
    if getattr(inner, "event_mask", None) is not None:  # a distribution of ragged sequences
        value = torch.where(inner.event_mask, value.to(torch.get_default_dtype()), torch.nan)
    return where_observed(site, value).cpu().numpy()


def where_observed(site: Mapping[str, Any], value: Tensor, density: bool = False) -> Tensor:
    """The values of a site (or its log density), `squeezed`; NaN where a mask says that nothing was observed.

    A mask is around the site (``poutine.mask``) or in its distribution (``.mask``).
    """
    inner, event = site["fn"], site["fn"].event_dim
    while not isinstance(inner, dist.MaskedDistribution) and hasattr(inner, "base_dist"):
        inner = inner.base_dist
    masks = [] if site["mask"] is None else [torch.as_tensor(site["mask"], device=value.device)]
    masks = [mask.reshape(mask.shape + (1,) * (0 if density else event)) for mask in masks]
    if isinstance(inner, dist.MaskedDistribution) and isinstance(inner._mask, Tensor):
        mask = inner._mask.expand(inner.batch_shape)
        mask = mask.reshape(mask.shape + (1,) * len(inner.event_shape))
        masks.append(mask.flatten(mask.dim() - event).any(-1) if density and event else mask)
    for mask in masks:
        while mask.dim() > value.dim():  # the enumeration dimensions of what the site depends on
            mask = mask[0]
        if not mask.all():
            value = value if value.is_floating_point() else value.to(torch.get_default_dtype())  # NaN is no integer
            value = torch.where(mask, value, torch.nan)
    return squeezed(value, site, density)
