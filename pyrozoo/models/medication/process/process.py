"""The two processes over labels as tables of tensors: the semi-Markov process of steps, and the frame-level chain.

Both are built from parameters by plain torch, so that gradients flow, and are read by the kernels as arrays. A leading
shape (...) of the parameters, e.g. of particles, becomes the processes' ``lead``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .kernels import Graph

Law = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pairs:
    """Which step may follow which: h -> k, h = 0 before the first step, in order of h.

    Attributes:
        n_steps: S.
        h, k: Last and next step of each pair, shape (P,).
    """

    n_steps: int
    h: np.ndarray
    k: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[Sequence[int]], n_steps: int) -> Pairs:
        """Check and order pairs (h, k).

        Raises:
            ValueError: No pair, one outside h = 0..S, k = 1..S, or one given twice.
        """
        array = np.asarray(sorted(map(tuple, pairs)), dtype=np.int64).reshape(-1, 2)
        if not len(array):
            raise ValueError("pairs: none is given; give (h, k) where step k may follow step h, h = 0 for the start")
        wrong = (array < (0, 1)).any(1) | (array > n_steps).any(1)
        if wrong.any():
            raise ValueError(f"pairs: {tuple(array[wrong][0].tolist())} is not h = 0..{n_steps}, k = 1..{n_steps}")
        if len(np.unique(array, axis=0)) < len(array):
            raise ValueError("pairs: one is given twice")
        return cls(n_steps, *np.ascontiguousarray(array.T))

    @property
    def later(self) -> np.ndarray:
        """Positions of the pairs with h > 0, whose gap has a law of its own."""
        return np.flatnonzero(self.h > 0)

    def names(self, labels: Sequence[str]) -> list[str]:
        """Names of the pairs, e.g. "remove cap → shake"; labels (S + 1,) start with the non-event."""
        return [f"{labels[h] if h else 'start'} → {labels[k]}" for h, k in zip(self.h, self.k, strict=True)]


def next_step(stick: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Rows of D from sticks: each takes its share of what the pairs before it in its row have left.

    With sticks Beta(a_i, a_{i+1} + ... + a_end), a row of D and its end are Dirichlet(a).

    Args:
        stick: Shares in (0, 1), shape (..., P).
        pairs: The pairs, in the order of the sticks.

    Returns:
        log D (..., P), and the log probability of each row that no step follows, (..., S + 1).
    """
    stick = stick.double().clamp(1e-300, 1 - 1e-15)
    left = torch.log1p(-stick)
    before = left.cumsum(-1) - left
    first = torch.as_tensor(np.searchsorted(pairs.h, pairs.h), device=stick.device)
    end = torch.zeros(*stick.shape[:-1], pairs.n_steps + 1, dtype=stick.dtype, device=stick.device)
    end = end.index_add(-1, torch.as_tensor(pairs.h, device=stick.device), left)
    return stick.log() + before - before[..., first], end


@dataclass(frozen=True)
class SemiMarkovProcess:
    """Tables of the process; fields as in `kernels.Graph`, with a leading shape.

    Nodes 0..S are the gaps after step h (h = 0: before the first step), nodes S + k the steps k = 1..S.
    """

    pairs: Pairs
    cap: np.ndarray
    source: np.ndarray
    target: np.ndarray
    log_initial: Tensor
    log_length: Tensor
    log_survive: Tensor
    log_stay: Tensor
    log_leave: Tensor

    @property
    def n_labels(self) -> int:
        """K, non-event included."""
        return self.pairs.n_steps + 1

    @property
    def lead(self) -> torch.Size:
        """Leading shape of the tables."""
        return self.log_stay.shape[:-1]

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """The tensors, in the order of `kernels.ExpectedCounts`."""
        return self.log_initial, self.log_length, self.log_survive, self.log_stay, self.log_leave

    @cached_property
    def label(self) -> np.ndarray:
        """Label of each node."""
        return np.r_[np.zeros(self.n_labels, np.int64), np.arange(1, self.n_labels)]

    @cached_property
    def arc_into(self) -> np.ndarray:
        """Arc from the gap after h into step k, -1 where there is none, shape (S + 1, S + 1)."""
        arc = np.full((self.n_labels, self.n_labels), -1)
        arc[self.pairs.h, self.pairs.k] = np.arange(len(self.pairs.h))
        return arc

    def graph(self, index: int = 0) -> Graph:
        """Arrays of one process of the leading shape, for the kernels."""
        initial, length, survive, stay, leave = (
            t.detach().cpu().double().reshape(-1, *t.shape[len(self.lead) :])[index].numpy() for t in self.tables
        )
        first_arc = np.searchsorted(self.source, np.arange(len(self.label) + 1))
        return Graph(self.label, self.cap, first_arc, self.source, self.target, initial, length, survive, stay, leave)

    def detach(self) -> SemiMarkovProcess:
        """The same process without gradients."""
        return _detached(self)

    def log_prob(self, labels: np.ndarray, lengths: np.ndarray) -> Tensor:
        """Log probability of label sequences, laid end to end; -inf where one is impossible.

        Args:
            labels: Shape (sum of lengths,).
            lengths: Frames of each recording, shape (B,).

        Returns:
            Shape (*lead, B).
        """
        label, start, recording = _runs_of_all(labels, lengths)
        n = np.diff(np.r_[start, lengths.sum()])
        first, last = np.r_[True, np.diff(recording) > 0], np.r_[np.diff(recording) > 0, True]
        # A gap belongs to the step before it in its recording.
        previous = np.where(first, 0, np.r_[0, label[:-1]])
        node = np.where(label > 0, self.pairs.n_steps + label, previous)
        following = np.r_[label[1:], 0]
        arc = np.where(label > 0, len(self.pairs.h) + label - 1, self.arc_into[previous, following])
        illegal = ~last & (((label > 0) & (following > 0)) | (arc < 0))
        arc = np.where(last | illegal, 0, arc)
        cap, width = self.cap[node], self.log_survive.shape[-1]
        old, extra = n >= cap, np.maximum(n - cap, 0)
        age = np.minimum(n, cap) - 1
        survive = self.log_survive.flatten(-2)[..., node * width + age]
        # Where the last age is impossible, staying has log probability -inf, which 0 times must not touch.
        stay = torch.where(self._like(extra > 0), self.log_stay[..., node] * self._like(np.maximum(extra, 1)), 0.0)
        leave = self.log_leave[..., arc]
        length = self.log_length.flatten(-2)[..., arc * width + age]
        done = torch.where(self._like(old), survive + stay + leave, length)
        term = torch.where(self._like(last), survive + stay, done)
        term = torch.where(self._like(illegal), -torch.inf, term)
        term = term + torch.where(self._like(first), self.log_initial[..., node], 0.0)
        out = torch.zeros(*self.lead, len(lengths), dtype=term.dtype, device=term.device)
        return out.index_add(-1, self._like(recording), term)

    def _like(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.log_stay.device)


