"""Dynamic programmes of the frame-level chain, compiled by numba: Viterbi, forward-backward, sampling."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

FAST = {"nnan", "nsz", "reassoc", "contract", "arcp"}  # as in `kernels`


@njit(fastmath=FAST, cache=True)
def viterbi(log_score, log_initial, log_transition):
    """Viterbi's algorithm: most probable labels of a first-order chain, and their log score (-inf and -1 if none)."""
    n_frames, n_labels = log_score.shape
    score, new = log_initial + log_score[0], np.empty(n_labels)
    back = np.zeros((n_frames, n_labels), np.int16)
    for t in range(1, n_frames):
        for k in range(n_labels):
            best, origin = -np.inf, 0
            for j in range(n_labels):
                value = score[j] + log_transition[j, k]
                if value > best:
                    best, origin = value, j
            new[k], back[t, k] = best + log_score[t, k], origin
        score[:] = new
    labels = np.full(n_frames, -1)
    best = score.max()
    if best > -np.inf:
        labels[n_frames - 1] = np.argmax(score)
        for t in range(n_frames - 1, 0, -1):
            labels[t - 1] = back[t, labels[t]]
    return labels, best


@njit(fastmath=FAST, cache=True)
def forward(log_score, initial, transition):
    """Log evidence of a first-order chain, with scaled forward probabilities (T, K), scales (T,) and scores (T, K)."""
    n_frames, n_labels = log_score.shape
    alpha, q, scale = np.empty((n_frames, n_labels)), np.empty((n_frames, n_labels)), np.empty(n_frames)
    log_z = 0.0
    for t in range(n_frames):
        top = log_score[t].max()
        total = 0.0
        for k in range(n_labels):
            q[t, k] = math.exp(log_score[t, k] - top)
            prior = 0.0
            if t == 0:
                prior = initial[k]
            else:
                for j in range(n_labels):
                    prior += alpha[t - 1, j] * transition[j, k]
            alpha[t, k] = prior * q[t, k]
            total += alpha[t, k]
        scale[t] = total
        if total <= 0.0:
            return -np.inf, alpha, scale, q
        for k in range(n_labels):
            alpha[t, k] /= total
        log_z += top + math.log(total)
    return log_z, alpha, scale, q


@njit(fastmath=FAST, cache=True)
def backward(initial, transition, alpha, scale, q):
    """Marginals (T, K) and expected transitions (K, K) of a first-order chain, from what `forward` returned."""
    n_frames, n_labels = alpha.shape
    gamma, counts = np.empty((n_frames, n_labels)), np.zeros((n_labels, n_labels))
    beta, new = np.ones(n_labels), np.empty(n_labels)
    gamma[n_frames - 1] = alpha[n_frames - 1]
    for t in range(n_frames - 1, 0, -1):
        for k in range(n_labels):
            beta[k] *= q[t, k] / scale[t]
        total = 0.0
        for j in range(n_labels):
            value = 0.0
            for k in range(n_labels):
                step = transition[j, k] * beta[k]
                counts[j, k] += alpha[t - 1, j] * step
                value += step
            new[j] = value
            gamma[t - 1, j] = alpha[t - 1, j] * value
            total += gamma[t - 1, j]
        for j in range(n_labels):
            gamma[t - 1, j] /= total
            beta[j] = new[j]
    return gamma, counts


@njit(cache=True)
def sample(transition, alpha, n_paths, rng):
    """Draw label sequences from the posterior of a first-order chain, shape (n_paths, T)."""
    n_frames, n_labels = alpha.shape
    labels = np.empty((n_paths, n_frames), np.int64)
    weight = np.empty(n_labels)
    for path in range(n_paths):
        for t in range(n_frames - 1, -1, -1):
            total = 0.0
            for k in range(n_labels):
                weight[k] = alpha[t, k] * (transition[k, labels[path, t + 1]] if t < n_frames - 1 else 1.0)
                total += weight[k]
            u, chosen = rng.random() * total, -1
            for k in range(n_labels):
                if weight[k] > 0.0:
                    chosen = k
                    u -= weight[k]
                    if u < 0.0:
                        break
            labels[path, t] = chosen
    return labels


@njit(cache=True)
def simulate(initial, transition, n_frames, rng):
    """Draw one label sequence of this length from a first-order chain, shape (n_frames,)."""
    labels = np.empty(n_frames, np.int64)
    for t in range(n_frames):
        p = initial if t == 0 else transition[labels[t - 1]]
        u, chosen = rng.random(), 0
        for k in range(p.shape[0]):
            if p[k] > 0.0:
                chosen = k
                u -= p[k]
                if u < 0.0:
                    break
        labels[t] = chosen
    return labels
