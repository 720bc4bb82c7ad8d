"""The default model as the page fits it, cross-fitted by people, beside a line and trees on several kinds of effect."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....criticism.law_learning import learn_parts
from ....criticism.scores import accuracy, coverage, mae
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.running import Outcome, claim, timing
from ....inference.label_process import LabelProcess
from ....inference.law import StudentLaw, joined, mixed
from ....posterior.columns import probabilities, tails
from ....posterior.predicting import predict
from ..card import CARD
from ..data.batches import participant_folds
from ..data.simulator import LOADS_LB
from .departure import KINDS, OURS, RIVALS, SHOWN, compared_text, probe, simulations, summarised
from .runs import PROFILES, configuration, data_of, fitted, made

CROSSED = f"{OURS}, cross-fitted by people"
WITHOUT = f"{CROSSED}, without the process"
NOTE = (
    "Simulated gait of three kinds of effect, people left out: five folds of people in every simulation, the same for "
    "every row. One fit for each pair of folds, to the people of the three others. A fold is predicted by the four "
    "fits of its pairs together, beside the process on the labels of its training people, with the law that "
    "zoo.cross_fitted(by='participant', inputs=False, restarts=0, folds=4, repeats=1) learns from the other fold of "
    "each pair: for every fold the same computation as on its training people alone. Mean and standard error over the "
    "folds of all seeds; cover90_min: the worst fold; share: of the process. The ridge and the trees train on four "
    "folds; 'rounded': to the nearest of the four loads."
)


def folds_of(seed: int, profile: str, gait: str) -> list[tuple[Batch, Batch]]:
    """Training and test trials of five folds of people (of three in profile "smoke")."""
    return participant_folds(data_of(seed, profile, gait), max(3, min(5, PROFILES[profile]["folds"])), seed=seed)


def pair_run(seed: int, left_out: tuple[int, int], profile: str, gait: str = "linear") -> dict[str, Any]:
    """One fit to the people outside two folds, and its predictions for the people of each.

    Returns:
        ``trials``: for each of the two folds ``person``, ``truth``, ``mean`` and ``sd`` [lb], and probabilities
        ``style`` (n, L); and ``seconds`` of the fit.
    """
    started = time.perf_counter()
    train, tests = parts_of(seed, left_out, profile, gait)
    found = fitted(OURS, train, profile, seed)
    seconds = round(time.perf_counter() - started, 2)
    trials = []
    for test in tests:
        table = predict(found, test, draws=200, seed=seed)
        trials.append({
            "person": test.group_names("participant").tolist(), "truth": test["y"].tolist(),
            "mean": table["y.mean"].tolist(), "sd": table["y.sd"].tolist(),
            "style": probabilities(table, "style").tolist(),
        })  # fmt: skip
    return {"trials": trials, "seconds": seconds}


def process_run(seed: int, left_out: Sequence[int], profile: str, gait: str = "linear") -> dict[str, Any]:
    """What the process on the labels of the people outside some folds says of the people of each.

    Returns:
        ``trials``: for each of the folds ``process_mean`` and ``process_sd`` [lb] by kind, (n, 2); and ``seconds``.
    """
    started = time.perf_counter()
    train, tests = parts_of(seed, left_out, profile, gait)
    model, _ = made(OURS, train, profile)
    process = LabelProcess.learn(model, train, "y", seed)
    found = [process.predict(model, test) for test in tests]
    trials = [{"process_mean": m[..., 0].T.tolist(), "process_sd": sd[..., 0].T.tolist()} for m, sd in found]
    return {"trials": trials, "seconds": round(time.perf_counter() - started, 2)}


def parts_of(seed: int, left_out: Sequence[int], profile: str, gait: str) -> tuple[Batch, list[Batch]]:
    """Trials of the people outside some folds, and those of each of the folds."""
    data, tests = data_of(seed, profile, gait), [test for _, test in folds_of(seed, profile, gait)]
    held = {name for k in left_out for name in tests[k].group_names("participant").tolist()}
    kept = [name not in held for name in data.group_names("participant").tolist()]
    return data.subset(np.flatnonzero(kept)), [tests[k] for k in left_out]


def crossed(
    pairs: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]], fold: int, style: np.ndarray,
    process: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores of one fold by the fits of its pairs.

    Args:
        pairs: Trials of the two folds that a fit has not seen, by the numbers of the folds.
        fold: The fold that is predicted.
        style: Index of the style of its trials, (n,).
        process: What the process on the labels of all its training people says of it, see `process_run`; None leaves
            the process out.
    """
    mine = [(dict(zip(pair, trials, strict=True)), pair) for pair, trials in pairs.items() if fold in pair]
    learned, own = [], []
    for trials, pair in mine:
        other = trials[pair[0] if pair[1] == fold else pair[1]]
        rows = [f"{name}:{i}" for i, name in enumerate(other["person"])]
        kept = ("truth", "mean", "sd", *(process or ()))
        numbers = {what: {"y": other[what]} for what in kept}
        learned.append({"rows": rows, "member": other["person"], "known": [True] * len(rows), **numbers})
        own.append(trials[fold])
    law = learn_parts(learned, levels=LOADS_LB)["y"]
    assert isinstance(law, StudentLaw)
    truth = np.asarray(own[0]["truth"])
    means, sds = (np.array([one[what] for one in own]) for what in ("mean", "sd"))
    mean, variance, between = means.mean(0), (sds**2).mean(0), means.var(0, ddof=1)
    if process is not None:
        kinds = np.asarray(process["process_mean"]).T, np.asarray(process["process_sd"]).T ** 2
        mean, variance, between = joined(law.w, mean, variance, between, mixed(law.u, *zip(*kinds, strict=True)))
    mean, variance = law.rounded(mean, variance)
    scale = law.scale(variance, between, len(own))
    out = {"mae": mae(truth, mean), "accuracy": accuracy(style, np.mean([one["style"] for one in own], 0).argmax(1))}
    for level in (0.5, 0.8, 0.9):
        low, high = (mean + scale * law.quantile(q) for q in tails(level))
        out[f"cover{round(100 * level)}"] = coverage(truth, low, high)
    out |= {"crps": float(law.crps(truth - mean, scale).mean()), "width90": float((high - low).mean())}
    return out if process is None else {**out, "share": law.w}


