"""The subject of a check: one entry, variant and guide, with default or swapped priors."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ..data.batch import Batch
from ..inference.copies import default_dtype, isolated
from ..inference.losses import materialise
from ..modeling import priors as prior_tools
from ..modeling import registry
from ..modeling.base import ZooModel
from ..modeling.guides import with_support
from .describing import trace_of, traced_sites


class Skipped(Exception):
    """A check does not apply to a subject; the message says why."""


@dataclass(frozen=True)
class Subject:
    """One combination to check.

    Attributes:
        name: Name of the entry.
        variant: Variant of the entry.
        guide: Guide of the entry.
        swapped: Whether every prior is replaced by another one of the same support.

    Example:
        >>> import pyrozoo as zoo
        >>> subject = zoo.contract.Subject("ssmtl", "mtl", "mvn")
        >>> str(subject), type(subject.model()).__name__
        ('ssmtl/mtl x mvn', 'MTL')
    """

    name: str
    variant: str
    guide: str
    swapped: bool = False

    def __str__(self) -> str:
        return f"{self.name}/{self.variant} x {self.guide}" + (", swapped prior" if self.swapped else "")

    @property
    def card(self) -> registry.Card:
        """Card of the entry."""
        return registry.card(self.name)

    @property
    def parts(self) -> Any:
        """Parts of the entry."""
        return registry.entry(self.name).parts

    @property
    def sites(self) -> dict[str, registry.Site]:
        """Sites of the variant: those on the card or, where it names none, those of the model on the tiny data."""
        if self.card.sites:
            return self.card.sites[self.variant]
        with isolated(0):
            model = self.model().eval()
            return traced_sites(model, trace_of(model, model, self.data()))

    @property
    def leads(self) -> bool:
        """Whether the guide is the variant's first: what is the same under every guide is checked with that one."""
        return self.guide == guides_of(self.card, self.variant)[0]

    def data(self, seed: int = 0) -> Batch:
        """The entry's tiny data, in torch's default floating type."""
        return _tiny(self.parts.tiny, seed)[0].to(dtype=torch.get_default_dtype())

    def model(self, seed: int = 0, **arguments: Any) -> ZooModel:
        """Create a model of the tiny data, with parameters drawn under torch's current seed.

        Args:
            seed: Random seed for the data.
            **arguments: Arguments of the constructor, e.g. ``priors``.

        Raises:
            Skipped: Priors should be swapped, and the variant has none that can be.
        """
        data, own = _tiny(self.parts.tiny, seed)
        taken = inspect.signature(self.parts.VARIANTS[self.variant]).parameters
        own = {name: value for name, value in own.items() if name in taken}

        def create(**given: Any) -> ZooModel:
            return registry.create_model(self.name, data, variant=self.variant, **{**own, **given})

        if self.swapped and "priors" not in arguments:
            with torch.random.fork_rng():
                arguments["priors"] = other_priors(create())
            if not arguments["priors"]:
                raise Skipped("the variant has no prior that can be swapped")
        return create(**arguments)

    @contextlib.contextmanager
    def built(self, seed: int = 0, guide: Any = None) -> Iterator[tuple[ZooModel, nn.Module, Batch]]:
        """Model, guide and data in double precision and evaluation mode, parameters away from their initial values.

        Initial values are special (zeros, ones), so that a wrong term can vanish there.

        Args:
            seed: Random seed for data and parameters.
            guide: Guide to use instead of the subject's: a name, a class or a factory.
        """
        with default_dtype(torch.float64), isolated(seed):
            model = self.model(seed)
            module = registry.create_guide(model, guide or self.guide)
            batch = with_support(module, self.data(seed))
            materialise(model, module, batch)
            for parameter in [*model.parameters(), *module.parameters()]:
                parameter.data += 0.1 * torch.randn_like(parameter)
            yield model.eval(), module.eval(), batch


def _tiny(simulate: Callable[[int], tuple[Batch, dict[str, Any]]], seed: int) -> tuple[Batch, dict[str, Any]]:
    data, own = _simulated(simulate, seed, torch.get_default_dtype())
    return data.with_tensors({name: tensor.clone() for name, tensor in data.tensors.items()}), dict(own)


