"""Ridge regression of the load on summaries of a walk, by which the difficulty of the simulator was set."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ....criticism.scores import mae
from ....data.batch import Batch

ALPHAS = np.logspace(0, 5, 11)


def features(walk: np.ndarray) -> np.ndarray:
    """Mean, log standard deviation and log mean absolute step of every channel: (n, T, S) -> (n, 3 S)."""
    step = np.abs(np.diff(walk, axis=1)).mean(1)
    return np.concatenate([walk.mean(1), np.log(walk.std(1) + 1e-9), np.log(step + 1e-9)], 1)


def ridge_probe(data: Batch, folds: int = 6) -> dict[str, float]:
    """Cross-validated mean absolute error of the load [lb] of ridge regressions on different inputs.

    Each fold leaves people out.

    Args:
        data: Trials with known load and style.
        folds: Number of folds of people.

    Returns:
        Error by input: "mean" (a constant prediction), "none" (features of x without x_aux), "concatenation" (features
        of x and of x_aux), "difference" (features of x minus those of x_aux), "difference and style" (the difference,
        with a separate slope for every true style).

    Raises:
        ValueError: A load or style is unknown, or there are too few people for the folds.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import ridge_probe, simulate
        >>> error = ridge_probe(simulate(n_participants=4, n_steps=40, duration_s=3.0), folds=2)
        >>> list(error)
        ['mean', 'none', 'concatenation', 'difference', 'difference and style']
        >>> error["mean"]
        12.5
        >>> error["difference"] < error["mean"]
        True
    """
    for target in ("y", "style"):
        if not data.observed(target).all():
            raise ValueError(f"{target}: unknown on some trials; give the probe those where it is known (Batch.subset)")
    if not 2 <= folds <= data.sizes["participant"] or data.sizes["participant"] < 3:
        raise ValueError(f"folds: {folds} of {data.sizes['participant']} participants; at least 3 people are needed")
    y, people = data["y"].cpu().numpy().astype(float), data["participant"].cpu().numpy()
    own = features(data["x"].cpu().numpy())
    aux = features(data["x_aux"].cpu().numpy())[people]
    style = np.eye(len(data.coords["style_class"]))[data["style"].cpu().numpy()]
    difference = own - aux
    by_style = (style[:, :, None] * difference[:, None]).reshape(len(y), -1)
    inputs = {
        "none": own, "concatenation": np.concatenate([own, aux], 1), "difference": difference,
        "difference and style": np.concatenate([difference, by_style, style], 1),
    }  # fmt: skip
    out = {"mean": mae(y, np.full_like(y, y.mean()))}
    return out | {name: mae(y, _left_out(table, y, people, folds)) for name, table in inputs.items()}


def _left_out(table: np.ndarray, y: np.ndarray, people: np.ndarray, folds: int) -> np.ndarray:
    """Predictions for people left out, (N,), with a penalty chosen by leaving people out of the training data."""
    out = np.empty_like(y)
    for train, test in GroupKFold(folds).split(table, groups=people):
        inner = GroupKFold(min(folds, len(np.unique(people[train]))))
        splits = list(inner.split(table[train], groups=people[train]))
        ridge = make_pipeline(StandardScaler(), RidgeCV(ALPHAS, cv=splits, scoring="neg_mean_absolute_error"))
        out[test] = ridge.fit(table[train], y[train]).predict(table[test])
    return out
