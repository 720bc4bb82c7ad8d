"""Decoding: from log scores of frames to labels, exactly; pure functions on lists of ragged arrays.

A recording is an array of finite log scores, shape (T, K), already raised to its power. A process is one of
`process.SemiMarkovProcess`, `process.MarkovChain` (without leading shape), or the arrays of one: `kernels.Graph`, or a
tuple ``(initial, transition)`` of probabilities. Recordings are independent; one of a million frames needs O(T K)
memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import chain, kernels, sampling
from .kernels import Graph
from .process import MarkovChain, SemiMarkovProcess

Scores = Sequence[np.ndarray]
CHAIN = ("argmax", "viterbi", "map", "marginal", "mea")
PROCESS = ("argmax", "paper", "map", "marginal", "mea")
DECODERS = {
    "argmax": "label with the largest score in each frame; no process",
    "viterbi": "most probable sequence of the frame-level chain",
    "paper": "the text's recursion: one best history per state, approximate",
    "map": "most probable sequence, exact",
    "marginal": "most probable label in each frame given all scores; the sequence may be impossible",
    "mea": "maximum expected accuracy: the possible sequence with the largest sum of posterior marginals",
}


class NoPossiblePath(ValueError):
    """No label sequence of the process is possible for a recording."""


def decode(
    log_scores: Scores, process: Any, decoder: str = "map", *, marginals: Scores | None = None,
    names: Sequence[str] | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Decode recordings.

    Args:
        log_scores: Recordings, shapes (T, K).
        process: The process.
        decoder: A name in `DECODERS`; "paper" needs the process of steps, "viterbi" the chain.
        marginals: Posterior marginals, where they are at hand already; for "marginal" and "mea".
        names: Names of the recordings, for messages.

    Returns:
        Labels of each recording, shapes (T,).

    Raises:
        ValueError: Unknown decoder, one that does not fit the process, or bad scores (see `checks.check_scores`).
        NoPossiblePath: A recording has no possible sequence.
    """
    arrays = _arrays(process)
    able = PROCESS if isinstance(arrays, Graph) else CHAIN
    if decoder not in able:
        what = "a process of steps" if isinstance(arrays, Graph) else "a frame-level chain"
        raise ValueError(f"decoder: {decoder!r} does not decode {what}; choose one of {list(able)}")
    checked = check_scores(log_scores, _n_labels(arrays), names)
    if decoder in ("marginal", "mea") and marginals is None:
        marginals = _each(checked, arrays, lambda own: _posterior(own, arrays)[1], names)
    if decoder in ("argmax", "marginal"):
        return [own.argmax(1) for own in (checked if decoder == "argmax" else marginals)]
    if decoder == "mea":
        checked, arrays = check_scores(marginals, _n_labels(arrays), names), _legality(arrays)
    return [labels for labels, _ in _paths(checked, arrays, decoder == "paper", names)]


def most_probable(
    log_scores: Scores, process: Any, *, single_history: bool = False, names: Sequence[str] | None = None
) -> list[tuple[np.ndarray, float]]:
    """Most probable labels of each recording and their log score, log p(labels) + sum of scores.

    Args:
        log_scores: Recordings, shapes (T, K).
        process: The process.
        single_history: Use the text's approximate recursion; the score is then that of the path it finds.
        names: Names of the recordings, for messages.
    """
    arrays = _arrays(process)
    return _paths(check_scores(log_scores, _n_labels(arrays), names), arrays, single_history, names)


def log_evidence(
    log_scores: Scores, process: Any, *, without: int | None = None, names: Sequence[str] | None = None
) -> np.ndarray:
    """Log of the sum over all label sequences, log Z, of each recording; -inf where none is possible.

    Args:
        log_scores: Recordings, shapes (T, K).
        process: The process.
        without: A step that no sequence may hold.
        names: Names of the recordings, for messages.
    """
    arrays = _arrays(process)
    checked = check_scores(log_scores, _n_labels(arrays), names)
    if isinstance(arrays, Graph):
        blocked = -1 if without is None else _n_labels(arrays) - 1 + without
        return np.array([kernels.semi_markov_forward(own, arrays, blocked)[0] for own in checked])
    initial, transition = (table.copy() for table in arrays)
    if without is not None:
        initial[without] = transition[:, without] = 0.0
    return np.array([chain.evidence(own, initial, transition) for own in checked])


