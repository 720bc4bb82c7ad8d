"""Tables 2, 4 and 5 and figure 8 of the paper: people left out, simulated by default, real with ``data``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import PUBLISHED, format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ..card import CARD
from ..data.batches import modalities
from .baselines import BASELINES, CLOCK
from .presets import MULTITASK, SINGLE_TASK
from .published import HANDCRAFTED, TABLE_2, TABLE_4, TABLE_5
from .runs import TASKS, classical_run, configuration, data_of, deep_run

CAM = "M3Sense (CAM)"
SEEDS = {"smoke": 1, "quick": 1, "paper": 10}
NOTE = (
    "Windows of 20 s, standardised by person without labels; scores on people who were not in training, or, where a "
    "row says so, on other windows of the same people, which leaks. 'majority' is the accuracy of the class that is "
    "most frequent in training. Mean and standard error over seeds. Published rows are the paper's, on its own data, "
    "split by window; those of the handcrafted models are of its 10-fold cross-validation."
)
SIMULATED = "Simulated wrist signals, a new simulation for every seed, half of the people for testing. "
REAL = (
    "Real recordings; every seed is another split of the same people, which the standard errors do not know. 'clock' "
    "is a decision tree that sees nothing but the number of a window in its session: what the schedule alone tells. "
)
BY_WINDOW = {
    "subject": "",
    "window": " Here every row is by window: test windows are of the people, and often of the minutes, of training.",
}
Plan = Mapping[tuple[str, str], Mapping[str, Any]]  # (row, what it learns) -> arguments of a run


def table2_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None,
    split: str = "subject",
) -> Outcome:  # fmt: skip
    """Table 2: six classical baselines, four single-task networks, four multitask ones, and two of our own.

    Rows "by window" use the paper's split, in which people are in training and test.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (24 people a data set, pulse at 8 Hz, small networks) or "paper" (the paper's sizes,
            windows and batches of two: hours a fit on one core; for a GPU).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
        data: Folder of real data sets (see `read_study`); None simulates them.
        split: "subject": people in the test data are not in training; "window", the paper's: everybody is in both, and
            scores are too good for anybody else.
    """
    classical = {(name, task): {"model": name, "task": task} for name in BASELINES for task in TASKS}
    single = {(name, task): {"model": name, "tasks": [task]} for name in SINGLE_TASK for task in TASKS}
    multi = {(name, "all"): {"model": name} for name in (*MULTITASK, "latent (CAM)", "generative (CAM)")}
    leaking = {
        (f"{CAM}, by window", "all"): {"model": CAM, "split": "window"},
        **{
            ("extra trees, by window", task): {"model": "extra trees", "task": task, "split": "window"}
            for task in TASKS
        },
    }
    pairs = [(CAM, "Keyless"), (CAM, "HAMLET"), (CAM, "extra trees"), ("latent (CAM)", CAM), ("generative (CAM)", CAM),
             (f"{CAM}, by window", CAM)]  # fmt: skip
    plan: Plan = {**classical, **single, **multi, **(leaking if split == "subject" else {})}
    return _experiment(plan, pairs, TABLE_2, out, profile, seeds, jobs, data, split)


def table4_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None,
    split: str = "subject",
) -> Outcome:  # fmt: skip
    """Table 4: combinations of tasks, by M3Sense (CAM), beside each task alone; the arguments are those of table 2."""
    sets = [TASKS, *itertools.combinations(TASKS, 2), *((task,) for task in TASKS)]
    plan = {(" + ".join(tasks), "all"): {"model": CAM, "tasks": list(tasks)} for tasks in sets}
    alone = {task: task for task in TASKS}
    pairs = [(" + ".join(tasks), task) for tasks in sets[:4] for task in alone if task in tasks]
    return _experiment(plan, pairs, TABLE_4, out, profile, seeds, jobs, data, split)


def table5_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None,
    split: str = "subject",
) -> Outcome:  # fmt: skip
    """Table 5 as 2 x 2: with and without alignment, with and without unlabelled windows.

    The arguments are those of table 2. The paper compares "both" with "neither". Variants "latent" and "generative"
    have no form without their latents: they are shown with and without unlabelled windows.
    """
    plan, pairs = {}, []
    for model in MULTITASK:
        for aligned, unlabelled, name in (
            (False, False, "neither"), (True, False, "alignment"), (False, True, "unlabelled"), (True, True, "both"),
        ):  # fmt: skip
            own = {} if aligned else {"variant": "unaligned"}
            plan[f"{model}: {name}", "all"] = {"model": model, "unlabelled": unlabelled, **own}
        pairs += [(f"{model}: {a}", f"{model}: {b}") for a, b in (
            ("both", "neither"), ("alignment", "neither"), ("unlabelled", "neither"), ("both", "alignment"),
        )]  # fmt: skip
    for model in ("latent (CAM)", "generative (CAM)"):
        for unlabelled, name in ((False, "alignment"), (True, "both")):
            plan[f"{model}: {name}", "all"] = {"model": model, "unlabelled": unlabelled}
        pairs.append((f"{model}: both", f"{model}: alignment"))
    return _experiment(plan, pairs, TABLE_5, out, profile, seeds, jobs, data, split)


def figure8_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None,
    split: str = "subject",
) -> Outcome:  # fmt: skip
    """Figure 8: every subset of the modalities, by classical, single-task and multitask models.

    The arguments are those of table 2; a figure goes beside the record. Profile "paper" has the paper's fourteen
    models and "latent (CAM)", the others M3Sense (CAM), "latent (CAM)", Keyless and extra trees. The paper's values are
    printed in a figure only.
    """
    every = profile == "paper"
    multi = [*(MULTITASK if every else (CAM,)), "latent (CAM)"]
    single, classical = (list(SINGLE_TASK), list(BASELINES)) if every else (["Keyless"], ["extra trees"])
    names = modalities(data_of(0, profile, data))
    subsets = [s for n in range(len(names), 0, -1) for s in itertools.combinations(names, n)]
    plan: dict[tuple[str, str], Mapping[str, Any]] = {}
    for subset in subsets:
        label, own = "+".join(subset), {"only": list(subset)}
        plan |= {(f"{m}: {label}", "all"): {"model": m, **own} for m in multi}
        plan |= {(f"{m}: {label}", task): {"model": m, "tasks": [task], **own} for m in single for task in TASKS}
        plan |= {(f"{m}: {label}", task): {"model": m, "task": task, **own} for m in classical for task in TASKS}
    whole = "+".join(names)
    pairs = [(f"{CAM}: {whole}", f"{CAM}: {'+'.join(subset)}") for subset in subsets[1:]]

    def draw(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        from .report import modality_figure

        modality_figure([row for row in rows if row["model"] != CLOCK]).savefig(folder / "figure8.png", dpi=110)

    return _experiment(plan, pairs, [], out, profile, seeds, jobs, data, split, draw)


def _experiment(
    plan: Plan, pairs: Sequence[tuple[str, str]], published: list, out: Path, profile: str, seeds: int | None,
    jobs: int, data: str | None, split: str, draw: Callable[[Sequence, Path], None] | None = None,
) -> Outcome:  # fmt: skip
    numbers = range(seeds or SEEDS[profile])
    if data is not None:
        plan = {**plan, **{(CLOCK, task): {"model": CLOCK, "task": task} for task in TASKS}}
    identity = data_identity(numbers, profile, data)
    settings = configuration({arguments["model"] for arguments in plan.values()} - {*BASELINES, CLOCK}, profile)
    settings |= split_setting(split)
    resumed = claim(CARD, out, identity, settings)
    results: dict[str, dict[str, Any]] = {}
    for run, classical in ((classical_run, True), (deep_run, False)):
        own = {
            job_name(*key, seed): _arguments(run, arguments, seed, profile, data, split)
            for key, arguments in plan.items() for seed in numbers
            if (arguments["model"] in (CLOCK, *BASELINES)) == classical
        }  # fmt: skip
        if own:
            results |= run_jobs(run, own, out / "jobs", n_jobs=jobs)
    found = {
        (model, task): [
            {score: value for full, value in results[job_name(model, part, seed)].items()
             for own, _, score in [full.partition(".")] if own == task}
            for seed in numbers
        ]
        for model, part in plan for task in TASKS if f"{task}.accuracy" in results[job_name(model, part, numbers[0])]
    }  # fmt: skip
    rows = [{"task": t, "model": m, **averages(found[m, task])} for task in TASKS for (m, t) in found if t == task]
    differences = {
        f"{task}: balanced accuracy of {a} - {b}": paired_difference(
            *([run["balanced_accuracy"] for run in found[model, task]] for model in (a, b))
        )
        for task in TASKS for a, b in pairs if (a, task) in found and (b, task) in found
    }  # fmt: skip
    extra = {
        "note": (SIMULATED if data is None else REAL) + NOTE + BY_WINDOW[split],
        "configuration": settings,
        "differences": differences,
    }
    if draw is not None:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        draw(rows, out / "figures")
    text = table_text([*rows, *published], extra)
    return Outcome([*rows, *published], identity, list(numbers), extra | timing(results, resumed), text)


def data_identity(numbers: Sequence[int], profile: str, data: str | None) -> dict[str, Any]:
    """Return the identity of the data of all seeds, for a record."""
    if data is None:
        return simulated_data("simulated wrist signals of all seeds", (data_of(seed, profile) for seed in numbers))
    windows = data_of(0, profile, data)
    return {"name": windows.info["name"], "sha256": windows.sha256, "simulated": False}


def split_setting(split: str) -> dict[str, str]:
    """Return the split as part of an experiment's identity, nothing for the default; ValueError if it is unknown."""
    if split not in BY_WINDOW:
        raise ValueError(f"split: {split!r} is none of {list(BY_WINDOW)}")
    return {} if split == "subject" else {"split": split}


