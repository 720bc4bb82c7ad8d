"""What the registry finds of this entry."""

from __future__ import annotations

from typing import Any

from ...batch import Batch
from .data import DATASETS, simulate
from .guides import GUIDES
from .model import MTL, SSMTL
from .reproduce import EXPERIMENTS

VARIANTS = {"ssmtl": SSMTL, "mtl": MTL}


def tiny(seed: int = 0) -> tuple[Batch, dict[str, Any]]:
    """Small simulated data and small networks, on which the contract runs."""
    train, _ = simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=2, seed=seed)
    return train, {"c_dim": 2, "width": 8, "depth": 1}


__all__ = ["DATASETS", "EXPERIMENTS", "GUIDES", "VARIANTS", "tiny"]
