"""Laws of durations and gaps in whole frames: tables of log probabilities by age, differentiable in mean and sd.

A law has two readings (the paper defines the process by the first, see the entry's README):

* ``cdf``: its distribution function at age + 1 *is* the probability to end in the next frame (Φ and Ψ of eq. 2);
* ``hazard``: the renewal reading: the probability to end is the law's hazard, so that durations follow the law.

Ages are d = 1..n frames; every function returns arrays of shape (..., n) for parameters of shape (...).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import log_ndtr


def _normal(age: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return (age - mean) / sd


def _lognormal(age: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    variance = torch.log1p((sd / mean) ** 2)
    return (age.log() - mean.log() + variance / 2) / variance.sqrt()


# Law -> standard score of an age; the law's distribution function is the standard normal's at that score.
LAWS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"normal": _normal, "lognormal": _lognormal}


def renewal(mean: Tensor, sd: Tensor, n: int, law: str = "normal") -> tuple[Tensor, Tensor]:
    """Tabulate a law rounded to whole frames, truncated to at least one frame, and renormalised.

    Args:
        mean: Mean of the law before rounding and truncation, in frames, shape (...).
        sd: Standard deviation before rounding and truncation, in frames, shape (...).
        n: Largest age.
        law: A name in `LAWS`.

    Returns:
        Log probability to last exactly d frames, and to last at least d frames, both of shape (..., n).
    """
    mean, sd = mean[..., None], sd[..., None]
    age = torch.arange(1, n + 1, dtype=mean.dtype, device=mean.device)
    low, high = LAWS[law](age - 0.5, mean, sd), LAWS[law](age + 0.5, mean, sd)
    # The difference of the two smaller tails, so that nothing cancels far from the mean.
    upper = low > 0
    larger = log_ndtr(torch.where(upper, -low, high))
    smaller = log_ndtr(torch.where(upper, -high, low))
    whole = log_ndtr(-low[..., :1])
    return larger + log1mexp(smaller - larger) - whole, log_ndtr(-low) - whole


def distribution_function(mean: Tensor, sd: Tensor, n: int, law: str = "normal") -> tuple[Tensor, Tensor]:
    """Tabulate log Φ(d + 1) and log (1 − Φ(d + 1)) of a law: the probabilities of eq. 2 to end, or not, after age d."""
    mean, sd = mean[..., None], sd[..., None]
    score = LAWS[law](torch.arange(2, n + 2, dtype=mean.dtype, device=mean.device), mean, sd)
    return log_ndtr(score), log_ndtr(-score)  # eq. 2: Φ(g + 1) or Ψ(g + 1), and 1 less it


def geometric(probability: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Tabulate the memoryless law: log probability to last exactly d, and at least d frames."""
    probability = probability.clamp(max=1 - 1e-15)  # 0 times the logarithm of 0 is NaN
    age = torch.arange(n, dtype=probability.dtype, device=probability.device)
    survive = age * torch.log1p(-probability)[..., None]
    return survive + probability.log()[..., None], survive


def constant(probability: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Tabulate a probability to end that is the same at every age: log P(end) and log P(no end)."""
    end, no_end = (t[..., None].expand(*t.shape, n) for t in (probability.log(), torch.log1p(-probability)))
    return end, no_end


def residual(at_least: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Tabulate what is left of segments at a random frame of theirs, mixed over kinds of segments.

    A segment that lasts at least d frames with probability S(d) is met with d frames or more to go in proportion to
    S(d) + S(d + 1) + ...: the law of the wait for the first step where a recording begins within a gap.

    Args:
        at_least: Log probability of every kind to last at least 1, 2, ..., n frames, shape (..., J, n); beyond n, the
            hazard is that of the last age.
        log_weight: Log rate at which segments of every kind occur, shape (..., J).

    Returns:
        Log probability to last exactly d, and at least d more frames, both of shape (..., n).
    """
    at_least = at_least.clamp(min=-1e4)  # differences of two logarithms of 0 are NaN
    going_on = (at_least[..., -1:] - at_least[..., -2:-1]).exp().clamp(max=1 - 1e-9)
    beyond = at_least[..., -1:] - torch.log1p(-going_on)
    rest = torch.cat([at_least[..., :-1], beyond], -1).flip(-1).logcumsumexp(-1).flip(-1)
    weight = log_weight[..., None]
    total = torch.logsumexp(weight + rest[..., :1], -2)
    return torch.logsumexp(weight + at_least, -2) - total, torch.logsumexp(weight + rest, -2) - total


def tabulated(probability: Tensor) -> tuple[Tensor, Tensor]:
    """Tabulate a user's own law.

    Args:
        probability: P(exactly d frames), d = 1..n, shape (..., n); the rest of a row to 1 lasts longer than n frames,
            with the hazard of n at every further age.

    Returns:
        Log probability to last exactly d frames, and to last at least d frames, both of shape (..., n + 2): the cap,
        the last age but one, lies above n.

    Raises:
        ValueError: A probability is negative or not finite, or a row sums to more than 1.
    """
    total = probability.sum(-1)
    if not bool(torch.isfinite(probability).all()) or bool((probability < 0).any()) or bool((total > 1 + 1e-9).any()):
        raise ValueError("duration table: probabilities of 1..n frames, none negative, rows that sum to at most 1")
    rest = torch.where(total < 1 - 1e-9, 1 - total, 0.0)[..., None]
    last = probability[..., -1:]
    hazard = torch.where(rest > 0, last / (last + rest), 1.0)
    exactly = torch.cat([probability, rest * hazard, rest * (1 - hazard) * hazard], -1)
    at_least = torch.cat([probability.flip(-1).cumsum(-1).flip(-1) + rest, rest, rest * (1 - hazard)], -1)
    return exactly.log(), at_least.log().clamp(max=0)


def log1mexp(x: Tensor) -> Tensor:
    """Compute log(1 − exp(x)) for x < 0, accurate near 0 and far below it."""
    near = x > -math.log(2)
    return torch.where(
        near, torch.log(-torch.expm1(torch.where(near, x, -1.0))), torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    )


# Reading -> the law of durations and gaps by mean and sd, and the memoryless law of the wait before the first step.
READINGS = {"hazard": (renewal, geometric), "cdf": (distribution_function, constant)}
