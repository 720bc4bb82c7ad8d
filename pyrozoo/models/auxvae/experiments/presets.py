"""What a line and trees read from the simulated kinds of effect, without any network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ..card import CARD
from ..data.simulator import GAITS
from .probe import departure_probe
from .runs import data_of

NOTE = (
    "Simulated gait. Mean absolute error [lb] of ridge regression and of extra trees on people left out, from how the "
    "mean, log sd and log mean step of every channel depart from the walker's unloaded walk; and from these beside "
    "their squares and the departures of phases. The sizes of the effects were set by these probes on seed 100, before "
    "any network was fitted to the new kinds."
)


def presets_run(gait: str, seed: int, profile: str) -> dict[str, Any]:
    """Return the errors [lb] of the probes on one simulation of one kind."""
    started = time.perf_counter()
    data = data_of(seed, profile, gait)
    found = departure_probe(data, folds=min(5, data.sizes["participant"]), seed=seed)
    return {**found, "seconds": round(time.perf_counter() - started, 2)}


def presets_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Errors of a line and of trees on every kind of simulated effect, with and without phases and squares.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (3 seeds) or "paper" (T = 800).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(seeds or {"smoke": 1, "quick": 3, "paper": 3}[profile])
    data = simulated_data(
        "simulated gait of all kinds and seeds", (data_of(seed, profile, gait) for gait in GAITS for seed in numbers)
    )
    resumed = claim(CARD, out, data, {name: repr(gait) for name, gait in GAITS.items()})
    plan = {f"{gait}-{seed}": {"gait": gait, "seed": seed, "profile": profile} for gait in GAITS for seed in numbers}
    results = run_jobs(presets_run, plan, out / "jobs", n_jobs=jobs)
    rows = []
    for gait in GAITS:
        found = [results[f"{gait}-{seed}"] for seed in numbers]
        errors = [{name: value for name, value in one.items() if name != "seconds"} for one in found]
        rows.append({"model": gait, **averages(errors)})
    by_seed = {job: {k: round(v, 3) for k, v in found.items()} for job, found in results.items()}
    extra = {"note": NOTE, "by seed": by_seed, **timing(results, resumed)}
    return Outcome(rows, data, list(numbers), extra, format_table(rows))
