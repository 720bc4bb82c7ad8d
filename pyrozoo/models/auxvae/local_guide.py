"""q(z | x, x_aux) and q(style | x, x_aux) of the rows (eq. 9, 10): what the model composes with an AutoGuide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional

from ...modeling.base import LocalParams, ZooModel
from .nets import Encoder, fill_style

SD_FLOOR = 1e-3


class PaperGuide(LocalParams, PyroModule):
    """q(z | x, x_aux) = N(mu_z, diag sigma_z^2) from the encoder (eq. 9, 10). Shapes as in `AuxVAE`."""

    outputs = 2  # numbers per latent dimension that the encoder's features are mapped to

    def __init__(self, model: ZooModel) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the model's parameters are not the guide's
        self.encoder = Encoder(**model.encoder_sizes)
        self.head = nn.Linear(self.encoder.out_dim, self.outputs * model.z_dim)

    def forward(
        self, x: Tensor, x_aux: Tensor, participant: Tensor, sizes: Mapping[str, int], row: Tensor | None = None,
        style: Tensor | None = None, style_labelled: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        model = self._model[0]
        model.require_shapes(x, x_aux)
        features = self.encoder(model.standardise(x), model.standardise(x_aux), participant)
        with model.plate("row", sizes=sizes, row=row):
            with poutine.scale(scale=model.beta):
                pyro.sample("z", self.posterior(self.head(features)))
            self.sample_style(features, style, style_labelled)

    def sample_style(self, features: Tensor, style: Tensor | None, labelled: Tensor | None) -> None:
        """Nothing: the model sums the style out."""

    def posterior(self, out: Tensor) -> dist.Distribution:
        """q(z) from the encoder's output, (B, outputs K)."""
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, scale_of(raw)).to_event(1)


class StyleAwareGuide(PaperGuide):
    """q(style | x, x_aux) q(z | x, x_aux): a posterior of the style of its own, read from the encoder directly.

    TraceEnum_ELBO sums over the guide's styles where the style is not known; where it is known the ELBO has no term of
    q(style), which learns there from its log probability, as factor ``style_head`` (a factor of the guide enters the
    ELBO with a minus sign). (A z that depends on a style enumerated in the guide is refused by Pyro: the model's
    p(style | z) would then depend on the dimension it is enumerated in.)

    Args:
        alpha: Weight of that factor; 0 for the ELBO alone, which teaches q(style) nothing where all styles are known.
    """

    def __init__(self, model: ZooModel, alpha: float = 1.0) -> None:
        if "style_unobserved" not in model.row_sites:
            raise ValueError(
                "guide 'style_aware' covers the style, which this variant's model sums out; use "
                "create_model('auxvae', data, variant='style-in-guide')"
            )
        super().__init__(model)
        self.alpha = alpha
        self.classifier = nn.Linear(self.encoder.out_dim, model.n_styles)

    def sample_style(self, features: Tensor, style: Tensor | None, labelled: Tensor | None) -> None:
        q = dist.Categorical(logits=self.classifier(features))
        style, known = fill_style(q.logits, style, labelled)
        with poutine.mask(mask=~known):
            pyro.sample("style_unobserved", q, infer={"enumerate": "parallel"})
        if self.alpha:
            head = torch.where(known, q.log_prob(style), torch.zeros_like(features[:, 0]))
            pyro.factor("style_head", -self.alpha * head, has_rsample=True)


def scale_of(raw: Tensor) -> Tensor:
    """Standard deviation from a network's output, 0.13 at 0: small enough for z to carry something from the start."""
    return SD_FLOOR + functional.softplus(raw - 2.0)
