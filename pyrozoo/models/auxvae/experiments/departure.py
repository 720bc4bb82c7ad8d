"""A walker compared with himself: departures beside a line and trees, on several kinds of simulated effect."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....criticism.conformal import rank
from ....criticism.scores import mae
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, mean_se, paired_difference
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ....posterior.predicting import predict
from ..card import CARD
from ..data.simulator import LOADS_LB
from ..uses.personal import PersonEffect
from .probe import departures, left_out_ridge, trees
from .runs import DEPARTURES, PROFILES, configuration, data_of, fitted, fold_of, scored

OURS = next(iter(DEPARTURES))
LINE, TREES = "ridge on departures", "extra trees on departures"
CALIBRATED = f"{OURS}, calibrated on people"
FIRST_SEED = 200  # simulations on which nothing was chosen
LEVEL = 0.9
OWN_TRIALS = (0, 1, 2, 4)
PARTS = ("truth", "mean", "person")
NOTE = (
    "Simulated gait of three kinds of effect, people left out: five folds of people in every simulation, the same for "
    "every row. Mean and standard error over the folds of all seeds. The ridge and the trees read departures of "
    "summaries, and these beside their squares and the departures of phases; 'rounded': to the nearest of the four "
    "loads. The model's features and settings were chosen on other seeds. 'calibrated on people': the same fits; the "
    "intervals of a fold are mean ± q sd, with q from the people of the other folds, each scored by the fit that had "
    "left him out. cover90_min: the worst fold."
)
SHOWN = ("model", "mae", "accuracy", "cover90", "cover90_min", "width90", "kl", "seconds")
KINDS = ("linear", "coordination", "nonlinear")
MORE = ", phases and squares"
RIVALS = tuple(f"{model}{more}{end}" for more in ("", MORE) for model in (LINE, TREES) for end in ("", ", rounded"))


def probe_fold(seed: int, fold: int, profile: str, gait: str = "linear") -> dict[str, Any]:
    """Errors [lb] of a line and of trees on the departures, for the people of one fold."""
    return probe(*fold_of(seed, fold, profile, gait), seed)


def probe(train: Batch, test: Batch, seed: int) -> dict[str, Any]:
    """Errors [lb] of a line and of trees on the departures, for the people of `test`."""
    started = time.perf_counter()
    tables, others = departures(train), departures(test)
    y, people, truth = train["y"].numpy().astype(float), train["participant"].numpy(), test["y"].numpy().astype(float)
    out: dict[str, Any] = {}
    for name, table in tables.items():
        given = "" if name == "summaries" else f", {name}"
        of_line = left_out_ridge(table, y, people).predict(others[name])
        for model, found in ((LINE, of_line), (TREES, trees(seed).fit(table, y).predict(others[name]))):
            out |= with_rounded(f"{model}{given}", truth, found)
    return {**out, "seconds": round(time.perf_counter() - started, 2)}


def with_rounded(name: str, truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Mean absolute error of predicted loads [lb], as they are and rounded to the nearest of the four loads."""
    nearest = np.array(LOADS_LB)[np.abs(found[:, None] - np.array(LOADS_LB)).argmin(1)]
    return {name: mae(truth, found), f"{name}, rounded": mae(truth, nearest)}


def departure_run(model: str, seed: int, fold: int, profile: str, gait: str = "linear") -> dict[str, Any]:
    """Scores of one fit on the people of one fold, and every trial's person, load, predicted mean and sd [lb]."""
    started = time.perf_counter()
    train, test = fold_of(seed, fold, profile, gait)
    found = fitted(model, train, profile, seed)
    seconds = round(time.perf_counter() - started, 2)
    table = predict(found, test, draws=200, seed=seed)
    return {
        **scored(found, test, seed), "seconds": seconds, "trials": {
            "person": test.group_names("participant").tolist(), "truth": test["y"].tolist(),
            "mean": table["y.mean"].tolist(), "sd": table["y.sd"].tolist(),
        },
    }  # fmt: skip


