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

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nets import CausalBlock, receptive_field


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
        _positive(n_channels=n_channels, n_steps=n_steps, width=width, depth=depth)
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


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: give at least 1")


def _divisible(width: int, heads: int) -> None:
    _positive(heads=heads)
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
        _positive(kernel=kernel)
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
        _divisible(width, heads)
        _positive(expansion=expansion)
        self.embed = Embedding(n_channels, n_steps, width, 1)
        # Not nn.TransformerEncoder, whose layers are copies of one and so all start with the same weights.
        sizes = (width, heads, expansion * width)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(*sizes, dropout=0.0, batch_first=True) for _ in range(depth))
        )

    def features(self, x: Tensor) -> Tensor:
        """Features after attention: (B, T, C) -> (B, T, D)."""
        return self.layers(self.embed(x))


def sparse_attention(query: Tensor, key: Tensor, value: Tensor, sampled: Tensor, n_active: int) -> Tensor:
    """ProbSparse self-attention (Zhou et al. 2021, algorithm 1).

    The sparsity of a query is the maximum minus the mean of its scores over sampled keys. The n_active queries with the
    largest sparsity attend to all keys; the others are taken to attend uniformly, which gives the mean of the values.

    Args:
        query: Queries, (B, H, T, E).
        key: Keys, (B, H, T_k, E), where T_k = T unless the keys come from another sequence.
        value: Values, (B, H, T_k, E).
        sampled: Indices of the keys from which the sparsity of each query is computed, (T, U).
        n_active: u, number of active queries.

    Returns:
        Attended values, (B, H, T, E).
    """
    with torch.no_grad():  # only ranks queries; a product with all keys is cheaper than gathering U for each query
        score = (query @ key.mT).gather(-1, sampled.expand(*query.shape[:2], -1, -1))
        active = (score.amax(-1) - score.mean(-1)).topk(n_active, sorted=False).indices
    index = active[..., None].expand(-1, -1, -1, query.shape[-1])
    attended = functional.scaled_dot_product_attention(query.gather(2, index), key, value)
    return value.mean(2, keepdim=True).expand_as(query).scatter(2, index, attended)


class SparseAttention(nn.Module):
    """Multi-head ProbSparse self-attention with U = u = factor * ceil(ln T) sampled keys: (B, T, D) -> (B, T, D).

    In training the keys are drawn with replacement from torch's global generator. In eval mode they are the same in
    every call: they were drawn from a separate generator whose seed is T.
    """

    fixed: Tensor

    def __init__(self, n_steps: int, width: int, heads: int, factor: int) -> None:
        super().__init__()
        self.heads, self.n_active = heads, min(n_steps, factor * max(1, math.ceil(math.log(n_steps))))
        self.query, self.value, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        # A bias of the keys would add the same to all scores of a query, which changes nothing.
        self.key = nn.Linear(width, width, bias=False)
        if self.n_active == n_steps:  # every query is active, whatever keys it is judged by
            fixed = torch.arange(n_steps).expand(n_steps, -1)
        else:
            fixed = torch.randint(n_steps, (n_steps, self.n_active), generator=torch.Generator().manual_seed(n_steps))
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Attend: (B, T, D) -> (B, T, D)."""
        n_steps = h.shape[1]
        query, key, value = (
            project(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        sampled = self.fixed
        if self.training and self.n_active < n_steps:
            sampled = torch.randint(n_steps, sampled.shape, device=sampled.device)
        return self.out(sparse_attention(query, key, value, sampled, self.n_active).transpose(1, 2).flatten(2))


class InformerLayer(nn.Module):
    """Attention and feed-forward part, each with a residual connection and layer norm: (B, T, D) -> (B, T, D)."""

    def __init__(self, n_steps: int, width: int, heads: int, factor: int, expansion: int) -> None:
        super().__init__()
        self.attention = SparseAttention(n_steps, width, heads, factor)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )
        self.norm, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the layer: (B, T, D) -> (B, T, D)."""
        h = self.norm(h + self.attention(h))
        return self.norm_out(h + self.feed_forward(h))


class Distilling(nn.Module):
    """Convolution, ELU, max-pooling of stride 2 (Zhou et al. 2021, eq. 5): (B, T, D) -> (B, ceil(T / 2), D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Halve the time: (B, T, D) -> (B, ceil(T / 2), D)."""
        return functional.max_pool1d(functional.elu(self.conv(h.mT)), 3, stride=2, padding=1).mT


class Informer(SequenceEncoder):
    """Encoder of the Informer (Zhou et al. 2021): ProbSparse attention, distilling between layers, mean over time.

    The sampled keys are random in training, from torch's global generator. In eval mode they are fixed by the length of
    the sequence, and no generator is used, see `SparseAttention`.

    Args:
        n_channels, n_steps, width, depth: Sizes, see `SequenceEncoder`; each layer but the last halves the time.
        heads: Number of attention heads, a divisor of `width`.
        factor: Number of sampled keys, and of active queries, in multiples of ceil(ln T).
        expansion: Number of hidden units of the feed-forward part, in multiples of `width`.
    """

    def __init__(
        self, n_channels: int, n_steps: int, width: int, depth: int = 2, *, heads: int = 4, factor: int = 5,
        expansion: int = 4,
    ) -> None:  # fmt: skip
        super().__init__(n_channels, n_steps, width, depth)
        _divisible(width, heads)
        _positive(factor=factor, expansion=expansion)
        if n_steps < 2**depth:
            raise ValueError(
                f"n_steps {n_steps} is too short for depth {depth}: give at least {2**depth} steps, or a smaller depth"
            )
        self.embed = Embedding(n_channels, n_steps, width, 3)
        layers: list[nn.Module] = []
        for u in range(depth):
            if u:
                layers.append(Distilling(width))
                n_steps = (n_steps + 1) // 2
            layers.append(InformerLayer(n_steps, width, heads, factor, expansion))
        self.layers = nn.Sequential(*layers)

    def features(self, x: Tensor) -> Tensor:
        """Distilled features: (B, T, C) -> (B, T', D) with T' = T / 2^(depth - 1), rounded up."""
        return self.layers(self.embed(x))


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
        _positive(top_k=top_k, n_kernels=n_kernels, expansion=expansion)
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


ENCODERS: dict[str, type[SequenceEncoder]] = {
    "lstm": LSTM,
    "tcn": TCN,
    "transformer": Transformer,
    "informer": Informer,
    "timesnet": TimesNet,
}
