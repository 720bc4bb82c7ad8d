"""The registry: which papers there are, and how to make their models, guides and data.

Importing it, listing entries and reading their cards needs no torch; torch is imported when a model is created.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from .turns import turn

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
        guides: Guide -> one line; the first is the default.
        guides_of: Variant -> its guides, where not all apply.
        datasets: Data set -> one line, saying "simulated" or "real".
        sites: Variant -> {site -> Site}, with the meaning of each; an entry that names none here has those of its
            models, as `pyrozoo show` and the contract trace them.
        experiments: Experiment of `reproduce` -> one line.
        identified: Posterior quantities that are the same in every restart (not rotated or reflected).
        calibrated: Latents whose simulation-based calibration the contract checks, model parameters fixed.
        expected: Metric of the entry's recovery experiment -> (value, standard error, k): mean over seeds within
            value +- k standard errors.
        golden: Variant -> log joint density at the contract's fixed trace.
        limitations: What a user must know before trusting a result, one line each.
        split: How labels are held out where `pyrozoo.report` has no test data: the name of a group, or "block" or
            "last" (in time); empty for row by row.
        reference: Full reference with DOI.

    Example:
        >>> import pyrozoo as zoo
        >>> card = zoo.card("ssmtl")
        >>> list(card.variants)
        ['ssmtl', 'mtl', 'ssl-vae', 'ml-vae']
        >>> card.sites["ssmtl"]["c"].plates
        ('unit',)
    """

    name: str
    title: str
    authors: str
    year: int
    version: str
    summary: str
    variants: dict[str, str]
    guides: dict[str, str]
    datasets: dict[str, str]
    sites: dict[str, dict[str, Site]] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    identified: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()
    expected: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    golden: dict[str, float] = field(default_factory=dict)
    limitations: tuple[str, ...] = ()
    guides_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reference: str = ""
    split: str = ""


@dataclass(frozen=True)
class Site:
    """One sample site of a model, as its card describes it.

    Attributes:
        kind: "latent", "observed", "partly observed", "enumerated" or "deterministic" (a function of latents).
        plates: Names of the site's plates, outermost first.
        dims: Names of its event dimensions.
        prior: Default prior as text, e.g. "Normal(0, 1)"; in words where it has arrays or parents; empty for none.
        meaning: Meaning of the site, with the equation of the paper.

    Example:
        >>> import pyrozoo as zoo
        >>> site = zoo.card("ssmtl").sites["ssmtl"]["c"]
        >>> site.kind, site.plates, site.dims, site.prior
        ('latent', ('unit',), ('context',), 'Normal(0, 1)')
    """

    kind: str
    plates: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    prior: str = ""
    meaning: str = ""


@dataclass
class Entry:
    """A card and the parts of its entry, either as an object or as the name of a module that is imported on first use.

    Required parts:

    * ``VARIANTS``: name -> ZooModel class.
    * ``GUIDES``: name -> factory ``model -> guide``.
    * ``DATASETS``: name -> function that returns a Batch, or a train and a test Batch.
    * ``tiny(seed) -> (Batch, model arguments)``: small data on which the contract runs; each variant is given those of
      the arguments that its constructor takes.

    Optional parts:

    * ``EXPERIMENTS``: name -> function, or its place as "module:function", see `pyrozoo.experiments`.
    * ``recovery(seed) -> {metric: value}``: compared by the contract with the card's ``expected``.
    * ``CALIBRATION``: variant -> ``{"arguments": ..., "settings": ...}`` of model and fit, for calibration checks that
      cannot use the defaults, e.g. because the usual objective is not an ELBO.
    * ``EXACT``: variant -> function seed -> {what: (found, by brute force)}, for exact algorithms of the entry.
    * ``RANKS``: variant -> function seed -> {quantity: ranks of the truth among 99 posterior draws}.

    Optional parts for the command line, for data that are more than one table:

    * ``read(path, rate=None, like=None) -> Batch``: ``rate`` is the sampling rate that the user gave, and ``like`` (at
      prediction) a row of the training data, whose layout and standardisation the new data must follow.
    * ``tables(fit, batch) -> {suffix: DataFrame}``: the tables that ``predict`` writes.
    * ``calibrate(fit, data, *, mode, seed) -> Fit``: a fit of the new groups of `data`, with the networks of `fit`.

    Optional parts for `pyrozoo.report`:

    * ``features(batch) -> (N, D)``: inputs for simple methods, where the model's own are signals; a DataFrame has their
      names.
    * ``rivals(train, test, target) -> {name: Rival}``: simple methods of the entry, in the place of the common ones.
    * ``report_sections(fit, train, test) -> {key: (title, function -> Section)}``: further sections of the page.
    """

    card: Card
    source: str | Any

    @property
    def parts(self) -> Any:
        """Object that holds the parts; a module is imported now."""
        return importlib.import_module(self.source) if isinstance(self.source, str) else self.source


