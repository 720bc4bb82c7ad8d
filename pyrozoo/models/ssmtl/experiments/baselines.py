"""Comparison methods from scikit-learn; the paper's MTL is a Pyro model and not among them.

Each is a function ``(train, test, seed=0) -> prediction``. It learns from the labelled rows of `train` (those with
``unit_means`` in their name also from the inputs of all rows of `train`) and predicts y for every row of `test`, shape
(N_test,), in the units of y. Both batches have inputs ``x`` (N, Dx), one target ``y`` (N, 1) and the group ``unit``.

All raise `ValueError` if `train` has no labelled row or `y` has more than one column, and `KeyError` if `test` has a
unit that `train` lacks (except `pooled_trees`, which ignores units).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from types import MappingProxyType

import numpy as np
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.svm import SVR

from ....criticism.rivals import group_means, tree_regressor
from ....data.batch import Batch

# Values of C and gamma to try in SVR, for standardised x and y. gamma reaches far below scikit-learn's 1/Dx: with about
# five labels a nearly linear function is often the best one.
_COSTS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
_GAMMAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_EPSILON = 0.01

_N_TREES = 200


def stl(train: Batch, test: Batch, seed: int = 0, *, gammas: Sequence[float | str] = _GAMMAS) -> np.ndarray:
    """Single-task learning: one support-vector regression with RBF kernel per unit, on its labelled rows (appendix A).

    x and y are standardised per unit, inside each fold. C and gamma minimise the absolute leave-one-out error. A unit
    with one or two labels, too few for that, is predicted by their mean; one without labels by the mean of all labels.

    Differences from the paper: it tunes on separate validation rows, and only the regularisation C; its gamma is not
    stated. ``gammas=("scale",)`` tunes only C, with scikit-learn's default kernel width.

    Args:
        train: Training data.
        test: Rows to predict, of units in `train`.
        seed: Ignored, because the method is deterministic.
        gammas: Values of gamma to try.

    Returns:
        Predictions of y, (N_test,).
    """
    x, y, unit = _labelled(train)
    test_x, test_unit = _inputs(test), _unit_index(test, train)
    prediction = np.full(test.n_rows, y.mean())
    for i in np.unique(test_unit):
        unit_x, unit_y, rows = x[unit == i], y[unit == i], test_unit == i
        if len(unit_y) >= 3:
            cost, gamma = min(product(_COSTS, gammas), key=lambda pair: _leave_one_out_error(unit_x, unit_y, *pair))
            prediction[rows] = _svr(unit_x, unit_y, test_x[rows], cost, gamma)
        elif len(unit_y) > 0:
            prediction[rows] = unit_y.mean()
    return prediction


def pooled_trees(train: Batch, test: Batch, seed: int = 0) -> np.ndarray:
    """Extremely randomised trees on the labelled rows of all units together, which ignore the unit."""
    return _trees(train, test, seed)


def trees_with_offset(train: Batch, test: Batch, seed: int = 0) -> np.ndarray:
    """Pooled trees plus an offset per unit: the mean of its cross-validated residuals, shrunk towards 0."""
    return _trees(train, test, seed, offset=True)


def trees_with_unit_means(train: Batch, test: Batch, seed: int = 0) -> np.ndarray:
    """Pooled trees with further inputs: the unit's mean of each input over its rows in `train`, labelled or not."""
    return _trees(train, test, seed, unit_means=True)


def trees_with_unit_means_and_offset(train: Batch, test: Batch, seed: int = 0) -> np.ndarray:
    """Pooled trees with both additions, which use the unit's labels and its unlabelled inputs."""
    return _trees(train, test, seed, unit_means=True, offset=True)


BASELINES: Mapping[str, Callable[..., np.ndarray]] = MappingProxyType(
    {
        "STL": stl,
        "STL_default_gamma": partial(stl, gammas=("scale",)),
        "pooled_trees": pooled_trees,
        "trees_with_offset": trees_with_offset,
        "trees_with_unit_means": trees_with_unit_means,
        "trees_with_unit_means_and_offset": trees_with_unit_means_and_offset,
    }
)


