"""Priors as arguments: checking, broadcasting, their text and JSON forms, and two priors that learn from the data."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn
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


def moved(prior: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same distribution with its parameters moved, e.g. to a device; what is not made of parameters stays."""
    base, event_dims = _base(prior)
    if not isinstance(getattr(base, "arg_constraints", None), dict):
        return prior
    arguments = parameters(base)
    if not arguments or not all(isinstance(value, torch.Tensor) for value in arguments.values()):
        return prior
    if {"probs", "logits"} <= set(arguments):
        arguments.pop("logits")
    return type(base)(**{name: move(value) for name, value in arguments.items()}).to_event(event_dims)


class LearnedScale(nn.Module):
    """A location-scale prior whose scale is learned with the model: empirical Bayes, or type-II maximum likelihood.

    Give it in place of a distribution, ``create_model(..., priors={"c": LearnedScale(4)})``; the ELBO then has the
    scale among its parameters, and ``fit.model.prior("c")`` is the prior as learned. Where a network reads the site,
    its first layer can absorb the scale: read the scales of several dimensions beside one another, not for
    themselves. A scale, and the guide with it, may shrink to zero: that dimension then says nothing.

    There is no hyper-prior on the scale. The prior is called inside the site's plate, where a density of the scale
    would count once per position and be multiplied by a minibatch's scale, while it belongs to the objective once;
    a model that wants one samples its scale as a site of its own, outside the plate.

    Every fit, and each of its restarts, starts from the parameters that the module given has then: a fit of a model
    that was fitted before goes on from the learned ones, while its networks start anew.

    Args:
        size: K, dimension of the site, each of which gets a scale of its own; None for one scale in all, which suits
            a site of any shape.
        base: Scalar distribution with ``loc`` and ``scale`` on the real line, standard normal if None: its location
            and further parameters stay, its scale is where learning starts.

    Raises:
        ValueError: `base` is not scalar, no location-scale distribution of Pyro, or not made of plain numbers.
    """

    def __init__(self, size: int | None = None, base: dist.Distribution | None = None) -> None:
        super().__init__()
        base = dist.Normal(0.0, 1.0) if base is None else base
        described = to_json(base)
        if described is None or base.batch_shape + base.event_shape != torch.Size():
            raise ValueError(
                f"base: {base} is not a scalar distribution of numbers; write it like StudentT(4., 0., 1.)"
            )
        rescaled(base, 1.0)  # refuses what has no scale
        self.size, self.base = size, described
        self.log_scale = nn.Parameter(torch.zeros(() if size is None else size))

    def forward(self, *_: Any) -> dist.Distribution:
        """The prior, event shape () or (K,); parents of the site are ignored."""
        arguments = {name: self.log_scale.new_tensor(value) for name, value in self.base["arguments"].items()}
        prior = rescaled(getattr(dist, self.base["name"])(**arguments), self.log_scale.exp())
        return prior if self.size is None else prior.to_event(1)

    def describe(self) -> dict[str, Any]:
        """Constructor arguments as JSON holds them."""
        return {"size": self.size, "base": self.base}


class Mixture(nn.Module):
    """A prior of L populations: a mixture of L diagonal normals whose weights, means and scales are learned.

    For units that come in kinds. A guide with one normal per position cannot lie on two populations at once, so a
    position between them is assigned too firmly. Populations of equal role have no order. What `LearnedScale` says of
    scales and starting values holds here too: restarts of a fit share their start, and another start needs another
    `seed` here.

    Args:
        components: L, number of populations.
        size: K, dimension of the site; None for a scalar site (of a vector site every dimension then is drawn from the
            same mixture, each on its own).
        spread: Standard deviation over the populations of their means at the start, in each dimension.
        seed: Of the means at the start, which break the symmetry between the populations.

    Raises:
        ValueError: Fewer than two populations.
    """

    def __init__(self, components: int, size: int | None = None, spread: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        if components < 2:
            raise ValueError(f"components: {components}; a mixture has at least 2")
        self.arguments = {"components": components, "size": size, "spread": spread, "seed": seed}
        shape = (components,) if size is None else (components, size)
        locs = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        # Standardised, so that no two populations of a dimension start together by chance where there are only two.
        self.locs = nn.Parameter(spread * (locs - locs.mean(0)) / locs.std(0, unbiased=False))
        self.log_scales = nn.Parameter(torch.zeros(shape))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, *_: Any) -> dist.Distribution:
        """The prior, event shape () or (K,); parents of the site are ignored."""
        normals = dist.Normal(self.locs, self.log_scales.exp()).to_event(self.locs.dim() - 1)
        return _Mixture(dist.Categorical(logits=self.logits), normals)

    def describe(self) -> dict[str, Any]:
        """Constructor arguments as JSON holds them."""
        return self.arguments


