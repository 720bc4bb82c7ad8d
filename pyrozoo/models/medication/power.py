"""The power of the scores: fitted to recordings that the process has not seen, and compared with the vanilla chain."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
import torch
from torch import Tensor

from ...data.batch import Batch
from .label_model import LabelModel
from .process import decode
from .process.process import Process, SemiMarkovProcess
from .process.segments import runs

POWERS = 1e-3, 10.0  # bounds of the search for the power
FOLDS = 5
FEWEST = 3  # groups from which on folds are made of them
WIDEST = 1.0  # largest error of the power's logarithm: that of its default prior
RAISED = 0.4, 0.6, 0.8, 1.0  # powers that are tried where the fitted one is below the vanilla chain
CHAIN_ALPHA = 0.1  # concentration of the vanilla chain's rows, as in `FrameHMM`

Learn = Callable[[list[np.ndarray]], dict[str, Tensor]]


@dataclass
class Piece:
    """A labelled recording, or a block of one.

    Attributes:
        potentials: Log potentials before the power, shape (T, K).
        labels: Labels, shape (T,), -1 where unknown.
        group: Number of the subject, recording or block that it belongs to.
        goes_on: Whether the recording goes on after it.
        block: Whether it is a part of a recording.
    """

    potentials: np.ndarray
    labels: np.ndarray
    group: int
    goes_on: bool = False
    block: bool = False

    @property
    def to_learn(self) -> np.ndarray:
        """Labels for counts, with an unknown one where the recording goes on, so that its end counts as none."""
        return np.r_[self.labels, -1] if self.goes_on else self.labels


def pieces_of(model: LabelModel, train: Batch) -> list[Piece]:
    """Cut the labelled recordings into pieces whose groups can be held out.

    Groups are subjects, where the batch has three or more; else recordings, where three or more are labelled; else
    blocks of recordings, which begin where a step begins.
    """
    lengths, labelled = train["lengths"].tolist(), train["labelled"].tolist()
    potentials = model.log_potentials(train["score"]).detach().cpu().split(lengths)
    labels = train["label"].cpu().split(lengths)
    own = [(q.numpy(), z.numpy(), i) for i, (q, z) in enumerate(zip(potentials, labels, strict=True)) if labelled[i]]
    subject = train["subject"].tolist() if "subject" in train else list(range(len(lengths)))
    for of_recording in (subject, list(range(len(lengths)))):
        if len({of_recording[i] for _, _, i in own}) >= FEWEST:
            return [Piece(q, z, of_recording[i]) for q, z, i in own]
    return [piece for q, z, i in own for piece in _blocks(q, z, i)]


def _blocks(potentials: np.ndarray, labels: np.ndarray, recording: int) -> list[Piece]:
    value, start, _ = runs(labels)
    steps = start[(value > 0) & (start > 0)]
    wanted = np.arange(1, FOLDS) * len(labels) / FOLDS
    cuts = sorted({int(steps[np.abs(steps - place).argmin()]) for place in wanted}) if len(steps) else []
    ends = [0, *cuts, len(labels)]
    return [
        Piece(potentials[a:b], labels[a:b], FOLDS * recording + i, b < len(labels), bool(cuts))
        for i, (a, b) in enumerate(itertools.pairwise(ends))
    ]


def held_out_power(model: LabelModel, train: Batch, learn: Learn, penalty: float = 1.0) -> tuple[float, float] | None:
    """Fit the power to labelled recordings by processes that were learned without them.

    The process of a piece is learned from the pieces of the other folds, so that the power also pays for what is not
    known of the process. With a single piece, its own process has to do.

    Where the default decoder, at this power, has a lower frame accuracy on the held-out pieces than the vanilla chain
    that is learned from the same labels, the power is raised to the one of `RAISED` with the highest, and a warning
    says so.

    Args:
        model: Model with a fitted power.
        train: Recordings; labelled ones are used.
        learn: Function from label sequences to the parameters of the process.
        penalty: Exponent of the power's prior; 0 for maximum likelihood.

    Returns:
        Logarithm of the power at the maximum, and its error; None if no recording is labelled or scores are not finite.
    """
    pieces = pieces_of(model, train)
    if not pieces or not all(np.isfinite(piece.potentials).all() for piece in pieces):
        return None
    groups = sorted({piece.group for piece in pieces})
    fold = {group: i % min(FOLDS, len(groups)) for i, group in enumerate(groups)}
    uses: list[tuple[Piece, Process]] = []
    for held_out in range(min(FOLDS, len(groups))):
        others = [piece.to_learn for piece in pieces if fold[piece.group] != held_out] or [pieces[0].to_learn]
        process = model.process(learn(others))
        own = [piece for piece in pieces if fold[piece.group] == held_out]
        uses += [(piece, _begun(process) if piece.block else process) for piece in own]
    found = _maximise(model, uses, penalty)
    if isinstance(uses[0][1], SemiMarkovProcess) and len(groups) > 1:
        return _not_below_the_chain(model, uses, [fold[piece.group] for piece, _ in uses], *found)
    return found


def _not_below_the_chain(
    model: LabelModel, uses: Sequence[tuple[Piece, Process]], fold: Sequence[int], log_power: float, error: float
) -> tuple[float, float]:
    """Compare with the vanilla chain on the held-out pieces, and raise the power where it is below, saying so."""
    best = math.exp(log_power)
    chain, mine = _chain_accuracy(model, uses, fold), _accuracy(model, uses, best)
    if mine >= chain:
        return log_power, error
    text = (
        f"on held-out parts of the labelled recordings the decoder {model.default_decoder!r}, at the power {best:.3g} "
        f"that p(labels | scores) suggests, has a frame accuracy of {mine:.3f}, the vanilla chain {chain:.3f}"
    )
    others = {power: _accuracy(model, uses, power) for power in RAISED if power > best}
    raised = max(others, key=lambda power: others[power], default=best)
    if others and others[raised] > mine:
        best, mine = raised, others[raised]
        text += f". The power is raised to {best:g}, with {mine:.3f}; marginals are surer than these labels warrant"
    if mine < chain:
        text += ". Durations or the order of steps say less here than they seem to: compare variant 'frame-hmm'"
    warnings.warn(text, stacklevel=4)
    return math.log(best), error


def _begun(process: Process) -> Process:
    """Let a process begin with any step, or in non-event, as a block of a recording does."""
    if not isinstance(process, SemiMarkovProcess):
        return process
    first = torch.full_like(process.log_initial, -math.log(process.n_labels))
    first[..., 1 : process.n_labels] = -torch.inf  # a block begins with a step, if it does not begin its recording
    return replace(process, log_initial=first)


def _maximise(model: LabelModel, uses: Sequence[tuple[Piece, Process]], penalty: float) -> tuple[float, float]:
    """Maximise the sum of log p(labels | scores, power) over pieces; returns the power's logarithm and its error."""
    prior = model.prior("power")
    by_process: dict[int, tuple[Process, list[int]]] = {}
    for i, (_, process) in enumerate(uses):
        by_process.setdefault(id(process), (process, []))[1].append(i)
    arrays = {key: (process.graph() if isinstance(process, SemiMarkovProcess) else process, where)
              for key, (process, where) in by_process.items()}  # fmt: skip

    def losses(log_power: float) -> np.ndarray:
        """Minus log p(labels | scores), up to a constant, of every piece."""
        power, out = math.exp(log_power), np.empty(len(uses))
        for process, where in arrays.values():
            own = [power * uses[i][0].potentials for i in where]
            labels = [uses[i][0].labels for i in where]
            out[where] = decode.log_evidence(own, process)
            for i, q, z in zip(where, own, labels, strict=True):
                if (z < 0).any():
                    out[i] -= decode.log_evidence([q], process, known=[z])[0]
                else:
                    out[i] -= q[np.arange(len(z)), z].sum()
        return out

    def loss(log_power: float) -> float:
        density = float(prior.log_prob(torch.tensor(math.exp(log_power)))) + log_power  # of the logarithm
        return float(losses(log_power).sum()) - (penalty * density if penalty else 0.0)

    best = scipy.optimize.minimize_scalar(loss, bounds=np.log(POWERS), method="bounded", options={"xatol": 1e-3}).x
    step = 0.02
    above, below = losses(best + step), losses(best - step)
    curvature = max((loss(best + step) - 2 * loss(best) + loss(best - step)) / step**2, 1.0)
    # Pieces differ by more than a likelihood knows: the error is that of a mean of their slopes, if that is larger.
    slope, n = (above - below) / (2 * step), len(uses)
    spread = math.sqrt(n / (n - 1) * float(((slope - slope.mean()) ** 2).sum())) / curvature if n > 1 else 0.0
    return float(best), min(max(curvature**-0.5, spread), WIDEST)


