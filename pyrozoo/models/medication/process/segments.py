"""Segments of label sequences: run-length encoding, tables of steps, and scores of a decoding.

A label sequence has one whole number per frame: 0 where no step is performed (non-event), 1..K-1 for the steps. A
segment is a longest run of one label. Frames count from 0, and a segment's frames are start, ..., stop - 1.

Scores of steps leave label 0 out. Where label 0 is a step, too, say so by ``non_event=False``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

# A marginal of exactly 0 would make one wrong frame outweigh all others.
LEAST_MARGINAL = 1e-12


class Runs(NamedTuple):
    """Segments in their order; the n-th has ``label[n]`` on the frames ``start[n]``, ..., ``stop[n] - 1``."""

    label: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def runs(labels: np.ndarray) -> Runs:
    """Cut a label sequence, shape (T,), into its segments, non-event ones included."""
    labels = _sequence("labels", labels)
    start = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]]) if len(labels) else np.zeros(0, int)
    return Runs(labels[start], start, np.r_[start[1:], len(labels)] if len(labels) else start)


def segment_table(
    labels: Sequence[np.ndarray], names: Sequence[str], label_names: Sequence[str], rate: float
) -> pd.DataFrame:
    """List the performed steps of recordings, one row for each, by recording and then by time.

    A step that is cut off by the start or end of the recording has the duration of its visible part.

    Args:
        labels: Label sequence of each recording, shapes (T,).
        names: Names of the recordings.
        label_names: Names of the labels 0..K-1.
        rate: Frames per second.

    Returns:
        Columns ``recording``; ``label``, the step's name; ``start_s`` and ``stop_s``, seconds since the start of the
        recording; ``duration_s``; ``gap_s``, seconds since the end of the previous step, and ``previous``, that step's
        name, both missing for the first step of a recording.

    Raises:
        ValueError: The numbers of names and recordings differ, a label has no name, or the rate is not positive.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import segment_table
        >>> table = segment_table([np.array([0, 1, 1, 0, 2, 2])], ["r0"], ["non-event", "shake", "inhale"], rate=2.0)
        >>> table[["label", "start_s", "duration_s", "gap_s"]].to_numpy().tolist()
        [['shake', 0.5, 1.0, nan], ['inhale', 2.0, 1.0, 0.5]]
    """
    if len(labels) != len(names):
        raise ValueError(f"names: {len(names)} names for {len(labels)} recordings; give one for each")
    if not rate > 0:
        raise ValueError(f"rate: {rate} is not a positive number of frames per second")
    step_names = np.array(label_names, dtype=object)
    columns: dict[str, list] = {name: [] for name in ("recording", "label", "start_s", "stop_s", "gap_s", "previous")}
    for name, sequence in zip(names, labels, strict=True):
        label, start, stop = _steps(sequence)
        nameless = (label < 0) | (label >= len(step_names))
        if nameless.any():
            wrong = label[nameless][0]
            raise ValueError(f"recording {name!r}: label {wrong} has no name; label_names has {len(step_names)} names")
        step, missing = step_names[label], min(len(label), 1)
        columns["recording"] += [name] * len(label)
        columns["label"] += step.tolist()
        columns["start_s"] += (start / rate).tolist()
        columns["stop_s"] += (stop / rate).tolist()
        columns["gap_s"] += [np.nan] * missing + ((start[1:] - stop[:-1]) / rate).tolist()
        columns["previous"] += [None] * missing + step[:-1].tolist()
    text = {name: np.array(columns[name], dtype=object) for name in ("recording", "label", "previous")}
    time = {name: np.array(columns[name], dtype=float) for name in ("start_s", "stop_s", "gap_s")}
    time["duration_s"] = time["stop_s"] - time["start_s"]
    order = ["recording", "label", "start_s", "stop_s", "duration_s", "gap_s", "previous"]
    return pd.DataFrame(text | time, columns=order)


def frame_accuracy(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Compute the share of frames, non-event ones included, whose label is right.

    Args:
        truth: True labels, shape (T,).
        prediction: Predicted labels, shape (T,).

    Raises:
        ValueError: There are no frames, or the lengths differ.

    Example:
        >>> from pyrozoo.models.medication import frame_accuracy
        >>> frame_accuracy([0, 1, 1, 0], [0, 1, 0, 0])
        0.75
    """
    truth, prediction = _pair(truth, prediction)
    if len(truth) == 0:
        raise ValueError("truth: there are no frames; give at least one")
    return float(np.mean(truth == prediction))


