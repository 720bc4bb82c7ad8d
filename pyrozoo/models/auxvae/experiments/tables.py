"""Tables 1, 2 and 3 of the paper on simulated data: people left out, folds x seeds as jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....experiments import averages, claim, finish, known, simulated_data, timing
from ....jobs import run_jobs
from ....record import PUBLISHED, format_table, paired_difference, paired_ratio
from ..card import CARD
from ..published import TABLE_1, TABLE_2, TABLE_3
from ..runs import ENCODERS, PROFILES, SETTINGS, data_of, table_run

NOTE = (
    "Simulated gait, not recorded: 22 people, 4 styles x 4 loads and one unloaded walk each. Mean absolute error of "
    "the load in lb, accuracy of the style, share of loads inside the predictive intervals, over people who were not "
    "in training; mean and standard error over folds of all seeds. Published rows are the paper's, on its own data."
)
OURS = "5: cross-attention, style"
SHOWN = ("model", "mae", "accuracy", "cover90", "width90", "active", "seconds")
Pairs = Sequence[tuple[str, str]]


def table1_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/auxvae-table1"
) -> dict[str, Any]:
    """Table 1 on simulated data: baselines with x_aux by concatenation and with the style, beside AuxVAE.

    Args:
        profile: "smoke", "quick" (T = 120, 5 folds, 1 seed) or "paper" (T = 800, leave one person out, 10 seeds).
        seeds: Number of seeds, 0, 1, ... in place of the profile's.
        jobs: Processes.
        out: Folder for record.json and table.csv.
    """
    with_both = [f"{name}, x_aux and style" for name in ENCODERS]
    pairs = [(OURS, name) for name in with_both]
    return _experiment("table1", [*with_both, OURS], pairs, TABLE_1, profile, seeds, jobs, Path(out))


def table2_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/auxvae-table2"
) -> dict[str, Any]:
    """Table 2 on simulated data: the ablation of x_aux, its fusion and the style, and the form with a difference.

    Arguments as of `table1_experiment`. ``extra`` holds the ratio of the errors of settings 3 and 2.
    """
    rows = list(SETTINGS)
    pairs = [(rows[2], rows[1]), (rows[1], rows[0]), (rows[4], rows[2]), (rows[4], rows[3]), (rows[5], rows[2])]
    return _experiment("table2", rows, pairs, TABLE_2, profile, seeds, jobs, Path(out))


def table3_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/auxvae-table3"
) -> dict[str, Any]:
    """Table 3 on simulated data: baselines from the loaded walk alone, which predict the load alone.

    Arguments as of `table1_experiment`.
    """
    return _experiment("table3", list(ENCODERS), [], TABLE_3, profile, seeds, jobs, Path(out))


def _experiment(
    name: str, models: Sequence[str], pairs: Pairs, published: list, profile: str, seeds: int | None, jobs: int,
    out: Path,
) -> dict[str, Any]:  # fmt: skip
    started = time.perf_counter()
    numbers = range(seeds or {"smoke": 1, "quick": 1, "paper": 10}[known(profile)])
    folds = range(PROFILES[profile]["folds"])
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    resumed = claim(CARD, out, data)
    plan = {
        _job(model, seed, fold): {"model": model, "seed": seed, "fold": fold, "profile": profile}
        for model in models for seed in numbers for fold in folds
    }  # fmt: skip
    results = run_jobs(table_run, plan, out / "jobs", n_jobs=jobs)
    found = {m: [results[_job(m, seed, fold)] for seed in numbers for fold in folds] for m in models}
    rows = [{"model": model, **averages(found[model])} for model in models]
    differences = {f"MAE of {a} - {b}": paired_difference(_of(found[a]), _of(found[b])) for a, b in pairs}
    ratios = {f"MAE of {a} / {b}": paired_ratio(_of(found[a]), _of(found[b])) for a, b in pairs}
    print(_text([*rows, *published], differences))
    extra = {"note": NOTE, "differences": differences, "ratios": ratios, **timing(results, resumed)}
    seconds = time.perf_counter() - started
    return finish(CARD, out, [*rows, *published], name, profile, data, list(numbers), seconds, extra)


def _of(results: Sequence[Mapping[str, Any]]) -> list[float]:
    return [result["mae"] for result in results]


def _job(model: str, seed: int, fold: int) -> str:
    words = "".join(c if c.isalnum() else "-" for c in model)
    return f"{'-'.join(filter(None, words.split('-')))}-{seed}-{fold}"


def _text(rows: Sequence[Mapping[str, Any]], differences: Mapping[str, Any]) -> str:
    """The table for the terminal, with the paired differences below."""
    shown = []
    for row in rows:
        kept = {k: row[k] for name in SHOWN for k in (name, f"{name}_se") if k in row}
        mark = " (published, own data)" if row.get("source") == PUBLISHED else ""
        shown.append(kept | {"model": f"{row['model']}{mark}"})
    lines = [format_table(shown), ""]
    for name, (difference, error) in differences.items():
        lines.append(f"{name}: {difference:+.2f}" + ("" if error is None else f" ± {error:.2f} (paired SE)"))
    return "\n".join(lines)
