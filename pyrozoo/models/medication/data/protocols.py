"""Protocols of self-administration: the steps, their order, and how long steps and gaps take.

This module needs NumPy only, so that a card or a command line can read a protocol without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

NON_EVENT = "non-event"

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Protocol:
    """A renewal process of steps with gaps between them; all times in seconds.

    Labels are 0..S: 1..S are the steps, in the order of `steps`. As the label of a frame, 0 means that no step is being
    performed; as the label before a step, in `next_step`, it means the start of the recording.

    ::

        wait ~ Exponential(mean start_wait),  h = 0
        repeat:  k ~ next_step[h, .]                         with the rest of the row: no further step
                 gap ~ N(gap_mean[h, k], gap_sd[h, k]^2)      not before the first step
                 duration ~ N(duration_mean[k], duration_sd[k]^2)
                 h = k
        rest ~ Exponential(mean end_wait)

    Attributes:
        name: Name of the protocol.
        steps: Names of the S steps.
        duration_mean: Mean duration of each step [s], shape (S,).
        duration_sd: Standard deviation of the duration of each step [s], shape (S,).
        next_step: (h, k) -> probability that step k is the next one after label h; pairs that are not named have
            probability 0, and what a row lacks to 1 is the probability that no further step follows.
        gap_mean: (h, k), h >= 1 -> mean time from the end of step h to the start of step k [s].
        gap_sd: (h, k), h >= 1 -> standard deviation of that time [s].
        start_wait: Mean time before the first step [s].
        end_wait: Mean time after the last step [s].
        sources: Sources of the steps, and the numbers that are documented there.

    Raises:
        ValueError: A number has the wrong shape or range, or the steps never end; the message names the field.

    Example:
        >>> from pyrozoo.models.medication import Protocol
        >>> protocol = Protocol(
        ...     name="nasal spray", steps=("shake", "spray"), duration_mean=[4.0, 1.0], duration_sd=[1.0, 0.3],
        ...     next_step={(0, 1): 1.0, (1, 2): 0.9}, gap_mean={(1, 2): 3.0}, gap_sd={(1, 2): 1.0},
        ...     start_wait=10.0, end_wait=5.0, sources="made up",
        ... )
        >>> protocol.labels
        ('non-event', 'shake', 'spray')
        >>> protocol.matrix().round(2).tolist()  # row: label before; column 0: no further step
        [[0.0, 1.0, 0.0], [0.1, 0.0, 0.9], [1.0, 0.0, 0.0]]
    """

    name: str
    steps: tuple[str, ...]
    duration_mean: np.ndarray
    duration_sd: np.ndarray
    next_step: Mapping[Pair, float]
    gap_mean: Mapping[Pair, float]
    gap_sd: Mapping[Pair, float]
    start_wait: float
    end_wait: float
    sources: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        for field in ("duration_mean", "duration_sd"):
            value = np.array(getattr(self, field), dtype=float)
            value.setflags(write=False)
            object.__setattr__(self, field, value)
        for field in ("next_step", "gap_mean", "gap_sd"):
            object.__setattr__(self, field, MappingProxyType(dict(getattr(self, field))))
        self._check()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels 0..S of a frame."""
        return (NON_EVENT, *self.steps)

    def matrix(self) -> np.ndarray:
        """Order of the steps as a stochastic matrix D, shape (K, K) with K = S + 1.

        Row h belongs to label h (row 0: the start). Entry (h, k) is the probability that step k is the next one, and
        column 0 the probability that no further step follows. Every row sums to 1.
        """
        matrix = np.zeros((len(self.labels),) * 2)
        for (h, k), probability in self.next_step.items():
            matrix[h, k] = probability
        # Rounding may leave a full row a hair above 1.
        matrix[:, 0] = np.maximum(0.0, 1.0 - matrix.sum(1))
        return matrix

    def _check(self) -> None:
        n = len(self.steps)
        if n == 0 or len(set(self.labels)) <= n:
            raise ValueError(
                f"steps: {self.steps}; give at least one name, each of its own and none {NON_EVENT!r}, which is label 0"
            )
        for field in ("duration_mean", "duration_sd"):
            value = getattr(self, field)
            if value.shape != (n,) or not ((value > 0) & np.isfinite(value)).all():
                raise ValueError(f"{field}: {value.tolist()}; give {n} positive numbers of seconds, one for each step")
        for (h, k), probability in self.next_step.items():
            if not (0 <= h <= n and 1 <= k <= n):
                raise ValueError(f"next_step[{h}, {k}]: the labels are 0 (start) or 1..{n} before, and 1..{n} after")
            if not 0 <= probability <= 1:
                raise ValueError(f"next_step[{h}, {k}]: {probability} is not a probability")
            for field in ("gap_mean", "gap_sd"):
                value = getattr(self, field).get((h, k))
                if h and (value is None or not 0 < value < np.inf):
                    raise ValueError(f"{field}[{h}, {k}]: {value}; the step may follow, so give a positive time")
        for field in ("start_wait", "end_wait"):
            if not 0 < getattr(self, field) < np.inf:
                raise ValueError(f"{field}: {getattr(self, field)} is not a positive number of seconds")
        self._check_rows()

    def _check_rows(self) -> None:
        rows = np.zeros(len(self.labels))
        for (h, _), probability in self.next_step.items():
            rows[h] += probability
        if (rows > 1 + 1e-9).any():
            h = int(rows.argmax())
            raise ValueError(f"next_step: the probabilities after label {h} sum to {rows[h]:g}; make it 1 or less")
        follows = self.matrix() > 1e-12
        ends, comes = follows[:, 0].copy(), np.arange(len(rows)) == 0
        for _ in rows:
            ends |= follows[:, 1:] @ ends[1:]
            comes[1:] |= comes @ follows[:, 1:]
        if (comes & ~ends).any():
            h = int((comes & ~ends).argmax())
            raise ValueError(f"next_step: after label {h} the steps never end; leave some row on its way below 1")


