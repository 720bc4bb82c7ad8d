"""Trials as a batch, and splits by participant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....data.batch import Batch


def to_batch(
    *, x: np.ndarray, y: np.ndarray, style: np.ndarray, participant: Any, x_aux: np.ndarray, participants: Any,
    channels: Sequence[str], styles: Sequence[str], **info: Any,
) -> Batch:  # fmt: skip
    """Trials as a batch: rows are loaded walks, a table holds the one unloaded walk of every participant.

    Args:
        x: Loaded walks, (N, T, S).
        y: Loads [lb], (N,); NaN where unknown.
        style: Position of each trial's style in `styles`, (N,); -1 where unknown.
        participant: Name of each trial's participant, (N,).
        x_aux: Unloaded walks, (M, T0, S), in the order of `participants`.
        participants: Names, (M,).
        channels: Names of the S channels.
        styles: Names of the L carrying styles.
        **info: Of `Batch.from_arrays`: truth, truth_along, name, simulated ...

    Raises:
        ValueError: A negative load, a style that is none of `styles`, or walks of another number of channels.
    """
    y, style = np.asarray(y, dtype=float), np.asarray(style)
    if not np.issubdtype(style.dtype, np.integer):
        raise ValueError(f"style: {style.dtype} values; give positions in styles, -1 where unknown")
    for name, walks in (("x", x), ("x_aux", x_aux)):
        if np.ndim(walks) != 3 or np.shape(walks)[2] != len(channels):
            raise ValueError(f"{name}: shape {np.shape(walks)}, expected (walks, steps, {len(channels)} channels)")
    for name, wrong, remedy in (
        ("y", y < 0, "a load in lb is not negative; leave an unknown load out (NaN)"),
        ("style", (style < -1) | (style >= len(styles)), f"styles are numbered 0 to {len(styles) - 1}, -1 if unknown"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"{name}, row {row}: {(y if name == 'y' else style)[row]:g}; {remedy}")
    return Batch.from_arrays(
        rows={"x": x, "y": y, "style": style.astype(np.int64)}, groups={"participant": np.asarray(participant)},
        tables={"participant": {"x_aux": x_aux}}, labels={"y": ~np.isnan(y), "style": style >= 0},
        dims={"x": ("time", "channel"), "x_aux": ("aux_time", "channel")},
        coords={
            "participant": np.asarray(participants), "channel": np.asarray(channels), "style_class": np.asarray(styles),
        },
        **info,
    )  # fmt: skip


def participant_folds(data: Batch, folds: int, seed: int = 0) -> list[tuple[Batch, Batch]]:
    """Split by people: training and test data of each fold, no participant in both.

    Args:
        data: Trials.
        folds: Number of folds; as many as participants leaves one out at a time.
        seed: Of which people are tested together.

    Raises:
        ValueError: Fewer than two folds, or more than participants.
    """
    from sklearn.model_selection import GroupKFold

    people = data["participant"].cpu().numpy()
    if not 2 <= folds <= data.sizes["participant"]:
        raise ValueError(f"folds: {folds}; from 2 to the number of participants, {data.sizes['participant']}")
    shuffled = np.random.default_rng(seed).permutation(data.sizes["participant"])[people]
    split = GroupKFold(folds).split(np.zeros((data.n_rows, 1)), groups=shuffled)
    parts = [(data.subset(train), data.subset(test)) for train, test in split]
    for train, test in parts:
        check_disjoint(train, test)
    return parts


def check_disjoint(train: Batch, test: Batch) -> None:
    """Refuse a test participant who is in the training data.

    Raises:
        ValueError: The message names them.
    """
    both = sorted(set(map(str, train.coords["participant"])) & set(map(str, test.coords["participant"])))
    if both:
        raise ValueError(
            f"participant(s) {both[:5]} are in training and test data; errors on people the model knows say little of "
            "new ones: split by participant, e.g. with participant_folds"
        )
