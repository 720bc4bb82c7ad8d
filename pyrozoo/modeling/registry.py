"""The registry: which papers there are, how to make their models, guides and data; imports torch only on creation."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.batch import Batch
    from .base import ZooModel

BUILT_IN = ("auxvae", "m3sense", "medication", "ssmtl")


@dataclass(frozen=True)
class Card:
    """Facts of one paper's entry, free of torch; the contract recomputes them from the traced model.

    Attributes:
        name: Key of the registry: the paper's short name.
        title, authors, year: The paper.
        version: Of the model; changes whenever a log density changes.
        summary: One line: what the model is for.
        variants: Variant -> one line; the first is the default.
        sites: Variant -> {site -> Site}.
        guides: Guide -> one line; the first is the default.
        guides_of: Variant -> its guides, where not all apply.
        datasets: Data set -> one line, saying "simulated" or "real".
        experiments: Experiment of `reproduce` -> one line.
        identified: Posterior quantities that are the same in every restart (not rotated or reflected).
        calibrated: Latents whose simulation-based calibration the contract checks, model parameters fixed.
        expected: Metric of the entry's recovery experiment -> (value, standard error, k): mean over seeds within
            value +- k standard errors.
        golden: Variant -> log joint density at the contract's fixed trace.
        limitations: What a user must know before trusting a result, one line each.
    """

    name: str
    title: str
    authors: str
    year: int
    version: str
    summary: str
    variants: dict[str, str]
    sites: dict[str, dict[str, Site]]
    guides: dict[str, str]
    datasets: dict[str, str]
    experiments: dict[str, str] = field(default_factory=dict)
    identified: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()
    expected: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    golden: dict[str, float] = field(default_factory=dict)
    limitations: tuple[str, ...] = ()
    guides_of: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """One sample site: its kind, plate, dims and prior.

    Kinds: "latent", "observed", "partly observed", "enumerated", "deterministic" (a function of latents).
    """

    kind: str
    plates: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    prior: str = ""
    meaning: str = ""


@dataclass
class Entry:
    """A card and where its parts are: an object, or a module imported on first use.

    The parts: ``VARIANTS`` (name -> ZooModel class), ``GUIDES`` (name -> factory model -> guide), ``DATASETS``
    (name -> function returning a Batch, or a train and a test Batch), optionally ``EXPERIMENTS`` (name -> function or
    "module:function", see `experiments`), and ``tiny(seed) -> (Batch, model arguments)``: small data that the contract
    runs on; a variant is given those of the arguments that it takes. Optional for the contract:
    ``recovery(seed) -> {metric: value}``, compared with the card's ``expected``; and ``CALIBRATION`` (variant ->
    ``{"arguments": ..., "settings": ...}`` of model and fit) where calibration needs others than the defaults, as where
    the usual objective is not an ELBO. Of exact algorithms of the entry's own: ``EXACT`` (variant -> function seed ->
    {what: (found, by brute force)}) and ``RANKS`` (variant -> function seed -> {quantity: ranks of the truth among 99
    posterior draws}).

    Optional for the command line, where data are more than one table: ``read(path, rate=None, like=None) -> Batch``,
    with the rate that the user gave, and at prediction a row of the training data in whose terms to read; and
    ``tables(fit, batch) -> {suffix: DataFrame}``, what `predict` writes.
    """

    card: Card
    source: str | Any

    @property
    def parts(self) -> Any:
        """The object that holds the parts; a module is imported now."""
        return importlib.import_module(self.source) if isinstance(self.source, str) else self.source


_entries: dict[str, Entry] = {}


def register(card: Card, parts: str | ModuleType | SimpleNamespace) -> None:
    """Add an entry under ``card.name``.

    Args:
        card: Its facts.
        parts: The parts described in `Entry`, or the name of the module that holds them.

    Raises:
        ValueError: The name is taken.
    """
    if card.name in BUILT_IN or card.name in _entries:
        raise ValueError(f"an entry {card.name!r} is registered already; choose another name")
    _entries[card.name] = Entry(card, parts)


def unregister(name: str) -> None:
    """Remove an entry that `register` added."""
    del _entries[name]


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        KeyError: No such entry; the message lists them.
    """
    if name not in _entries:
        if name in BUILT_IN:
            module = f"pyrozoo.models.{name}"
            _entries[name] = Entry(importlib.import_module(f"{module}.card").CARD, f"{module}.entry")
        else:
            _load_plugins()
    if name not in _entries:
        raise KeyError(f"no model {name!r}; there are {list_models()}")
    return _entries[name]


