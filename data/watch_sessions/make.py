"""Make watch_sessions.npz from the smart-watch recordings in the wheel of seglearn 1.2.5.

    pip download --no-deps seglearn==1.2.5
    python data/watch_sessions/make.py seglearn-1.2.5-py3-none-any.whl

It needs NumPy and scikit-learn, and takes about a minute. The README beside this file says what is real and what is
staged.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import zipfile
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier

SOURCE = "seglearn/data/watch_dataset.npy"
SOURCE_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
OUTPUT = Path(__file__).with_name("watch_sessions.npz")

SAMPLES_PER_FRAME = 50  # the watch sampled at 50 Hz, so that a frame is one second
GAP_MEAN, GAP_SD, GAP_LEAST, GAP_MOST = 7.0, 2.5, 3, 12  # seconds
PENDULUM = "PEN"
# The steps in the order that the sessions are staged in; full names as given with the original data set.
STEPS = {
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation with resistance band",
    "ER": "external rotation with resistance band",
    "TRAP": "lower trapezius row with resistance band",
    "ROW": "bent-over row with dumbbell",
}


class Session(NamedTuple):
    """One staged session: a subject, a side (0 left, 1 right), features (T, 12) and labels (T,)."""

    subject: int
    side: int
    x: np.ndarray
    label: np.ndarray


class ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers, and refuses everything else.

    Unpickling calls whatever functions the file names. The four below are all that arrays need, and none of them can
    do anything but make a value.
    """

    ALLOWED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # The array's state follows in the file and replaces whatever is made here.
        ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: np.empty(0),
        # Python 2 style bytes. The codec is not the file's to choose.
        ("_codecs", "encode"): lambda text, codec: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Look up what the file wants to call."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{SOURCE} wants to call {module}.{name}, which is no part of an array")
        return self.ALLOWED[module, name]


def read_source(wheel: str) -> dict[str, Any]:
    """Read the recordings from the wheel without running code from it."""
    content = zipfile.ZipFile(wheel).read(SOURCE)
    digest = hashlib.sha256(content).hexdigest()
    if digest != SOURCE_SHA256:
        raise SystemExit(f"{wheel}: {SOURCE} has sha256 {digest}, not that of seglearn 1.2.5; download that version")
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return ArraysOnly(file).load().item()


def frames(signal: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the six signals in each whole second, shape (T, 12)."""
    seconds = signal[: len(signal) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME]
    # One second at a time: NumPy adds up other layouts in another order, and the last digits would differ.
    return np.array([np.r_[s.mean(0), s.std(0)] for s in np.split(seconds, len(seconds) // SAMPLES_PER_FRAME)])


def stage(source: dict[str, Any]) -> list[Session]:
    """Stage one session per subject and side: pendulum, step 1, pendulum, step 2, ..., step 6, pendulum."""
    rng = np.random.default_rng(7)
    subject, side, exercise = (np.asarray(source[key]) for key in ("subject", "side", "y"))
    names = list(source["y_labels"])
    recorded = [frames(signal) for signal in source["X"]]
    sessions = []
    for person in np.unique(subject):
        for arm in (0, 1):
            own = {names[exercise[i]]: recorded[i] for i in np.flatnonzero((subject == person) & (side == arm))}
            pieces, labels = [excerpt(own[PENDULUM], rng)], [0]
            for k, step in enumerate(STEPS, start=1):
                pieces += [own[step], excerpt(own[PENDULUM], rng)]
                labels += [k, 0]
            lengths = [len(piece) for piece in pieces]
            sessions.append(Session(int(person), arm, np.concatenate(pieces), np.repeat(labels, lengths)))
    return sessions


def excerpt(pendulum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a gap of a random length out of the pendulum exercise, at a random place."""
    length = int(np.clip(rng.normal(GAP_MEAN, GAP_SD), GAP_LEAST, GAP_MOST))
    start = rng.integers(0, max(1, len(pendulum) - length))
    return pendulum[start : start + length]


def nested_scores(sessions: list[Session], subjects: np.ndarray) -> np.ndarray:
    """Score every frame in every fold by a forest that saw neither its subject nor the fold's test subject."""
    x = np.concatenate([session.x for session in sessions])
    label = np.concatenate([session.label for session in sessions])
    owner = np.concatenate([np.full(len(session.label), session.subject) for session in sessions])
    score = np.full((len(subjects), len(x), len(STEPS) + 1), np.nan, np.float32)
    for j, test in enumerate(subjects):
        score[j, owner == test] = forest(x, label, owner != test, owner == test)
    for i, j in combinations(range(len(subjects)), 2):
        rows_i, rows_j = owner == subjects[i], owner == subjects[j]
        # One forest serves both ways round: i as a training subject of fold j, and j as one of fold i.
        both = forest(x, label, ~(rows_i | rows_j), rows_i | rows_j)
        score[j, rows_i], score[i, rows_j] = both[rows_i[rows_i | rows_j]], both[rows_j[rows_i | rows_j]]
    return score


def forest(x: np.ndarray, label: np.ndarray, train: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Fit a random forest to the rows `train` and return its probabilities of the rows `scored`."""
    model = RandomForestClassifier(100, min_samples_leaf=5, class_weight="balanced", random_state=0, n_jobs=1)
    return model.fit(x[train], label[train]).predict_proba(x[scored]).astype(np.float32)


def main(wheel: str) -> None:
    """Make the file and print its size and hash."""
    sessions = stage(read_source(wheel))
    subjects = np.unique([session.subject for session in sessions])
    np.savez_compressed(
        OUTPUT,
        label=np.concatenate([session.label for session in sessions]).astype(np.int8),
        x=np.concatenate([session.x for session in sessions]).astype(np.float32),
        score=nested_scores(sessions, subjects),
        session=np.repeat(np.arange(len(sessions), dtype=np.int8), [len(session.label) for session in sessions]),
        subject=np.array([session.subject for session in sessions]),
        side=np.array([session.side for session in sessions]),
        subjects=np.array([f"S{subject}" for subject in subjects]),
        steps=np.array(["non-event", *STEPS.values()]),
        rate=np.array(1.0),
    )
    content = OUTPUT.read_bytes()
    print(f"{OUTPUT.name}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
