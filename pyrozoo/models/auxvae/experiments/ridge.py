"""The information in simulated gait, without any deep network."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ..card import CARD
from .probe import ridge_probe
from .runs import data_of

ORDER = ("mean", "none", "concatenation", "difference", "difference and style")
NOTE = (
    "Simulated gait. Ridge regression of the load on the mean, log sd and log mean step of every channel, people left "
    "out: of the loaded walk alone ('none'), beside those of the unloaded walk ('concatenation'), less those of it "
    "('difference'). The ordering is a property of the data."
)


def ridge_run(seed: int, profile: str) -> dict[str, Any]:
    """Return the errors [lb] of the probe on one simulation."""
    started = time.perf_counter()
    data = data_of(seed, profile)
    found = ridge_probe(data, folds=min(6, data.sizes["participant"]))
    return {**found, "seconds": round(time.perf_counter() - started, 2)}


def ridge_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """What the loaded walk, the unloaded one beside it, and their difference tell a linear model of the load.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (5 seeds) or "paper" (T = 800).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(seeds or {"smoke": 1, "quick": 5, "paper": 5}[profile])
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    resumed = claim(CARD, out, data)
    plan = {f"ridge-{seed}": {"seed": seed, "profile": profile} for seed in numbers}
    results = run_jobs(ridge_run, plan, out / "jobs", n_jobs=jobs)
    found = {name: [results[job][name] for job in plan] for name in ORDER}
    rows = [{"model": f"ridge: {name}", **averages([{"mae": value} for value in found[name]])} for name in ORDER]
    steps = itertools.pairwise(ORDER[1:])
    differences = {f"MAE of {b} - {a}": paired_difference(found[b], found[a]) for a, b in steps}
    extra = {"note": NOTE, "differences": differences, **timing(results, resumed)}
    return Outcome(rows, data, list(numbers), extra, format_table(rows))
