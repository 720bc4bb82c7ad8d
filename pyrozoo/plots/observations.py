"""What was observed of a target that a table predicts: from a Batch, or an array with one entry per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..posterior.columns import classes, components, is_discrete

if TYPE_CHECKING:
    from ..data.batch import Batch  # which imports PyTorch

_NOTHING = np.array(None, dtype=object)  # np.where takes a bare None for a missing argument


def is_batch(observed: Any) -> bool:
    """True for a `pyrozoo.Batch`, told by its methods, so that PyTorch need not be imported."""
    return hasattr(observed, "group_names")


def one_component(table: pd.DataFrame, target: str | None) -> str:
    """Name of the one component that is meant by `target`: the target itself, or ``y[a]`` of several."""
    if target is None:  # the first that has a mean
        means = [str(name).removesuffix(".mean") for name in table.columns if str(name).endswith(".mean")]
        target = means[0].split("[")[0] if means else "y"
    found = components(table, target)
    if len(found) > 1:
        raise ValueError(f"target: {target!r} has the components {found}; choose one")
    if not found:
        raise ValueError(f"the table has no column '{target}.mean'; it has {list(table.columns)}")
    return found[0]


def numbers_observed(table: pd.DataFrame, observed: Batch | Any, component: str) -> np.ndarray:
    """Observed values of a component of a continuous target, shape (N,), NaN where there is none."""
    if not is_batch(observed):
        values = np.asarray(observed, dtype=float)
        return one_per_row(table, values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values)
    target = _target_of(observed, component)
    values = observed[target].detach().cpu().numpy().astype(float)
    _require_same_rows(table, observed, len(values))
    j = components(table, target).index(component)
    known = observed.known(target).reshape(len(table), -1)[:, j]
    return np.where(known, values.reshape(len(table), -1)[:, j], np.nan)


def labels_observed(table: pd.DataFrame, observed: Batch | Any, target: str) -> np.ndarray:
    """Observed labels of a discrete target by name, shape (N,), None where there is none."""
    if not is_discrete(table, target):
        raise ValueError(f"the table has no column '{target}.label'; it has {list(table.columns)}")
    if not is_batch(observed):
        labels = one_per_row(table, np.asarray(observed))
        return np.where(pd.isna(labels), _NOTHING, labels.astype(str).astype(object))
    codes, seen = observed[_target_of(observed, target)].cpu().numpy().reshape(-1), observed.observed(target)
    _require_same_rows(table, observed, len(codes))
    names = np.asarray(classes(table, target), dtype=object)
    return np.where(seen, names[np.where(seen, codes, 0).astype(int)], _NOTHING)


def rows_seen(table: pd.DataFrame, seen: Batch | Any, component: str) -> np.ndarray:
    """Rows whose label the model saw, as booleans (N,): those that a Batch holds, or an array says."""
    if is_batch(seen):
        target = _target_of(seen, component)
        known, names = seen.known(target), components(table, target)
        seen = seen.observed(target)
        if component in names and known.ndim == 2 and known.shape[1] == len(names):
            seen = known[:, names.index(component)]
    return one_per_row(table, np.asarray(seen, dtype=bool))


def groups_of(table: pd.DataFrame, observed: Batch | Any, group: Any) -> tuple[str, np.ndarray]:
    """Name of a group, such as "unit", and the name of each row's one, shape (N,)."""
    if group is not None and not isinstance(group, str):
        return str(getattr(group, "name", None) or "unit"), one_per_row(table, np.asarray(group))
    if not is_batch(observed):
        raise ValueError("group: give the name of each row's group, e.g. a column of your table")
    if group is None and not observed.groups:
        raise ValueError("group: the batch has none; give the name of each row's group")
    name = group or observed.groups[0]
    return name, one_per_row(table, observed.group_names(name))


def _target_of(batch: Batch, component: str) -> str:
    """The target of a batch that a component belongs to."""
    for target in batch.labels:
        if component == target or component.startswith(f"{target}["):
            return target
    raise ValueError(f"target: the batch has no {component!r}; it has {list(batch.labels)}")


def one_per_row(table: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Values of shape (N,) that go with the rows of the table."""
    if values.shape != (len(table),):
        raise ValueError(f"the table has {len(table)} rows, but what goes with it has shape {values.shape}")
    return values


def _require_same_rows(table: pd.DataFrame, batch: Batch, size: int) -> None:
    """Refuse a table of other rows; that of a target along frames has other names than the batch's rows."""
    same = len(table) == size
    if same and table.index.name == batch.rows and size == batch.n_rows:
        same = np.array_equal(table.index.to_numpy(), batch.names(batch.rows))
    if not same:
        raise ValueError("the table and the batch have different rows; predict the batch that you give")
