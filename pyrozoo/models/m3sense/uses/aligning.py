"""Does the alignment act? The size of its term, and its gradient beside that of the labels' term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn import functional

from ....data.batch import Batch
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ..local_guide import PaperGuide
from ..model import M3Sense


class Alignment(NamedTuple):
    """Size and gradients of the alignment term, as returned by `alignment`.

    Attributes:
        kl: KL[q(a_T | X_T) || N(0, I)], summed over tasks, mean over windows [nats], networks in evaluation mode.
        alignment_gradient: Norm of the gradient of gamma times that KL with respect to the representation's weights, in
            training mode: with batch statistics and dropout.
        label_gradient: Norm of the gradient of the cross-entropy, summed over labels and divided by the number of
            windows, with respect to the same weights, also in training mode.

    Example:
        >>> from pyrozoo.models.m3sense import Alignment
        >>> found = Alignment(kl=0.02, alignment_gradient=0.1, label_gradient=2.0)
        >>> found.alignment_gradient / found.label_gradient  # the alignment hardly moves the representation
        0.05
    """

    kl: float
    alignment_gradient: float
    label_gradient: float


def alignment(fit: Fit, data: Batch, seed: int = 0) -> Alignment:
    """Measure the alignment term of a fit, on all windows at once (eq. 13, 15, 16).

    Args:
        fit: A fit of variant "m3sense" or "latent" with guide "paper" and standard normal priors.
        data: Windows, labelled or not.
        seed: Random seed for dropout, and for the draw of a_T from which "latent" predicts labels.

    Raises:
        ValueError: The fit is of another variant or guide, which has no such term.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import alignment, simulate, standardise
        >>> fit = zoo.load_reference("m3sense/simulated")
        >>> new = standardise(simulate("simulated stress", seed=1, n_subjects=2, n_windows=6, rates={"bvp": 8}))
        >>> found = alignment(fit, new)
        >>> found.kl > 0, found.label_gradient > 0
        (True, True)
    """
    model = fit.model
    if not isinstance(model, M3Sense) or fit.guide_name != "paper":
        raise ValueError("fit: alignment() needs variant 'm3sense' or 'latent' with guide 'paper'")
    guide, batch = cast(PaperGuide, fit.guide), fit.prepare(data)
    weights = [p for p in model.representation.parameters() if p.requires_grad]
    running = {name: buffer.clone() for name, buffer in model.representation.named_buffers()}
    with isolated(seed):
        with torch.no_grad():
            kl, _ = _terms(model, guide, batch)
        model.representation.train()
        try:
            with torch.enable_grad():
                trained, labels = _terms(model, guide, batch)
                norms = [_norm(term, weights) for term in (model.gamma * trained, labels)]
        finally:
            model.representation.eval()
            for name, buffer in model.representation.named_buffers():
                buffer.copy_(running[name])
    return Alignment(float(kl), *norms)


def _terms(model: M3Sense, guide: PaperGuide, batch: Batch) -> tuple[Tensor, Tensor]:
    """KL (eq. 13) and cross-entropy (eq. 15), summed over tasks, means over windows."""
    h = model.encode(**batch)
    kl, labels = h.new_zeros(()), h.new_zeros(())
    for i, task in enumerate(model.tasks):
        q = guide.posterior(guide.networks[i](h[i]))  # eq. 12
        prior = dist.Normal(torch.zeros_like(q.base_dist.loc), 1.0).to_event(1)
        kl = kl + kl_divergence(q, prior).mean()  # eq. 13
        y, known = model.known(task, batch, h)
        logits = model.logits(i, h, q.rsample())
        labels = labels + (functional.cross_entropy(logits, y, reduction="none") * known).mean()  # eq. 15
    return kl, labels


def _norm(term: Tensor, weights: Sequence[Tensor]) -> float:
    gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    return float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))
