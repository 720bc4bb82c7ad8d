"""The networks of the paper: plain torch, no Pyro."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

PIECE = 256  # units whose rows the encoder reads at once


def mlp(in_dim: int, out_dim: int, width: int, depth: int, dropout: float = 0.0) -> nn.Sequential:
    """Make a ReLU network with `depth` hidden layers of `width` units, He initialisation (section 5, appendix A).

    In training a share `dropout` of the hidden units is left out at random.
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        # One module with or without dropout, so that the names of the weights are the same.
        active = nn.Sequential(nn.ReLU(), nn.Dropout(dropout)) if dropout else nn.ReLU()
        layers += [_he(nn.Linear(in_dim, width), "relu"), active]
        in_dim = width
    return nn.Sequential(*layers, _he(nn.Linear(in_dim, out_dim), "linear"))


def _he(layer: nn.Linear, nonlinearity: Literal["relu", "linear"]) -> nn.Linear:
    nn.init.kaiming_normal_(layer.weight, nonlinearity=nonlinearity)
    nn.init.zeros_(layer.bias)
    return layer


class GaussianMLP(nn.Module):
    """A network that returns loc and scale of a diagonal normal distribution.

    scale = floor + exp(s), where s is an output of the network. The floor keeps the scale from collapsing onto the few
    labelled rows; the paper relies on early stopping for that. Other than with He initialisation, s starts at 0: one
    row with s = 5 would make z so large that the decoder's own scale overflows.
    """

    def __init__(
        self, in_dim: int, out_dim: int, width: int, depth: int, floor: float = 0.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.net = mlp(in_dim, 2 * out_dim, width, depth, dropout)
        self.floor = floor
        with torch.no_grad():
            cast(nn.Linear, self.net[-1]).weight[out_dim:].zero_()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Concatenate the inputs, (..., d_k) broadcast, along the last axis; return loc and scale, (..., out_dim)."""
        if len({t.shape[:-1] for t in inputs}) > 1:  # broadcasting that is not needed costs more than the rest of this
            # `torch.broadcast_shapes` imports SymPy, which takes a second.
            leading = torch.broadcast_tensors(*(t.new_empty(()).expand(t.shape[:-1]) for t in inputs))[0].shape
            inputs = tuple(t.expand(leading + t.shape[-1:]) for t in inputs)
        loc, log_scale = self.net(torch.cat(inputs, -1)).chunk(2, -1)
        return loc, self.floor + log_scale.exp()


class SetEncoder(nn.Module):
    """Permutation-invariant encoder of a unit's rows: row network, masked mean and maximum, head.

    In the mean over all rows, five labelled rows among hundreds have almost no weight; the labelled rows are therefore
    averaged separately as well.
    """

    def __init__(self, row_dim: int, out_dim: int, width: int) -> None:
        super().__init__()
        self.row = mlp(row_dim, width, width, 1)
        self.head = GaussianMLP(3 * width + 1, out_dim, width, 1)

    def forward(self, rows: Tensor, mask: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Encode rows (M, S, row_dim) where mask (M, S); labelled (M, S); return loc, scale, each (M, out_dim)."""
        # In pieces: memory of 32 MB and more goes back to the system after every use, and getting it anew takes longer
        # than the products.
        pieces = zip(rows.split(PIECE), mask.split(PIECE), labelled.split(PIECE), strict=True)
        return self.head(torch.cat([self.pooled(*piece) for piece in pieces]))

    def pooled(self, rows: Tensor, mask: Tensor, labelled: Tensor) -> Tensor:
        """Pool the rows of each unit, (M, 3 width + 1): mean, maximum, mean of those labelled, if any is."""
        features = torch.relu(self.row(rows))
        weight = torch.stack([mask, mask & labelled], 1).to(features)  # (M, 2, S)
        n = weight.sum(-1, keepdim=True)
        means = (weight / n.clamp(min=1)) @ features
        # `max` looks at fewer numbers than `amax`, which shares the gradient of ties; they are at 0, where it is none.
        top = features.masked_fill(~mask[..., None], 0.0).max(1).values
        return torch.cat([means[:, 0], top, means[:, 1], n[:, 1].clamp(max=1)], -1)


def by_entry(known: Tensor) -> Tensor:
    """A mask of rows (B,) or entries (B, D) as one that broadcasts over entries, (B, 1) or (B, D)."""
    return known[..., None] if known.dim() == 1 else known


def fill_targets(x: Tensor, y: Tensor | None, labelled: Tensor | None, y_dim: int) -> tuple[Tensor, Tensor]:
    """Targets (B, Dy) and where they are observed (B,), boolean; without targets zeros, observed nowhere."""
    if y is None:
        return x.new_zeros(len(x), y_dim), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return y, torch.ones(len(x), dtype=torch.bool, device=x.device) if labelled is None else labelled