@functools.lru_cache(maxsize=8)  # some simulators take longer than many a clause
def _simulated(simulate: Callable[[int], Any], seed: int, dtype: torch.dtype) -> tuple[Batch, dict[str, Any]]:
    """Data that no clause is handed itself, only copies of; `dtype` is the default one, which a simulator may use."""
    return simulate(seed)


def subjects(card: registry.Card) -> list[Subject]:
    """List every variant and guide of an entry, with default and with swapped priors.

    Args:
        card: Card of the entry.

    Example:
        >>> import pyrozoo as zoo
        >>> [str(subject) for subject in zoo.contract.subjects(zoo.card("ssmtl"))][:2]
        ['ssmtl/ssmtl x paper', 'ssmtl/ssmtl x paper, swapped prior']
    """
    both = (False, True)
    return [
        Subject(card.name, variant, guide, swapped)
        for variant in card.variants
        for guide in guides_of(card, variant)
        for swapped in both
    ]


def representatives(card: registry.Card) -> list[Subject]:
    """List the first guide of every variant, every guide once more where that is its only place, and a swapped prior.

    Args:
        card: Card of the entry.

    Example:
        >>> import pyrozoo as zoo
        >>> [str(subject) for subject in zoo.contract.representatives(zoo.card("ssmtl"))][:3]
        ['ssmtl/ssmtl x paper', 'ssmtl/ssmtl x paper, swapped prior', 'ssmtl/ssmtl x mvn']
    """
    chosen: list[Subject] = []
    for subject in subjects(card):
        first_swap = subject.swapped and not any(one.swapped for one in chosen)
        leads = subject.guide == guides_of(card, subject.variant)[0]
        new_guide = subject.guide not in {one.guide for one in chosen}
        if first_swap if subject.swapped else leads or new_guide:
            chosen.append(subject)
    return chosen


def guides_of(card: registry.Card, variant: str) -> tuple[str, ...]:
    """Guides of an entry that suit a variant."""
    return card.guides_of.get(variant, tuple(card.guides))


# -------------------------------------------------------------------- priors
Prior: TypeAlias = "dist.Distribution | Callable[..., dist.Distribution]"


def swappable(model: ZooModel) -> list[str]:
    """Sites whose prior can be given by name, without enumerated ones: their prior often holds model parameters."""
    return [site for site in model.priors() if site not in model.enumerated]


def other_priors(model: ZooModel) -> dict[str, Prior]:
    """Site -> another prior of the same support, for every site that has one."""
    defaults = model.priors()
    found = {site: other_prior(defaults[site]) for site in swappable(model)}
    return {site: prior for site, prior in found.items() if prior is not None}


def other_prior(default: Prior) -> Prior | None:
    """Another distribution of the same support and event shape, or None if the family has no such member.

    A StudentT if the support is the real line, given as a scalar so that it must be broadcast; otherwise the same
    family with other parameters, so that a conjugate guide still applies; None for a family that takes more than its
    parameters, as LKJCholesky takes the size of the matrix.
    """
    if not isinstance(default, dist.Distribution):
        return lambda *parents: other_prior(default(*parents))
    support, base, event_dims = default.support, default, 0
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return dist.StudentT(5.0, 0.3, 1.5)
    while isinstance(base, torch.distributions.Independent):
        event_dims += base.reinterpreted_batch_ndims
        base = base.base_dist
    arguments = prior_tools.parameters(base)
    moved = {k: _moved(v.detach(), base.arg_constraints[k]) for k, v in arguments.items()}
    needed = {k for k, v in inspect.signature(type(base)).parameters.items() if v.default is v.empty}
    if not any(torch.ne(moved[k], arguments[k]).any() for k in moved) or not needed <= set(moved):
        return None
    return type(base)(**moved).to_event(event_dims)


def _moved(value: Tensor, constraint: Any) -> Tensor:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    if constraint in (constraints.positive, constraints.nonnegative):
        return 1.3 * value
    if constraint is constraints.simplex:
        return (value + 1.0 / value.shape[-1]) / 2
    if constraint is constraints.unit_interval:
        return 0.1 + 0.8 * value
    return value
