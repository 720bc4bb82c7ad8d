"""The columns of tables of predictions, made and parsed here alone.

A continuous target y has ``y.mean``, ``y.sd``, ``y.q05`` ...; one of several components ``y[a].mean``,
``y[b].mean`` ...; a discrete target k has ``k.label`` and ``k.p[class]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd


def column(name: str, quantity: str) -> str:
    """Column of a quantity, such as ``mean``, of a target or one of its components."""
    return f"{name}.{quantity}"


def columns_of(name: str, quantities: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of several quantities of a target or one of its components, from quantity -> values."""
    return {column(name, quantity): values for quantity, values in quantities.items()}


# -------------------------------------------------------------------- continuous targets
def quantile_name(q: float) -> str:
    """Quantity that is a quantile, in percent: q05, q95, q97.5."""
    return f"q{round(100 * q, 6):02g}"


def summary(mean: Any, sd: Any, levels: Mapping[float, Any]) -> dict[str, Any]:
    """Quantities of a continuous prediction, from its mean, standard deviation, and quantile -> value."""
    return {"mean": mean, "sd": sd} | {quantile_name(q): level for q, level in levels.items()}


def component_names(target: str, size: int, labels: Sequence[Any] | np.ndarray | None = None) -> list[str]:
    """Names of a target's components: y if it has one, else ``y[a]``, ``y[b]`` ..., or ``y[0]``, ``y[1]`` ..."""
    if size == 1:
        return [target]
    labels = range(size) if labels is None else labels
    return [f"{target}[{label}]" for label, _ in zip(labels, range(size), strict=True)]


def components(table: pd.DataFrame, target: str) -> list[str]:
    """Names of the components of a continuous target that the table predicts, in their order; none if discrete."""
    names = [str(name).removesuffix(".mean") for name in table.columns if str(name).endswith(".mean")]
    return [name for name in names if name == target or (name.startswith(f"{target}[") and name.endswith("]"))]


def component_values(table: pd.DataFrame, target: str, quantity: str) -> np.ndarray:
    """One quantity of all components of a continuous target, shape (N, J)."""
    return table[[column(name, quantity) for name in components(table, target)]].to_numpy()


def tails(level: float) -> tuple[float, float]:
    """Quantiles at the ends of the central interval of a level in (0, 1): 0.05 and 0.95 for 0.9."""
    return round((1 - level) / 2, 9), round((1 + level) / 2, 9)


def interval_names(level: float) -> tuple[str, str]:
    """Quantities at the ends of the central interval of a level in (0, 1): q05 and q95 for 0.9."""
    low, high = tails(level)
    return quantile_name(low), quantile_name(high)


# -------------------------------------------------------------------- discrete targets
def is_discrete(table: pd.DataFrame, target: str) -> bool:
    """True if the table predicts a discrete target of this name."""
    return column(target, "label") in table


def class_columns(target: str, classes: np.ndarray, codes: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Columns of a discrete target.

    Args:
        target: Name of the target.
        classes: Names of the K classes.
        codes: Position of each row's predicted class, shape (N,).
        probabilities: Probabilities of the classes, shape (N, K).
    """
    quantities = {f"p[{name}]": probabilities[:, k] for k, name in enumerate(classes)}
    return columns_of(target, {"label": classes[codes], **quantities})


def classes(table: pd.DataFrame, target: str) -> list[str]:
    """Names of the classes of a discrete target, in the order of their columns."""
    start = column(target, "p[")
    return [str(name)[len(start) : -1] for name in table.columns if str(name).startswith(start)]


def probabilities(table: pd.DataFrame, target: str, names: Sequence[Any] | np.ndarray | None = None) -> np.ndarray:
    """Probabilities of the classes of a discrete target, shape (N, K).

    Args:
        table: Table of predictions.
        target: Name of the target.
        names: Classes in the wanted order; by default that of the table.
    """
    names = classes(table, target) if names is None else names
    return table[[column(target, f"p[{name}]") for name in names]].to_numpy()
