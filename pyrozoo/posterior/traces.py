"""Traces of a guide and of the model replayed on it, and access to their sites."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import infer_discrete
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..modeling.base import ZooModel
from ..modeling.enumeration import COPIES, Factor, enumerated_plates, frames_of, is_enumerated, log_sum
from ..modeling.hidden import UNOBSERVED, public_name
from .sites import along_copies, by_draw, is_factor, is_point, plate_of, unmasked

IMPOSSIBLE = -1e100  # a log density that stands for -inf where -inf has no derivative


class Copies(pyro.plate):
    """Plate of many draws at once, left of the model's own: what a point holds is the same in all, and not copied.

    Args:
        draws: Number of draws.
        dim: Dimension of the draws, counted from the right.
    """

    def __init__(self, draws: int, dim: int) -> None:
        super().__init__(COPIES, draws, dim=dim)

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and is_point(msg["fn"]):
            SubsampleMessenger._process_message(self, msg)
        else:
            super()._process_message(msg)


@dataclass
class Pair:
    """A guide trace and the model at its latents: of one draw, or of many along the plate `Copies`.

    What methods return has one entry per draw first, if only one.

    Attributes:
        guide: Trace of the guide.
        joint: Trace of the model, or a function that makes it, see `model`.
        nesting: Number of dimensions that plates use in the trace of the model.
        rows: Name of the row plate.
        draws: Number of draws. Where nothing is random, the traces hold one for all, without the plate.
        source: Model and its arguments, of a pair that `pair` made.
    """

    guide: Trace
    joint: Trace | Callable[[], Trace]
    nesting: int
    rows: str = "row"
    draws: int = 1
    source: tuple[ZooModel, Mapping[str, Any]] | None = None

    @functools.cached_property
    def model(self) -> Trace:
        """Trace of the model, made when it is first asked for.

        An enumerated site holds all values of its support, along a dimension left of those of the plates.
        """
        return self.joint() if callable(self.joint) else self.joint

    @property
    def random(self) -> bool:
        """Whether draws differ: some value of the guide lies along the plate of the draws."""
        return any(along_copies(site["value"], site, self.draws) for _, site in self.sites("guide"))

    @functools.cached_property
    def enumerated(self) -> dict[str, dict]:
        """Enumerated sites, drawn from their conditional given the guide's latents and the data."""
        assert self.source is not None
        model, arguments = self.source
        copies = (CondIndepStackFrame(COPIES, -1 - model.max_plate_nesting, self.draws, 0),) if self.draws > 1 else ()
        out = {}
        for name, site in enumerated_values(model, arguments, self.guide, self.draws).items():
            # infer_discrete drops the plates inside one along which it has multiplied.
            own = (frame for frame in self.model.nodes[name]["cond_indep_stack"] if frame.name != COPIES)
            out[name] = {**site, "cond_indep_stack": (*own, *copies)}
        return out

    def predictive(self, targets_only: bool = False, prior: bool = False) -> Trace:
        """Trace of the model given the latents, enumerated ones too, with the observed sites drawn anew.

        Args:
            targets_only: See `pair`.
            prior: Whether the model draws by itself what the guide does not, instead of given the data.
        """
        assert self.source is not None
        model, arguments = self.source
        alone = model.targets_alone if targets_only else {}
        values = {} if prior else {name: site["value"] for name, site in self.enumerated.items()}
        free = poutine.condition(poutine.uncondition(model), data=values)
        with _many(model, self.draws):
            return poutine.trace(poutine.replay(free, trace=self.guide)).get_trace(**{**arguments, **alone})

    def again(self, draws: int) -> Pair:
        """So many draws where nothing is random: the same traces, but sites to draw given them are drawn anew."""
        return dataclasses.replace(self, joint=lambda: self.model, draws=draws)

    def by_draw(self, site: Mapping[str, Any], value: Tensor | None = None, event: int | None = None) -> Tensor:
        """The value of a site, or one that lies along its plates, as (draws, plates..., event...); see `by_draw`."""
        return by_draw(site["value"] if value is None else value, site, self.draws, event)

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
        """Log of the product of factors along the rows, enumerated sites summed out: (draws, N)."""
        return self._evidence(factors).expand(self.draws, -1)

    def _evidence(self, factors: list[Factor]) -> Tensor:
        """As `evidence`; (1, N) where nothing is random."""
        keep = frozenset({self.rows} | ({COPIES} & factors[0].plates))
        return log_sum(factors, enumerated_plates(self.model), keep).along((COPIES, self.rows))

    def by_plate(self, part: str) -> dict[str, Tensor]:
        """Summed log densities of "guide" or "model": per plate (draws, plate), and outside all, ``""``, (draws,).

        Sites of a plate inside the row plate (the steps of a row) count with their row. Enumerated latents are summed
        out.
        """
        out: dict[str, Tensor] = {}
        for _, site in self.sites(part):
            if self.rows in frames_of(site).values():
                continue
            plate = plate_of(site)
            term = self.by_draw(site, self.log_density(site), 0)
            term = term if plate else term.reshape(self.draws)
            out[plate] = out[plate] + term if plate in out else term
        factors = self.row_factors(part)
        return out | ({self.rows: self.evidence(factors)} if factors else {})

    def total(self, part: str) -> Tensor:
        """Log density of "guide" or "model" in each draw, (draws,), in double precision."""
        out = torch.zeros(self.draws, dtype=torch.double)
        for term in self.by_plate(part).values():
            out = out + term.double().cpu().reshape(self.draws, -1).sum(1)
        return out

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
        shape = np.broadcast_shapes(  # that of torch imports SymPy, which takes a second
            site["fn"].batch_shape, site["value"].shape[: site["value"].dim() - site["fn"].event_dim]
        )
        given = self.row_factors() if factors is None else factors
        with torch.enable_grad():
            zeros = torch.zeros(shape, dtype=torch.double, device=site["value"].device, requires_grad=True)
            own = Factor.of("", site, zeros)
            if not any(isinstance(axis, int) for axis in own.axes):
                return torch.ones_like(zeros)
            # Finite, because the derivative of a sum of nothing but -inf is NaN.
            total = self._evidence([*(f.to(torch.double, floor=IMPOSSIBLE) for f in given), own])
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
    model: ZooModel, guide: Any, batch: Mapping[str, Any], fixed: Trace | None = None, draws: int = 1,
    targets_only: bool = False, hidden: tuple[str, ...] = (), apart: bool = False,
) -> Pair:  # fmt: skip
    """Draw from the guide, and run the model given these draws, enumerating what the model enumerates.

    Several draws are run at once, whether or not the model broadcasts, without a bound of memory: see `pairs`.

    Args:
        model: The model.
        guide: The guide.
        batch: Data.
        fixed: Guide trace whose values are kept (e.g. those of the globals), of one draw or as many; sites that it
            lacks are drawn.
        draws: Number of draws; several lie along a dimension left of those of the plates.
        targets_only: Whether to leave out the sites that no target depends on, if the model can
            (`ZooModel.targets_alone`).
        hidden: Targets whose data do not count: they are hidden, and a model without a mask would read them as zeros.
        apart: Whether the trace of the model has all draws even where nothing is random, and they are equal.
    """
    arguments = model.arguments(batch)
    source = guide if fixed is None else poutine.replay(guide, trace=fixed)
    with _many(model, draws):
        guide_trace = poutine.trace(source).get_trace(**arguments)
    out = Pair(guide_trace, Trace(), model.max_plate_nesting, model.rows, draws, (model, arguments))
    plated = draws > 1 and (apart or out.random)
    out.nesting += plated
    if draws > 1 and not plated:  # a trace of one draw
        for name, site in guide_trace.nodes.items():
            if "cond_indep_stack" in site:
                own = tuple(frame for frame in site["cond_indep_stack"] if frame.name != COPIES)
                guide_trace.nodes[name] = {**site, "cond_indep_stack": own}
    alone = model.targets_alone if targets_only else {}

    def joint() -> Trace:
        held = given(model, guide_trace)
        if model.enumerated:
            held = poutine.enum(held, first_available_dim=-1 - out.nesting)
        with _many(model, draws if plated else 1), _Hidden(hidden):
            trace = poutine.trace(held).get_trace(**arguments, **alone)
        for name in guide_trace.stochastic_nodes:
            if name in trace.nodes:
                trace.nodes[name]["is_observed"] = False
        return trace

    out.joint = joint
    return out


