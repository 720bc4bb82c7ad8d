"""TimesNet: an encoder that folds a signal by its periods."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sequence_encoder import Embedding, SequenceEncoder, require_positive


def fold(h: Tensor, period: int) -> Tensor:
    """Arrange periods as rows and pad the last one with zeros: (B, T, D) -> (B, D, ceil(T / period), period)."""
    return functional.pad(h.mT, (0, -h.shape[1] % period)).unflatten(-1, (-1, period))


def unfold(grid: Tensor, n_steps: int) -> Tensor:
    """Join the rows to a sequence of T steps, the inverse of `fold`: (B, D, rows, period) -> (B, T, D)."""
    return grid.flatten(2)[..., :n_steps].mT


class Inception(nn.Module):
    """Mean of convolutions of sizes 1 x 1, 3 x 3, 5 x 5, ...: (B, C_in, rows, period) -> (B, C_out, rows, period)."""

    def __init__(self, in_channels: int, out_channels: int, n_kernels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 2 * i + 1, padding=i) for i in range(n_kernels))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.get_parameter("weight"), nonlinearity="relu")
            nn.init.zeros_(conv.get_parameter("bias"))

    def forward(self, grid: Tensor) -> Tensor:
        """Apply the mean of all kernels, which is equal by linearity and faster."""
        largest = len(self.convs) - 1
        weights = [conv.get_parameter("weight") for conv in self.convs]
        weight = torch.stack([functional.pad(w, [largest - i] * 4) for i, w in enumerate(weights)]).mean(0)
        bias = torch.stack([conv.get_parameter("bias") for conv in self.convs]).mean(0)
        return functional.conv2d(grid, weight, bias, padding=largest)


class TimesBlock(nn.Module):
    """Convolutions over the sequence folded by its strongest periods (Wu et al. 2023, 3.2): (B, T, D) -> (B, T, D).

    A frequency f = 1, ..., F has amplitude |rfft(h)_f|, averaged over features, and period T // f. The results of the
    top_k periods are summed with the softmax of the walk's own amplitudes as weights.

    Difference: Wu et al. always choose the periods by the mean amplitudes of the batch. Here this holds in training,
    which also keeps their running mean in the buffer `spectrum`, (F,); eval mode chooses by that, so that predictions
    do not depend on the batch. Before any training the longest periods are chosen.
    """

    spectrum: Tensor

    def __init__(self, n_steps: int, width: int, hidden: int, top_k: int, n_kernels: int, momentum: float) -> None:
        super().__init__()
        self.n_steps, self.top_k, self.momentum = n_steps, top_k, momentum
        self.net = nn.Sequential(Inception(width, hidden, n_kernels), nn.GELU(), Inception(hidden, width, n_kernels))
        self.register_buffer("spectrum", torch.zeros(n_steps // 2))

    def frequencies(self, amplitude: Tensor) -> Tensor:
        """Return f - 1 of the top_k frequencies f, given amplitudes (B, F); in training, update the running mean."""
        strength = self.spectrum
        if self.training:
            strength = amplitude.detach().mean(0)
            self.spectrum.lerp_(strength, self.momentum)
        return strength.argsort(descending=True, stable=True)[: self.top_k]

    def forward(self, h: Tensor) -> Tensor:
        """Apply the block: (B, T, D) -> (B, T, D)."""
        amplitude = torch.fft.rfft(h, dim=1).abs().mean(-1)[:, 1:]
        chosen = self.frequencies(amplitude)
        periods = [self.n_steps // (f + 1) for f in chosen.tolist()]
        results = torch.stack([unfold(self.net(fold(h, period)), self.n_steps) for period in periods], -1)
        return h + (results @ amplitude[:, chosen].softmax(-1)[:, None, :, None]).squeeze(-1)


class TimesNet(SequenceEncoder):
    """TimesNet (Wu et al. 2023): `depth` blocks that share one layer norm, mean over time.

    In eval mode the periods are those of the training data, see `TimesBlock`.

    Args:
        n_channels, n_steps, width, depth: Sizes, see `SequenceEncoder`.
        top_k: Number of periods per block, at most n_steps // 2.
        n_kernels: Number of kernels of each inception, of sizes 1, 3, 5, ...
        expansion: Number of hidden channels of each block, in multiples of `width`.
        momentum: Weight of a batch in the running mean of the spectrum.
    """

    def __init__(
        self, n_channels: int, n_steps: int, width: int, depth: int = 2, *, top_k: int = 3, n_kernels: int = 3,
        expansion: int = 1, momentum: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(n_channels, n_steps, width, depth)
        require_positive(top_k=top_k, n_kernels=n_kernels, expansion=expansion)
        if top_k > n_steps // 2:
            raise ValueError(f"n_steps {n_steps} has {n_steps // 2} frequencies: give top_k at most that, not {top_k}")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum is {momentum}: give a number in (0, 1]")
        self.embed = Embedding(n_channels, n_steps, width, 3)
        self.blocks = nn.ModuleList(
            TimesBlock(n_steps, width, expansion * width, top_k, n_kernels, momentum) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def features(self, x: Tensor) -> Tensor:
        """Features after all blocks: (B, T, C) -> (B, T, D)."""
        h = self.embed(x)
        for block in self.blocks:
            h = self.norm(block(h))
        return h
