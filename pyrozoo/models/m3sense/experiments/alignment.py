"""Does the alignment live, and are the probabilities right: two experiments beside the paper's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ....criticism.scores import ece, log_loss, reliability
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, claim, timing
from ..card import CARD
from ..uses.aligning import alignment
from .runs import TASKS, chosen, configuration, fitted, parts_of, probabilities_of
from .tables import BY_WINDOW, CAM, NOTE, REAL, SEEDS, SIMULATED, data_identity, job_name, split_setting

ALIGNED = (CAM, "latent (CAM)")
EPOCHS = {"smoke": (1, 2), "quick": (1, 2, 4, 8, 16, 32), "paper": (1, 2, 4, 8, 16, 32, 64)}
NOTE_ALIGNMENT = (
    "Simulated wrist signals. Fits of 1, 2, 4 ... epochs at a constant learning rate and one seed, which are one "
    "course of training. KL[q(a | X) || N(0, I)] summed over tasks, nats per window; norms of the gradients with "
    "respect to the representation, of gamma KL and of the cross-entropy, as in training; training windows."
)
CALIBRATED = ("Keyless", CAM, "latent (CAM)", "generative (CAM)")


def alignment_run(model: str, epochs: int, seed: int, profile: str) -> dict[str, Any]:
    """Train for some epochs and measure the alignment term, see `aligning.alignment`."""
    started = time.perf_counter()
    train = chosen(parts_of(seed, profile)[0], TASKS)
    found = fitted(model, train, profile, TASKS, seed, {"epochs": epochs, "schedule": "constant"})
    return {**alignment(found, train, seed)._asdict(), "seconds": round(time.perf_counter() - started, 2)}


def alignment_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """The alignment term over training, with labels from the representation (the paper) and from the latents.

    Args:
        out: Folder for record.json, table.csv and the figure.
        profile: "smoke", "quick" or "paper" (the paper's sizes).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    from .report import alignment_figure

    numbers = range(seeds or SEEDS[profile])
    identity = data_identity(numbers, profile, None)
    settings = configuration(ALIGNED, profile)
    resumed = claim(CARD, out, identity, settings)
    plan = {
        job_name(model, epochs, seed): {"model": model, "epochs": epochs, "seed": seed, "profile": profile}
        for model in ALIGNED for epochs in EPOCHS[profile] for seed in numbers
    }  # fmt: skip
    results = run_jobs(alignment_run, plan, out / "jobs", n_jobs=jobs)
    rows = [
        {"model": model, "epochs": epochs,
         **_without_seconds(averages([results[job_name(model, epochs, seed)] for seed in numbers]))}
        for model in ALIGNED for epochs in EPOCHS[profile]
    ]  # fmt: skip
    (out / "figures").mkdir(parents=True, exist_ok=True)
    alignment_figure(rows).savefig(out / "figures" / "alignment.png", dpi=110)
    extra = {"note": NOTE_ALIGNMENT, "configuration": settings, **timing(results, resumed)}
    return Outcome(rows, identity, list(numbers), extra, format_table(rows))


def calibration_run(
    model: str, tasks: list[str], seed: int, profile: str, data: str | None = None, split: str = "subject"
) -> dict[str, Any]:
    """Return the class probabilities of a fit on the test windows of each task, and the true classes."""
    started = time.perf_counter()
    train, test = parts_of(seed, profile, data, split)
    found = fitted(model, chosen(train, tasks, model != "Keyless"), profile, tasks, seed)
    out: dict[str, Any] = {}
    for task in tasks:
        p, truth = probabilities_of(found, test, task, seed)
        classes = test.coords[f"y_{task}_class"].tolist()
        out[task] = {"p": p.tolist(), "truth": truth.tolist(), "classes": classes}
    return {**out, "seconds": round(time.perf_counter() - started, 2)}


def calibration_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None,
    split: str = "subject",
) -> Outcome:  # fmt: skip
    """Are class probabilities right on people left out? Reliability curves and expected calibration errors per task.

    The arguments are those of table 2. Curves pool the windows of all seeds.
    """
    from .report import reliability_figure

    numbers = range(seeds or SEEDS[profile])
    identity = data_identity(numbers, profile, data)
    settings = configuration(CALIBRATED, profile) | split_setting(split)
    place = {**({} if data is None else {"data": data}), **split_setting(split)}
    resumed = claim(CARD, out, identity, settings)
    single, *multi = CALIBRATED
    parts = [*((single, [task]) for task in TASKS), *((model, list(TASKS)) for model in multi)]
    plan = {
        job_name(model, *tasks, seed): {"model": model, "tasks": tasks, "seed": seed, "profile": profile, **place}
        for model, tasks in parts for seed in numbers
    }  # fmt: skip
    results = run_jobs(calibration_run, plan, out / "jobs", n_jobs=jobs)
    rows, curves = [], {}
    for model, tasks in parts:
        for task in tasks:
            runs = [results[job_name(model, *tasks, seed)][task] for seed in numbers]
            classes = runs[0]["classes"]
            own = [
                {score.__name__: score(run["truth"], np.array(run["p"]), classes) for score in (ece, log_loss)}
                for run in runs
            ]
            rows.append({"task": task, "model": model, **averages(own)})
            truth, p = (np.concatenate([run[name] for run in runs]) for name in ("truth", "p"))
            curves[task, model] = reliability(truth, p, classes)
    rows.sort(key=lambda row: TASKS.index(row["task"]))
    (out / "figures").mkdir(parents=True, exist_ok=True)
    reliability_figure(curves).savefig(out / "figures" / "calibration.png", dpi=110)
    note = (SIMULATED if data is None else REAL) + NOTE + BY_WINDOW[split]
    extra = {"note": note, "configuration": settings, **timing(results, resumed)}
    extra["reliability"] = {f"{task}: {model}": table.to_dict("list") for (task, model), table in curves.items()}
    return Outcome(rows, identity, list(numbers), extra, format_table(rows))


def _without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("seconds")}
