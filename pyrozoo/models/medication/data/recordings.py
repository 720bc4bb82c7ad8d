"""Recordings as a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ....data.batch import Batch
from ..process.segments import runs

# A mean of probabilities in single precision may end up a hair above 1.
_ROUNDING = 1e-6


# ------------------------------------------------------------------ recordings
def recordings(
    score: Sequence[Any],
    label: Sequence[Any] | None = None,
    *,
    labels: Sequence[str],
    rate: float,
    names: Sequence[str] | None = None,
    subjects: Sequence[Any] | None = None,
    truth: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    **info: Any,
) -> Batch:
    """Build a batch of recordings from one array of scores for each.

    Scores lie in [0, 1]. They need not sum to 1 (sigmoids do not), and may be 0. Labels may go from one step to another
    without a non-event frame between them, but models of steps and gaps refuse such labels: see `separate_steps`.

    Args:
        score: Scores of each recording, shapes (T_n, K).
        label: Labels 0..K-1 of each recording, shapes (T_n,), or None for a recording without labels; None in place of
            the list if no recording is labelled.
        labels: Names of the K labels, the non-event first.
        rate: Frames per second.
        names: Names of the recordings; ``r0``, ``r1``, ... where None.
        subjects: Name of the person of each recording, which becomes the group ``subject``.
        truth: Values that a simulator knows: arrays with one entry per recording, by name.
        dtype: Floating type of the scores; torch's default where None.
        **info: Provenance, e.g. ``name="clinic"``, ``simulated=True``.

    Raises:
        ValueError: A shape, score, label or name is wrong; the message names the recording, the frame and the remedy.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import recordings
        >>> scores = [np.full((6, 3), 1 / 3), np.full((4, 3), 1 / 3)]  # frames, labels
        >>> names = ["non-event", "shake", "inhale"]
        >>> data = recordings(scores, [[0, 1, 1, 0, 2, 0], None], labels=names, rate=2.0)
        >>> data.n_rows, data["score"].shape, data["labelled"].tolist()
        (2, torch.Size([10, 3]), [True, False])
    """
    score, labels = list(score), [str(name) for name in labels]
    if not score:
        raise ValueError("score: there are no recordings; give at least one")
    label = [None] * len(score) if label is None else list(label)
    names = [f"r{i}" for i in range(len(score))] if names is None else [str(name) for name in names]
    _check_lists(score, {"label": label, "names": names, "subjects": subjects}, labels)
    check_rate(rate)
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"names: {double!r} is the name of two recordings; give each its own")
    score = [_checked_score(f"recording {n!r}", s, labels) for n, s in zip(names, score, strict=True)]
    observed = np.array([z is not None for z in label])
    label = [
        np.zeros(len(s), np.int64) if z is None else _checked_label(f"recording {n!r}", z, len(s), len(labels))
        for n, z, s in zip(names, label, score, strict=True)
    ]
    return Batch.from_arrays(
        rows={},
        frames={"label": label, "score": score},
        labels={"label": observed},
        groups=None if subjects is None else {"subject": subjects},
        row_plate="recording",
        dims={"score": ("label_class",)},
        coords={"label_class": labels, "recording": names},
        truth=truth,
        truth_along=dict.fromkeys(truth or {}, "recording"),
        dtype=dtype,
        rate=float(rate),
        **info,
    )


def separate_steps(batch: Batch) -> Batch:
    """Label the first frame of a step as non-event if it follows another step without a non-event frame between them.

    A process of steps and gaps gives such labels probability 0 (eq. 2, last case), and its models refuse them.
    Unlabelled recordings, scores and all other labels are not changed.

    Args:
        batch: Recordings, as `recordings` makes them; it is not changed.

    Returns:
        Recordings with the new labels; `batch` itself if no two steps follow each other directly.

    Raises:
        ValueError: The later step has one frame only, and would vanish; the message names the recording and the frame.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import recordings, separate_steps
        >>> names = ["non-event", "shake", "inhale"]
        >>> data = recordings([np.full((6, 3), 1 / 3)], [[0, 1, 1, 2, 2, 0]], labels=names, rate=2.0)
        >>> separate_steps(data)["label"].tolist()
        [0, 1, 1, 0, 2, 0]
    """
    if "label" not in batch:
        return batch
    label, seen, changed = batch["label"].clone(), batch["labelled"].tolist(), False
    parts = label.split(batch["lengths"].tolist())  # views: an assignment to a part changes label
    for name, part, labelled in zip(batch.names(batch.rows), parts, seen, strict=True):
        value, start, stop = runs(part.cpu().numpy())
        later = 1 + np.flatnonzero((value[1:] > 0) & (value[:-1] > 0))
        if not labelled or not len(later):
            continue
        short = later[stop[later] - start[later] == 1]
        if len(short):
            names, i = batch.columns("score"), short[0]
            raise ValueError(
                f"recording {name!r}, frame {start[i]}: {names[value[i]]!r} follows {names[value[i - 1]]!r} without a "
                "non-event frame between them and has this frame only, so that it would vanish; label a frame beside "
                "it non-event or leave the recording out"
            )
        part[torch.as_tensor(start[later])] = 0
        changed = True
    return batch.with_tensors({"label": label}) if changed else batch


def check_rate(rate: float) -> None:
    """Raise ValueError unless `rate` is a positive number of frames per second."""
    if not 0 < rate < np.inf:
        raise ValueError(f"rate: {rate} is not a positive number of frames per second")


# ------------------------------------------------------------------ inside: checks
def _check_lists(score: list, others: Mapping[str, Sequence[Any] | None], labels: list[str]) -> None:
    for name, values in others.items():
        if values is not None and len(values) != len(score):
            raise ValueError(f"{name}: {len(values)} entries for {len(score)} recordings; give one for each")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels: {labels}; give non-event and at least one step, each a name of its own")


def _checked_score(where: str, score: Any, labels: list[str]) -> np.ndarray:
    """Check the scores of one recording and return them as floats in [0, 1]."""
    try:
        score = np.asarray(score)
        score = score if score.dtype == np.float32 else score.astype(float)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: its scores are not numbers in a table of frames by labels") from None
    if score.ndim != 2:
        raise ValueError(f"{where}: scores of shape {score.shape}; give one row for each frame, shape (T, K)")
    if len(score) < 1:
        raise ValueError(f"{where}: it has no frames; leave it out")
    if score.shape[1] != len(labels):
        raise ValueError(
            f"{where}: {score.shape[1]} scores in a frame for {len(labels)} labels {labels}; give a score to each label"
        )
    for wrong, what in (
        (~np.isfinite(score), "is not finite; score the frame again or cut the recording there"),
        (score < 0, "is negative; give probabilities, not logits or their logarithms"),
        (score > 1 + _ROUNDING, "is above 1; give probabilities, not logits or percentages"),
    ):
        if wrong.any():
            t, k = np.argwhere(wrong)[0]
            raise ValueError(f"{where}, frame {t}: the score of {labels[k]!r}, {score[t, k]:g}, {what}")
    return np.minimum(score, 1)


def _checked_label(where: str, label: Any, n_frames: int, n_labels: int) -> np.ndarray:
    """Check the labels of one recording and return them as whole numbers 0..K-1."""
    label = np.asarray(label)
    if label.shape != (n_frames,):
        raise ValueError(f"{where}: labels of shape {label.shape} for {n_frames} frames; give one for each frame")
    if label.dtype.kind not in "iuf":
        raise ValueError(f"{where}: its labels are {label.dtype} values; give whole numbers 0..{n_labels - 1}")
    wrong = ~((label >= 0) & (label < n_labels) & (label == np.floor(label)))
    if wrong.any():
        t = int(wrong.argmax())
        raise ValueError(
            f"{where}, frame {t}: the label {label[t]} is none of 0..{n_labels - 1}; label a recording whole, or not "
            "at all (None)"
        )
    return label.astype(np.int64)
