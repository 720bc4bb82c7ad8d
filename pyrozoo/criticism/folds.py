"""Labels kept out of training: folds of a batch's labels, and one fit per fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import Batch
from ..inference.fit import fit
from ..inference.fitted import Fit
from ..modeling.base import ZooModel
from .arguments import target_of


# -------------------------------------------------------------------- labels that calibrate
def label_folds(batch: Batch, folds: int, *, target: str | None = None, seed: int = 0) -> np.ndarray:
    """Deal the labels of every group out to folds, at random and as evenly as can be.

    Args:
        batch: Data with labels. If the rows belong to several groupings, the first one counts.
        folds: Number of folds; with five folds and five labels per group, each fold gets one label of every group.
        target: Name of the target whose labels are dealt out; by default the only one, or ``y``.
        seed: Random seed for the choice.

    Returns:
        Fold of every labelled row, -1 elsewhere, shape (N,).

    Raises:
        ValueError: Fewer than two folds, or fewer labels than folds.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> fold = zoo.label_folds(train, 5)
        >>> np.unique(fold, return_counts=True)  # 80 rows without a label, and one label of every unit in each fold
        (array([-1,  0,  1,  2,  3,  4]), array([80,  4,  4,  4,  4,  4]))
    """
    labelled = np.flatnonzero(batch.observed(target))
    if not 2 <= folds <= len(labelled):
        raise ValueError(f"folds: {folds}; give between 2 and the number of labels, {len(labelled)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(labelled)
    if batch.groups:
        group = batch[batch.groups[0]].cpu().numpy()[order]
        # Groups in random order, so that no fold gets the odd labels of the first ones.
        order = order[np.argsort(rng.permutation(group.max() + 1)[group], kind="stable")]
    out = np.full(batch.n_rows, -1)
    out[order] = np.arange(len(order)) % folds
    return out


def fold_data(
    batch: Batch, folds: int = 5, *, target: str | None = None, inputs: bool = True, seed: int = 0
) -> list[tuple[Batch, Batch]]:
    """Training data without the labels of a fold, and the rows of those labels; one pair per fold.

    Args:
        batch: Data with labels.
        folds: Number of folds.
        target: Name of the target whose labels are held out; by default the only one, or ``y``.
        inputs: Whether the held-out rows stay in training, unlabelled. Choose it so that the held-out rows are treated
            like the rows to be predicted: True if unlabelled rows of the training data are to be predicted, False if
            new rows are.
        seed: Random seed for the choice of the labels.

    Returns:
        For each fold the training data and the held-out labelled rows.

    Raises:
        ValueError: Fewer than two folds, fewer labels than folds, or, with ``inputs=False``, a group of which no row
            would be left.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> data, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> [(train.n_rows, held_out.n_rows) for train, held_out in zoo.fold_data(data, 5)]
        [(100, 4), (100, 4), (100, 4), (100, 4), (100, 4)]
        >>> [(train.n_rows, held_out.n_rows) for train, held_out in zoo.fold_data(data, 5, inputs=False)]
        [(96, 4), (96, 4), (96, 4), (96, 4), (96, 4)]
    """
    fold = label_folds(batch, folds, target=target, seed=seed)
    pairs = []
    for k in range(folds):
        train = batch.relabel(fold != k, target) if inputs else batch.subset(np.flatnonzero(fold != k))
        for group in batch.groups:
            lost = set(batch.coords[group].tolist()) - set(train.coords[group].tolist())
            if lost:
                raise ValueError(
                    f"{group} {sorted(lost, key=str)[0]!r}: all its rows would be held out, and the fit would not know "
                    "it; use inputs=True, or leave it out"
                )
        pairs.append((train, batch.subset(np.flatnonzero(fold == k))))
    return pairs


def hold_out(
    batch: Batch, folds: int = 5, *, target: str | None = None, inputs: bool = True, seed: int = 0
) -> tuple[Batch, Batch]:
    """Keep one label in `folds` out of training, for `conformal`: the first pair of `fold_data`.

    Args:
        batch: Data with labels.
        folds: Number of folds; 5 holds a fifth of the labels out.
        target: Name of the target whose labels are held out; by default the only one, or ``y``.
        inputs: Whether the held-out rows stay in training, unlabelled; see `fold_data`.
        seed: Random seed for the choice of the labels.

    Returns:
        The training data and the held-out labelled rows.

    Raises:
        ValueError: See `fold_data`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> data, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> train, held_out = zoo.hold_out(data)
        >>> int(train.observed("y").sum()), int(held_out.observed("y").sum())
        (16, 4)
    """
    return fold_data(batch, folds, target=target, inputs=inputs, seed=seed)[0]


def fit_folds(
    model: ZooModel, guide: Any, train: Batch, folds: int = 5, *, target: str | None = None, inputs: bool = True,
    seed: int = 0, **settings: Any,
) -> list[tuple[Fit, Batch]]:  # fmt: skip
    """One fit per fold and the rows whose labels it did not see, for `cross_conformal`.

    Args:
        model: A model; its constructor arguments, not its parameters, are used.
        guide: Name of a guide, AutoGuide class or factory, as in `pyrozoo.fit`.
        train: Data with labels.
        folds: Number of folds and of fits.
        target: Name of the target whose labels are held out; by default the model's first in the data.
        inputs: Whether the held-out rows stay in training, unlabelled; see `fold_data`.
        seed: Random seed for the folds; fit k uses ``seed + k``.
        **settings: Further arguments of `pyrozoo.fit`. ``checkpoint`` is a folder with one folder ``fold-k`` per fit.

    Returns:
        For each fold the fit and the held-out labelled rows.

    Raises:
        ValueError: See `fold_data` and `pyrozoo.fit`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> model = zoo.create_model("ssmtl", train, width=16)
        >>> folds = zoo.fit_folds(model, "paper", train, 2, steps=10, progress=False)
        >>> [held_out.n_rows for _, held_out in folds]
        [10, 10]
    """
    target = target_of(model, target, train.labels.__contains__) if model.targets else target
    pairs = fold_data(train, folds, target=target, inputs=inputs, seed=seed)
    checkpoint = settings.pop("checkpoint", None)
    fitted = []
    for k, (part, held_out) in enumerate(pairs):
        own = None if checkpoint is None else Path(checkpoint) / f"fold-{k}"
        fitted.append((fit(model, guide, part, seed=seed + k, checkpoint=own, **settings), held_out))
    return fitted
