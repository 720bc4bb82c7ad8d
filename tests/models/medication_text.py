"""The process of the medication entry as its text writes it, frame by frame in plain Python."""

import functools
import itertools
import math

import numpy as np
import torch

from pyrozoo.models.medication.process import process as zoo

CDF, HAZARD = "cdf", "hazard"


def normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


class Text:
    """p(z_t | z_{1:t-1}) of a random small problem; ages above the caps count as the caps.

    With `touching`, steps may follow each other directly: the gap of a pair is empty with probability `direct`.
    """

    def __init__(self, rng, n_steps, reading, caps, allow_end=True, touching=False):
        self.n_steps, self.reading, self.caps = n_steps, reading, caps
        self.labels = n_steps + 1
        allowed = rng.random((self.labels, self.labels)) < 0.7
        allowed[:, 0] = False
        allowed[0, 1] = True
        weight = rng.gamma(1.0, size=(self.labels, self.labels)) * allowed
        end = rng.gamma(1.0, size=self.labels) if allow_end else 1e-12 * np.ones(self.labels)
        self.D = weight / (weight.sum(1) + end)[:, None]
        self.end = 1 - self.D.sum(1)
        self.duration = rng.uniform(1, 4, self.labels), rng.uniform(0.7, 2, self.labels)
        self.gap = rng.uniform(1, 4, (self.labels, self.labels)), rng.uniform(0.7, 2, (self.labels, self.labels))
        self.start = rng.uniform(0.1, 0.6)
        self.initial = rng.dirichlet(np.ones(self.labels))
        self.direct = np.zeros((self.labels, self.labels))
        if touching:
            self.direct = rng.random((self.labels, self.labels)) * (1 - np.eye(self.labels)) * (self.D > 0)
            self.direct[0] = 0.0

    def given_gap(self, h):
        """D[h] and its end, given that the gap after step h is not empty; and the probability of that."""
        kept = self.D[h] * (1 - self.direct[h])
        total = kept.sum() + self.end[h]
        return kept / total, self.end[h] / total, total

    def mass(self, mean, sd, d):
        """P(exactly d) and P(at least d) of the rounded Gaussian without what is below one frame."""
        whole = 1 - normal_cdf((0.5 - mean) / sd)
        at_least = 1 - normal_cdf((d - 0.5 - mean) / sd)
        return (at_least - (1 - normal_cdf((d + 0.5 - mean) / sd))) / whole, at_least / whole

    @functools.cache  # noqa: B019 - a problem lives as long as its test
    def leave(self, k, d):
        """Probability that step k, d frames long, ends."""
        d, (mean, sd) = min(d, self.caps[0]), (self.duration[0][k], self.duration[1][k])
        if self.reading == CDF:
            return normal_cdf((d + 1 - mean) / sd)
        exactly, at_least = self.mass(mean, sd, d)
        return exactly / at_least

    def gap_terms(self, h, k, g):
        if h == 0:  # constant hazard before the first step
            if self.reading == CDF:
                return self.start, 1 - self.start
            return self.start * (1 - self.start) ** (g - 1), (1 - self.start) ** (g - 1)
        mean, sd = self.gap[0][h, k], self.gap[1][h, k]
        if self.reading == CDF:
            p = normal_cdf((g + 1 - mean) / sd)
            return p, 1 - p
        return self.mass(mean, sd, g)

    @functools.cache  # noqa: B019 - a problem lives as long as its test
    def enter(self, h, k, g):
        """Probability to enter step k from the gap after h that is g frames long."""
        g = min(g, self.caps[1 if h else 2])
        own, _ = self.gap_terms(h, k, g)
        d, end, _ = self.given_gap(h)
        if self.reading == CDF:
            return d[k] * own
        waiting = sum(d[j] * self.gap_terms(h, j, g)[1] for j in range(1, self.labels))
        return d[k] * own / (waiting + end)

    def step(self, previous, h, run, now):
        """p(z_t = now | z_{t-1} = previous, last step h, run frames of z_{t-1} so far)."""
        if previous == 0:
            if now > 0:
                return self.enter(h, now, run)
            return 1 - sum(self.enter(h, k, run) for k in range(1, self.labels))
        leave = self.leave(previous, run)
        if now == previous:
            return 1 - leave
        way = self.given_gap(previous)[2] if now == 0 else self.D[previous, now] * self.direct[previous, now]
        return leave * way

    def probability(self, z):
        """p(z_1) Π p(z_t | z_{1:t-1})."""
        p, h, run = self.initial[z[0]], z[0], 1
        for previous, now in itertools.pairwise(z):
            p *= self.step(previous, h, run, now)
            run = run + 1 if now == previous else 1
            h = now if now > 0 else h
        return p

    def process(self, **own):
        """The same process in the zoo's tables."""
        h, k = np.nonzero(self.D[:, 1:] > 0)
        pairs = zoo.Pairs.of(list(zip(h.tolist(), (k + 1).tolist(), strict=True)), self.n_steps)
        values = dict(self.tensors(pairs), **own)
        return build(values, pairs, self.reading, self.caps)

    def tensors(self, pairs):
        later = pairs.later
        at = pairs.h[later], pairs.k[later]
        double = lambda x: torch.tensor(x, dtype=torch.double)  # noqa: E731
        return {
            "D": double(self.D[pairs.h, pairs.k]), "end": double(self.end), "start": double(self.start),
            "duration_mean": double(self.duration[0][1:]), "duration_sd": double(self.duration[1][1:]),
            "gap_mean": double(self.gap[0][at]), "gap_sd": double(self.gap[1][at]),
            "initial": double(self.initial),
        } | ({"direct": double(self.direct[at])} if self.direct.any() else {})  # fmt: skip


def build(values, pairs, reading, caps):
    """A process from tensors, by the functions that the models use."""
    from pyrozoo.models.medication.process import durations

    law, memoryless = durations.READINGS[reading]
    start = memoryless(values["start"].expand(len(pairs.h) - len(pairs.later)), caps[2] + 1)
    gap = law(values["gap_mean"], values["gap_sd"], caps[1] + 1)
    step = law(values["duration_mean"], values["duration_sd"], caps[0] + 1)
    d, end = values["D"].log(), values["end"].log()
    return zoo.semi_markov_process(pairs, d, end, start, gap, step, values["initial"], reading, values.get("direct"))


def enumerated(text, log_score):
    """All label sequences with a positive probability, and log p + score of each, by going through them one by one."""
    n_frames, n_labels = log_score.shape
    paths, value = [], []

    def go_on(z, h, run, p):
        if p <= 0:
            return
        if len(z) == n_frames:
            paths.append(z)
            value.append(math.log(p) + log_score[np.arange(n_frames), list(z)].sum())
            return
        for now in range(n_labels):
            go_on((*z, now), now or h, run + 1 if now == z[-1] else 1, p * text.step(z[-1], h, run, now))

    for k in range(n_labels):
        go_on((k,), k, 1, text.initial[k])
    return np.array(paths), np.array(value)


def path_score(log_scores, labels, process):
    """log p(labels) of each recording plus the sum of the labels' log scores: eq. 1 or 2 of given labels."""
    prior = process.log_prob(np.concatenate(labels), np.array([len(own) for own in labels])).detach().numpy()
    return prior + [own[np.arange(len(own)), path].sum() for own, path in zip(log_scores, labels, strict=True)]
