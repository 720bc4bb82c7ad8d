"""What the registry finds of this entry."""

from __future__ import annotations

from typing import Any

from ...batch import Batch
from .data import DATASETS
from .guides import GUIDES
from .model import FrameHMM, PaperProcess, StepProcess
from .readers import read
from .simulator import simulate

VARIANTS = {"semi-markov": StepProcess, "paper": PaperProcess, "frame-hmm": FrameHMM}
EXPERIMENTS = {}


def tiny(seed: int = 0) -> tuple[Batch, dict[str, Any]]:
    """Small simulated recordings at one frame per second, the last third unlabelled, on which the contract runs."""
    data = simulate("pen", n_recordings=9, difficulty="easy", seed=seed, rate=1.0, n_unlabelled=3)
    return data, {"unlabelled": True}


__all__ = ["DATASETS", "EXPERIMENTS", "GUIDES", "VARIANTS", "read", "tiny"]
