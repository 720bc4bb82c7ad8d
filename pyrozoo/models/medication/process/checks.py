"""Checks of log scores and chains before they are decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

Scores = Sequence[np.ndarray]


def checked_chain(initial: Any, transition: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check a chain's probabilities and return contiguous arrays; with a wrong shape, kernels read out of bounds."""
    initial, transition = (np.ascontiguousarray(table, dtype=np.float64) for table in (initial, transition))
    if initial.ndim != 1 or transition.shape != (len(initial), len(initial)):
        raise ValueError(f"chain: shapes {initial.shape} and {transition.shape}; (K,) and (K, K) are needed")
    for name, table in (("initial", initial), ("transition", transition)):
        if not ((table >= 0).all() and (table.sum(-1) <= 1 + 1e-6).all()):
            raise ValueError(f"chain: {name} must hold probabilities (no logarithms), rows that sum to at most 1")
    return initial, transition


def check_scores(
    log_scores: Sequence[np.ndarray], n_labels: int, names: Sequence[str] | None = None,
    known: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Check log scores of recordings and convert them to contiguous double arrays.

    Args:
        log_scores: Log scores of each recording, shapes (T, K). A frame whose scores are all NaN is missing: it gives
            no evidence, and becomes a frame of zeros.
        n_labels: Number K of labels.
        names: Names of the recordings, for messages.
        known: Labels of each recording that are known, shapes (T,), -1 where they are not: all others are ruled out by
            a log score of -inf.

    Raises:
        TypeError: `log_scores` is no list of arrays.
        ValueError: A recording has no frame, another number of columns, NaN in a part of a frame, +inf, or -inf (a
            score of zero); or known labels of another length, or that are none.
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
        missing = np.asarray(np.isnan(own).all(axis=1))
        if missing.any():
            own = np.where(missing[:, None], 0.0, own)
        if not np.isfinite(own).all():
            t, k = np.argwhere(~np.isfinite(own))[0].tolist()
            remedy = (
                "a score of zero; raise it to a floor, e.g. 1e-4"
                if own[t, k] == -np.inf
                else "give all scores of a frame, or NaN for all of them where it is missing"
            )
            raise ValueError(f"{which}, frame {t}, label {k}: the log score is {own[t, k]}; {remedy}")
        require_memory(which, len(own), n_labels)
        out.append(own if known is None else clamped(own, known[i], which))
    return out


def clamped(log_score: np.ndarray, known: np.ndarray, which: str = "recording") -> np.ndarray:
    """Rule out all labels but the known one, in the frames (T, K) that have one: -inf; `known` (T,) is -1 elsewhere."""
    known = np.asarray(known)
    if known.shape != log_score.shape[:1] or known.dtype.kind not in "iu":
        raise ValueError(f"{which}: known labels of shape {known.shape}; give one for each frame, -1 if unknown")
    if not ((known >= -1) & (known < log_score.shape[1])).all():
        raise ValueError(f"{which}: known labels outside 0..{log_score.shape[1] - 1}, and not -1")
    out = log_score.copy()
    frames = np.flatnonzero(known >= 0)
    out[frames] = -np.inf
    out[frames, known[frames]] = log_score[frames, known[frames]]
    return out


def require_memory(which: str, n_frames: int, n_labels: int) -> None:
    """Raise MemoryError if a recording needs more than the machine's memory: some eight numbers per frame and node."""
    needed = 8 * 8 * (2 * n_labels - 1) * n_frames
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")
    if needed > total:
        raise MemoryError(
            f"{which}: {n_frames} frames of {n_labels} labels need about {needed / 1e9:.0f} GB, the machine has "
            f"{total / 1e9:.0f} GB; cut it where nothing happens, and decode the pieces"
        )
