"""Simple methods from scikit-learn that a fit has to beat: the same labels to learn from, the same rows to predict."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..data.batch import Batch
from ..data.build import FRAMES
from ..data.values import SEEN

N_TREES = 100
MOST_LABELS = 10_000  # more are a random choice of so many
MOST_LEVELS = 500  # groups that the linear rivals give a level of their own


@dataclass(frozen=True)
class Rival:
    """Predictions of a simple method.

    Attributes:
        about: What it knows, in a few words.
        values: Predicted numbers, shape (N,), or probabilities of classes, (N, K).
        residuals: Errors on held-out labels of the training data, shape (m,), whose quantiles make its intervals; None
            for classes.
    """

    about: str
    values: np.ndarray
    residuals: np.ndarray | None = None

    def draws(self, count: int = 99) -> np.ndarray:
        """Predictions plus quantiles of the residuals, shape (N, count)."""
        if self.residuals is None:
            raise ValueError("classes have probabilities, no draws")
        return self.values[:, None] + np.quantile(self.residuals, (np.arange(count) + 0.5) / count)


@dataclass(frozen=True)
class _Task:
    """What all methods read: labels y of the training rows `seen`, inputs, groups by name and times of all rows."""

    y: np.ndarray
    seen: np.ndarray
    x: np.ndarray
    new_x: np.ndarray
    group: np.ndarray | None
    new_group: np.ndarray | None
    time: np.ndarray | None
    new_time: np.ndarray | None
    n_classes: int
    seed: int

    @property
    def new_groups(self) -> bool:
        """Whether a row to predict is of a group that has no label."""
        if self.group is None or self.new_group is None:
            return False
        return not set(self.new_group.tolist()) <= set(self.group[self.seen].tolist())


def simple_methods(
    train: Batch, test: Batch, target: str, component: int = 0, *, group: str | None = None,
    called: str | None = None, features: Callable[[Batch], np.ndarray] | None = None, n_classes: int | None = None,
    seed: int = 0,
) -> dict[str, Rival]:  # fmt: skip
    """Train simple methods on the labels of a target, and predict it.

    * mean: of the labels of the row's group, where it has any, else of all labels (for classes their shares);
    * last value: the latest label of the group before the row, where times are known;
    * ridge or logistic regression: on the inputs, with a level per group where every group has labels;
    * extra trees: on the inputs and the group's means of the inputs, also of its rows without a label;
    * clock: extra trees on the time since the first row of the group alone, where times are known.

    Args:
        train: Data with labels.
        test: Rows to predict.
        target: Name of a target along the rows.
        component: Position of the component of a target with several.
        group: Name of the group that counts; by default the first.
        called: Name of the group in the descriptions; by default its own.
        features: Inputs of a batch as a table (N, D); by default its tensors of numbers along the rows.
        n_classes: Number of classes of the target, 0 for numbers; by default as the data name or store it.
        seed: Random seed for trees and folds.

    Returns:
        Name -> predictions of the rows of `test`.

    Raises:
        ValueError: No row of `train` has the target, or it lies along frames.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.criticism.rivals import simple_methods
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=10, n_unlabelled=20, n_test=10)
        >>> found = simple_methods(train, test, "y")
        >>> list(found)
        ['mean', 'ridge', 'extra trees']
        >>> found["ridge"].values.shape
        (40,)
    """
    if train.along[target] == FRAMES:
        raise ValueError(f"target: {target!r} lies along frames; the entry has to bring methods of its own")
    seen = train.known(target).reshape(train.n_rows, -1)[:, component]
    if not seen.any():
        raise ValueError(f"train: no row has its {target!r}, so there is nothing to learn from")
    group = group or (train.groups[0] if train.groups else None)
    values = train[target].detach().cpu().numpy().reshape(train.n_rows, -1)[:, component].astype(float)
    if n_classes is None:
        names = train.coords.get(f"{target}_class", ())
        n_classes = len(names) or (0 if train[target].is_floating_point() else int(values[seen].max()) + 1)
    timed = train.time is not None and test.time is not None
    x, new_x = (features(train), features(test)) if features else (inputs_of(train), inputs_of(test, train))
    task = _Task(
        values, seen, x, new_x, None if group is None else train.group_names(group),
        None if group is None else test.group_names(group), train.time if timed else None,
        test.time if timed else None, n_classes, seed,
    )  # fmt: skip
    return _methods(task, called or group or "row")


def _methods(task: _Task, group: str) -> dict[str, Rival]:
    linear, rows = "logistic regression" if task.n_classes else "ridge", _labelled(task)
    out = {"mean": Rival(f"mean of the labels, by {group} where it has some", *_level(task, rows))}
    if task.time is not None:
        out["last value"] = Rival(f"latest label of the {group} before the row", *_last(task))
    if task.x.shape[1]:
        levels, new_levels = _levels(task)
        level = f", a level per {group}" if levels.shape[1] else ""
        out[linear] = Rival(f"inputs{level}", *_learned(task, rows, *_scaled(task, levels, new_levels), _linear(task)))
        means, new_means = _group_means(task)
        x, new_x = np.hstack([task.x, means]), np.hstack([task.new_x, new_means])
        about = f"inputs, and their means by {group}" if means.shape[1] else "inputs"
        out["extra trees"] = Rival(about, *_learned(task, rows, x, new_x, _trees(task)))
    if task.time is not None:
        clock, new_clock = _clock(task)
        out["clock"] = Rival("time alone", *_learned(task, rows, clock, new_clock, _trees(task)))
    return out


def _inputs(batch: Batch) -> list[str]:
    """Names of the tensors with a number or a vector per row, without targets and groups."""
    own = {*batch.labels, *batch.labels.values(), *batch.groups, batch.rows, "weight", "lengths"}
    names = [k for k, plate in batch.along.items() if plate == batch.rows and k in batch.tensors and k not in own]
    return [name for name in names if batch[name].dim() <= 2]


def inputs_of(batch: Batch, like: Batch | None = None) -> np.ndarray:
    """Tensors of numbers along the rows and masks of gaps in them, side by side, without targets and groups: (N, D).

    A gap has the mean of its column.

    Args:
        batch: The batch.
        like: The batch that has the columns and their means, if it is another: only one of the two may have gaps.
    """
    own = batch if like is None else like
    parts = [
        np.ones((batch.n_rows, *own[name].shape[1:]))  # a batch without a mask has no gaps
        if name.endswith(SEEN) and name not in batch.tensors
        else _without_gaps(batch, own, name)
        for name in _inputs(own)
    ]
    return np.hstack([part.reshape(batch.n_rows, -1) for part in parts]) if parts else np.zeros((batch.n_rows, 0))


def _without_gaps(batch: Batch, own: Batch, name: str) -> np.ndarray:
    values = batch[name].detach().cpu().numpy().astype(float)
    if name + SEEN not in batch.tensors:
        return values
    of_means = own[name].detach().cpu().numpy().astype(float)
    there = own[name + SEEN].cpu().numpy() if name + SEEN in own.tensors else np.ones(of_means.shape, dtype=bool)
    means = np.where(there, of_means, 0.0).sum(0) / np.maximum(there.sum(0), 1)
    return np.where(batch[name + SEEN].cpu().numpy(), values, means)


def input_names(batch: Batch) -> list[str]:
    """Names of the columns of `inputs_of`.

    Args:
        batch: The batch.
    """
    names = [[name] if batch[name].dim() == 1 else batch.columns(name) for name in _inputs(batch)]
    return list(itertools.chain.from_iterable(names))


def tree_regressor(seed: int, n_trees: int) -> Any:
    """Extremely randomised trees for numbers.

    Args:
        seed: Random seed.
        n_trees: Number of trees.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    return ExtraTreesRegressor(n_trees, random_state=seed)


