"""Many draws in a few passes: parts that fit in memory, and draws one by one where a model does not broadcast."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..data.batch import Batch
from ..data.build import FRAMES
from ..modeling.base import ZooModel
from ..modeling.enumeration import COPIES, frames_of
from .sites import along_copies, is_point
from .traces import Pair, outside, pair

AT_ONCE = 20_000  # largest number of rows times draws in memory, for rows of at most ROW_NUMBERS numbers
ROW_NUMBERS = 1_000
TRIED = 3  # draws of the trial
CLOSE, CLOSE_SINGLE = 1e-6, 1e-2  # largest relative difference of a density in the trial, by precision
_TRIALS: WeakKeyDictionary[ZooModel, WeakKeyDictionary[Any, dict[bool, str]]] = WeakKeyDictionary()


def pairs(
    model: ZooModel, guide: Any, batch: Batch, draws: int, *, fixed: Trace | None = None, targets_only: bool = False,
    hidden: tuple[str, ...] = (), apart: bool = False, at_once: int | None = None,
) -> Iterator[Pair]:  # fmt: skip
    """Yield draws of a guide, and the model given them, in parts of as many draws as `chunks` allows.

    The parts' sizes, and with them the random numbers that a draw gets, depend on the sizes of the data, never on the
    memory that is free. Where nothing in the guide is random, guide and model run once. A model or guide that does not
    broadcast over draws gives them one by one, which is logged.

    Args:
        model: The model.
        guide: The guide.
        batch: Data.
        draws: Number of draws in all.
        fixed: Guide trace of one draw whose values are kept, see `pair`.
        targets_only: See `pair`.
        hidden: See `pair`.
        apart: See `pair`.
        at_once: See `chunks`.
    """
    arguments = model.arguments(batch)
    options: Mapping[str, Any] = {"fixed": fixed, "targets_only": targets_only, "hidden": hidden, "apart": apart}
    sizes = chunks(draws, batch, at_once)
    if sizes[0] > 1 and not broadcasts(model, guide, arguments, **options):
        sizes = [1] * draws
    first = pair(model, guide, arguments, draws=sizes[0], **options)
    yield first
    same = not apart and _nothing_random(first, model, guide, fixed)
    for n in sizes[1:]:
        yield first.again(n) if same else pair(model, guide, arguments, draws=n, **options)


def _nothing_random(first: Pair, model: ZooModel, guide: Any, fixed: Trace | None) -> bool:
    """Whether all draws of a guide are equal, from one or several of them."""
    sites = dict(first.sites("guide"))
    if first.draws > 1 or not all(is_point(site["fn"]) for site in sites.values()):
        return first.draws > 1 and not first.random
    assert first.source is not None  # made by `pair`
    second = pair(model, guide, first.source[1], fixed).guide.nodes
    return all(torch.equal(site["value"], second[name]["value"]) for name, site in sites.items())


def no_latents(**_: Any) -> None:
    """Guide of draws from the prior: the model draws all latents by itself."""


def within(outer: Pair, model: ZooModel, guide: Any, batch: Batch, draws: int, plates: set[str]) -> Iterator[Pair]:
    """Yield further draws of the latents along some plates, `draws` for each draw of a pair, the others kept.

    For several draws it is one part, in which the further ones of the first draw come first: `outer` is to be small
    enough for that. For one draw, parts as of `pairs`.

    Args:
        outer: One or several draws.
        model: The model.
        guide: The guide.
        batch: Data.
        draws: Number of draws for each of `outer`.
        plates: Plates along which latents are drawn again.
    """
    fixed = outside(outer.guide, plates)
    if outer.draws == 1:
        yield from pairs(model, guide, batch, draws, fixed=fixed)
        return
    for name, site in fixed.nodes.items():
        if _drawn(site) and along_copies(site["value"], site, outer.draws):
            dim = -1 - model.max_plate_nesting - site["fn"].event_dim
            fixed.nodes[name] = {**site, "value": site["value"].repeat_interleave(draws, dim)}
    yield pair(model, guide, batch, fixed, outer.draws * draws)


# -------------------------------------------------------------------- memory
def row_blocks(batch: Batch) -> Iterator[Batch]:
    """Yield the batch in blocks of rows small enough for memory; for computations that are independent per row."""
    size = max(1, AT_ONCE * ROW_NUMBERS // max(row_numbers(batch), ROW_NUMBERS))
    if size >= batch.n_rows:
        yield batch
        return
    for rows in torch.arange(batch.n_rows).split(size):
        yield batch.take(rows)


def row_numbers(batch: Batch) -> int:
    """Count of numbers in one row; of recordings of unequal lengths, the mean."""
    whole = sum(t[0].numel() for name, t in batch.tensors.items() if batch.along[name] == batch.rows)
    return whole + sum(t.numel() for name, t in batch.tensors.items() if batch.along[name] == FRAMES) // batch.n_rows


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


# -------------------------------------------------------------------- trial
def broadcasts(model: ZooModel, guide: Any, arguments: Mapping[str, Any], **options: Any) -> bool:
    """Whether a few draws at once have, site by site, the densities of each alone; tried once for a model and guide.

    The trial leaves the random state as it is. Where they have not, the site is logged.

    Args:
        model: The model.
        guide: The guide.
        arguments: Arguments of model and guide.
        **options: What `pair` is asked for.
    """
    known = _TRIALS.setdefault(model, WeakKeyDictionary()).setdefault(guide, {})
    alone = bool(options.get("targets_only"))
    if alone not in known:
        with torch.random.fork_rng(), torch.no_grad():
            known[alone] = _trial(model, guide, arguments, options)
        if known[alone]:
            _say(type(model).__name__, known[alone])
    return not known[alone]


@functools.cache
def _say(model: str, site: str) -> None:
    """Log it once in a process."""
    logging.getLogger("pyrozoo").warning(
        "%s: draws are made one by one, which takes longer: site %r does not broadcast over many draws at once (count "
        "dimensions from the right; clause C18 of `pyrozoo check` says more)", model, site,
    )  # fmt: skip


def _trial(model: ZooModel, guide: Any, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Name of the first site that does not broadcast; empty if all do."""
    alone = bool(options.get("targets_only"))
    seen, apart = _Reached(), {**arguments, **(model.targets_alone if alone else {})}
    prior = guide is no_latents
    try:
        with seen:
            many = pair(model, guide, arguments, draws=TRIED, **options)
            free = many.predictive(alone, prior)
            together = [_densities(many, free, draw, prior) for draw in (0, TRIED - 1)]
    except Exception:  # of any kind, from the code of a model; one that has other causes shows in one draw, too
        one = pair(model, guide, arguments, **options)
        sites = one.predictive(alone, prior).nodes if prior else dict(one.sites("guide")) | dict(one.sites("model"))
        names = [name for name, site in sites.items() if _drawn(site)]
        return next((name for name in names if name not in seen.names), names[-1] if names else "")
    for draw, found in zip((0, TRIED - 1), together, strict=True):
        one = pair(model, guide, arguments, **{**options, "fixed": _of_one(many.guide, draw)})
        values = {name: site["value"] for name, site in _of_one(free, draw).nodes.items() if _drawn(site)}
        held = poutine.condition(poutine.uncondition(model), data=values)
        expected = _densities(one, poutine.trace(held).get_trace(**apart), 0, prior)
        for key, density in found.items():
            if key not in expected or not _close(density, expected[key]):
                return key[1]
    return ""