def marginals(log_scores: Scores, process: Any, *, names: Sequence[str] | None = None) -> list[np.ndarray]:
    """Posterior probability of every label in every frame, shapes (T, K).

    Raises:
        NoPossiblePath: A recording has no possible sequence.
    """
    arrays = _arrays(process)
    checked = check_scores(log_scores, _n_labels(arrays), names)
    return _each(checked, arrays, lambda own: _posterior(own, arrays)[1], names)


def sample_paths(
    log_scores: Scores, process: Any, n: int = 100, *, seed: int = 0, names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Independent draws of label sequences from the posterior, shapes (n, T)."""
    arrays = _arrays(process)
    rng = np.random.default_rng(seed)

    def draw(own: np.ndarray) -> np.ndarray:
        if isinstance(arrays, Graph):
            log_z, *state = kernels.semi_markov_forward(own, arrays, -1)
            return None if log_z == -np.inf else sampling.sample(arrays, log_z, *state, n, rng)
        return chain.sample(own, *arrays, n, rng)

    return _each(check_scores(log_scores, _n_labels(arrays), names), arrays, draw, names)


def step_performed(log_scores: Scores, process: Any, *, names: Sequence[str] | None = None) -> np.ndarray:
    """Posterior probability that each step was performed at all, shape (recordings, K − 1): 1 − Z(without k) / Z.

    Raises:
        NoPossiblePath: A recording has no possible sequence.
    """
    total = log_evidence(log_scores, process, names=names)
    if (total == -np.inf).any():
        raise NoPossiblePath(_impossible(int(np.argmax(total == -np.inf)), names))
    steps = range(1, _n_labels(_arrays(process)))
    without = np.stack([log_evidence(log_scores, process, without=k) for k in steps], 1)
    return -np.expm1(np.minimum(without - total[:, None], 0.0))


def path_score(
    log_scores: Scores, labels: Sequence[np.ndarray], process: SemiMarkovProcess | MarkovChain
) -> np.ndarray:
    """Log p(labels) + sum of their scores, of each recording; -inf where the process cannot make them."""
    lengths = np.array([len(own) for own in labels])
    prior = process.log_prob(np.concatenate(labels), lengths).detach().cpu().numpy()
    return prior + [own[np.arange(len(own)), path].sum() for own, path in zip(log_scores, labels, strict=True)]


# ---------------------------------------------------------------------------------------------- inside
def _arrays(process: Any) -> Graph | tuple[np.ndarray, np.ndarray]:
    if isinstance(process, SemiMarkovProcess):
        return process.graph()
    if isinstance(process, Graph):
        return process
    return _checked_chain(*(process.arrays() if isinstance(process, MarkovChain) else process))


def _checked_chain(initial: Any, transition: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a chain as contiguous arrays; without the check a wrong shape would read beyond an array."""
    initial, transition = (np.ascontiguousarray(table, dtype=np.float64) for table in (initial, transition))
    if initial.ndim != 1 or transition.shape != (len(initial), len(initial)):
        raise ValueError(f"chain: shapes {initial.shape} and {transition.shape}; (K,) and (K, K) are needed")
    for name, table in (("initial", initial), ("transition", transition)):
        if not ((table >= 0).all() and (table.sum(-1) <= 1 + 1e-6).all()):
            raise ValueError(f"chain: {name} must hold probabilities (no logarithms), rows that sum to at most 1")
    return initial, transition


def _n_labels(arrays: Any) -> int:
    return int(arrays.label.max()) + 1 if isinstance(arrays, Graph) else len(arrays[0])


def _each(checked: Scores, arrays: Any, function: Callable, names: Sequence[str] | None) -> list[np.ndarray]:
    out = []
    for i, own in enumerate(checked):
        found = function(own)
        if found is None:
            raise NoPossiblePath(_impossible(i, names))
        out.append(found)
    return out


def _posterior(own: np.ndarray, arrays: Any) -> tuple[float, np.ndarray | None]:
    if isinstance(arrays, Graph):
        log_z, *state = kernels.semi_markov_forward(own, arrays, -1)
        return log_z, None if log_z == -np.inf else kernels.semi_markov_backward(arrays, log_z, *state)[0]
    return chain.posterior(own, *arrays)[:2]


def _paths(checked: Scores, arrays: Any, single: bool, names: Sequence[str] | None) -> list[tuple[np.ndarray, float]]:
    if single:
        if not isinstance(arrays, Graph):
            raise ValueError("single_history: the text's recursion decodes a process of steps, not a frame-level chain")
        tables = history_tables(arrays)
        function = lambda own: sampling.single_history(own, *tables)  # noqa: E731
    elif isinstance(arrays, Graph):
        function = lambda own: kernels.semi_markov_map(own, arrays)  # noqa: E731
    else:
        with np.errstate(divide="ignore"):
            logs = tuple(np.log(table) for table in arrays)
        function = lambda own: chain.viterbi(own, *logs)  # noqa: E731

    def possible(own: np.ndarray) -> tuple[np.ndarray, float] | None:
        labels, score = function(own)
        return None if score == -np.inf else (labels, float(score))

    return _each(checked, arrays, possible, names)


def _impossible(i: int, names: Sequence[str] | None) -> str:
    which = repr(names[i]) if names is not None else i
    return f"recording {which}: the process allows no label sequence of its length; allow more pairs or first labels"


def _legality(arrays: Any) -> Any:
    """The same process with log probability 0 for all that is possible: a sum of scores is then all that counts."""
    flat = lambda table: np.where(table > -np.inf, 0.0, -np.inf)  # noqa: E731
    if isinstance(arrays, Graph):
        return arrays._replace(
            log_initial=flat(arrays.log_initial), log_length=flat(arrays.log_length),
            log_survive=flat(arrays.log_survive), log_stay=flat(arrays.log_stay), log_leave=flat(arrays.log_leave),
        )  # fmt: skip
    return tuple((table > 0).astype(float) for table in arrays)


def history_tables(graph: Graph) -> tuple[np.ndarray, ...]:
    """The process as the text writes it: log p(z_t | h, g), tables of `sampling.single_history`."""
    n_labels = int(graph.label.max()) + 1
    width = graph.log_survive.shape[1]
    age = np.arange(width)
    with np.errstate(invalid="ignore"):
        going_on = graph.log_survive[:, 1:] - graph.log_survive[:, :-1]
        ending = graph.log_length - graph.log_survive[graph.source]
    going_on = np.where(np.isnan(going_on), -np.inf, going_on)
    ending = np.where(np.isnan(ending), -np.inf, ending)
    young = age < graph.cap[:, None] - 1
    stay = np.where(young, np.c_[going_on, np.full(len(going_on), -np.inf)], graph.log_stay[:, None])
    leave = np.where(age < graph.cap[graph.source][:, None] - 1, ending, graph.log_leave[:, None])
    by_label = np.full((n_labels, width), -np.inf)
    by_label[1:] = stay[n_labels:]
    out = np.full((n_labels, width), -np.inf)
    enter = np.full((n_labels, n_labels, width), -np.inf)
    for a, (source, target) in enumerate(zip(graph.source, graph.target, strict=True)):
        if source < n_labels:
            enter[source, graph.label[target]] = leave[a]
        else:
            out[graph.label[source]] = leave[a]
    initial = np.r_[graph.log_initial[0], graph.log_initial[n_labels:]]
    return initial, by_label, out, stay[:n_labels], enter


def check_scores(
    log_scores: Sequence[np.ndarray], n_labels: int, names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Log scores of recordings as contiguous double arrays.

    Raises:
        TypeError: Not a list of arrays.
        ValueError: No frame, another number of columns, NaN, +inf, or -inf (a score of zero).
        MemoryError: A recording needs more memory than the machine has.
    """
    if isinstance(log_scores, np.ndarray):
        raise TypeError("log_scores: give a list of recordings, each an array (frames, labels); for one: [array]")
    out = []
    for i, given in enumerate(log_scores):
        own = np.ascontiguousarray(given, dtype=np.float64)
        which = f"recording {names[i] if names is not None else i!r}"
        if own.ndim != 2 or own.shape[1] != n_labels:
            raise ValueError(f"{which}: scores of shape {own.shape}; give (frames, {n_labels}), one column per label")
        if not len(own):
            raise ValueError(f"{which}: there are no frames; leave it out")
        if not np.isfinite(own).all():
            t, k = np.argwhere(~np.isfinite(own))[0].tolist()
            remedy = "a score of zero; raise it to a floor, e.g. 1e-4" if own[t, k] == -np.inf else "impute it"
            raise ValueError(f"{which}, frame {t}, label {k}: the log score is {own[t, k]}; {remedy}")
        _require_memory(which, len(own), n_labels)
        out.append(own)
    return out


def _require_memory(which: str, n_frames: int, n_labels: int) -> None:
    """Refuse what cannot fit before the machine starts to swap: some eight numbers per frame and node."""
    needed = 8 * 8 * (2 * n_labels - 1) * n_frames
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")
    if needed > total:
        raise MemoryError(
            f"{which}: {n_frames} frames of {n_labels} labels need about {needed / 1e9:.0f} GB, the machine has "
            f"{total / 1e9:.0f} GB; cut it where nothing happens, and decode the pieces"
        )
