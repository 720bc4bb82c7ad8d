"""ZooModel: the only base class of the zoo, a PyroModule with named priors, plates and a sound ELBO."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..data.batch import Batch
from ..data.values import SEEN
from . import priors as prior_tools
from .enumeration import Unmasked
from .hidden import Inside, masks_of

M = TypeVar("M", bound=nn.Module)
QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)  # whether Pyro's handlers are not told of networks


class LocalParams:
    """Mixin for PyroModules: an instance built under local parameters is always called under them.

    Pyro keeps a module's parameters either in its global store, where a second instance of the same name reads and
    trains the first one's weights, or in the module (``module_local_params``). The setting must be the same at
    construction and at every call; this class remembers it, so that a fitted model works anywhere and plain ``SVI``
    works on a model built outside a fit.

    Example:
        >>> import pyro
        >>> import pyrozoo as zoo
        >>> from pyro.nn import PyroModule
        >>> class Guide(zoo.LocalParams, PyroModule):
        ...     def forward(self):
        ...         return pyro.settings.get("module_local_params")
        >>> with pyro.settings.context(module_local_params=True):
        ...     guide = Guide()
        >>> guide()  # called under the setting of its construction
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self._local_params = pyro.settings.get("module_local_params")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call under the setting that the instance was built under."""
        with pyro.settings.context(module_local_params=self._local_params):
            return super().__call__(*args, **kwargs)  # type: ignore[misc]  # of the module beside this mixin

    def __getattr__(self, name: str) -> Any:
        """Look up an attribute, without announcing buffers (and, in the zoo's own loss, plain networks) to Pyro.

        Pyro would announce each of the network's parameters to the handlers at every look-up, which takes a tenth of a
        small training step. Plain SVI, ``poutine.lift`` and the like need that; the zoo's loss already has the
        parameters.
        """
        buffer = self.__dict__.get("_buffers", {}).get(name)
        if buffer is not None:
            return buffer
        part = self.__dict__.get("_modules", {}).get(name)
        if part is not None and QUIET.get() and self._local_params and not isinstance(part, PyroModule):
            return part
        return super().__getattr__(name)  # type: ignore[misc]  # of the module beside this mixin


class WrongShape(ValueError):
    """Locations or scales of another shape than the sizes of the model."""


def make_local(module: M) -> M:
    """Make a module that was built under Pyro's global parameter store keep its parameters in itself; returns it."""
    for part in module.modules():
        if isinstance(part, LocalParams):
            part._local_params = True
        if isinstance(part, PyroModule) and not hasattr(part._pyro_context, "param_state"):
            part._pyro_context.param_state = {"params": {}, "constraints": {}}
    return module


class ZooModel(LocalParams, PyroModule):
    """A generative model: sizes at construction, priors by name, ``forward(**batch)`` the Pyro model.

    A subclass sets the class attributes, calls ``super().__init__()`` first and ``self.set_priors(priors)`` last in
    its constructor, and writes ``priors`` and ``forward``. It may write ``encode(**batch)``: a representation that
    model and guide share, computed once per step and passed to both as ``h``; and ``predict(guide, data, draws)``, a
    table of predictions, where predicting means more than drawing the targets (decoding a recording).

    Attributes:
        version: Version of the model; it changes whenever the log density changes.
        rows: Name of the row plate, whose positions a minibatch gives under the same name.
        row_sites: Latent sites that lie along rows.
        plate_dims: Plate -> its dimension, counted from the right (-1 is the last).
        dims: Site -> names of its event dimensions.
        open_groups: Groups whose tables the model reads, but for which it has neither latents nor parameters, so that
            it treats new groups like known ones.
        targets: Sites that `predict` predicts.
        targets_read_latents: False says that no target depends on a latent; then one draw gives the probabilities of
            discrete targets exactly, and `predict` makes no more.
        enumerated: Latent sites that are summed out exactly; they lie along the rows.
        at_least: Arguments of `sizes_from` that may exceed what the data show, e.g. a number of classes.
        coords: Event dimension -> names of its positions, where the model and not the data decide them.
        fit_defaults: Settings of `pyrozoo.fit` that suit this model, used where the caller gives none.
        data_defaults: Constructor arguments that `pyrozoo.create_model` takes for data where the caller gives none;
            unlike the constructor's own defaults, on which saved fits rely, they may change.
        process_inputs: Row tensors that a Gaussian process on the labels reads, which predicts beside the restarts of
            `pyrozoo.cross_fitted`; empty for a model without one. See also `process_features`.
        target_levels: Continuous target -> the few values that it takes, to which the law of `pyrozoo.cross_fitted` may
            round.
        cut: What of the posterior is cut, so that the guide is not to follow the log joint; empty if nothing is.
        entry: Entry and variant of the registry that made this instance.

    Example:
        A model of one's own, with one offset per unit:

        >>> import pyro, pyro.distributions as dist
        >>> import pyrozoo as zoo
        >>> from pyro.infer.autoguide import AutoNormal
        >>> class Offsets(zoo.ZooModel):
        ...     plate_dims = {"unit": -1, "row": -1}
        ...     def __init__(self, priors=None):
        ...         super().__init__()
        ...         self.set_priors(priors)
        ...     def priors(self):
        ...         return {"c": dist.Normal(0.0, 1.0)}
        ...     def forward(self, y, unit, sizes, **batch):
        ...         with self.plate("unit", sizes=sizes, **batch):
        ...             c = pyro.sample("c", self.prior("c"))
        ...         with self.plate("row", sizes=sizes, **batch):
        ...             pyro.sample("y", dist.Normal(c[..., unit], 0.1), obs=y)
        >>> data = zoo.Batch.from_arrays(rows={"y": [0.9, 1.1, -1.0, -1.0]}, groups={"unit": list("aabb")})
        >>> fit = zoo.fit(Offsets(), AutoNormal, data, steps=60, lr=0.1, progress=False)
        >>> [round(float(c)) for c in fit.guide.auto.median()["c"]]
        [1, -1]
    """

    version = "1"
    rows = "row"
    row_sites: tuple[str, ...] = ()
    plate_dims: Mapping[str, int] = {"row": -1}
    dims: Mapping[str, tuple[str, ...]] = {}
    open_groups: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("y",)
    targets_read_latents: bool = True
    enumerated: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    coords: Mapping[str, Sequence[str]] = {}
    fit_defaults: Mapping[str, Any] = {}
    data_defaults: Mapping[str, Any] = {}
    process_inputs: tuple[str, ...] = ()
    target_levels: Mapping[str, Sequence[float]] = {}
    cut: str = ""
    entry: tuple[str, str] | None = None
    _plain: bool = False  # whether 0 is inside the support of every target, so that hidden entries stay as they are

    def __new__(cls, *args: Any, **kwargs: Any) -> ZooModel:
        """Keep the constructor arguments as ``config``, from which `fresh` and a saved run build the model again."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:  # __init__ says what is missing; copy and pickle call neither, and set the state afterwards
            return self
        arguments = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in list(bound.arguments.items())[1:]
        }
        object.__setattr__(self, "config", arguments)
        return self

    def __call__(self, *args: Any, **batch: Any) -> Any:
        """Call `forward`; hidden entries of targets get a value inside their support, where 0 is none.

        Masks of enumerated sites are dropped, see `Unmasked`.
        """
        if not poutine.runtime.am_i_wrapped():
            return super().__call__(*args, **batch)
        with Unmasked(self.enumerated) if self.enumerated else contextlib.nullcontext():
            masks = {} if self._plain else masks_of(self.targets, batch)
            if not masks:
                return super().__call__(*args, **batch)
            with Inside(self.rows, masks) as inside:
                out = super().__call__(*args, **batch)
        object.__setattr__(self, "_plain", inside.seen == masks.keys() - self.enumerated and not inside.needed)
        return out

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Constructor arguments that the data decide (sizes, standardisation); each can be overridden.

        A subclass may take arguments of the constructor on which these depend; `create_model` gives them.

        A fit refuses a whole number that contradicts its training data, see `at_least`.

        Args:
            data: The training data.
        """
        return {}

    def check_values(self, data: Batch) -> None:
        """Refuse values that have no density; called with all data, of a fit and of its predictions.

        Args:
            data: The data.

        Raises:
            ValueError: A value is outside the support; the message names column, row and remedy.
        """

    def warp(self, target: str) -> Any:
        """Transform to a target's units from the scale on which a law of `pyrozoo.cross_fitted` adds; None if the same.

        Args:
            target: Name of the target.
        """
        return None

    def process_features(self, data: Batch) -> Mapping[str, Tensor]:
        """What the Gaussian process on the labels, which predicts beside fits of `pyrozoo.cross_fitted`, reads of rows.

        Here these are the columns of `process_inputs`, each a kind of its own. A model with many features may compute
        them from anything in the batch but its targets, and give those of one kind the same scales.

        Args:
            data: Rows, in the layout of the training data.

        Returns:
            Kind of features -> (N, D_k), NaN where a value is missing; empty for a model without a process.
        """
        out: dict[str, Tensor] = {}
        for name in self.process_inputs:
            x, seen = data[name], data.tensors.get(name + SEEN)
            x = (x if seen is None else x.where(seen, torch.nan)).reshape(data.n_rows, -1)
            out |= {f"{name}[{d}]": x[:, d : d + 1] for d in range(x.shape[1])}
        return out

    def check(self, data: Batch) -> None:
        """Refuse training data that this model cannot have generated; called by every fit.

        Args:
            data: The training data.

        Raises:
            ValueError: The data do not suit the model; the message names the remedy.
        """

    def fresh(self) -> ZooModel:
        """Build a new instance from the constructor arguments, with new parameters under the current seed."""
        new = type(self)(**copy.deepcopy(self.config))
        new.entry = self.entry
        return new

    def set_standardisation(self, name: str, loc: Any, scale: Any, shape: int | tuple[int, ...]) -> None:
        """Keep location and scale of a tensor of the data as the buffers ``<name>_loc`` and ``<name>_scale``.

        Args:
            name: Name of the tensor.
            loc: Location, a number or numbers of this shape; 0 where None.
            scale: Scale, likewise; 1 where None.
            shape: Shape of either buffer.

        Raises:
            ValueError: Numbers of another shape or not finite, or a scale that is not positive.
        """
        for part, value in (("loc", 0.0 if loc is None else loc), ("scale", 1.0 if scale is None else scale)):
            tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
            size, own = torch.Size((shape,) if isinstance(shape, int) else shape), f"{name}_{part}"
            if tensor.dim() and tensor.shape != size:
                raise WrongShape(f"{own} has the shape {tuple(tensor.shape)}; give one number, or {tuple(size)}")
            if not bool(tensor.isfinite().all()) or (part == "scale" and bool((tensor <= 0).any())):
                raise ValueError(f"{own} is {tensor.tolist()}; give finite{' positive' * (part == 'scale')} numbers")
            self.register_buffer(f"{name}_{part}", tensor.expand(size).clone())

    # ---------------------------------------------------------------- priors
    def priors(self) -> dict[str, dist.Distribution | Callable[..., dist.Distribution]]:
        """Default prior of every latent site; a callable takes the site's parents (a conditional prior)."""
        return {}

    def set_priors(self, overrides: Mapping[str, Any] | None) -> None:
        """Replace default priors by name.

        Args:
            overrides: Site -> distribution (a scalar one is broadcast to the site's event shape), or a callable or
                ``nn.Module`` that returns one from the site's parents (a learnable prior).

        Raises:
            KeyError: No such site.
            ValueError: Wrong event shape or support.
            TypeError: A prior that is neither a distribution nor callable.
        """
        defaults = self.priors()
        unknown = set(overrides or {}) - set(defaults)
        if unknown:
            raise KeyError(f"unknown prior site(s) {sorted(unknown)}; this model has {sorted(defaults)}")
        self.prior_modules = nn.ModuleDict()
        given: dict[str, Any] = {}
        for site, prior in (overrides or {}).items():
            default = defaults[site]
            if isinstance(prior, nn.Module):
                self.prior_modules[site] = prior
                takes_no_parents = isinstance(prior, prior_tools.LearnedScale | prior_tools.Mixture)
                if takes_no_parents and isinstance(default, dist.Distribution):
                    prior_tools.fit_to_site(prior(), site, default)
            elif isinstance(prior, dist.Distribution) and isinstance(default, dist.Distribution):
                given[site] = prior_tools.fit_to_site(prior, site, default)
            elif isinstance(prior, dist.Distribution) or callable(prior):
                given[site] = prior
            elif isinstance(prior, torch.distributions.Distribution):
                kind = type(prior).__name__
                raise TypeError(f"prior of {site!r}: torch.distributions.{kind}; give pyro.distributions.{kind}")
            else:
                raise TypeError(f"prior of {site!r}: {type(prior).__name__} is neither a distribution nor callable")
        self._given_priors = given

    def prior(self, site: str, *parents: Any) -> dist.Distribution:
        """The prior of a site.

        Args:
            site: Name of the latent site.
            *parents: Values of the site's parents, for a conditional prior.
        """
        return self._prior(site, self.priors()[site], parents)

    def marginal_priors(self) -> dict[str, dist.Distribution]:
        """The priors of all sites without parents: what `prior` returns for each, with the defaults made once."""
        return {
            site: self._prior(site, default, ())
            for site, default in self.priors().items()
            if isinstance(default, dist.Distribution)
        }

    def _prior(
        self, site: str, default: dist.Distribution | Callable[..., dist.Distribution], parents: tuple[Any, ...]
    ) -> dist.Distribution:
        prior = self.prior_modules[site] if site in self.prior_modules else self._given_priors.get(site)
        if prior is None:
            return default if isinstance(default, dist.Distribution) else default(*parents)
        if isinstance(prior, dist.Distribution) and isinstance(default, dist.Distribution):
            return prior  # fitted to the site when it was set
        like = default if isinstance(default, dist.Distribution) else default(*parents)
        given = prior if isinstance(prior, dist.Distribution) else prior(*parents)
        return prior_tools.fit_to_site(given, site, like)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ZooModel:
        """Like ``nn.Module._apply``, but also moves priors that were passed as distributions."""
        given = getattr(self, "_given_priors", {})
        self._given_priors = {
            site: prior_tools.moved(prior, fn) if isinstance(prior, dist.Distribution) else prior
            for site, prior in given.items()
        }
        return super()._apply(fn, recurse)

    # ---------------------------------------------------------------- plates and objective
    def arguments(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of model and guide: the batch, and ``h``, the representation they share, if the model has `encode`.

        Args:
            batch: A batch; if it already holds ``h``, that is not computed again.
        """
        return {**batch, "h": self.encode(**batch)} if hasattr(self, "encode") and "h" not in batch else dict(batch)

    def decide(self, target: str, probabilities: np.ndarray) -> np.ndarray:
        """Choose the label of every row that `predict` reports for a target of classes: here the likeliest class.

        Args:
            target: Name of the target.
            probabilities: Probability of each class, (N, K).

        Returns:
            Positions of the classes, (N,).
        """
        return probabilities.argmax(1)

    @property
    def targets_alone(self) -> dict[str, Any]:
        """Arguments that make `forward` leave out sites on which the targets do not depend; empty if it cannot.

        A model whose observed sites are costly (the decoder of a long signal) takes ``targets_only=False``, so that
        predicting a target does not compute them. Sites left out must depend on no enumerated site, and given the
        latents no target may depend on them.
        """
        return {"targets_only": True} if "targets_only" in inspect.signature(self.forward).parameters else {}

    def plate(self, name: str, *, sizes: Mapping[str, int], **batch: Any) -> pyro.plate:
        """Open one plate at its full size, at the positions that the batch holds; guides use the same method.

        The full size makes a minibatch's scale exact, and its gradients right under data parallelism. A batch holds its
        rows' positions under the name of the row plate. A minibatch that has only the groups of its rows holds their
        positions as ``<group>_ids``; sites of such a group plate must be `weighted` by ``<group>_weight``.

        Args:
            name: Name of the plate.
            sizes: Plate -> size in the full data.
            **batch: The batch.
        """
        subsample = batch.get(name if name == self.rows else f"{name}_ids")
        return pyro.plate(name, sizes[name], subsample=subsample, dim=self.plate_dims[name])

    def plates(self, **batch: Any) -> dict[str, pyro.plate]:
        """All plates by name, as an AutoGuide's ``create_plates`` needs them."""
        return {name: self.plate(name, **batch) for name in self.plate_dims}

    @staticmethod
    def weighted(weight: Tensor | None) -> contextlib.AbstractContextManager:
        """Scale the sites of a plate by the importance of its positions, where a minibatch has one.

        Args:
            weight: ``weight`` of the rows of a stratified minibatch, or ``<group>_weight`` of the groups in one; None
                for no scaling.
        """
        return contextlib.nullcontext() if weight is None else poutine.scale(scale=weight)

    @property
    def max_plate_nesting(self) -> int:
        """Number of tensor dimensions that plates use."""
        return -min(self.plate_dims.values(), default=0)

    def elbo(self, particles: int = 1) -> ELBO:
        """The ELBO that is sound for this model.

        Trace_ELBO, or TraceEnum_ELBO where a latent is enumerated. Never TraceMeanField_ELBO: its analytic KL is
        taken at one draw of a parent, which is biased where the prior of a site depends on another latent.

        Args:
            particles: Number of samples per step, vectorised.
        """
        kind = TraceEnum_ELBO if self.enumerated else Trace_ELBO
        return kind(
            num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=self.max_plate_nesting
        )

    def local_guide(self) -> nn.Module | None:
        """An amortised guide for the row-level latents, to be composed with an AutoGuide over the others; or None."""
        return None
