"""The departure whose features are learned, beside a line that is given features, on the same people left out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ....experiments.jobs import run_jobs
from ....experiments.record import paired_difference
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ..card import CARD
from .departure import FIRST_SEED, LINE, compared_text, with_rounded
from .probe import departures, left_out_ridge
from .runs import LEARNED, PROFILES, configuration, data_of, fold_of, table_run

LEARNING = next(iter(LEARNED))
ROUNDED = f"{LINE}, rounded"
NOTE = (
    "Simulated gait, people left out: five folds of people in every simulation, the same for every row. Mean and "
    "standard error over the folds of all seeds. The ridge regression reads departures of three summaries per channel; "
    "'rounded': to the nearest of the four loads. The learned departure is given no summaries. "
    "Settings were chosen on other seeds."
)


def line_run(seed: int, fold: int, profile: str) -> dict[str, Any]:
    """Errors [lb] of a ridge regression on departures, as it is and rounded, for the people of one fold."""
    started = time.perf_counter()
    train, test = fold_of(seed, fold, profile)
    y, people, truth = train["y"].numpy().astype(float), train["participant"].numpy(), test["y"].numpy().astype(float)
    found = left_out_ridge(departures(train)["summaries"], y, people).predict(departures(test)["summaries"])
    return {**with_rounded(LINE, truth, found), "seconds": round(time.perf_counter() - started, 2)}


def learned_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """The learned departure beside a ridge regression on departures of summaries, on the simulator of all tables.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (T = 120, 5 folds, 5 seeds from 200 on) or "paper" (T = 800).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(FIRST_SEED, FIRST_SEED + (seeds or {"smoke": 1, "quick": 5, "paper": 10}[profile]))
    places = [(seed, fold) for seed in numbers for fold in range(PROFILES[profile]["folds"])]
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    settings = configuration([LEARNING], profile)
    resumed = claim(CARD, out, data, settings)
    plan = {f"{seed}-{fold}": {"seed": seed, "fold": fold, "profile": profile} for seed, fold in places}
    lines = run_jobs(line_run, {f"line-{job}": own for job, own in plan.items()}, out / "jobs", n_jobs=jobs)
    of_fits = {f"learned-{job}": {"model": LEARNING, **own} for job, own in plan.items()}
    fits = run_jobs(table_run, of_fits, out / "jobs", n_jobs=jobs)

    found: dict[str, list[dict[str, Any]]] = {
        name: [{"mae": lines[f"line-{job}"][name]} for job in plan] for name in (LINE, ROUNDED)
    }
    found[LEARNING] = [fits[f"learned-{job}"] for job in plan]
    rows = [{"model": name, **averages(each)} for name, each in found.items()]
    errors = {name: np.array([one["mae"] for one in each]) for name, each in found.items()}
    extra: dict[str, Any] = {
        "note": NOTE, "configuration": settings, "folds": [f"seed {seed}, fold {fold}" for seed, fold in places],
        "mae by fold": {name: [round(float(error), 4) for error in each] for name, each in errors.items()},
    }  # fmt: skip
    means = {name: each.reshape(len(numbers), -1).mean(1) for name, each in errors.items()}
    for what, values in (("differences", errors), ("differences over seeds", means)):
        extra[what] = {
            f"MAE of {LEARNING} - {other}": paired_difference(values[LEARNING], values[other])
            for other in (LINE, ROUNDED)
        }
    return Outcome(rows, data, list(numbers), extra | timing({**lines, **fits}, resumed), compared_text(rows, extra))
