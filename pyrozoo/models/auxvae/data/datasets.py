"""Data sets of auxvae by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ....data.batch import Batch


def simulated(**options: Any) -> Batch:
    """Simulate gait of 22 people, walks of 10 s as 120 steps; `options` are those of `simulator.simulate`."""
    from .simulator import simulate

    return simulate(**options)


def simulated_full(**options: Any) -> Batch:
    """Simulate gait of the same people, walks of 20 s as 800 steps, the number of the paper."""
    return simulated(**{"n_steps": 800, "duration_s": 20.0, **options})


DATASETS: Mapping[str, Callable[..., Batch]] = MappingProxyType(
    {"simulated": simulated, "simulated-full": simulated_full}
)