def semi_markov_process(
    pairs: Pairs, log_d: Tensor, log_end: Tensor, start: Law, gap: Law, step: Law, initial: Tensor,
    reading: str = "hazard",
) -> SemiMarkovProcess:  # fmt: skip
    """Build the process from the laws of its steps and gaps.

    In the ``hazard`` reading step k ~ D[h] and then the gap from the law of (h, k), or with probability ``end`` no
    step follows; in the ``cdf`` reading (the text) the pairs of a row compete in every frame with D[h, k] Φ_hk(g + 1).
    The last tabulated age but one is the cap of its kind: from there on hazards are constant.

    Args:
        pairs: Which step may follow which.
        log_d: From `next_step`, shape (..., P).
        log_end: From `next_step`, shape (..., S + 1).
        start: Tables of the wait before the first step, one per pair with h = 0, shapes (..., P0, n); see `durations`.
        gap: Tables of the gaps of the other pairs, shapes (..., P − P0, m); P − P0 may be 0.
        step: Tables of every step's law, shapes (..., S, l). All of n, m, l are at least 2.
        initial: Probability of a recording's first label, shape (K,).
        reading: "hazard": the tables are log P(exactly d) and log P(at least d); "cdf": log Φ(d + 1) and
            log (1 − Φ(d + 1)).
    """
    n_labels, first = pairs.n_steps + 1, len(pairs.h) - len(pairs.later)
    h = torch.as_tensor(pairs.h, device=log_d.device)
    kinds = [
        _Ends.of(*_mixed(start, log_d[..., :first], h[:first], log_end[..., :1]), reading, h[:first]),
        _Ends.of(*_mixed(gap, log_d[..., first:], h[first:] - 1, log_end[..., 1:]), reading, h[first:] - 1),
        _Ends.of(*step, reading),
    ]
    log_initial = torch.full((2 * n_labels - 1,), -torch.inf, dtype=log_d.dtype, device=log_d.device)
    log_initial[0], log_initial[n_labels:] = initial[0].log(), initial[1:].log()
    lead, sizes = log_d.shape[:-1], (1, n_labels - 1, n_labels - 1)
    arcs = (first, len(pairs.h) - first, n_labels - 1)
    return SemiMarkovProcess(
        pairs,
        cap=np.repeat([kind.cap for kind in kinds], sizes),
        source=np.r_[pairs.h, np.arange(n_labels, 2 * n_labels - 1)],
        target=np.r_[pairs.n_steps + pairs.k, np.arange(1, n_labels)],
        log_initial=log_initial.expand(*lead, -1),
        log_length=_stacked([kind.length for kind in kinds], lead, arcs),
        log_survive=_stacked([kind.survive for kind in kinds], lead, sizes),
        log_stay=_stacked([kind.stay[..., kind.cap - 1, None] for kind in kinds], lead, sizes)[..., 0],
        log_leave=_stacked([kind.leave[..., kind.cap - 1, None] for kind in kinds], lead, arcs)[..., 0],
    )


