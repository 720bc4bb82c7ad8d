"""The two processes over labels as tensors: the semi-Markov process of steps (eq. 2), the frame-level chain (eq. 1).

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
    """Pairs of steps that may follow each other: h -> k, h = 0 before the first step, in order of h.

    Attributes:
        n_steps: Number S of steps.
        h, k: Last and next step of each pair, shape (P,).

    Example:
        >>> from pyrozoo.models.medication import Pairs
        >>> pairs = Pairs.of([(1, 2), (0, 1)], n_steps=2)
        >>> pairs.names(["non-event", "remove cap", "shake"])
        ['start → remove cap', 'remove cap → shake']
    """

    n_steps: int
    h: np.ndarray
    k: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[Sequence[int]], n_steps: int) -> Pairs:
        """Check and order pairs (h, k).

        Args:
            pairs: Pairs (h, k): step k may follow step h; h = 0: before the first step.
            n_steps: Number S of steps.

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
        """Positions of the pairs with h > 0, each of which has a law of its gap."""
        return np.flatnonzero(self.h > 0)

    @property
    def touching(self) -> np.ndarray:
        """Positions, among the pairs with h > 0, of those that may follow each other without a gap: not (k, k)."""
        return np.flatnonzero(self.h[self.later] != self.k[self.later])

    def names(self, labels: Sequence[str]) -> list[str]:
        """Names of the pairs, e.g. "remove cap → shake"; labels (S + 1,) start with the non-event."""
        return [f"{labels[h] if h else 'start'} → {labels[k]}" for h, k in zip(self.h, self.k, strict=True)]


