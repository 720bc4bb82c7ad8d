"""Densities of all values, or of many draws, at once against those of each alone; likely causes where they differ."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..data.batch import Batch
from .base import ZooModel
from .enumeration import COPIES, density_sites, frames_of, is_enumerated
from .hidden import without_mask

BROADCAST = (
    "forward must broadcast over dimensions left of the plates: index by c[..., unit], count dimensions from the "
    "right, and use no reshape, squeeze or len() on a sampled value"
)


def fault(model: ZooModel, guide: Any, few: Batch) -> str:
    """Say which density with all values of the enumerated sites at once is not that of each alone; empty if none is.

    Args:
        model: The model, in evaluation mode.
        guide: The guide.
        few: A few rows.
    """
    runs = _runs(model, guide, few)
    try:
        cause = _values(runs)
        return cause and (_random(runs) or _out_of_scope(runs) or _across_rows(runs) or cause)
    except _At as place:
        return str(place)


def particles_fault(model: ZooModel, guide: Any, batch: Batch) -> str:
    """Say which density is wrong with two draws at once; empty if none is.

    Args:
        model: The model, in evaluation mode.
        guide: The guide.
        batch: The data.
    """
    try:
        return _particles(_runs(model, guide, batch), guide)
    except _At as place:
        return str(place)


def likely_cause(model: ZooModel, guide: Any, batch: Batch) -> str:
    """Say which site is wrong and why; empty if nothing is found.

    Args:
        model: The model, in evaluation mode.
        guide: The guide.
        batch: The data.
    """
    try:
        runs = _runs(model, guide, batch)
    except Exception:  # not even one draw works, which the error itself says
        return ""
    for find in (_random, _enumerated, _out_of_scope, _across_rows, functools.partial(_particles, guide=guide)):
        try:
            cause = find(runs)
        except _At as place:
            cause = str(place)
        if cause:
            return cause
    return ""


class _At(Exception):
    """The model raises at a site; the message says where and when."""


@dataclass
class _Runs:
    """A model, one draw of it, and the values of its unobserved sites in that draw."""

    model: ZooModel
    batch: Batch
    one: Trace
    values: dict[str, Tensor]

    def densities(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Log density of every site at these values, one draw without enumeration."""
        return _densities(self.trace({**self.values, **values}, "in one draw"))

    def trace(self, values: Mapping[str, Tensor], when: str, enumerate_: bool = False) -> Trace:
        """Trace of the model at these values; an error is raised as `_At` a site."""
        conditioned = poutine.condition(self.model, data=dict(values))
        if enumerate_:
            conditioned = poutine.enum(conditioned, first_available_dim=-1 - self.model.max_plate_nesting)
        seen = _Seen()
        try:
            with seen:
                return poutine.trace(conditioned).get_trace(**self.model.arguments(self.batch))
        except Exception as error:
            place = self.shape_of(seen.place(list(density_sites(self.one))))
            raise _At(f"at {place}, forward raises {when} ({first_line(error)}); {BROADCAST}") from error

    def shape_of(self, name: str) -> str:
        """A site with its shape in one draw."""
        fn = self.one.nodes[name]["fn"]
        return f"site {name!r} (batch shape {tuple(fn.batch_shape)}, event shape {tuple(fn.event_shape)})"

    def enumerated(self) -> Iterator[tuple[str, Tensor]]:
        """Enumerated sites and their supports."""
        for name in self.model.enumerated:
            if name in self.one.nodes:
                yield name, self.one.nodes[name]["fn"].enumerate_support(expand=False).reshape(-1)

    def constant(self, index: int) -> dict[str, Tensor]:
        """Every enumerated site at one value of its support, the last one if there are fewer."""
        values = {name: support[min(index, len(support) - 1)] for name, support in self.enumerated()}
        return {name: torch.full_like(self.one.nodes[name]["value"], float(value)) for name, value in values.items()}

    def free(self) -> dict[str, Tensor]:
        """Values of the sites that are not enumerated."""
        return {name: value for name, value in self.values.items() if name not in self.model.enumerated}


def _runs(model: ZooModel, guide: Any, batch: Batch) -> _Runs:
    """One draw of the guide, and the model at its values."""
    arguments = model.arguments(batch)
    drawn = poutine.trace(guide).get_trace(**arguments)
    one = poutine.trace(poutine.condition(model, data=_unobserved(drawn))).get_trace(**arguments)
    return _Runs(model, batch, one, _unobserved(drawn) | _unobserved(one))


