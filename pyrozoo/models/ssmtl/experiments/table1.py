"""Table 1 of the paper on simulated data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....criticism.scores import summarise
from ....experiments.jobs import run_jobs
from ....experiments.record import paired_difference
from ....experiments.running import Outcome, averages, simulated_data, timing
from ..data.simulator import PRESETS, simulate
from .published import TABLE_1
from .runs import table1_run
from .shared import COVERAGES, claim, configuration, configurations, label, summary_table

RATIOS = (1, 5, 20)
NOTE_TABLE1 = (
    "Simulated data: 50 units, 5 labelled and 5 x ratio unlabelled rows each, 100 test rows; MAPE in percent over "
    "units. Published rows are the paper's, on its own data, which differ from these."
)


def table1_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Table 1 on simulated data: STL, MTL and SSMTL at ratios 1, 5 and 20, with the published rows beside.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (3 data seeds) or "paper" (the same with 20 network initialisations each, averaged
            per unit).
        seeds: Number of data seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    data_seeds = range(seeds or {"smoke": 1, "quick": 3, "paper": 3}[profile])
    data = _table1_data(data_seeds)
    resumed = claim(out, data)
    repeats = range(20 if profile == "paper" else 1)
    plan: dict[str, dict[str, Any]] = {}
    for seed in data_seeds:
        for repeat in repeats:
            for model, ratios in (("ssmtl", RATIOS), ("mtl", (1,))):
                for ratio in ratios:
                    plan[f"{model}-{ratio}-{seed}-{repeat}"] = {
                        "model": model, "seed": seed, "ratio": ratio, "repeat": repeat,
                        **configuration("table1", model, profile),
                    }  # fmt: skip
        plan |= {f"{m}-1-{seed}-0": {"model": m, "seed": seed, "ratio": 1} for m in ("STL_default_gamma", "STL")}
    plan = dict(sorted(plan.items(), key=lambda item: not item[0].startswith("ssmtl-20")))
    results = run_jobs(table1_run, plan, out / "jobs", n_jobs=jobs)

    def per_seed(model: str, ratio: int) -> list[dict[str, float]]:
        count = repeats if model in ("ssmtl", "mtl") else range(1)
        return [_table1_scores([results[f"{model}-{ratio}-{seed}-{r}"] for r in count]) for seed in data_seeds]

    models = [("STL_default_gamma", 1), ("STL", 1), ("mtl", 1), *(("ssmtl", ratio) for ratio in RATIOS)]
    rows = []
    for model, ratio in models:
        row = {"model": label(model), "ratio": ratio if model == "ssmtl" else None}
        rows += [row | averages(per_seed(model, ratio)), *_published(row)]

    def ratio_of(which: tuple[str, int]) -> str:
        return f"({which[1]})" if which[0] == "ssmtl" else ""

    pairs = [(("ssmtl", 20), ("mtl", 1)), (("mtl", 1), ("STL", 1)), (("ssmtl", 20), ("ssmtl", 1))]
    differences = {
        f"mean MAPE of {label(a[0])}{ratio_of(a)} - {label(b[0])}{ratio_of(b)}": paired_difference(
            [s["mape"] for s in per_seed(*a)], [s["mape"] for s in per_seed(*b)]
        )
        for a, b in pairs
    }
    extra = {"note": NOTE_TABLE1, "differences": differences, "configurations": configurations("table1", profile)}
    extra |= timing(results, resumed)
    return Outcome(rows, data, list(data_seeds), extra, summary_table(rows, differences))


def _table1_data(seeds: range) -> dict[str, Any]:
    batches = (simulate(50, 5, 100, 100, seed=seed, **PRESETS["any-valve"])[0] for seed in seeds)
    return simulated_data("simulated (any valve), training data of all seeds", batches)


def _table1_scores(repeats: list[dict[str, Any]]) -> dict[str, float]:
    """Return the scores of one data set: errors averaged per unit over the repeats, then summarised over units."""
    out: dict[str, float] = {}
    for name in ("mape", "wmape"):
        summary = summarise(pd.Series(np.mean([result[name] for result in repeats], axis=0)))
        out |= {name if key == "mean" else f"{name}_{key}": value for key, value in summary.items()}
    shared = [c for c in (*COVERAGES, "seconds") if c in repeats[0]]
    return out | {c: float(np.mean([result[c] for result in repeats])) for c in shared}


def _published(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the published row of the same model; our STL with only C tuned is closest to what the paper describes."""
    label = "STL" if row["model"].startswith("STL (") else row["model"] if row["model"] != "STL" else None
    return [
        dict(published) for published in TABLE_1 if (published["model"], published["ratio"]) == (label, row["ratio"])
    ]
