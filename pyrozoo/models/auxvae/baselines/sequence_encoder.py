"""What the sequence networks share: their base class, the embedding of samples, and checks of sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SequenceEncoder(nn.Module):
    """Base class of the encoders: features over time, (B, T', D), averaged over time to (B, D).

    With `with_last` the features of the last step are concatenated to the mean, (B, 2 D).

    Args:
        n_channels: C, number of channels.
        n_steps: T, number of steps.
        width: D, number of features.
        depth: Number of layers.

    Attributes:
        out_dim: Size of the result: D, or 2 D if `with_last`.

    Raises:
        ValueError: A size is below 1.
    """

    with_last = False

    def __init__(self, n_channels: int, n_steps: int, width: int, depth: int = 2) -> None:
        super().__init__()
        require_positive(n_channels=n_channels, n_steps=n_steps, width=width, depth=depth)
        self.n_channels, self.n_steps = n_channels, n_steps
        self.out_dim = (2 if self.with_last else 1) * width

    def features(self, x: Tensor) -> Tensor:
        """Features over time: (B, T, C) -> (B, T', D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Encode walks: (B, T, C) -> (B, out_dim); raise ValueError for other sizes than those of the encoder."""
        if x.dim() != 3 or x.shape[1:] != (self.n_steps, self.n_channels):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but the encoder was made for (B, {self.n_steps}, {self.n_channels}): "
                "make another with n_steps and n_channels of these data, or cut the walks to size"
            )
        h = self.features(x)
        return torch.cat([h[:, -1], h.mean(1)], -1) if self.with_last else h.mean(1)


def require_positive(**sizes: int) -> None:
    """Check that every size is at least 1; raise ValueError with its name if not."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: give at least 1")


def require_divisible(width: int, heads: int) -> None:
    """Check that the width can be divided among the heads; raise ValueError if not."""
    require_positive(heads=heads)
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}: change one of them")


class Embedding(nn.Module):
    """Convolution over time plus sinusoidal positions (Vaswani et al. 2017, 3.5): (B, T, C) -> (B, T, D).

    Position t has ``sin(t / 10000^(2i/D))`` in feature 2i and the cosine in 2i + 1.
    """

    def __init__(self, n_channels: int, n_steps: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_channels, width, kernel, padding="same")
        feature = torch.arange(width)
        angle = torch.arange(n_steps)[:, None] * 10_000.0 ** (-(feature - feature % 2) / width)
        self.register_buffer("positions", torch.where(feature % 2 == 0, angle.sin(), angle.cos()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embed walks: (B, T, C) -> (B, T, D)."""
        return self.conv(x.mT).mT + self.positions