def _arguments(
    run: Any, arguments: Mapping[str, Any], seed: int, profile: str, data: str | None, split: str
) -> dict[str, Any]:
    arguments = {**split_setting(split), **arguments}
    tasks = {"tasks": list(TASKS)} if run is deep_run else {}
    return {**tasks, **arguments, "seed": seed, "profile": profile, **({} if data is None else {"data": data})}


def job_name(*words: Any) -> str:
    """Make a file name of any words."""
    plain = "".join(c if c.isalnum() else "-" for c in "-".join(map(str, words)))
    return "-".join(filter(None, plain.split("-")))


def table_text(rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> str:
    """Return the table for the terminal: three scores by task, with the paired differences below."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    shown: dict[str, dict[str, str]] = {}
    for row in rows:
        split = ", by window" if "by window" in row["model"] else ""
        if row.get("majority") is not None:
            shown.setdefault(f"majority rule{split}", {})[row["task"]] = f"{row['majority']:.2f}"
    for row in rows:
        how = "10-fold CV" if row["model"] in HANDCRAFTED else "own data"
        mark = f" (published, {how})" if row.get("source") == PUBLISHED else ""
        shown.setdefault(f"{row['model']}{mark}", {})[row["task"]] = _cell(row)
    lines = ["accuracy / balanced accuracy ± SE / macro F1", ""]
    lines += [format_table([{"model": m, **{t: cells.get(t, "") for t in tasks}} for m, cells in shown.items()]), ""]
    for what, (value, error) in extra["differences"].items():
        lines.append(f"{what}: {value:+.3f}" + ("" if error is None else f" ± {error:.3f} (paired SE)"))
    return "\n".join(line.rstrip() for line in lines)


def _cell(row: Mapping[str, Any]) -> str:
    if row.get("balanced_accuracy") is None:
        return f"{row['accuracy']:.3f}"
    error = row.get("balanced_accuracy_se")
    balanced = f"{row['balanced_accuracy']:.2f}" + ("" if error is None else f" ± {error:.2f}")
    return f"{row['accuracy']:.2f} / {balanced} / {row['macro_f1']:.2f}"
