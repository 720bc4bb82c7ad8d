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
    """Adapt a prior to a site: broadcast a scalar one to the event shape, and check shape and support.

    Args:
        prior: The prior.
        site: Name of the site, for error messages.
        like: Default prior of the site.

    Raises:
        ValueError: The event shape or the support differs from the default's.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyrozoo as zoo
        >>> default = dist.Normal(0.0, 1.0).expand([4]).to_event(1)
        >>> zoo.priors.fit_to_site(dist.StudentT(4.0, 0.0, 1.0), "c", default).event_shape
        torch.Size([4])
    """
    if prior.batch_shape + prior.event_shape == torch.Size() and like.event_shape:
        try:
            prior = prior.expand(like.event_shape).to_event(len(like.event_shape))
        except NotImplementedError:
            kind = type(prior).__name__
            raise ValueError(f"prior of {site!r}: {kind} cannot be repeated along a dimension; use another") from None
    if prior.event_shape != like.event_shape or prior.batch_shape not in (torch.Size(), like.batch_shape):
        raise ValueError(
            f"prior of {site!r}: event shape {tuple(prior.event_shape)} with batch shape {tuple(prior.batch_shape)}, "
            f"expected event shape {tuple(like.event_shape)}; use a scalar distribution, or .to_event()"
        )
    if not _same_support(prior.support, like.support):
        raise ValueError(f"prior of {site!r}: support {prior.support}, expected {like.support} as of the default prior")
    return prior