def tree_classifier(seed: int, n_trees: int) -> Any:
    """Extremely randomised trees for classes.

    Args:
        seed: Random seed.
        n_trees: Number of trees.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(n_trees, criterion="gini", random_state=seed)


def group_means(x: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean of each column by group, shape (M, D).

    Args:
        x: Inputs, shape (N, D).
        codes: Position of each row's group, shape (N,).
        n_groups: Number M of groups, each with at least one row.
    """
    sums = np.zeros((n_groups, x.shape[1]))
    np.add.at(sums, codes, x)
    return sums / np.bincount(codes, minlength=n_groups)[:, None]


# -------------------------------------------------------------------- methods
def _labelled(task: _Task) -> np.ndarray:
    """Positions of the labels to learn from, a random choice if there are very many."""
    rows = np.flatnonzero(task.seen)
    return rows if len(rows) <= MOST_LABELS else np.random.default_rng(task.seed).choice(rows, MOST_LABELS, False)


def _one_hot(task: _Task, labels: np.ndarray) -> np.ndarray:
    return np.eye(task.n_classes)[labels.astype(int)] if task.n_classes else labels[:, None]


def _result(task: _Task, new: np.ndarray, held_out: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, Any]:
    """Values and residuals as a `Rival` has them, from numbers (N, 1) or shares (N, K)."""
    if task.n_classes:
        smooth = new + 1 / (len(truth) + 1)  # no share is 0, whose logarithm is minus infinity
        return smooth / smooth.sum(1, keepdims=True), None
    return new[:, 0], truth - held_out[:, 0]


