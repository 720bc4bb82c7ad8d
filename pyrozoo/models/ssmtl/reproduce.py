"""The experiments of the entry: ``pyrozoo reproduce ssmtl dryer|table1|reference``.

Every run is a job with a result file of its own, so that an experiment can be stopped at any moment and continued by
the same command. Configurations come from the committed records of `tune`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...files import atomic_write_json, read_json_object
from ...io import load, save
from ...jobs import run_jobs
from ...record import format_table, mean_se, paired_difference, read_record, write_record
from ...scores import summarise
from .card import CARD
from .data import PRESETS, dryer, simulate
from .published import TABLE_1
from .runs import INTERVALS, dryer_run, table1_run
from .tune import chosen

PROFILES = ("smoke", "quick", "paper")
TREES = ("pooled_trees", "trees_with_offset", "trees_with_unit_means", "trees_with_unit_means_and_offset")
COVERAGES = tuple(f"cover{level}" for level in INTERVALS)
RATIOS = (1, 5, 20)
RESTARTS = 2
SMOKE_BATCHES = 6
NOTE_DRYER = (
    "RMSE of CollectorTankLevel (0 to 116, sd 24) with five labelled rows in each of 71 batches. 'same': the "
    "unlabelled rows of the same batches, whose inputs were in training (transductive). 'later': the last 25 % "
    "of each batch, kept out altogether."
)
NOTE_TABLE1 = (
    "Simulated data: 50 units, 5 labelled and 5 x ratio unlabelled rows each, 100 test rows; MAPE in percent over "
    "units. Published rows are the paper's, on its own data, which differ from these."
)


def dryer_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/ssmtl-dryer"
) -> dict[str, Any]:
    """Real dryer data: SSMTL, MTL and trees with the same five labels per batch, in one table with a report.

    Args:
        profile: "smoke" (a few steps on a few batches, to see it run), "quick" (one draw of labels) or "paper"
            (20 draws).
        seeds: Number of label draws, 0, 1, ... in place of the profile's.
        jobs: Processes.
        out: Folder for record.json, table.csv, posterior.nc and figures.
    """
    started, out = time.perf_counter(), Path(out)
    draws = range(seeds or {"smoke": 1, "quick": 1, "paper": 20}[_known(profile)])
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    resumed = _claim(out, data)
    plan: dict[str, dict[str, Any]] = {}
    for draw in draws:
        for protocol in ("same", "later"):
            for model in ("ssmtl", "mtl"):
                plan[f"{model}-{protocol}-{draw}"] = {
                    "model": model, "draw": draw, "protocol": protocol, **_configuration("dryer", model, profile),
                }  # fmt: skip
            plan |= {f"{m}-{protocol}-{draw}": {"model": m, "draw": draw, "protocol": protocol} for m in TREES}
    batches = SMOKE_BATCHES if profile == "smoke" else None
    if batches:
        plan = {name: {**job, "batches": batches} for name, job in plan.items()}
    for restart in range(RESTARTS):  # the restarts of the first draw are what the report shows
        name = "ssmtl-same-0" if restart == 0 else f"ssmtl-same-0-restart-{restart}"
        plan[name] = {**plan["ssmtl-same-0"], "repeat": restart, "save": str(out / "fits" / f"restart-{restart}")}
    plan = dict(sorted(plan.items(), key=lambda item: item[0].split("-")[0] != "ssmtl"))  # the long ones first
    results = run_jobs(dryer_run, plan, out / "jobs", n_jobs=jobs)
    rows = [
        _dryer_row(results, model, protocol, draws)
        for protocol in ("same", "later")
        for model in (*TREES, "mtl", "ssmtl")
    ]
    differences = {
        f"RMSE of SSMTL - {_label(other)} ({protocol})": paired_difference(
            [results[f"ssmtl-{protocol}-{d}"]["rmse"] for d in draws],
            [results[f"{other}-{protocol}-{d}"]["rmse"] for d in draws],
        )
        for protocol in ("same", "later")
        for other in ("mtl", "trees_with_unit_means")
    }
    print(summary_table(rows, differences))
    from .report import dryer_report

    extra = {"note": NOTE_DRYER, "differences": differences, "configurations": _configurations("dryer", profile)}
    extra["report"] = dryer_report(_restarts(out), out, batches=batches)
    extra |= _timing(results, resumed)
    return _record(out, rows, "dryer", profile, data, list(draws), time.perf_counter() - started, extra)


def table1_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/ssmtl-table1"
) -> dict[str, Any]:
    """Table 1 on simulated data: STL, MTL and SSMTL at ratios 1, 5 and 20, with the published rows beside.

    Args:
        profile: "smoke", "quick" (3 data seeds) or "paper" (the same with 20 network initialisations each, averaged
            per unit).
        seeds: Number of data seeds, 0, 1, ... in place of the profile's.
        jobs: Processes.
        out: Folder for record.json and table.csv.
    """
    started, out = time.perf_counter(), Path(out)
    data_seeds = range(seeds or {"smoke": 1, "quick": 3, "paper": 3}[_known(profile)])
    data = _table1_data(data_seeds)
    resumed = _claim(out, data)
    repeats = range(20 if profile == "paper" else 1)
    plan: dict[str, dict[str, Any]] = {}
    for seed in data_seeds:
        for repeat in repeats:
            for model, ratios in (("ssmtl", RATIOS), ("mtl", (1,))):
                for ratio in ratios:
                    plan[f"{model}-{ratio}-{seed}-{repeat}"] = {
                        "model": model, "seed": seed, "ratio": ratio, "repeat": repeat,
                        **_configuration("table1", model, profile),
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
        row = {"model": _label(model), "ratio": ratio if model == "ssmtl" else None}
        rows += [row | _averages(per_seed(model, ratio)), *_published(row)]

    def ratio_of(which: tuple[str, int]) -> str:
        return f"({which[1]})" if which[0] == "ssmtl" else ""

    pairs = [(("ssmtl", 20), ("mtl", 1)), (("mtl", 1), ("STL", 1)), (("ssmtl", 20), ("ssmtl", 1))]
    differences = {
        f"mean MAPE of {_label(a[0])}{ratio_of(a)} - {_label(b[0])}{ratio_of(b)}": paired_difference(
            [s["mape"] for s in per_seed(*a)], [s["mape"] for s in per_seed(*b)]
        )
        for a, b in pairs
    }
    print(summary_table(rows, differences))
    extra = {"note": NOTE_TABLE1, "differences": differences, "configurations": _configurations("table1", profile)}
    extra |= _timing(results, resumed)
    return _record(out, rows, "table1", profile, data, list(data_seeds), time.perf_counter() - started, extra)


def reference_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/ssmtl-reference"
) -> dict[str, Any]:
    """Make the small trained fit that ships with the package: the tuned SSMTL on the dryer, first draw of labels.

    Its folder then goes to ``pyrozoo/models/ssmtl/reference/dryer``.
    """
    started, out = time.perf_counter(), Path(out)
    job = {"model": "ssmtl", "draw": 0, "save": str(out / "fit"), **_configuration("dryer", "ssmtl", _known(profile))}
    result = run_jobs(dryer_run, {"reference": job}, out / "jobs", n_jobs=jobs)["reference"]
    rows = [{"model": "SSMTL", "rmse": result["rmse"], **{c: result[c] for c in COVERAGES}}]
    print(format_table(rows))
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    return _record(
        out / "fit", rows, "reference", profile, data, [0], time.perf_counter() - started, {"note": NOTE_DRYER}
    )


EXPERIMENTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "dryer": dryer_experiment,
    "table1": table1_experiment,
    "reference": reference_experiment,
}


def _known(profile: str) -> str:
    if profile not in PROFILES:
        raise ValueError(f"profile: {profile!r} is none of {list(PROFILES)}")
    return profile


def _claim(out: Path, data: Mapping[str, Any]) -> bool:
    """Let the folder belong to this version of the entry and these data; return whether it was begun before.

    Raises:
        ValueError: Its finished jobs are of another version or other data.
    """
    identity = {"model": f"{CARD.name}@{CARD.version}", "data": data["sha256"]}
    file = out / "identity.json"
    if file.exists() and read_json_object(file, "the identity of an experiment") != identity:
        raise ValueError(f"{out} holds results of another version of the entry or of other data; choose another folder")
    begun = (out / "jobs").exists()
    atomic_write_json(file, identity)
    return begun


def _timing(results: Mapping[str, Mapping[str, Any]], resumed: bool) -> dict[str, Any]:
    """Time in the jobs, of earlier calls too; ``wall_time_s`` of the record is that of the last call."""
    return {"job_seconds": sum(r["seconds"] for r in results.values()), "threads_per_job": 1, "resumed": resumed}


def _table1_data(seeds: range) -> dict[str, Any]:
    digests = [simulate(50, 5, 100, 100, seed=seed, **PRESETS["any-valve"])[0].sha256 for seed in seeds]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return {"name": "simulated (any valve), training data of all seeds", "sha256": digest, "simulated": True}


def _configuration(experiment: str, model: str, profile: str) -> dict[str, Any]:
    configuration = chosen(experiment, model)
    if profile == "smoke":
        configuration["settings"]["steps"] = 20
    return configuration


def _configurations(experiment: str, profile: str) -> dict[str, Any]:
    return {model: _configuration(experiment, model, profile) for model in ("mtl", "ssmtl")}


def _label(model: str) -> str:
    names = {"ssmtl": "SSMTL", "mtl": "MTL", "STL_default_gamma": "STL (only C tuned)"}
    return names.get(model, model.replace("_", " "))


def _dryer_row(results: Mapping[str, Any], model: str, protocol: str, draws: range) -> dict[str, Any]:
    found = [results[f"{model}-{protocol}-{draw}"] for draw in draws]
    row: dict[str, Any] = {"model": _label(model), "scored": protocol}
    return row | _averages([{k: r[k] for k in ("rmse", *COVERAGES, "seconds") if k in r} for r in found])


def _averages(found: list[dict[str, float]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in found[0]:
        out[name], out[f"{name}_se"] = mean_se([result[name] for result in found])
    return out


def _table1_scores(repeats: list[dict[str, Any]]) -> dict[str, float]:
    """Scores of one data set: errors averaged per unit over the repeats, then summarised over units."""
    import pandas as pd

    out: dict[str, float] = {}
    for name in ("mape", "wmape"):
        summary = summarise(pd.Series(np.mean([result[name] for result in repeats], axis=0)))
        out |= {name if key == "mean" else f"{name}_{key}": value for key, value in summary.items()}
    shared = [c for c in (*COVERAGES, "seconds") if c in repeats[0]]
    return out | {c: float(np.mean([result[c] for result in repeats])) for c in shared}


def _published(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The published row of the same model; ours with only C tuned is the paper's STL as far as it is described."""
    label = "STL" if row["model"].startswith("STL (") else row["model"] if row["model"] != "STL" else None
    return [
        dict(published) for published in TABLE_1 if (published["model"], published["ratio"]) == (label, row["ratio"])
    ]


