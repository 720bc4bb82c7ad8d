"""Choices tried on one fold of a few simulations: noise, KL weight and scale; and the readings of the paper's loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ..card import CARD
from ..model import whole_training
from .runs import LEARNED, PAPER_LOSS, PAPER_LOSS_LB, configuration, data_of, table_run

DEVELOPMENT = 100  # the first seed of simulations that no table scores
OURS, PAPER = "departure, style", "5: cross-attention, style"
# What is tried: a row of the tables and what is changed in its model.
TRIED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "departure": (OURS, {}),
    "departure, noise 0.35": (OURS, {"noise": 0.35}),
    "departure, noise 1": (OURS, {"noise": 1.0}),
    "departure, beta 0.1": (OURS, {"beta": 0.1}),
    "departure, beta 1": (OURS, {"beta": 1.0}),
    "departure, own scale": (OURS, {"own_scale": True}),
    "departure, no staircase": (OURS, {"staircase": False}),
    "5: cross-attention": (PAPER, {}),
    "5: cross-attention, own scale": (PAPER, {"own_scale": True}),
}
LEARNED_OURS = next(iter(LEARNED))
LEARNED_TRIED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "learned departure": (LEARNED_OURS, {}),
    "learned departure, noise 0.35": (LEARNED_OURS, {"noise": 0.35}),
    "learned departure, noise 1": (LEARNED_OURS, {"noise": 1.0}),
    "learned departure, no crop": (LEARNED_OURS, {"crop": 1.0}),
    "learned departure, no staircase": (LEARNED_OURS, {"staircase": False}),
    "departure": (OURS, {}),
    "departure, no staircase": (OURS, {"staircase": False}),
}
LOSSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "default": (PAPER, {}),
    "PAPER_LOSS_LB: absolute error in lb": (PAPER, PAPER_LOSS_LB),
    "PAPER_LOSS: absolute error in sd": (PAPER, PAPER_LOSS),
}
SHOWN = ("model", "mae", "accuracy", "crps", "cover90", "width90", "active", "kl", "seconds")


def tuning_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Noise, KL weight and scale of the departure model, and the scale of setting 5, on development seeds.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (2 seeds, a fold each) or "paper" (the paper's sizes).
        seeds: Number of seeds, from 100 on; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(DEVELOPMENT, DEVELOPMENT + (seeds or {"smoke": 1, "quick": 2, "paper": 2}[profile]))
    note = (
        "Simulated gait of the development seeds, from 100 on, one fold each, people left out. The first row has the "
        "entry's defaults for 'departure'; the others change one of them."
    )
    return _experiment(TRIED, note, out, profile, numbers, jobs)


def learned_tuning_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Noise, crop and staircase of the learned departure, beside the given one, on development seeds.

    The arguments are those of `tuning_experiment`.
    """
    numbers = range(DEVELOPMENT, DEVELOPMENT + (seeds or {"smoke": 1, "quick": 2, "paper": 2}[profile]))
    note = (
        "Simulated gait of the development seeds, from 100 on, one fold each, people left out. The first row has the "
        "entry's defaults for 'learned-departure'; the next four change one of them; the last two are of 'departure'."
    )
    return _experiment(LEARNED_TRIED, note, out, profile, numbers, jobs)


def losses_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """The paper's loss in both readings of its absolute error, beside the default, for setting 5 of table 2.

    The arguments are those of `tuning_experiment`; seeds count from 0. The weight of the KL term grows to 1 over all
    epochs in the paper's losses.
    """
    numbers = range(seeds or {"smoke": 1, "quick": 2, "paper": 2}[profile])
    note = (
        "Simulated gait, one fold of every seed, people left out, setting 5 at the sizes of the profile. The paper's "
        "loss: mean squared error of the standardised walk, cross-entropy, absolute error of the load, and the KL "
        "term, whose weight grows to 1 over all epochs; the text does not say in which unit the absolute error is."
    )
    return _experiment(LOSSES, note, out, profile, numbers, jobs)


def choice_run(model: str, changed: Mapping[str, Any], seed: int, profile: str) -> dict[str, Any]:
    """Scores of one fit of a row of the tables with other arguments on the first fold of a simulation."""
    papers = changed.get("y_likelihood") in ("mae", "mae_lb")
    return table_run(model, seed, 0, profile, loss=changed, settings={"anneal": whole_training} if papers else None)


def _experiment(
    choices: Mapping[str, tuple[str, Mapping[str, Any]]], note: str, out: Path, profile: str, numbers: range, jobs: int
) -> Outcome:
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    settings = configuration({row for row, _ in choices.values()}, profile)
    resumed = claim(CARD, out, data, settings)
    plan = {
        f"{k}-{seed}": {"model": row, "changed": dict(changed), "seed": seed, "profile": profile}
        for k, (row, changed) in enumerate(choices.values()) for seed in numbers
    }  # fmt: skip
    results = run_jobs(choice_run, plan, out / "jobs", n_jobs=jobs)
    found = {name: [results[f"{k}-{seed}"] for seed in numbers] for k, name in enumerate(choices)}
    rows = [{"model": name, **averages(one)} for name, one in found.items()]
    extra = {
        "note": note, "configuration": settings, "changed": {name: dict(new) for name, (_, new) in choices.items()},
        "mae by seed": {name: [round(one["mae"], 4) for one in each] for name, each in found.items()},
    }  # fmt: skip
    text = format_table([{k: row[k] for name in SHOWN for k in (name, f"{name}_se") if k in row} for row in rows])
    return Outcome(rows, data, list(numbers), extra | timing(results, resumed), text)
