"""Traces of a guide and of the model replayed on it, and access to their sites."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import infer_discrete
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..data.batch import Batch
from ..modeling.base import ZooModel

OBSERVED, UNOBSERVED = "_observed", "_unobserved"
AT_ONCE = 20_000  # largest number of rows times draws in memory, for rows of at most ROW_NUMBERS numbers
ROW_NUMBERS = 1_000


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

    def sum_out(self, log_density: Tensor) -> Tensor:
        """Log-sum-exp over the enumeration dimensions, i.e. all dimensions left of those of the plates."""
        while log_density.dim() > self.nesting:
            log_density = log_density.logsumexp(0)
        return log_density

    def by_plate(self, part: str) -> dict[str, Tensor]:
        """Summed log densities of "guide" or "model" per plate (``""``: outside all), one entry per plate position.

        Sites of a plate inside the row plate (the steps of a row) count with their row. Enumerated latents are summed
        out; they must lie along the rows, so that the marginal factorises.
        """
        total: dict[str, Tensor] = {}
        places: dict[str, int] = {}
        for _, site in self.sites(part):
            frames, term = frames_of(site), self.log_density(site)
            plate = self.rows if self.rows in frames.values() else plate_of(site)
            if not plate:
                total[""] = total[""] + term.sum() if "" in total else term.sum()
                continue
            places[plate] = next(dim for dim, name in frames.items() if name == plate)
            for dim in frames:
                if dim > places[plate]:
                    term = term.sum(dim, keepdim=True)
            total[plate] = total[plate] + term if plate in total else term
        out = {plate: self.sum_out(term) if plate else term for plate, term in total.items()}
        return {k: v.reshape(v.shape[: v.dim() + places[k] + 1]) if k else v for k, v in out.items()}

    def log_likelihood(self) -> dict[str, Tensor]:
        """Log density of every observed site per position, given the guide's latents, enumerated ones summed out.

        Factors that weight the values of enumerated sites are conditioned on: for a row whose class is labelled, it is
        the density given that class.
        """
        sites = [(name, site, self.log_density(site)) for name, site in self.sites("model")]
        weights = [d for _, s, d in sites if is_enumerated(s) or (is_factor(s) and d.dim() > self.nesting)]
        weights.append(torch.zeros((), device=sites[0][2].device))
        total = self.sum_out(cast(Tensor, sum(weights)))
        return {
            name: self.sum_out(sum(weights, density)) - total
            for name, site, density in sites
            if site["is_observed"] and not is_factor(site)
        }

    def log_conditional(self, name: str, value: Tensor) -> Tensor:
        """Log probability that an enumerated site has this `value`, given the data and the guide's latents."""
        values, weights = self.model.nodes[name]["value"], self.log_weights()
        return self.sum_out(torch.where(values == value, weights, -torch.inf))

    def log_weights(self) -> Tensor:
        """Log probabilities of the values of the enumerated sites, given the data and the guide's latents.

        Their dimensions are left of those of the plates; 0 if nothing is enumerated. In double precision.

        Raises:
            ValueError: An enumerated site does not lie along the rows alone (`by_row`).
        """
        if not self.by_row:
            raise ValueError("an enumerated site does not lie along the rows, so that no row decides on it by itself")
        densities = [self.log_density(site).double() for _, site in self.sites("model")]
        joint = sum((d for d in densities if d.dim() > self.nesting), densities[0].new_zeros(()))
        return joint - self.sum_out(joint)

    @property
    def by_row(self) -> bool:
        """Whether every enumerated site lies along the rows, and along no other plate except `copies`."""
        own = [set(frames_of(site).values()) for _, site in self.sites("model") if is_enumerated(site)]
        return all(plates - {"copies"} == {self.rows} for plates in own)

    def target(self, name: str) -> dict:
        """The site that predicts a target: the guide's if the guide samples the target, else the model's.

        Raises:
            ValueError: The target is a function of other sites, which has no density of its own.
        """
        places = [(part, own) for part in (self.guide, self.model) for own in (name + UNOBSERVED, name)]
        site = next(part.nodes[own] for part, own in places if own in part.nodes)
        if site["infer"].get("_deterministic"):
            raise ValueError(f"{name!r} is a function of other sites and has no density of its own")
        return site


