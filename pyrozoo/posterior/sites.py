"""Sites of a trace: what kind they are, the plates they lie along, and their values by draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..modeling.base import ZooModel
from ..modeling.enumeration import COPIES, frames_of
from ..modeling.hidden import public_name, without_mask


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
    """Name of the innermost plate of a site; "" if it is outside all plates but that of the draws."""
    return next(reversed(plates_of(site)), "")


def plates_of(site: Mapping[str, Any]) -> tuple[str, ...]:
    """Plates of a site, outermost first, without that of the draws."""
    return tuple(name for _, name in sorted(frames_of(site).items()) if name != COPIES)


def squeezed(value: Tensor, site: Mapping[str, Any], event: int | None = None) -> Tensor:
    """The value of a site of one draw, (plates..., event...), see `by_draw`."""
    return by_draw(value, site, 1, event)[0]


def by_draw(
    value: Tensor, site: Mapping[str, Any], draws: int, event: int | None = None, alone: int | None = None
) -> Tensor:
    """The value of a site as (draws, plates..., event...), without the dimensions of size 1 that belong to no plate.

    A plate of size 1 stays. A value that is the same in all draws is repeated.

    Args:
        value: Value of the site, or another one along its plates.
        site: The site.
        draws: Number of draws at once.
        event: Number of event dimensions; by default those of the site, 0 for a log density.
        alone: Number of dimensions that the value has in one draw. Only the value of a `pyro.deterministic` without
            ``event_dim`` needs it, where a dimension of the event may be as long as there are draws.
    """
    plates = [dim for dim, name in frames_of(site).items() if name != COPIES]
    several = along_copies(value, site, draws, event, alone)
    n = value.dim() - (site["fn"].event_dim if event is None else event)
    if event is None and _whole_event(site):
        n = -min(frames_of(site) if several else plates, default=0)
    kept = [value.shape[i] for i in range(n) if i - n in plates] + list(value.shape[n:])
    return value.reshape(draws, *kept) if several else value.reshape(kept).expand(draws, *kept)


def along_copies(
    value: Tensor, site: Mapping[str, Any], draws: int, event: int | None = None, alone: int | None = None
) -> bool:
    """Whether a value along the plates of a site differs from draw to draw, see `by_draw`."""
    dim = next((dim for dim, name in frames_of(site).items() if name == COPIES), None)
    if dim is None:
        return False
    if event is None and _whole_event(site):
        return value.dim() > alone if alone is not None else value.dim() >= -dim and len(value) == draws
    place = value.dim() - (site["fn"].event_dim if event is None else event) + dim
    return place >= 0 and value.shape[place] == draws


def _whole_event(site: Mapping[str, Any]) -> bool:
    """Whether the site is a `pyro.deterministic` that takes all dimensions, also those of plates, for its event."""
    return bool(site["infer"].get("_deterministic")) and site["fn"].event_dim == site["value"].dim()


def is_point(fn: Any) -> bool:
    """Whether a distribution holds one value, as those of point estimates and of `pyro.deterministic`."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def event_dims(model: ZooModel, name: str, site: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the event dimensions of a site: the model's, else ``<site>_dim_0``, ``<site>_dim_1``, ..."""
    n = squeezed(site["value"], site).dim() - len(frames_of(site))
    named = tuple(model.dims.get(public_name(name), ()))
    return named if len(named) == n else tuple(f"{public_name(name)}_dim_{i}" for i in range(n))


def unmasked(site: Mapping[str, Any]) -> dict:
    """The site with a distribution that has no mask: what it says of a value does not depend on which are observed."""
    return {**site, "fn": without_mask(site["fn"])}


def observed_values(site: Mapping[str, Any]) -> np.ndarray:
    """The data of a site, NaN where nothing was observed, including the padding of recordings of unequal lengths."""
    value, inner = site["value"], site["fn"]
    while hasattr(inner, "base_dist"):
        inner = inner.base_dist
    if getattr(inner, "event_mask", None) is not None:  # a distribution of ragged sequences
        value = torch.where(inner.event_mask, value.to(torch.get_default_dtype()), torch.nan)
    return where_observed(site, value)[0].cpu().numpy()


def where_observed(site: Mapping[str, Any], value: Tensor, density: bool = False, draws: int = 1) -> Tensor:
    """The values of a site (or its log density), as `by_draw`; NaN where a mask says that nothing was observed.

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
    return by_draw(value, site, draws, 0 if density else None)
