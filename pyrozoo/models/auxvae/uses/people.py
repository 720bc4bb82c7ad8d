"""Fits that leave people out, so that intervals are calibrated on people whom no fit has seen."""

from __future__ import annotations

from typing import Any

from ....data.batch import Batch
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....inference.loop import whole_fits
from ....modeling.base import ZooModel
from ..data.batches import participant_folds


@whole_fits()
def fit_people_folds(
    model: ZooModel, guide: Any, train: Batch, folds: int = 5, *, seed: int = 0, **settings: Any
) -> list[tuple[Fit, Batch]]:
    """One fit per fold of people, with the trials of the people it did not see, for `pyrozoo.cross_conformal`.

    Trials of one person resemble one another, so intervals for new people must be calibrated on other people, and on
    many of them; here every person of the training data calibrates the one fit that left him out.

    Args:
        model: A model; its constructor arguments, not its parameters, are used.
        guide: Name of a guide or factory, as in `pyrozoo.fit`.
        train: Trials with the group ``participant``.
        folds: Number of folds and of fits.
        seed: Random seed for the folds and the fits.
        **settings: Further settings of `pyrozoo.fit`.

    Returns:
        A fit and the trials of the people left out of it, per fold.

    Raises:
        ValueError: Fewer than two folds, or more than participants; see `pyrozoo.fit` for others.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import fit_people_folds, participant_folds, simulate
        >>> walks = simulate(n_participants=6, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=3)[0]
        >>> model = zoo.create_model("auxvae", train, z_dim=2, fusion="departure", channels=(4, 3), d_model=4)
        >>> pairs = fit_people_folds(model, "paper", train, 2, epochs=2, progress=False)
        >>> calibrated = zoo.cross_conformal(pairs, level=0.5, draws=10)
        >>> calibrated
        Conformal(y, normalised, levels [0.5]: 64 labels of 4 participants, 2 fits)
        >>> calibrated.predict(test)[["y.lower", "y.upper"]].shape
        (32, 2)
    """
    parts = participant_folds(train, folds, seed=seed)
    return [(fit(model, guide, some, seed=seed, **settings), others) for some, others in parts]
