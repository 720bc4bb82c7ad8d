"""Simulated recordings: labels from the renewal process of a protocol, scores of an imperfect classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy
import torch

from ....data.batch import Batch
from .protocols import PROTOCOLS, Protocol
from .recordings import check_rate, recordings

# Keyword arguments of simulate_scores. The argmax is right in about 0.91, 0.72 and 0.47 of the frames.
DIFFICULTIES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "easy": MappingProxyType({"strength": 5.0, "noise": 1.0, "burst_rate": 0.04, "burst_length": 1.5}),
        "medium": MappingProxyType({"strength": 4.0, "noise": 1.5, "burst_rate": 0.08, "burst_length": 1.5}),
        "hard": MappingProxyType({"strength": 3.0, "noise": 1.7, "burst_rate": 0.12, "burst_length": 2.0}),
    }
)


def simulate(
    device: str = "inhaler",
    n_recordings: int = 60,
    difficulty: str = "medium",
    seed: int = 0,
    rate: float = 5.0,
    n_unlabelled: int = 0,
    sigmoid: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Batch:
    """Simulate recordings: labels from the renewal process of a protocol, scores of an imperfect classifier.

    Frame ``label`` and ``score`` lie along the recordings ``r0``, ``r1``, ...; the unlabelled ones come last. ``truth``
    holds ``true_label``, shape (N, longest T): the labels of every recording, the unlabelled ones included, and -1
    after its end.

    Every recording has random streams of its own, one for labels and one for scores. With one seed, fewer recordings
    are the first ones of a longer draw, and neither the difficulty nor the kind of scores changes a label.

    Args:
        device: Name of the protocol: ``"inhaler"`` or ``"pen"``.
        n_recordings: Number of labelled recordings.
        difficulty: Difficulty of the scores: ``"easy"``, ``"medium"`` or ``"hard"``, see `DIFFICULTIES`.
        seed: Random seed for all streams.
        rate: Frames per second.
        n_unlabelled: Number of further recordings, without labels.
        sigmoid: Whether the scores of a frame are independent sigmoids rather than a softmax, which sums to 1.
        dtype: Floating type of the scores; torch's default where None.

    Raises:
        ValueError: An unknown device or difficulty, or a number out of range; the message names the argument.

    Example:
        >>> from pyrozoo.models.medication import simulate
        >>> data = simulate("pen", n_recordings=3, difficulty="easy", rate=2.0, n_unlabelled=1)
        >>> data.n_rows, data["labelled"].tolist(), data["score"].shape[1]
        (4, [True, True, True, False], 8)
    """
    if device not in PROTOCOLS:
        raise ValueError(f"device: {device!r} is none of {sorted(PROTOCOLS)}")
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty: {difficulty!r} is none of {list(DIFFICULTIES)}")
    for name, count in (("n_recordings", n_recordings), ("n_unlabelled", n_unlabelled)):
        if count < 0:
            raise ValueError(f"{name}: {count} is negative")
    check_rate(rate)
    protocol = PROTOCOLS[device]
    own, further = np.random.default_rng(seed).spawn(2)
    label, score = [], []
    for stream in [*own.spawn(n_recordings), *further.spawn(n_unlabelled)]:
        label_rng, score_rng = stream.spawn(2)
        label.append(simulate_labels(protocol, label_rng, rate))
        score.append(
            simulate_scores(
                label[-1], len(protocol.labels), score_rng, rate, sigmoid=sigmoid, **DIFFICULTIES[difficulty]
            )
        )
    return recordings(
        score,
        [*label[:n_recordings], *([None] * n_unlabelled)],
        labels=protocol.labels,
        rate=rate,
        truth={"true_label": _padded(label)},
        dtype=dtype,
        name=f"simulated-{device}",
        simulated=True,
        seed=seed,
        info={"device": device, "difficulty": difficulty, "scores": "sigmoid" if sigmoid else "softmax"},
    )


def simulate_labels(protocol: Protocol, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Draw one recording's labels from the renewal process of `protocol`.

    Durations and gaps are Gaussians rounded to whole frames, truncated to 1 frame or more. The times before the first
    step and after the last one are geometric, the exponential in whole frames, and also 1 frame or more.

    Args:
        protocol: Steps, their order and their times.
        rng: Random stream for the labels.
        rate: Frames per second.

    Returns:
        Labels 0..S, shape (T,), at least one frame of 0 at either end.
    """
    order = protocol.matrix()
    label, length, h = [0], [_wait(rng, protocol.start_wait * rate)], 0
    while k := int(rng.choice(len(order), p=order[h])):
        if h:
            label.append(0)
            length.append(_whole_frames(rng, protocol.gap_mean[h, k] * rate, protocol.gap_sd[h, k] * rate))
        label.append(k)
        length.append(_whole_frames(rng, protocol.duration_mean[k - 1] * rate, protocol.duration_sd[k - 1] * rate))
        h = k
    return np.repeat([*label, 0], [*length, _wait(rng, protocol.end_wait * rate)])


