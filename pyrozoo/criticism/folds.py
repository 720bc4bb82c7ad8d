"""Labels kept out of training: folds of a batch's labels, and one fit per fold.

How the labels are dealt out (``by``) decides what the held-out ones stand for:

* the row plate (``"row"``, the default): other rows of the same groups, at random;
* the name of a group (``"unit"``, ``"participant"``): all labels of whole groups, at random: new groups;
* ``"block"``: consecutive labels of each group, in the order of time: gaps in its record;
* ``"last"``: rolling origin: fold k holds out the labels that follow those of the training data: later rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import Batch
from ..data.build import MAIN
from ..data.parts import places
from ..inference.fit import fit
from ..inference.fitted import Fit
from ..inference.loop import whole_fits
from ..modeling.base import ZooModel
from .arguments import labelled_in, target_of

IN_TIME = ("block", "last")


# -------------------------------------------------------------------- labels that calibrate
def label_folds(
    batch: Batch, folds: int, *, target: str | None = None, by: str | None = None, seed: int = 0
) -> np.ndarray:
    """Deal the labels of every group out to folds, as evenly as can be.

    Args:
        batch: Data with labels. If the rows belong to several groupings, the first one counts, or the one of `by`.
        folds: Number of folds; with five folds and five labels per group, each fold gets one label of every group.
        target: Name of the target whose labels are dealt out; by default the only one, or ``y``.
        by: How they are dealt out: None or the name of the row plate, at random within each group; the name of a group,
            whole groups at random; ``"block"``, blocks that follow one another in the time of each group; ``"last"``,
            the same after a first block that always trains. Rows without `Batch.time` are in the order of time.
        seed: Random seed for the choice; blocks need none.

    Returns:
        Fold of every labelled row, -1 elsewhere and for labels that are never held out, shape (N,).

    Raises:
        ValueError: Fewer than two folds, fewer labels (groups) than folds, or `by` is none of these.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> fold = zoo.label_folds(train, 5)
        >>> np.unique(fold, return_counts=True)  # 80 rows without a label, and one label of every unit in each fold
        (array([-1,  0,  1,  2,  3,  4]), array([80,  4,  4,  4,  4,  4]))
    """
    by = by or batch.rows
    if by not in (batch.rows, *batch.groups, *IN_TIME):
        raise ValueError(f"by: {by!r} is none of {[batch.rows, *batch.groups, *IN_TIME]}")
    labelled = np.flatnonzero(_labelled(batch, target))
    if not 2 <= folds <= len(labelled):
        raise ValueError(f"folds: {folds}; give between 2 and the number of labels, {len(labelled)}")
    rng = np.random.default_rng(seed)
    out = np.full(batch.n_rows, -1)
    if by in batch.groups:
        group = batch[by].cpu().numpy()[labelled]
        present = rng.permutation(np.unique(group))
        if folds > len(present):
            raise ValueError(f"folds: {folds}; there are labels of {len(present)} {by}s only")
        fold = np.full(group.max() + 1, -1)
        fold[present] = np.arange(len(present)) % folds
        out[labelled] = fold[group]
        return out
    if by in IN_TIME:
        out[labelled] = _in_time(batch, labelled, folds, by == "last")
        return out
    order = rng.permutation(labelled)
    if batch.groups:
        group = batch[batch.groups[0]].cpu().numpy()[order]
        # Groups in random order, so that no fold gets the odd labels of the first ones.
        order = order[np.argsort(rng.permutation(group.max() + 1)[group], kind="stable")]
    out[order] = np.arange(len(order)) % folds
    return out


def _labelled(batch: Batch, target: str | None) -> np.ndarray:
    """Where a target is observed, (N,): by rows also where it lies along their frames."""
    seen = batch.observed(target)  # which finds the target, or says that there is none
    if len(seen) == batch.n_rows:
        return seen
    if target is None:
        target = next(iter(batch.labels)) if len(batch.labels) == 1 else MAIN
    return batch[batch.labels[target]].cpu().numpy()


def _in_time(batch: Batch, labelled: np.ndarray, folds: int, first_trains: bool) -> np.ndarray:
    """Block of each label in the time of its group; with `first_trains` one block more, whose labels are -1."""
    group = batch[batch.groups[0]].cpu().numpy() if batch.groups else np.zeros(batch.n_rows, int)
    place, size = places(group[labelled], None if batch.time is None else batch.time[labelled])
    if not first_trains:
        return place * folds // size
    first = np.maximum(np.round(size / (folds + 1)).astype(int), 1)
    held, later = size - first, place - first
    # A group with fewer labels than folds has them in the last folds.
    block = np.where(held < folds, folds - held + later, later * folds // np.maximum(held, 1))
    return np.where(later < 0, -1, block)


def fold_data(
    batch: Batch, folds: int = 5, *, target: str | None = None, by: str | None = None, inputs: bool = True,
    seed: int = 0,
) -> list[tuple[Batch, Batch]]:  # fmt: skip
    """Training data without the labels of a fold, and the rows of those labels; one pair per fold.

    Args:
        batch: Data with labels.
        folds: Number of folds.
        target: Name of the target whose labels are held out; by default the only one, or ``y``.
        by: How labels are dealt out, see `label_folds`. With ``"last"``, labels after the held-out ones do not train
            either.
        inputs: Whether the held-out rows stay in training, unlabelled. Choose it so that the held-out rows are treated
            like the rows to be predicted: True if unlabelled rows of the training data are to be predicted, False if
            new rows are. With ``by="last"``, False also leaves out the unlabelled rows after the training labels.
        seed: Random seed for the choice of the labels.

    Returns:
        For each fold the training data and the held-out labelled rows.

    Raises:
        ValueError: See `label_folds`; a fold without labels; with ``inputs=False``, a group of which no row would be
            left (unless whole groups are held out).

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> data, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> [(train.n_rows, held_out.n_rows) for train, held_out in zoo.fold_data(data, 5)]
        [(100, 4), (100, 4), (100, 4), (100, 4), (100, 4)]
        >>> [(train.n_rows, held_out.n_rows) for train, held_out in zoo.fold_data(data, 5, inputs=False)]
        [(96, 4), (96, 4), (96, 4), (96, 4), (96, 4)]
    """
    fold = label_folds(batch, folds, target=target, by=by, seed=seed)
    return [fold_pair(batch, fold, k, target, by, inputs) for k in range(folds)]


def fold_pair(
    batch: Batch, fold: np.ndarray, k: int, target: str | None, by: str | None, inputs: bool
) -> tuple[Batch, Batch]:
    """Training data and held-out rows of fold k of those that `label_folds` dealt; the others as in `fold_data`."""
    held_out = np.flatnonzero(fold == k)
    if not len(held_out):
        raise ValueError(f"folds: fold {k} of {fold.max() + 1} has no label; take fewer folds")
    kept = (fold < k) if by == "last" else (fold != k)
    if inputs:
        return batch.relabel(kept, target), batch.subset(held_out)
    train = batch.subset(np.flatnonzero(_before(batch, held_out) if by == "last" else kept))
    if by not in batch.groups:
        for group in batch.groups:
            lost = set(batch.coords[group].tolist()) - set(train.coords[group].tolist())
            if lost:
                raise ValueError(
                    f"{group} {sorted(lost, key=str)[0]!r}: all its rows would be held out, and the fit would not know "
                    "it; use inputs=True, or leave it out"
                )
    return train, batch.subset(held_out)


def _before(batch: Batch, held_out: np.ndarray) -> np.ndarray:
    """True for the rows, (N,), that lie in time before the first held-out one of their group."""
    group = batch[batch.groups[0]].cpu().numpy() if batch.groups else np.zeros(batch.n_rows, int)
    place, size = places(group, batch.time)
    origin = np.full(group.max() + 1, size.max())
    np.minimum.at(origin, group[held_out], place[held_out])
    return place < origin[group]


def hold_out(
    batch: Batch, folds: int = 5, *, target: str | None = None, by: str | None = None, inputs: bool = True,
    seed: int = 0,
) -> tuple[Batch, Batch]:  # fmt: skip
    """Keep one label in `folds` out of training, for `conformal`: the first pair of `fold_data`.

    With ``by="last"``: the last of every group's labels, one in `folds`.

    Args:
        batch: Data with labels.
        folds: Number of folds; 5 holds a fifth of the labels out.
        target: Name of the target whose labels are held out; by default the only one, or ``y``.
        by: Which labels, see `label_folds`.
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
        >>> earlier, last = zoo.hold_out(data, by="last")  # the last label of every unit
        >>> last.n_rows
        4
    """
    if by != "last":
        return fold_pair(batch, label_folds(batch, folds, target=target, by=by, seed=seed), 0, target, by, inputs)
    blocks = label_folds(batch, folds, target=target, by="block")
    labelled = np.flatnonzero(blocks >= 0)
    blocks[labelled] = _in_time(batch, labelled, folds - 1, first_trains=True)
    return fold_pair(batch, blocks, folds - 2, target, by, inputs)


@whole_fits()
def fit_folds(
    model: ZooModel, guide: Any, train: Batch, folds: int = 5, *, target: str | None = None, by: str | None = None,
    inputs: bool = True, seed: int = 0, **settings: Any,
) -> list[tuple[Fit, Batch]]:  # fmt: skip
    """One fit per fold and the rows whose labels it did not see, for `cross_conformal`.

    Args:
        model: A model; its constructor arguments, not its parameters, are used.
        guide: Name of a guide, AutoGuide class or factory, as in `pyrozoo.fit`.
        train: Data with labels.
        folds: Number of folds and of fits.
        target: Name of the target whose labels are held out; by default the model's first with a label in the data.
        by: How labels are dealt out, see `label_folds`.
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
    target = target_of(model, target, labelled_in(train)) if model.targets else target
    pairs = fold_data(train, folds, target=target, by=by, inputs=inputs, seed=seed)
    checkpoint = settings.pop("checkpoint", None)
    fitted = []
    for k, (part, held_out) in enumerate(pairs):
        own = None if checkpoint is None else Path(checkpoint) / f"fold-{k}"
        fitted.append((fit(model, guide, part, seed=seed + k, checkpoint=own, **settings), held_out))
    return fitted