class _Reached(Messenger):
    """Remember the sites that were reached."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _pyro_post_sample(self, msg: dict) -> None:
        self.names.add(msg["name"])


def _densities(drawn: Pair, free: Trace, draw: int, prior: bool) -> dict[tuple[str, str], Tensor]:
    """Log density of every site at one draw, of guide, model, and the model that draws its data; of points none."""
    parts = () if prior else ("guide", "model")
    sites = [((part, name), site) for part in parts for name, site in drawn.sites(part)]
    sites += [(("data", name), site) for name, site in free.nodes.items() if _drawn(site)]
    return {
        key: _at(drawn.log_density(site), site, 0, drawn.draws, draw) for key, site in sites if not is_point(site["fn"])
    }


def _drawn(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")


def _of_one(trace: Trace, draw: int) -> Trace:
    """One of several draws, as a trace of one draw has it."""
    out = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            out.nodes[name] = {**site, "value": _at(site["value"], site, site["fn"].event_dim, TRIED, draw)}
    return out


def _at(value: Tensor, site: Mapping[str, Any], event: int, draws: int, draw: int) -> Tensor:
    """The value of one of several draws, without the dimensions of size 1 left of the plates that a global one has."""
    frames = frames_of(site)
    copies = next((dim for dim, name in frames.items() if name == COPIES), None)
    if draws == 1 or copies is None or value.dim() - event + copies < 0:
        return value
    value = value.select(copies - event, draw if along_copies(value, site, draws, event) else 0)
    left = max((-dim for dim, name in frames.items() if name != COPIES), default=0)
    while value.dim() - event > left and value.shape[0] == 1:
        value = value[0]
    return value


def _close(density: Tensor, alone: Tensor) -> bool:
    tolerance = CLOSE if alone.dtype == torch.float64 else CLOSE_SINGLE
    try:
        density, alone = torch.broadcast_tensors(density.double(), alone.double())
    except RuntimeError:
        return False
    return torch.allclose(density, alone, rtol=tolerance, atol=tolerance, equal_nan=True)
