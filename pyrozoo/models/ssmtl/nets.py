"""The networks of the paper: plain torch, no Pyro."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn


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
        features = torch.relu(self.row(rows))
        kept = torch.where(mask[..., None], features, torch.zeros_like(features))
        marked = torch.where(labelled[..., None], kept, torch.zeros_like(kept))
        n, n_marked = mask.sum(1, keepdim=True), labelled.sum(1, keepdim=True)
        pooled = [
            kept.sum(1) / n.clamp(min=1),
            kept.amax(1),
            marked.sum(1) / n_marked.clamp(min=1),
            n_marked.clamp(max=1),
        ]
        return self.head(*pooled)


def by_entry(known: Tensor) -> Tensor:
    """A mask of rows (B,) or entries (B, D) as one that broadcasts over entries, (B, 1) or (B, D)."""
    return known[..., None] if known.dim() == 1 else known


def fill_targets(x: Tensor, y: Tensor | None, labelled: Tensor | None, y_dim: int) -> tuple[Tensor, Tensor]:
    """Targets (B, Dy) and where they are observed (B,), boolean; without targets zeros, observed nowhere."""
    if y is None:
        return x.new_zeros(len(x), y_dim), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return y, torch.ones(len(x), dtype=torch.bool, device=x.device) if labelled is None else labelled
