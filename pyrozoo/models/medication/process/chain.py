"""Dynamic programmes of the frame-level chain (eq. 1), compiled by numba: Viterbi, forward-backward, sampling.

Sums are taken in the scaled linear domain where the chain is dense: then every label is reached from every other at a
bounded cost, and a probability that underflows stays negligible. Where a transition is impossible, a label of
negligible probability may later be the only possible one: such chains are summed in the log domain.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .kernels import FAST

DENSE = 1e-100  # probabilities above this cost less to repair than what underflows


@njit(fastmath=FAST, cache=True, nogil=True)
def viterbi(log_score, log_initial, log_transition):
    """Find the labels that maximise f of eq. 1, and their log score (-1 and -inf if none), by the text's recursion."""
    n_frames, n_labels = log_score.shape
    padded = (n_labels + 3) // 4 * 4  # four maxima at a time: they do not wait for each other
    table, new = np.full((n_labels, padded), -np.inf), np.empty(padded)
    score = np.empty((n_frames, n_labels))
    for k in range(n_labels):
        score[0, k] = log_initial[k] + log_score[0, k]
        for j in range(n_labels):
            table[j, k] = log_transition[j, k]
    for t in range(1, n_frames):
        for i in range(padded // 4):
            k = 4 * i
            s0 = s1 = s2 = s3 = -np.inf
            for j in range(n_labels):
                x = score[t - 1, j]
                s0, s1 = max(s0, x + table[j, k]), max(s1, x + table[j, k + 1])
                s2, s3 = max(s2, x + table[j, k + 2]), max(s3, x + table[j, k + 3])
            new[k], new[k + 1], new[k + 2], new[k + 3] = s0, s1, s2, s3
        for k in range(n_labels):
            score[t, k] = new[k] + log_score[t, k]  # recursion to eq. 1: s_{t,k}
    labels = np.full(n_frames, -1)
    best = score[n_frames - 1].max()
    if best > -np.inf:
        label = int(np.argmax(score[n_frames - 1]))
        labels[n_frames - 1] = label
        for t in range(n_frames - 1, 0, -1):  # u_{t,k} is needed on the best path alone, where it is found again
            highest, origin = -np.inf, 0
            for j in range(n_labels):
                value = score[t - 1, j] + log_transition[j, label]
                if value > highest:
                    highest, origin = value, j
            label = origin
            labels[t - 1] = label
    return labels, best


@njit(cache=True)
def traced_back(score, back):
    """Labels (T,) that lead to the best last score, with that score; -1 and -inf if none is possible.

    Args:
        score: Score of the best path that ends with each label, shape (K,).
        back: Label before each label on its best path, shape (T, K).
    """
    n_frames = len(back)
    labels = np.full(n_frames, -1)
    best = score.max()
    if best > -np.inf:
        labels[n_frames - 1] = np.argmax(score)
        for t in range(n_frames - 1, 0, -1):
            labels[t - 1] = back[t, labels[t]]
    return labels, best


@njit(fastmath=FAST, cache=True, nogil=True)
def forward(log_score, initial, transition):
    """Compute the log evidence of a dense chain, scaled forward probabilities (T, K), scales (T,) and scores (T, K)."""
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


@njit(fastmath=FAST, cache=True, nogil=True)
def backward(initial, transition, alpha, scale, q):
    """Compute marginals (T, K) and expected transitions (K, K) of a dense chain from the results of `forward`."""
    n_frames, n_labels = alpha.shape
    gamma, counts = np.empty((n_frames, n_labels)), np.zeros((n_labels, n_labels))
    beta, new = np.ones(n_labels), np.empty(n_labels)
    for k in range(n_labels):
        gamma[n_frames - 1, k] = alpha[n_frames - 1, k]
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
def _log_sum(x, y):
    """Log of the sum of exp(x[m] + y[m])."""
    best, total = -np.inf, 0.0
    for m in range(x.shape[0]):
        best = max(best, x[m] + y[m])
    if best == -np.inf:
        return best
    for m in range(x.shape[0]):
        total += math.exp(x[m] + y[m] - best)
    return best + math.log(total)


@njit(cache=True, nogil=True)
def log_forward(log_score, log_initial, log_transition):
    """Compute the log evidence of a chain, and log forward probabilities, shape (T, K)."""
    n_frames, n_labels = log_score.shape
    alpha = np.empty((n_frames, n_labels))
    for k in range(n_labels):
        alpha[0, k] = log_initial[k] + log_score[0, k]
    for t in range(1, n_frames):
        for k in range(n_labels):
            alpha[t, k] = log_score[t, k] + _log_sum(alpha[t - 1], log_transition[:, k])
    return _log_sum(alpha[n_frames - 1], np.zeros(n_labels)), alpha


@njit(cache=True, nogil=True)
def log_backward(log_score, log_transition, log_z, alpha):
    """Compute marginals (T, K) and expected transitions (K, K) from the results of `log_forward`."""
    n_frames, n_labels = alpha.shape
    gamma, counts = np.empty((n_frames, n_labels)), np.zeros((n_labels, n_labels))
    beta, new = np.zeros(n_labels), np.empty(n_labels)
    for k in range(n_labels):
        gamma[n_frames - 1, k] = math.exp(alpha[n_frames - 1, k] - log_z)
    for t in range(n_frames - 1, 0, -1):
        for k in range(n_labels):
            beta[k] += log_score[t, k]
        for j in range(n_labels):
            new[j] = _log_sum(beta, log_transition[j])
            for k in range(n_labels):
                counts[j, k] += math.exp(alpha[t - 1, j] + log_transition[j, k] + beta[k] - log_z)
            gamma[t - 1, j] = math.exp(alpha[t - 1, j] + new[j] - log_z)
        for j in range(n_labels):
            beta[j] = new[j]
    return gamma, counts


@njit(cache=True)
def _sample(log_transition, alpha, n_paths, rng):
    """Draw label sequences backwards from log forward probabilities, shape (n_paths, T)."""
    n_frames, n_labels = alpha.shape
    labels = np.empty((n_paths, n_frames), np.int64)
    weight = np.empty(n_labels)
    for path in range(n_paths):
        for t in range(n_frames - 1, -1, -1):
            weight[:] = alpha[t]
            if t < n_frames - 1:
                weight += log_transition[:, labels[path, t + 1]]
            weight[:] = np.exp(weight - weight.max())
            u, chosen = rng.random() * weight.sum(), -1
            for k in range(n_labels):
                if weight[k] > 0.0:
                    chosen = k
                    u -= weight[k]
                    if u < 0.0:
                        break
            labels[path, t] = chosen
    return labels


def _logs(initial, transition):
    with np.errstate(divide="ignore"):
        return np.log(initial), np.log(transition)


def _is_dense(initial, transition):
    return initial.min() > DENSE and transition.min() > DENSE


def evidence(log_score, initial, transition):
    """Compute the log evidence of a chain, the log of the sum of f (eq. 1); -inf if no label sequence is possible."""
    if _is_dense(initial, transition):
        return forward(log_score, initial, transition)[0]
    return log_forward(log_score, *_logs(initial, transition))[0]


def posterior(log_score, initial, transition):
    """Compute log evidence, marginals (T, K) and expected transitions (K, K); None for the last two if it is -inf."""
    if _is_dense(initial, transition):
        log_z, *state = forward(log_score, initial, transition)
        return log_z, *backward(initial, transition, *state)
    log_initial, log_transition = _logs(initial, transition)
    log_z, alpha = log_forward(log_score, log_initial, log_transition)
    if log_z == -np.inf:
        return log_z, None, None
    return log_z, *log_backward(log_score, log_transition, log_z, alpha)


def sample(log_score, initial, transition, n_paths, rng):
    """Draw label sequences from the posterior, shape (n_paths, T), or None where none is possible."""
    log_initial, log_transition = _logs(initial, transition)
    log_z, alpha = log_forward(log_score, log_initial, log_transition)
    return None if log_z == -np.inf else _sample(log_transition, alpha, n_paths, rng)


@njit(cache=True)
def simulate_chain(initial, transition, n_frames, rng):
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