def _level(task: _Task, rows: np.ndarray) -> tuple[np.ndarray, Any]:
    """Means of labels by group, each shrunk to the mean of all by one label's weight."""
    y = _one_hot(task, task.y[rows])
    total = y.mean(0)
    if task.group is None or task.new_group is None:
        return _result(task, np.tile(total, (len(task.new_x), 1)), np.tile(total, (len(y), 1)), task.y[rows])
    codes, names = pd.factorize(task.group[rows])
    place = pd.Index(names).get_indexer(pd.Index(task.new_group))
    sums = np.zeros((len(names), y.shape[1]))
    np.add.at(sums, codes, y)
    count = np.bincount(codes)[:, None]
    new = np.where(place[:, None] >= 0, ((sums + total) / (count + 1))[place], total)
    held_out = (sums[codes] - y + total) / count[codes]
    if task.new_groups:
        held_out = np.tile(total, (len(y), 1))
    return _result(task, new, held_out, task.y[rows])


def _last(task: _Task) -> tuple[np.ndarray, Any]:
    """The latest label before each row, and for the labels themselves the one before."""
    assert task.time is not None
    assert task.new_time is not None
    rows = np.flatnonzero(task.seen)
    y = _one_hot(task, task.y[rows])
    group = np.zeros(len(task.seen), int) if task.group is None else task.group
    new_group = np.zeros(len(task.new_time), int) if task.new_group is None else task.new_group
    total, time = y.mean(0), task.time[rows]
    new, held_out = np.tile(total, (len(new_group), 1)), np.tile(total, (len(rows), 1))
    for name in np.unique(group[rows]):
        own = np.flatnonzero(group[rows] == name)
        own = own[np.argsort(time[own], kind="stable")]
        held_out[own[1:]] = y[own[:-1]]
        wanted = np.flatnonzero(new_group == name)
        place = np.searchsorted(time[own], task.new_time[wanted], side="left") - 1
        new[wanted[place >= 0]] = y[own[place[place >= 0]]]
    return _result(task, new, held_out, task.y[rows])


