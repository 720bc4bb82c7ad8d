"""Do prediction intervals hold? The head's own, those of the generative model, and conformal ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....criticism.conformal import conformal, cross_conformal
from ....criticism.folds import fold_data
from ....criticism.reweighting import predict_by_importance
from ....criticism.scores import coverage, interval_score, interval_width, per_group, rmse
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, simulated_data, timing
from ....inference.fit import fit
from ....inference.saving import load
from ....modeling import registry
from ....plots.predictions import interval_coverage
from ....posterior.columns import column, interval_names, tails
from ....posterior.predicting import predict
from ..data.datasets import draw_labels, dryer
from ..data.simulator import PRESETS, simulate
from .runs import PINNED
from .shared import claim, configuration

CASES = ("dryer, same", "dryer, later", "simulated wells")
WELLS = CASES[2]
FOLDS = 5
SMOKE_BATCHES = 12  # as many labels calibrate, and 90 % takes nine
SCORED, SMOKE_ROWS = 2000, 200
LEVELS = (0.5, 0.8, 0.9)
SOURCES: Mapping[str, tuple[Callable[..., pd.DataFrame], dict[str, Any]]] = {
    "head": (predict, {"draws": 100}),
    "generative": (predict_by_importance, {"draws": 20, "particles": 40}),
}
NOTE_INTERVALS = (
    "Five labels per unit. 'head': q(y|x,c) as it is; 'generative': p(y|x,c) by importance sampling with the head as "
    "proposal; 'split': calibrated on one label per unit, the fit trained on four; 'cross': five fits, each calibrated "
    "on the labels it did not see (CV+), their mean as the prediction. The same random rows are scored for all, at "
    f"most {SCORED} per case. Coverage of a conformal interval is marginal: see its spread over units. The rows of "
    "'dryer, later' follow the training rows in time, so that nothing is promised for them."
)


def intervals_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1
) -> dict[str, Outcome]:
    """Coverage, width and interval score of every kind of interval, on the dryer and on simulated wells.

    Args:
        out: Folder for record.json and table.csv of the dryer, the same of the wells in ``simulated``, the fits and
            the figure.
        profile: "smoke" (a few steps, a few batches), "quick" (one draw of labels, three data seeds of wells, cross
            on the same rows of the dryer only) or "paper" (five draws, three seeds, cross everywhere).
        seeds: Number of label draws and data seeds; None takes the profile's.
        jobs: Number of worker processes.

    Returns:
        Outcomes on the wells (``simulated``) and on the dryer (the folder itself).
    """
    counts = {"smoke": (1, 1), "quick": (1, 3), "paper": (5, 3)}[profile]
    repeats = {case: range(seeds or counts[case == WELLS]) for case in CASES}
    batches = SMOKE_BATCHES if profile == "smoke" else None
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    batches_of_wells = (case_data(WELLS, seed)[0] for seed in repeats[WELLS])
    wells = simulated_data("simulated (any valve), training data of all seeds", batches_of_wells)
    resumed = claim(out, data | {"sha256": f"{data['sha256']} {wells['sha256']}"})
    plan: dict[str, dict[str, Any]] = {}
    scoring: dict[str, dict[str, Any]] = {}
    for case in CASES:
        crossed = profile == "paper" or (case == "dryer, same" and profile == "quick")
        for seed in repeats[case]:
            job = {"case": case, "seed": seed, "batches": batches}
            name = _slug(case, seed)
            folds = FOLDS if crossed else 1
            for model, fold in (("mtl", None), *(("ssmtl", k) for k in (None, *range(folds)))):
                which = f"{model}-{name}-" + ("all" if fold is None else f"fold-{fold}")
                tuned = configuration("table1" if case == WELLS else "dryer", model, profile)
                plan[which] = {**job, "model": model, "fold": fold, "save": str(out / "fits" / which), **tuned}
            scoring[name] = {**job, "fits": str(out / "fits"), "name": name, "folds": folds}
    fitted = run_jobs(interval_fit, plan, out / "jobs", n_jobs=jobs)
    scored = run_jobs(interval_scores, scoring, out / "scores", n_jobs=jobs)
    rows: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}
    for case in CASES:
        found = [scored[_slug(case, seed)] for seed in repeats[case]]
        for remedy in found[0]:
            row = averages([result[remedy] for result in found])
            shares = [row[f"cover{round(100 * p)}"] for p in LEVELS]
            curves.setdefault(case, {})[remedy] = pd.DataFrame({"nominal": LEVELS, "empirical": shares})
            rows.append({"model": remedy, "scored": case, **row})
    _figure(curves, out / "figures" / "coverage.png")
    extra = {"note": NOTE_INTERVALS, "repeats": {case: len(r) for case, r in repeats.items()}}
    extra |= {"configurations": {e: configuration(e, "ssmtl", profile) for e in ("dryer", "table1")}}
    extra |= timing(fitted, resumed)
    real, simulated = ([row for row in rows if (row["scored"] == WELLS) is which] for which in (False, True))
    return {
        "simulated": Outcome(simulated, wells, list(repeats[WELLS]), extra, intervals_table(rows)),
        "": Outcome(real, data, list(repeats[CASES[0]]), extra),
    }


def _slug(case: str, seed: int) -> str:
    return f"{case.replace(',', '').replace(' ', '-')}-{seed}"


def case_data(case: str, seed: int, batches: int | None = None) -> tuple[Batch, Batch]:
    """Return training data with five labels per unit, and the rows to score: at random, at most `SCORED` of them."""
    if case == WELLS:
        train, test = simulate(50, 5, 100, 100, seed=seed, **PRESETS["any-valve"])
    else:
        data = dryer()
        if batches is not None:
            data = data.subset(np.flatnonzero(data["unit"].numpy() < batches))
        train, test = (data, data) if case == "dryer, same" else data.split(0.25, by="last")
        labelled = draw_labels(train, 5, seed)
        train = train.relabel(labelled)
        if case == "dryer, same":
            test = data.subset(np.flatnonzero(~labelled))
    rows = np.random.default_rng(seed).permutation(test.n_rows)[: SCORED if batches is None else SMOKE_ROWS]
    return train, test.subset(np.sort(rows))


def _folds(case: str, train: Batch, seed: int) -> list[tuple[Batch, Batch]]:
    """Split the labels into folds; scored rows of "dryer, same" are unlabelled training rows, elsewhere new rows."""
    return fold_data(train, FOLDS, inputs=case == "dryer, same", seed=seed)


def interval_fit(
    case: str, seed: int, model: str, fold: int | None, save: str, arguments: Mapping[str, Any],
    settings: Mapping[str, Any], batches: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one model to all labels, or to all but those of one fold, and save it."""
    train, _ = case_data(case, seed, batches)
    part = train if fold is None else _folds(case, train, seed)[fold][0]
    zoo_model = registry.create_model("ssmtl", part, variant=model, **PINNED | dict(arguments))
    fitted = fit(zoo_model, "paper", part, seed=seed + (fold or 0), progress=False, **settings)
    fitted.save(save, overwrite=True)
    return {"seconds": round(fitted.seconds, 2), "elbo": fitted.best.final_elbo}