class _Seen(Messenger):
    """Notes which sites have been reached."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []
        self.finished: list[str] = []

    def _pyro_sample(self, msg: dict) -> None:
        self.started.append(msg["name"])

    def _pyro_post_sample(self, msg: dict) -> None:
        self.finished.append(msg["name"])

    def place(self, names: list[str]) -> str:
        """The site at which the model stopped: one that was begun, or else the first that was not reached."""
        begun = [name for name in self.started if name not in self.finished and name in names]
        return (begun or [name for name in names if name not in self.finished] or names[-1:])[0]


# -------------------------------------------------------------------- causes
def _random(runs: _Runs) -> str:
    first, second = runs.densities({}), runs.densities({})
    for name in first:
        if not _same(first[name], second[name]):
            return (
                f"the density of {runs.shape_of(name)} changes from call to call at the same values; forward draws "
                "random numbers outside pyro.sample"
            )
    return ""


def _enumerated(runs: _Runs) -> str:
    """Every site, with all enumerated sites at one value: its density with all values at once is that of each alone."""
    supports = dict(runs.enumerated())
    if not supports:
        return ""
    together = _densities(runs.trace(runs.free(), f"with all values of {sorted(supports)} at once", enumerate_=True))
    nesting = runs.model.max_plate_nesting
    for index in range(max(map(len, supports.values()))):
        for name, alone in runs.densities(runs.constant(index)).items():
            density = together[name]
            while density.dim() > nesting:
                density = density[min(index, len(density) - 1)]
            if not _same(density, alone):
                return (
                    f"the density of {runs.shape_of(name)} with all values of {sorted(supports)} at once, of shape "
                    f"{tuple(together[name].shape)}, is not that of each value alone; {BROADCAST}"
                )
    return ""


def _values(runs: _Runs) -> str:
    """Every site's density with all values at once is, at any assignment, that of the assignment alone.

    Some assignments suffice: every two states differ in one of them, rows and other positions side by side differ in
    all. Then a density that reads another state than it says, or that of another row, has another value in one of them.
    """
    supports = dict(runs.enumerated())
    if not supports:
        return ""
    trace = runs.trace(runs.free(), f"with all values of {sorted(supports)} at once", enumerate_=True)
    together = _densities(trace)
    for digit in range(len(supports).bit_length() + 1):  # in the last all states are equal
        places = {}
        for number, (name, support) in enumerate(supports.items(), start=1):
            site = runs.one.nodes[name]
            odd = sum(torch.meshgrid(*map(torch.arange, site["value"].shape), indexing="ij"), torch.zeros(())) % 2
            chosen = (odd.long() ^ (number >> digit & 1)) * (1 + digit % max(len(support) - 1, 1))
            places[name] = chosen.clamp(max=len(support) - 1).to(support.device)
        for name, alone in runs.densities({name: supports[name][place] for name, place in places.items()}).items():
            if not _same(_at(places, trace, name, together[name]), alone):
                return (
                    f"the density of {runs.shape_of(name)} with all values of the enumerated sites at once, of shape "
                    f"{tuple(together[name].shape)}, is not that of each value alone; {BROADCAST}"
                )
    return ""


def _at(places: Mapping[str, Tensor], trace: Trace, name: str, density: Tensor) -> Tensor:
    """The density of a site with all values at once, at one value of every enumerated site."""
    states = {trace.nodes[state]["infer"]["_dim_to_id"][trace.nodes[state]["infer"]["_enumerate_dim"]]: place
              for state, place in places.items() if is_enumerated(trace.nodes[state])}  # fmt: skip
    frames, ids = frames_of(trace.nodes[name]), trace.nodes[name]["infer"].get("_dim_to_id", {})
    index = []
    for dim in range(-density.dim(), 0):
        size = density.shape[dim]
        if dim not in frames and size > 1 and ids.get(dim) in states:
            index.append(states[ids[dim]])
        else:
            index.append(torch.arange(size, device=density.device).reshape(-1, *(1,) * (-1 - dim)))
    return density[tuple(index)] if index else density


def _out_of_scope(runs: _Runs) -> str:
    """No site depends on an enumerated one whose dimension pyro.markov has given away."""
    if len(list(runs.enumerated())) < 2:
        return ""
    trace = runs.trace(runs.free(), "with all values at once", enumerate_=True)
    at_first, other = runs.constant(0), runs.constant(1)
    start = runs.densities(at_first)
    for state in at_first:
        own = trace.nodes[state]["infer"]
        id_ = own["_dim_to_id"][own["_enumerate_dim"]] if is_enumerated(trace.nodes[state]) else None
        for name, density in runs.densities({**at_first, state: other[state]}).items():
            in_scope = trace.nodes[name]["infer"].get("_dim_to_id", {}).values()
            if name != state and id_ is not None and id_ not in in_scope and not _same(density, start[name]):
                return (
                    f"{runs.shape_of(name)} depends on {state!r}, which is out of scope there: pyro.markov keeps only "
                    "the steps of its history; raise `history`, or move the site into the loop"
                )
    return ""


def _across_rows(runs: _Runs) -> str:
    """The value of an enumerated site in the first row changes no density of another row."""
    at_first, other = runs.constant(0), runs.constant(1)
    start, rows = runs.densities(at_first), runs.model.rows
    for state, value in at_first.items():
        dims = {plate: dim for dim, plate in frames_of(runs.one.nodes[state]).items()}
        if rows not in dims:
            continue
        changed = value.clone()
        changed.select(dims[rows], 0).copy_(other[state].select(dims[rows], 0))
        for name, density in runs.densities({**at_first, state: changed}).items():
            own = {plate: dim for dim, plate in frames_of(runs.one.nodes[name]).items()}
            if rows in own and not _same(_others(density, own[rows]), _others(start[name], own[rows])):
                return (
                    f"the density of {runs.shape_of(name)} in one {rows} depends on {state!r} of another; what is "
                    f"enumerated along {rows!r} is summed out in each {rows} alone"
                )
    return ""


def _particles(runs: _Runs, guide: Any) -> str:
    """Two draws at once have the densities of each alone."""
    nesting, when = runs.model.max_plate_nesting, "for two draws at once (particles)"
    with pyro.plate(COPIES, 2, dim=-1 - nesting):
        try:
            drawn = _unobserved(poutine.trace(guide).get_trace(**runs.model.arguments(runs.batch)))
        except Exception as error:
            return f"the guide's forward raises {when} ({first_line(error)}); {BROADCAST}"
        many = runs.trace(drawn, when)
    values = {name: value for name, value in (drawn | _unobserved(many)).items() if name in many.nodes}
    together = _densities(many)
    for index in range(2):
        single = {}
        for name, value in values.items():
            dim = -1 - nesting - many.nodes[name]["fn"].event_dim
            own = value.select(dim, index if value.shape[dim] > 1 else 0) if value.dim() >= -dim else value
            single[name] = own.reshape(runs.one.nodes[name]["value"].shape)
        for name, alone in runs.densities(single).items():
            density = together[name]
            density = density[min(index, len(density) - 1)] if density.dim() > nesting else density
            if not _same(density, alone):
                return (
                    f"the density of {runs.shape_of(name)} {when}, of shape {tuple(together[name].shape)}, is not that "
                    f"of each draw alone; {BROADCAST}"
                )
    return ""


# -------------------------------------------------------------------- parts
def _densities(trace: Trace) -> dict[str, Tensor]:
    """Log density of every site per position without its mask, factors included."""
    sites = {name: site for name, site in trace.nodes.items() if _counts(site)}
    return {name: torch.as_tensor(without_mask(s["fn"]).log_prob(s["value"])) for name, s in sites.items()}


def _counts(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")


def _unobserved(trace: Trace) -> dict[str, Tensor]:
    """Values of the sites that are drawn; in a conditioned trace those that the conditioning gave count as data."""
    return {n: s["value"] for n, s in density_sites(trace).items() if not s["is_observed"]}


def _same(one: Tensor, other: Tensor) -> bool:
    exact = min(one.dtype, other.dtype, key=lambda dtype: torch.finfo(dtype).bits) == torch.double
    try:
        one, other = torch.broadcast_tensors(one.double(), other.double())
    except RuntimeError:
        return False
    return torch.allclose(one, other, rtol=1e-6 if exact else 1e-3, atol=1e-9 if exact else 1e-3, equal_nan=True)


def _others(density: Tensor, dim: int) -> Tensor:
    """The density without the first position of a dimension."""
    several = density.dim() >= -dim and density.shape[dim] > 1
    return density.narrow(dim, 1, density.shape[dim] - 1) if several else density


def first_line(error: BaseException) -> str:
    """The message of an error, without Pyro's table of shapes."""
    return str(error).split("\nTrace Shapes")[0].strip()
