"""Handcrafted features of windows, and the six classifiers that the paper uses with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ....data.batch import Batch
from ..data.batches import channels, modalities

STATISTICS = ("mean", "sd", "max", "min", "median", "iqr", "slope", "mean_abs_diff")
SEED = 333  # the paper's


def handcrafted(data: Batch) -> tuple[np.ndarray, list[str]]:
    """Compute eight summaries of every window and channel.

    They are mean, sd, max, min, median, iqr, slope and mean_abs_diff. The slope is the change of the least-squares line
    over the whole window, independent of the rate; mean_abs_diff is the mean absolute difference between neighbouring
    samples.

    Args:
        data: Windows.

    Returns:
        Features (N, 8 C) of C channels in all, and their names such as "eda_slope" or, with several channels,
        "acc_x_slope".

    Raises:
        ValueError: The batch holds no signals, or one of a single sample.

    Example:
        >>> from pyrozoo.models.m3sense import BASELINES, handcrafted, simulate
        >>> data = simulate("simulated stress", n_subjects=2, n_windows=6, seconds=5.0)
        >>> features, names = handcrafted(data)
        >>> features.shape, names[8:10]
        ((12, 24), ['eda_mean', 'eda_sd'])
        >>> classifier = BASELINES["LDA"](0).fit(features, data["y_stress"].numpy())
        >>> classifier.predict(features).shape
        (12,)
    """
    names = modalities(data)
    if not names:
        raise ValueError("the data hold no signals; give windows, as from windows() or from_arrays()")
    columns: list[np.ndarray] = []
    signals: dict[str, np.ndarray] = {}
    for name in names:
        values = data[name].double().cpu().numpy()
        several = channels(data).get(name)
        signals |= {f"{name}_{own}": values[..., k] for k, own in enumerate(several)} if several else {name: values}
    for name, signal in signals.items():
        n = signal.shape[1]
        if n < 2:
            raise ValueError(f"{name}: a window has one sample; features need at least two")
        time = np.linspace(-0.5, 0.5, n)
        low, median, high = np.quantile(signal, [0.25, 0.5, 0.75], axis=1)
        columns += [
            signal.mean(1), signal.std(1), signal.max(1), signal.min(1), median, high - low,
            signal @ time / (time @ time), np.abs(np.diff(signal, axis=1)).mean(1),
        ]  # fmt: skip
    return np.stack(columns, 1), [f"{name}_{statistic}" for name in signals for statistic in STATISTICS]


def _pipeline(scaled: bool, classifier: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), classifier) if scaled else make_pipeline(classifier)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return _pipeline(False, RandomForestClassifier(100, criterion="gini", random_state=seed))


def _tree(seed: int) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return _pipeline(False, DecisionTreeClassifier(criterion="gini", splitter="best", random_state=seed))


def _extra_trees(seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    return _pipeline(False, ExtraTreesClassifier(100, criterion="gini", random_state=seed))


def _lda(seed: int) -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return _pipeline(True, LinearDiscriminantAnalysis(solver="svd"))


def _linear(seed: int) -> Any:
    # The paper says "Linear Regression" and describes a linear classifier with an L2 penalty.
    from sklearn.linear_model import RidgeClassifier

    return _pipeline(True, RidgeClassifier(random_state=seed))


def _svm(seed: int) -> Any:
    from sklearn.svm import SVC

    return _pipeline(True, SVC(kernel="rbf", random_state=seed))


BASELINES: Mapping[str, Callable[[int], Any]] = MappingProxyType({
    "random forest": _forest,
    "decision tree": _tree,
    "extra trees": _extra_trees,
    "LDA": _lda,
    "linear": _linear,
    "SVM": _svm,
})  # fmt: skip
"""Name -> function of a seed that makes a new scikit-learn pipeline, in the order of the paper's table 2."""
