"""Trials as a batch, and splits by participant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....data.batch import Batch


def to_batch(
    *, x: np.ndarray, y: np.ndarray, style: np.ndarray, participant: Any, x_aux: np.ndarray, participants: Any,
    channels: Sequence[str] | np.ndarray, styles: Sequence[str] | np.ndarray, **info: Any,
) -> Batch:  # fmt: skip
    """Make a batch of trials: rows are loaded walks, and a table holds the one unloaded walk of every participant.

    Args:
        x: Loaded walks, (N, T, S).
        y: Loads [lb], (N,); NaN where unknown.
        style: Index of each trial's style in `styles`, integer, (N,); -1 where unknown.
        participant: Name of each trial's participant, (N,).
        x_aux: Unloaded walks, (M, T0, S), in the order of `participants`.
        participants: Names of the participants, (M,).
        channels: Names of the S channels.
        styles: Names of the L carrying styles.
        **info: Further arguments of `Batch.from_arrays`: truth, truth_along, row_coords, name, simulated ...

    Raises:
        ValueError: A negative load, a style that is no index in `styles`, or walks with another number of channels.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import to_batch
        >>> rng = np.random.default_rng(0)
        >>> data = to_batch(
        ...     x=rng.normal(size=(4, 40, 2)), y=[10.0, 20.0, 10.0, np.nan], style=[0, 1, 0, -1],
        ...     participant=["A", "A", "B", "B"], x_aux=rng.normal(size=(2, 40, 2)), participants=["A", "B"],
        ...     channels=["t6_acc_x", "t6_gyro_x"], styles=["right hand", "left hand"],
        ... )
        >>> data["x"].shape, data["x_aux"].shape
        (torch.Size([4, 40, 2]), torch.Size([2, 40, 2]))
        >>> data.observed("y").tolist()
        [True, True, True, False]
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
    """Split trials by participant into training and test data of each fold, with no participant in both.

    Args:
        data: Trials with the group ``participant``.
        folds: Number of folds; with the number of participants, each fold leaves one of them out.
        seed: Random seed for the assignment of participants to folds.

    Returns:
        A training and a test batch per fold.

    Raises:
        ValueError: Fewer than two folds, or more than participants.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> [(train.sizes["row"], test.sizes["row"]) for train, test in participant_folds(walks, folds=4)]
        [(48, 16), (48, 16), (48, 16), (48, 16)]
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
    """Check that no participant of the test data is in the training data.

    Args:
        train: Training data.
        test: Test data.

    Raises:
        ValueError: Participants are in both; the message names them.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import check_disjoint, simulate
        >>> walks = simulate(n_participants=3, n_steps=40, duration_s=3.0)
        >>> check_disjoint(walks.subset(range(0, 16)), walks.subset(range(16, 48)))  # P01 against P02 and P03
        >>> check_disjoint(walks, walks.subset(range(16)))
        Traceback (most recent call last):
            ...
        ValueError: participant(s) ['P01'] are in training and test data; ...
    """
    both = sorted(set(map(str, train.coords["participant"])) & set(map(str, test.coords["participant"])))
    if both:
        raise ValueError(
            f"participant(s) {both[:5]} are in training and test data; errors on people the model knows say little of "
            "new ones: split by participant, e.g. with participant_folds"
        )
