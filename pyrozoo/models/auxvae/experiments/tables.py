"""Tables 1, 2 and 3 of the paper on simulated data: people left out, folds x seeds as jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....experiments.jobs import run_jobs
from ....experiments.record import PUBLISHED, format_table, paired_difference, paired_ratio
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ..card import CARD
from .published import TABLE_1, TABLE_2, TABLE_3
from .runs import DEPARTURES, ENCODERS, PROFILES, SETTINGS, configuration, data_of, table_run

NOTE = (
    "Simulated gait, not recorded: 22 people, 4 styles x 4 loads and one unloaded walk each. Mean absolute error of "
    "the load in lb, accuracy of the style, share of loads inside the predictive intervals, over people who were not "
    "in training; mean and standard error over folds of all seeds, which share people: for what another simulation "
    "would give see the differences over seeds. AuxVAE's KL weight was chosen on other seeds; baselines have their "
    "defaults. Published rows are the paper's, on its own data."
)
OURS = "5: cross-attention, style"
SHOWN = ("model", "mae", "accuracy", "cover90", "width90", "active", "seconds")
Pairs = Sequence[tuple[str, str]]


def table1_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Table 1 on simulated data: baselines with x_aux by concatenation and with the style, beside AuxVAE.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (T = 120, 5 folds, 1 seed) or "paper" (T = 800, leave one person out, 10 seeds: some
            hours a fit on one core, more than a thousand fits; for a GPU).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    with_both = [f"{name}, x_aux and style" for name in ENCODERS]
    pairs = [(OURS, name) for name in with_both]
    return _experiment([*with_both, OURS], pairs, TABLE_1, out, profile, seeds, jobs)


def table2_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Table 2 on simulated data: the ablation of x_aux, its fusion and the style, and the forms that compare walks.

    The arguments are those of `table1_experiment`. ``extra`` holds the ratio of the errors of settings 3 and 2.
    """
    rows = [*SETTINGS, *DEPARTURES]
    none, concat, cross, departure, alone = rows[1], rows[2], rows[4], *DEPARTURES
    pairs = [
        (concat, none), (cross, none), (none, rows[0]), (cross, concat), (cross, rows[3]), (rows[5], concat),
        (departure, cross), (departure, alone),
    ]  # fmt: skip
    return _experiment(rows, pairs, TABLE_2, out, profile, seeds, jobs)


def table3_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Table 3 on simulated data: baselines from the loaded walk alone, which predict the load alone.

    The arguments are those of `table1_experiment`.
    """
    return _experiment(list(ENCODERS), [], TABLE_3, out, profile, seeds, jobs)


def _experiment(
    models: Sequence[str], pairs: Pairs, published: list, out: Path, profile: str, seeds: int | None, jobs: int
) -> Outcome:
    numbers = range(seeds or {"smoke": 1, "quick": 1, "paper": 10}[profile])
    folds = range(PROFILES[profile]["folds"])
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    settings = configuration(models, profile)
    resumed = claim(CARD, out, data, settings)
    plan = {
        _job(model, seed, fold): {"model": model, "seed": seed, "fold": fold, "profile": profile}
        for model in models for seed in numbers for fold in folds
    }  # fmt: skip
    results = run_jobs(table_run, plan, out / "jobs", n_jobs=jobs)
    found = {m: [results[_job(m, seed, fold)] for seed in numbers for fold in folds] for m in models}
    rows = [{"model": model, **averages(found[model])} for model in models]
    errors = {model: np.array([result["mae"] for result in found[model]]) for model in models}
    by_seed = {model: errors[model].reshape(len(numbers), len(folds)).mean(1) for model in models}
    extra = {"note": NOTE, "configuration": settings}
    for what, values in (("", errors), (" over seeds", by_seed)):
        extra[f"differences{what}"] = {f"MAE of {a} - {b}": paired_difference(values[a], values[b]) for a, b in pairs}
        extra[f"ratios{what}"] = {f"MAE of {a} / {b}": paired_ratio(values[a], values[b]) for a, b in pairs}
    extra["folds"] = [f"seed {seed}, fold {fold}" for seed in numbers for fold in folds]
    extra["mae by fold"] = {model: [round(float(error), 4) for error in errors[model]] for model in models}
    text = table_text([*rows, *published], extra)
    return Outcome([*rows, *published], data, list(numbers), extra | timing(results, resumed), text)


def _job(model: str, seed: int, fold: int) -> str:
    words = "".join(c if c.isalnum() else "-" for c in model)
    return f"{'-'.join(filter(None, words.split('-')))}-{seed}-{fold}"


def table_text(rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> str:
    """Return the table for the terminal, with the paired differences and ratios below."""
    shown = []
    for row in rows:
        kept = {k: row[k] for name in SHOWN for k in (name, f"{name}_se") if k in row}
        mark = " (published, own data)" if row.get("source") == PUBLISHED else ""
        shown.append(kept | {"model": f"{row['model']}{mark}"})
    lines = [format_table(shown), ""]
    for name, sign in (("differences", "+.2f"), ("ratios", ".3f")):
        for what, (value, error) in extra[name].items():
            over_folds = "" if error is None else f" ± {error:{sign.lstrip('+')}} (paired SE over folds)"
            over_seeds = extra[f"{name} over seeds"][what][1]
            lines.append(
                f"{what}: {value:{sign}}{over_folds}"
                + ("" if over_seeds is None else f", ± {over_seeds:{sign.lstrip('+')}} over seeds")
            )
    return "\n".join(lines)
