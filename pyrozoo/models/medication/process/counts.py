"""What labelled recordings say about the process, counted: the sufficient statistics of the closed-form fit."""

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
        durations: Of every step, lengths of its complete segments; index k − 1.
        gaps: (h, k) with h > 0 -> lengths of the gaps between steps h and k.
        transitions: (h, k) -> how often step k followed step h; h = 0: how often a recording that began in non-event
            had k as its first step.
        ends: How often a recording ended in the gap after h (h = 0: without any step), shape (S + 1,).
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
                self.transitions[h, k] = self.transitions.get((h, k), 0) + 1
                (self.gaps.setdefault((h, k), []) if h else self.waits).append(gap)
            if i < len(label) - 1:  # the end of the recording cuts off the last segment
                self.durations[k - 1].append(n)
            h = k
        if label[-1] == 0:
            self.ends[h] += 1


def labelled_sequences(data: Batch) -> list[np.ndarray]:
    """Label sequences of the labelled recordings."""
    if "label" not in data:
        return []
    parts = data["label"].cpu().split(data["lengths"].tolist())
    return [part.numpy() for part, seen in zip(parts, data["labelled"].tolist(), strict=True) if seen]
