"""Hidden entries of targets: a value inside the support, whatever the distribution of the target."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..data.build import mask_alias

OBSERVED, UNOBSERVED = "_observed", "_unobserved"


def public_name(name: str) -> str:
    """Name of a site without a suffix of ``obs_mask``, which splits ``y`` into ``y_observed`` and ``y_unobserved``."""
    return name.removesuffix(OBSERVED).removesuffix(UNOBSERVED)


class Inside(Messenger):
    """Replace the hidden entries of targets, which a batch holds as 0, by a value inside the target's support.

    A mask takes them out of the density, but not out of its gradient: that of log 0 is infinite, and 0 times it NaN.

    Attributes:
        needed: Targets for which 0 is no such value.
        seen: Targets whose data the model has observed.
    """

    def __init__(self, rows: str, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.rows, self.masks = rows, masks
        self.needed: set[str] = set()
        self.seen: set[str] = set()

    def _pyro_sample(self, msg: dict) -> None:
        target = public_name(msg["name"])
        if not msg["is_observed"] or target not in self.masks or msg["infer"].get("_deterministic"):
            return
        dims = [frame.dim for frame in msg["cond_indep_stack"] if frame.name == self.rows and frame.vectorized]
        self.seen.add(target)
        value = inner_value(msg["fn"]) if dims else None
        if value is None:
            return
        self.needed.add(target)
        mask = self.masks[target]
        mask = mask.reshape(mask.shape + (1,) * (msg["fn"].event_dim - 1 - dims[0]))
        msg["value"] = torch.where(mask, msg["value"], value.to(msg["value"]))


def inner_value(fn: Any) -> Tensor | None:
    """A value inside the support of a distribution, of its event shape or broadcast to it; None where 0 is inside."""
    try:
        support = fn.support
    except NotImplementedError:
        return None
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if support.is_discrete:
        return None if bool(support.check(torch.zeros(fn.event_shape, device=_device(fn))).all()) else fn.sample()
    if isinstance(base, type(constraints.real)):
        return None
    try:
        transform = biject_to(support)
    except NotImplementedError:
        return None
    with torch.no_grad():
        return transform(torch.zeros(transform.inverse_shape(fn.event_shape), device=_device(fn)))


def of_entries(fn: Any, seen: Tensor | None) -> Any:
    """A distribution with the density of the entries `seen` alone, (..., D): the others are integrated out.

    Args:
        fn: Distribution of independent entries, ``dist.Normal(...).to_event(1)``.
        seen: Where entries count; None for all, which leaves the distribution as it is.

    Raises:
        ValueError: The entries depend on one another.
    """
    if seen is None:
        return fn
    if not isinstance(fn, torch.distributions.Independent) or fn.base_dist.event_shape:
        raise ValueError(
            f"{type(fn).__name__}: its components depend on one another, so that there is no density of some of them "
            "alone; give rows that have all or none"
        )
    return fn.base_dist.mask(seen).to_event(fn.reinterpreted_batch_ndims)


def _device(fn: Any) -> torch.device | None:
    tensors = (getattr(fn, name, None) for name in getattr(fn, "arg_constraints", {}))
    return next((tensor.device for tensor in tensors if isinstance(tensor, Tensor)), None)


def without_mask(fn: Any) -> Any:
    """A distribution without the masks inside it."""
    if isinstance(fn, MaskedDistribution):
        return without_mask(fn.base_dist)
    base = getattr(fn, "base_dist", None)
    bare = base if base is None else without_mask(base)
    if bare is base:
        return fn
    fn = copy.copy(fn)
    fn.base_dist = bare
    return fn


def masks_of(targets: tuple[str, ...], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Target -> its mask, of those that the arguments of a model hold."""
    found = {target: arguments.get(mask_alias(target)) for target in targets}
    return {target: mask for target, mask in found.items() if isinstance(mask, Tensor)}