def simulate_scores(
    labels: np.ndarray,
    n_labels: int,
    rng: np.random.Generator,
    rate: float,
    *,
    strength: float,
    noise: float,
    burst_rate: float,
    burst_length: float,
    blur: float = 0.4,
    noise_time: float = 1.9,
    temperature: float = 1.0,
    sigmoid: bool = False,
) -> np.ndarray:
    """Draw the scores that an imperfect classifier gives to labels.

    ::

        y     = labels; in Poisson(burst_rate T / rate) bursts, each at a random frame s, another label, drawn from
                row labels[s] of the confusion matrix, takes the place of y for 1 + Exponential(burst_length) seconds
        logit = strength (one-hot y, blurred over time - 1/2) + AR(1) noise
        score = softmax(temperature logit), or its sigmoid

    Scores are thus correlated in time: multiplied over frames, they claim more evidence than they hold.

    Args:
        labels: True labels 0..K-1, shape (T,).
        n_labels: Number K of labels.
        rng: Random stream for the scores.
        rate: Frames per second.
        strength: Factor of the evidence in the logits.
        noise: Standard deviation of the noise in the logits.
        burst_rate: Mean number of bursts of confusion per second.
        burst_length: Mean time that a burst lasts beyond its first frame [s].
        blur: Standard deviation of the Gaussian that blurs the boundaries [s].
        noise_time: Time in which the autocorrelation of the noise falls by a factor e [s].
        temperature: Factor of the logits; other than 1, it makes the scores over- or underconfident.
        sigmoid: Whether the scores of a frame are independent sigmoids rather than a softmax.

    Returns:
        Scores in [0, 1], shape (T, K).
    """
    seen = _confuse(labels, n_labels, rng, rate, burst_rate, burst_length)
    width = max(blur * rate, 1e-6)  # SciPy divides by it; this one blurs nothing
    evidence = scipy.ndimage.gaussian_filter1d(np.eye(n_labels)[seen], width, axis=0, mode="nearest", truncate=2.0)
    logit = temperature * (
        strength * (evidence - 0.5) + noise * _autoregressive(rng, evidence.shape, noise_time * rate)
    )
    return scipy.special.expit(logit) if sigmoid else scipy.special.softmax(logit, axis=1)


def simulated(
    device: str = "inhaler", *, n_recordings: int = 60, n_test: int = 60, seed: int = 0, **options: Any
) -> tuple[Batch, Batch]:
    """Simulate training and test recordings.

    The training data are drawn with seed ``2 * seed``, the test data with ``2 * seed + 1``, so that no two values of
    `seed` share recordings.

    Args:
        device: Name of the protocol: ``"inhaler"`` or ``"pen"``.
        n_recordings: Number of labelled recordings for training.
        n_test: Number of recordings for testing, all of them labelled.
        seed: Random seed for both draws.
        **options: Further arguments of `simulate`; ``n_unlabelled`` recordings are added to the training data only.

    Returns:
        Training data and test data.
    """
    test_options = {name: value for name, value in options.items() if name != "n_unlabelled"}
    return (
        simulate(device, n_recordings, seed=2 * seed, **options),
        simulate(device, n_test, seed=2 * seed + 1, **test_options),
    )


# ------------------------------------------------------------------ inside
def _wait(rng: np.random.Generator, mean: float) -> int:
    """Draw a geometric number of frames, 1 or more."""
    return int(rng.geometric(min(1.0, 1.0 / mean)))


def _whole_frames(rng: np.random.Generator, mean: float, sd: float) -> int:
    """Draw a rounded Gaussian number of frames, given that it is 1 or more."""
    # By inversion: rejection would take very long for a step that is much shorter than a frame.
    log_share = np.log1p(-rng.random()) + scipy.special.log_ndtr((mean - 0.5) / sd)
    return max(1, int(np.rint(mean - sd * scipy.special.ndtri_exp(log_share))))


def _confusion(n_labels: int) -> np.ndarray:
    """Confusion matrix of a burst, shape (K, K): labels are mostly taken for non-event and for neighbouring steps."""
    matrix = np.full((n_labels, n_labels), 0.15)
    step = np.arange(1, n_labels)
    matrix[step[1:], step[1:] - 1] = matrix[step[:-1], step[:-1] + 1] = 1.5
    matrix[:, 0] = 2.0
    matrix[0] = 1.0
    np.fill_diagonal(matrix, 0.0)
    return matrix / matrix.sum(1, keepdims=True)


def _confuse(
    labels: np.ndarray, n_labels: int, rng: np.random.Generator, rate: float, burst_rate: float, burst_length: float
) -> np.ndarray:
    """Replace labels by others in bursts of confusion."""
    seen, confusion = labels.copy(), _confusion(n_labels)
    for start in rng.integers(len(labels), size=rng.poisson(burst_rate * len(labels) / rate)):
        stop = start + 1 + int(rng.exponential(burst_length) * rate)
        seen[start:stop] = rng.choice(n_labels, p=confusion[labels[start]])
    return seen


def _autoregressive(rng: np.random.Generator, shape: tuple[int, ...], time: float) -> np.ndarray:
    """Draw stationary AR(1) noise of variance 1 along the first axis; its correlation at `time` frames is 1/e."""
    phi = np.exp(-1.0 / time)
    shocks = rng.standard_normal(shape)
    shocks[1:] *= np.sqrt(1.0 - phi**2)
    return scipy.signal.lfilter([1.0], [1.0, -phi], shocks, axis=0)


def _padded(label: Sequence[np.ndarray]) -> np.ndarray:
    out = np.full((len(label), max((len(z) for z in label), default=0)), -1)
    for row, z in zip(out, label, strict=True):
        row[: len(z)] = z
    return out
