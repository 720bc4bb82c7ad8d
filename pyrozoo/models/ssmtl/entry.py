"""What the registry finds of this entry."""

from __future__ import annotations

from typing import Any

from ...batch import Batch
from ...diagnostics import latent_report
from ...drawing import predict
from ...fitting import fit
from ...scores import mape
from .data import DATASETS, simulate
from .guides import GUIDES
from .model import MTL, SSMTL
from .reproduce import EXPERIMENTS

VARIANTS = {"ssmtl": SSMTL, "mtl": MTL}
# With alpha > 0 the objective is no ELBO, and q(c) is overconfident: calibration is that of the model's own posterior.
CALIBRATION = {"ssmtl": {"arguments": {"alpha": 0.0}, "settings": {"steps": 4000}}}


def tiny(seed: int = 0) -> tuple[Batch, dict[str, Any]]:
    """Small simulated data and small networks, on which the contract runs."""
    train, _ = simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=2, seed=seed)
    return train, {"c_dim": 2, "width": 8, "depth": 1}


def recovery(seed: int) -> dict[str, float]:
    """Recovery on simulated wells: error on new rows, and how far contexts tell a well's shut-in pressure.

    Returns:
        ``mape``: mean absolute error of the flow in percent, 30 wells with 10 labelled and 40 unlabelled rows each;
        ``shut_in_r2``: cross-validated R2 of a linear map from posterior mean contexts to the shut-in pressure.
    """
    train, test = simulate(n_units=30, n_labelled=10, n_unlabelled=40, n_test=40, seed=seed)
    found = fit(
        SSMTL(**SSMTL.sizes_from(train), width=64), GUIDES["paper"], train, seed=seed, steps=1500, progress=False
    )
    prediction = predict(found, test, draws=50, seed=seed)["y.mean"]
    probes = latent_report(found, train, "c", draws=5, seed=seed).probes
    return {"mape": mape(test["y"][:, 0], prediction), "shut_in_r2": float(probes["shut_in"])}


__all__ = ["CALIBRATION", "DATASETS", "EXPERIMENTS", "GUIDES", "VARIANTS", "recovery", "tiny"]
