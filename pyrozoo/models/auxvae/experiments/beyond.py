"""Loads beyond those of training: fits to the lighter loads, scored on the heaviest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ....posterior.predicting import predict
from ..card import CARD
from ..data.simulator import LOADS_LB
from .departure import FIRST_SEED, LINE, OURS
from .probe import departures, left_out_ridge
from .runs import configuration, data_of, fitted, fold_of, scored

HEAVIEST = max(LOADS_LB)
NOTE = (
    f"Simulated gait, people left out, one fold of every seed. Trained on loads below {HEAVIEST:g} lb, scored on those "
    f"of {HEAVIEST:g} lb; bias is the mean of prediction less load [lb]."
)
SHOWN = ("model", "mae", "bias", "cover90", "width90", "accuracy", "seconds")


def beyond_run(seed: int, profile: str) -> dict[str, Any]:
    """Errors [lb] on the heaviest load of the departure model and of a line, both trained on the others."""
    started = time.perf_counter()
    train, test = fold_of(seed, 0, profile)
    lighter, heaviest = _with(train, False), _with(test, True)
    found = fitted(OURS, lighter, profile, seed, loss={"staircase": False})  # no load beyond those of training else
    scores = scored(found, heaviest, seed, latent=False)
    means = predict(found, heaviest, draws=200, seed=seed)["y.mean"]
    y, people = lighter["y"].numpy().astype(float), lighter["participant"].numpy()
    line = left_out_ridge(departures(lighter)["summaries"], y, people).predict(departures(heaviest)["summaries"])
    return {
        "model": {**scores, "bias": float((means - HEAVIEST).mean())},
        "line": {"mae": float(np.abs(line - HEAVIEST).mean()), "bias": float((line - HEAVIEST).mean())},
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip


def _with(batch: Batch, heaviest: bool) -> Batch:
    return batch.subset(np.flatnonzero((batch["y"].numpy() == HEAVIEST) == heaviest))


def beyond_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Train on 10 to 30 lb, predict 50 lb: errors and intervals of the departure model, beside a line.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (5 seeds from 200 on, a fold each) or "paper" (T = 800).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(FIRST_SEED, FIRST_SEED + (seeds or {"smoke": 1, "quick": 5, "paper": 5}[profile]))
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    settings = configuration([OURS], profile)
    resumed = claim(CARD, out, data, settings)
    plan = {f"beyond-{seed}": {"seed": seed, "profile": profile} for seed in numbers}
    results = run_jobs(beyond_run, plan, out / "jobs", n_jobs=jobs)
    names = {OURS: "model", LINE: "line"}
    rows = [{"model": name, **averages([one[key] for one in results.values()])} for name, key in names.items()]
    extra = {"note": NOTE, "configuration": settings, **timing(results, resumed)}
    text = format_table([{k: row[k] for name in SHOWN for k in (name, f"{name}_se") if k in row} for row in rows])
    return Outcome(rows, data, list(numbers), extra, text)
