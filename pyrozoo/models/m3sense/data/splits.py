"""Splits into training and test data: by person, and by window as in the paper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....data.batch import Batch

# The paper's shares of all windows.
TEST, UNLABELLED, VALIDATION = 0.55, 0.10, 0.25  # the last of the 35 % that are left
_LEAST = 12  # windows of a class, so that each part gets one


class WindowSplit(NamedTuple):
    """Parts of `split_windows`.

    Attributes:
        train: Labelled, for learning.
        validation: Labelled, for choosing among models.
        test: Labelled.
        unlabelled: Windows whose labels are hidden, and those that never had one.
        semi_supervised: The windows of `train` and `unlabelled` as one data set.
    """

    train: Batch
    validation: Batch
    test: Batch
    unlabelled: Batch
    semi_supervised: Batch


def split_subjects(data: Batch, test: float = 0.25, seed: int = 0) -> tuple[Batch, Batch]:
    """Split by people: training and test data, no person in both; of every data set the same share of people.

    Data sets without any label are for training only.

    Args:
        data: Windows.
        test: Share of people in the test data, in (0, 1).
        seed: Of the choice of people.

    Raises:
        ValueError: `test` is no such share; a data set has one person; a task has one class in the training data.
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
    """Split by people several times, so that everybody is tested once: training and test data of each fold.

    Data sets without any label are for training only.

    Args:
        data: Windows.
        folds: Number of folds; as many as there are people in a single data set leaves one out at a time.
        seed: Of which people are tested together.

    Raises:
        ValueError: Fewer than two folds, or more than people of a data set; a task has one class in training data.
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

    **It leaks**: windows of every person are in every part, neighbours in time among them, so test scores say how well
    people are recognised whom the model knows, and are too good for anybody else. Use `split_subjects` unless the
    paper's protocol is wanted. It is stratified by task and class.

    Args:
        data: Windows. Those without any label join the unlabelled part and count in no share.
        seed: Of the choice.

    Raises:
        ValueError: No window is labelled, or a class has fewer than 12 windows.
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
    """What each window is labelled as, such as "task 'stress', class 'baseline'"; "" without any label."""
    out = np.full(data.n_rows, "", dtype=object)
    for target in data.labels:
        names, values = data.coords[f"{target}_class"], data[target].cpu().numpy()
        for row in np.flatnonzero(data.observed(target)):
            word = f"task {target.removeprefix('y_')!r}, class {str(names[values[row]])!r}"
            out[row] = f"{out[row]}; {word}" if out[row] else word
    return out


def _labelled_sets(data: Batch) -> dict[str, np.ndarray]:
    """Data set -> its rows, of those with labels."""
    any_label = np.zeros(data.n_rows, bool)
    for target in data.labels:
        any_label |= data.observed(target)
    index = data["dataset"].cpu().numpy()
    found = {str(data.coords["dataset_class"][k]): np.flatnonzero(index == k) for k in np.unique(index[any_label])}
    if not found:
        raise ValueError("labels: no window has one; there is nobody to test on")
    return found


def _parts(data: Batch, test: np.ndarray) -> tuple[Batch, Batch]:
    """Training and test data, where every task can be learnt."""
    train = data.subset(np.setdiff1d(np.arange(data.n_rows), test))
    for target in data.labels:
        if _classes(train, target) < 2 <= _classes(data, target):
            raise ValueError(
                f"task {target.removeprefix('y_')!r}: the training data have {_classes(train, target)} of its classes; "
                "change the seed or the share, or add people"
            )
    return train, data.subset(np.sort(test))


def _classes(data: Batch, target: str) -> int:
    """How many classes are observed."""
    return len(np.unique(data[target].cpu().numpy()[data.observed(target)]))
