"""The experiments of the entry: ``pyrozoo reproduce m3sense NAME``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .experiments.alignment import alignment_experiment, calibration_experiment
from .experiments.figure7 import figure7_experiment
from .experiments.reference import reference_experiment
from .experiments.sizes import table6_experiment, table7_experiment
from .experiments.stress import stress_predict_experiment
from .experiments.tables import figure8_experiment, table2_experiment, table4_experiment, table5_experiment

EXPERIMENTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "table2": table2_experiment,
    "table4": table4_experiment,
    "table5": table5_experiment,
    "table6": table6_experiment,
    "table7": table7_experiment,
    "figure7": figure7_experiment,
    "figure8": figure8_experiment,
    "stress-predict": stress_predict_experiment,
    "alignment": alignment_experiment,
    "calibration": calibration_experiment,
    "reference": reference_experiment,
}