def next_step(stick: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Compute the rows of D (eq. 2) from sticks: each is its pair's share of what earlier pairs of the row leave.

    With sticks Beta(a_i, a_{i+1} + ... + a_end), a row of D and its end are Dirichlet(a).

    Args:
        stick: Shares in (0, 1), shape (..., P).
        pairs: Pairs of steps, in the order of the sticks.

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
    """The process of steps, gaps and durations (eq. 2) as tables; fields as in `kernels.Graph`, with a leading shape.

    Nodes 0..S are the gaps after step h (h = 0: before the first step), nodes S + k the steps k = 1..S. Where a pair of
    steps may follow each other without a gap, there is an arc from step to step; the text's process has none.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import plug_in, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> process, power = plug_in(fit, test, draws=10)
        >>> process.n_labels, len(process.pairs.h)  # six steps in one order, and the non-event
        (7, 6)
        >>> process.log_prob(np.array([0, 2, 2, 0]), np.array([4])).tolist()  # no recording begins with step 2
        [-inf]
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
        """Number K of labels, the non-event included."""
        return self.pairs.n_steps + 1

    @property
    def lead(self) -> torch.Size:
        """Leading shape of the tables."""
        return self.log_stay.shape[:-1]

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """Tensors of the process, in the order of `kernels.ExpectedCounts`."""
        return self.log_initial, self.log_length, self.log_survive, self.log_stay, self.log_leave

    @cached_property
    def label(self) -> np.ndarray:
        """Label of each node."""
        return np.r_[np.zeros(self.n_labels, np.int64), np.arange(1, self.n_labels)]

    @cached_property
    def arc_between(self) -> np.ndarray:
        """Arc from one node to another, -1 where there is none, shape (N, N)."""
        arc = np.full((len(self.label), len(self.label)), -1)
        arc[self.source, self.target] = np.arange(len(self.source))
        return arc

    def graph(self, index: int = 0) -> Graph:
        """Arrays of the process at position `index` of the leading shape, for the kernels."""
        initial, length, survive, stay, leave = (
            t.detach().cpu().double().reshape(-1, *t.shape[len(self.lead) :])[index].numpy() for t in self.tables
        )
        first_arc = np.searchsorted(self.source, np.arange(len(self.label) + 1))
        return Graph(self.label, self.cap, first_arc, self.source, self.target, initial, length, survive, stay, leave)

    def detach(self) -> SemiMarkovProcess:
        """Return the process detached from the gradients of its tensors."""
        return _detached(self)

    def log_prob(self, labels: np.ndarray, lengths: np.ndarray) -> Tensor:
        """Log probability of label sequences, the product of p(z_t | z_{1:t−1}) in eq. 2.

        Args:
            labels: Label sequences end to end, shape (sum of lengths,).
            lengths: Frames of each recording, shape (B,).

        Returns:
            Log probabilities, shape (*lead, B); -inf where a sequence is impossible.
        """
        label, start, recording = _runs_of_all(labels, lengths)
        n = np.diff(np.r_[start, lengths.sum()])  # g of eq. 2, at the end of a run
        first, last = np.r_[True, np.diff(recording) > 0], np.r_[np.diff(recording) > 0, True]
        # A gap belongs to the step before it in its recording: h of eq. 2.
        previous = np.where(first, 0, np.r_[0, label[:-1]])
        node = np.where(label > 0, self.pairs.n_steps + label, previous)
        arc = self.arc_between[node, np.r_[node[1:], 0]]
        illegal = ~last & (arc < 0)
        arc = np.where(last | illegal, 0, arc)
        cap, width = self.cap[node], self.log_survive.shape[-1]
        old, extra = n >= cap, np.maximum(n - cap, 0)
        age = np.minimum(n, cap) - 1
        survive = self.log_survive.flatten(-2)[..., node * width + age]
        # Where the last age is impossible, staying has log probability -inf, and 0 times -inf would be NaN.
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
    reading: str = "hazard", direct: Tensor | None = None,
) -> SemiMarkovProcess:  # fmt: skip
    """Build the process from the laws of its steps and gaps.

    In the ``hazard`` reading the next step is k ~ D[h], then the gap is drawn from the law of (h, k), or with
    probability ``end`` no step follows; in the ``cdf`` reading (the text, eq. 2) the pairs of a row compete in every
    frame with D[h, k] Φ_hk(g + 1). The last tabulated age but one is the cap of its kind: from there on hazards are
    constant.

    With `direct`, step h, when it ends (by Ψ_h in either reading), goes straight to step k with probability
    D[h, k] direct[h, k], and to its gap otherwise; there D and the end are those given that the gap is not empty. The
    text's process is the case where `direct` is 0.

    Args:
        pairs: Pairs of steps that may follow each other.
        log_d: Log of D, from `next_step`, shape (..., P).
        log_end: Log probability that no step follows, from `next_step`, shape (..., S + 1).
        start: Tables of the wait before the first step, one per pair with h = 0, shapes (..., P0, n); see `durations`.
        gap: Tables of the gaps of the other pairs, shapes (..., P − P0, m); P − P0 may be 0.
        step: Tables of every step's law, shapes (..., S, l). All of n, m, l are at least 2.
        initial: Probability of a recording's first label, shape (K,).
        reading: "hazard": the tables are log P(exactly d) and log P(at least d); "cdf": log Φ(d + 1) and
            log (1 − Φ(d + 1)).
        direct: Probability that the gap of a pair with h > 0 is empty, shape (..., P − P0), 0 for pairs of a step with
            itself; None: no gap is.
    """
    n_labels, first = pairs.n_steps + 1, len(pairs.h) - len(pairs.later)
    h = torch.as_tensor(pairs.h, device=log_d.device)
    n_arcs, source = n_labels - 1, np.arange(n_labels, 2 * n_labels - 1)
    target = np.arange(1, n_labels)
    if direct is not None:
        touching = pairs.touching
        log_d, log_end, way_out = _direct(log_d, log_end, direct.double(), pairs, touching)
        source = np.r_[source, pairs.n_steps + pairs.h[pairs.later][touching]]
        target = np.r_[target, pairs.n_steps + pairs.k[pairs.later][touching]]
        order = np.argsort(source, kind="stable")  # of a step: the gap first
        source, target, n_arcs = source[order], target[order], len(source)
        of_step, way_out = source - n_labels, way_out[..., torch.as_tensor(order, device=log_d.device)]
    kinds = [  # eq. 2: z_{t−1} = 1, in the wait and in a gap (D Φ, and 1 − Σ D Φ); z_{t−1} = k' > 1 (Ψ, and 1 − Ψ)
        _Ends.of(*_mixed(start, log_d[..., :first], h[:first], log_end[..., :1]), reading, h[:first]),
        _Ends.of(*_mixed(gap, log_d[..., first:], h[first:] - 1, log_end[..., 1:]), reading, h[first:] - 1),
        _Ends.of(*step, reading) if direct is None else _Ends.of(*step, reading).split(of_step, way_out),
    ]
    log_initial = torch.full((2 * n_labels - 1,), -torch.inf, dtype=log_d.dtype, device=log_d.device)
    log_initial[0], log_initial[n_labels:] = initial[0].log(), initial[1:].log()
    lead, sizes = log_d.shape[:-1], (1, n_labels - 1, n_labels - 1)
    arcs = (first, len(pairs.h) - first, n_arcs)
    return SemiMarkovProcess(
        pairs,
        cap=np.repeat([kind.cap for kind in kinds], sizes),
        source=np.r_[pairs.h, source],
        target=np.r_[pairs.n_steps + pairs.k, target],
        log_initial=log_initial.expand(*lead, -1),
        log_length=_stacked([kind.length for kind in kinds], lead, arcs),
        log_survive=_stacked([kind.survive for kind in kinds], lead, sizes),
        log_stay=_stacked([kind.stay[..., kind.cap - 1, None] for kind in kinds], lead, sizes)[..., 0],
        log_leave=_stacked([kind.leave[..., kind.cap - 1, None] for kind in kinds], lead, arcs)[..., 0],
    )


def _direct(
    log_d: Tensor, log_end: Tensor, direct: Tensor, pairs: Pairs, touching: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Split D by whether the gap is empty.

    Returns:
        log D (..., P) and the log probability that no step follows (..., S + 1), given that the gap is not empty; and
        the log probability of each way out of a step (..., S + touching pairs): its gap, then the next steps.
    """
    later = torch.as_tensor(pairs.later, device=log_d.device)
    row = torch.as_tensor(pairs.h[pairs.later] - 1, device=log_d.device)
    lead = torch.broadcast_shapes(log_d.shape[:-1], direct.shape[:-1])
    log_next, log_end = log_d[..., later].expand(*lead, -1), log_end.expand(*lead, -1)
    empty, gap = log_next + _log(direct), log_next + _log(1 - direct)
    to_gap = _log(log_end[..., 1:].exp().index_add(-1, row, gap.exp()))
    # Where a gap is never entered, its tables may be any: those of D itself.
    entered = to_gap > -torch.inf
    share = torch.where(entered, to_gap, 0.0)
    first = log_d[..., : len(pairs.h) - len(later)].expand(*lead, -1)
    new_d = torch.cat([first, torch.where(entered[..., row], gap - share[..., row], log_next)], -1)
    new_end = torch.cat([log_end[..., :1], log_end[..., 1:] - share], -1)
    return new_d, new_end, torch.cat([to_gap, empty[..., torch.as_tensor(touching, device=log_d.device)]], -1)


def _log(p: Tensor) -> Tensor:
    """Log of a probability; -inf, with gradient 0, where it is 0."""
    return torch.where(p > 0, torch.where(p > 0, p, 1.0).log(), -torch.inf)


def _mixed(law: Law, log_d: Tensor, row: Tensor, log_end: Tensor) -> Law:
    """Gap tables before the next step is known: log P(enter k) per pair (h, k), and log P(still waiting) per row h.

    Rows include the end, "no further step". In the cdf reading these are log D Φ and log (1 − Σ_k D Φ) (eq. 2).
    """
    entered, waiting = (log_d[..., None] + table for table in law)
    return entered, _row_sums(waiting, row, log_end)


@dataclass(frozen=True)
class _Ends:
    """Ends of the segments of a kind, by age d.

    Attributes:
        length: Log P(exactly d frames), per way out.
        survive: Log P(at least d frames).
        stay: Log P(going on | at least d frames).
        leave: Log P(leaving | at least d frames), per way out.
    """

    length: Tensor
    survive: Tensor
    stay: Tensor
    leave: Tensor

    @property
    def cap(self) -> int:
        """Age from which on hazards are constant: the last tabulated but one."""
        return self.length.shape[-1] - 1

    def split(self, source: np.ndarray, log_p: Tensor) -> _Ends:
        """Give each segment several ways out, of these log probabilities; `source` is the segment each one leaves."""
        way = torch.as_tensor(source, device=self.length.device)
        length, leave = (table[..., way, :] + log_p[..., None] for table in (self.length, self.leave))
        return _Ends(length, self.survive, self.stay, leave)

    @classmethod
    def of(cls, first: Tensor, second: Tensor, reading: str, source: Tensor | slice = slice(None)) -> _Ends:
        """Convert the two tables of a reading; `source` is the row of `second` that each row of `first` leaves."""
        if reading == "hazard":
            going_on = _minus(second[..., 1:], second[..., :-1])
            return cls(first, second, going_on, _minus(first, second[..., source, :]))
        survive = torch.nn.functional.pad(second.cumsum(-1)[..., :-1], (1, 0))
        return cls(survive[..., source, :] + first, survive, second, first)


def _minus(a: Tensor, b: Tensor) -> Tensor:
    """Compute a − b, or -inf where b is -inf: there the condition of the conditional probability is impossible."""
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
    """Stack the tables of several kinds, padded to one width; ages above a cap are never read."""
    width = max(part.shape[-1] for part in parts)
    padded = [
        torch.nn.functional.pad(part.expand(*lead, size, part.shape[-1]), (0, width - part.shape[-1]), value=-torch.inf)
        for part, size in zip(parts, sizes, strict=True)
    ]
    return torch.cat(padded, -2)


@dataclass(frozen=True)
class MarkovChain:
    """The frame-level chain of the vanilla model (eq. 1).

    Attributes:
        initial: Probability of the first label, shape (..., K).
        transition: Transition matrix A, shape (..., K, K); rows sum to 1.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from pyrozoo.models.medication import MarkovChain
        >>> chain = MarkovChain(torch.tensor([1.0, 0.0]), torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
        >>> log_p = chain.log_prob(np.array([0, 0, 1, 0, 1]), np.array([3, 2]))  # two recordings end to end
        >>> log_p.exp().double().numpy().round(4).tolist()  # 1 x 0.9 x 0.1, and 1 x 0.1
        [0.09, 0.1]
    """

    initial: Tensor
    transition: Tensor

    @property
    def n_labels(self) -> int:
        """Number K of labels, the non-event included."""
        return self.initial.shape[-1]

    @property
    def lead(self) -> torch.Size:
        """Leading shape of the tables."""
        return self.initial.shape[:-1]

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """Tensors of the chain: initial and transition probabilities."""
        return self.initial, self.transition

    def arrays(self, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Initial and transition probabilities of the chain at position `index` of the leading shape."""
        k = self.n_labels
        tables = (t.detach().cpu().double() for t in self.tables)
        shaped = zip(tables, ((k,), (k, k)), strict=True)
        initial, transition = (t.reshape(-1, *s)[index].numpy() for t, s in shaped)
        return initial, transition

    def detach(self) -> MarkovChain:
        """Return the chain detached from the gradients of its tensors."""
        return _detached(self)

    def log_prob(self, labels: np.ndarray, lengths: np.ndarray) -> Tensor:
        """Log probability of label sequences end to end, the product of A[z_{t−1}, z_t] in eq. 1; shape (*lead, B)."""
        stop = np.cumsum(lengths)
        recording = np.repeat(np.arange(len(lengths)), lengths)
        first = np.zeros(len(labels), bool)
        first[stop - lengths] = True
        move = np.r_[0, labels[:-1]] * self.n_labels + labels
        like = lambda array: torch.as_tensor(array, device=self.initial.device)  # noqa: E731
        term = torch.where(  # eq. 1: p(z_t | z_{t−1})
            like(first), self.initial.log()[..., labels], self.transition.log().flatten(-2)[..., like(move)]
        )
        out = torch.zeros(*self.lead, len(lengths), dtype=term.dtype, device=term.device)
        return out.index_add(-1, like(recording), term)


Process = SemiMarkovProcess | MarkovChain


def _detached(process):
    values = {f.name: getattr(process, f.name) for f in fields(process)}
    return type(process)(**{k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()})


def _runs_of_all(labels: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the runs of label sequences that lie end to end: their label, first frame, and recording."""
    recording = np.repeat(np.arange(len(lengths)), lengths)
    start = np.flatnonzero(np.r_[True, (np.diff(labels) != 0) | (np.diff(recording) > 0)])
    return labels[start], start, recording[start]
