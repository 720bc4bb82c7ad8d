"""Decode log scores of frames to labels, exactly; pure functions on lists of arrays of different lengths.

A recording is an array of log scores log q(z_t) of eq. 1 and 2, shape (T, K), already multiplied by the power; they are
finite, or all NaN in a frame that is missing, which then gives no evidence. Labels that are known may be held fixed. A
process is one of `process.SemiMarkovProcess`, `process.MarkovChain` (without leading shape), or the arrays of one:
`kernels.Graph`, or a tuple ``(initial, transition)`` of probabilities. Recordings are independent; one of a million
frames needs O(T K) memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from . import chain, kernels, sampling
from .checks import Scores, check_scores, checked_chain
from .kernels import Graph
from .parallel import threaded
from .process import MarkovChain, SemiMarkovProcess

Found = TypeVar("Found")
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
    names: Sequence[str] | None = None, known: Scores | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Decode recordings.

    Args:
        log_scores: Log scores of each recording, shapes (T, K).
        process: Process over labels, see the module.
        decoder: A name in `DECODERS`; "paper" needs the process of steps, "viterbi" the chain.
        marginals: Posterior marginals, shapes (T, K), if already computed; for "marginal" and "mea".
        names: Names of the recordings, for messages.
        known: Labels that are known and held fixed, shapes (T,), -1 where they are not.

    Returns:
        Labels of each recording, shapes (T,).

    Raises:
        ValueError: Unknown decoder, one that does not suit the process, or bad scores (see `checks.check_scores`).
        NoPossiblePath: A recording has no possible sequence.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import decode
        >>> chain = np.array([0.9, 0.1]), np.array([[0.9, 0.1], [0.1, 0.9]])  # initial, transition
        >>> scores = np.log([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9], [0.1, 0.9]])
        >>> [labels] = decode.decode([scores], chain, "viterbi")  # frame 1, alone above 0.5, is smoothed away
        >>> labels.tolist(), scores.argmax(1).tolist()
        ([0, 0, 0, 1, 1], [0, 1, 0, 1, 1])
    """
    arrays = _arrays(process)
    able = PROCESS if isinstance(arrays, Graph) else CHAIN
    if decoder not in able:
        what = "a process of steps" if isinstance(arrays, Graph) else "a frame-level chain"
        raise ValueError(f"decoder: {decoder!r} does not decode {what}; choose one of {list(able)}")
    checked = check_scores(log_scores, _n_labels(arrays), names, known)
    if decoder == "argmax":
        return [own.argmax(1) for own in checked]
    if decoder in ("marginal", "mea"):
        if marginals is None:
            marginals = _each(checked, arrays, lambda own: _posterior(own, arrays)[1], names)
        if decoder == "marginal":
            return [own.argmax(1) for own in marginals]
        checked, arrays = check_scores(marginals, _n_labels(arrays), names, known), _legality(arrays)
    return [labels for labels, _ in _paths(checked, arrays, decoder == "paper", names)]


def most_probable(
    log_scores: Scores, process: Any, *, single_history: bool = False, names: Sequence[str] | None = None,
    known: Scores | None = None,
) -> list[tuple[np.ndarray, float]]:  # fmt: skip
    """Find the most probable labels of each recording, those that maximise f of eq. 1 or 2, and their log score.

    Args:
        log_scores: Log scores of each recording, shapes (T, K).
        process: Process over labels, see the module.
        single_history: Whether to use the text's approximate recursion; the score is then that of the path it finds.
        names: Names of the recordings, for messages.
        known: Labels that are known and held fixed, shapes (T,), -1 where they are not.

    Returns:
        For each recording its labels, shape (T,), and log f = log p(labels) + sum of their log scores.

    Raises:
        NoPossiblePath: A recording has no possible sequence.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import decode
        >>> chain = np.array([0.9, 0.1]), np.array([[0.9, 0.1], [0.1, 0.9]])
        >>> scores = np.log([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
        >>> [(labels, score)] = decode.most_probable([scores], chain)
        >>> labels.tolist(), bool(np.isclose(score, np.log(0.9 * 0.8 * 0.9 * 0.4 * 0.9 * 0.7)))
        ([0, 0, 0], True)
    """
    arrays = _arrays(process)
    return _paths(check_scores(log_scores, _n_labels(arrays), names, known), arrays, single_history, names)


