"""Guide factories that are safe under subsampling: an AutoGuide outside the rows, composed with a local part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoNormal
from pyro.nn import PyroModule
from torch import nn

from ..data.batch import Batch
from .base import LocalParams, ZooModel


class ComposedGuide(LocalParams, PyroModule):
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

    def forward(self, **batch: Any) -> dict[str, torch.Tensor]:
        values = {} if self.auto is None else self.auto(**batch)
        if self.local is not None:
            self.local(**batch, **values)
        return values


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

    def factory(model: ZooModel) -> ComposedGuide:
        return ComposedGuide(None if not outer_sites(model) else _auto(model, kind, options), model.local_guide())

    return factory


def outer_sites(model: ZooModel) -> list[str]:
    """Latent sites that do not lie along rows and are not enumerated, so that an AutoGuide can cover them."""
    return [site for site in model.priors() if site not in model.row_sites and site not in model.enumerated]


def _auto(model: ZooModel, kind: type[AutoGuide], options: dict) -> AutoGuide:
    exposed = poutine.block(model, expose=outer_sites(model))

    def create_plates(**batch: Any) -> list:
        return [model.plate(name, **batch) for name in model.plate_dims if name != model.rows]

    takes_plates = "create_plates" in kind.__init__.__code__.co_varnames
    return kind(exposed, **({"create_plates": create_plates} if takes_plates else {}), **options)


def with_support(guide: Any, data: Batch) -> Batch:
    """Add the support rows that an amortised guide reads; done before any minibatch is taken, so that they stay fixed.

    Data on disk have them already: choosing them again would go through all rows.

    Args:
        guide: The guide; one that is not amortised over groups changes nothing.
        data: The full data.

    Raises:
        ValueError: Data on disk were written with another number of support rows than the guide reads.
    """
    for group in getattr(guide, "amortized", ()) if hasattr(guide, "support") else ():
        held = data.support_rows(group)
        if held is None:
            data = data.with_support(guide.support, group)
        elif held != guide.support:
            raise ValueError(
                f"support: the data were written with up to {held} support rows per {group}, the guide reads up to "
                f"{guide.support}; write them with support={guide.support}, or give a guide with support={held}"
            )
    return data
