"""Checks of labelled recordings and of scores, with messages that name recording, frame and remedy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...batch import Batch
from .counts import Counts

if TYPE_CHECKING:
    from .label_model import LabelModel


def check_labels(data: Batch, model: LabelModel | None = None) -> None:
    """Refuse labelled recordings that no process of steps and gaps, or not this model, can have made.

    Raises:
        ValueError: Two steps without a non-event frame between them; with `model`: another number of labels, or a pair
            of steps or a first label that the model rules out.
    """
    if model is not None and data["score"].shape[1] != model.n_labels:
        raise ValueError(
            f"score: {data['score'].shape[1]} columns, the model has {model.n_labels} labels {list(model.names)}; "
            "give one score per label, the non-event first"
        )
    if model is not None:
        check_rate(data, model)
    if "label" not in data:
        return
    names = model.names if model is not None else [str(name) for name in data.coords["label_class"]]
    pairs = getattr(model, "pairs", None)
    if model is not None and pairs is None:
        return  # a frame-level chain allows every sequence
    parts = data["label"].cpu().split(data["lengths"].tolist())
    for recording, part, seen in zip(data.names("recording"), parts, data["labelled"].tolist(), strict=True):
        if not seen:
            continue
        labels = part.numpy()
        direct = np.flatnonzero((labels[1:] != labels[:-1]) & (labels[1:] > 0) & (labels[:-1] > 0))
        if len(direct):
            t = int(direct[0]) + 1
            raise ValueError(
                f"recording {recording!r}, frame {t}: {names[labels[t - 1]]!r} goes straight to {names[labels[t]]!r}, "
                "which has probability 0 in this process: two steps need a non-event frame between them. Give the "
                "boundary to the non-event: medication.separate_steps(batch)"
            )
        if pairs is not None:
            _check_pairs(recording, labels, model)


def check_rate(data: Batch, model: LabelModel) -> None:
    """Refuse recordings at another frame rate than the model's: its durations would mean something else.

    Raises:
        ValueError: The rates differ; data whose rate was merely assumed are taken to have the model's.
    """
    own, given = getattr(model, "rate", None), data.info.get("rate")
    if own is None or given is None or data.info.get("rate_assumed"):
        return
    if abs(float(given) - own) > 1e-6 * own:
        raise ValueError(
            f"the recordings have {float(given):g} frames per second, the model has {own:g}; resample them, or fit "
            "recordings at their rate (again, where the rate was not given at the fit, and 1 was assumed)"
        )


def _check_pairs(recording: object, labels: np.ndarray, model: LabelModel) -> None:
    known = set(zip(model.pairs.h.tolist(), model.pairs.k.tolist(), strict=True))
    for h, k in Counts.of([labels], model.n_labels - 1).transitions:
        if (h, k) not in known:
            last = "start" if h == 0 else model.names[h]
            raise ValueError(
                f"recording {recording!r}: {model.names[k]!r} follows {last!r}, a pair that the model does not have; "
                f"create it with pairs that hold {(h, k)}, e.g. from data that do"
            )
    if model.initial[labels[0]] == 0:
        raise ValueError(
            f"recording {recording!r} begins with {model.names[labels[0]]!r}, which `initial` gives probability 0"
        )


def check_scores(
    log_scores: Sequence[np.ndarray], n_labels: int, names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Log scores of recordings as contiguous double arrays.

    Raises:
        TypeError: Not a list of arrays.
        ValueError: No frame, another number of columns, NaN, +inf, or -inf (a score of zero).
        MemoryError: A recording needs more memory than the machine has.
    """
    if isinstance(log_scores, np.ndarray):
        raise TypeError("log_scores: give a list of recordings, each an array (frames, labels); for one: [array]")
    out = []
    for i, given in enumerate(log_scores):
        own = np.ascontiguousarray(given, dtype=np.float64)
        which = f"recording {names[i] if names is not None else i!r}"
        if own.ndim != 2 or own.shape[1] != n_labels:
            raise ValueError(f"{which}: scores of shape {own.shape}; give (frames, {n_labels}), one column per label")
        if not len(own):
            raise ValueError(f"{which}: there are no frames; leave it out")
        if not np.isfinite(own).all():
            t, k = np.argwhere(~np.isfinite(own))[0].tolist()
            remedy = "a score of zero; raise it to a floor, e.g. 1e-4" if own[t, k] == -np.inf else "impute it"
            raise ValueError(f"{which}, frame {t}, label {k}: the log score is {own[t, k]}; {remedy}")
        _require_memory(which, len(own), n_labels)
        out.append(own)
    return out


def _require_memory(which: str, n_frames: int, n_labels: int) -> None:
    """Refuse what cannot fit before the machine starts to swap: some eight numbers per frame and node."""
    needed = 8 * 8 * (2 * n_labels - 1) * n_frames
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")
    if needed > total:
        raise MemoryError(
            f"{which}: {n_frames} frames of {n_labels} labels need about {needed / 1e9:.0f} GB, the machine has "
            f"{total / 1e9:.0f} GB; cut it where nothing happens, and decode the pieces"
        )
