"""Fresh copies of a model and guide under a seed, apart from the caller's random state and Pyro settings."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import nn

from ..modeling import registry
from ..modeling.base import ZooModel, make_local
from ..modeling.guides import require_composed
from ..modeling.turns import turn
from .settings import plain_number, whole


def run_seed(seed: int, index: int) -> int:
    """Random seed for one restart, chain or simulation among several, derived from `seed` and its index."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a block under seed `seed` with module-local Pyro parameters, one thread at a time.

    The caller's random state and Pyro settings are restored on exit. Threads that fit or predict at the same time take
    turns; a thread that draws with torch or runs Pyro by itself meanwhile must take turns with them by its own means.

    Raises:
        TypeError, ValueError: `seed` is no whole number, or negative.
    """
    seed = whole("seed", plain_number(seed), 0)
    with turn(), _own_state(seed):
        yield


@contextlib.contextmanager
def without_denormals() -> Iterator[None]:
    """Run a block with numbers below the smallest normal one set to zero, where the processor can; restored on exit.

    Gradients that fade over hundreds of steps of a recurrent network end among such numbers, which processors compute
    many times more slowly.
    """
    flushed = not bool(torch.full((1,), 1e-40, dtype=torch.float32) * 1.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


@contextlib.contextmanager
def _own_state(seed: int) -> Iterator[None]:
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), pyro.settings.context(module_local_params=True):
        torch.manual_seed(seed)
        yield


def build(model: ZooModel, guide: Any) -> tuple[ZooModel, nn.Module]:
    """Build a fresh model and guide, under the current seed and settings."""
    fresh = make_local(model.fresh())
    if isinstance(guide, nn.Module):
        require_composed(guide)
        return fresh, make_local(copied(guide, {id(model): fresh}))
    made = registry.create_guide(fresh, guide)
    if not isinstance(made, nn.Module):
        raise TypeError(f"guide: the factory {guide_label(guide)} returned {type(made).__name__}; return a PyroModule")
    return fresh, made


def copied(guide: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep copy of a guide; gives AutoGuides back the model that Pyro drops from copy and original on copying."""
    autos = {name: part for name, part in guide.named_modules() if isinstance(part, AutoGuide)}
    held = {name: (part._model, part.master) for name, part in autos.items()}
    traces = {id(part.prototype_trace): part.prototype_trace for part in autos.values()}  # never written to again
    try:
        new = copy.deepcopy(guide, memo | traces)
    finally:
        for name, part in autos.items():
            part._model, part.master = held[name]
    for name, part in new.named_modules():
        if name in held:
            part._model = (_rebound(held[name][0][0], memo),)
    return new


def _rebound(function: Any, memo: dict[int, Any]) -> Any:
    """The same function under the same handlers, or with its first arguments filled in, of the objects that `memo` has.

    Args:
        function: The function, or an argument of one.
        memo: id of an object -> what replaces it.
    """
    if id(function) in memo:
        return memo[id(function)]
    if type(function) is functools.partial:
        arguments = (_rebound(value, memo) for value in function.args)
        return functools.partial(function.func, *arguments, **function.keywords)
    wrapped = getattr(function, "func", None)
    if isinstance(wrapped, functools.partial) and len(wrapped.args) == 2 and isinstance(wrapped.args[0], Messenger):
        handler, inner = wrapped.args
        return handler(_rebound(inner, memo))
    return function


def guide_label(guide: Any) -> str:
    """Name of a guide in records: unchanged for names of the zoo and of Pyro, marked "(own)" for others."""
    if isinstance(guide, str):
        return guide
    if isinstance(guide, type) and issubclass(guide, AutoGuide):
        return guide.__name__
    return f"{getattr(guide, '__name__', type(guide).__name__)} (own)"


def reference_tensor(model: ZooModel) -> torch.Tensor | None:
    """A tensor with the device and the floating type of the model, or None if it has no floating tensor."""
    return next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), None)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype | str) -> Iterator[None]:
    """Let torch's default floating type be `dtype`, given as such or by its name, within the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
