"""What a clock alone tells of real windows: everybody follows one schedule, so that time stands for the label."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, timing
from ..card import CARD
from ..data.features import handcrafted
from .baselines import BASELINES, CLOCK, inputs_of, logistic
from .runs import names_of
from .stress import INNER, PENALTIES, TASK, people_of, scores_of, stress_windows, without
from .tables import job_name

LOGISTIC = "logistic regression"
INPUTS = ("signals", "signals, time trend taken out", "signals and clock")
CLASSICAL = ("random forest", "extra trees", "LDA")
DEGREE = 2  # of the trend over a session
SEEDS = {"smoke": 1, "quick": 1, "paper": 3}
SETTINGS = {"clock": f"{INPUTS} {CLASSICAL} {DEGREE} {INNER} {PENALTIES}"}
NOTE = (
    "Recorded windows of 20 s (Empatica E4), rest or a stressful task, one person left out at a time; standardised by "
    "person without labels. 'clock' is a decision tree that sees nothing but the number of the window in its session. "
    f"'time trend taken out': the polynomial of degree {DEGREE} over a person's session that fits the means of a "
    "channel's windows best is subtracted before. 'signals and clock': the number of the window is one more "
    "feature. Classes are predicted by probability over the class's share of the training windows. The penalty of "
    f"logistic regression is chosen by {INNER} inner folds of the other people. Means over seeds by person, then mean "
    "and standard error over people."
)


def clock_run(path: str, person: str, inputs: str, seed: int, smoke: bool) -> dict[str, Any]:
    """Leave one person out and score every classifier on one kind of inputs.

    Args:
        path: Path of the windows, see `stress_windows`.
        person: Name of the person.
        inputs: One of `INPUTS`, or "clock" alone.
        seed: Random seed of the classifiers.
        smoke: Whether to leave out all but logistic regression.

    Returns:
        ``<model>.<score>`` -> value, and seconds.
    """
    started = time.perf_counter()
    data = stress_windows(path, DEGREE if inputs == INPUTS[1] else 0)
    train, test = without(data, [person])
    out: dict[str, Any] = {}
    if inputs == CLOCK:
        found = BASELINES["decision tree"](seed).fit(inputs_of(train, CLOCK), names_of(train, TASK)[1])
        out |= _scored(CLOCK, found, inputs_of(test, CLOCK), train, test)
    else:
        x, x_test = (_features(part, inputs) for part in (train, test))
        found = logistic(_penalty(train, inputs)).fit(x, names_of(train, TASK)[1])
        out |= _scored(LOGISTIC, found, x_test, train, test)
        for name in () if smoke else CLASSICAL:
            found = BASELINES[name](seed).fit(x, names_of(train, TASK)[1])
            out |= _scored(name, found, x_test, train, test)
    return {**out, "seconds": round(time.perf_counter() - started, 2)}


def _features(data: Batch, inputs: str) -> np.ndarray:
    features = handcrafted(data)[0]
    return np.hstack([features, inputs_of(data, CLOCK)]) if inputs == INPUTS[2] else features


def _penalty(train: Batch, inputs: str) -> float:
    """Choose the penalty by balanced accuracy over inner folds of the people in training."""
    found = dict.fromkeys(PENALTIES, 0.0)
    for k in range(INNER):
        own, held = without(train, people_of(train)[k::INNER])
        x, x_held, names = _features(own, inputs), _features(held, inputs), names_of(own, TASK)[1]
        for penalty in PENALTIES:
            fit = logistic(penalty).fit(x, names)
            found[penalty] += _scored("", fit, x_held, own, held)[".balanced_accuracy"]
    return max(found, key=found.__getitem__)


def _scored(model: str, fit: Any, x: np.ndarray, train: Batch, test: Batch) -> dict[str, float]:
    stressed = fit.predict_proba(x)[:, list(fit.classes_).index(train.coords[f"y_{TASK}_class"][1])]
    found = scores_of(train, test, stressed)
    return {f"{model}.{score}": found[score] for score in ("accuracy", "balanced_accuracy", "macro_f1", "auroc")}


def clock_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None
) -> Outcome:
    """What the number of a window in its session tells of stress, alone and beside the signals.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (three people, logistic regression), or "quick" and "paper", which are the same.
        seeds: Number of seeds of the classifiers, averaged by person; None takes the profile's.
        jobs: Number of worker processes.
        data: Folder of the data set, or npz file of windows.

    Raises:
        ValueError: No data are given.
    """
    smoke = profile == "smoke"
    windows = stress_windows(data)
    people, numbers = people_of(windows)[: 3 if smoke else None], range(seeds or SEEDS[profile])
    identity = {"name": windows.info["name"], "sha256": windows.sha256, "simulated": False}
    resumed = claim(CARD, out, identity, SETTINGS)
    plan = {
        job_name(inputs, person, seed): {"path": data, "person": person, "inputs": inputs, "seed": seed, "smoke": smoke}
        for inputs in (CLOCK, *INPUTS) for person in people for seed in numbers
    }  # fmt: skip
    results = run_jobs(clock_run, plan, out / "jobs", n_jobs=jobs)
    table: dict[str, list[dict[str, float]]] = {}
    for inputs in (CLOCK, *INPUTS):
        for person in people:
            runs = [results[job_name(inputs, person, seed)] for seed in numbers]
            names = [name for name in runs[0] if "." in name]
            for model in dict.fromkeys(name.partition(".")[0] for name in names):
                own = {
                    name.partition(".")[2]: float(np.mean([run[name] for run in runs]))
                    for name in names if name.startswith(f"{model}.")
                }  # fmt: skip
                table.setdefault(model if inputs == CLOCK else f"{model}: {inputs}", []).append(own)
    rows = [{"model": name, **averages(values)} for name, values in table.items()]
    balanced = {name: [one["balanced_accuracy"] for one in values] for name, values in table.items()}
    first = f"{LOGISTIC}: {INPUTS[0]}"
    differences = {
        f"balanced accuracy of {a} - {b}": paired_difference(balanced[a], balanced[b])
        for a, b in ((CLOCK, first), (f"{LOGISTIC}: {INPUTS[1]}", first))
    }
    extra: Mapping[str, Any] = {
        "note": NOTE, "configuration": SETTINGS, "people": people, "balanced_accuracy": balanced,
        "differences": differences, **timing(results, resumed),
    }  # fmt: skip
    lines = [f"{what}: {value:+.3f} ± {error:.3f} (paired SE)" for what, (value, error) in differences.items()]
    return Outcome(rows, identity, list(numbers), extra, "\n".join([format_table(rows), "", *lines]))
