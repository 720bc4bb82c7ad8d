"""Simulated recordings: what unlabelled recordings beside a few labelled ones do to the posterior of the process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ....inference.fit import fit
from ....modeling import registry
from ....posterior.drawing import draw
from ..card import CARD
from ..data.protocols import PROTOCOLS
from ..data.simulator import simulate
from ..uses.decoding import decode_recordings

SITES = ("duration_mean", "duration_sd", "gap_mean", "gap_sd")
NOTE = (
    "Simulated pen recordings of medium difficulty; guide `normal` (SVI) on 8 labelled recordings, without and with 32 "
    "unlabelled ones. Per site, over its positions: root mean squared error of the posterior mean against the "
    "simulator's value [s], mean posterior standard deviation [s], and share of the simulator's values inside the "
    "central 90 % interval; frame accuracy and NLL of the default decoder on 60 other recordings. Mean and standard "
    "error over data seeds."
)


def unlabelled_run(seed: int, unlabelled: bool, n_labelled: int, n_unlabelled: int, steps: int) -> dict[str, Any]:
    """Fit and score one model, on the labelled recordings alone or on all."""
    started = time.perf_counter()
    train = simulate("pen", n_labelled, "medium", 2 * seed, n_unlabelled=n_unlabelled)
    test = simulate("pen", 60, "medium", 2 * seed + 1)
    only = train.subset(np.flatnonzero(train["labelled"].numpy()))
    model = registry.create_model("medication", only, unlabelled=unlabelled)
    settings: dict[str, Any] = {"steps": steps, "batch_size": None, "schedule": "cosine", "progress": False}
    found = fit(model, "normal", train if unlabelled else only, seed=seed, **settings)
    drawn = draw(found, only, draws=200, seed=seed, sites=list(SITES), predictive=False).groups["posterior"]
    out: dict[str, Any] = {}
    for site, truth in _truth(found.model).items():
        own = drawn[site][0]
        low, high = np.quantile(own, (0.05, 0.95), axis=0)
        out |= {
            f"{site}_rmse": float(np.sqrt(((own.mean(0) - truth) ** 2).mean())),
            f"{site}_sd": float(own.std(0).mean()),
            f"{site}_cover90": float(((low <= truth) & (truth <= high)).mean()),
        }
    scores = decode_recordings(found, test, seed=seed).scores(test)
    out |= {name: scores[name] for name in ("frame_accuracy", "frame_nll")}
    return out | {"seconds": round(time.perf_counter() - started, 2)}


def _truth(model: Any) -> dict[str, np.ndarray]:
    """Return the simulator's values in the order of the sites, in seconds."""
    protocol, pairs = PROTOCOLS["pen"], model.pairs
    keys = [(int(pairs.h[i]), int(pairs.k[i])) for i in pairs.later]
    return {
        "duration_mean": np.asarray(protocol.duration_mean), "duration_sd": np.asarray(protocol.duration_sd),
        "gap_mean": np.array([protocol.gap_mean[key] for key in keys]),
        "gap_sd": np.array([protocol.gap_sd[key] for key in keys]),
    }  # fmt: skip


def unlabelled_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Simulated data: parameters and decoding with and without unlabelled recordings beside eight labelled ones.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (few steps), "quick" (3 data seeds) or "paper" (10).
        seeds: Number of data seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(seeds or {"smoke": 1, "quick": 3, "paper": 10}[profile])
    n_labelled, n_unlabelled, steps = (4, 3, 5) if profile == "smoke" else (8, 32, 1000)
    data = simulated_data(
        "simulated pen recordings of all seeds",
        [simulate("pen", n_labelled, "medium", 2 * seed, n_unlabelled=n_unlabelled) for seed in numbers],
    )
    resumed = claim(CARD, out, data)
    plan = {
        f"{'both' if unlabelled else 'labelled'}-{seed}": {
            "seed": seed, "unlabelled": unlabelled, "n_labelled": n_labelled, "n_unlabelled": n_unlabelled,
            "steps": steps,
        }
        for unlabelled in (False, True)
        for seed in numbers
    }  # fmt: skip
    results = run_jobs(unlabelled_run, plan, out / "jobs", n_jobs=jobs)
    found = {kind: [results[f"{kind}-{seed}"] for seed in numbers] for kind in ("labelled", "both")}
    rows = []
    for kind, own in found.items():
        model = "labelled only" if kind == "labelled" else "with unlabelled"
        means = averages([{k: v for k, v in r.items() if k != "seconds"} for r in own])
        decoding = {k: v for k, v in means.items() if k.startswith("frame")}
        for site in SITES:
            row: dict[str, Any] = {"model": model, "site": site}
            for what in ("rmse", "sd", "cover90"):
                row |= {what: means[f"{site}_{what}"], f"{what}_se": means[f"{site}_{what}_se"]}
            rows.append(row | decoding)
    differences = {
        name: paired_difference([r[name] for r in found["both"]], [r[name] for r in found["labelled"]])
        for name in found["both"][0]
        if name != "seconds"
    }
    extra = {"note": NOTE, "with_unlabelled_minus_labelled": differences, **timing(results, resumed)}
    return Outcome(rows, data, list(numbers), extra, format_table(rows))
