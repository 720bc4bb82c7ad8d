"""The experiments of the entry: ``pyrozoo reproduce auxvae NAME``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .experiments.figures import figure5_experiment, figure6_experiment, reference_experiment
from .experiments.ridge import ridge_experiment
from .experiments.tables import table1_experiment, table2_experiment, table3_experiment

EXPERIMENTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "table1": table1_experiment,
    "table2": table2_experiment,
    "table3": table3_experiment,
    "figure5": figure5_experiment,
    "figure6": figure6_experiment,
    "ridge": ridge_experiment,
    "reference": reference_experiment,
}