def log_evidence(
    log_scores: Scores, process: Any, *, without: int | None = None, names: Sequence[str] | None = None,
    known: Scores | None = None,
) -> np.ndarray:  # fmt: skip
    """Compute log Z of each recording, the log of the sum of f (eq. 1 or 2) over all label sequences.

    Args:
        log_scores: Log scores of each recording, shapes (T, K).
        process: Process over labels, see the module.
        without: A step that is left out: sequences that hold it are not summed.
        names: Names of the recordings, for messages.
        known: Labels that are known and held fixed, shapes (T,), -1 where they are not.

    Returns:
        log Z, shape (recordings,); -inf where no sequence is possible.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import decode
        >>> chain = np.array([0.9, 0.1]), np.array([[0.9, 0.1], [0.1, 0.9]])
        >>> one_frame = np.log([[0.8, 0.2]])
        >>> bool(np.isclose(decode.log_evidence([one_frame], chain)[0], np.log(0.9 * 0.8 + 0.1 * 0.2)))
        True
    """
    arrays = _arrays(process)
    checked = check_scores(log_scores, _n_labels(arrays), names, known)
    return _evidence(checked, arrays, [without])[:, 0]


def marginals(
    log_scores: Scores, process: Any, *, names: Sequence[str] | None = None, known: Scores | None = None
) -> list[np.ndarray]:
    """Compute the posterior probability of every label in every frame.

    Args:
        log_scores: Log scores of each recording, shapes (T, K).
        process: Process over labels, see the module.
        names: Names of the recordings, for messages.
        known: Labels that are known and held fixed, shapes (T,), -1 where they are not.

    Returns:
        Probabilities for each recording, shapes (T, K); rows sum to 1.

    Raises:
        NoPossiblePath: A recording has no possible sequence.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import decode
        >>> chain = np.array([0.9, 0.1]), np.array([[0.9, 0.1], [0.1, 0.9]])
        >>> [gamma] = decode.marginals([np.log([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])], chain)
        >>> gamma.shape, bool((gamma[:, 0] > 0.8).all())
        ((3, 2), True)
    """
    arrays = _arrays(process)
    checked = check_scores(log_scores, _n_labels(arrays), names, known)
    return _each(checked, arrays, lambda own: _posterior(own, arrays)[1], names)


