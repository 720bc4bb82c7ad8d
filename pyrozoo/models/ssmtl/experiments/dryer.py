"""Real dryer data: SSMTL, MTL and trees with the same five labels per batch; and the reference fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, timing
from ..data.datasets import dryer
from .cross_fitted import SMOKE_BATCHES, cross_fit, scored, summary
from .runs import dryer_run
from .shared import COVERAGES, claim, configuration, configurations, label, summary_table

TREES = ("pooled_trees", "trees_with_offset", "trees_with_unit_means", "trees_with_unit_means_and_offset")
NOTE_DRYER = (
    "RMSE of CollectorTankLevel (0 to 116, sd 24) with five labelled rows in each of 71 batches. 'same': the "
    "unlabelled rows of the same batches, whose inputs were in training (transductive). 'later': the last 25 % "
    "of each batch, kept out altogether."
)


def dryer_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Real dryer data: SSMTL, MTL and trees with the same five labels per batch, in one table with a report.

    The table leads with SSMTL as `pyrozoo.cross_fitted` makes it, of which the report is; SSMTL of the rows below is
    one longer fit of wider networks.

    Args:
        out: Folder for record.json, table.csv, posterior.nc and figures.
        profile: "smoke" (a few steps on a few batches, to see it run), "quick" (one draw of labels) or "paper"
            (20 draws).
        seeds: Number of label draws; None takes the profile's.
        jobs: Number of worker processes.
    """
    draws = range(seeds or {"smoke": 1, "quick": 1, "paper": 20}[profile])
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    resumed = claim(out, data)
    plan: dict[str, dict[str, Any]] = {}
    for draw in draws:
        for protocol in ("same", "later"):
            for model in ("ssmtl", "mtl"):
                plan[f"{model}-{protocol}-{draw}"] = {
                    "model": model, "draw": draw, "protocol": protocol, **configuration("dryer", model, profile),
                }  # fmt: skip
            plan |= {f"{m}-{protocol}-{draw}": {"model": m, "draw": draw, "protocol": protocol} for m in TREES}
    batches = SMOKE_BATCHES if profile == "smoke" else None
    if batches:
        plan = {name: {**job, "batches": batches} for name, job in plan.items()}
    fits = {draw: cross_fit(out / "cross-fitted" / f"draw-{draw}", draw, profile, jobs) for draw in draws}
    folders = {draw: out / "cross-fitted" / f"draw-{draw}" for draw in draws}
    crossed = {draw: scored(fit, folders[draw], draw, profile) for draw, fit in fits.items()}
    plan = dict(sorted(plan.items(), key=lambda item: item[0].split("-")[0] != "ssmtl"))  # the long ones first
    results = run_jobs(dryer_run, plan, out / "jobs", n_jobs=jobs)
    rows = summary(crossed.values())[::-1] + [
        _dryer_row(results, model, protocol, draws)
        for protocol in ("same", "later")
        for model in (*TREES, "mtl", "ssmtl")
    ]
    differences = {
        f"RMSE of SSMTL - {label(other)} ({protocol})": paired_difference(
            [results[f"ssmtl-{protocol}-{d}"]["rmse"] for d in draws],
            [results[f"{other}-{protocol}-{d}"]["rmse"] for d in draws],
        )
        for protocol in ("same", "later")
        for other in ("mtl", "trees_with_unit_means")
    }
    from .report import dryer_report

    extra = {"note": NOTE_DRYER, "differences": differences, "configurations": configurations("dryer", profile)}
    fits[0].save(out / "fit", overwrite=True)
    extra["cross_fitted"] = {str(draw): found for draw, found in crossed.items()}
    extra["report"] = dryer_report(fits[0], out, batches=batches)
    extra |= timing(results, resumed)
    text = summary_table(rows, differences)
    if batches is None:
        text += f"\n\nwhether to use the fit: {out / 'report.html'}"
    return Outcome(rows, data, list(draws), extra, text)


def reference_experiment(out: Path, profile: str = "quick", jobs: int = 1) -> dict[str, Outcome]:
    """Make the small trained fit that ships with the package: the tuned SSMTL on the dryer, first draw of labels.

    The subfolder ``fit`` of `out`, with its record, then goes to ``pyrozoo/models/ssmtl/reference/dryer``.

    Args:
        out: Folder for the fit and its record.
        profile: "smoke" (a few steps), or "quick" and "paper", which are the same.
        jobs: Number of worker processes, of which the one fit uses one.
    """
    job = {"model": "ssmtl", "draw": 0, "save": str(out / "fit"), **configuration("dryer", "ssmtl", profile)}
    result = run_jobs(dryer_run, {"reference": job}, out / "jobs", n_jobs=jobs)["reference"]
    rows = [{"model": "SSMTL", "rmse": result["rmse"], **{c: result[c] for c in COVERAGES}}]
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    return {"fit": Outcome(rows, data, [0], {"note": NOTE_DRYER}, format_table(rows))}


def _dryer_row(results: Mapping[str, Any], model: str, protocol: str, draws: range) -> dict[str, Any]:
    found = [results[f"{model}-{protocol}-{draw}"] for draw in draws]
    row: dict[str, Any] = {"model": label(model), "scored": protocol}
    return row | averages([{k: r[k] for k in ("rmse", *COVERAGES, "seconds") if k in r} for r in found])