def interval_scores(
    case: str, seed: int, name: str, fits: str, folds: int, batches: int | None = None
) -> dict[str, dict[str, float]]:
    """Score every kind of interval on the same rows, for one draw of labels or one data seed."""
    train, test = case_data(case, seed, batches)
    held_out = [part for _, part in _folds(case, train, seed)]
    whole, mtl = (load(Path(fits) / f"{model}-{name}-all") for model in ("ssmtl", "mtl"))
    parts = [(load(Path(fits) / f"ssmtl-{name}-fold-{k}"), held_out[k]) for k in range(folds)]
    quantiles = tuple(sorted(q for p in LEVELS for q in tails(p)))
    out = {"MTL": _scores(predict(mtl, test, draws=100, quantiles=quantiles), test)}
    for source, (predictor, options) in SOURCES.items():
        table = predictor(whole, test, quantiles=quantiles, **options)
        out[source] = _scores(table, test)
        if "y.khat" in table:
            out[source] |= {"ess": float(table["y.ess"].median()), "khat_bad": float((table["y.khat"] > 0.7).mean())}
    for source, (predictor, options) in SOURCES.items():
        calibrated = {"split": conformal(*parts[0], level=LEVELS, predictor=predictor, **options)}
        if folds == FOLDS:
            calibrated["cross"] = cross_conformal(parts, level=LEVELS, predictor=predictor, **options)
        for kind, intervals in calibrated.items():
            out[f"{kind}, {source}"] = _scores(intervals.predict(test), test) | {"calibrated_on": float(intervals.n)}
    return out


def _scores(table: pd.DataFrame, test: Batch) -> dict[str, float]:
    truth, units = test["y"][:, 0].numpy(), test.group_names("unit")
    out = {"rmse": rmse(truth, table["y.mean"])}
    for p in LEVELS:
        level = round(100 * p)
        ends = (f"lower{level}", f"upper{level}")
        if column("y", ends[0]) not in table:
            ends = interval_names(p)
        low, high = (table[column("y", end)].to_numpy() for end in ends)
        out[f"cover{level}"] = coverage(truth, low, high)
    each = per_group(coverage, truth, (low, high), units)
    out |= {"width90": interval_width(truth, low, high), "score90": interval_score(truth, low, high, level=0.9)}
    return out | {"unit_sd": float(each.std(ddof=0)), "unit_p10": float(each.quantile(0.1))}


def intervals_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of a record as text."""
    hidden = {"ess", "khat_bad", "calibrated_on"}
    return format_table([{k: v for k, v in row.items() if k.removesuffix("_se") not in hidden} for row in rows])


def _figure(curves: Mapping[str, Mapping[str, pd.DataFrame]], file: Path) -> None:
    """Draw empirical against nominal coverage, one panel per case, one line per kind of interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(curves), 5.4), layout="constrained")
    for ax, (case, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        interval_coverage(lines, ax=ax)
        ax.set_title(case)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