def segment_f1(
    truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray], iou: float = 0.5, non_event: bool = True
) -> float:
    """Compute the F1 score of the predicted segments of steps, pooled over recordings, without non-event segments.

    A predicted segment is right if it is matched with a true segment of the same step and recording whose IoU, the
    number of their common frames over that of the frames of either, is `iou` or more. Each segment is matched at most
    once, the pairs with the highest IoU first. F1 = 2 right / (predicted + true), and 1 if there are neither.

    Args:
        truth: True label sequence of each recording, shapes (T,).
        prediction: Predicted label sequence of each recording, shapes (T,).
        iou: Smallest IoU of a match, in (0, 1].
        non_event: Whether label 0 is the non-event; False where it is a step, whose segments count as well.

    Raises:
        ValueError: `iou` is not in (0, 1], or the lengths differ.

    Example:
        >>> from pyrozoo.models.medication import segment_f1
        >>> truth, prediction = [0, 1, 1, 1, 0, 2, 2, 2], [0, 1, 1, 0, 0, 0, 0, 2]
        >>> segment_f1([truth], [prediction])  # step 1 overlaps by 2/3, step 2 by 1/3
        0.5
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou: {iou} is not in (0, 1]")
    right = total = 0
    for sequence, guess in _recordings(truth, prediction):
        true, predicted = _steps(sequence, non_event), _steps(guess, non_event)
        right += _matched(true, predicted, iou)
        total += len(true.label) + len(predicted.label)
    return 2 * right / total if total else 1.0


def edit_score(truth: np.ndarray, prediction: np.ndarray, non_event: bool = True) -> float:
    """Compute how well the order of the steps in one recording agrees, in [0, 1], whatever their times.

    It is 1 - d / n, where d is the Levenshtein distance between the two lists of steps (the smallest number of steps to
    insert, delete or replace) and n the length of the longer list; 1 if both are empty.

    Args:
        truth: True labels, shape (T,).
        prediction: Predicted labels, shape (T,).
        non_event: Whether label 0 is the non-event; False where it is a step.

    Raises:
        ValueError: The lengths differ.

    Example:
        >>> from pyrozoo.models.medication import edit_score
        >>> edit_score([0, 1, 0, 2, 0, 3], [1, 1, 0, 0, 0, 3])  # step 2 was missed
        0.666...
    """
    truth, prediction = _pair(truth, prediction)
    a, b = _steps(truth, non_event).label, _steps(prediction, non_event).label
    longest = max(len(a), len(b))
    return 1.0 - _levenshtein(a, b) / longest if longest else 1.0


def scores(
    truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray], marginals: Sequence[np.ndarray] | None = None,
    non_event: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Compute all scores of this module for a decoding of recordings.

    Args:
        truth: True label sequence of each recording, shapes (T,).
        prediction: Predicted label sequence of each recording, shapes (T,).
        marginals: Probabilities of the labels in the frames of each recording, shapes (T, K).
        non_event: Whether label 0 is the non-event; False where it is a step.

    Returns:
        ``frame_accuracy``, over the frames of all recordings; ``segment_f1``, pooled over recordings, at IoU 0.5;
        ``edit``, the mean edit score of the recordings; and, with `marginals`, ``frame_nll``, the mean of minus the
        log probability of the true label [nats], where probabilities below 1e-12 are raised to 1e-12.

    Raises:
        ValueError: There are no recordings, or shapes differ.

    Example:
        >>> from pyrozoo.models.medication import scores
        >>> scores([[0, 1, 1, 0], [0, 2, 2, 2]], [[0, 1, 0, 0], [0, 2, 2, 2]])
        {'frame_accuracy': 0.875, 'segment_f1': 1.0, 'edit': 1.0}
    """
    pairs = _recordings(truth, prediction)
    if not pairs:
        raise ValueError("truth: there are no recordings; give at least one")
    true, guess = (np.concatenate(sequences) for sequences in zip(*pairs, strict=True))
    out = {
        "frame_accuracy": frame_accuracy(true, guess),
        "segment_f1": segment_f1(truth, prediction, non_event=non_event),
        "edit": float(np.mean([edit_score(*pair, non_event) for pair in pairs])),
    }
    if marginals is not None:
        if len(marginals) != len(pairs):
            raise ValueError(f"marginals: {len(marginals)} recordings, but the truth has {len(pairs)}")
        own = [_own_marginals(i, pairs[i][0], table) for i, table in enumerate(marginals)]
        out["frame_nll"] = float(-np.log(np.maximum(np.concatenate(own), LEAST_MARGINAL)).mean())
    return out


