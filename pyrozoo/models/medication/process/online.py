"""Filtering and smoothing frame by frame, compiled by numba: the states are nodes with their ages.

All numbers are logarithms of probabilities. A process of steps and the frame-level chain are both given as `Hazards`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from .kernels import Graph


class Hazards(NamedTuple):
    """A process by what may happen in the next frame.

    Attributes:
        label: Label of each node, shape (N,).
        cap: Age from which on nothing changes, shape (N,); ages d = 1..C are at index d - 1.
        first_arc: Arcs of node n are first_arc[n] to first_arc[n + 1] - 1, shape (N + 1,).
        target: Node that an arc leads to, shape (A,).
        initial: Log probability that a recording begins with a node, shape (N,).
        stay: Log probability to stay in a node, by age, shape (N, C).
        leave: Log probability to leave by an arc, by age, shape (A, C).
    """

    label: np.ndarray
    cap: np.ndarray
    first_arc: np.ndarray
    target: np.ndarray
    initial: np.ndarray
    stay: np.ndarray
    leave: np.ndarray


def hazards(process: Graph | tuple[np.ndarray, np.ndarray]) -> Hazards:
    """Tabulate a process of steps, or a chain given by its initial and transition probabilities."""
    if isinstance(process, Graph):
        age, graph = np.arange(process.log_survive.shape[1]), process
        with np.errstate(invalid="ignore"):
            going_on = graph.log_survive[:, 1:] - graph.log_survive[:, :-1]
            ending = graph.log_length - graph.log_survive[graph.source]
        going_on = np.c_[going_on, np.full(len(going_on), -np.inf)]
        stay = np.where(age < graph.cap[:, None] - 1, going_on, graph.log_stay[:, None])
        leave = np.where(age < graph.cap[graph.source][:, None] - 1, ending, graph.log_leave[:, None])
        tables = (np.where(np.isnan(table), -np.inf, table) for table in (stay, leave))
        return Hazards(graph.label, graph.cap, graph.first_arc, graph.target, graph.log_initial, *tables)
    with np.errstate(divide="ignore"):
        initial, transition = (np.log(table) for table in process)
    k = len(initial)
    source, target = np.nonzero(~np.eye(k, dtype=bool))
    return Hazards(
        np.arange(k), np.ones(k, np.int64), np.arange(k + 1) * (k - 1), target, initial,
        np.diag(transition)[:, None].copy(), transition[source, target][:, None],
    )  # fmt: skip


@njit(cache=True, inline="always")
def _add(a, b):
    if a < b:
        a, b = b, a
    return a if b == -np.inf else a + math.log1p(math.exp(b - a))


@njit(cache=True)
def first_frame(process, score, blocked):
    """Weights of all states (N, C) after the first frame, of scores (K,); `blocked` is a node that none may enter."""
    n_nodes, width = process.stay.shape
    state = np.full((n_nodes, width), -np.inf)
    for n in range(n_nodes):
        if n != blocked:
            state[n, 0] = process.initial[n] + score[process.label[n]]
    return state


@njit(cache=True)
def next_frame(process, state, score, blocked):
    """Weights of all states (N, C) one frame later, of scores (K,)."""
    n_nodes, _ = process.stay.shape
    new = np.full_like(state, -np.inf)
    for n in range(n_nodes):
        cap = process.cap[n]
        for d in range(cap):
            weight = state[n, d]
            if weight == -np.inf:
                continue
            older = min(d + 1, cap - 1)
            new[n, older] = _add(new[n, older], weight + process.stay[n, d])
            for a in range(process.first_arc[n], process.first_arc[n + 1]):
                to = process.target[a]
                if to != blocked:
                    new[to, 0] = _add(new[to, 0], weight + process.leave[a, d])
    for n in range(n_nodes):
        new[n, : process.cap[n]] += score[process.label[n]]
    return new


@njit(cache=True)
def total(state):
    """Log of the sum of all weights."""
    best = state.max()
    if best == -np.inf:
        return best
    out = 0.0
    for weight in state.flat:
        out += math.exp(weight - best)
    return best + math.log(out)


@njit(cache=True)
def earlier(process, after, score):
    """Log weight of all that follows each state (N, C), from that of one frame later and the scores (K,) there."""
    n_nodes, width = process.stay.shape
    new = np.full((n_nodes, width), -np.inf)
    for n in range(n_nodes):
        cap = process.cap[n]
        for d in range(cap):
            value = process.stay[n, d] + score[process.label[n]] + after[n, min(d + 1, cap - 1)]
            for a in range(process.first_arc[n], process.first_arc[n + 1]):
                to = process.target[a]
                value = _add(value, process.leave[a, d] + score[process.label[to]] + after[to, 0])
            new[n, d] = value
    return new


@njit(cache=True)
def marginal(process, state, after, n_labels):
    """Probability of every label (K,), from the weights of all states and of what follows them."""
    joint = state + after
    out, scale = np.zeros(n_labels), total(joint)
    for n in range(process.stay.shape[0]):
        for d in range(process.cap[n]):
            out[process.label[n]] += math.exp(joint[n, d] - scale)
    return out


@njit(cache=True)
def ended_early(process, state, after, score, shortest, scale):
    """Probability of every step that it ends after this frame, younger than its shortest age; shape (K,), 0 first.

    Args:
        process: `Hazards`.
        state: Weights of the states at the frame, shape (N, C).
        after: Log weight of what follows the states of the next frame, shape (N, C).
        score: Scores of the next frame, shape (K,).
        shortest: Age in frames below which a step is too short, shape (K,).
        scale: Log of the sum of the weights of all states times what follows them.
    """
    out = np.zeros(len(shortest))
    for n in range(process.stay.shape[0]):
        k = process.label[n]
        for d in range(min(shortest[k] - 1, process.cap[n] - 1) if k > 0 else 0):
            for a in range(process.first_arc[n], process.first_arc[n + 1]):
                to = process.target[a]
                value = state[n, d] + process.leave[a, d] + score[process.label[to]] + after[to, 0] - scale
                out[k] += math.exp(value)
    return out