def _levels(task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Indicators of the groups, where all have labels and there are not too many."""
    names = [] if task.group is None else np.unique(task.group[task.seen]).tolist()
    if not 1 < len(names) <= MOST_LEVELS or task.new_groups or task.group is None or task.new_group is None:
        return np.zeros((len(task.seen), 0)), np.zeros((len(task.new_x), 0))
    one, own = np.vstack([np.eye(len(names)), np.zeros(len(names))]), pd.Index(names)
    return one[own.get_indexer(pd.Index(task.group))], one[own.get_indexer(pd.Index(task.new_group))]


def _scaled(task: _Task, levels: np.ndarray, new_levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    loc, scale = task.x.mean(0), task.x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return np.hstack([(task.x - loc) / scale, levels]), np.hstack([(task.new_x - loc) / scale, new_levels])


def _group_means(task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Means of the inputs of each row's group; those of a group without training rows are of its own rows."""
    if task.group is None or task.new_group is None:
        return np.zeros((len(task.seen), 0)), np.zeros((len(task.new_x), 0))
    codes, names = pd.factorize(task.group)
    new_codes, new_names = pd.factorize(task.new_group)
    if len(names) == len(task.group):  # a group per row has no other rows
        return np.zeros((len(task.seen), 0)), np.zeros((len(task.new_x), 0))
    means = group_means(task.x, codes, len(names))
    place = pd.Index(names).get_indexer(pd.Index(new_names))
    new = np.where(place[:, None] >= 0, means[place], group_means(task.new_x, new_codes, len(new_names)))
    return means[codes], new[new_codes]


def _clock(task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Time since the first row of each group, from all of its rows, as a column."""
    assert task.time is not None
    assert task.new_time is not None
    times = pd.Series(np.concatenate([task.time, task.new_time]))
    n = len(task.time)
    keys = np.zeros(len(times), int)
    if task.group is not None and task.new_group is not None:
        keys = pd.factorize(np.concatenate([task.group, task.new_group]))[0]
    since = times - times.groupby(keys).transform("min")
    seconds = since.dt.total_seconds() if since.dtype.kind == "m" else since
    column = seconds.to_numpy(dtype=float)[:, None]
    return column[:n], column[n:]


def _linear(task: _Task) -> Callable[[], Any]:
    from sklearn.linear_model import LogisticRegression, RidgeCV

    return lambda: LogisticRegression(max_iter=2000) if task.n_classes else RidgeCV(np.logspace(-3, 3, 13))


def _trees(task: _Task) -> Callable[[], Any]:
    return lambda: tree_classifier(task.seed, N_TREES) if task.n_classes else tree_regressor(task.seed, N_TREES)


def _learned(
    task: _Task, rows: np.ndarray, x: np.ndarray, new_x: np.ndarray, make: Callable[[], Any]
) -> tuple[np.ndarray, Any]:
    """Predictions of a method of scikit-learn, and its errors on folds of the labels."""
    from sklearn.model_selection import GroupKFold, KFold

    y = task.y[rows]

    def predicted(learn: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        if not task.n_classes:
            return np.asarray(make().fit(x[learn], task.y[learn]).predict(wanted)).reshape(-1, 1)
        out = np.zeros((len(wanted), task.n_classes))
        present = np.unique(task.y[learn]).astype(int)
        if len(present) == 1:
            out[:, present[0]] = 1.0
            return out
        model = make().fit(x[learn], task.y[learn].astype(int))
        out[:, model.classes_] = model.predict_proba(wanted)
        return out

    new, held_out = predicted(rows, new_x), np.zeros((len(rows), 1))
    if not task.n_classes and len(rows) > 1:
        group = None if task.group is None else task.group[rows]
        by_group = task.new_groups and group is not None and len(np.unique(group)) > 1
        folds: Any = KFold(min(5, len(rows)), shuffle=True, random_state=task.seed)
        if by_group and group is not None:
            folds = GroupKFold(min(5, len(np.unique(group))))
        for learn, rest in folds.split(x[rows], groups=group if by_group else None):
            held_out[rest] = predicted(rows[learn], x[rows[rest]])
    elif not task.n_classes:
        held_out[:] = y.mean()
    return _result(task, new, held_out, y)