def summary_table(rows: list[dict[str, Any]], differences: Mapping[str, Any]) -> str:
    """The table of a record as text, with the paired differences of its first score below."""
    lines = [format_table(_printed(rows)), ""]
    for name, (difference, error) in differences.items():
        lines.append(f"{name}: {difference:+.2f}" + ("" if error is None else f" ± {error:.2f} (paired SE)"))
    return "\n".join(lines)


def _printed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that fit a terminal."""
    keep = (
        "model",
        "scored",
        "ratio",
        "rmse",
        "mape",
        "mape_p10",
        "mape_p50",
        "mape_p90",
        "wmape",
        *COVERAGES,
        "seconds",
    )
    out = []
    for row in rows:
        shown = {k: row[k] for name in keep for k in (name, f"{name}_se") if k in row}
        out.append(shown | ({"model": f"{row['model']} (published, own data)"} if "reference" in row else {}))
    return out


def _record(
    out: Path, rows: list, experiment: str, profile: str, data: dict, seeds: list[int], seconds: float, extra: dict
) -> dict[str, Any]:
    write_record(
        out, rows, model=CARD.name, version=CARD.version, experiment=experiment, profile=profile, data=data,
        seeds=seeds,
        wall_time_s=round(seconds, 1), extra=extra,
    )  # fmt: skip
    print(f"{out / 'record.json'} ({seconds:.0f} s)")
    return read_record(out)


def _restarts(out: Path) -> Any:
    """One fit with the restarts that were run as separate jobs."""
    fits = [load(out / "fits" / f"restart-{restart}") for restart in range(RESTARTS)]
    fits[0].runs = [run for fit in fits for run in fit.runs]
    save(fits[0], out / "fit", overwrite=True)
    return fits[0]
