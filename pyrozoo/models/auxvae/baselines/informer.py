"""Informer: an encoder by sparse attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sequence_encoder import Embedding, SequenceEncoder, require_divisible, require_positive


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
        require_divisible(width, heads)
        require_positive(factor=factor, expansion=expansion)
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