class _Mixture(dist.MixtureSameFamily):
    """torch wraps a mixture's support in a constraint of its own, which no AutoGuide has a transform for."""

    @property
    def support(self) -> constraints.Constraint:
        return self.component_distribution.support


def parameters(prior: Any) -> dict[str, Any]:
    """Constructor arguments of a distribution that were given.

    Transformed distributions (LogNormal, HalfNormal) keep theirs in the distribution they transform.
    """
    transformed = isinstance(prior, torch.distributions.TransformedDistribution)
    return {
        name: getattr(prior, name)
        for name in prior.arg_constraints
        if name in prior.__dict__ or (transformed and isinstance(getattr(type(prior), name, None), property))
    }


def rescaled(prior: dist.Distribution, factor: Any) -> dist.Distribution:
    """The same location-scale distribution with its scale times `factor`, a number or a tensor of the event's shape.

    Raises:
        ValueError: No distribution on the real line with ``loc`` and ``scale``.
    """
    base, event_dims = _base(prior)
    parameters = base.arg_constraints if isinstance(getattr(base, "arg_constraints", None), dict) else {}
    if not {"loc", "scale"} <= set(parameters) or not _same_support(base.support, constraints.real):
        raise ValueError(
            f"{type(base).__name__} has no scale to change: only distributions on the real line with loc and scale "
            "have one, e.g. Normal, StudentT, Laplace"
        )
    arguments = {name: getattr(base, name) for name in parameters}
    arguments["scale"] = arguments["scale"] * factor
    return type(base)(**arguments).to_event(event_dims)


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
    """Describe a prior as ``{"name", "arguments", "event_dims"}``, or None where JSON cannot hold it.

    Of `LearnedScale` and `Mixture` these are the constructor's arguments; what was learned is among the weights.
    """
    if type(prior) in (LearnedScale, Mixture):
        return {"name": type(prior).__name__, "arguments": prior.describe()}
    prior, event_dims = _base(prior)
    name = type(prior).__name__
    if getattr(dist, name, None) is not type(prior) or not isinstance(getattr(prior, "arg_constraints", None), dict):
        return None
    arguments = parameters(prior)
    if {"probs", "logits"} <= set(arguments):  # one was given, torch has added the other on use
        arguments.pop("logits" if getattr(prior, "_param", None) is arguments["probs"] else "probs")
    if not arguments or any(v.requires_grad for v in arguments.values() if isinstance(v, torch.Tensor)):
        return None
    return {
        "name": name,
        "arguments": {k: torch.as_tensor(v).tolist() for k, v in arguments.items()},
        "event_dims": event_dims,
    }


def from_json(record: dict) -> dist.Distribution | nn.Module:
    """Rebuild what `to_json` described: distributions of Pyro, by name, with numbers, and the two learned priors."""
    arguments = record["arguments"]
    if record["name"] == "LearnedScale":
        return LearnedScale(arguments["size"], from_json(arguments["base"]))
    if record["name"] == "Mixture":
        return Mixture(**arguments)
    return _build(record["name"], [], arguments).to_event(record["event_dims"])


def _base(prior: Any) -> tuple[Any, int]:
    """A distribution without the ``to_event`` around it, and how many dimensions that made event dimensions."""
    event_dims = 0
    while isinstance(prior, torch.distributions.Independent):
        event_dims += prior.reinterpreted_batch_ndims
        prior = prior.base_dist
    return prior, event_dims


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
    return str(_open(a)) == str(_open(b))


def _open(support: constraints.Constraint) -> constraints.Constraint:
    """Positive for non-negative: they differ by a point of probability zero (Gamma has one, LogNormal the other)."""
    return constraints.positive if support is constraints.nonnegative else support
