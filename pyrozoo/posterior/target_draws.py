"""What draws of the latents say of the targets: their values, moments and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ..data.batch import Batch
from ..inference.fitted import Run
from ..inference.losses import validation
from ..modeling.base import ZooModel
from ..modeling.hidden import OBSERVED, UNOBSERVED, inner_value
from ..modeling.warps import unwarped
from .many import AT_ONCE, pairs, row_blocks
from .sites import class_support, is_discrete, moments, squeezed, unmasked
from .traces import Pair, frames_of, is_enumerated, pair


@dataclass(frozen=True)
class Predicted:
    """What draws say of a target.

    Attributes:
        values: Draws (S, N, J) of a target of numbers; None for classes.
        exact: First and second moments (2, N, J), means over the draws; for classes the probability of each, (N, K).
        kind: "real" (on the whole real line), "counts", "classes", or "other" (positive, bounded, transformed ...).
        inner: The same on the scale on which the target is normal, where the model transforms it (`ZooModel.warp`).
    """

    values: Tensor | None
    exact: Tensor
    kind: str
    inner: Predicted | None = None

    @property
    def by_law(self) -> Predicted:
        """The predictions on the scale on which a law adds."""
        return self.inner or self


def not_enumerated(run: Run, data: Batch, draws: int) -> dict[str, Predicted]:
    """What draws say of each target of a model without enumerated sites."""
    samples: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}
    inner: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    made = 0
    if not run.model.targets_read_latents and _all_classes(run, data):
        draws = 1  # every draw gives the same probabilities
    for part in pairs(run.model, run.guide, data, draws):
        made += part.draws
        for target, site in target_sites(run.model, part).items():
            kinds[target] = kind_of(site)
            if kinds[target] == "classes":
                _add(sums, target, part.by_draw(site, _shares(site), 1).double().sum(0))
                continue
            samples.setdefault(target, []).append(part.by_draw(site).double().cpu())
            _add(sums, target, _moments(part, site, site["fn"]))
            if (normal := unwarped(site["fn"])) is not None:
                _add(inner, target, _moments(part, site, normal))
        if not samples and part.draws > 1 and not part.random:
            break  # likewise
    stacked = {target: torch.cat(values) for target, values in samples.items()}
    out = {
        target: _predicted(stacked.get(target), (total / made).cpu(), kinds[target]) for target, total in sums.items()
    }
    for target, total in inner.items():
        scale = Predicted(None, (total / made).cpu(), "real")
        out[target] = replace(out[target], kind="other", inner=scale)
    return out


def _add(sums: dict[str, Tensor], target: str, term: Tensor) -> None:
    sums[target] = sums[target] + term if target in sums else term


def _moments(part: Pair, site: Mapping[str, Any], fn: Any) -> Tensor:
    """Sums over the draws of the first and second moments of a target's distribution, (2, N, ...)."""
    first, second = moments(fn, site["value"], site["value"].shape)
    return torch.stack([part.by_draw(site, moment).double().sum(0) for moment in (first, second)])


def _all_classes(run: Run, data: Batch) -> bool:
    with torch.random.fork_rng():
        one = pair(run.model, run.guide, data.take([0]))
        return all(kind_of(site) == "classes" for site in target_sites(run.model, one).values())


def _predicted(values: Tensor | None, exact: Tensor, kind: str) -> Predicted:
    if values is None:
        return Predicted(None, exact, kind)
    return Predicted(values.reshape(*values.shape[:2], -1), exact.reshape(*exact.shape[:2], -1), kind)


def kind_of(site: Mapping[str, Any]) -> str:
    """Kind of a target, see `Predicted`."""
    if is_enumerated(site) or class_support(site) is not None:
        return "classes"
    return "counts" if is_discrete(site) else "other" if inner_value(site["fn"]) is not None else "real"


def _shares(site: Mapping[str, Any]) -> Tensor:
    """Probability of each value of a site of classes, (N, K)."""
    fn, support = site["fn"], class_support(site)
    assert support is not None
    shape = fn.batch_shape + fn.event_shape
    return torch.stack([fn.log_prob(value.expand(shape)).double() for value in support], -1).softmax(-1)


