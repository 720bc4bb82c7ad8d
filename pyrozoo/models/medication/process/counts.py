"""Counts over labelled recordings: the statistics from which the closed-form fit estimates D, Φ and Ψ of eq. 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ....data.batch import Batch
from .segments import runs

SEVERAL = 2.0  # steps per different step from which on a recording holds more than one pass of its protocol


@dataclass
class Counts:
    """Counts over labelled recordings; lengths in frames.

    A recording that is labelled in part counts as its labelled stretches: what their ends cut off is left out.

    Attributes:
        durations: Lengths of the complete segments of every step, for Ψ_k; index k − 1.
        gaps: (h, k) with h > 0 -> lengths of the gaps between steps h and k, for Φ_hk.
        transitions: (h, k) -> number of times that step k followed step h, for D; h = 0: number of recordings that
            began in non-event and had k as their first step.
        direct: (h, k) -> number of times that step k followed step h without a gap.
        ends: Number of recordings that ended in the gap after h (h = 0: without any step), shape (S + 1,). Of a
            recording of several passes only if this gap is longer than the gaps seen after h: in a shorter one the next
            step may have been about to begin.
        waits: Frames before the first step of the recordings that began in non-event and had one.
        passes: Steps per different step of every recording with steps: 1 if each was performed once.
    """

    durations: list[list[int]]
    gaps: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    transitions: dict[tuple[int, int], int] = field(default_factory=dict)
    direct: dict[tuple[int, int], int] = field(default_factory=dict)
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0))
    waits: list[int] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray], n_steps: int) -> Counts:
        """Count label sequences, each of shape (T,), with -1 in the frames without a label."""
        found = cls([[] for _ in range(n_steps)], ends=np.zeros(n_steps + 1))
        last = []
        for labels in sequences:
            for stretch in stretches(labels):
                part = runs(labels[stretch])
                found._add(*part, begins=stretch.start == 0)
                if part.label[-1] == 0 and stretch.stop == len(labels):
                    last.append((part, int(part.label[-2]) if len(part.label) > 1 else 0))
        for part, h in last:
            longest = max((max(gaps) for (own, _), gaps in found.gaps.items() if own == h), default=0)
            if passes_of(part.label) < SEVERAL or part.stop[-1] - part.start[-1] > longest:
                found.ends[h] += 1
        return found

    def _add(self, label: np.ndarray, start: np.ndarray, stop: np.ndarray, begins: bool) -> None:
        h, known = 0, begins  # whether it is known which step is the last one
        for i, (k, n) in enumerate(zip(label.tolist(), (stop - start).tolist(), strict=True)):
            if k == 0:
                continue
            if i > 0 and known:
                pair, before = (h, k), int(label[i - 1])
                self.transitions[pair] = self.transitions.get(pair, 0) + 1  # eq. 2: D
                if before > 0:
                    self.direct[pair] = self.direct.get(pair, 0) + 1
                else:
                    gap = int(stop[i - 1] - start[i - 1])
                    (self.gaps.setdefault(pair, []) if h else self.waits).append(gap)  # eq. 2: Φ
            # The end of a recording cuts off the last segment, an unlabelled frame also the first one.
            if i < len(label) - 1 and (i > 0 or begins):
                self.durations[k - 1].append(n)  # eq. 2: Ψ
            h, known = k, True
        if (label > 0).any():
            self.passes.append(passes_of(label))


def passes_of(label: np.ndarray) -> float:
    """Steps per different step, from the labels of a recording's segments; 0 without steps."""
    step = label[label > 0]
    return len(step) / len(np.unique(step)) if len(step) else 0.0


def stretches(labels: np.ndarray) -> Iterator[slice]:
    """Find the longest runs of frames that have a label."""
    seen = np.r_[False, np.asarray(labels) >= 0, False]
    edge = np.flatnonzero(seen[1:] != seen[:-1])
    for start, stop in zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True):
        yield slice(start, stop)


def labelled_sequences(data: Batch) -> list[np.ndarray]:
    """List the label sequences of the labelled recordings, each of shape (T,), -1 in frames without a label."""
    if "label" not in data:
        return []
    parts = data["label"].cpu().split(data["lengths"].tolist())
    return [part.numpy() for part, seen in zip(parts, data["labelled"].tolist(), strict=True) if seen]