_entries: dict[str, Entry] = {}


def register(card: Card, parts: str | ModuleType | SimpleNamespace) -> None:
    """Add an entry under ``card.name``.

    Args:
        card: Card of the new entry.
        parts: Object that holds the parts described in `Entry`, or the name of a module that does.

    Raises:
        ValueError: The name is taken.

    Example:
        >>> from dataclasses import replace
        >>> from types import SimpleNamespace
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import SSMTL
        >>> class Small(SSMTL):
        ...     def __init__(self, x_dim, width=16, **arguments):
        ...         super().__init__(x_dim, width=width, **arguments)
        >>> card = replace(zoo.card("ssmtl"), name="wells", variants={"small": "SSMTL with narrow networks"})
        >>> zoo.register(card, SimpleNamespace(VARIANTS={"small": Small}))
        >>> zoo.create_model("wells", x_dim=3, n_units=10).width
        16
        >>> zoo.unregister("wells")
    """
    if card.name in BUILT_IN or card.name in _entries:
        raise ValueError(f"an entry {card.name!r} is registered already; choose another name")
    _entries[card.name] = Entry(card, parts)


def unregister(name: str) -> None:
    """Remove an entry that `register` added.

    Args:
        name: Name of the entry.

    Raises:
        KeyError: No entry of that name has been registered or used in this process.

    Example:
        >>> from dataclasses import replace
        >>> from types import SimpleNamespace
        >>> import pyrozoo as zoo
        >>> zoo.register(replace(zoo.card("ssmtl"), name="draft"), SimpleNamespace(VARIANTS={}, GUIDES={}))
        >>> zoo.unregister("draft")
        >>> "draft" in zoo.list_models()
        False
    """
    del _entries[name]


def entry(name: str) -> Entry:
    """Find an entry by name.

    Args:
        name: Name of the entry.

    Raises:
        KeyError: No such entry; the message lists them, and the entry points that do not work.
    """
    if name not in _entries and name in BUILT_IN:
        module = f"pyrozoo.models.{name}"
        _entries[name] = Entry(importlib.import_module(f"{module}.card").CARD, f"{module}.entry")
    faults = {} if name in _entries else _load_plugins()
    if name in _entries:
        return _entries[name]
    if name in faults:
        raise KeyError(faults[name][0]) from faults[name][1]
    known = [other for other in list_models() if other not in faults]
    raise KeyError("; ".join([f"no model {name!r}; there are {known}", *(message for message, _ in faults.values())]))


def list_models() -> list[str]:
    """List all entries: built in, registered, and of installed packages (entry point ``pyrozoo.models``).

    Returns:
        Names of the entries, sorted.

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.list_models()
        ['auxvae', 'm3sense', 'medication', 'ssmtl']
    """
    return sorted({*BUILT_IN, *_entries, *(point.name for point in entry_points(group="pyrozoo.models"))})


def _load_plugins() -> dict[str, tuple[str, Exception | None]]:
    """Load the entry points of installed packages; of each that gives no entry of its name, say why, with its error."""
    faults: dict[str, tuple[str, Exception | None]] = {}
    for point in entry_points(group="pyrozoo.models"):
        if point.name in _entries:
            continue
        where = f"entry point {point.name!r} of the group pyrozoo.models ({point.value})"
        try:
            point.load()  # a module that calls register()
        except Exception as error:  # a package can raise anything, and the entries of others should still be found
            faults[point.name] = f"{where} cannot be loaded: {type(error).__name__}: {error}", error
            continue
        if point.name not in _entries:
            how = "call pyrozoo.register(CARD, ...) in that module, with a card of that name"
            faults[point.name] = f"{where} loads, but registers no entry {point.name!r}; {how}", None
    return faults


def card(name: str) -> Card:
    """Read the card of an entry; needs no torch for the built-in entries.

    Args:
        name: Name of the entry.

    Raises:
        KeyError: No such entry; the message lists them.

    Example:
        >>> import pyrozoo as zoo
        >>> card = zoo.card("ssmtl")
        >>> card.year, list(card.variants)
        (2024, ['ssmtl', 'mtl', 'ssl-vae', 'ml-vae'])
    """
    return entry(name).card


