"""Splits into training and test data: by person, and by window as in the paper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....data.batch import Batch

# The paper's shares of all windows.
TEST, UNLABELLED, VALIDATION = 0.55, 0.10, 0.25  # the last of the 35 % that are left
_LEAST = 12  # windows of a class, so that each part gets one


class WindowSplit(NamedTuple):
    """Parts of the data, as returned by `split_windows`.

    Attributes:
        train: Labelled windows for learning.
        validation: Labelled windows for choosing among models.
        test: Labelled windows for testing.
        unlabelled: Windows whose labels are hidden, and those that never had one.
        semi_supervised: The windows of `train` and `unlabelled` as one data set.
    """

    train: Batch
    validation: Batch
    test: Batch
    unlabelled: Batch
    semi_supervised: Batch


def split_subjects(data: Batch, test: float = 0.25, seed: int = 0) -> tuple[Batch, Batch]:
    """Split by people into training and test data, with no person in both and the same share of every data set.

    Data sets without any label go to the training data.

    Args:
        data: Windows.
        test: Share of people in the test data, in (0, 1).
        seed: Random seed for the choice of people.

    Returns:
        Training data and test data.

    Raises:
        ValueError: `test` is not in (0, 1); a data set has one person; a task has one class in the training data.

    Example:
        >>> from pyrozoo.models.m3sense import simulate, split_subjects
        >>> data = simulate("simulated stress", n_subjects=4, n_windows=6, seconds=5.0)
        >>> train, test = split_subjects(data, test=0.25)
        >>> train.n_rows, test.n_rows, set(train.group_names("subject")) & set(test.group_names("subject"))
        (18, 6, set())
    """
    from sklearn.model_selection import GroupShuffleSplit

    if not 0 < test < 1:
        raise ValueError(f"test: {test}; a share in (0, 1)")
    chosen = []
    for dataset, rows in _labelled_sets(data).items():
        people = _people(data, rows)
        if len(np.unique(people)) < 2:
            raise ValueError(f"data set {dataset!r} has one person, who cannot be in both parts; add people")
        split = GroupShuffleSplit(1, test_size=test, random_state=seed)
        chosen.append(rows[next(split.split(rows, groups=people))[1]])
    return _parts(data, np.concatenate(chosen))


def leave_subjects_out(data: Batch, folds: int, seed: int = 0) -> list[tuple[Batch, Batch]]:
    """Split by people into folds, so that every person is in the test data of one fold.

    Data sets without any label go to the training data of every fold.

    Args:
        data: Windows.
        folds: Number of folds; for a single data set, the number of its people leaves one person out at a time.
        seed: Random seed for the assignment of people to folds.

    Returns:
        Training data and test data of each fold.

    Raises:
        ValueError: Fewer than two folds, or more than a data set has people; a task has one class in training data.

    Example:
        >>> from pyrozoo.models.m3sense import leave_subjects_out, simulate
        >>> data = simulate("simulated stress", n_subjects=4, n_windows=6, seconds=5.0)
        >>> [(train.n_rows, test.n_rows) for train, test in leave_subjects_out(data, folds=4)]
        [(18, 6), (18, 6), (18, 6), (18, 6)]
    """
    from sklearn.model_selection import GroupKFold

    tests: list[list[np.ndarray]] = [[] for _ in range(max(folds, 0))]
    for dataset, rows in _labelled_sets(data).items():
        people = _people(data, rows)
        n = len(np.unique(people))
        if not 2 <= folds <= n:
            raise ValueError(f"folds: {folds}; from 2 to the number of people of data set {dataset!r}, {n}")
        split = GroupKFold(folds, shuffle=True, random_state=seed)
        for fold, (_, own) in zip(tests, split.split(rows, groups=people), strict=True):
            fold.append(rows[own])
    return [_parts(data, np.concatenate(fold)) for fold in tests]


def split_windows(data: Batch, seed: int = 0) -> WindowSplit:
    """Split by window as the paper does: 35 % for training and validation (3 : 1), 55 % test, 10 % without labels.

    **It leaks**: every part has windows of every person, some of them neighbours in time. Test scores hold for people
    whom the model has been trained on, and are too good for anybody else. Use `split_subjects` unless you want the
    paper's protocol. The split is stratified by task and class.

    Args:
        data: Windows. Those without any label join the unlabelled part and count in no share.
        seed: Random seed for the split.

    Returns:
        WindowSplit: The parts.

    Raises:
        ValueError: No window is labelled, or a class has fewer than 12 windows.

    Example:
        >>> from pyrozoo.models.m3sense import simulate, split_windows
        >>> data = simulate("simulated stress", n_subjects=4, n_windows=30, seconds=5.0)
        >>> parts = split_windows(data)
        >>> parts.train.n_rows, parts.validation.n_rows, parts.test.n_rows, parts.unlabelled.n_rows
        (31, 11, 66, 12)
    """
    from sklearn.model_selection import train_test_split

    strata = _strata(data)
    labelled = np.flatnonzero(strata != "")
    if not len(labelled):
        raise ValueError("labels: no window has one; there is nothing to split")
    names, counts = np.unique(strata[labelled], return_counts=True)
    if counts.min() < _LEAST:
        raise ValueError(
            f"{names[counts.argmin()]}: {counts.min()} windows, fewer than the {_LEAST} that give every part one; add "
            "windows or split by subject"
        )

    def cut(rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        one, other = train_test_split(rows, test_size=share, random_state=seed, stratify=strata[rows])
        return np.sort(one), np.sort(other)

    rest, hidden = cut(labelled, UNLABELLED)
    rest, test = cut(rest, TEST / (1 - UNLABELLED))
    train, validation = cut(rest, VALIDATION)
    hidden = np.sort(np.concatenate([hidden, np.flatnonzero(strata == "")]))
    seen = np.ones(data.n_rows, bool)
    seen[hidden] = False
    partly = data
    for target in data.labels:
        partly = partly.relabel(seen, target)
    both = np.sort(np.concatenate([train, hidden]))
    return WindowSplit(
        data.subset(train), data.subset(validation), data.subset(test), partly.subset(hidden), partly.subset(both)
    )


# -------------------------------------------------------------------- inside
def _people(data: Batch, rows: np.ndarray) -> np.ndarray:
    return data["subject"].cpu().numpy()[rows]


def _strata(data: Batch) -> np.ndarray:
    """Describe the labels of each window, such as "task 'stress', class 'baseline'"; "" without any label."""
    out = np.full(data.n_rows, "", dtype=object)
    for target in data.labels:
        names, values = data.coords[f"{target}_class"], data[target].cpu().numpy()
        for row in np.flatnonzero(data.observed(target)):
            word = f"task {target.removeprefix('y_')!r}, class {str(names[values[row]])!r}"
            out[row] = f"{out[row]}; {word}" if out[row] else word
    return out


def _labelled_sets(data: Batch) -> dict[str, np.ndarray]:
    """Map each data set that has labels to its rows."""
    any_label = np.zeros(data.n_rows, bool)
    for target in data.labels:
        any_label |= data.observed(target)
    index = data["dataset"].cpu().numpy()
    found = {str(data.coords["dataset_class"][k]): np.flatnonzero(index == k) for k in np.unique(index[any_label])}
    if not found:
        raise ValueError("labels: no window has one; there is nobody to test on")
    return found


def _parts(data: Batch, test: np.ndarray) -> tuple[Batch, Batch]:
    """Cut out training and test data; ValueError if a task has fewer than two classes left in training."""
    train = data.subset(np.setdiff1d(np.arange(data.n_rows), test))
    for target in data.labels:
        if _classes(train, target) < 2 <= _classes(data, target):
            raise ValueError(
                f"task {target.removeprefix('y_')!r}: the training data have {_classes(train, target)} of its classes; "
                "change the seed or the share, or add people"
            )
    return train, data.subset(np.sort(test))


def _classes(data: Batch, target: str) -> int:
    """Count the classes that are observed."""
    return len(np.unique(data[target].cpu().numpy()[data.observed(target)]))