def calibrated(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores of every fold of one simulation with intervals calibrated on the people of its other folds."""
    out = []
    for k, own in enumerate(found):
        others = np.sort(np.concatenate([_errors(one["trials"]) for j, one in enumerate(found) if j != k]))
        q = others[rank(len(others), LEVEL) - 1]
        inside = _errors(own["trials"]) <= q
        kept: dict[str, Any] = {name: own[name] for name in ("mae", "accuracy") if name in own}
        out.append({**kept, "cover90": float(inside.mean()), "width90": float(2 * q * np.mean(own["trials"]["sd"]))})
    return out


def _errors(trials: dict[str, Any]) -> np.ndarray:
    """Absolute errors in predicted standard deviations, (n,)."""
    truth, mean, sd = (np.asarray(trials[name]) for name in ("truth", "mean", "sd"))
    return np.abs(truth - mean) / sd


def personalised(found: list[dict[str, Any]], seed: int) -> list[dict[int, float]]:
    """Errors [lb] of every fold of one simulation after some own trials of each person, by their number.

    The own trials are drawn at random; all numbers are scored on the trials that are none of the most. The effect of a
    person is learned from the people of the other folds, each predicted by the fit that had left him out.
    """
    out = []
    for k, held in enumerate(found):
        others = [one["trials"] for j, one in enumerate(found) if j != k]
        effect = PersonEffect.learn(*(np.concatenate([one[name] for one in others]) for name in PARTS))
        truth, mean, person = (np.asarray(held["trials"][name]) for name in PARTS)
        errors: dict[int, list[np.ndarray]] = {n: [] for n in OWN_TRIALS}
        for name in np.unique(person):
            rows = np.random.default_rng([seed, k]).permutation(np.flatnonzero(person == name))
            own, scored_on = rows[: max(OWN_TRIALS)], rows[max(OWN_TRIALS) :]
            for n in OWN_TRIALS:
                better, _ = effect.corrected(mean[scored_on], mean[own[:n]], truth[own[:n]])
                errors[n].append(np.abs(better - truth[scored_on]))
        out.append({n: float(np.mean(np.concatenate(each))) for n, each in errors.items()})
    return out


def summarised(
    gait: str, scored_by: Mapping[str, Sequence[Mapping[str, Any]]], ours: str, n_seeds: int, extra: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of the table for one kind of effect; what stands by fold, and differences from rivals, go into `extra`.

    Args:
        gait: Kind of effect.
        scored_by: Scores of every fold, seed by seed, by model.
        ours: Name of the model that is compared with `RIVALS`.
        n_seeds: Number of seeds.
        extra: Further facts of the record, which are added to.
    """
    errors, rows = {name: [one["mae"] for one in each] for name, each in scored_by.items()}, []
    for name, each in scored_by.items():
        row = {"model": f"{gait}: {name}", **averages(each)}
        if "cover90" in each[0]:
            row["cover90_min"] = min(one["cover90"] for one in each)
            extra.setdefault("cover90 by fold", {})[row["model"]] = [round(one["cover90"], 4) for one in each]
        rows.append(row)
        extra.setdefault("mae by fold", {})[row["model"]] = [round(value, 4) for value in errors[name]]
    for rival in RIVALS:
        what = f"{gait}: MAE of {ours} - {rival}"
        means = [np.reshape(errors[name], (n_seeds, -1)).mean(1) for name in (ours, rival)]
        extra.setdefault("differences", {})[what] = paired_difference(errors[ours], errors[rival])
        extra.setdefault("differences over seeds", {})[what] = paired_difference(*means)
    return rows


def simulations(profile: str, seeds: int | None) -> tuple[range, dict[str, Any]]:
    """Seeds of an experiment, by default its profile's, and what a record says of their simulations of all kinds."""
    numbers = range(FIRST_SEED, FIRST_SEED + (seeds or {"smoke": 1, "quick": 5, "paper": 10}[profile]))
    data = simulated_data(
        "simulated gait of all kinds and seeds", (data_of(seed, profile, gait) for gait in KINDS for seed in numbers)
    )
    return numbers, data


def departure_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """The default model beside ridge regressions and extra trees on departures, on three kinds of simulated effect.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (T = 120, 5 folds, 5 seeds from 200 on) or "paper" (T = 800).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers, data = simulations(profile, seeds)
    folds = range(PROFILES[profile]["folds"])
    places = [(seed, fold) for seed in numbers for fold in folds]
    settings = configuration([OURS], profile)
    resumed = claim(CARD, out, data, settings)
    plan = {
        f"{gait}-{seed}-{fold}": {"seed": seed, "fold": fold, "profile": profile, "gait": gait}
        for seed in numbers for gait in KINDS for fold in folds
    }  # fmt: skip
    of_fits = {f"departure-{job}": {"model": OURS, **own} for job, own in plan.items()}
    fits = run_jobs(departure_run, of_fits, out / "jobs", n_jobs=jobs)
    probes = run_jobs(probe_fold, {f"probe-{job}": own for job, own in plan.items()}, out / "jobs", n_jobs=jobs)

    rows: list[dict[str, Any]] = []
    extra: dict[str, Any] = {
        "note": NOTE,
        "configuration": settings,
        "folds": [f"seed {s}, fold {f}" for s, f in places],
    }
    for gait in KINDS:
        of_rivals = [probes[f"probe-{gait}-{seed}-{fold}"] for seed, fold in places]
        found = [fits[f"departure-{gait}-{seed}-{fold}"] for seed, fold in places]
        by_seed = [found[k : k + len(folds)] for k in range(0, len(places), len(folds))]
        if gait == KINDS[0]:
            own = [one for seed, each in zip(numbers, by_seed, strict=True) for one in personalised(each, seed)]
        scored_by = {name: [{"mae": one[name]} for one in of_rivals] for name in RIVALS}
        scored_by[OURS] = [{k: v for k, v in one.items() if k != "trials"} for one in found]
        scored_by[CALIBRATED] = [one for each in by_seed for one in calibrated(each)]
        rows += summarised(gait, scored_by, OURS, len(numbers), extra)
    extra["mae after own trials"] = {str(n): mean_se([one[n] for one in own]) for n in OWN_TRIALS}
    extra["mae after own trials less that without"] = {
        str(n): paired_difference([one[n] for one in own], [one[0] for one in own]) for n in OWN_TRIALS[1:]
    }
    text = departure_text(rows, extra)
    return Outcome(rows, data, list(numbers), extra | timing({**fits, **probes}, resumed), text)


def compared_text(rows: list[dict[str, Any]], extra: dict[str, Any], shown: Sequence[str] = SHOWN) -> str:
    """Return the table for the terminal, with the paired differences below."""
    kept = [{k: row[k] for name in shown for k in (name, f"{name}_se") if k in row} for row in rows]
    lines = [format_table(kept), ""]
    for what, (value, error) in extra["differences"].items():
        seeds = extra["differences over seeds"][what][1]
        over_folds = "" if error is None else f" ± {error:.2f} (paired SE over folds)"
        lines.append(f"{what}: {value:+.2f}{over_folds}" + ("" if seeds is None else f", ± {seeds:.2f} over seeds"))
    return "\n".join(lines)


def departure_text(rows: list[dict[str, Any]], extra: dict[str, Any]) -> str:
    """`compared_text`, with the errors after own trials below."""
    lines = [compared_text(rows, extra), ""]
    for n, (value, error) in extra["mae after own trials"].items():
        spread = "" if error is None else f" ± {error:.2f}"
        lines.append(f"MAE of {OURS} after {n} own trials of each person, on the others: {value:.2f}{spread}")
    return "\n".join(lines)
