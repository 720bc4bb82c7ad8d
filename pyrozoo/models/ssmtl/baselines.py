"""Comparison methods from scikit-learn; the paper's MTL is a Pyro model.

Every one is a function ``(train, test, seed=0) -> predictions``: it learns from the labelled rows of `train` (and,
where its name says so, from the inputs of all rows of `train`), and returns the predicted y of each row of `test`,
shape (N_test,), in the units of y. `BATCHES` must have the group ``unit`` and a single target ``y``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from ...batch import Batch