def list_models() -> list[str]:
    """Names of all entries: built in, registered, and of installed packages (entry point ``pyrozoo.models``)."""
    return sorted({*BUILT_IN, *_entries, *(point.name for point in entry_points(group="pyrozoo.models"))})


def _load_plugins() -> None:
    for point in entry_points(group="pyrozoo.models"):
        if point.name not in _entries:
            point.load()  # a module that calls register()


def card(name: str) -> Card:
    """The card of an entry."""
    return entry(name).card


def create_model(name: str, data: Batch | None = None, *, variant: str | None = None, **arguments: Any) -> ZooModel:
    """Create a model; sizes and standardisation come from the data, and every argument can be overridden.

    Args:
        name: Entry.
        data: Data to take sizes from; without it give them as arguments.
        variant: Variant of the entry; the first of the card by default.
        **arguments: Of the model's constructor, e.g. ``priors={"c": ...}``.

    Raises:
        KeyError: No such entry or variant.
    """
    found = entry(name)
    variant = variant or next(iter(found.card.variants))
    family = _named(found.parts.VARIANTS, variant, f"variant of {name!r}")
    model = family(**{**({} if data is None else family.sizes_from(data)), **arguments})
    model.entry = (name, variant)
    return model


def create_guide(model: ZooModel, guide: Any, **options: Any) -> Any:
    """Create a guide for a model.

    Args:
        model: The model.
        guide: Name of a guide of the model's entry; an AutoGuide class, which covers the latents outside the rows and
            is composed with the model's local guide; or a factory ``model -> guide``.
        **options: Of the guide.

    Raises:
        KeyError: The entry has no guide of that name.
    """
    if isinstance(guide, str):
        if model.entry is None:
            raise KeyError(
                f"guide {guide!r}: {type(model).__name__} is in no registry entry; pass a class or a factory"
            )
        name, variant = model.entry
        allowed = card(name).guides_of.get(variant)
        suits = [other for other, guides in card(name).guides_of.items() if guide in guides]
        if allowed is not None and suits and guide not in allowed:  # a guide of no variant in particular says so itself
            raise ValueError(
                f"guide {guide!r} does not suit variant {variant!r} of {name!r}, which has {list(allowed)}; it is one "
                f"of variant {suits}"
            )
        return _named(entry(name).parts.GUIDES, guide, f"guide of {name!r}")(model, **options)
    from pyro.infer.autoguide import AutoGuide

    if isinstance(guide, type) and issubclass(guide, AutoGuide):
        from .guides import auto

        return auto(guide, **options)(model)
    if not callable(guide):
        raise TypeError(f"guide: {type(guide).__name__} is no name, AutoGuide class or factory")
    return guide(model, **options)


def load_data(name: str, dataset: str | None = None, **options: Any) -> Any:
    """Load a data set of an entry: a Batch, or a train and a test Batch."""
    found = entry(name)
    dataset = dataset or next(iter(found.card.datasets))
    return _named(found.parts.DATASETS, dataset, f"data set of {name!r}")(**options)


def _named(table: dict[str, Any], key: str, what: str) -> Any:
    if key not in table:
        raise KeyError(f"{key!r} is no {what}; there are {sorted(table)}")
    return table[key]
