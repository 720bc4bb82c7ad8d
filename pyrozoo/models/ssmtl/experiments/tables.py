"""Tables as they come: the dryer with a tenth of its inputs missing, and simulated flows that are log-normal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....criticism.scoring import metrics
from ....data.batch import Batch
from ....experiments.cross_fitting import cross_fitted
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, simulated_data, timing
from ....files import sha256_text
from ....inference.fit import fit
from ....modeling import registry
from ..data.datasets import dryer
from ..data.plant import fill_gaps
from ..data.simulator import PRESETS, simulate
from .cross_fitted import SMOKE_BATCHES
from .runs import dryer_data
from .shared import claim, configuration

MISSING = 0.1  # share of the inputs that is removed, at random
NOISE = 0.3  # standard deviation of the logarithm of a measured flow
TREATMENTS = ("complete inputs", "gaps integrated out", "gaps filled from like rows", "gaps filled with the mean")
SCALES = ("untransformed", "log")
CROSSED = tuple(f"{treatment}, cross-fitted" for treatment in TREATMENTS[:2])
FOLDS: dict[str, Any] = {"folds": 3, "repeats": 1, "restarts": 1}  # small cross-fits, since there are twenty
SCORES = ("rmse", "crps_draws", "nll", "cover50", "cover80", "cover90")
NOTE_TABLES = (
    "Dryer: five labelled rows in each of 71 batches, CollectorTankLevel on the other rows of the same batches; one "
    "fit of the smaller networks of tuning/cross_fitted.json, with a tenth of all inputs removed at random, and a "
    "cross-fit with its processes (3 folds, one repeat, one restart), whose processes fill gaps by themselves. Wells: "
    "simulated, 50 units with 5 labelled and 25 unlabelled rows, measured flows that err by a factor exp(0.3 e), e "
    "standard normal; scores of 100 new rows per unit, one fit by the defaults of create_model and fit, and a "
    "cross-fit with its processes on the labels (3 folds, one repeat, one restart, 300 steps)."
)


def tables_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1
) -> dict[str, Outcome]:  # fmt: skip
    """Both: inputs with gaps on the dryer, and a logarithm that belongs to the model on simulated wells.

    Args:
        out: Folder for ``simulated`` and ``dryer``, each with record.json and table.csv, and the finished fits.
        profile: "smoke" (a few steps on a few batches), "quick" (five draws) or "paper" (twenty).
        seeds: Number of draws of labels, gaps and wells; None takes the profile's.
        jobs: Number of worker processes.

    Returns:
        Outcomes on the ``simulated`` wells and on the ``dryer``.
    """
    draws = range(seeds or {"smoke": 1, "quick": 5, "paper": 20}[profile])
    batches = SMOKE_BATCHES if profile == "smoke" else None
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    wells = simulated_data("simulated (any valve, log-normal flows)", (log_normal_wells(d)[0] for d in draws))
    resumed = claim(out, {"sha256": sha256_text(data["sha256"] + wells["sha256"])})
    of_dryer = configuration("cross_fitted", "ssmtl", profile)
    of_wells: dict[str, Any] = {"arguments": {}, "settings": {"steps": 20} if profile == "smoke" else {}}
    law: dict[str, Any] = {"arguments": {}, "settings": FOLDS | {"steps": 300} | of_wells["settings"], "crossed": True}
    of_folds: dict[str, Any] = {**of_dryer, "settings": of_dryer["settings"] | FOLDS, "crossed": True}
    crossed = [f"{scale}, cross-fitted" for scale in SCALES]
    plan: dict[str, dict[str, Any]] = {}
    for draw in draws:
        plan |= {_job(t, draw): {"treatment": t, "draw": draw, "batches": batches, **of_dryer} for t in TREATMENTS}
        for kind, treatment in zip(CROSSED, TREATMENTS, strict=False):
            plan[_job(kind, draw)] = {"treatment": treatment, "draw": draw, "batches": batches, **of_folds}
        plan |= {_job(scale, draw): {"scale": scale, "seed": draw, **of_wells} for scale in SCALES}
        plan |= {
            _job(kind, draw): {"scale": scale, "seed": draw, **law} for scale, kind in zip(SCALES, crossed, strict=True)
        }
    results = run_jobs(tables_run, plan, out / "jobs", n_jobs=jobs)

    def found(kind: str) -> list[Mapping[str, Any]]:
        return [results[_job(kind, draw)] for draw in draws]

    rows = {
        "dryer": [{"model": f"SSMTL, {kind}", **averages(found(kind))} for kind in (*TREATMENTS, *CROSSED)],
        "simulated": [{"model": f"SSMTL, {kind}", **averages(found(kind))} for kind in (*SCALES, *crossed)],
    }
    pairs = {
        "dryer": [
            *((TREATMENTS[1], other, "rmse") for other in (TREATMENTS[0], TREATMENTS[3])),
            *((TREATMENTS[2], other, "rmse") for other in (TREATMENTS[0], TREATMENTS[1], TREATMENTS[3])),
            *((CROSSED[1], other, "rmse") for other in (CROSSED[0], TREATMENTS[3])),
        ],
        "simulated": [
            (log, other, score) for other, log in (SCALES, crossed) for score in ("rmse", "crps_draws", "cover90")
        ],
    }
    outcomes = {}
    for part, identity in (("simulated", wells), ("dryer", data)):
        differences = {
            f"{score} of {one} - {other}": paired_difference(*([r[score] for r in found(k)] for k in (one, other)))
            for one, other, score in pairs[part]
        }
        extra = {
            "note": NOTE_TABLES,
            "differences": differences,
            "configuration": {"dryer": of_dryer, "simulated": {**of_wells, "cross_fit": law["settings"]}}[part],
        }
        lines = [f"{k}: {d:+.3f}" + ("" if se is None else f" ± {se:.3f}") for k, (d, se) in differences.items()]
        text = "\n".join([format_table(rows[part]), "", *lines, ""])
        outcomes[part] = Outcome(rows[part], identity, list(draws), extra | timing(results, resumed), text)
    return outcomes


def _job(kind: str, draw: int) -> str:
    return f"{kind.replace(',', '').replace(' ', '-')}-{draw}"


def tables_run(
    arguments: Mapping[str, Any], settings: Mapping[str, Any], treatment: str = "", draw: int = 0, scale: str = "",
    seed: int = 0, batches: int | None = None, crossed: bool = False,
) -> dict[str, float]:  # fmt: skip
    """One fit and its scores: of the dryer with a treatment of its gaps, or of wells with a scale of their flow.

    `crossed` fits by `pyrozoo.cross_fitted`, with its settings among those of the fit.
    """
    own = dict(arguments)
    if treatment:
        train, full, scored = dryer_data(draw, batches=batches)
        train, full = (treated(part, treatment, draw) for part in (train, full))
        test = full.subset(np.flatnonzero(scored))
    else:
        train, test = log_normal_wells(seed)
        own["y_transform"] = None if scale == "untransformed" else scale
    model = registry.create_model("ssmtl", train, **own)
    method = cross_fitted if crossed else fit
    fitted = method(model, "paper", train, seed=draw + seed, progress=False, **settings)
    scores = metrics(fitted, test, draws=100)
    return {name: float(scores[f"y.{name}"]) for name in SCORES} | {"seconds": round(fitted.seconds, 2)}


def treated(data: Batch, treatment: str, draw: int) -> Batch:
    """The dryer with a tenth of its inputs removed, whose gaps are left or filled; or as it is.

    Args:
        data: The dryer.
        treatment: Of `TREATMENTS`; from like rows by `fill_gaps`, by the inputs alone.
        draw: Random seed for the gaps.
    """
    if treatment == "complete inputs":
        return data
    seen = torch.as_tensor(np.random.default_rng(draw).random(tuple(data["x"].shape)) >= MISSING)
    x = torch.where(seen, data["x"], torch.nan)
    if treatment == "gaps filled with the mean":
        return data.with_tensors({"x": torch.where(seen, data["x"], x.nanmean(0))})
    if treatment == "gaps filled from like rows":
        inputs = data.columns("x")
        table = pd.DataFrame(x.double().numpy(), columns=inputs).assign(batch=data.group_names("unit"))
        filled = fill_gaps(table, inputs, unit="batch")[inputs].to_numpy()
        return data.with_tensors({"x": torch.as_tensor(filled).to(data["x"])})
    tensors = {**data.tensors, "x": x.nan_to_num(), "x_seen": seen}
    return dataclasses.replace(data, tensors=tensors, along={**data.along, "x_seen": data.rows})


def log_normal_wells(seed: int) -> tuple[Batch, Batch]:
    """Simulated wells whose measured flow is the true one times exp(0.3 e), e standard normal."""
    parts = simulate(50, 5, 25, 100, seed=seed, **PRESETS["any-valve"])
    rng = np.random.default_rng(seed)
    out = []
    for part in parts:
        noisy = part.truth["flow"] * np.exp(NOISE * rng.standard_normal(part.n_rows))
        y = torch.as_tensor(noisy).to(part["y"])[:, None]
        out.append(part.with_tensors({"y": torch.where(part["labelled"][:, None], y, torch.zeros_like(y))}))
    return out[0], out[1]
