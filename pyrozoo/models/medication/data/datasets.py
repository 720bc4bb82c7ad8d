"""Data sets of the medication entry by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from ....data.batch import Batch
from ....data.folders import data_path
from ....files import read_npz
from .recordings import recordings


# ------------------------------------------------------------------ watch sessions
def watch_sessions(fold: int | None = None) -> tuple[Batch, Batch]:
    """Load the watch sessions for one test subject: semi-synthetic, see ``data/watch_sessions/README.md``.

    The scores are nested. The test subject's scores come from a classifier trained on the nine others, and those of
    every training subject from one that was trained on neither that subject nor the test subject. So a model may be
    fitted to the training scores and labels as to those of a new person.

    Args:
        fold: Position of the test subject, 0..9; 0 where None.

    Returns:
        Training data, 18 sessions of nine subjects, and test data, the 2 sessions of the test subject.

    Raises:
        ValueError: There is no such fold.

    Example:
        >>> from pyrozoo.models.medication import watch_sessions
        >>> train, test = watch_sessions(fold=3)
        >>> train.n_rows, test.n_rows, test.columns("score")[:3]
        (18, 2, ['non-event', 'abduction', 'forward elevation'])
    """
    arrays = _watch_arrays()
    n_folds = len(arrays["subjects"])
    fold = 0 if fold is None else fold
    if fold not in range(n_folds):
        raise ValueError(f"fold: {fold!r}; the {n_folds} test subjects have the positions 0..{n_folds - 1}")
    fold = int(fold)
    test = _watch_subject(arrays) == fold
    info = {"fold": fold, "test_subject": str(arrays["subjects"][fold])}
    return (
        _watch_batch(arrays, arrays["score"][fold], ~test, **info),
        _watch_batch(arrays, arrays["score"][fold], test, **info),
    )


def watch_sessions_all() -> Batch:
    """Load all 20 watch sessions, each scored by a classifier trained on the other nine subjects.

    Use them for plots, and to score methods that are not fitted. A model fitted to some of these sessions has, through
    the classifiers, seen the labels of all; to fit models, use `watch_sessions`.
    """
    arrays = _watch_arrays()
    score = arrays["score"][_watch_subject(arrays)[arrays["session"]], np.arange(len(arrays["session"]))]
    return _watch_batch(arrays, score, np.ones(len(arrays["subject"]), bool))


# ------------------------------------------------------------------ data sets
def _simulated(device: str, **options: Any) -> tuple[Batch, Batch]:
    from .simulator import simulated  # here, since the simulator imports `recordings` from this module

    return simulated(device, **options)


DATASETS: Mapping[str, Callable[..., Batch | tuple[Batch, Batch]]] = MappingProxyType(
    {
        "simulated-inhaler": partial(_simulated, "inhaler"),
        "simulated-pen": partial(_simulated, "pen"),
        "watch": watch_sessions,
    }
)


# ------------------------------------------------------------------ inside: watch sessions
def _watch_arrays() -> dict[str, np.ndarray]:
    return read_npz(data_path("watch_sessions/watch_sessions.npz"))


def _watch_subject(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Position of each session's subject among ``subjects``: the fold in which the session is tested."""
    return np.searchsorted(np.unique(arrays["subject"]), arrays["subject"])


def _watch_batch(arrays: Mapping[str, np.ndarray], score: np.ndarray, keep: np.ndarray, **info: Any) -> Batch:
    """Make a batch of the sessions where `keep`, shape (20,), is true, from the scores (5200, 7) of all frames."""
    subject = arrays["subjects"][_watch_subject(arrays)]
    side = np.where(arrays["side"] == 1, "right", "left")
    own = [np.flatnonzero(arrays["session"] == i) for i in np.flatnonzero(keep)]
    return recordings(
        [score[frames] for frames in own],
        [arrays["label"][frames] for frames in own],
        labels=arrays["steps"].tolist(),
        rate=arrays["rate"].item(),
        names=[f"{who} {arm}" for who, arm in zip(subject[keep], side[keep], strict=True)],
        subjects=subject[keep],
        name="watch_sessions",
        simulated=False,
        source="Python package seglearn 1.2.5",
        licence="BSD-3-Clause (D. M. Burns)",
        reference="D. M. Burns et al., Shoulder physiotherapy exercise recognition: machine learning the inertial "
        "signals from a smartwatch, Physiological Measurement 39 (2018) 075007",
        info={"semi_synthetic": True, **info},
    )
