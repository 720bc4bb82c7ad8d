"""Enumerated sites of a trace, summed out exactly within each row: sum-product over plates and enumeration dimensions.

A trace's enumeration dimensions are no names of variables: ``pyro.markov`` gives the dimension of a state that is out
of scope to a later one. Here every site's dimensions are read by the identities that Pyro keeps for them.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Plates = frozenset[str]
COPIES = "copies"  # plate of many draws at once, outside all of the model's own


@dataclass(frozen=True)
class Factor:
    """A log density with a name for each of its axes.

    Attributes:
        values: The log density, one axis per name.
        axes: Names of the axes: a plate's name, or Pyro's identity number of an enumerated site.
        plates: Plates that the density lies along; the names of its other axes are enumerated sites.
        site: Name of the site, for messages.
    """

    values: Tensor
    axes: tuple[Hashable, ...]
    plates: Plates
    site: str = ""

    @classmethod
    def of(cls, name: str, site: Mapping[str, Any], log_density: Tensor) -> Factor:
        """The pointwise log density of a site, as a factor.

        Raises:
            ValueError: A dimension is neither a plate of the site nor that of an enumerated site.
        """
        frames = frames_of(site)
        sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
        n = max(log_density.dim(), -min(frames, default=0))
        values = log_density.reshape((1,) * (n - log_density.dim()) + log_density.shape)
        values = values.expand([sizes.get(d, values.shape[d]) for d in range(-n, 0)])  # a plate multiplies its members
        ids = site["infer"].get("_dim_to_id", {})
        kept = [d for d in range(-n, 0) if d in frames or values.shape[d] > 1]
        for d in kept:
            if d not in frames and d not in ids:
                raise ValueError(
                    f"{name}: dimension {d} of its log density, of size {values.shape[d]}, is that of no plate around "
                    "the site and of no enumerated site in scope; a site that reads a state of pyro.markov belongs "
                    "inside its loop"
                )
        axes = tuple(frames.get(d, ids.get(d)) for d in kept)
        return cls(values.reshape([values.shape[d] for d in kept]), axes, frozenset(frames.values()), name)

    def to(self, dtype: torch.dtype, floor: float | None = None) -> Factor:
        """The factor in another floating type, and at least `floor`."""
        values = self.values.to(dtype)
        return replace(self, values=values if floor is None else values.clamp(min=floor))

    def along(self, axes: tuple[Hashable, ...]) -> Tensor:
        """The values along these axes, in their order; of size 1 along those that the factor lacks."""
        order = sorted(range(len(self.axes)), key=lambda i: axes.index(self.axes[i]))
        sizes = dict(zip(self.axes, self.values.shape, strict=True))
        return self.values.permute(order).reshape([sizes.get(axis, 1) for axis in axes])


class Unmasked(Messenger):
    """Drop the masks of enumerated sites, such as the states of a chain beyond its end.

    A value that is summed out needs none: without it its probabilities sum to 1, and with it each of K values would
    count as 1, so that the density of a row were K times as large for every masked state. Pyro's ELBO drops the mask,
    too, but neither the one in a distribution nor when it draws the values.
    """

    def __init__(self, sites: Collection[str]) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.sites and not msg["is_observed"]:
            msg["mask"] = None
            while isinstance(msg["fn"], MaskedDistribution):
                msg["fn"] = msg["fn"].base_dist


def frames_of(site: Mapping[str, Any]) -> dict[int, str]:
    """Dimension -> plate of a site."""
    return {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


def density_sites(trace: Trace) -> dict[str, dict]:
    """Sample sites with a density of their own: no plates, factors or deterministic sites."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("is_auxiliary")
        and not site["infer"].get("_deterministic")
    }


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site holds all values of its support, along a dimension of its own."""
    return site["infer"].get("_enumerate_dim") is not None


def enumerated_plates(trace: Trace) -> dict[Hashable, Plates]:
    """Identity number of every enumerated site -> its plates."""
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and is_enumerated(site)]
    return {
        site["infer"]["_dim_to_id"][site["infer"]["_enumerate_dim"]]: frozenset(frames_of(site).values())
        for site in sites
    }


def log_sum(factors: Iterable[Factor], enumerated: Mapping[Hashable, Plates], keep: Plates) -> Factor:
    """Log of the sum over the enumerated sites of the product of all factors, at every position of the plates `keep`.

    Plates inside are worked off from the innermost one: sites enumerated along it are summed out, and the product over
    its positions goes to the plates that the remaining sites lie along (as in pyro.ops.contract, but with sums of
    exponentials throughout, which cannot underflow).

    Args:
        factors: The factors; each lies along `keep` and perhaps further plates.
        enumerated: Identity number of an enumerated site -> its plates.
        keep: Plates that stay.

    Raises:
        ValueError: A factor depends on sites of two plates neither of which is inside the other.
    """
    left = list(factors)
    while True:
        inner = max((factor.plates for factor in left), key=len)
        here = [factor for factor in left if factor.plates == inner]
        left = [factor for factor in left if factor.plates != inner]
        here = _without(here, [id_ for id_, plates in enumerated.items() if plates == inner])
        if inner == keep:
            return _product(here)
        for factor in here:
            outer = keep.union(*(enumerated[axis] for axis in factor.axes if axis in enumerated))
            if outer >= inner:
                raise ValueError(
                    f"{factor.site}: it depends on enumerated sites of the plates {sorted(inner - keep)}, neither of "
                    "which is inside the other, so that they cannot be summed out; nest the plates"
                )
            axes = [i for i, axis in enumerate(factor.axes) if axis in inner - outer]
            kept = tuple(axis for axis in factor.axes if axis not in inner - outer)
            left.append(Factor(factor.values.sum(axes), kept, outer, factor.site))


def _without(factors: list[Factor], ids: list[Hashable]) -> list[Factor]:
    """Sum out enumerated sites, each time the one whose factors have the fewest other axes (a chain from its ends)."""
    while True:
        found = {id_: [f for f in factors if id_ in f.axes] for id_ in ids}
        found = {id_: own for id_, own in found.items() if own}
        if not found:
            return factors
        id_ = min(found, key=lambda key: len({axis for f in found[key] for axis in f.axes}))
        joint = _product(found[id_])
        place = joint.axes.index(id_)
        axes = joint.axes[:place] + joint.axes[place + 1 :]
        summed = Factor(joint.values.logsumexp(place), axes, joint.plates, joint.site)
        factors = [f for f in factors if id_ not in f.axes] + [summed]


def _product(factors: list[Factor]) -> Factor:
    axes = tuple(dict.fromkeys(axis for factor in factors for axis in factor.axes))
    values = functools.reduce(torch.add, (factor.along(axes) for factor in factors))
    return Factor(values, axes, factors[0].plates, factors[-1].site)


# -------------------------------------------------------------------- the check of a fit
def require_enumerable(model: Any, trace: Trace) -> None:
    """Refuse enumerated sites that cannot be summed out within each row.

    Args:
        model: The model.
        trace: Trace of the model with its enumerated sites in parallel.

    Raises:
        ValueError: The message names the site and the idiom that works.
    """
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}
    for name, site in sites.items():
        if not is_enumerated(site):
            continue
        plates = set(frames_of(site).values())
        if name not in model.enumerated:
            raise ValueError(f"{name}: it is enumerated in the model; list it in `enumerated`")
        if model.rows not in plates:
            raise ValueError(_above_the_rows(model, name, plates))
        if name in model.targets and plates != {model.rows}:
            raise ValueError(
                f"{name}: a target is one value per row, and this one lies along {sorted(plates - {model.rows})} "
                "inside the rows; leave it out of `targets`"
            )
    enumerated, factors = enumerated_plates(trace), []
    for name, site in sites.items():
        if model.rows not in frames_of(site).values() or site["infer"].get("_deterministic"):
            continue
        factor = Factor.of(name, site, scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"]))
        for axis in factor.axes:
            lacking = enumerated.get(axis, frozenset()) - factor.plates
            if lacking:
                raise ValueError(
                    f"{name}: it depends on a site that is enumerated along {sorted(lacking)}, but lies outside that "
                    "plate; open the plate around it, too"
                )
        factors.append(factor)
    if enumerated:
        log_sum(factors, enumerated, frozenset({model.rows}))


def _above_the_rows(model: Any, name: str, plates: set[str]) -> str:
    rows = model.rows
    if not plates:
        return (
            f"{name}: it is enumerated outside the {rows} plate, so that no {rows} has a density of its own and a fit "
            "would keep nothing of what the data say about it; sample it in the guide, which learns it, or fit one "
            "model per value"
        )
    group = sorted(plates)[0]
    return (
        f"{name}: it is enumerated along {group!r}, above the {rows}s that look it up, and Pyro would sum it out as if "
        f"all {group}s shared one value. Make each {group} a row of the data (Batch.from_arrays(row_plate={group!r}, "
        f"frames=...), rows = {group!r}), with its members in a padded, masked plate inside, where the sum is exact; "
        "or sample it in the guide"
    )
