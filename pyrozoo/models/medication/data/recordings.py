"""Recordings as a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ....data.batch import Batch
from .protocols import NON_EVENT

# A mean of probabilities in single precision may end up a hair above 1.
_ROUNDING = 1e-6
MISSING = -1.0  # scores of a frame that is missing


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
    non_event: bool = True,
    **info: Any,
) -> Batch:
    """Build a batch of recordings from one array of scores for each.

    Scores lie in [0, 1]. They need not sum to 1 (sigmoids do not), and may be 0. A frame that is missing (a dropped
    packet) has NaN for all its scores, and gives no evidence: the batch holds `MISSING` in their place. Labels may go
    from one step to another without a non-event frame between them; the text's models alone refuse such labels, see
    `separate_steps`.

    Args:
        score: Scores of each recording, shapes (T_n, K).
        label: Labels 0..K-1 of each recording, shapes (T_n,), with -1 in frames whose label is not known; None for a
            recording without labels, and in place of the list if no recording is labelled.
        labels: Names of the K labels, the non-event first.
        rate: Frames per second.
        names: Names of the recordings; ``r0``, ``r1``, ... where None.
        subjects: Name of the person of each recording, which becomes the group ``subject``.
        truth: Values that a simulator knows: arrays with one entry per recording, by name.
        dtype: Floating type of the scores; torch's default where None.
        non_event: Whether the first label is the non-event. False where every frame belongs to a step: `score` has a
            column and `labels` a name for each of the steps 1..K, which is how `label` numbers them. The batch has the
            non-event as its label 0 all the same, with a score of 0, and the models of steps never use it.
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
        >>> steps = recordings([np.full((4, 2), 0.5)], [[1, 1, 2, 1]], labels=names[1:], rate=2.0, non_event=False)
        >>> steps.columns("score"), steps["score"][0].tolist()
        (['non-event', 'shake', 'inhale'], [0.0, 0.5, 0.5])
    """
    score, labels = list(score), [str(name) for name in labels]
    if not score:
        raise ValueError("score: there are no recordings; give at least one")
    label = [None] * len(score) if label is None else list(label)
    first = 0 if non_event else 1
    names = [f"r{i}" for i in range(len(score))] if names is None else [str(name) for name in names]
    _check_lists(score, {"label": label, "names": names, "subjects": subjects}, labels)
    check_rate(rate)
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"names: {double!r} is the name of two recordings; give each its own")
    score = [checked_score(f"recording {n!r}", s, labels) for n, s in zip(names, score, strict=True)]
    label = [
        None if z is None else _checked_label(f"recording {n!r}", z, len(s), first, len(labels) + first)
        for n, z, s in zip(names, label, score, strict=True)
    ]
    observed = np.array([z is not None and bool((z >= 0).any()) for z in label])
    label = [z if seen else np.zeros(len(s), np.int64) for z, s, seen in zip(label, score, observed, strict=True)]
    if not non_event:
        if NON_EVENT in labels:
            raise ValueError(f"labels: {NON_EVENT!r} is among {labels}, but non_event=False says that all are steps")
        labels = [NON_EVENT, *labels]
        score = [np.c_[np.where(s[:, :1] < 0, s[:, :1], 0), s] for s in score]
        info["info"] = {**(info.get("info") or {}), "without_non_event": True}
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


def separate_steps(batch: Batch, short: str = "refuse") -> Batch:
    """Put a non-event frame between steps that follow each other directly, for the models of the text.

    The text's process gives such labels probability 0 (eq. 2, last case). The first frame of the later step becomes
    non-event. Unlabelled recordings, scores and all other labels are not changed. `Decoded.joined` takes the inserted
    frames away again, from decodings of a fit to such labels.

    Args:
        batch: Recordings, as `recordings` makes them; it is not changed.
        short: What to do where the later step has one frame only, and would vanish: "refuse"; "borrow" the last frame
            of the earlier step, which must have two; or "merge", by which it goes to the earlier step, and is lost.

    Returns:
        Recordings with the new labels; `batch` itself if no two steps follow each other directly. Their ``info`` has
        ``separated``, the number of frames that became non-event, and ``borrowed`` and ``merged`` of short steps.

    Raises:
        ValueError: A short step that is to be refused, or that has nothing to borrow; the message names the recording
            and the frame. Or `short` is none of the three.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.medication import recordings, separate_steps
        >>> names = ["non-event", "shake", "inhale"]
        >>> data = recordings([np.full((8, 3), 1 / 3)], [[0, 1, 1, 2, 2, 2, 1, 0]], labels=names, rate=2.0)
        >>> apart = separate_steps(data, short="borrow")
        >>> apart["label"].tolist(), apart.info["separated"]
        ([0, 1, 1, 0, 2, 0, 1, 0], 2)
    """
    if short not in ("refuse", "borrow", "merge"):
        raise ValueError(f"short: {short!r} is none of 'refuse', 'borrow', 'merge'")
    if "label" not in batch:
        return batch
    label, seen = batch["label"].clone(), batch["labelled"].tolist()
    counts = dict.fromkeys(("separated", "borrowed", "merged"), 0)
    parts = label.split(batch["lengths"].tolist())  # views: an assignment to a part changes label
    for name, part, labelled in zip(batch.names(batch.rows), parts, seen, strict=True):
        if labelled:
            own = part.cpu().numpy().copy()
            _separate(f"recording {name!r}", own, batch.columns("score"), short, counts)
            part[:] = torch.as_tensor(own)
    if not any(counts.values()):
        return batch
    return replace(batch.with_tensors({"label": label}), info={**batch.info, **counts})


def _separate(where: str, label: np.ndarray, names: list[str], short: str, counts: dict[str, int]) -> None:
    """Separate the steps of one recording in place, from its start on, and count what was done."""
    for t in range(1, len(label)):
        before, now = int(label[t - 1]), int(label[t])
        if now == before or now <= 0 or before <= 0:
            continue
        if t + 1 < len(label) and label[t + 1] == now:
            label[t] = 0
            counts["separated"] += 1
        elif short == "merge":
            label[t] = before
            counts["merged"] += 1
        elif short == "borrow" and t > 1 and label[t - 2] == before:
            label[t - 1] = 0
            counts["separated"] += 1
            counts["borrowed"] += 1
        else:
            remedy = "short='merge'" if short == "borrow" else "short='borrow' or short='merge'"
            raise ValueError(
                f"{where}, frame {t}: {names[now]!r} follows {names[before]!r} without a non-event frame between them "
                f"and has this frame only, so that it would vanish; give {remedy}, label a frame beside it non-event, "
                "or leave the recording out"
            )


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


def checked_score(where: str, score: Any, labels: list[str]) -> np.ndarray:
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
    missing = np.isnan(score).all(1)
    if missing.any():
        score = np.where(missing[:, None], score.dtype.type(0), score)
    for wrong, what in (
        (~np.isfinite(score), "is not finite; give all scores of a frame, or NaN for all of them where it is missing"),
        (score < 0, "is negative; give probabilities, not logits or their logarithms"),
        (score > 1 + _ROUNDING, "is above 1; give probabilities, not logits or percentages"),
    ):
        if wrong.any():
            t, k = np.argwhere(wrong)[0]
            raise ValueError(f"{where}, frame {t}: the score of {labels[k]!r}, {score[t, k]:g}, {what}")
    score = np.minimum(score, 1)
    score[missing] = MISSING
    return score


def _checked_label(where: str, label: Any, n_frames: int, first: int, stop: int) -> np.ndarray:
    """Check the labels of one recording and return them as whole numbers first..stop-1, -1 where unknown."""
    label = np.asarray(label)
    if label.shape != (n_frames,):
        raise ValueError(f"{where}: labels of shape {label.shape} for {n_frames} frames; give one for each frame")
    if label.dtype.kind not in "iuf":
        raise ValueError(f"{where}: its labels are {label.dtype} values; give whole numbers {first}..{stop - 1}")
    wrong = ~((label >= first) & (label < stop) & (label == np.floor(label)) | (label == -1))
    if wrong.any():
        t = int(wrong.argmax())
        raise ValueError(
            f"{where}, frame {t}: the label {label[t]} is none of {first}..{stop - 1}; give -1 where the label is not "
            "known" + (", and number the steps from 1 where there is no non-event" if first else "")
        )
    return label.astype(np.int64)