def pair(
    model: ZooModel, guide: Any, batch: Mapping[str, Any], fixed: Trace | None = None, copies: int | None = None,
    targets_only: bool = False,
) -> Pair:  # fmt: skip
    """Draw once from the guide and replay the model on it, enumerating what the model enumerates.

    Args:
        model: The model.
        guide: The guide.
        batch: Data.
        fixed: Guide trace whose values are kept (e.g. those of the globals); sites that it lacks are drawn.
        copies: Number of draws at once, along a dimension left of those of the plates; None for one draw without it.
        targets_only: Whether to leave out the sites that no target depends on, if the model can
            (`ZooModel.targets_alone`).
    """
    arguments = model.arguments(batch)
    source = guide if fixed is None else poutine.replay(guide, trace=fixed)
    nesting = model.max_plate_nesting
    many = contextlib.nullcontext()
    if copies is not None:
        nesting += 1
        many = pyro.plate("copies", copies, dim=-nesting)
    with many:
        guide_trace = poutine.trace(source).get_trace(**arguments)
    replayed = poutine.replay(model, trace=guide_trace)
    if model.enumerated:
        replayed = poutine.enum(replayed, first_available_dim=-1 - nesting)
    if targets_only:
        arguments |= model.targets_alone
    with many:
        return Pair(guide_trace, poutine.trace(replayed).get_trace(**arguments), nesting, model.rows)


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
    # Conditioned, not replayed: for a replayed site Pyro forgets on which enumerated sites its density depends.
    latents = {name: site["value"] for name, site in guide_trace.iter_stochastic_nodes() if not site_is_subsample(site)}
    conditioned = poutine.condition(model, data=latents)
    sampled = infer_discrete(conditioned, first_available_dim=-1 - model.max_plate_nesting, temperature=1)
    nodes = poutine.trace(sampled).get_trace(**arguments, **model.targets_alone).nodes
    return {name: nodes[name]["value"] for name in model.enumerated}


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


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site holds all values of its support, along a dimension of its own."""
    return site["infer"].get("_enumerate_dim") is not None


def is_discrete(site: Mapping[str, Any]) -> bool:
    """Whether a site has a discrete support."""
    return not site["value"].is_floating_point() or site["fn"].support.is_discrete


def public_name(name: str) -> str:
    """Name of a site without a suffix of ``obs_mask``, which splits ``y`` into ``y_observed`` and ``y_unobserved``."""
    return name.removesuffix(OBSERVED).removesuffix(UNOBSERVED)


def is_half(name: str, trace: Trace) -> bool:
    """True for y_observed and y_unobserved, the two sites Pyro makes of an obs_mask site y; only y is shown."""
    return name != public_name(name) and public_name(name) in trace.nodes


def frames_of(site: Mapping[str, Any]) -> dict[int, str]:
    """Dimension -> plate of a site."""
    return {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


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


def observed_values(site: Mapping[str, Any]) -> np.ndarray:
    """The data of a site, NaN where nothing was observed, including the padding of recordings of unequal lengths."""
    value, inner = site["value"], site["fn"]
    while not isinstance(inner, dist.MaskedDistribution) and hasattr(inner, "base_dist"):
        inner = inner.base_dist
    masks = [site["mask"], inner._mask if isinstance(inner, dist.MaskedDistribution) else None]
    if not value.is_floating_point() and not all(m is None or torch.as_tensor(m).all() for m in masks):
        value = value.to(torch.get_default_dtype())  # NaN is no integer
    if masks[1] is None and getattr(inner, "event_mask", None) is not None:  # a distribution of ragged sequences
        value = torch.where(inner.event_mask, value.to(torch.get_default_dtype()), torch.nan)
    if isinstance(masks[1], Tensor):
        seen = masks[1].expand(inner.batch_shape)
        value = torch.where(seen.reshape(seen.shape + (1,) * len(inner.event_shape)), value, torch.nan)
    return where_observed(site, squeezed(value, site)).cpu().numpy()


def where_observed(site: Mapping[str, Any], value: Tensor) -> Tensor:
    """NaN where a mask says that nothing was observed."""
    mask = site["mask"]
    if mask is None or not value.is_floating_point():
        return value
    mask = torch.as_tensor(mask)
    return torch.where(mask.reshape(mask.shape + (1,) * (value.dim() - mask.dim())), value, torch.nan)
