"""Priors as arguments: checking, broadcasting, and the text and JSON forms of a distribution."""

from __future__ import annotations

import ast
import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import constraints


def fit_to_site(prior: dist.Distribution, site: str, like: dist.Distribution) -> dist.Distribution:
    """Make `prior` a prior of `site`, whose default is `like`: broadcast a scalar one, check shape and support.

    Raises:
        ValueError: The event shape or the support differs from the default's.
    """
    if prior.batch_shape + prior.event_shape == torch.Size() and like.event_shape:
        prior = prior.expand(like.event_shape).to_event(len(like.event_shape))
    if prior.event_shape != like.event_shape or prior.batch_shape not in (torch.Size(), like.batch_shape):
        raise ValueError(
            f"prior of {site!r}: event shape {tuple(prior.event_shape)} with batch shape {tuple(prior.batch_shape)}, "
            f"expected event shape {tuple(like.event_shape)}; use a scalar distribution, or .to_event()"
        )
    if not _same_support(prior.support, like.support):
        raise ValueError(f"prior of {site!r}: support {prior.support}, expected {like.support} as of the default prior")
    return prior


def parse(text: str) -> dist.Distribution:
    """Read a prior such as ``"StudentT(4, 0, 1)"`` or ``"Normal(loc=0, scale=2)"``: a Pyro distribution of numbers.

    Raises:
        ValueError: Not a call, not a distribution of Pyro, or an argument that is not a number.
    """
    example = "write it like StudentT(4, 0, 1)"
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError
        positional = [_finite(argument) for argument in call.args]
        named = {keyword.arg: _finite(keyword.value) for keyword in call.keywords}
        if None in named:  # **something
            raise ValueError
    except (SyntaxError, ValueError, TypeError, OverflowError, MemoryError, RecursionError):
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise ValueError(f"prior {shown!r} is not a distribution with numbers as arguments; {example}") from None
    return _build(call.func.id, positional, named)


def to_json(prior: Any) -> dict | None:
    """Describe a prior as ``{"name", "arguments", "event_dims"}``, or None where JSON cannot hold it."""
    event_dims = 0
    while isinstance(prior, torch.distributions.Independent):
        event_dims += prior.reinterpreted_batch_ndims
        prior = prior.base_dist
    name = type(prior).__name__
    if getattr(dist, name, None) is not type(prior) or not isinstance(getattr(prior, "arg_constraints", None), dict):
        return None
    arguments = {k: getattr(prior, k) for k in prior.arg_constraints if k in prior.__dict__}
    if {"probs", "logits"} <= set(arguments):  # one was given, torch has added the other on use
        arguments.pop("logits" if getattr(prior, "_param", None) is arguments["probs"] else "probs")
    if not arguments or any(v.requires_grad for v in arguments.values() if isinstance(v, torch.Tensor)):
        return None
    return {
        "name": name,
        "arguments": {k: torch.as_tensor(v).tolist() for k, v in arguments.items()},
        "event_dims": event_dims,
    }


def from_json(record: dict) -> dist.Distribution:
    """Rebuild what `to_json` described; only distributions of Pyro, by name, with numbers."""
    return _build(record["name"], [], record["arguments"]).to_event(record["event_dims"])


def _build(name: str, positional: list, named: dict) -> dist.Distribution:
    family = getattr(dist, name, None)
    if not (isinstance(family, type) and issubclass(family, TorchDistributionMixin)):
        raise ValueError(f"{name!r} is not a distribution of pyro.distributions")
    parameters = family.arg_constraints if isinstance(getattr(family, "arg_constraints", None), dict) else {}
    if len(positional) + len(named) > len(parameters) or not set(named) <= set(parameters):
        raise ValueError(f"prior {name}: its arguments are {sorted(parameters)}")
    try:
        return family(*map(_number, positional), **{k: _number(v) for k, v in named.items()})
    except Exception as error:  # families fail in their own ways when shapes or values do not suit them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"prior {name}: {reason}") from None


def _finite(argument: ast.expr) -> float:
    value = ast.literal_eval(argument)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _number(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.get_default_dtype())


def _same_support(a: constraints.Constraint, b: constraints.Constraint) -> bool:
    while isinstance(a, constraints.independent) and isinstance(b, constraints.independent):
        if a.reinterpreted_batch_ndims != b.reinterpreted_batch_ndims:
            return False
        a, b = a.base_constraint, b.base_constraint
    return type(a) is type(b) and str(a) == str(b)
