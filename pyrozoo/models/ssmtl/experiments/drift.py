"""Simulated wells that drift: later rows by networks alone, and by a process and a law that know the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ....criticism.scoring import metrics
from ....experiments.cross_fitting import cross_fitted
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, simulated_data
from ....inference.fitted import Fit
from ....modeling import registry
from ..data.drifting import simulate_drift
from .baselines import trees_with_unit_means
from .cross_fitted import SCORES, SMOKE, without_process
from .shared import claim

SIZES = {"smoke": (3, 60, 6), "quick": (12, 200, 15), "paper": (20, 200, 15)}  # wells, days, days between labels
OPTIONS: dict[str, Any] = {"folds": 4, "repeats": 1, "restarts": 2, "by": "last", "inputs": False, "steps": 600}
KINDS = ("trees with unit means", "last label", "SSMTL alone, cross-fitted", "SSMTL, cross-fitted")
NOTE_DRIFT = (
    "Oil rate of wells that lose pressure and produce more and more water, a label every 15 days; scored on the last "
    "quarter of the days, kept out altogether. Laws are learned on later labels, with and without a process and time."
)


def drift_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Simulated wells that drift: later rows, by networks alone and with a process and a law that know the time.

    Args:
        out: Folder for record.json, table.csv and the fits; a run that was stopped goes on from them.
        profile: "smoke" (a few steps on three wells), "quick" (12 wells, three seeds) or "paper" (20 wells, five).
        seeds: Number of data seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    used = range(seeds or {"smoke": 1, "quick": 3, "paper": 5}[profile])
    data = simulated_data("simulated-drift", [simulate_drift(*SIZES[profile], seed=seed)[0] for seed in used])
    resumed = claim(out, data)
    found = [_scores(out / str(seed), seed, profile, jobs) for seed in used]
    rows = [{"model": kind, "scored": "later", **averages([own[kind] for own in found])} for kind in KINDS]
    crps = {kind: [own[kind]["crps"] for own in found] for kind in KINDS[2:]}
    difference = paired_difference(crps[KINDS[3]], crps[KINDS[2]])
    each = [{"model": kind, "seed": seed, **own[kind]} for kind in KINDS for seed, own in zip(used, found, strict=True)]
    extra = {"note": NOTE_DRIFT, "seeds_each": each, "resumed": resumed}
    extra |= {"differences": {f"CRPS of {KINDS[3]} - alone": difference}}
    error = "" if difference[1] is None else f" ± {difference[1]:.2f}"
    text = f"{format_table(rows)}\n\nCRPS beside a process - alone: {difference[0]:+.2f}{error} (paired SE)"
    return Outcome(rows, data, list(used), extra, text)


def _scores(folder: Path, seed: int, profile: str, jobs: int) -> dict[str, dict[str, float]]:
    """Scores of the last days of one data seed."""
    train, test = simulate_drift(*SIZES[profile], seed=seed)
    model = registry.create_model("ssmtl", train)
    options = OPTIONS | ({**SMOKE, "steps": 20} if profile == "smoke" else {})
    fit = cross_fitted(model, "paper", train, seed=seed, jobs=jobs, checkpoint=folder, resume=True, **options)
    truth = test["y"][:, 0].double().numpy()
    out = {
        KINDS[0]: {"rmse": _rmse(truth, trees_with_unit_means(train, test, seed=seed))},
        KINDS[1]: {"rmse": _rmse(truth, _last_label(train, test))},
    }
    for kind, one in ((KINDS[2], without_process(fit, folder)), (KINDS[3], fit)):
        out[kind] = _of_law(one, test)
    return out


def _of_law(fit: Fit, test: Any) -> dict[str, float]:
    own = metrics(fit, test, draws=50)
    return {name: float(own[f"y.{name}"]) for name in SCORES}


def _rmse(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((truth - predicted) ** 2)))


def _last_label(train: Any, test: Any) -> np.ndarray:
    """The last label of each test row's unit; both batches have the same units in the same order."""
    seen = train.observed("y")
    unit, y = train["unit"].numpy()[seen], train["y"][:, 0].double().numpy()[seen]
    order = np.argsort(train.time[seen], kind="stable")
    last = dict(zip(unit[order].tolist(), y[order].tolist(), strict=True))
    return np.array([last[i] for i in test["unit"].tolist()])
