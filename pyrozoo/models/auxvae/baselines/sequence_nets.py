"""The encoders of the paper's comparison methods (tables 1 and 3), behind one interface: plain torch, no Pyro.

`ENCODERS` lists them by name. Each is a `SequenceEncoder`: ``encoder(n_channels, n_steps, width, depth)`` maps walks
(B, T, C) to (B, out_dim); in eval mode the result for a walk does not depend on the rest of the batch. None has
dropout: weight decay regularises on small data, and a repeated fit is bit-identical.

Letters in shapes: B walks, T steps, T' steps after distilling, C channels, D width, H heads, E = D / H, U sampled keys,
u active queries, F = T // 2 frequencies.

Example:
    >>> import torch
    >>> from pyrozoo.models.auxvae import ENCODERS
    >>> list(ENCODERS)
    ['lstm', 'tcn', 'transformer', 'informer', 'timesnet']
    >>> encoder = ENCODERS["tcn"](n_channels=3, n_steps=40, width=8)
    >>> encoder(torch.zeros(5, 40, 3)).shape
    torch.Size([5, 16])
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ..nets import CausalBlock, receptive_field
from .informer import Informer
from .sequence_encoder import Embedding, SequenceEncoder, require_divisible, require_positive
from .timesnet import TimesNet


class LSTM(SequenceEncoder):
    """Long short-term memory (Hochreiter & Schmidhuber 1997); returns the last state and the mean over time."""

    with_last = True

    def __init__(self, n_channels: int, n_steps: int, width: int, depth: int = 2) -> None:
        super().__init__(n_channels, n_steps, width, depth)
        self.net = nn.LSTM(n_channels, width, depth, batch_first=True)

    def features(self, x: Tensor) -> Tensor:
        """States of the top layer: (B, T, C) -> (B, T, D)."""
        return self.net(x)[0]


class ResidualBlock(nn.Module):
    """Two causal convolutions of the same dilation, and a shortcut: (B, C_in, T) -> (B, C_out, T)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            CausalBlock(in_channels, out_channels, kernel, dilation),
            CausalBlock(out_channels, out_channels, kernel, dilation),
        )
        self.shortcut = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, C_in, T) -> (B, C_out, T)."""
        return functional.relu(self.path(x) + self.shortcut(x))


class TCN(SequenceEncoder):
    """Temporal convolutional network (Bai, Kolter & Koltun 2018); returns the last step and the mean over time.

    It has `depth` residual blocks of dilation 1, 2, 4, ... Their convolutions are the causal blocks of AuxVAE itself,
    with GELU and batch norm where Bai et al. have weight norm, ReLU and dropout.

    Args:
        n_channels, n_steps, width, depth: Sizes, see `SequenceEncoder`.
        kernel: Kernel size of each convolution; a step depends on the last ``receptive_field`` steps, which are
            1 + 2 (kernel - 1) (2^depth - 1) in number.
    """

    with_last = True

    def __init__(self, n_channels: int, n_steps: int, width: int, depth: int = 2, *, kernel: int = 7) -> None:
        super().__init__(n_channels, n_steps, width, depth)
        require_positive(kernel=kernel)
        self.receptive_field = 2 * receptive_field(kernel, depth) - 1
        sizes = (n_channels, *[width] * depth)
        self.blocks = nn.Sequential(*(ResidualBlock(sizes[u], sizes[u + 1], kernel, 2**u) for u in range(depth)))

    def features(self, x: Tensor) -> Tensor:
        """Causal features: (B, T, C) -> (B, T, D)."""
        return self.blocks(x.mT).mT


class Transformer(SequenceEncoder):
    """Transformer encoder (Vaswani et al. 2017): linear embedding, sinusoidal positions, mean over time.

    Args:
        n_channels, n_steps, width, depth: Sizes, see `SequenceEncoder`.
        heads: Number of attention heads, a divisor of `width`.
        expansion: Number of hidden units of the feed-forward part, in multiples of `width`.
    """

    def __init__(
        self, n_channels: int, n_steps: int, width: int, depth: int = 2, *, heads: int = 4, expansion: int = 4
    ) -> None:
        super().__init__(n_channels, n_steps, width, depth)
        require_divisible(width, heads)
        require_positive(expansion=expansion)
        self.embed = Embedding(n_channels, n_steps, width, 1)
        # Not nn.TransformerEncoder, whose layers are copies of one and so all start with the same weights.
        sizes = (width, heads, expansion * width)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(*sizes, dropout=0.0, batch_first=True) for _ in range(depth))
        )

    def features(self, x: Tensor) -> Tensor:
        """Features after attention: (B, T, C) -> (B, T, D)."""
        return self.layers(self.embed(x))


ENCODERS: dict[str, type[SequenceEncoder]] = {
    "lstm": LSTM,
    "tcn": TCN,
    "transformer": Transformer,
    "informer": Informer,
    "timesnet": TimesNet,
}
