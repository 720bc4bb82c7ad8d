"""q(z | x, x_aux) and q(style | x, x_aux) of the rows (eq. 9, 10): what the model composes with an AutoGuide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional

from ...modeling.base import ZooModel
from ...modeling.guides import ZooGuide
from .nets import Encoder, fill_style

SD_FLOOR = 1e-3


class PaperGuide(ZooGuide):
    """q(z | x, x_aux) = N(mu_z, diag sigma_z^2), with mu_z and sigma_z from the encoder (eq. 9, 10).

    Shapes are those of `AuxVAE`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> small = {"channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2}
        >>> model = zoo.create_model("auxvae", train, z_dim=2, **small)
        >>> fit = zoo.fit(model, "paper", train, epochs=2, progress=False)
        >>> zoo.draw(fit, test, draws=10).groups["posterior"]["z"].shape  # chains, draws, trials, K
        (1, 10, 32, 2)
    """

    outputs = 2  # numbers per latent dimension that the encoder's features are mapped to

    def __init__(self, model: ZooModel) -> None:
        super().__init__(model)
        self.encoder = Encoder(**model.encoder_sizes)
        self.head = nn.Linear(self.encoder.out_dim, self.outputs * model.z_dim)

    def forward(
        self, x: Tensor, x_aux: Tensor, participant: Tensor, sizes: Mapping[str, int], row: Tensor | None = None,
        style: Tensor | None = None, style_labelled: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        model = self.model
        model.require_shapes(x, x_aux)
        own = model.standardise(x_aux, x_aux)
        features = self.encoder(model.standardise(x, x_aux, participant), own, participant)  # eq. 10
        with model.plate("row", sizes=sizes, row=row):
            with poutine.scale(scale=model.beta):
                pyro.sample("z", self.posterior(self.head(features)))  # eq. 9
            self.sample_style(features, style, style_labelled)

    def sample_style(self, features: Tensor, style: Tensor | None, labelled: Tensor | None) -> None:
        """Do nothing: the model sums the style out. A subclass may sample the style here."""

    def posterior(self, out: Tensor) -> dist.Distribution:
        """q(z | x, x_aux) from the mapped features `out`, (B, outputs x K) (eq. 9)."""
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, scale_of(raw)).to_event(1)


class StyleAwareGuide(PaperGuide):
    """q(style | x, x_aux) q(z | x, x_aux): a separate posterior of the style, also computed by the encoder.

    TraceEnum_ELBO sums over the guide's styles where the style is unknown. Where it is known, the ELBO has no term with
    q(style); there q(style) learns from the log probability of the known style, added as the factor ``style_head`` (a
    factor of the guide enters the ELBO with a minus sign). (Pyro refuses a z that depends on a style enumerated in the
    guide: the model's p(style | z) would then depend on the dimension in which the style is enumerated.)

    Args:
        model: Model of the variant "style-in-guide".
        alpha: Weight of the factor; 0 gives the ELBO alone, from which q(style) learns nothing if all styles are known.

    Raises:
        ValueError: A model of another variant, which sums the style out itself.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> small = {"channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2}
        >>> model = zoo.create_model("auxvae", train, variant="style-in-guide", z_dim=2, **small)
        >>> fit = zoo.fit(model, "style_aware", train, epochs=2, progress=False)
        >>> table = zoo.predict(fit, test, draws=10)
        >>> probabilities = table.filter(like="style.p[").sum(axis=1)
        >>> bool((abs(probabilities - 1) < 1e-5).all())
        True
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
    """Standard deviation from a network's output: 0.13 at 0, small enough for z to carry information from the start."""
    return SD_FLOOR + functional.softplus(raw - 2.0)