def moved(prior: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same distribution with its parameters moved, e.g. to a device.

    Args:
        prior: The prior; one whose parameters are not all tensors is returned unchanged.
        move: Function applied to every parameter.
    """
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
    its first layer can absorb the scale, so compare the scales of several dimensions with one another and do not
    interpret one alone. A scale, and the guide with it, may shrink to zero: that dimension then carries no information.

    There is no hyper-prior on the scale. The prior is called inside the site's plate, where the density of a scale
    would count once per position and be multiplied by a minibatch's scale, although it belongs to the objective once. A
    model that needs a hyper-prior samples its scale as a site of its own, outside the plate.

    Every fit, and each of its restarts, starts from the current parameters of this module: fitting a model again that
    was fitted before continues from the learned scales, while its networks start anew.

    Args:
        size: Dimension K of the site, for one scale per dimension; None for one scale in all, for a site of any shape.
        base: Scalar distribution with ``loc`` and ``scale`` on the real line, standard normal if None: its location
            and further parameters are kept, and its scale is the initial one.

    Raises:
        ValueError: `base` is not scalar, no location-scale distribution of Pyro, or not made of plain numbers.

    Example:
        >>> import pyrozoo as zoo
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(500))
        >>> model = zoo.create_model("ssmtl", data, priors={"c": zoo.priors.LearnedScale(4)})
        >>> fit = zoo.fit(model, "paper", data, steps=20, progress=False)
        >>> scales = fit.model.prior("c").base_dist.scale
        >>> scales.shape, bool((scales != 1.0).all())
        (torch.Size([4]), True)
    """

    def __init__(self, size: int | None = None, base: dist.Distribution | None = None) -> None:
        super().__init__()
        base = dist.Normal(0.0, 1.0) if base is None else base
        described = to_json(base)
        if described is None or base.batch_shape + base.event_shape != torch.Size():
            raise ValueError(
                f"base: {base} is not a scalar distribution of numbers; write it like StudentT(4., 0., 1.)"
            )
        rescaled(base, 1.0)  # raises if there is no scale
        self.size, self.base = size, described
        self.log_scale = nn.Parameter(torch.zeros(() if size is None else size))

    def forward(self, *_: Any) -> dist.Distribution:
        """The prior, event shape () or (K,); parents of the site are ignored."""
        arguments = {name: self.log_scale.new_tensor(value) for name, value in self.base["arguments"].items()}
        prior = rescaled(getattr(dist, self.base["name"])(**arguments), self.log_scale.exp())
        return prior if self.size is None else prior.to_event(1)

    def describe(self) -> dict[str, Any]:
        """Constructor arguments in a form that JSON can hold."""
        return {"size": self.size, "base": self.base}


class Mixture(nn.Module):
    """A prior of L populations: a mixture of L diagonal normals whose weights, means and scales are learned.

    For units that come in kinds. A guide with one normal per position cannot cover two populations at once, so a
    position between them is assigned with too much certainty. The populations have no order: they can swap between
    fits. As with `LearnedScale`, scales are meaningful only relative to one another, and every restart of a fit starts
    from the same populations; for another start give another `seed`.

    Args:
        components: Number of populations L.
        size: Dimension K of the site; None for a scalar site (for a vector site, every dimension is then drawn
            independently from the same mixture).
        spread: Initial standard deviation of the means over the populations, in each dimension.
        seed: Random seed for the initial means, which break the symmetry between the populations.

    Raises:
        ValueError: Fewer than two populations.

    Example:
        >>> import pyrozoo as zoo
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> model = zoo.create_model("ssmtl", data, priors={"c": zoo.priors.Mixture(3, size=4)})
        >>> prior = model.prior("c")
        >>> prior.event_shape, prior.mixture_distribution.probs.shape
        (torch.Size([4]), torch.Size([3]))
    """

    def __init__(self, components: int, size: int | None = None, spread: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        if components < 2:
            raise ValueError(f"components: {components}; a mixture has at least 2")
        self.arguments = {"components": components, "size": size, "spread": spread, "seed": seed}
        shape = (components,) if size is None else (components, size)
        locs = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        # Standardised, so that with two populations their means never start close together by chance.
        self.locs = nn.Parameter(spread * (locs - locs.mean(0)) / locs.std(0, unbiased=False))
        self.log_scales = nn.Parameter(torch.zeros(shape))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, *_: Any) -> dist.Distribution:
        """The prior, event shape () or (K,); parents of the site are ignored."""
        normals = dist.Normal(self.locs, self.log_scales.exp()).to_event(self.locs.dim() - 1)
        return _Mixture(dist.Categorical(logits=self.logits), normals)

    def describe(self) -> dict[str, Any]:
        """Constructor arguments in a form that JSON can hold."""
        return self.arguments


class _Mixture(dist.MixtureSameFamily):
    """A mixture with the support of its components.

    torch wraps a mixture's support in a constraint of its own, for which no AutoGuide has a transform.
    """

    @property
    def support(self) -> constraints.Constraint:
        return self.component_distribution.support


def parameters(prior: Any) -> dict[str, Any]:
    """Constructor arguments that a distribution was given, by name.

    Transformed distributions (LogNormal, HalfNormal) keep theirs in the one they transform, Beta in a Dirichlet.
    """
    transformed = isinstance(prior, torch.distributions.TransformedDistribution | torch.distributions.Beta)
    return {
        name: getattr(prior, name)
        for name in prior.arg_constraints
        if name in prior.__dict__ or (transformed and isinstance(getattr(type(prior), name, None), property))
    }


def rescaled(prior: dist.Distribution, factor: Any) -> dist.Distribution:
    """The same location-scale distribution with its scale multiplied by a factor.

    Args:
        prior: The distribution.
        factor: A positive number, or a tensor of the event's shape.

    Raises:
        ValueError: Not a distribution on the real line with ``loc`` and ``scale``.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyrozoo as zoo
        >>> zoo.priors.rescaled(dist.Normal(1.0, 2.0), 0.5).scale.item()
        1.0
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
    """Read a prior from text, e.g. ``"StudentT(4, 0, 1)"`` or ``"Normal(loc=0, scale=2)"``.

    Args:
        text: A distribution of Pyro called with numbers.

    Raises:
        ValueError: Not a call, not a distribution of Pyro, or an argument that is not a number.

    Example:
        >>> import pyrozoo as zoo
        >>> prior = zoo.priors.parse("StudentT(4, 0, 1)")
        >>> type(prior).__name__, prior.df.item()
        ('StudentT', 4.0)
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
    """Describe a prior as ``{"name", "arguments", "event_dims"}``, or None if JSON cannot hold it.

    For `LearnedScale` and `Mixture`, ``arguments`` are the constructor's; what was learned is among the weights.

    Args:
        prior: The prior.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyrozoo as zoo
        >>> zoo.priors.to_json(dist.Normal(0.0, 2.0))
        {'name': 'Normal', 'arguments': {'loc': 0.0, 'scale': 2.0}, 'event_dims': 0}
    """
    if type(prior) in (LearnedScale, Mixture):
        return {"name": type(prior).__name__, "arguments": prior.describe()}
    prior, event_dims = _base(prior)
    name = type(prior).__name__
    if getattr(dist, name, None) is not type(prior) or not isinstance(getattr(prior, "arg_constraints", None), dict):
        return None
    arguments = parameters(prior)
    if {"probs", "logits"} <= set(arguments):  # one was given; torch adds the other on first use
        arguments.pop("logits" if getattr(prior, "_param", None) is arguments["probs"] else "probs")
    if not arguments or any(v.requires_grad for v in arguments.values() if isinstance(v, torch.Tensor)):
        return None
    return {
        "name": name,
        "arguments": {k: torch.as_tensor(v).tolist() for k, v in arguments.items()},
        "event_dims": event_dims,
    }


def from_json(record: dict) -> dist.Distribution | nn.Module:
    """Rebuild a prior that `to_json` described.

    Args:
        record: The description.

    Example:
        >>> import pyrozoo as zoo
        >>> record = {"name": "Normal", "arguments": {"loc": 0.0, "scale": 2.0}, "event_dims": 0}
        >>> zoo.priors.from_json(record).scale.item()
        2.0
    """
    arguments = record["arguments"]
    if record["name"] == "LearnedScale":
        return LearnedScale(arguments["size"], from_json(arguments["base"]))
    if record["name"] == "Mixture":
        return Mixture(**arguments)
    return _build(record["name"], [], arguments).to_event(record["event_dims"])


def _base(prior: Any) -> tuple[Any, int]:
    """A distribution without the ``to_event`` around it, and the number of dimensions that it made event dimensions."""
    event_dims = 0
    while isinstance(prior, torch.distributions.Independent):
        event_dims += prior.reinterpreted_batch_ndims
        prior = prior.base_dist
    return prior, event_dims


def _build(name: str, positional: list, named: dict) -> dist.Distribution:
    family = getattr(dist, name, None)
    if not (isinstance(family, type) and issubclass(family, TorchDistributionMixin)):
        raise ValueError(f"{name!r} is not a distribution of pyro.distributions")
    constraints = getattr(family, "arg_constraints", None)
    parameters = constraints if isinstance(constraints, dict) else {}
    if not parameters:  # a base class, or a distribution of other distributions
        raise ValueError(f"prior {name}: it is not made of numbers; use one that is, such as StudentT")
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
    """Treat non-negative like positive: they differ by a point of probability zero (Gamma and LogNormal differ so)."""
    return constraints.positive if support is constraints.nonnegative else support
