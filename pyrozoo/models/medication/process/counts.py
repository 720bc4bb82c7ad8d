"""Counts over labelled recordings: the statistics from which the closed-form fit estimates D, Φ and Ψ of eq. 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ....data.batch import Batch
from .segments import runs


@dataclass
class Counts:
    """Counts over labelled recordings; lengths in frames.

    Attributes:
        durations: Lengths of the complete segments of every step, for Ψ_k; index k − 1.
        gaps: (h, k) with h > 0 -> lengths of the gaps between steps h and k, for Φ_hk.
        transitions: (h, k) -> number of times that step k followed step h, for D; h = 0: number of recordings that
            began in non-event and had k as their first step.
        ends: Number of recordings that ended in the gap after h (h = 0: without any step), shape (S + 1,).
        waits: Frames before the first step of the recordings that began in non-event and had one.
    """

    durations: list[list[int]]
    gaps: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    transitions: dict[tuple[int, int], int] = field(default_factory=dict)
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0))
    waits: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray], n_steps: int) -> Counts:
        """Count label sequences, each of shape (T,)."""
        found = cls([[] for _ in range(n_steps)], ends=np.zeros(n_steps + 1))
        for labels in sequences:
            found._add(*runs(labels))
        return found

    def _add(self, label: np.ndarray, start: np.ndarray, stop: np.ndarray) -> None:
        h, gap = 0, 0
        for i, (k, n) in enumerate(zip(label.tolist(), (stop - start).tolist(), strict=True)):
            if k == 0:
                gap = n
                continue
            if i > 0:
                self.transitions[h, k] = self.transitions.get((h, k), 0) + 1  # eq. 2: D
                (self.gaps.setdefault((h, k), []) if h else self.waits).append(gap)  # eq. 2: Φ
            if i < len(label) - 1:  # the end of the recording cuts off the last segment
                self.durations[k - 1].append(n)  # eq. 2: Ψ
            h = k
        if label[-1] == 0:
            self.ends[h] += 1


def labelled_sequences(data: Batch) -> list[np.ndarray]:
    """List the label sequences of the labelled recordings, each of shape (T,)."""
    if "label" not in data:
        return []
    parts = data["label"].cpu().split(data["lengths"].tolist())
    return [part.numpy() for part, seen in zip(parts, data["labelled"].tolist(), strict=True) if seen]