def _inputs(batch: Batch) -> np.ndarray:
    return batch["x"].cpu().numpy().astype(float)


def _unit_index(test: Batch, train: Batch) -> np.ndarray:
    """Index of each test row's unit among the units of `train`, whose order may differ from that in `test`."""
    return test.align("unit", train.coords["unit"])["unit"].cpu().numpy()


def _labelled(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (n, Dx), target (n,) and unit (n,) of the labelled rows."""
    if batch["y"].shape[1:] != (1,):
        raise ValueError(f"y: shape {tuple(batch['y'].shape)}; the baselines predict one target, shape (N, 1)")
    observed = batch.observed("y")
    if not observed.any():
        raise ValueError("train: no row is labelled; the baselines need labels")
    y = batch["y"].cpu().numpy().astype(float)[observed, 0]
    return _inputs(batch)[observed], y, batch["unit"].cpu().numpy()[observed]


def _svr(x: np.ndarray, y: np.ndarray, new_x: np.ndarray, cost: float, gamma: float | str) -> np.ndarray:
    """Fit to standardised x (n, Dx) and y (n,), and predict y at `new_x` (m, Dx)."""
    # Not a scikit-learn pipeline in a grid search: for five rows that costs five times the fit itself.
    x_loc, x_scale, y_scale = x.mean(0), x.std(0), y.std()
    x_scale[x_scale == 0] = 1.0
    y_scale = y_scale if y_scale > 0 else 1.0
    model = SVR(C=cost, gamma=gamma, epsilon=_EPSILON).fit((x - x_loc) / x_scale, (y - y.mean()) / y_scale)
    return model.predict((new_x - x_loc) / x_scale) * y_scale + y.mean()


def _leave_one_out_error(x: np.ndarray, y: np.ndarray, cost: float, gamma: float | str) -> float:
    kept = ~np.eye(len(y), dtype=bool)
    errors = [abs(_svr(x[keep], y[keep], x[k : k + 1], cost, gamma)[0] - y[k]) for k, keep in enumerate(kept)]
    return float(np.mean(errors))


def _trees(train: Batch, test: Batch, seed: int, *, unit_means: bool = False, offset: bool = False) -> np.ndarray:
    x, y, unit = _labelled(train)
    test_x = _inputs(test)
    test_unit = _unit_index(test, train) if unit_means or offset else None
    if unit_means:
        means = group_means(_inputs(train), train["unit"].cpu().numpy(), train.sizes["unit"])
        x, test_x = np.hstack([x, means[unit]]), np.hstack([test_x, means[test_unit]])
    model = tree_regressor(seed, _N_TREES)
    prediction = model.fit(x, y).predict(test_x)
    if offset and len(y) > 1:
        # The trees reproduce their training labels exactly; only residuals of held-out labels tell about a unit.
        folds = KFold(min(5, len(y)), shuffle=True, random_state=seed)
        residual = y - cross_val_predict(tree_regressor(seed, _N_TREES), x, y, cv=folds)
        prediction = prediction + _shrunk_offsets(residual, unit, train.sizes["unit"])[test_unit]
    return prediction


def _shrunk_offsets(residual: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """Best linear predictor of b_i in r_ij = b_i + e_ij, b_i ~ (0, tau^2), e_ij ~ (0, sigma^2), shape (M,).

    The variances are estimated by moments. A unit without residuals gets 0; so do all units where none has two,
    because tau and sigma cannot be told apart then.
    """
    count = np.bincount(unit, minlength=n_units)
    present = count > 0
    if count.max() < 2:
        return np.zeros(n_units)
    mean = np.bincount(unit, residual, n_units) / np.maximum(count, 1)
    sigma2 = np.sum((residual - mean[unit]) ** 2) / (len(residual) - present.sum())
    tau2 = max(0.0, np.mean(mean[present] ** 2 - sigma2 / count[present]))
    noise = tau2 * count + sigma2
    return np.divide(tau2 * count * mean, noise, out=np.zeros(n_units), where=noise > 0)
