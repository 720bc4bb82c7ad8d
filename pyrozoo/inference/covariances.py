"""Covariances of the Gaussian processes on labels, and the search of their hyperparameters; on tensors alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from .settings import Adam

STEPS = 100  # of the search
JITTER, CONSTANT = 1e-4, 4.0  # in variances of the target
# Logarithms from which the search starts, and about which it has normal priors of standard deviation SPREAD.
START = {
    "unit": -0.3, "smooth": -0.7, "smooth_unit": -1.0, "smooth_alike": -0.7, "alike": -0.7, "alike_rate": 0.0,
    "time": -1.0, "time_rate": 0.7, "time_trend": -2.0, "time_common": -1.5, "time_common_rate": 0.7,
    "time_common_trend": -2.0, "noise": -1.0,
}  # fmt: skip
SPREAD = 1.5
KINDS = ("squared", "absolute")  # distances in x: functions that are smooth, and those that have kinks as trees have
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # x (n, D), means (n, D), unit (n,), time and trend (n, 2)


def search(pairs: Pairs, n_kinds: int, left_out: Set[str], y: Tensor) -> dict[str, Tensor]:
    """Logarithms of the hyperparameters of components that share them, from some of their labels (n, J).

    C classes have C - 1 components that are free, so that their likelihood counts by (C - 1) / C.
    """
    each = -0.5 * math.log(max(pairs.n_features, 1)) - 0.7
    start = {name: torch.tensor(value, dtype=torch.double) for name, value in START.items() if name not in left_out}
    start |= {name: torch.full((n_kinds,), each, dtype=torch.double) for name in ("linear", "rate")}
    log = {name: value.clone().requires_grad_() for name, value in start.items()}
    free = max(y.shape[1] - 1, 1) / y.shape[1]
    lower, below = below_diagonal(pairs)
    optimiser = Adam(log.values(), lr=0.1)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - 0.9 * step / STEPS)
        with torch.enable_grad():
            covariance = covariance_of(log, lower)
            noise = log["noise"].exp() ** 2
            prior = torch.stack([((log[name] - start[name]) / SPREAD).square().sum() for name in log]).sum() / 2
        slopes = [free * slope for slope in slopes_of(covariance.detach(), float(noise.detach()), below, y)]
        optimiser.zero_grad()
        torch.autograd.backward([covariance, noise, prior], [*slopes, torch.ones_like(prior)])
        optimiser.step()
    return {name: value.detach() for name, value in log.items()}


def below_diagonal(pairs: Pairs) -> tuple[Pairs, Tensor]:
    """Pairs of rows with one another, each once: (P,) in place of (n, n); and their rows and columns, (2, P)."""
    below = torch.tril_indices(*pairs.same.shape)
    here, there = below
    apart = None if pairs.means_apart is None else pairs.means_apart[here, there]
    times = None if pairs.times is None else (pairs.times[0][here, 0], pairs.times[1][0, there])
    products, distances = pairs.products[:, here, there], pairs.apart[:, here, there]
    return Pairs(pairs.kind, pairs.n_features, products, distances, pairs.same[here, there], apart, times), below


def slopes_of(covariance: Tensor, noise: float, below: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of minus the log likelihood of labels (n, J) by the covariances of pairs (P,), and by the noise.

    By the whole matrix C, noise included, they are 1/2 (J C^-1 - C^-1 y y' C^-1), of which a pair off the diagonal has
    two elements. Cheaper than a backward pass through the factor.
    """
    whole = covariance.new_zeros(len(y), len(y)).index_put(tuple(below), covariance)
    whole.diagonal().add_(noise + JITTER)
    factor = torch.linalg.cholesky(whole)  # which reads the lower triangle alone
    weights = torch.cholesky_solve(y, factor)
    slopes = y.shape[1] * torch.cholesky_inverse(factor) - weights @ weights.T
    return torch.where(below[0] == below[1], 0.5, 1.0) * slopes[tuple(below)], 0.5 * slopes.diagonal().sum()


