"""The six classifiers that the paper uses with handcrafted features, logistic regression, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ....criticism.rivals import tree_classifier
from ....data.batch import Batch
from ..data.batches import features_of, modalities, window_numbers
from ..data.features import handcrafted

SEED = 333  # the paper's
CLOCK = "clock"


def inputs_of(data: Batch, model: str, only: Sequence[str] | None = None) -> np.ndarray:
    """Return what a classifier sees of windows, (N, J).

    Args:
        data: Windows.
        model: "clock" sees the number of the window in its session and nothing else, all others the features of the
            batch, or where it has none those of `handcrafted`.
        only: Modalities to use; None for all.
    """
    if model == CLOCK:
        known = "number" in data.row_coords  # of the whole data, of which these are a part
        numbers = data.describe_rows()["number"].to_numpy() if known else window_numbers(data)
        return numbers[:, None].astype(float)
    names = only or modalities(data)
    if features_of(data):
        return np.hstack([data[f"{name}_features"].double().cpu().numpy() for name in names])
    values, columns = handcrafted(data)
    return values[:, [any(column.startswith(f"{name}_") for name in names) for column in columns]]


def logistic(penalty: float) -> Any:
    """Make a logistic regression on standardised features with C = `penalty`."""
    from sklearn.linear_model import LogisticRegression

    return _pipeline(True, LogisticRegression(C=penalty, max_iter=5000))


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
    return _pipeline(False, tree_classifier(seed, 100))


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
