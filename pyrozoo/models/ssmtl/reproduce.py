"""The experiments of the entry: ``pyrozoo reproduce ssmtl NAME``.

Every run is a job with a result file of its own, so that an experiment can be stopped at any moment and continued by
the same command. Configurations come from the committed records of `tune`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .experiments.dryer import dryer_experiment, reference_experiment
from .experiments.faults import faults_experiment
from .experiments.figure11 import figure11_experiment
from .experiments.guides import guides_experiment
from .experiments.intervals import intervals_experiment
from .experiments.table1 import table1_experiment

EXPERIMENTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "dryer": dryer_experiment,
    "table1": table1_experiment,
    "figure11": figure11_experiment,
    "intervals": intervals_experiment,
    "faults": faults_experiment,
    "guides": guides_experiment,
    "reference": reference_experiment,
}
