"""SSMTL in plain PyTorch, written by hand without Pyro: what a step of the zoo is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class PlainSSMTL(nn.Module):
    """The networks, contexts and objective of the zoo's SSMTL under the paper's guide.

    Shapes: M units, K context, D latent, Dx inputs, Dy targets, S particles, B rows of a minibatch of which the first
    `n` are labelled. Inputs and targets come standardised: the scales they were divided by enter as one constant.

    Args:
        sizes: Plates and strata of the full data: row, unit, labelled, unlabelled.
        log_x_scale, log_y_scale: Sum of the logarithms of the scales that x and y were divided by.
    """

    def __init__(
        self, x_dim: int, y_dim: int, c_dim: int, z_dim: int, width: int, depth: int, floor: float, alpha: float,
        sizes: Mapping[str, int], log_x_scale: float, log_y_scale: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.x_dim, self.y_dim, self.z_dim, self.floor, self.alpha, self.sizes = (
            x_dim,
            y_dim,
            z_dim,
            floor,
            alpha,
            sizes,
        )
        self.log_x_scale, self.log_y_scale = log_x_scale, log_y_scale
        self.g_y = _mlp(x_dim + c_dim, 2 * y_dim, width, depth)
        self.g_z = _mlp(x_dim + y_dim + c_dim, 2 * z_dim, width, depth)
        self.decoder = _mlp(z_dim + c_dim, 2 * (x_dim + y_dim), width, depth)
        self.c_loc = nn.Parameter(0.1 * torch.randn(sizes["unit"], c_dim))
        self.c_log_scale = nn.Parameter(torch.full((sizes["unit"], c_dim), -3.0))

    def forward(self, x: Tensor, y: Tensor, unit: Tensor, n: int, particles: int) -> Tensor:
        """The negative objective, N times J of equation 20, with Monte Carlo in place of the analytic KL of c."""
        sizes, rows = self.sizes, len(x)
        c_scale = self.c_log_scale.exp()
        c = self.c_loc + c_scale * torch.randn((particles, *self.c_loc.shape), dtype=x.dtype, device=x.device)
        kl_c = (_log_normal(c, self.c_loc, c_scale) - _log_standard_normal(c)).sum()
        c, x = c[:, unit], x.expand(particles, -1, -1)

        loc, scale = self._gaussian(self.g_y, self.floor, x, c)
        noise = torch.randn((particles, rows, self.y_dim), dtype=x.dtype, device=x.device)
        drawn = loc[:, n:] + scale[:, n:] * noise[:, n:]
        y = torch.cat([y[:n].expand(particles, -1, -1), drawn], 1)
        log_q_y = _log_normal(y, loc, scale).sum(-1) - self.log_y_scale

        loc, scale = self._gaussian(self.g_z, 0.0, x, y, c)
        z = loc + scale * torch.randn((particles, rows, self.z_dim), dtype=x.dtype, device=x.device)
        elbo = (_log_standard_normal(z) - _log_normal(z, loc, scale)).sum(-1)

        loc, scale = self._gaussian(self.decoder, self.floor, z, c)
        elbo = elbo + _log_normal(torch.cat([x, y], -1), loc, scale).sum(-1) - self.log_x_scale - self.log_y_scale

        labelled = sizes["labelled"] / n * elbo[:, :n].sum() + self.alpha * sizes["row"] / n * log_q_y[:, :n].sum()
        unlabelled = sizes["unlabelled"] / (rows - n) * (elbo[:, n:] - log_q_y[:, n:]).sum()
        return (kl_c - labelled - unlabelled) / particles

    @staticmethod
    def _gaussian(net: nn.Module, floor: float, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = net(torch.cat(inputs, -1)).chunk(2, -1)
        return loc, floor + log_scale.exp()


def plain_optimizer(model: PlainSSMTL) -> torch.optim.Optimizer:
    """Fused Adam, with the larger learning rate for the contexts that the zoo's default has."""
    contexts = [model.c_loc, model.c_log_scale]
    networks = [p for net in (model.g_y, model.g_z, model.decoder) for p in net.parameters()]
    return torch.optim.Adam([{"params": networks}, {"params": contexts, "lr": 1e-2}], lr=1e-3, fused=True)


def plain_minibatches(
    x: Tensor, y: Tensor, unit: Tensor, labelled: Tensor, unlabelled: Tensor, each: int
) -> Iterator[dict[str, Any]]:
    """Minibatches without end: `each` labelled rows, then `each` unlabelled ones; both reshuffled when gone through."""

    def cycle(rows: Tensor) -> Iterator[Tensor]:
        while True:
            yield from rows[torch.randperm(len(rows))].split(each)

    for first, second in zip(cycle(labelled), cycle(unlabelled), strict=True):
        rows = torch.cat([first, second])
        yield {"x": x[rows], "y": y[rows], "unit": unit[rows], "n": len(first)}


def plain_step(
    model: PlainSSMTL, optimizer: torch.optim.Optimizer, minibatches: Iterator[dict[str, Any]], particles: int
) -> Callable[[], None]:
    """One optimiser step on the next minibatch."""

    def step() -> None:
        loss = model(**next(minibatches), particles=particles)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _mlp(in_dim: int, out_dim: int, width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(in_dim, width), nn.ReLU()]
        in_dim = width
    return nn.Sequential(*layers, nn.Linear(in_dim, out_dim))


def _log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def _log_standard_normal(value: Tensor) -> Tensor:
    return -0.5 * value**2 - 0.5 * math.log(2 * math.pi)