def sample_paths(
    log_scores: Scores, process: Any, n: int = 100, *, seed: int = 0, names: Sequence[str] | None = None,
    known: Scores | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Draw label sequences from the posterior, exactly and independently.

    Args:
        log_scores: Log scores of each recording, shapes (T, K).
        process: Process over labels, see the module.
        n: Number of draws for each recording.
        seed: Random seed for the draws.
        names: Names of the recordings, for messages.
        known: Labels that are known and held fixed, shapes (T,), -1 where they are not.

    Returns:
        Label sequences for each recording, shapes (n, T).

    Raises:
        NoPossiblePath: A recording has no possible sequence.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import decode
        >>> chain = np.array([0.9, 0.1]), np.array([[0.9, 0.1], [0.1, 0.9]])
        >>> scores = np.log([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
        >>> [drawn] = decode.sample_paths([scores], chain, 500)
        >>> [gamma] = decode.marginals([scores], chain)
        >>> drawn.shape, bool(np.abs((drawn == 1).mean(0) - gamma[:, 1]).max() < 0.1)
        ((500, 3), True)
    """
    arrays = _arrays(process)
    rng = np.random.default_rng(seed)

    def draw(own: np.ndarray) -> np.ndarray | None:
        if isinstance(arrays, Graph):
            log_z, start, tail, cum, earliest = kernels.semi_markov_forward(own, arrays, -1)
            return None if log_z == -np.inf else sampling.sample(arrays, log_z, start, tail, cum, earliest, n, rng)
        return chain.sample(own, *arrays, n, rng)

    drawn = []
    for i, own in enumerate(check_scores(log_scores, _n_labels(arrays), names, known)):  # one random state: in order
        paths = draw(own)
        if paths is None:
            raise NoPossiblePath(_impossible(i, names))
        drawn.append(paths)
    return drawn


def step_performed(
    log_scores: Scores, process: Any, *, names: Sequence[str] | None = None, known: Scores | None = None
) -> np.ndarray:
    """Compute the posterior probability that each step was performed at all, 1 − Z(without k) / Z.

    Args:
        log_scores: Log scores of each recording, shapes (T, K).
        process: Process over labels, see the module.
        names: Names of the recordings, for messages.
        known: Labels that are known and held fixed, shapes (T,), -1 where they are not.

    Returns:
        Probabilities, shape (recordings, K − 1).

    Raises:
        NoPossiblePath: A recording has no possible sequence.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import decode
        >>> chain = np.array([0.9, 0.1]), np.array([[0.9, 0.1], [0.1, 0.9]])
        >>> absent, present = np.log([[0.9, 0.1]] * 4), np.log([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
        >>> p = decode.step_performed([absent, present], chain)
        >>> p.shape, bool(p[0, 0] < 0.1), bool(p[1, 0] > 0.5)
        ((2, 1), True, True)
    """
    arrays = _arrays(process)
    checked = check_scores(log_scores, _n_labels(arrays), names, known)
    found = _evidence(checked, arrays, [None, *range(1, _n_labels(arrays))])
    impossible = found[:, 0] == -np.inf
    if impossible.any():
        raise NoPossiblePath(_impossible(int(np.argmax(impossible)), names))
    return -np.expm1(np.minimum(found[:, 1:] - found[:, :1], 0.0))


# ---------------------------------------------------------------------------------------------- inside
def _arrays(process: Any) -> Graph | tuple[np.ndarray, np.ndarray]:
    if isinstance(process, SemiMarkovProcess):
        return process.graph()
    if isinstance(process, Graph):
        return process
    return checked_chain(*(process.arrays() if isinstance(process, MarkovChain) else process))


def _n_labels(arrays: Any) -> int:
    return int(arrays.label.max()) + 1 if isinstance(arrays, Graph) else len(arrays[0])


def _evidence(checked: Scores, arrays: Any, without: Sequence[int | None]) -> np.ndarray:
    """Compute log Z of every recording with each of these steps left out (None: with all), (recordings, steps).

    The passes are independent, so that a single long recording uses as many threads as there are steps, too.
    """

    def log_z(task: tuple[np.ndarray, int | None]) -> float:
        own, step = task
        if isinstance(arrays, Graph):
            return kernels.semi_markov_forward(own, arrays, -1 if step is None else _n_labels(arrays) - 1 + step)[0]
        initial, transition = arrays
        if step is not None:
            initial, transition = initial.copy(), transition.copy()
            initial[step] = transition[:, step] = 0.0
        return chain.evidence(own, initial, transition)

    tasks = [(own, step) for own in checked for step in without]
    frames = len(without) * sum(map(len, checked))
    return np.array(threaded(log_z, tasks, frames)).reshape(len(checked), len(without))


def _each(
    checked: Scores, arrays: Any, function: Callable[[np.ndarray], Found | None], names: Sequence[str] | None
) -> list[Found]:
    out = []
    for i, found in enumerate(threaded(function, checked, sum(map(len, checked)))):
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
    return (
        f"recording {which}: the process allows no label sequence of its length, with the labels that are known, if "
        "any; allow more pairs or first labels"
    )


def _legality(arrays: Any) -> Any:
    """Replace every possible log probability by 0, so that only the sum of scores decides among possible paths."""
    flat = lambda table: np.where(table > -np.inf, 0.0, -np.inf)  # noqa: E731
    if isinstance(arrays, Graph):
        return arrays._replace(
            log_initial=flat(arrays.log_initial), log_length=flat(arrays.log_length),
            log_survive=flat(arrays.log_survive), log_stay=flat(arrays.log_stay), log_leave=flat(arrays.log_leave),
        )  # fmt: skip
    return tuple((table > 0).astype(float) for table in arrays)


def history_tables(graph: Graph) -> tuple[np.ndarray, ...]:
    """Tables of log p(z_t | h, g), the cases of eq. 2, for `sampling.single_history`.

    Returns:
        Log probability of the first label (K,); of staying in step k, 1 − Ψ_k (K, C); of leaving it, Ψ_k (K, C); of
        staying in the gap after h, 1 − Σ_k D[h, k] Φ_hk (K, C); of entering step k from it, D[h, k] Φ_hk (K, K, C);
        of going from step j straight to step k (K, K, C). The last axis is the age.
    """
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
    by_label[1:] = stay[n_labels:]  # eq. 2, k = k': 1 − Ψ
    out = np.full((n_labels, width), -np.inf)
    enter, straight = (np.full((n_labels, n_labels, width), -np.inf) for _ in range(2))
    for a, (source, target) in enumerate(zip(graph.source, graph.target, strict=True)):
        if source < n_labels:
            enter[source, graph.label[target]] = leave[a]  # eq. 2, non-event to step k: D Φ
        elif target >= n_labels:
            straight[graph.label[source], graph.label[target]] = leave[a]
        else:
            out[graph.label[source]] = leave[a]  # eq. 2, step to non-event: Ψ
    initial = np.r_[graph.log_initial[0], graph.log_initial[n_labels:]]
    return initial, by_label, out, stay[:n_labels], enter, straight
