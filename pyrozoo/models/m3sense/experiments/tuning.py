"""Choose settings: ``python -m pyrozoo.models.m3sense.experiments.tuning gamma|stress``.

On simulations that no experiment scores. "gamma" compares weights of the alignment for the variants that are not the
paper's, names the best of each, and says how far the weight of the tables (`runs.MODELS`) is from every other, paired
over the simulations; "stress" the learning rates and lengths of the networks of the experiment
stress-predict, and names the shortest that is within 1 % of the best over all of them, at its best rate; none of them
may collapse to one class. The record goes to ``tuning/<name>.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ....criticism import scores
from ....experiments.jobs import run_jobs
from ....experiments.record import mean_se, paired_difference
from ....files import atomic_write_text
from ..data.batches import standardise
from ..data.features import with_features
from ..data.simulator import simulate
from ..data.splits import split_subjects
from .runs import MODELS, TASKS, chosen, fitted, parts_of, probabilities_of, scored
from .stress import ADAMW, LATENTS, NETS, RATES, SIZES, TASK
from .tables import job_name

FOLDER = Path(__file__).parents[1] / "tuning"
SEEDS = {"gamma": (100, 101), "stress": (100, 101)}
GAMMAS = {"latent (CAM)": (0.01, 0.03, 0.1, 0.3), "generative (CAM)": (0.1, 0.3, 1.0)}
TOLERANCE = 1.01  # of the best score; among those within it the shortest is chosen
RATES_OF_LEARNING, STEPS = (1e-3, 3e-3), (100, 300, 600)


def gamma_run(model: str, gamma: float, seed: int) -> dict[str, Any]:
    """Return the balanced accuracy by task, and their mean, of a variant with a weight of the alignment."""
    started = time.perf_counter()
    train, test = parts_of(seed, "quick")
    own = chosen(train, TASKS)
    found = scored(fitted(model, own, "quick", TASKS, seed, gamma=gamma), own, test, TASKS, seed)
    out: dict[str, Any] = {task: found[f"{task}.balanced_accuracy"] for task in TASKS}
    return {**out, "mean": float(np.mean(list(out.values()))), "seconds": round(time.perf_counter() - started, 2)}


def stress_run(net: str, lr: float, steps: int, seed: int) -> dict[str, Any]:
    """Return the balanced accuracy of a network on features, and the smallest share of a class in its predictions."""
    started = time.perf_counter()
    data = simulate("simulated stress", seed, n_subjects=16, n_windows=48, rates=dict(RATES))
    train, test = split_subjects(with_features(standardise(data)), 0.5, seed)
    latents = LATENTS if net == "M3Sense (CAM)" else {}
    settings = {"steps": steps, "lr": lr, "batch_size": 64, "optimizer": ADAMW}
    found = fitted(net, train, "quick", (TASK,), seed, settings, **SIZES, **latents)
    p, truth = probabilities_of(found, test, TASK, seed)
    classes = test.coords[f"y_{TASK}_class"]
    label = classes[found.model.decide(f"y_{TASK}", p)]
    return {
        "mean": scores.balanced_accuracy(truth, label),
        "rarest": float(min((label == name).mean() for name in classes)),
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip


def search(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """Return the function of a search and its configurations, without seeds."""
    if name == "gamma":
        return gamma_run, [{"model": model, "gamma": value} for model, values in GAMMAS.items() for value in values]
    every = itertools.product(NETS, RATES_OF_LEARNING, STEPS)
    return stress_run, [{"net": net, "lr": lr, "steps": steps} for net, lr, steps in every]


def chosen_of(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best weight of each variant, or the fewest steps within 1 % of the best, and their learning rate."""
    if name == "gamma":
        own = {model: [row for row in rows if row["model"] == model] for model in GAMMAS}
        return {model: max(tried, key=lambda row: row["mean"])["gamma"] for model, tried in own.items()}

    pairs = list(itertools.product(RATES_OF_LEARNING, STEPS))
    means = {pair: np.mean([row["mean"] for row in rows if (row["lr"], row["steps"]) == pair]) for pair in pairs}
    good = [pair for pair in pairs if TOLERANCE * means[pair] >= max(means.values())]
    lr, steps = min(good, key=lambda pair: (pair[1], -means[pair]))
    return {"lr": lr, "steps": steps}


def differences_of(means: dict[tuple[str, float], list[float]]) -> dict[str, list[float | None]]:
    """Return by how much the tables' weight of each variant is better than each other weight, and the paired error.

    Args:
        means: Variant and weight -> mean balanced accuracy of each simulation.
    """
    out = {}
    for (model, gamma), other in means.items():
        used = MODELS[model]["gamma"]
        if gamma != used:
            found = paired_difference(means[model, used], other)
            out[f"{model}: {used} - {gamma}"] = [None if value is None else round(value, 4) for value in found]
    return out


def main(arguments: list[str] | None = None) -> None:
    """Run a search and write its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SEEDS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/m3sense-tuning"))
    given = parser.parse_args(arguments)
    function, configurations = search(given.name)
    plan = {
        job_name(*own.values(), seed): {**own, "seed": seed} for own in configurations for seed in SEEDS[given.name]
    }
    found = run_jobs(function, plan, given.out / given.name, n_jobs=given.jobs)
    rows = []
    for own in configurations:
        runs = [found[job_name(*own.values(), seed)] for seed in SEEDS[given.name]]
        scores_of = {score: mean_se([run[score] for run in runs]) for score in runs[0] if score != "seconds"}
        means = {score: round(mean, 4) for score, (mean, _) in scores_of.items()}
        se = scores_of["mean"][1]
        rows.append({**own, **means, "se": None if se is None else round(se, 4)})
    record = {
        "search": given.name, "data": "simulated", "seeds": list(SEEDS[given.name]), "score": "balanced accuracy",
        "chosen": chosen_of(given.name, rows), "rows": rows,
    }  # fmt: skip
    if given.name == "gamma":
        of_weight = {tuple(own.values()): [found[job_name(*own.values(), seed)]["mean"] for seed in SEEDS["gamma"]]
                     for own in configurations}  # fmt: skip
        record["differences"] = differences_of(of_weight)
    FOLDER.mkdir(exist_ok=True)
    atomic_write_text(FOLDER / f"{given.name}.json", json.dumps(record, indent=2) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    from pyrozoo.models.m3sense.experiments.tuning import main as run  # jobs need functions of a named module

    run()
