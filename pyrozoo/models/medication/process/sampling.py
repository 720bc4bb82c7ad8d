"""Paths of the semi-Markov process (eq. 2), compiled by numba: posterior and prior draws, and the text's recursion."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .chain import traced_back
from .kernels import _arcs_into, _begin


@njit(cache=True)
def sample(graph, log_z, start, tail, cum, earliest, n_paths, rng):
    """Draw label sequences from the posterior, shape (n_paths, T), backwards from the end (exact, independent)."""
    n_nodes, n_frames = tail.shape
    first_into, arcs_into = _arcs_into(graph)
    labels = np.empty((n_paths, n_frames), np.int64)
    for path in range(n_paths):
        u = rng.random()  # compared with the running sum of the probabilities of all last segments
        node, begin, total, in_tail = -1, 0, 0.0, False
        for n in range(n_nodes):
            level = cum[graph.label[n], n_frames] - log_z
            for d in range(1, min(graph.cap[n] - 1, n_frames - _begin(earliest, graph.label[n], n_frames - 1)) + 1):
                p = math.exp(start[n, n_frames - d] + graph.log_survive[n, d - 1] + level)
                if p > 0.0 and total <= u:
                    node, begin, in_tail = n, n_frames - d, False
                total += p
            p = math.exp(tail[n, n_frames - 1] + level)
            if p > 0.0 and total <= u:
                node, begin, in_tail = n, n_frames - 1, True
            total += p
        stop = n_frames
        while True:
            if in_tail:  # begin is a frame at which the age is cap or more: draw the frame at which the segment began
                cap = graph.cap[node]
                while True:
                    s, open_from = begin - cap + 1, _begin(earliest, graph.label[node], begin)
                    entered = start[node, s] + graph.log_survive[node, cap - 1]
                    if math.exp(entered - tail[node, begin]) > rng.random() or s == open_from:
                        begin = s
                        break
                    begin -= 1
            labels[path, begin:stop] = graph.label[node]
            if begin == 0:
                break
            stop, to = begin, node
            u, total = rng.random(), 0.0
            scale = start[to, stop] + cum[graph.label[to], stop]
            for a in arcs_into[first_into[to] : first_into[to + 1]]:
                n = graph.source[a]
                level = cum[graph.label[n], stop] - scale
                for d in range(1, min(graph.cap[n] - 1, stop - _begin(earliest, graph.label[n], stop - 1)) + 1):
                    p = math.exp(start[n, stop - d] + graph.log_length[a, d - 1] + level)
                    if p > 0.0 and total <= u:
                        node, begin, in_tail = n, stop - d, False
                    total += p
                p = math.exp(tail[n, stop - 1] + graph.log_leave[a] + level)
                if p > 0.0 and total <= u:
                    node, begin, in_tail = n, stop - 1, True
                total += p
    return labels


@njit(cache=True)
def simulate_process(graph, n_frames, rng):
    """Draw one label sequence of this length from the process itself, shape (n_frames,)."""
    n_nodes, _ = graph.log_survive.shape
    labels = np.empty(n_frames, np.int64)
    u, node = rng.random(), 0
    for n in range(n_nodes):
        p = math.exp(graph.log_initial[n])
        if u < p:
            node = n
            break
        u -= p
    t = 0
    while t < n_frames:
        cap, u, d = graph.cap[node], math.log(1.0 - rng.random()), 1
        # Lasting at least d + 1 frames has probability survive[d]; beyond the cap it falls geometrically.
        while d < cap and graph.log_survive[node, d] >= u:
            d += 1
        beyond = d == cap
        if beyond:
            level = graph.log_survive[node, cap - 1] + graph.log_stay[node]
            while t + d < n_frames and level >= u:
                d, level = d + 1, level + graph.log_stay[node]
        stop = min(n_frames, t + d)
        labels[t:stop] = graph.label[node]
        t += d
        total = 0.0
        first, last = graph.first_arc[node], graph.first_arc[node + 1]
        for a in range(first, last):
            total += math.exp(graph.log_leave[a] if beyond else graph.log_length[a, d - 1])
        u = rng.random() * total
        for a in range(first, last):
            u -= math.exp(graph.log_leave[a] if beyond else graph.log_length[a, d - 1])
            if u < 0.0 or a == last - 1:
                node = graph.target[a]
                break
    return labels


@njit(cache=True, nogil=True)
def single_history(log_score, log_initial, stay, leave, stay_gap, enter, straight):
    """Decode by the text's approximate recursion to eq. 2: h and g are those of the one best history of each state.

    Args:
        log_score: Log scores, shape (T, K).
        log_initial: Log probability of the first label, shape (K,).
        stay: Log p of going on with step k at age d, shape (K, C).
        leave: Log p of going over from step k at age d to non-event, shape (K, C).
        stay_gap: Log p of going on with the gap after h at age g, shape (K, C).
        enter: Log p of entering step k from the gap after h at age g, shape (K, K, C).
        straight: Log p of going over from step j at age d straight to step k, shape (K, K, C); -inf in the text.

    Returns:
        Labels (T,), -1 if no path is left, and the log score of the recursion's path.
    """
    n_frames, n_labels = log_score.shape
    width = stay.shape[1]
    s, last, run = np.empty(n_labels), np.zeros(n_labels, np.int64), np.ones(n_labels, np.int64)
    u = np.zeros((n_frames, n_labels), np.int16)
    for k in range(n_labels):
        s[k], last[k] = log_initial[k] + log_score[0, k], k
    for t in range(1, n_frames):
        new_s, new_last = np.full(n_labels, -np.inf), np.zeros(n_labels, np.int64)
        new_run = np.ones(n_labels, np.int64)
        for k in range(n_labels):
            for j in range(n_labels):  # the cases of eq. 2
                age = min(run[j], width) - 1
                if j == 0:
                    p = stay_gap[last[0], age] if k == 0 else enter[last[0], k, age]  # 1 − Σ_k D Φ, D Φ
                elif k == j:
                    p = stay[j, age]  # 1 − Ψ
                elif k == 0:
                    p = leave[j, age]  # Ψ
                else:
                    p = straight[j, k, age]  # eq. 2, last case
                if s[j] + p > new_s[k]:
                    new_s[k], u[t, k] = s[j] + p, j  # recursion to eq. 2: s_{t,k}, u_{t,k}
            j = u[t, k]
            new_s[k] += log_score[t, k]
            new_last[k] = k if k > 0 else last[j]  # h of eq. 2
            new_run[k] = run[j] + 1 if j == k else 1  # g of eq. 2
        s, last, run = new_s, new_last, new_run
    return traced_back(s, u)
