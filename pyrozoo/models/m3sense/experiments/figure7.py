"""Figure 7 of the paper: a task that was not in training, learned from few labels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, timing
from ....inference.fit import fit
from ....inference.fitted import Fit
from ..card import CARD
from ..uses.transferring import transfer
from .baselines import CLOCK
from .runs import ADAM, TASKS, chosen, classical_scores, configuration, fitted, names_of, parts_of, scored
from .tables import BY_WINDOW, CAM, NOTE, SEEDS, SIMULATED, data_identity, job_name, split_setting

FEW = {"smoke": (8,), "quick": (8, 24, 72), "paper": (8, 24, 72, 216)}
STEPS = {"smoke": 4, "quick": 200, "paper": 400}
SINGLE = "Keyless"
SCRATCH, BEFORE_SINGLE, BEFORE_PAIR, BEFORE_PAIR_FUSION, BEFORE_ALL, CLASSICAL = (
    "from the few labels alone", "single-task, pre-trained on another task", "M3Sense, pre-trained on the other two",
    "the same, layers after the encoders trained, too", "M3Sense, pre-trained on all three (task known)",
    "extra trees on the few labels",
)  # fmt: skip
CLOCKED = f"{CLOCK} on the few labels"
METHODS = (CLASSICAL, SCRATCH, BEFORE_SINGLE, BEFORE_PAIR, BEFORE_PAIR_FUSION, BEFORE_ALL)
NOTE_7 = (
    "A task is learned from few labelled windows of half of the people. Pre-trained models keep their representation; "
    "a new head, and where the row says so the layers after the encoders, are trained on the few. 'pre-trained on "
    "another task' is the mean over both others. 'pre-trained on all three' has seen all labels of the task: a "
    "ceiling. "
)


def transfer_run(task: str, seed: int, profile: str, data: str | None = None, split: str = "subject") -> dict[str, Any]:
    """Learn one task from few labels in every way, and score each on the test people.

    Returns:
        ``<method>|<labels>|<score>`` -> value, and seconds.
    """
    started = time.perf_counter()
    train, test = parts_of(seed, profile, data, split)
    others = [other for other in TASKS if other != task]
    pair = fitted(CAM, chosen(train, others), profile, others, seed)
    everything = fitted(CAM, chosen(train, TASKS), profile, TASKS, seed)
    single = [fitted(SINGLE, chosen(train, [other], False), profile, [other], seed) for other in others]
    out: dict[str, Any] = {}
    for n in FEW[profile]:
        few = few_of(train, task, n, seed)
        found = {
            CLASSICAL: [classical_scores("extra trees", task, few, test, seed)],
            **({} if data is None else {CLOCKED: [classical_scores(CLOCK, task, few, test, seed)]}),
            SCRATCH: [_score(_alone(few, task, profile, seed), few, test, task, seed)],
            BEFORE_SINGLE: [
                _score(_tuned(s, few, task, profile, seed, "representation"), few, test, task, seed) for s in single
            ],
            BEFORE_PAIR: [_score(_tuned(pair, few, task, profile, seed, "representation"), few, test, task, seed)],
            BEFORE_PAIR_FUSION: [_score(_tuned(pair, few, task, profile, seed, "encoders"), few, test, task, seed)],
            BEFORE_ALL: [_score(_tuned(everything, few, task, profile, seed, "representation"), few, test, task, seed)],
        }
        for method, results in found.items():
            for name in ("accuracy", "balanced_accuracy", "macro_f1", "majority"):
                out[f"{method}|{n}|{name}"] = float(np.mean([result[name] for result in results]))
    return {**out, "seconds": round(time.perf_counter() - started, 2)}


def few_of(train: Batch, task: str, n: int, seed: int) -> Batch:
    """Draw n labelled windows of one task at random, stratified by class."""
    from sklearn.model_selection import train_test_split

    rows, names = names_of(train, task)
    if n >= len(rows):
        raise ValueError(f"task {task!r} has {len(rows)} labelled windows for training, of which {n} are asked for")
    kept, _ = train_test_split(rows, train_size=n, random_state=seed, stratify=names)
    return train.subset(np.sort(kept))


def _settings(few: Batch, profile: str) -> dict[str, Any]:
    size = min(few.n_rows, 32) if few.n_rows % 32 != 1 else 33
    return {"steps": STEPS[profile], "batch_size": size, "optimizer": ADAM}


def _alone(few: Batch, task: str, profile: str, seed: int) -> Fit:
    options = _settings(few, profile)
    return fitted(SINGLE, few, profile, (task,), seed, options)


def _tuned(before: Fit, few: Batch, task: str, profile: str, seed: int, frozen: str) -> Fit:
    start = transfer(before, few, tasks=[task], frozen=frozen, seed=seed)
    options = _settings(few, profile)
    return fit(start.model, start.guide_name, few, seed=seed, warm_start=start, progress=False, **options)


def _score(found: Fit, few: Batch, test: Batch, task: str, seed: int) -> dict[str, float]:
    values = scored(found, few, test, [task], seed)
    return {name.removeprefix(f"{task}."): value for name, value in values.items()}


def figure7_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None,
    split: str = "subject",
) -> Outcome:  # fmt: skip
    """Figure 7: transfer to a task that was not in training, by number of labelled windows.

    Args:
        out: Folder for record.json, table.csv and the figure.
        profile: "smoke", "quick" (8, 24 and 72 labels) or "paper" (the paper's sizes).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
        data: Folder of real data sets (see `read_study`); None simulates them.
        split: "subject" or "window", as in table 2.
    """
    from .report import transfer_figure

    numbers = range(seeds or SEEDS[profile])
    identity = data_identity(numbers, profile, data)
    settings = configuration((SINGLE, CAM), profile) | {"transfer": f"{STEPS[profile]} steps, labels {FEW[profile]}"}
    settings |= split_setting(split)
    resumed = claim(CARD, out, identity, settings)
    place = {**({} if data is None else {"data": data}), **split_setting(split)}
    plan = {
        job_name(task, seed): {"task": task, "seed": seed, "profile": profile, **place}
        for task in TASKS for seed in numbers
    }  # fmt: skip
    results = run_jobs(transfer_run, plan, out / "jobs", n_jobs=jobs)
    methods = METHODS if data is None else (*METHODS, CLOCKED)
    found = {
        (task, n, method): [
            {name: results[job_name(task, seed)][f"{method}|{n}|{name}"]
             for name in ("accuracy", "balanced_accuracy", "macro_f1", "majority")}
            for seed in numbers
        ]
        for task in TASKS for n in FEW[profile] for method in methods
    }  # fmt: skip
    rows = [{"task": t, "labels": n, "model": m, **averages(values)} for (t, n, m), values in found.items()]
    differences = {
        f"{task}, {n} labels: balanced accuracy of {a} - {b}": paired_difference(
            *([run["balanced_accuracy"] for run in found[task, n, method]] for method in (a, b))
        )
        for task in TASKS for n in FEW[profile]
        for a, b in ((BEFORE_PAIR, SCRATCH), (BEFORE_PAIR, BEFORE_SINGLE), (BEFORE_PAIR_FUSION, SCRATCH))
    }  # fmt: skip
    (out / "figures").mkdir(parents=True, exist_ok=True)
    transfer_figure(rows).savefig(out / "figures" / "figure7.png", dpi=110)
    extra = {
        "note": (SIMULATED if data is None else "") + NOTE_7 + NOTE + BY_WINDOW[split], "configuration": settings,
        "differences": differences, **timing(results, resumed),
    }  # fmt: skip
    return Outcome(rows, identity, list(numbers), extra, format_table(rows))
