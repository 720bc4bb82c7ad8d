"""Real dryer data: intervals of one fit, of a mixture of restarts, and of a law learned on held-out labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ....criticism.scoring import metrics
from ....experiments.cross_fitting import cross_fitted
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages
from ....inference.fitted import Fit
from ....modeling import registry
from ..data.datasets import dryer
from .runs import dryer_data
from .shared import claim, configuration

SMOKE_BATCHES = 6
SMOKE = {"folds": 2, "repeats": 1, "restarts": 2}
KINDS = ("SSMTL, one fit", "SSMTL, four restarts", "SSMTL, cross-fitted")
SCORES = ("rmse", "crps", "nll", "cover50", "cover80", "cover90")
NOTE_CROSS_FITTED = (
    "CollectorTankLevel (0 to 116, sd 24) with five labelled rows in each of 71 batches, scored on the other rows of "
    "the same batches. Networks smaller and steps fewer than in the experiment 'dryer' (tuning/cross_fitted.json)."
)


def cross_fitted_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Real dryer data: coverage and scores with one fit, a mixture of four, and a cross-fitted law; 14 fits per draw.

    Args:
        out: Folder for record.json, table.csv and the fits; a run that was stopped goes on from them.
        profile: "smoke" (a few steps on a few batches), "quick" (one draw of labels) or "paper" (five draws).
        seeds: Number of label draws; None takes the profile's.
        jobs: Number of worker processes.
    """
    draws = range(seeds or {"smoke": 1, "quick": 1, "paper": 5}[profile])
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    claim(out, data)
    fits = {draw: cross_fit(out / f"draw-{draw}", draw, profile, jobs) for draw in draws}
    found = {draw: scored(fit, draw, profile) for draw, fit in fits.items()}
    rows = summary(found.values())
    each = [{"model": kind, "draw": draw, **own[kind]} for kind in KINDS for draw, own in found.items()]
    extra = {"note": NOTE_CROSS_FITTED, "draws": each, "configuration": configuration("cross_fitted", "ssmtl", profile)}
    extra["laws"] = {str(draw): fit.law.as_json() for draw, fit in fits.items() if fit.law is not None}
    return Outcome(rows, data, list(draws), extra, f"{format_table(each)}\n\n{format_table(rows)}")


def cross_fit(folder: Path, draw: int, profile: str, jobs: int) -> Fit:
    """Cross-fit SSMTL to one draw of labels, or go on with it; finished fits are in the folder."""
    train, _, _ = dryer_data(draw, batches=SMOKE_BATCHES if profile == "smoke" else None)
    own = configuration("cross_fitted", "ssmtl", profile)
    model = registry.create_model("ssmtl", train, variant="ssmtl", **own["arguments"])
    options: dict[str, Any] = dict(SMOKE) if profile == "smoke" else {}
    return cross_fitted(
        model, "paper", train, seed=draw, jobs=jobs, checkpoint=folder, resume=True, **options, **own["settings"]
    )


def scored(fit: Fit, draw: int, profile: str = "quick") -> dict[str, dict[str, float]]:
    """Scores of the rows whose labels were not drawn: of the first restart, of the mixture, and of the law."""
    _, full, unseen = dryer_data(draw, batches=SMOKE_BATCHES if profile == "smoke" else None)
    test = full.subset(np.flatnonzero(unseen))
    found = {
        KINDS[0]: metrics(fit, test, draws=50, restart=0),
        KINDS[1]: metrics(dataclasses.replace(fit, law=None), test, draws=50),
        KINDS[2]: metrics(fit, test, draws=50),
    }
    return {kind: {name: float(own[f"y.{name}"]) for name in SCORES} for kind, own in found.items()}


def summary(found: Iterable[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Rows of the table: means and standard errors over draws."""
    draws = list(found)
    return [{"model": kind, "scored": "same", **averages([own[kind] for own in draws])} for kind in KINDS]
