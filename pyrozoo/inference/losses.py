"""The loss as a torch module, and Pyro messengers that act on it: annealing, and finding what is not finite."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Set
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..data.batch import Batch
from ..modeling.base import QUIET, ZooModel

# Errors that distributions raise for arguments that are not finite: from validation and factorisations.
NO_DISTRIBUTION = (ValueError, torch.linalg.LinAlgError)


Chosen = tuple[Tensor | None, Tensor | None]  # positions and weights of rows, see `minibatches.sample_rows`


class NonFiniteLoss(FloatingPointError):
    """Error: the loss or a gradient is not finite. The message names the step and the first bad site.

    Attributes:
        fit: The fit in its last good state.

    Example:
        >>> import pyrozoo as zoo
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(100))
        >>> bad = data.with_tensors({"x": data["x"] * float("nan")})
        >>> model = zoo.create_model("ssmtl", data)
        >>> try:
        ...     zoo.fit(model, "paper", bad, steps=5, progress=False)
        ... except zoo.NonFiniteLoss as error:
        ...     print(error)
        ...     kept = error.fit
        step 0: ... (site 'y_unobserved' has a non-finite value); the last good state (after epoch 0) is in ...
        >>> kept.status
        'failed'
    """

    fit: Any = None


class Anneal(Messenger):
    """Scale the log densities of the named sites by `weight`, in model and guide alike.

    Only for sites that the guide samples: enumerated sites of the model must share one scale.
    """

    def __init__(self, sites: Set[str], weight: float | Tensor) -> None:
        super().__init__()
        self.sites, self.weight = sites, weight

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.sites and (isinstance(self.weight, Tensor) or self.weight != 1.0):
            msg["scale"] = msg["scale"] * self.weight


class Watch(Messenger):
    """Remember the first site whose value or log density is not finite.

    Args:
        ruled_out: Whether a log density of -inf counts as finite: values that are impossible, not broken.
    """

    def __init__(self, ruled_out: bool = False) -> None:
        super().__init__()
        self.found, self.ruled_out = "", ruled_out

    def _pyro_post_sample(self, msg: dict) -> None:
        if self.found or not torch.is_tensor(msg["value"]):
            return
        if not torch.isfinite(msg["value"].double()).all():
            self.found = f" (site {msg['name']!r} has a non-finite value)"
            return
        density = scale_and_mask(torch.as_tensor(msg["fn"].log_prob(msg["value"])), 1.0, msg["mask"])
        if self.ruled_out or msg["infer"].get("is_auxiliary"):  # a factor may rule values out
            density = density[density != -math.inf]
        if not torch.isfinite(density).all():
            self.found = f" (site {msg['name']!r} has a non-finite log density)"


class Loss(nn.Module):
    """The negative ELBO of a batch as a torch module; a representation that model and guide share is computed once.

    Its call takes a batch, or the positions and weights of its rows in `data`, so that a captured step looks them up by
    itself, and the weight of the annealed sites: a number, or for a compiled loss a tensor of shape ().
    """

    def __init__(
        self, model: ZooModel, guide: nn.Module, elbo: ELBO, annealed: Set[str] = frozenset(), data: Batch | None = None
    ) -> None:
        super().__init__()
        self.model, self.guide, self.elbo, self.annealed, self.data = model, guide, elbo, annealed, data

    def forward(self, batch: Mapping[str, Any] | Chosen, weight: float | Tensor = 1.0) -> Tensor:
        token = QUIET.set(True)
        try:
            with Anneal(self.annealed, weight):
                return self.elbo.differentiable_loss(self.model, self.guide, **self.model.arguments(self.taken(batch)))
        finally:
            QUIET.reset(token)

    def taken(self, batch: Mapping[str, Any] | Chosen) -> Mapping[str, Any]:
        """The batch, taken from the data if its rows are given."""
        if not isinstance(batch, tuple):
            return batch
        assert self.data is not None
        rows, weight = batch
        return self.data if rows is None else self.data.take(rows, weight=weight)

    def value(self, batch: Mapping[str, Any]) -> float:
        """The loss as a number (TraceEnum_ELBO's differentiable loss refuses to run without gradients)."""
        return float(self.elbo.loss(self.model, self.guide, **self.model.arguments(batch)))


def bad_site(loss: Loss, batch: Mapping[str, Any]) -> str:
    """Evaluate the loss to find the first site that is not finite.

    Returns:
        Words that name the site, to be appended to an error message; empty if every site is finite.
    """
    watch, ran = Watch(), False
    # A prior that was passed in keeps the validation setting under which it was made.
    with validation(False), watch, warnings.catch_warnings(), contextlib.suppress(*NO_DISTRIBUTION):
        warnings.simplefilter("ignore")
        loss(batch)
        ran = True
    if not ran and not watch.found:  # the guide cannot run on the data: perhaps these are not finite
        watch = Watch(ruled_out=True)  # latents drawn from the prior may be impossible given the data
        with validation(False), watch, torch.no_grad(), contextlib.suppress(*NO_DISTRIBUTION):
            loss.model(**loss.model.arguments(batch))
    return watch.found


def materialise(model: ZooModel, guide: nn.Module, batch: Batch) -> None:
    """Run model and guide once, because an AutoGuide has no parameters before its first call.

    In evaluation mode, so that running means start with the first step. Values that are not finite raise no error here;
    the training loop reports them.
    """
    modes = {part: part.training for part in (*model.modules(), *guide.modules())}
    model.eval()
    guide.eval()
    try:
        with torch.no_grad(), validation(False):
            arguments = model.arguments(batch)
            trace = poutine.trace(guide).get_trace(**arguments)
            poutine.replay(model, trace=trace)(**arguments)
    finally:
        for part, training in modes.items():
            part.training = training


def validation(validate: bool | None, epoch: int = 0) -> Any:
    """Context manager that switches Pyro's and torch's validation on or off.

    Args:
        validate: True for on, False for off, None for on in the first epoch only.
        epoch: Number of the epoch, from 0.
    """
    if validate is None and epoch == 0:
        validate = True
    names = ("validate_distributions_pyro", "validate_distributions_torch", "validate_poutine", "validate_infer")
    return pyro.settings.context(**dict.fromkeys(names, bool(validate)))
