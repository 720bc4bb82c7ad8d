"""The experiments of the entry: ``pyrozoo reproduce medication NAME``.

No number of the article is reproduced: its recordings and its classifier are not public. Every run is a job with a
result file of its own, so that an experiment can be stopped at any moment and continued by the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .experiments.decoders import decoders_experiment
from .experiments.implied import implied_experiment
from .experiments.unlabelled import unlabelled_experiment
from .experiments.watch import reference_experiment, watch_experiment

EXPERIMENTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "watch": watch_experiment,
    "decoders": decoders_experiment,
    "implied-durations": implied_experiment,
    "unlabelled": unlabelled_experiment,
    "reference": reference_experiment,
}
