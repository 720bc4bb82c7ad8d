"""Choose configurations: ``python -m pyrozoo.models.ssmtl.experiments.tuning dryer|table1|cross_fitted --jobs 2``.

Every model gets its own search over settings of its own, on label draws and data seeds that no experiment scores. On
the dryer the choice is by one held-out label per batch, with four labels for training. The record goes to
``tuning/<name>.json``, where the experiments read it.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from ....experiments.jobs import run_jobs
from ....experiments.record import mean_se
from ....files import atomic_write_text
from .runs import cross_fitted_trial, dryer_run, table1_run

FOLDER = Path(__file__).parents[1] / "tuning"
DRYER_DRAWS = (100, 101, 102)
TABLE1_SEEDS = (100, 101)


def grid(fixed: dict[str, Any], **choices: list) -> list[dict[str, Any]]:
    """Return all combinations of the choices, each added to the fixed settings."""
    return [{**fixed, **dict(zip(choices, values, strict=True))} for values in itertools.product(*choices.values())]


LABELLED_ONLY = {"labelled": None, "unlabelled": 0}
SEARCH: dict[str, dict[str, list[dict[str, Any]]]] = {
    "dryer": {
        # The best of the first six lay at the edge (largest context), so that the search went on beyond it.
        "mtl": grid({"steps": 3000, "batch_size": LABELLED_ONLY}, c_dim=[4, 8, 16], lr=[1e-3, 2e-3], floor=[0.03])
        + grid({"steps": 3000, "batch_size": LABELLED_ONLY}, c_dim=[32], lr=[1e-3, 2e-3], floor=[0.03])
        + grid({"steps": 6000, "batch_size": LABELLED_ONLY}, c_dim=[16, 32], lr=[1e-3], floor=[0.03]),
        "ssmtl": grid(
            {"steps": 4000, "batch_size": {"labelled": None, "unlabelled": 250}, "lr": 1e-3, "z_dim": 12,
             "floor": 0.03},
            c_dim=[4, 8, 16], alpha=[1.0, 5.0],
        ),
    },
    "table1": {
        "mtl": grid({"batch_size": LABELLED_ONLY, "c_dim": 4}, width=[64, 200], lr=[1e-3, 2e-3], steps=[3000, 6000]),
        "ssmtl": grid(
            {"batch_size": {"labelled": None, "unlabelled": 250}, "c_dim": 4, "width": 200, "steps": 3000},
            lr=[1e-3, 2e-3], floor=[0.02, 0.05],
        ),
    },
}  # fmt: skip
# For cross-fitting, which trains 14 fits beside a process: much smaller and shorter ones than that of "dryer".
CROSS_FITTED_DRAW = 100
_SMALL: dict[str, Any] = {
    "c_dim": 8, "z_dim": 8, "alpha": 5.0, "steps": 800, "lr": 2e-3, "batch_size": {"labelled": None, "unlabelled": 100}
}  # fmt: skip
SEARCH_CROSS_FITTED = grid({**_SMALL, "floor": 0.1}, width=[64, 128], dropout=[0.0, 0.1])
TOLERANCE = 1.01  # of the best CRPS; among those within it the cheapest is chosen, by width^2 x steps
MODEL_ARGUMENTS = {"c_dim", "z_dim", "width", "depth", "floor", "alpha", "dropout"}


def split_configuration(configuration: dict[str, Any]) -> dict[str, Any]:
    """Sort a flat configuration into arguments of the model and settings of the fit."""
    arguments = {k: v for k, v in configuration.items() if k in MODEL_ARGUMENTS}
    settings = {k: v for k, v in configuration.items() if k not in MODEL_ARGUMENTS}
    settings.setdefault("schedule", "linear")
    settings.setdefault("lr_groups", {"guide.c_*": 10 * settings["lr"]})
    return {"arguments": arguments, "settings": settings}


def tune(experiment: str, out: Path, n_jobs: int) -> dict[str, Any]:
    """Run the whole search of an experiment and return its record; finished runs in `out` are not repeated."""
    record: dict[str, Any] = {"experiment": experiment, "models": {}}
    function, seeds = (dryer_run, DRYER_DRAWS) if experiment == "dryer" else (table1_run, TABLE1_SEEDS)
    record |= {
        "seeds": list(seeds),
        "criterion": "RMSE of one held-out label per batch" if experiment == "dryer" else "mean MAPE",
    }
    extra = {"hold_out": 1} if experiment == "dryer" else {}
    key = "draw" if experiment == "dryer" else "seed"
    jobs = {
        f"{model}-{i}-{seed}": {"model": model, key: seed, **extra, **split_configuration(configuration)}
        for seed in seeds
        for model, configurations in SEARCH[experiment].items()
        for i, configuration in enumerate(configurations)
    }
    results = run_jobs(function, jobs, out, n_jobs=n_jobs)
    for model, configurations in SEARCH[experiment].items():
        tried: list[dict[str, Any]] = []
        for i, configuration in enumerate(configurations):
            scores = [score(results[f"{model}-{i}-{seed}"]) for seed in seeds]
            mean, se = mean_se(scores)
            tried.append({"configuration": configuration, "scores": scores, "mean": mean, "se": se})
        best = min(tried, key=lambda row: row["mean"])
        record["models"][model] = {"chosen": best["configuration"], "tried": tried}
    return record


def tune_cross_fitted(out: Path, n_jobs: int) -> dict[str, Any]:
    """Fit every configuration of `SEARCH_CROSS_FITTED` once, and choose the cheapest of the good ones."""
    jobs = {
        f"cross-fitted-{i}": {"draw": CROSS_FITTED_DRAW, **split_configuration(configuration)}
        for i, configuration in enumerate(SEARCH_CROSS_FITTED)
    }
    results = run_jobs(cross_fitted_trial, jobs, out, n_jobs=n_jobs)
    return record_cross_fitted([results[name] for name in jobs])


def record_cross_fitted(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a search from the scores of its configurations."""
    tried = [
        {"configuration": configuration, **result}
        for configuration, result in zip(SEARCH_CROSS_FITTED, results, strict=True)
    ]
    limit = TOLERANCE * min(row["crps"] for row in tried)
    good = [row["configuration"] for row in tried if row["crps"] <= limit]
    return {
        "experiment": "cross_fitted",
        "seeds": [CROSS_FITTED_DRAW],
        "criterion": "the cheapest (width^2 x steps) of those whose CRPS is within "
        f"{TOLERANCE:g} of the best, on the unlabelled rows of draw {CROSS_FITTED_DRAW}; one fit each",
        "models": {"ssmtl": {"chosen": min(good, key=lambda c: c["width"] ** 2 * c["steps"]), "tried": tried}},
    }


def score(result: dict[str, Any]) -> float:
    """Return the score that tuning minimises."""
    return result["rmse"] if "rmse" in result else float(np.mean(result["mape"]))


def chosen(experiment: str, model: str) -> dict[str, Any]:
    """Return the tuned configuration of a model, as arguments of a run."""
    record = json.loads((FOLDER / f"{experiment}.json").read_text())
    return split_configuration(record["models"][model]["chosen"])


def main() -> None:
    """Run the search of one experiment, write its record, and print what was tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=[*sorted(SEARCH), "cross_fitted"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/tuning"))
    options = parser.parse_args()
    folder = options.out / options.experiment
    if options.experiment == "cross_fitted":
        record = tune_cross_fitted(folder, options.jobs)
    else:
        record = tune(options.experiment, folder, options.jobs)
    FOLDER.mkdir(exist_ok=True)
    atomic_write_text(FOLDER / f"{options.experiment}.json", json.dumps(record, indent=1) + "\n")
    for model, found in record["models"].items() if options.experiment in SEARCH else ():
        for row in sorted(found["tried"], key=lambda row: row["mean"]):
            print(f"{model:6s} {row['mean']:7.3f} +- {row['se']:.3f}  {row['configuration']}")


if __name__ == "__main__":
    main()
