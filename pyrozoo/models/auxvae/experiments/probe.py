"""Ridge regression and trees of the load on summaries of a walk, by which the difficulty of the simulator was set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
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
    _require(data, folds, ("y", "style"))
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


def _require(data: Batch, folds: int, targets: Sequence[str]) -> None:
    for target in targets:
        if not data.observed(target).all():
            raise ValueError(f"{target}: unknown on some trials; give the probe those where it is known (Batch.subset)")
    if not 2 <= folds <= data.sizes["participant"] or data.sizes["participant"] < 3:
        raise ValueError(f"folds: {folds} of {data.sizes['participant']} participants; at least 3 people are needed")


def _left_out(table: np.ndarray, y: np.ndarray, people: np.ndarray, folds: int) -> np.ndarray:
    """Predictions for people left out, (N,), with a penalty chosen by leaving people out of the training data."""
    out = np.empty_like(y)
    for train, test in GroupKFold(folds).split(table, groups=people):
        out[test] = left_out_ridge(table[train], y[train], people[train], folds).predict(table[test])
    return out


def left_out_ridge(table: np.ndarray, y: np.ndarray, people: np.ndarray, folds: int = 6) -> Pipeline:
    """Ridge regression of y (N,) on a standardised table (N, F), its penalty chosen by leaving people out."""
    inner = GroupKFold(min(folds, len(np.unique(people))))
    splits = list(inner.split(table, groups=people))
    ridge = make_pipeline(StandardScaler(), RidgeCV(ALPHAS, cv=splits, scoring="neg_mean_absolute_error"))
    return ridge.fit(table, y)


# -------------------------------------------------------------------- probes of other kinds of effect
def spectrum(walk: np.ndarray, reference: int) -> np.ndarray:
    """Phases of every channel against the reference channel at the walk's stride frequency and twice that.

    The frequency of a walk is where the spectrum of its reference channel is largest.

    Args:
        walk: Walks, (n, T, S).
        reference: Index of the reference channel.

    Returns:
        Complex numbers of modulus 1, (n, 2, S).
    """
    window = np.hanning(walk.shape[1])[:, None]
    found = np.fft.rfft((walk - walk.mean(1, keepdims=True)) * window, axis=1)
    slowest = 3  # of the bins: three strides in a walk
    half = max(slowest + 1, found.shape[1] // 2)
    stride = slowest + np.abs(found[:, slowest:half, reference]).argmax(1)
    first = np.take_along_axis(found, stride[:, None, None], 1)
    second = np.take_along_axis(found, np.minimum(2 * stride, found.shape[1] - 1)[:, None, None], 1)
    anchor = first[..., reference, None]
    pair = np.concatenate([first * anchor.conj(), second * anchor.conj() ** 2], 1)
    return pair / np.maximum(np.abs(pair), 1e-12)


def departures(data: Batch) -> dict[str, np.ndarray]:
    """How each trial departs from the walker's unloaded walk, as tables of numbers without any network.

    Args:
        data: Trials.

    Returns:
        "summaries": differences of `features`, (N, 3 S); "phases and squares": these beside their squares and the
        cosine and sine of how far the phases of `spectrum` depart, (N, 10 S).
    """
    x, x_aux, people = (data[name].cpu().numpy() for name in ("x", "x_aux", "participant"))
    plain = features(x) - features(x_aux)[people]
    reference = int(x_aux.var(1).mean(0).argmax())
    turned = spectrum(x, reference) * spectrum(x_aux, reference)[people].conj()
    phases = np.concatenate([turned.real, turned.imag], 1).reshape(len(x), -1)
    return {"summaries": plain, "phases and squares": np.concatenate([plain, plain**2, phases], 1)}


def departure_probe(data: Batch, folds: int = 6, seed: int = 0) -> dict[str, float]:
    """Cross-validated mean absolute error of the load [lb] of a line and of trees on a trial's departures.

    Each fold leaves people out. The sizes of the effects in `GAITS` were set by these numbers.

    Args:
        data: Trials with known load.
        folds: Number of folds of people.
        seed: Random seed for the trees.

    Returns:
        Error by model: "ridge" and "extra trees" on differences of summaries, and both "with phases and squares", see
        `departures`.

    Raises:
        ValueError: A load is unknown, or there are too few people for the folds.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import departure_probe, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=4.0, gait="coordination")
        >>> list(departure_probe(walks, folds=2))
        ['ridge', 'extra trees', 'ridge with phases and squares', 'extra trees with phases and squares']
    """
    _require(data, folds, ("y",))
    y, people = data["y"].cpu().numpy().astype(float), data["participant"].cpu().numpy()
    out = {}
    for name, table in departures(data).items():
        given = "" if name == "summaries" else f" with {name}"
        out[f"ridge{given}"] = mae(y, _left_out(table, y, people, folds))
        guess = np.empty_like(y)
        for train, test in GroupKFold(folds).split(table, groups=people):
            guess[test] = trees(seed).fit(table[train], y[train]).predict(table[test])
        out[f"extra trees{given}"] = mae(y, guess)
    order = ("", " with phases and squares")
    return {f"{model}{given}": out[f"{model}{given}"] for given in order for model in ("ridge", "extra trees")}


def trees(seed: int) -> ExtraTreesRegressor:
    """Extra trees with the same settings for all data: a third of the features is tried at each split."""
    return ExtraTreesRegressor(100, max_features=0.33, min_samples_leaf=2, random_state=seed, n_jobs=1)
