"""What the registry finds of this entry."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...batch import Batch
from .guides import GUIDES
from .model import Generative, LatentM3Sense, M3Sense, Unaligned
from .simulator import simulate_all

VARIANTS = {"m3sense": M3Sense, "latent": LatentM3Sense, "generative": Generative, "unaligned": Unaligned}
DATASETS = {"simulated": simulate_all}
EXPERIMENTS: dict[str, Any] = {}


def tiny(seed: int = 0) -> tuple[Batch, dict[str, Any]]:
    """Small simulated windows of all five sets, on which the contract runs."""
    windows = simulate_all(seed, n_subjects=1, n_windows=4, seconds=5.0, rates={"bvp": 8, "eda": 4, "temp": 4})
    sizes = {"embedding": 16, "lstm_layers": 1, "hidden": (24, 16), "head": 8, "a_dim": 2, "q_hidden": 16, "gamma": 1.0}
    return windows.subset(np.arange(windows.n_rows)), sizes


__all__ = ["DATASETS", "EXPERIMENTS", "GUIDES", "VARIANTS", "tiny"]