def _accuracy(model: LabelModel, uses: Sequence[tuple[Piece, Process]], power: float) -> float:
    """Frame accuracy of the default decoder on the held-out pieces."""
    found = [decode.decode([power * piece.potentials], process, model.default_decoder)[0] for piece, process in uses]
    return _share_right(uses, found)


def _chain_accuracy(model: LabelModel, uses: Sequence[tuple[Piece, Process]], fold: Sequence[int]) -> float:
    """Frame accuracy of the vanilla chain on the held-out pieces, learned from those of the other folds."""
    found = []
    for (piece, _), own in zip(uses, fold, strict=True):
        others = [other.labels for (other, _), place in zip(uses, fold, strict=True) if place != own]
        found += decode.decode([piece.potentials], vanilla_chain(others, model.n_labels), "viterbi")
    return _share_right(uses, found)


def _share_right(uses: Sequence[tuple[Piece, Process]], found: Sequence[np.ndarray]) -> float:
    truth = np.concatenate([piece.labels for piece, _ in uses])
    return float((np.concatenate(found) == truth)[truth >= 0].mean())


def vanilla_chain(sequences: Sequence[np.ndarray], n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Learn the frame-level chain (eq. 1) from label sequences, by counts: initial (K,) and transition (K, K)."""
    moves, first = np.full((n_labels, n_labels), CHAIN_ALPHA), np.full(n_labels, CHAIN_ALPHA)
    for labels in sequences:
        both = (labels[:-1] >= 0) & (labels[1:] >= 0)
        np.add.at(moves, (labels[:-1][both], labels[1:][both]), 1)
        if labels[0] >= 0:
            first[labels[0]] += 1
    return first / first.sum(), moves / moves.sum(1, keepdims=True)