def _mixed(law: Law, log_d: Tensor, row: Tensor, log_end: Tensor) -> Law:
    """Tables of a gap whose next step is not known yet: per pair, and what has not ended, per row, its end included."""
    entered, waiting = (log_d[..., None] + table for table in law)
    return entered, _row_sums(waiting, row, log_end)


@dataclass(frozen=True)
class _Ends:
    """How segments of a kind end: log P(exactly d) per way out, log P(at least d), log P(going on), P(leaving | d)."""

    length: Tensor
    survive: Tensor
    stay: Tensor
    leave: Tensor

    @property
    def cap(self) -> int:
        """Age from which on hazards are constant: the last tabulated but one."""
        return self.length.shape[-1] - 1

    @classmethod
    def of(cls, first: Tensor, second: Tensor, reading: str, source: Tensor | slice = slice(None)) -> _Ends:
        """From the two tables of a reading; `source` is the row of `second` that each row of `first` leaves."""
        if reading == "hazard":
            going_on = _minus(second[..., 1:], second[..., :-1])
            return cls(first, second, going_on, _minus(first, second[..., source, :]))
        survive = torch.nn.functional.pad(second.cumsum(-1)[..., :-1], (1, 0))
        return cls(survive[..., source, :] + first, survive, second, first)


def _minus(a: Tensor, b: Tensor) -> Tensor:
    """The difference, and -inf where b is: a conditional probability given what cannot be."""
    possible = b > -torch.inf
    return torch.where(possible, a - torch.where(possible, b, 0.0), -torch.inf)


def _row_sums(table: Tensor, row: Tensor, log_end: Tensor) -> Tensor:
    """Log of the sum over the pairs of a row and its end, shape (..., rows, n), from (..., pairs, n)."""
    n_rows, n = log_end.shape[-1], table.shape[-1]
    widest = int(torch.bincount(row, minlength=1).max())
    rows = table.new_full((*table.shape[:-2], n_rows, widest + 1, n), -torch.inf)
    rows[..., row, torch.arange(len(row), device=row.device) - torch.searchsorted(row, row), :] = table
    end = log_end[..., None, None].expand(*log_end.shape, 1, n)
    return torch.logsumexp(torch.cat([rows, end], -2), -2)


def _stacked(parts: Sequence[Tensor], lead: torch.Size, sizes: Sequence[int]) -> Tensor:
    """Tables of several kinds one below the other, padded to one width; ages above a cap are never read."""
    width = max(part.shape[-1] for part in parts)
    padded = [
        torch.nn.functional.pad(part.expand(*lead, size, part.shape[-1]), (0, width - part.shape[-1]), value=-torch.inf)
        for part, size in zip(parts, sizes, strict=True)
    ]
    return torch.cat(padded, -2)


@dataclass(frozen=True)
class MarkovChain:
    """The frame-level chain of the vanilla model.

    Attributes:
        initial: Probability of the first label, shape (..., K).
        transition: A, shape (..., K, K), rows sum to 1.
    """

    initial: Tensor
    transition: Tensor

    @property
    def n_labels(self) -> int:
        """K, non-event included."""
        return self.initial.shape[-1]

    @property
    def lead(self) -> torch.Size:
        """Leading shape of the tables."""
        return self.initial.shape[:-1]

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """The tensors."""
        return self.initial, self.transition

    def arrays(self, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Initial and transition probabilities of one chain of the leading shape."""
        k = self.n_labels
        tables = (t.detach().cpu().double() for t in self.tables)
        return tuple(t.reshape(-1, *s)[index].numpy() for t, s in zip(tables, ((k,), (k, k)), strict=True))

    def detach(self) -> MarkovChain:
        """The same chain without gradients."""
        return _detached(self)

    def log_prob(self, labels: np.ndarray, lengths: np.ndarray) -> Tensor:
        """Log probability of label sequences laid end to end, shape (*lead, B)."""
        stop = np.cumsum(lengths)
        recording = np.repeat(np.arange(len(lengths)), lengths)
        first = np.zeros(len(labels), bool)
        first[stop - lengths] = True
        move = np.r_[0, labels[:-1]] * self.n_labels + labels
        like = lambda array: torch.as_tensor(array, device=self.initial.device)  # noqa: E731
        term = torch.where(
            like(first), self.initial.log()[..., labels], self.transition.log().flatten(-2)[..., like(move)]
        )
        out = torch.zeros(*self.lead, len(lengths), dtype=term.dtype, device=term.device)
        return out.index_add(-1, like(recording), term)


Process = SemiMarkovProcess | MarkovChain


def _detached(process):
    values = {f.name: getattr(process, f.name) for f in fields(process)}
    return type(process)(**{k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()})


def _runs_of_all(labels: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of label sequences laid end to end: label, first frame, and the recording each belongs to."""
    recording = np.repeat(np.arange(len(lengths)), lengths)
    start = np.flatnonzero(np.r_[True, (np.diff(labels) != 0) | (np.diff(recording) > 0)])
    return labels[start], start, recording[start]