def create_model(name: str, data: Batch | None = None, *, variant: str | None = None, **arguments: Any) -> ZooModel:
    """Create a model; sizes and standardisation come from the data, and every argument can be overridden.

    Args:
        name: Name of the entry.
        data: Data from which sizes and standardisation are taken; without data, give them as arguments.
        variant: Variant of the entry; by default the first of the card.
        **arguments: Arguments of the model's constructor, e.g. ``priors={"c": ...}``.

    Returns:
        The model, a Pyro model called as ``model(**batch)``.

    Raises:
        KeyError: No such entry, variant or prior site.
        TypeError: The model has no argument of that name; the message lists them.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyrozoo as zoo
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> model = zoo.create_model("ssmtl", data, priors={"c": dist.StudentT(4.0, 0.0, 1.0)})
        >>> type(model).__name__, model.plate_dims
        ('SSMTL', {'unit': -1, 'row': -1})
        >>> type(model.prior("c").base_dist).__name__
        'StudentT'
    """
    from .base import WrongShape

    found = entry(name)
    variant = variant or next(iter(found.card.variants))
    family = named(found.parts.VARIANTS, variant, f"variant of {name!r}")
    known = inspect.signature(family).parameters
    unknown = [key for key in arguments if key not in known]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        raise TypeError(f"{family.__name__} has no argument {unknown[0]!r}; its arguments are {list(known)}")
    with turn():  # initial weights are drawn from torch's random state
        suited = {key: value for key, value in family.data_defaults.items() if key in known}
        read = inspect.signature(family.sizes_from).parameters  # arguments on which what the data decide depends
        own = {key: value for key, value in arguments.items() if key in read and data is not None}
        sizes = {} if data is None else {**suited, **family.sizes_from(data, **own)}
        try:
            model = family(**{**sizes, **arguments, **{key: sizes[key] for key in own if key in sizes}})
        except WrongShape as error:  # those of the data, whose sizes an argument contradicts
            for name, given in arguments.items():
                have = None if name in suited else sizes.get(name)
                if isinstance(have, int) and given != have:
                    raise ValueError(f"{name}: the model was made for {given}, but the data have {have}") from error
            raise
    model.entry = (name, variant)
    return model


def create_guide(model: ZooModel, guide: Any, **options: Any) -> Any:
    """Create a guide for a model.

    Args:
        model: The model.
        guide: Name of a guide of the model's entry; an AutoGuide class, which covers the latents outside the rows and
            is composed with the model's local guide; or a factory ``model -> guide``.
        **options: Arguments of the guide.

    Returns:
        The guide, called as ``guide(**batch)``.

    Raises:
        KeyError: The entry has no guide of that name.
        ValueError: The guide does not suit the variant of the model; an AutoGuide class that cannot work, or that would
            cover nothing; a factory that returns a bare AutoGuide.
        TypeError: `guide` is neither a name nor an AutoGuide class nor callable.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyro.infer.autoguide import AutoMultivariateNormal
        >>> model = zoo.create_model("ssmtl", zoo.load_data("ssmtl", "dryer"))
        >>> by_name = zoo.create_guide(model, "amortized")
        >>> composed = zoo.create_guide(model, AutoMultivariateNormal, init_scale=0.05)
        >>> type(composed.auto).__name__
        'AutoMultivariateNormal'
    """
    if isinstance(guide, str):
        if model.entry is None:
            raise KeyError(
                f"guide {guide!r}: {type(model).__name__} is in no registry entry; pass a class or a factory"
            )
        name, variant = model.entry
        allowed = card(name).guides_of.get(variant)
        suits = [other for other, guides in card(name).guides_of.items() if guide in guides]
        if allowed is not None and suits and guide not in allowed:  # a guide that no variant lists checks this itself
            raise ValueError(
                f"guide {guide!r} does not suit variant {variant!r} of {name!r}, which has {list(allowed)}; it is one "
                f"of variant {suits}"
            )
        return named(entry(name).parts.GUIDES, guide, f"guide of {name!r}")(model, **options)
    from pyro.infer.autoguide import AutoGuide

    if isinstance(guide, type) and issubclass(guide, AutoGuide):
        from .guides import auto

        return auto(guide, **options)(model)
    if not callable(guide):
        raise TypeError(f"guide: {type(guide).__name__} is no name, AutoGuide class or factory")
    from .guides import require_composed

    made = guide(model, **options)
    require_composed(made)
    return made


def load_data(name: str, dataset: str | None = None, **options: Any) -> Any:
    """Load a data set of an entry.

    Args:
        name: Name of the entry.
        dataset: Name of the data set; by default the first of the card.
        **options: Arguments of the data set's function, e.g. ``seed`` of a simulated one.

    Returns:
        A Batch, or a train and a test Batch.

    Raises:
        KeyError: No such entry or data set.

    Example:
        >>> import pyrozoo as zoo
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> data.n_rows, data["x"].shape[1], data.sizes["unit"]
        (9220, 9, 71)
    """
    found = entry(name)
    dataset = dataset or next(iter(found.card.datasets))
    return named(found.parts.DATASETS, dataset, f"data set of {name!r}")(**options)


def named(table: dict[str, Any], key: str, what: str) -> Any:
    """The part of this name.

    Raises:
        KeyError: There is none; the message lists those that there are.
    """
    if key not in table:
        raise KeyError(f"{key!r} is no {what}; there are {sorted(table)}")
    return table[key]