def with_noise(covariance: Tensor, log: Mapping[str, Tensor]) -> Tensor:
    """Covariance of labels (n, n), their noise included."""
    return covariance + (log["noise"].exp() ** 2 + JITTER) * torch.eye(len(covariance), dtype=covariance.dtype)


@dataclass(frozen=True)
class Pairs:
    """What a covariance reads of rows (n,) and others (m,), whatever its hyperparameters.

    Attributes:
        kind: Of `KINDS`.
        n_features: D.
        products, apart: Of each kind of features, products and distances, (K, n, m).
        same: 1 where both are of one unit, (n, m).
        means_apart: Squared distances of their units' features, (n, m); None where these do not count.
        times: Times and trends (n, 1, 2) and (1, m, 2); None without.
    """

    kind: str
    n_features: int
    products: Tensor
    apart: Tensor
    same: Tensor
    means_apart: Tensor | None
    times: tuple[Tensor, Tensor] | None


def pairs_of(kind: str, sizes: Sequence[int], one: Inputs, other: Inputs, *, with_means: bool = True) -> Pairs:
    """What the covariance of one kind reads of some rows and others."""
    parts = list(zip(one[0].split(list(sizes), 1), other[0].split(list(sizes), 1), strict=True))
    if kind == "absolute":
        apart = [torch.cdist(torch.asinh(2 * a), torch.asinh(2 * b), p=1) for a, b in parts]
    else:
        apart = [_squares(a, b) for a, b in parts]
    times = None if one[3] is None or other[3] is None else (one[3][:, None], other[3][None])
    return Pairs(
        kind, one[0].shape[1], torch.stack([a @ b.T for a, b in parts]), torch.stack(apart),
        (one[2][:, None] == other[2][None]).double(), _squares(one[1], other[1]) if with_means else None, times,
    )  # fmt: skip


def covariance_of(log: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
    """Covariance of f in some rows (n,) and others (m,), (n, m)."""
    size = {name: value.exp() ** 2 for name, value in log.items()}
    features = max(pairs.n_features, 1)
    if pairs.kind == "absolute":
        smooth = torch.exp(-torch.tensordot(log["rate"].exp(), pairs.apart, 1) / math.sqrt(features))
    else:
        smooth = torch.exp(-0.5 * torch.tensordot(size["rate"], pairs.apart, 1))
    found = CONSTANT + size["unit"] * pairs.same + torch.tensordot(size["linear"], pairs.products, 1)
    shared = size["smooth"] + size["smooth_unit"] * pairs.same
    if pairs.means_apart is not None:
        alike = torch.exp(-0.5 * size["alike_rate"] / features * pairs.means_apart)
        found, shared = found + size["alike"] * alike, shared + size["smooth_alike"] * alike
    found = found + shared * smooth
    if pairs.times is not None:
        (here, here_trend), (there, there_trend) = (times.unbind(-1) for times in pairs.times)
        for name, where in (("time", pairs.same), ("time_common", 1.0)):
            trend = size[f"{name}_trend"] * here_trend * there_trend
            found = found + where * (size[name] * torch.exp(-log[f"{name}_rate"].exp() * (here - there).abs()) + trend)
    return found


def variance_of(log: Mapping[str, Tensor], sizes: Sequence[int], rows: Inputs) -> Tensor:
    """Variance of f in rows, the diagonal of their covariance, (n,)."""
    timed = () if rows[3] is None else ("time", "time_common")
    names = ("unit", "smooth", "smooth_unit", "smooth_alike", "alike", *timed)
    constant = CONSTANT + sum(float(log[name].exp() ** 2) for name in names if name in log)
    found = constant + rows[0].square() @ log["linear"].repeat_interleave(torch.tensor(sizes)).exp() ** 2
    for name in timed:
        found = found + (rows[3][:, 1] * log[f"{name}_trend"].exp()).square()  # type: ignore[index]
    return found


def _squares(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances (n, m) of points (n, D) and (m, D)."""
    return (one.square().sum(1)[:, None] + other.square().sum(1)[None] - 2 * one @ other.T).clamp(min=0)
