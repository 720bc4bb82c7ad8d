"""Labels kept out of training: folds of a batch's labels, and one fit per fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import Batch
from ..inference.fit import fit
from ..inference.fitted import Fit
from ..modeling.base import ZooModel


# -------------------------------------------------------------------- labels that calibrate
def label_folds(batch: Batch, folds: int, *, target: str = "y", seed: int = 0) -> np.ndarray:
    """Deal the labels of every group out to folds, at random and as evenly as can be.

    Args:
        batch: Data with labels; of the first group where there are several.
        folds: Number of folds; five of five labels per group put one label of every group into each.
        target: Whose labels.
        seed: Of the random choice.

    Returns:
        Fold of every labelled row, -1 elsewhere, shape (N,).

    Raises:
        ValueError: Fewer than two folds, or fewer labels than folds.
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
    batch: Batch, folds: int = 5, *, target: str = "y", inputs: bool = True, seed: int = 0
) -> list[tuple[Batch, Batch]]:
    """Training data without the labels of a fold, and the rows of those labels; one pair per fold.

    Args:
        batch: As in `label_folds`.
        folds: As in `label_folds`.
        target: As in `label_folds`.
        inputs: Whether the rows that are held out stay in training, unlabelled: as the rows to be predicted should be,
            so that both are alike for the fit. True where unlabelled rows of the training data are to be predicted,
            False where new rows are.
        seed: As in `label_folds`.

    Raises:
        ValueError: As in `label_folds`.
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
    batch: Batch, folds: int = 5, *, target: str = "y", inputs: bool = True, seed: int = 0
) -> tuple[Batch, Batch]:
    """Keep one label in `folds` out of training, for `conformal`: the first pair of `fold_data`."""
    return fold_data(batch, folds, target=target, inputs=inputs, seed=seed)[0]


def fit_folds(
    model: ZooModel, guide: Any, train: Batch, folds: int = 5, *, target: str = "y", inputs: bool = True, seed: int = 0,
    **settings: Any,
) -> list[tuple[Fit, Batch]]:  # fmt: skip
    """One fit per fold and the rows whose labels it did not see, for `cross_conformal`.

    Args:
        model: As in `pyrozoo.fit`.
        guide: As in `pyrozoo.fit`.
        train: As in `label_folds`.
        folds: As in `label_folds`.
        target: As in `label_folds`.
        inputs: As in `fold_data`.
        seed: Of the folds and the fits.
        **settings: Further arguments of `pyrozoo.fit`.

    Raises:
        ValueError: As in `label_folds`.
    """
    pairs = fold_data(train, folds, target=target, inputs=inputs, seed=seed)
    checkpoint = settings.pop("checkpoint", None)
    fitted = []
    for k, (part, held_out) in enumerate(pairs):
        own = None if checkpoint is None else Path(checkpoint) / f"fold-{k}"
        fitted.append((fit(model, guide, part, seed=seed + k, checkpoint=own, **settings), held_out))
    return fitted