def _many(model: ZooModel, draws: int) -> contextlib.AbstractContextManager:
    return Copies(draws, -1 - model.max_plate_nesting) if draws > 1 else contextlib.nullcontext()


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


def outside(trace: Trace, plates: set[str]) -> Trace:
    """The trace without the sites along these plates: the part that stays fixed while those are drawn again."""
    kept = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and any(frame.name in plates for frame in site["cond_indep_stack"]):
            kept.remove_node(name)
    return kept


def enumerated_values(
    model: ZooModel, arguments: Mapping[str, Any], guide_trace: Trace, draws: int = 1
) -> dict[str, dict]:
    """Enumerated sites, drawn from their conditional given the guide's latents and the data."""
    if not model.enumerated:
        return {}
    held, many = given(model, guide_trace), _many(model, draws)

    def plated(**batch: Any) -> None:  # the plate is inside, so that it reaches enumerated sites, too
        with many:
            held(**batch)

    first = -1 - model.max_plate_nesting - (draws > 1)
    sampled = infer_discrete(plated, first_available_dim=first, temperature=1)
    nodes = poutine.trace(sampled).get_trace(**arguments, **model.targets_alone).nodes
    return {name: nodes[name] for name in model.enumerated if name in nodes}


def model_trace(model: ZooModel, guide: Any, data: Mapping[str, Any]) -> Trace:
    """Trace of the model given one draw of the guide, with enumerated sites drawn from their conditional."""
    arguments = model.arguments(data)
    guide_trace = poutine.trace(guide).get_trace(**arguments)
    enumerated = enumerated_values(model, arguments, guide_trace)
    substituted = poutine.condition(model, data={name: site["value"] for name, site in enumerated.items()})
    trace = poutine.trace(poutine.replay(substituted, trace=guide_trace)).get_trace(**arguments)
    for name in enumerated:
        trace.nodes[name]["is_observed"] = False
    return trace


# -------------------------------------------------------------------- sites