def _in_order(n: int, gaps: list[float], skip: float, stop: float) -> tuple[dict[Pair, float], dict[Pair, float]]:
    """Order of `n` steps done one after the other, with some probability of skipping a step or stopping.

    Args:
        n: Number of steps.
        gaps: Mean gap after each step but the last [s].
        skip: Probability that the next step is left out.
        stop: Probability that no further step follows.

    Returns:
        ``next_step`` and ``gap_mean``; the gap over a step that is left out is both gaps together.
    """
    order: dict[Pair, float] = {}
    gap_mean: dict[Pair, float] = {}
    for h in range(1, n):
        order[h, h + 1], gap_mean[h, h + 1] = 1.0 - stop, gaps[h - 1]
        if h + 2 <= n:
            order[h, h + 1] -= skip
            order[h, h + 2], gap_mean[h, h + 2] = skip, gaps[h - 1] + gaps[h]
    return order, gap_mean


def _inhaler() -> Protocol:
    order, gap_mean = _in_order(8, [1.5, 1.5, 1.0, 0.8, 0.6, 0.8, 2.0], skip=0.08, stop=0.02)
    gap_sd = {pair: 0.4 * mean for pair, mean in gap_mean.items()}
    # The second puff: from breathing out (7) back to shaking (2), or straight to breathing out fully (3).
    order |= {(0, 1): 0.9, (0, 2): 0.1, (7, 8): 0.6, (7, 2): 0.25, (7, 3): 0.1}
    gap_mean |= {(7, 2): 20.0, (7, 3): 18.0}
    gap_sd |= {(7, 2): 6.0, (7, 3): 6.0}
    return Protocol(
        name="inhaler",
        steps=(
            "remove cap",
            "shake",
            "breathe out fully",
            "seal lips on mouthpiece",
            "press and inhale slowly",
            "hold breath",
            "breathe out",
            "replace cap",
        ),
        duration_mean=np.array([2.0, 5.0, 3.0, 2.0, 4.0, 9.0, 3.0, 2.0]),
        duration_sd=np.array([0.6, 1.5, 0.9, 0.6, 1.0, 2.5, 0.9, 0.6]),
        next_step=order,
        gap_mean=gap_mean,
        gap_sd=gap_sd,
        start_wait=15.0,
        end_wait=10.0,
        sources="Steps of a pressurised metered-dose inhaler as in the checklist of the American Thoracic Society, in "
        "BMC Pulmonary Medicine 2021 (s12890-021-01627-y, table 1) and in Allergy, Asthma & Clinical Immunology 2013, "
        "9:8 (table 1). Documented times: shake 3 to 5 s, hold the breath 5 to 10 s, wait 15 to 30 s before a second "
        "puff. All other means, every standard deviation and every probability are assumptions of this package.",
    )


def _pen() -> Protocol:
    order, gap_mean = _in_order(7, [2.0, 2.0, 2.0, 3.0, 1.0, 1.5], skip=0.08, stop=0.02)
    return Protocol(
        name="pen",
        steps=(
            "prepare pen and remove cap",
            "attach needle",
            "prime with needle up",
            "dial dose",
            "insert needle and press",
            "hold needle in skin",
            "withdraw and dispose of needle",
        ),
        duration_mean=np.array([4.0, 8.0, 6.0, 5.0, 4.0, 8.0, 8.0]),
        duration_sd=np.array([1.2, 2.5, 2.0, 1.6, 1.2, 2.5, 2.5]),
        next_step=order | {(0, 1): 0.9, (0, 2): 0.1},
        gap_mean=gap_mean,
        gap_sd={pair: 0.4 * mean for pair, mean in gap_mean.items()},
        start_wait=15.0,
        end_wait=10.0,
        sources="Steps of an insulin pen as in the instructions of BD (4 mm pen needle: count to 10), of Novo Nordisk "
        "and of healthxchange.sg (both: at least 6 s). Documented time: hold the needle in the skin 6 to 10 s. All "
        "other means, every standard deviation and every probability are assumptions of this package.",
    )


INHALER = _inhaler()
PEN = _pen()
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({"inhaler": INHALER, "pen": PEN})
