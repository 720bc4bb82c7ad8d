"""AuxVAE in plain PyTorch, its loss written by hand without Pyro: what a step of the zoo is compared with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyrozoo.models.auxvae.nets import Decoder, Encoder, LoadHead, Stream, by_participant, head

ADAM = functools.partial(torch.optim.Adam, lr=2e-3, weight_decay=1e-4, fused=True)  # as the zoo's fit_defaults
STYLES_KNOWN = ("all", "none", "some")


class PlainAuxVAE(nn.Module):
    """The zoo's networks and the objective of AuxVAE with its default likelihoods, under the paper's guide.

    Shapes: B trials of M participants, T and T0 steps, S channels, K latent, L styles. Walks and loads come
    standardised: the scales they were divided by enter as constants.

    Args:
        encoder_sizes: Of the guide's `Encoder`.
        n_rows: Trials of the full data.
        log_x_scale: Sum over channels of the logarithms of the scales that x was divided by.
        y_loc, y_scale: Standardisation of the loads.
        styles_known: On which trials; "some": as ``style_labelled`` says. Decides once what a step computes.
    """

    def __init__(
        self, encoder_sizes: Mapping[str, Any], n_steps: int, n_styles: int, z_dim: int, width: int, floor: float,
        beta: float, n_rows: int, log_x_scale: float, y_loc: float, y_scale: float, styles_known: str,
    ) -> None:  # fmt: skip
        super().__init__()
        if styles_known not in STYLES_KNOWN:
            raise ValueError(f"styles_known: {styles_known!r} is none of {list(STYLES_KNOWN)}")
        n_channels, *stream = (encoder_sizes[k] for k in ("n_channels", "channels", "d_model", "kernel", "pool"))
        self.n_rows, self.beta, self.styles_known = n_rows, beta, styles_known
        self.log_x_scale, self.y_loc, self.y_scale = log_x_scale, y_loc, y_scale
        self.recon_weight = 1.0 / (n_steps * n_channels)
        self.encoder = Encoder(**encoder_sizes)
        self.q_z = nn.Linear(self.encoder.out_dim, 2 * z_dim)
        self.aux = Stream(n_channels, *stream)
        self.decoder = Decoder(z_dim, n_channels, n_steps, *stream, use_aux=True)
        self.x_log_sd = nn.Parameter(torch.zeros(n_channels))
        self.classifier = head(z_dim, n_styles, width)
        self.load_head = LoadHead(z_dim, n_styles, width, floor, learn_scale=True)
        self.register_buffer("styles", torch.arange(n_styles), persistent=False)

    def posterior(self, x: Tensor, x_aux: Tensor, participant: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x, x_aux), (B, K) each."""
        loc, raw = self.q_z(self.encoder(x, x_aux, participant)).chunk(2, -1)
        return loc, 1e-3 + functional.softplus(raw - 2.0)

    def forward(
        self, x: Tensor, x_aux: Tensor, participant: Tensor, y: Tensor, labelled: Tensor, style: Tensor,
        style_labelled: Tensor,
    ) -> Tensor:  # fmt: skip
        """The negative objective of equation 14, N / B times its sum over the trials."""
        loc, scale = self.posterior(x, x_aux, participant)
        z = loc + scale * torch.randn_like(loc)
        kl = (_log_normal(z, loc, scale) - _log_standard_normal(z)).sum()
        log_x = self._log_x(x, self.decoder(z, by_participant(self.aux, x_aux, participant)))
        supervised = self._supervised(z, y, labelled, style, style_labelled).sum()
        return -self.n_rows / len(x) * (self.recon_weight * log_x + supervised - self.beta * kl)

    def _log_x(self, x: Tensor, mean: Tensor) -> Tensor:
        """log p(x | x_aux, z), summed over trials. The sum over steps comes first: what follows is of one size S."""
        sd = 1e-3 + self.x_log_sd.exp()
        squares = (x - mean).square().sum((0, 1))
        constant = sd.log().sum() + self.log_x_scale + len(sd) * 0.5 * math.log(2 * math.pi)
        return -0.5 * (squares / sd**2).sum() - x[..., 0].numel() * constant

    def _supervised(self, z: Tensor, y: Tensor, labelled: Tensor, style: Tensor, style_labelled: Tensor) -> Tensor:
        """log p(style, y | z) where the style is known, log p(y | z) where it is not, (B,)."""
        logits = self.classifier(z)
        if self.styles_known == "all":
            return self._log_y(z, style, y, labelled) - functional.cross_entropy(logits, style, reduction="none")
        joint = logits.log_softmax(-1) + self._log_y(z[:, None], self.styles, y[:, None], labelled[:, None])
        if self.styles_known == "none":
            return joint.logsumexp(-1)
        given = joint.gather(-1, style[:, None])[:, 0]
        return torch.where(style_labelled, given, joint.logsumexp(-1))

    def _log_y(self, z: Tensor, style: Tensor, y: Tensor, labelled: Tensor) -> Tensor:
        loc, scale = self.load_head(z, style)
        log_y = -(y - loc).abs() / scale - (2 * self.y_scale * scale).log()
        return torch.where(labelled, log_y, 0.0)

    def expected(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 15 at draws of z, (S, B, K): mean load in the units of the data, (B,), and styles, (B, L)."""
        share = self.classifier(z).softmax(-1)
        loc, _ = self.load_head(z[..., None, :], self.styles)
        return self.y_loc + self.y_scale * (share * loc).sum(-1).mean(0), share.mean(0)

    @torch.no_grad()
    def predict(self, x: Tensor, x_aux: Tensor, participant: Tensor, draws: int | None) -> tuple[Tensor, Tensor]:
        """`expected` at `draws` draws from q(z | x, x_aux), or, where None, at its mean."""
        loc, scale = self.posterior(x, x_aux, participant)
        z = loc[None]
        if draws is not None:
            z = z + scale * torch.randn((draws, *loc.shape), dtype=loc.dtype, device=loc.device)
        return self.expected(z)


def plain_epoch(model: PlainAuxVAE, data: Mapping[str, Tensor], batch_size: int) -> Callable[[], None]:
    """One pass over the trials in random order, one optimiser step per minibatch."""
    optimizer, walks = ADAM(model.parameters()), data["x_aux"]
    rows = {name: values for name, values in data.items() if name != "x_aux"}

    def minibatches() -> Iterable[dict[str, Tensor]]:
        for some in torch.randperm(model.n_rows).split(batch_size):
            yield {"x_aux": walks, **{name: values[some] for name, values in rows.items()}}

    def epoch() -> None:
        for batch in minibatches():
            loss = model(**batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def _log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def _log_standard_normal(value: Tensor) -> Tensor:
    return -0.5 * value**2 - 0.5 * math.log(2 * math.pi)
