"""The information in simulated gait, without any deep network."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import averages, claim, finish, known, simulated_data, timing
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
    """Errors [lb] of the probe on one simulation."""
    started = time.perf_counter()
    data = data_of(seed, profile)
    found = ridge_probe(data, folds=min(6, data.sizes["participant"]))
    return {**found, "seconds": round(time.perf_counter() - started, 2)}


def ridge_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/auxvae-ridge"
) -> dict[str, Any]:
    """What the loaded walk, the unloaded one beside it, and their difference tell a linear model of the load.

    Args:
        profile: "smoke", "quick" (5 seeds) or "paper" (T = 800).
        seeds: Number of seeds, 0, 1, ... in place of the profile's.
        jobs: Processes.
        out: Folder for record.json and table.csv.
    """
    started, out = time.perf_counter(), Path(out)
    numbers = range(seeds or {"smoke": 1, "quick": 5, "paper": 5}[known(profile)])
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    resumed = claim(CARD, out, data)
    plan = {f"ridge-{seed}": {"seed": seed, "profile": profile} for seed in numbers}
    results = run_jobs(ridge_run, plan, out / "jobs", n_jobs=jobs)
    found = {name: [results[job][name] for job in plan] for name in ORDER}
    rows = [{"model": f"ridge: {name}", **averages([{"mae": value} for value in found[name]])} for name in ORDER]
    print(format_table(rows))
    steps = itertools.pairwise(ORDER[1:])
    differences = {f"MAE of {b} - {a}": paired_difference(found[b], found[a]) for a, b in steps}
    extra = {"note": NOTE, "differences": differences, **timing(results, resumed)}
    return finish(CARD, out, rows, "ridge", profile, data, list(numbers), time.perf_counter() - started, extra)
