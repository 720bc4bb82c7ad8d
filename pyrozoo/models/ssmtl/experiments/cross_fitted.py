"""Real dryer data: intervals of one fit, of a mixture of restarts, and of a law learned on held-out labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ....criticism.law_learning import learn_parts
from ....criticism.scores import coverage, crps_normal, rmse
from ....criticism.scoring import metrics
from ....data.batch import Batch
from ....experiments.cross_fitting import cross_fitted
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages
from ....inference.fitted import Fit
from ....inference.law import PredictiveLaw, StudentLaw, mixed
from ....modeling import registry
from ..data.datasets import dryer
from .runs import dryer_data
from .shared import claim, configuration

SMOKE_BATCHES = 6
SMOKE = {"folds": 2, "repeats": 1, "restarts": 2}
KINDS = (
    "SSMTL, one fit", "SSMTL, four restarts", "process alone", "SSMTL alone, cross-fitted", "SSMTL, cross-fitted"
)  # fmt: skip
SCORES = ("rmse", "crps", "nll", "cover50", "cover80", "cover90")
PROTOCOLS = {"same": "row", "later": "last"}  # rows that are scored -> labels that are held out for the law
NOTE_CROSS_FITTED = (
    "CollectorTankLevel (0 to 116, sd 24) with five labelled rows in each of 71 batches. 'same': the other rows of the "
    "same batches, and a law learned on labels held out at random; 'later': the last 25 % of each batch, kept out "
    "altogether, and a law learned on later labels. The process and the law know the time of rows. Networks are "
    "smaller and steps fewer than in the experiment 'dryer' (tuning/cross_fitted.json)."
)


def cross_fitted_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Real dryer data: one fit, four, Gaussian processes, the law of all; rows of the same batches, and later ones.

    Args:
        out: Folder for record.json, table.csv and the fits; a run that was stopped goes on from them.
        profile: "smoke" (a few steps on a few batches), "quick" (one draw of labels, rows of the same batches) or
            "paper" (five draws, and later rows, too).
        seeds: Number of label draws; None takes the profile's.
        jobs: Number of worker processes.
    """
    draws = range(seeds or {"smoke": 1, "quick": 1, "paper": 5}[profile])
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    resumed = claim(out, data)
    rows, each, laws = [], [], {}
    for protocol in PROTOCOLS if profile != "quick" else ("same",):
        fits = {draw: cross_fit(out / f"{protocol}-{draw}", draw, profile, jobs, protocol) for draw in draws}
        found = {draw: scored(fit, out / f"{protocol}-{draw}", draw, profile, protocol) for draw, fit in fits.items()}
        rows += summary(found.values(), protocol)
        each += [
            {"model": kind, "scored": protocol, "draw": draw, **own[kind]}
            for kind in KINDS
            for draw, own in found.items()
        ]
        laws[protocol] = {str(draw): fit.law.as_json() for draw, fit in fits.items() if fit.law is not None}
    extra = {"note": NOTE_CROSS_FITTED, "draws": each, "laws": laws, "resumed": resumed}
    extra |= {"configuration": configuration("cross_fitted", "ssmtl", profile)}
    return Outcome(rows, data, list(draws), extra, f"{format_table(each)}\n\n{format_table(rows)}")


def cross_fit(folder: Path, draw: int, profile: str, jobs: int, protocol: str = "same") -> Fit:
    """Cross-fit SSMTL to one draw of labels, or go on with it; finished fits are in the folder."""
    train, _, _ = dryer_data(draw, protocol, batches=SMOKE_BATCHES if profile == "smoke" else None, time=True)
    own = configuration("cross_fitted", "ssmtl", profile)
    model = registry.create_model("ssmtl", train, variant="ssmtl", **own["arguments"])
    options: dict[str, Any] = {"by": PROTOCOLS[protocol], "inputs": protocol == "same"}
    options |= SMOKE if profile == "smoke" else {}
    return cross_fitted(
        model, "paper", train, seed=draw, jobs=jobs, checkpoint=folder, resume=True, **options, **own["settings"]
    )


def scored(
    fit: Fit, folder: Path, draw: int, profile: str = "quick", protocol: str = "same"
) -> dict[str, dict[str, float]]:
    """Scores of the rows that are to be predicted: first restart, mixture, process, law without it, law.

    Args:
        fit: A cross-fitted fit.
        folder: Folder of its fits.
        draw: Random seed of the labels.
        profile: "smoke" for a few batches.
        protocol: "same" or "later".
    """
    batches = SMOKE_BATCHES if profile == "smoke" else None
    _, full, unseen = dryer_data(draw, protocol, batches=batches, time=True)
    test = full.subset(np.flatnonzero(unseen))
    found = {
        KINDS[0]: metrics(fit, test, draws=50, restart=0),
        KINDS[1]: metrics(dataclasses.replace(fit, law=None), test, draws=50),
        KINDS[3]: metrics(without_process(fit, folder), test, draws=50),
        KINDS[4]: metrics(fit, test, draws=50),
    }
    every = {kind: {name: float(own[f"y.{name}"]) for name in SCORES} for kind, own in found.items()}
    every[KINDS[2]] = _process_scores(fit, test)
    return {kind: every[kind] for kind in KINDS}


def without_process(fit: Fit, folder: Path) -> Fit:
    """The same restarts with the law that they have without a process beside them and without time.

    Args:
        fit: A cross-fitted fit.
        folder: Folder of its fits, which has the predictions of held-out labels.
    """
    results = [json.loads(file.read_text())["result"] for file in sorted((folder / "jobs").glob("repeat-*.json"))]
    kept = ("rows", "truth", "mean", "sd")
    parts = learn_parts([{name: result["predicted"][name] for name in kept} for result in results])
    return dataclasses.replace(fit, law=PredictiveLaw(parts, {} if fit.law is None else fit.law.facts))


def _process_scores(fit: Fit, test: Batch) -> dict[str, float]:
    """Scores of the process by itself, both kinds with the shares of the law, a normal distribution in every row."""
    assert fit.law is not None
    assert fit.law.process is not None
    law = fit.law.parts["y"]
    assert isinstance(law, StudentLaw)
    (p, other), (r, other_r) = (values[..., 0] for values in fit.law.process.predict(fit.model, test))
    mean, variance = mixed(law.u, (p, r**2), (other, other_r**2))
    sd = np.sqrt(variance)
    truth = test["y"][:, 0].double().numpy()
    return {
        "rmse": rmse(truth, mean),
        "crps": crps_normal(truth, mean, sd),
        "nll": float(-stats.norm.logpdf(truth, mean, sd).mean()),
        **{f"cover{p}": coverage(truth, *stats.norm.interval(p / 100, mean, sd)) for p in (50, 80, 90)},
    }


def summary(found: Iterable[dict[str, dict[str, float]]], protocol: str = "same") -> list[dict[str, Any]]:
    """Rows of the table: means and standard errors over draws."""
    draws = list(found)
    return [{"model": kind, "scored": protocol, **averages([own[kind] for own in draws])} for kind in KINDS]
