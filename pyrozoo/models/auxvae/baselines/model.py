"""The paper's comparison methods (tables 1 and 3): sequence encoders with predictors of style and load on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..gait_model import FIXED_SCALES, GaitModel, one_of
from ..nets import LoadHead, head
from .sequence_nets import ENCODERS


class SequenceNet(GaitModel):
    """A deterministic network as a Pyro model, so that training, scores and checks are those of the other models.

    ::

        f_n     = encoder(x_n, x_aux_p(n) as further channels)
        style_n ~ Categorical(pi(f_n)), seen on some trials
        y_n     ~ Laplace(mu_y(f_n), sigma_y(f_n))

    Both predictors read the encoder's last layer independently, as in the paper's comparison. Shapes and further
    arguments are those of `AuxVAE` and `GaitModel`.

    Args:
        encoder: Name in `ENCODERS`: "lstm", "tcn", "transformer", "informer" or "timesnet".
        use_aux: Whether x_aux is concatenated to x as further channels (table 1) or left out (table 3).
        encoder_width, encoder_depth: Width and number of layers of the encoder.
        width: Number of hidden units of each predictor.

    Raises:
        ValueError: An unknown encoder, or with `use_aux` unloaded walks of another length.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> model = zoo.create_model("auxvae", train, variant="sequence", encoder="tcn", encoder_width=4)
        >>> fit = zoo.fit(model, "none", train, epochs=2, progress=False)
        >>> zoo.predict(fit, test)[["y.mean", "style.label"]].shape
        (32, 2)
    """

    def __init__(
        self, n_channels: int, n_steps: int, aux_steps: int, n_styles: int = 4, encoder: str = "tcn",
        use_aux: bool = True, encoder_width: int = 32, encoder_depth: int = 2, width: int = 64,
        y_likelihood: str = "laplace", floor: float = 0.05, x_loc: Any = None, x_scale: Any = None, y_loc: float = 0.0,
        y_scale: float = 1.0, priors: Mapping[str, Any] | None = None, own_scale: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            n_channels, n_steps, aux_steps, n_styles, y_likelihood, floor, x_loc, x_scale, y_loc, y_scale, own_scale
        )
        one_of("encoder", encoder, tuple(ENCODERS))
        if use_aux and n_steps != aux_steps:
            raise ValueError(
                f"use_aux: concatenation needs loaded and unloaded walks of the same length, not {n_steps} and "
                f"{aux_steps} steps; resample"
            )
        self.use_aux = use_aux
        self.encoder = ENCODERS[encoder](n_channels * (1 + use_aux), n_steps, encoder_width, encoder_depth)
        if self.joint:
            self.classifier = head(self.encoder.out_dim, n_styles, width)
        self.load_head = LoadHead(self.encoder.out_dim, 0, width, floor, y_likelihood not in FIXED_SCALES)
        self.set_priors(priors)

    def encode(self, x: Tensor, x_aux: Tensor, participant: Tensor, **_: Any) -> Tensor:
        """Features of each trial, (B, F), from x (B, T, S), x_aux (M, T0, S) and participant (B,)."""
        self.require_shapes(x, x_aux)
        loaded = self.standardise(x, x_aux, participant)
        if not self.use_aux:
            return self.encoder(loaded)
        return self.encoder(torch.cat([loaded, self.standardise(x_aux, x_aux)[participant]], -1))

    def forward(
        self, x: Tensor, x_aux: Tensor, participant: Tensor, sizes: Mapping[str, int], y: Tensor | None = None,
        y_labelled: Tensor | None = None, style: Tensor | None = None, style_labelled: Tensor | None = None,
        row: Tensor | None = None, h: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        h = self.encode(x, x_aux, participant) if h is None else h
        with self.plate("row", sizes=sizes, row=row):
            if self.joint:
                self.sample_style(self.classifier(h), style, style_labelled)
            self.observe_load(self.load_given(*self.load_head(h)), y, y_labelled)


class SequenceNetLoadOnly(SequenceNet):
    """`SequenceNet` that predicts the load alone (table 3).

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> model = zoo.create_model(
        ...     "auxvae", train, variant="sequence-load-only", encoder="lstm", use_aux=False, encoder_width=4
        ... )
        >>> fit = zoo.fit(model, "none", train, epochs=2, progress=False)
        >>> zoo.predict(fit, test)[["y.mean", "y.sd"]].shape
        (32, 2)
    """

    joint = False
    targets = ("y",)
    enumerated = ()