def summed_out(run: Run, data: Batch, draws: int) -> dict[str, Predicted]:
    """Like `not_enumerated`, with the enumerated sites summed out in each draw."""
    model, blocks = run.model, []
    kinds: dict[str, str] = {}
    for block in row_blocks(data):
        parts: list[dict[str, tuple[Tensor | None, Tensor]]] = []
        # Without the costly sites a draw is small, and every part pays for the guide's networks once more.
        at_once = 5 * AT_ONCE if model.targets_alone else None
        asked: dict[str, Any] = {"targets_only": True, "hidden": model.targets, "apart": True, "at_once": at_once}
        for drawn in pairs(model, run.guide, block, draws, **asked):
            parts.append({target: _given(drawn, target) for target in model.targets})
            kinds = {target: kind_of(drawn.target(target)) for target in model.targets}
        blocks.append(parts)
    out: dict[str, Predicted] = {}
    for target in model.targets:
        found = [[part[target] for part in parts] for parts in blocks]
        sums = [cast(Tensor, sum(e for _, e in parts)) for parts in found]
        exact = torch.cat([total / draws for total in sums], 0 if found[0][0][0] is None else 1)
        whole = None
        if found[0][0][0] is not None:
            whole = torch.cat([torch.cat([v for v, _ in parts if v is not None]) for parts in found], 1)
        out[target] = _predicted(whole, exact, kinds[target])
    return out


def _given(drawn: Pair, target: str) -> tuple[Tensor | None, Tensor]:
    """Values of a target, one per draw, (S, N, ...), and the sum over draws of its moments; see `Predicted`."""
    site = drawn.target(target)
    fn, event = site["fn"], site["fn"].event_dim
    if is_enumerated(site):
        support = fn.enumerate_support(expand=False).reshape(-1)
        shares = torch.stack([drawn.log_conditional(target, value) for value in support], -1).softmax(-1)
        return None, shares.sum(0).cpu()
    values, weights = fn.sample() if site["is_observed"] else site["value"], drawn.shares(site)
    shape = np.broadcast_shapes(weights.shape, values.shape[: values.dim() - event])
    tail = values.shape[values.dim() - event :]
    plates = [*(1,) * (drawn.draws == 1), *(shape[dim] for dim in sorted(frames_of(site)))]

    def flat(tensor: Tensor, shape: tuple[int, ...], tail: tuple[int, ...] = ()) -> Tensor:
        """Merge the enumeration dimensions into one, and leave out those of other plates: (E, S, N, ...)."""
        return tensor.expand(*shape, *tail).reshape(-1, *plates, *tail)

    probability = flat(weights, shape)
    spread = probability.reshape(*probability.shape, *(1,) * event)
    if class_support(site) is not None:
        shares = _shares(site)
        return None, (probability[..., None] * flat(shares, shape, shares.shape[-1:])).sum((0, 1)).cpu()
    which = torch.distributions.Categorical(probability.movedim(0, -1)).sample()
    choices = flat(values, shape, tail)
    index = which.reshape(1, *which.shape, *(1,) * event).expand(1, *choices.shape[1:])
    stated = torch.stack([flat(m, shape, tail) for m in moments(fn, values, (*shape, *tail))])
    return choices.gather(0, index)[0].double().cpu(), (spread * stated).sum((1, 2)).double().cpu()


def target_sites(model: ZooModel, part: Pair) -> dict[str, dict]:
    """The target sites of some draws, unmasked: the guide's if it samples them all, else the model's given the guide.

    Args:
        model: The model.
        part: The draws.
    """
    names = {t: t + UNOBSERVED if t + UNOBSERVED in part.guide.nodes else t for t in model.targets}
    if all(name in part.guide.nodes for name in names.values()):
        return {target: unmasked(part.guide.nodes[name]) for target, name in names.items()}
    nodes = part.predictive(targets_only=True).nodes | part.guide.nodes
    return {target: unmasked(nodes[name]) for target, name in names.items()}


def observed_target(run: Run, data: Batch, target: str) -> Tensor:
    """What the model observes of a target: the value of its site where that has data, else the batch's; (N, ...).

    Args:
        run: The restart.
        data: Data from `Fit.prepare`.
        target: Name of the target.
    """
    model, arguments = run.model, run.model.arguments(data)
    with torch.no_grad(), torch.random.fork_rng(), validation(False):
        drawn = poutine.replay(model, trace=poutine.trace(run.guide).get_trace(**arguments))
        nodes = poutine.trace(drawn).get_trace(**arguments, **model.targets_alone).nodes
    site = next((nodes[name] for name in (target + OBSERVED, target) if name in nodes), None)
    held = site is not None and site["is_observed"] and not site["infer"].get("_deterministic")
    return squeezed(site["value"], site) if site is not None and held else data[target]
