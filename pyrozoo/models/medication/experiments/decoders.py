"""Simulated recordings: every decoder and reading at three difficulties, the recursion's misses, steps performed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ..card import CARD
from ..data.simulator import DIFFICULTIES, simulate
from .runs import simulated_run

DEVICES = ("pen", "inhaler")
SCORES = ("frame_accuracy", "segment_f1", "edit", "frame_nll")
NOTE = (
    "Simulated data: labels from a renewal process (so the hazard reading is the true one), scores of a simulated "
    "classifier. 60 labelled recordings to fit, others to score. Mean and standard error over data seeds. `misses`: "
    "share of recordings in which the text's recursion misses the exact maximum of its own model, the nats it loses "
    "there and the share of frames that differ. `auroc`: whether a step was performed at all, pooled over steps."
)
# name -> variant, arguments, decoders
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "vanilla": ("frame-hmm", {}, ("argmax", "viterbi")),
    "cdf, power 1": ("paper", {}, ("paper", "map", "marginal", "mea")),
    "cdf, fitted power": ("paper", {"power": "fit", "floor": 0.01}, ("paper", "map", "marginal", "mea")),
    "hazard, power 1": ("semi-markov", {"power": 1.0, "floor": 1e-4}, ("paper", "map", "marginal", "mea")),
    "hazard, fitted power": ("semi-markov", {}, ("paper", "map", "marginal", "mea")),
}

# Model -> decoders of the page's first table.
SHOWN = {
    "no process": ("argmax",), "vanilla": ("viterbi",), "cdf, power 1": ("paper", "map"), "hazard, power 1": ("map",),
    "hazard, fitted power": ("map", "marginal", "mea"),
}  # fmt: skip
ANSWERS = {"paper": "recursion", "map": "exact map", "marginal": "posterior"}  # was a step performed?


def decoders_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Simulated data: every decoder x reading x difficulty, how often the text's recursion misses, steps performed.

    Args:
        out: Folder for record.json, table.csv and figures.
        profile: "smoke" (one device, few recordings), "quick" (3 seeds, 60 test recordings), "paper" (10 seeds, 200).
        seeds: Number of data seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(seeds or {"smoke": 1, "quick": 3, "paper": 10}[profile])
    n_train, n_test = {"smoke": (10, 5), "quick": (60, 60), "paper": (60, 200)}[profile]
    devices = DEVICES[:1] if profile == "smoke" else DEVICES
    cases = [(device, difficulty) for device in devices for difficulty in DIFFICULTIES]
    data = simulated_data(
        "simulated inhaler and pen recordings of all seeds",
        [simulate(device, n_train, difficulty, 2 * seed) for device, difficulty in cases for seed in numbers],
    )
    resumed = claim(CARD, out, data)
    plan = {}
    for device, difficulty in cases:
        for name, (variant, arguments, decoders) in MODELS.items():
            for seed in numbers:
                plan[_job(device, difficulty, name, seed)] = {
                    "device": device, "difficulty": difficulty, "seed": seed, "variant": variant,
                    "guide": "closed-form", "decoders": list(decoders), "arguments": arguments, "n_train": n_train,
                    "n_test": n_test, "exactness": variant != "frame-hmm",
                }  # fmt: skip
    results = run_jobs(simulated_run, plan, out / "jobs", n_jobs=jobs)
    rows = [row for case in cases for row in _rows(results, *case, numbers)]
    if profile != "smoke":
        from .report import simulated_figures

        simulated_figures(out / "figures")
    extra = {"note": NOTE, **timing(results, resumed)}
    text = format_table([{k: v for k, v in row.items() if "nats" not in k} for row in rows])
    return Outcome(rows, data, list(numbers), extra, text)


def decoders_tables(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Return the tables of the page: some decoders, what the text's recursion misses, and steps performed.

    Args:
        rows: Rows of the record.
    """
    shown = [row for row in rows if row["decoder"] in SHOWN.get(row["model"], ())]
    missed = [row for row in rows if row["decoder"] == "paper" and row["model"].endswith("power 1")]
    short = {"missed": "share"} | {name: name for name in ("nats_median", "nats_p90", "frames_changed")}
    ends = ("", "_se")
    misses = [
        {**_case(row), **{f"{name}{end}": row[f"misses_{own}{end}"] for name, own in short.items() for end in ends}}
        for row in missed
    ]
    performed: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        if row["model"] in ("cdf, power 1", "hazard, fitted power") and row["decoder"] in ANSWERS:
            line = performed.setdefault(tuple(_case(row).values()), _case(row))
            line |= {f"{ANSWERS[row['decoder']]}{end}": row[f"auroc{end}"] for end in ends}
    columns = ("frame_accuracy", "segment_f1", "edit", "frame_nll", "power")
    scored = [
        {**_case(row), "decoder": row["decoder"]}
        | {k: row[k] for name in columns for k in (name, f"{name}_se") if k in row}
        for row in shown
    ]
    return format_table(scored), format_table(misses), format_table(list(performed.values()))


def _case(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("model", "device", "difficulty")}


def _job(device: str, difficulty: str, model: str, seed: int) -> str:
    return f"{device}-{difficulty}-{model.replace(', ', '-').replace(' ', '-')}-{seed}"


def _rows(results: Mapping[str, Any], device: str, difficulty: str, seeds: range) -> list[dict[str, Any]]:
    rows = []
    for name, (_, _, decoders) in MODELS.items():
        found = [results[_job(device, difficulty, name, seed)] for seed in seeds]
        for decoder in decoders:
            row: dict[str, Any] = {"model": name, "device": device, "difficulty": difficulty, "decoder": decoder}
            row |= averages([{score: r[decoder][score] for score in SCORES} for r in found])
            if decoder == "argmax":
                row |= {"model": "no process", "frame_nll": None, "frame_nll_se": None}
            if decoder == "paper":
                row |= averages([{f"misses_{k}": v for k, v in r["misses"].items()} for r in found])
            answer = {"paper": "paper", "map": "map", "marginal": "posterior"}.get(decoder)
            if answer and "performed" in found[0]:
                row |= averages([{"auroc": r["performed"][answer]} for r in found])
            rows.append(row | averages([{"power": r["power"]} for r in found]))
    return rows