def _steps(labels: np.ndarray, non_event: bool = True) -> Runs:
    """Cut a label sequence into segments, and keep those of steps."""
    label, start, stop = runs(labels)
    step = label != 0 if non_event else label >= 0
    return Runs(label[step], start[step], stop[step])


def _matched(true: Runs, predicted: Runs, iou: float) -> int:
    """Count the pairs of segments that can be matched, those with the highest IoU first."""
    common = np.minimum(true.stop[:, None], predicted.stop) - np.maximum(true.start[:, None], predicted.start)
    common = np.maximum(common, 0)
    either = (true.stop - true.start)[:, None] + (predicted.stop - predicted.start) - common
    overlap = np.where(true.label[:, None] == predicted.label, common / np.maximum(either, 1), 0.0)
    pairs = np.argwhere(overlap >= iou)
    taken_true, taken_predicted = np.zeros(len(true.label), bool), np.zeros(len(predicted.label), bool)
    for i, j in pairs[np.argsort(-overlap[tuple(pairs.T)], kind="stable")]:
        if not (taken_true[i] or taken_predicted[j]):
            taken_true[i] = taken_predicted[j] = True
    return int(taken_true.sum())


def _levenshtein(a: np.ndarray, b: np.ndarray) -> int:
    place = np.arange(len(b) + 1)
    row = place
    for i, item in enumerate(a, start=1):
        row = np.r_[i, np.minimum(row[1:] + 1, row[:-1] + (b != item))]
        # A run of insertions costs 1 each: the cheapest start of the run, for all its ends at once.
        row = np.minimum.accumulate(row - place) + place
    return int(row[-1])


def _sequence(name: str, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"{name}: shape {labels.shape}; give one label for each frame, shape (T,)")
    return labels


def _pair(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = _sequence("truth", truth), _sequence("prediction", prediction)
    if len(truth) != len(prediction):
        raise ValueError(f"prediction: {len(prediction)} frames, but the truth has {len(truth)}")
    return truth, prediction


def _recordings(truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    if len(truth) != len(prediction):
        raise ValueError(f"prediction: {len(prediction)} recordings, but the truth has {len(truth)}")
    pairs = []
    for i, pair in enumerate(zip(truth, prediction, strict=True)):
        try:
            pairs.append(_pair(*pair))
        except ValueError as error:
            raise ValueError(f"recording {i}: {error}") from None
    return pairs


def _own_marginals(i: int, truth: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look up the probability of the true label in each frame."""
    table = np.asarray(table)
    if table.ndim != 2 or len(table) != len(truth) or (len(truth) and truth.max() >= table.shape[1]):
        raise ValueError(
            f"marginals, recording {i}: shape {table.shape}; give a probability for each of {len(truth)} frames and "
            "each label"
        )
    return table[np.arange(len(truth)), truth]
