"""Dynamic programmes on arrays, compiled by numba: the semi-Markov process in segment form.

Everything is exact. A segment is a run of one label; its kind, a *node*, is either the gap after step h (h = 0: before
the first step) or step k, so that (node, age) is a first-order Markov state although (label) alone is not. Only the
scores of *starting* a segment are stored, so memory is O(T N) for N nodes, whatever the longest duration.

Every sum over lengths is taken in the linear domain, relative to a reference that moves with the window, and again in
the log domain where that could have lost anything (see `LOWEST`): nothing above 1e-50 of a sum is lost.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

# NaN never reaches a kernel (`decode` refuses it); -inf does, so infinities keep their meaning.
FAST = {"nnan", "nsz", "reassoc", "contract", "arcp"}
HIGHEST = 200.0  # a window holds exp(x - reference) up to this exponent, far from overflow
NEGLIGIBLE = -58.0  # log of a posterior probability (1e-25) that adds nothing to marginals and expected counts
LEAST, HUGE = math.exp(NEGLIGIBLE), math.exp(HIGHEST)
# Relative to exp(reference), entries are at most exp(HIGHEST), and factors below exp(-700) may be lost: a lost term is
# below 1e-210. So a linear sum of at least this is exact to rounding; a smaller one is taken in the log domain.
LOWEST = 1e-170


class Graph(NamedTuple):
    """The process of eq. 2 as nodes and arcs, which the kernels read. Ages and lengths d = 1..C are at index d - 1.

    A node is h and z_{t-1} of eq. 2 together, an age is g. The first arc of a step goes to the gap after that step,
    which is entered from nowhere else; further ones go straight to another step, and there are none in the text's
    process. Arcs are in order of their source.

    Attributes:
        label: Label of a node, shape (N,).
        cap: Age from which on the hazards of a node are constant, shape (N,), at most C.
        first_arc: Arcs of node n are first_arc[n] to first_arc[n + 1] - 1, shape (N + 1,).
        source, target: Nodes of an arc, shape (A,).
        log_initial: Log probability that a recording begins with this node, at age 1, shape (N,).
        log_length: Log probability to leave by this arc after exactly d frames, shape (A, C).
        log_survive: Log probability that a segment lasts at least d frames, shape (N, C).
        log_stay: Log probability to stay another frame at the age `cap` and above, shape (N,).
        log_leave: Log probability to leave by this arc at the age `cap` and above, shape (A,).

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import kernels, plug_in, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> graph = plug_in(fit, test, draws=10)[0].graph()
        >>> graph.label.tolist()  # seven gaps (the first is the wait), six steps
        [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
        >>> labels, log_score = kernels.semi_markov_map(np.zeros((300, 7)), graph)  # the most probable session
        >>> bool(log_score < 0), labels.shape
        (True, (300,))
    """

    label: np.ndarray
    cap: np.ndarray
    first_arc: np.ndarray
    source: np.ndarray
    target: np.ndarray
    log_initial: np.ndarray
    log_length: np.ndarray
    log_survive: np.ndarray
    log_stay: np.ndarray
    log_leave: np.ndarray


class ExpectedCounts(NamedTuple):
    """Expected number of times that each entry of a `Graph` is used, given the scores: the gradient of log Z."""

    log_initial: np.ndarray
    log_length: np.ndarray
    log_survive: np.ndarray
    log_stay: np.ndarray
    log_leave: np.ndarray


# ------------------------------------------------------------------------------------------------ small pieces
@njit(cache=True, inline="always")
def _log_add(a, b):
    if a < b:
        a, b = b, a
    if b == -np.inf or a - b > 40.0:  # below the rounding of a
        return a
    return a + math.log1p(math.exp(b - a))


@njit(cache=True, inline="always")
def _probability(x):
    return math.exp(x) if x > NEGLIGIBLE else 0.0


@njit(cache=True)
def _arcs_into(graph):
    """Order arcs by their target: those into node n are arcs[first[n] : first[n + 1]]."""
    first = np.zeros(graph.label.shape[0] + 1, np.int64)
    for a in range(graph.target.shape[0]):
        first[graph.target[a] + 1] += 1
    return np.cumsum(first), np.argsort(graph.target)


@njit(cache=True)
def _cumulative(log_score):
    """Sum of each label's scores over the frames before t, shape (K, T + 1); those of ruled-out labels count as 0."""
    n_frames, n_labels = log_score.shape
    total = np.zeros((n_labels, n_frames + 1))
    for k in range(n_labels):
        for t in range(n_frames):
            total[k, t + 1] = total[k, t] + (log_score[t, k] if log_score[t, k] > -np.inf else 0.0)
    return total


@njit(cache=True)
def _earliest(log_score):
    """First frame at which a segment of label k that holds frame t may begin, shape (K, T).

    It is t + 1, so that there is none, where the label is ruled out by a log score of -inf. The shape is (K, 0) if no
    label is ruled out anywhere: every segment may then begin at 0.
    """
    n_frames, n_labels = log_score.shape
    ruled_out = False
    for t in range(n_frames):
        for k in range(n_labels):
            ruled_out = ruled_out or log_score[t, k] == -np.inf
    if not ruled_out:
        return np.zeros((n_labels, 0), np.int64)
    earliest = np.zeros((n_labels, n_frames), np.int64)
    for k in range(n_labels):
        begin = 0
        for t in range(n_frames):
            if log_score[t, k] == -np.inf:
                begin = t + 1
            earliest[k, t] = begin
    return earliest


@njit(cache=True, inline="always")
def _begin(earliest, k, t):
    return earliest[k, t] if earliest.shape[1] > 0 else 0


@njit(cache=True)
def _linear_tables(graph):
    """exp(log_length), also backwards in time so that both passes run forwards through memory."""
    n_arcs, width = graph.log_length.shape
    forwards, backwards = np.zeros((n_arcs, width)), np.zeros((n_arcs, width))
    for a in range(n_arcs):
        for d in range(graph.cap[graph.source[a]] - 1):
            p = math.exp(graph.log_length[a, d])
            forwards[a, d], backwards[a, width - 1 - d] = p, p
    return forwards, backwards


# These take whole arrays with positions, not slices: a slice counts its references, which costs more than a short loop.
# Positions that move with the loop are unsigned, since numba would allow for negative ones, and not vectorise.
@njit(cache=True, inline="always")
def _dot(x, n, i, y, a, j, count):
    """Sum of x[n, i + m] * y[a, j + m] over m < count."""
    total = 0.0
    for m in range(count):
        total += x[n, np.uint64(i + m)] * y[a, np.uint64(j + m)]
    return total


@njit(cache=True)
def _log_sum_at(x, n, i, y, a, j, count):
    """Log of the sum of exp(x[n, i + m] + y[a, j + m]) over m < count."""
    best, total = -np.inf, 0.0
    for m in range(count):
        best = max(best, x[n, i + m] + y[a, j + m])
    if best == -np.inf:
        return best
    for m in range(count):
        total += math.exp(x[n, i + m] + y[a, j + m] - best)
    return best + math.log(total)


@njit(cache=True)
def _refresh(logs, linear, n, first, stop):
    """Fill the linear window first <= m < stop of row n anew, relative to its own largest entry; returns that."""
    reference = -np.inf
    for m in range(first, stop):
        reference = max(reference, logs[n, m])
    for m in range(first, stop):
        linear[n, m] = math.exp(logs[n, m] - reference) if logs[n, m] > -np.inf else 0.0
    return reference


@njit(cache=True, inline="always")
def _push(x, linear, n, first, stop, reference):
    """Linear value of x relative to a reference, which rises, and the window with it, where x is far above it."""
    value = 0.0
    if x > -np.inf:
        if x - reference > HIGHEST:
            factor = math.exp(reference - x) if reference > -np.inf else 0.0
            for m in range(first, stop):
                linear[n, m] *= factor
            value, reference = 1.0, x
        else:
            value = math.exp(x - reference)
    return value, reference


@njit(cache=True, inline="always")
def _relative(x, reference):
    """exp(x - reference); 0 where that is out of range, and for -inf."""
    value = 0.0
    if x > -np.inf and reference > -np.inf and -700.0 < x - reference < HIGHEST:
        value = math.exp(x - reference)
    return value


@njit(cache=True, inline="always")
def _add(top, total, x, y):
    """Sum of total * exp(top) and y * exp(x) in the same form, with the larger exponent; x is finite."""
    if x > top:
        total = total * math.exp(top - x) + y if total > 0.0 else y
        top = x
    else:
        total += y * math.exp(x - top)
    return top, total


# ------------------------------------------------------------------------------------------------ most probable path
@njit(fastmath=FAST, cache=True, nogil=True)
def semi_markov_map(log_score, graph):
    """Find the most probable labels, which maximise f of eq. 2, and their log score; exact.

    Args:
        log_score: Log scores of the labels in each frame, shape (T, K), T at least 1; -inf rules a label out.
        graph: Process over labels.

    Returns:
        Labels (T,) and their score; the score is -inf where no path is possible, and the labels are then -1.
    """
    n_frames = log_score.shape[0]
    n_nodes, width = graph.log_survive.shape
    cum, earliest = _cumulative(log_score), _earliest(log_score)
    start = np.full((n_nodes, n_frames + 1), -np.inf)  # best score of a segment starting at t, less cum at t
    tail = np.full((n_nodes, n_frames), -np.inf)  # best score of being in a segment of age cap or more at t
    tail_start = np.zeros((n_nodes, n_frames), np.int64)
    # Frames come in blocks of four. `ahead` is the best score, less cum, of leaving by an arc m frames after the block
    # began, over the segments that had begun by then; those of the block itself are added one by one, and to `ahead` at
    # its end, all four at once. A maximum of arrays, entry by entry, is vectorised; a maximum over a window is not.
    ahead = np.full((graph.source.shape[0], width + 8), -np.inf)
    table = np.full((graph.source.shape[0], width + 8), -np.inf)
    recent = np.full((n_nodes, 4), -np.inf)  # best scores of the segments that start in the block
    for a in range(graph.source.shape[0]):
        for m in range(graph.cap[graph.source[a]] - 1):
            table[a, m] = graph.log_length[a, m]
    for n in range(n_nodes):
        start[n, 0] = graph.log_initial[n]
    for t in range(n_frames):
        i = t % 4
        for n in range(n_nodes):
            cap, begin = graph.cap[n], _begin(earliest, graph.label[n], t)
            if begin > t:  # ruled out: no segment holds this frame
                ahead[graph.first_arc[n] : graph.first_arc[n + 1]] = -np.inf
                for j in range(4):
                    recent[n, j] = -np.inf
                continue
            recent[n, i] = start[n, t]
            if t > 0:
                tail[n, t] = tail[n, t - 1] + graph.log_stay[n]
                tail_start[n, t] = tail_start[n, t - 1]
            s = t - cap + 1
            if s >= begin and start[n, s] + graph.log_survive[n, cap - 1] > tail[n, t]:
                tail[n, t], tail_start[n, t] = start[n, s] + graph.log_survive[n, cap - 1], s
            for a in range(graph.first_arc[n], graph.first_arc[n + 1]):
                to = graph.target[a]
                best = max(ahead[a, i], tail[n, t] + graph.log_leave[a])
                for j in range(i + 1):
                    best = max(best, recent[n, j] + table[a, i - j])
                best += cum[graph.label[n], t + 1] - cum[graph.label[to], t + 1]
                start[to, t + 1] = max(start[to, t + 1], best)  # s of the text, by node and age: the maximum is exact
        if i == 3:
            for n in range(n_nodes):
                x0, x1, x2, x3 = recent[n, 0], recent[n, 1], recent[n, 2], recent[n, 3]
                for j in range(4):
                    recent[n, j] = -np.inf
                for a in range(graph.first_arc[n], graph.first_arc[n + 1]):
                    for m in range(graph.cap[n]):
                        first = max(x0 + table[a, m + 4], x1 + table[a, m + 3])
                        last = max(x2 + table[a, m + 2], x3 + table[a, m + 1])
                        ahead[a, m] = max(ahead[a, m + 4], max(first, last))
    node, begin, best = -1, 0, -np.inf
    for n in range(n_nodes):
        at_end = cum[graph.label[n], n_frames]
        for d in range(1, min(graph.cap[n] - 1, n_frames - _begin(earliest, graph.label[n], n_frames - 1)) + 1):
            value = start[n, n_frames - d] + graph.log_survive[n, d - 1] + at_end
            if value > best:
                node, begin, best = n, n_frames - d, value
        if tail[n, n_frames - 1] + at_end > best:
            node, begin, best = n, tail_start[n, n_frames - 1], tail[n, n_frames - 1] + at_end
    labels = np.full(n_frames, -1)
    first_into, arcs_into = _arcs_into(graph)
    stop = n_frames
    while node >= 0:
        labels[begin:stop] = graph.label[node]
        stop, to, node, value = begin, node, -1, -np.inf
        if stop == 0:
            break
        for a in arcs_into[first_into[to] : first_into[to + 1]]:
            n = graph.source[a]
            level = cum[graph.label[n], stop]
            for d in range(1, min(graph.cap[n] - 1, stop - _begin(earliest, graph.label[n], stop - 1)) + 1):
                v = start[n, stop - d] + graph.log_length[a, d - 1] + level
                if v > value:
                    node, begin, value = n, stop - d, v
            v = tail[n, stop - 1] + graph.log_leave[a] + level
            if v > value:
                node, begin, value = n, tail_start[n, stop - 1], v
    return labels, best


# ------------------------------------------------------------------------------------------------ sums over all paths
@njit(fastmath=FAST, cache=True, nogil=True)
def semi_markov_forward(log_score, graph, blocked):
    """Compute the log evidence log Z, the log of the sum of f of eq. 2 over all label sequences.

    Args:
        log_score: Log scores, shape (T, K), T at least 1; -inf rules a label out in that frame.
        graph: Process over labels.
        blocked: Node that no path may enter, or -1.

    Returns:
        log Z; start (N, T + 1): log weight of all paths up to a segment that starts at t, less the node's cumulative
        score at t; tail (N, T): of being at age cap or more; the cumulative scores (K, T + 1); and the first frame at
        which a segment that holds t may begin (K, T), or (K, 0) if no label is ruled out.
    """
    n_frames = log_score.shape[0]
    n_nodes, width = graph.log_survive.shape
    cum, earliest = _cumulative(log_score), _earliest(log_score)
    start, tail = np.full((n_nodes, n_frames + 1), -np.inf), np.full((n_nodes, n_frames), -np.inf)
    linear, reference = np.zeros((n_nodes, n_frames)), np.full(n_nodes, -np.inf)
    seen = np.full(n_nodes, -width - 1)  # last frame at which a segment of the node could start
    survive = np.array([math.exp(graph.log_survive[n, graph.cap[n] - 1]) for n in range(n_nodes)])
    _, table = _linear_tables(graph)
    log_table = np.ascontiguousarray(graph.log_length[:, ::-1])
    old = np.zeros(n_nodes)  # exp(tail) at the current frame, relative to the reference
    stay, leave = np.exp(graph.log_stay), np.exp(graph.log_leave)
    # What enters a node at the next frame: a sum, relative to the exponential of `top`.
    top, total = np.full(n_nodes, -np.inf), np.zeros(n_nodes)
    for n in range(n_nodes):
        if n != blocked:
            start[n, 0] = graph.log_initial[n]
    for t in range(n_frames):
        top[:], total[:] = -np.inf, 0.0
        for n in range(n_nodes):
            cap, before = graph.cap[n], reference[n]
            s, begin = t - cap + 1, _begin(earliest, graph.label[n], t)
            first = max(s, 0)
            if t % width == 0:  # values that have left the window may have been much larger than those in it
                reference[n] = _refresh(start, linear, n, first, t)
            linear[n, t], reference[n] = _push(start[n, t], linear, n, first, t, reference[n])
            if start[n, t] > -np.inf:
                seen[n] = t
            if begin > t:
                old[n] = 0.0
                continue
            if t > 0 and reference[n] != before:
                old[n] = _relative(tail[n, t - 1], reference[n])
            old[n] *= stay[n]
            if s >= begin:
                old[n] += linear[n, s] * survive[n]
            # A tail far above the window has no place in the linear domain.
            above = t > 0 and tail[n, t - 1] > -np.inf and tail[n, t - 1] >= reference[n] + HIGHEST
            known = not above and LOWEST < old[n] < HUGE
            if known:
                tail[n, t] = reference[n] + math.log(old[n])
            else:
                grown = tail[n, t - 1] + graph.log_stay[n] if t > 0 else -np.inf
                tail[n, t] = _log_add(grown, start[n, s] + graph.log_survive[n, cap - 1]) if s >= begin else grown
                old[n] = _relative(tail[n, t], reference[n])
            m = min(cap - 1, t + 1 - begin)
            in_window = t - seen[n] < m
            for a in range(graph.first_arc[n], graph.first_arc[n + 1]):
                to = graph.target[a]
                if to == blocked:
                    continue
                shift = cum[graph.label[n], t + 1] - cum[graph.label[to], t + 1]
                x = tail[n, t] + graph.log_leave[a]
                if in_window:
                    found = _dot(linear, n, t + 1 - m, table, a, width - m, m)
                    if found >= LOWEST:
                        if known:
                            found, x = found + old[n] * leave[a], -np.inf
                        top[to], total[to] = _add(top[to], total[to], reference[n] + shift, found)
                    else:
                        y = _log_sum_at(start, n, t + 1 - m, log_table, a, width - m, m)
                        if y > -np.inf:
                            top[to], total[to] = _add(top[to], total[to], y + shift, 1.0)
                if x > -np.inf:
                    top[to], total[to] = _add(top[to], total[to], x + shift, 1.0)
        for n in range(n_nodes):
            if total[n] > 0.0:
                start[n, t + 1] = top[n] + math.log(total[n])
    log_z = -np.inf
    for n in range(n_nodes):
        value = tail[n, n_frames - 1]
        for d in range(1, min(graph.cap[n] - 1, n_frames - _begin(earliest, graph.label[n], n_frames - 1)) + 1):
            value = _log_add(value, start[n, n_frames - d] + graph.log_survive[n, d - 1])
        log_z = _log_add(log_z, value + cum[graph.label[n], n_frames])
    return log_z, start, tail, cum, earliest


@njit(fastmath=FAST, cache=True, nogil=True)
def semi_markov_backward(graph, log_z, start, tail, cum, earliest):
    """Compute posterior marginals of every frame's label, and expected counts, from `semi_markov_forward`'s results.

    Returns:
        Marginals (T, K) and `ExpectedCounts`.
    """
    n_nodes, width = graph.log_survive.shape
    n_arcs, n_frames = graph.source.shape[0], tail.shape[1]
    log_length, log_survive = np.zeros((n_arcs, width)), np.zeros((n_nodes, width))
    log_stay, log_leave = np.zeros(n_nodes), np.zeros(n_arcs)
    table, _ = _linear_tables(graph)
    into, entry, entered_from, reach = _entries(graph)
    n_entries = into.shape[0]
    # Log weight of all that follows an entry at frame t, plus the previous label's cumulative score at t.
    after, linear = np.full((n_entries, n_frames + 1), -np.inf), np.zeros((n_entries, n_frames + 1))
    reference, seen = np.full(n_entries, -np.inf), np.full(n_entries, n_frames + width + 1)
    old = np.full(n_nodes, -np.inf)  # log weight of all that follows age cap or more at the current frame, with cum
    rest = np.full((n_nodes, width), -np.inf)  # this weight at frame t, at index t modulo the width
    begun = np.zeros((n_nodes, n_frames))  # posterior probability that a segment starts at t
    touching = n_entries > n_nodes  # steps may follow steps, so that the gaps do not tell where a step ends
    ended = np.zeros((n_nodes if touching else 0, n_frames + 1))  # posterior probability that a segment ends before t
    following = np.full(n_nodes, -np.inf)  # log weight of all that follows the start of a segment at the current frame
    mass = np.zeros(n_arcs)  # of an arc in the linear domain
    closed = np.full(cum.shape[0], n_frames)  # first frame from the current one on where the label is ruled out
    for s in range(n_frames - 1, -1, -1):
        for k in range(cum.shape[0]):
            if _begin(earliest, k, s) > s:
                closed[k] = s
        for n in range(n_nodes):
            cap, level, open_to = graph.cap[n], cum[graph.label[n], n_frames], closed[graph.label[n]]
            first, last = graph.first_arc[n], graph.first_arc[n + 1]
            if s == n_frames - 1:
                old[n] = level
            else:
                before = tail[n, s] - log_z
                stay = graph.log_stay[n] + old[n] if open_to > s + 1 or open_to == s else -np.inf
                log_stay[n] += _probability(before + stay)
                top, total = stay, 1.0 if stay > -np.inf else 0.0
                for a in range(first, last):
                    leave = graph.log_leave[a] + after[entry[a], s + 1]
                    if leave > -np.inf:
                        top, total = _add(top, total, leave, 1.0)
                        p = _probability(before + leave)
                        log_leave[a] += p
                        if touching:
                            ended[n, s + 1] += p
                old[n] = top + math.log(total) if total > 0.0 else -np.inf
            rest[n, s % width] = old[n]
            left = n_frames - s
            d = min(left, cap)
            value = graph.log_survive[n, d - 1] + (level if left < cap else rest[n, (s + cap - 1) % width])
            if open_to < s + d:
                value = -np.inf
            weight = start[n, s] - log_z
            log_survive[n, d - 1] += _probability(weight + value)
            m = min(cap - 1, left - 1, open_to - s)
            top, total = value, 1.0 if value > -np.inf else 0.0
            for a in range(first, last):
                to = entry[a]
                mass[a] = 0.0
                if seen[to] - s <= m:
                    mass[a] = _dot(linear, to, s + 1, table, a, 0, m)
                    if mass[a] >= LOWEST:  # see LOWEST
                        top, total = _add(top, total, reference[to], mass[a])
                    else:
                        y = _log_sum_at(after, to, s + 1, graph.log_length, a, 0, m)
                        if y > -np.inf:
                            top, total = _add(top, total, y, 1.0)
            value = top + math.log(total) if total > 0.0 else -np.inf
            following[n] = value - cum[graph.label[n], s]
            begun[n, s] = _probability(weight + value)
            if begun[n, s] == 0.0:
                continue
            for a in range(first, last):
                to = entry[a]
                if seen[to] - s <= m:
                    scale = weight + reference[to]
                    if scale < HIGHEST and math.exp(scale) * mass[a] < LEAST:
                        continue
                    _count(log_length, a, 0, weight, scale, after, linear, to, s + 1, graph.log_length, table, a, m)
                    if touching:
                        _count(ended, n, s + 1, weight, scale, after, linear, to, s + 1, graph.log_length, table, a, m)
        for e in range(n_entries):
            after[e, s] = following[into[e]] + cum[entered_from[e], s]
            if after[e, s] > -np.inf:
                seen[e] = s
            stop = min(n_frames, s + reach[e])
            if s % width == 0:
                reference[e] = _refresh(after, linear, e, s + 1, stop)
            linear[e, s], reference[e] = _push(after[e, s], linear, e, s + 1, stop, reference[e])
    marginals = _marginals(graph, begun, ended, cum.shape[0])
    return marginals, ExpectedCounts(begun[:, 0].copy(), log_length, log_survive, log_stay, log_leave)


@njit(cache=True)
def _entries(graph):
    """Ways to enter a node: one for each label from which it is entered, since scores are cumulated by label.

    A gap is entered from its step and a step from gaps, so that the first N entries, one for each node, are all; only
    steps that follow steps directly have further ones.

    Returns:
        Node of each entry (E,); entry of each arc (A,); label before each entry (E,); and the largest cap among the
        nodes from which it is used (E,).
    """
    n_nodes, n_arcs = graph.label.shape[0], graph.source.shape[0]
    into, before = np.empty(n_nodes + n_arcs, np.int64), np.zeros(n_nodes + n_arcs, np.int64)
    reach, entry = np.zeros(n_nodes + n_arcs, np.int64), np.empty(n_arcs, np.int64)
    for n in range(n_nodes):
        into[n] = n
    used, n = np.zeros(n_nodes, np.bool_), n_nodes
    for a in range(n_arcs):
        to, k = graph.target[a], graph.label[graph.source[a]]
        own = -1
        if not used[to]:
            own, used[to], before[to] = to, True, k
        for e in range(n):
            if own < 0 and into[e] == to and before[e] == k and used[to]:
                own = e
        if own < 0:
            own, into[n], before[n] = n, to, k
            n += 1
        entry[a], reach[own] = own, max(reach[own], graph.cap[graph.source[a]])
    return into[:n].copy(), entry, before[:n].copy(), reach[:n].copy()


@njit(cache=True, inline="always")
def _count(out, k, j, weight, scale, logs, linear, n, i, log_table, table, a, count):
    """Add exp(weight + logs[n, i + m] + log_table[a, m]) to out[k, j + m], m < count; `scale`: weight of `linear`."""
    if scale < HIGHEST:
        c = math.exp(scale)
        for m in range(count):
            out[k, np.uint64(j + m)] += c * linear[n, np.uint64(i + m)] * table[a, m]
    else:  # a factor could overflow although no product does
        for m in range(count):
            out[k, j + m] += math.exp(weight + logs[n, i + m] + log_table[a, m])


@njit(cache=True)
def _marginals(graph, begun, ended, n_labels):
    """Frame marginals from the posterior probabilities of starts, and of ends.

    `ended` has no rows if no step follows a step directly: a step then ends where the gap after it starts.
    """
    n_nodes, n_frames = begun.shape
    out = np.zeros((n_frames, n_labels))
    for n in range(n_nodes):
        k = graph.label[n]
        if k == 0:
            continue
        gap = graph.target[graph.first_arc[n]]
        running = 0.0
        for t in range(n_frames):
            over = ended[n, t] if ended.shape[0] > 0 else begun[gap, t]
            running += begun[n, t] - (over if t > 0 else 0.0)
            out[t, k] = min(max(running, 0.0), 1.0)
    for t in range(n_frames):
        total = 0.0
        for k in range(1, n_labels):
            total += out[t, k]
        out[t, 0] = max(0.0, 1.0 - total)
    return out