def people_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """The default model, cross-fitted by people, beside ridge regressions and extra trees on departures.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke", "quick" (T = 120, 5 folds, 5 seeds from 200 on) or "paper" (T = 800).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers, data = simulations(profile, seeds)
    folds = range(len(folds_of(numbers[0], profile, KINDS[0])))
    places = [(seed, fold) for seed in numbers for fold in folds]
    settings = configuration([OURS], profile)
    resumed = claim(CARD, out, data, settings)
    both = list(itertools.combinations(folds, 2))
    kinds = [(seed, gait) for seed in numbers for gait in KINDS]
    plan = {
        f"pair-{gait}-{seed}-{a}-{b}": {"seed": seed, "left_out": [a, b], "profile": profile, "gait": gait}
        for seed, gait in kinds for a, b in both
    }  # fmt: skip
    of_process = {
        "-".join(map(str, ("process", gait, seed, *places_out))): {
            "seed": seed, "left_out": list(places_out), "profile": profile, "gait": gait,
        }
        for seed, gait in kinds for places_out in [*both, *((fold,) for fold in folds)]
    }  # fmt: skip
    of_rivals = {
        f"rivals-{gait}-{seed}-{fold}": {"seed": seed, "fold": fold, "profile": profile, "gait": gait}
        for gait in KINDS for seed, fold in places
    }  # fmt: skip
    fits = run_jobs(pair_run, plan, out / "jobs", n_jobs=jobs)
    processes = run_jobs(process_run, of_process, out / "jobs", n_jobs=jobs)
    probes = run_jobs(rivals_run, of_rivals, out / "jobs", n_jobs=jobs)

    rows: list[dict[str, Any]] = []
    extra: dict[str, Any] = {
        "note": NOTE,
        "configuration": settings,
        "folds": [f"seed {s}, fold {f}" for s, f in places],
    }
    for gait in KINDS:
        found = [probes[f"rivals-{gait}-{seed}-{fold}"] for seed, fold in places]
        scored: dict[str, list[dict[str, Any]]] = {name: [{"mae": one[name]} for one in found] for name in RIVALS}
        scored |= {WITHOUT: [], CROSSED: []}
        for seed in numbers:
            of = f"{gait}-{seed}"
            trials = {(a, b): _joined(fits, processes, f"{of}-{a}-{b}") for a, b in both}
            for fold, (_, test) in enumerate(folds_of(seed, profile, gait)):
                style, process = test["style"].numpy(), processes[f"process-{of}-{fold}"]["trials"][0]
                scored[WITHOUT].append(crossed(trials, fold, style))
                scored[CROSSED].append(crossed(trials, fold, style, process))
        rows += summarised(gait, scored, CROSSED, len(numbers), extra)
    extra |= timing({**fits, **processes, **probes}, resumed)
    return Outcome(rows, data, list(numbers), extra, compared_text(rows, extra, (*SHOWN, "share")))


def _joined(fits: Mapping[str, Any], processes: Mapping[str, Any], pair: str) -> list[dict[str, Any]]:
    """What a fit and the process on the same labels say of the two folds that they had not seen."""
    both = zip(fits[f"pair-{pair}"]["trials"], processes[f"process-{pair}"]["trials"], strict=True)
    return [{**own, **beside} for own, beside in both]


def rivals_run(seed: int, fold: int, profile: str, gait: str) -> dict[str, Any]:
    """Errors [lb] of a line and of trees on the departures, for the people of one fold."""
    return probe(*folds_of(seed, profile, gait)[fold], seed)
