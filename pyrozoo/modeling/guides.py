"""ZooGuide, what a guide may declare, and guide factories that are safe under subsampling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoLaplaceApproximation, AutoNormal
from pyro.nn import PyroModule
from torch import nn

from ..data.batch import Batch
from .base import LocalParams, ZooModel


class ZooGuide(LocalParams, PyroModule):
    """Base class of guides: it remembers the model, and names what a guide may declare beside its ``forward``.

    Fits, predictions and the contract read the declarations with `declared`, which takes the defaults for guides of
    other classes: Pyro's AutoGuides and any PyroModule are guides, too.

    Args:
        model: The model whose latents the guide covers. Its parameters do not become the guide's.

    Attributes:
        amortized: Groups whose members have no parameters of their own, so that the guide accepts new members.
        support: Largest number of rows of each member of the amortised groups that the guide reads, as the tensors
            ``support_<tensor>`` of the batch; 0 for none. Fits and predictions add them (`Batch.with_support`).
        sparse: Group -> names of the parameters with one line per member of the group. A guide that names a group here,
            even with no such parameter, accepts minibatches that hold only the groups of their rows
            (``groups="present"``); the named parameters are then read and updated only at these lines.
        finish: Method ``finish(model, train)`` that `fit` calls once after the training; None if there is none.
        solve: Method ``solve(train)`` that sets the parameters from the training data in closed form; `fit` calls it
            instead of training. None if there is none.
        local: Guide of the latents along the rows, called as ``local(**batch, **values)`` with the values of the other
            latents by name; None if there is none. Assign it after ``super().__init__(model)``.

    Example:
        A guide in closed form, for ``c ~ Normal(0, 1)`` and ``y_n ~ Normal(c, 1)``:

        >>> import pyro, pyro.distributions as dist, torch
        >>> import pyrozoo as zoo
        >>> class Level(zoo.ZooModel):
        ...     def __init__(self, priors=None):
        ...         super().__init__()
        ...         self.set_priors(priors)
        ...     def priors(self):
        ...         return {"c": dist.Normal(0.0, 1.0)}
        ...     def forward(self, y, **batch):
        ...         c = pyro.sample("c", self.prior("c"))
        ...         with self.plate("row", **batch):
        ...             pyro.sample("y", dist.Normal(c, 1.0), obs=y)
        >>> class Exact(zoo.ZooGuide):
        ...     def __init__(self, model):
        ...         super().__init__(model)
        ...         self.register_buffer("mean", torch.zeros(()))
        ...         self.register_buffer("sd", torch.ones(()))
        ...     def solve(self, train):
        ...         self.mean, self.sd = train["y"].sum() / (train.n_rows + 1), torch.tensor(train.n_rows + 1.0) ** -0.5
        ...     def forward(self, **batch):
        ...         pyro.sample("c", dist.Normal(self.mean, self.sd))
        >>> fit = zoo.fit(Level(), Exact, zoo.Batch.from_arrays(rows={"y": [1.0, 2.0, 3.0]}))
        >>> fit.status, float(fit.guide.mean)
        ('solved', 1.5)
    """

    amortized: tuple[str, ...] = ()
    support: int = 0
    sparse: Mapping[str, tuple[str, ...]] = {}
    solve: Callable[[Batch], None] | None = None
    finish: Callable[[ZooModel, Batch], None] | None = None

    def __init__(self, model: ZooModel | None = None) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: a submodule's parameters would be the guide's
        # Not in the class, where it would hide a submodule of this name.
        self.local: nn.Module | None = None

    @property
    def model(self) -> Any:
        """The model whose latents the guide covers."""
        return self._model[0]


_DEFAULTS = {name: getattr(ZooGuide, name) for name in ("amortized", "support", "sparse", "solve", "finish")} | {
    "local": None
}


def declared(guide: Any, name: str) -> Any:
    """What a guide declares, see the attributes of `ZooGuide`; the default for a guide of another class without it.

    Args:
        guide: Any guide, or the class of one.
        name: Name of the declaration.

    Raises:
        KeyError: A guide cannot declare anything of this name.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyro.infer.autoguide import AutoNormal
        >>> model = zoo.create_model("ssmtl", zoo.load_data("ssmtl", "dryer"))
        >>> guides = (zoo.create_guide(model, "amortized"), AutoNormal(model))
        >>> [zoo.guides.declared(guide, "amortized") for guide in guides]
        [('unit',), ()]
    """
    default = _DEFAULTS[name]
    return getattr(guide, name, default)


class ComposedGuide(ZooGuide):
    """An AutoGuide over the latents outside the row plate, followed by an amortised guide of the row latents.

    Neither AutoGuideList (which opens every plate itself) nor an AutoGuide of the whole model (whose parameters for a
    row would be used for any row in that place of a minibatch) can hold an amortised part under a subsampled plate.

    Args:
        auto: The AutoGuide, or None if there is no latent outside the row plate.
        local: Guide of the row latents, called as ``local(**batch, **values)`` with the AutoGuide's values by name;
            or None if there is no such latent.

    Example:
        >>> import pyrozoo as zoo
        >>> model = zoo.create_model("ssmtl", zoo.load_data("ssmtl", "dryer"))
        >>> guide = zoo.guides.auto()(model)
        >>> type(guide).__name__, type(guide.auto).__name__, zoo.guides.outer_sites(model)
        ('ComposedGuide', 'AutoNormal', ['c'])
    """

    def __init__(self, auto: AutoGuide | None, local: nn.Module | None) -> None:
        super().__init__()
        self.auto = auto
        self.local = local
        if isinstance(auto, Laplace):
            self.finish = self._curve

    def _curve(self, model: ZooModel, train: Batch) -> None:
        cast(Laplace, self.auto).curve(lambda: model.elbo().differentiable_loss(model, self, **model.arguments(train)))

    def forward(self, **batch: Any) -> dict[str, torch.Tensor]:
        values = {} if self.auto is None else self.auto(**batch)
        if self.local is not None:
            self.local(**batch, **values)
        return values


class Laplace(AutoLaplaceApproximation):
    """Pyro's Laplace approximation, which stays itself: a point while it trains, then a normal around it.

    Pyro makes another guide of the point, by `laplace_approximation`. Here `curve` gives this one its covariance, so
    that a fit predicts with it, and is saved and loaded as any other.
    """

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.register_buffer("scale_tril", torch.zeros(self.latent_dim, self.latent_dim).to(self.loc))

    def get_posterior(self, *args: Any, **kwargs: Any) -> dist.Distribution:
        if self.training or not self.scale_tril.any():
            return super().get_posterior(*args, **kwargs)
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.loc, self.scale_tril.pow(2).sum(-1).sqrt()

    def curve(self, loss: Callable[[], torch.Tensor]) -> None:
        """Set the covariance to the inverse of the curvature of minus the log joint density at the point.

        The curvature is that of differences of gradients, since some models have first derivatives alone.

        Args:
            loss: Minus the log joint density of the unconstrained latents, as a function of the point.

        Raises:
            ValueError: The point is no maximum.
        """
        self.scale_tril.zero_()
        at, step = self.loc.detach().clone(), 1e-2 if self.loc.dtype == torch.float32 else 1e-4

        def gradient(place: torch.Tensor) -> torch.Tensor:
            self.loc.data.copy_(place)
            with torch.enable_grad():
                return torch.autograd.grad(loss(), self.loc)[0].double()

        shifts = step * torch.eye(len(at)).to(at)
        try:
            curvature = torch.stack([(gradient(at + own) - gradient(at - own)) / (2 * step) for own in shifts])
        finally:
            self.loc.data.copy_(at)
        factor, failed = torch.linalg.cholesky_ex((curvature + curvature.mT) / 2)
        if failed or not bool(torch.isfinite(factor).all()):
            raise ValueError(
                "AutoLaplaceApproximation: the point that the training found is no maximum of the log density, which "
                "curves upwards there; train with more steps, or with a smaller lr at the end (schedule='cosine')"
            )
        self.scale_tril.copy_(torch.linalg.cholesky(torch.cholesky_inverse(factor)))


class NoLatents(ComposedGuide):
    """Guide of a model whose latents are all enumerated, or that has none: nothing to sample."""

    def __init__(self, model: ZooModel) -> None:
        super().__init__(None, None)


def auto(kind: type[AutoGuide] = AutoNormal, **options: Any) -> Callable[[ZooModel], ComposedGuide]:
    """Make a factory of `ComposedGuide`: an AutoGuide of class `kind` outside the rows, the model's local guide inside.

    Every plate comes from the model (``create_plates``), so the indices of a subsampled plate are the given ones.

    Args:
        kind: AutoGuide class, e.g. ``AutoNormal`` or ``AutoMultivariateNormal``.
        **options: Arguments of the class, e.g. ``init_scale=0.05``.

    Raises:
        ValueError: A class that cannot work here; or, from the factory, a model without latents outside the rows.

    Returns:
        Factory ``model -> guide``, to be passed to `pyrozoo.fit` or `pyrozoo.create_guide`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyro.infer.autoguide import AutoMultivariateNormal
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(500))
        >>> model = zoo.create_model("ssmtl", data)
        >>> guide = zoo.guides.auto(AutoMultivariateNormal, init_scale=0.05)
        >>> zoo.fit(model, guide, data, steps=5, progress=False).status
        'finished'
    """
    require_usable(kind)

    def factory(model: ZooModel) -> ComposedGuide:
        if not outer_sites(model):
            raise ValueError(
                f"guide: no latent of {type(model).__name__} lies outside the {model.rows}s, so there is nothing that "
                f"{kind.__name__} could cover; choose the guide of the {model.rows}s' latents by name, or write one"
            )
        return ComposedGuide(_auto(model, kind, options), model.local_guide())

    return factory


_UNUSABLE = {
    "AutoGuide": "it is a base class; give one of its families, such as AutoNormal",
    "AutoContinuous": "it is a base class; give one of its families, such as AutoMultivariateNormal",
    "AutoCallable": "it wraps a function; give a factory model -> guide that returns a ZooGuide",
    "AutoGuideList": "it opens the plates by itself, and draws other minibatches than those given; write a ZooGuide",
    "AutoDiscreteParallel": "it is of discrete latents, which the zoo's models sum out",
}


def require_usable(kind: type[AutoGuide]) -> None:
    """Refuse a class of AutoGuides that cannot be the guide of the latents outside the rows.

    Raises:
        ValueError: With the reason and what to take instead.
    """
    if kind.__name__ in _UNUSABLE:
        raise ValueError(f"{kind.__name__} is no guide for this model: {_UNUSABLE[kind.__name__]}")


def _require_curvature(model: ZooModel) -> None:
    """Refuse the Laplace approximation where minus the ELBO of a point is not minus a log joint density."""
    reason = ""
    if model.local_guide() is not None:
        reason = f"its curvature would leave out the latents of the {model.rows}s"
    elif model.cut:
        reason = "the posterior is cut, and has no log density to curve"
    if reason:
        raise ValueError(
            f"AutoLaplaceApproximation is no guide for this model: {reason}; give AutoMultivariateNormal, or AutoDelta "
            "for the point"
        )


def require_composed(guide: Any) -> None:
    """Refuse an AutoGuide that was made of a model alone: neither composed by `auto` nor given the model's plates.

    Raises:
        ValueError: The guide is an AutoGuide without ``create_plates``.
    """
    if isinstance(guide, AutoGuide) and guide.create_plates is None:
        kind = type(guide).__name__
        raise ValueError(
            f"guide: {kind}(model) opens plates by itself and has parameters for each row; pass the class, "
            f"zoo.fit(model, {kind}, data), or zoo.guides.auto({kind}, ...) with its options"
        )


def outer_sites(model: ZooModel) -> list[str]:
    """Latent sites that do not lie along rows and are not enumerated, so that an AutoGuide can cover them."""
    return [site for site in model.priors() if site not in model.row_sites and site not in model.enumerated]


def _auto(model: ZooModel, kind: type[AutoGuide], options: dict) -> AutoGuide:
    if kind is AutoLaplaceApproximation:
        _require_curvature(model)
        kind = Laplace
    takes_plates = "create_plates" in kind.__init__.__code__.co_varnames
    plates = {"create_plates": functools.partial(_outer_plates, model)} if takes_plates else {}
    return kind(functools.partial(_exposed, model, outer_sites(model)), **plates, **options)


def _exposed(model: ZooModel, sites: Sequence[str], **batch: Any) -> Any:
    """Run the model so that handlers outside see these sites alone."""
    with poutine.block(expose=sites):
        return model(**batch)


def _outer_plates(model: ZooModel, **batch: Any) -> list:
    return [model.plate(name, **batch) for name in model.plate_dims if name != model.rows]


def with_support(guide: Any, data: Batch) -> Batch:
    """Add the support rows that an amortised guide reads; done before any minibatch is taken, so that they stay fixed.

    Data on disk have them already: choosing them again would go through all rows.

    Args:
        guide: The guide; one that is not amortised over groups changes nothing.
        data: The full data.

    Raises:
        ValueError: Data on disk were written with another number of support rows than the guide reads.
    """
    support = declared(guide, "support")
    for group in declared(guide, "amortized") if support else ():
        held = data.support_rows(group)
        if held is None:
            data = data.with_support(support, group)
        elif held != support:
            raise ValueError(
                f"support: the data were written with up to {held} support rows per {group}, the guide reads up to "
                f"{support}; write them with support={support}, or give a guide with support={held}"
            )
    return data
