"""Real Empatica E4 windows of Stress-Predict: one person left out at a time, everything chosen by inner folds."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....criticism import scores
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim
from ..card import CARD
from ..data.batches import at_rates, detrended, standardise
from ..data.stress_predict import read_stress_predict
from ..data.window_files import read_stress_predict_windows
from ..data.windowing import filtered, windows
from .baselines import BASELINES, handcrafted
from .runs import (
    MODELS,
    class_scores,
    classical_scores,
    configuration,
    fitted,
    most_frequent,
    names_of,
    probabilities_of,
)

TASK, INNER, MEMBERS = "stress", 3, 3
RATES: Mapping[str, float] = {"bvp": 8.0, "eda": 4.0, "temp": 4.0}
# Small networks: nine people are few.
SIZES: Mapping[str, Any] = {"embedding": 16, "lstm_layers": 1, "hidden": (32, 32), "head": 32}
LATENTS: Mapping[str, Any] = {"a_dim": 8, "q_hidden": 32}
REGULARISATION: Mapping[str, Mapping[str, Any]] = {
    "weak": {"dropout": 0.3, "weight_decay": 1e-4, "epochs": 12},
    "strong": {"dropout": 0.6, "weight_decay": 1e-2, "epochs": 4},
}
NETS = ("Non-Attention", "Keyless", "HAMLET", "M3Sense (CAM)", "latent (CAM)")
CANDIDATES = tuple(f"{net}, {regularisation}" for net in NETS for regularisation in REGULARISATION)
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # C of logistic regression
LOGISTIC, CHOSEN = "logistic regression", "network chosen by inner folds"
NOTE = (
    "Recorded windows of 20 s (Empatica E4), rest or a stressful task, one person left out at a time; standardised by "
    "person without labels; mean and standard error over people. Classes are predicted by probability over the class's "
    "share of the training windows, which is the rule for balanced accuracy, of every model that has probabilities; "
    "`argmax` is the balanced accuracy of the likelier class. The network's preset and regularisation, and the penalty "
    f"of logistic regression, are those with the best balanced accuracy over {INNER} inner folds of the other people; "
    f"the network's probabilities are the mean of {MEMBERS} fits."
)


@functools.lru_cache(maxsize=2)
def stress_windows(path: str | None, degree: int = 0) -> Batch:
    """Read standardised windows from an npz file (`read_stress_predict_windows`) or from the data set's folder.

    Args:
        path: Path of the file or folder.
        degree: Degree of the trend over a session that is taken out before; 0 takes out none.

    Raises:
        ValueError: There is no path.
    """
    if path is None:
        raise ValueError(
            "data: this needs the recordings of Stress-Predict; name their folder, or a file of windows (--data)"
        )
    if Path(path).is_file():
        data = at_rates(read_stress_predict_windows(path), RATES)
    else:
        data = windows(filtered(read_stress_predict(path)), rates=RATES, resample=True)
    return standardise(detrended(data, degree) if degree else data)


def people_of(data: Batch) -> list[str]:
    """Return the names of the people, in order."""
    return sorted(set(data.group_names("subject").tolist()))


def without(data: Batch, people: Sequence[str]) -> tuple[Batch, Batch]:
    """Split off some people: the windows of all others, and those of these people."""
    own = np.isin(data.group_names("subject"), list(people))
    return data.subset(np.flatnonzero(~own)), data.subset(np.flatnonzero(own))


def _fold(data: Batch, person: str, inner: int | None) -> tuple[Batch, Batch]:
    """Leave one person out: training and test windows; with `inner`, that fold's split of the other people."""
    train, test = without(data, [person])
    if inner is None:
        return train, test
    return without(train, people_of(train)[inner::INNER])


def net_run(path: str, candidate: str, person: str, inner: int | None, seed: int, smoke: bool) -> dict[str, Any]:
    """Probability of stress of a network on an inner fold, or on the person left out.

    Returns:
        balanced_accuracy at equal weight of the classes; p of the windows tested; seconds.
    """
    started = time.perf_counter()
    train, test = _fold(stress_windows(path), person, inner)
    net, words = candidate.rsplit(", ", 1)
    own = dict(REGULARISATION[words])
    decay, epochs = own.pop("weight_decay"), own.pop("epochs")
    settings = {
        "epochs": 1 if smoke else epochs, "batch_size": 64,
        "optimizer": functools.partial(torch.optim.Adam, weight_decay=decay, fused=True),
    }  # fmt: skip
    own |= {**SIZES, **(LATENTS if MODELS[net]["variant"] != "unaligned" else {})}
    found = fitted(net, train, "quick", (TASK,), seed, settings, **own)
    p, truth = probabilities_of(found, test, TASK, seed)
    return _result(train, test, p, truth, started)


def logistic_run(path: str, penalty: float, person: str, inner: int | None) -> dict[str, Any]:
    """Return the same as `net_run`, of logistic regression on handcrafted features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    started = time.perf_counter()
    train, test = _fold(stress_windows(path), person, inner)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=5000))
    classes = list(train.coords[f"y_{TASK}_class"])
    fit = model.fit(handcrafted(train)[0], names_of(train, TASK)[1])
    p = fit.predict_proba(handcrafted(test)[0])[:, [list(fit.classes_).index(name) for name in classes]]
    return _result(train, test, p, names_of(test, TASK)[1], started)


def _result(train: Batch, test: Batch, p: np.ndarray, truth: np.ndarray, started: float) -> dict[str, Any]:
    label = _balanced(train, p)
    return {
        "balanced_accuracy": scores.balanced_accuracy(truth, label), "p": p[:, 1].tolist(),
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip


def _balanced(train: Batch, p: np.ndarray) -> np.ndarray:
    """Return the class with the largest ratio of probability to share in training, by name."""
    classes, truth = train.coords[f"y_{TASK}_class"], names_of(train, TASK)[1]
    share = np.array([(truth == name).mean() for name in classes])
    return classes[(p / share).argmax(1)]


def scores_of(train: Batch, test: Batch, stressed: np.ndarray) -> dict[str, float]:
    """Return scores from the probability of stress, (N,)."""
    from sklearn.metrics import roc_auc_score

    p = np.stack([1 - stressed, stressed], 1)
    truth, classes = names_of(test, TASK)[1], train.coords[f"y_{TASK}_class"]
    found = class_scores(truth, _balanced(train, p), most_frequent(train, TASK), p, classes)
    argmax = scores.balanced_accuracy(truth, classes[p.argmax(1)])
    return {**found, "argmax": argmax, "auroc": float(roc_auc_score(truth == classes[1], p[:, 1]))}


def stress_predict_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None
) -> Outcome:
    """Stress from real wrist recordings of people left out: a network chosen by inner folds, and classical models.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (three people, one epoch), or "quick" and "paper", which are the same.
        seeds: Number of fits whose probabilities are averaged; None takes the profile's.
        jobs: Number of worker processes.
        data: Folder of the data set, or npz file of windows.

    Raises:
        ValueError: No data are given.
    """
    smoke = profile == "smoke"
    all_windows = stress_windows(data)
    people, members = people_of(all_windows)[: 3 if smoke else None], range(seeds or (1 if smoke else MEMBERS))
    candidates = CANDIDATES[:2] if smoke else CANDIDATES
    identity = {"name": all_windows.info["name"], "sha256": all_windows.sha256, "simulated": False}
    settings = {
        **configuration(NETS, "quick"),
        "candidates": f"{CANDIDATES} {SIZES} {LATENTS} {REGULARISATION} {INNER} {PENALTIES}",
    }
    claim(CARD, out, identity, settings)

    def net(candidate: str, person: str, fold: int | None, seed: int = 0) -> dict[str, Any]:
        return {"path": data, "candidate": candidate, "person": person, "inner": fold, "seed": seed, "smoke": smoke}

    plan = {_job(c, p, k): net(c, p, k) for c in candidates for p in people for k in range(INNER)}
    found = run_jobs(net_run, plan, out / "jobs", n_jobs=jobs)
    logistic = {
        _job(c, p, k): {"path": data, "penalty": c, "person": p, "inner": k}
        for c in PENALTIES for p in people for k in (*range(INNER), None)
    }  # fmt: skip
    found |= run_jobs(logistic_run, logistic, out / "jobs", n_jobs=jobs)
    chosen = {person: _best(candidates, person, found) for person in people}
    final = {_job(chosen[p], p, None, m): net(chosen[p], p, None, m) for p in people for m in members}
    found |= run_jobs(net_run, final, out / "jobs", n_jobs=jobs)

    table: dict[str, list[dict[str, float]]] = {CHOSEN: [], LOGISTIC: [], **{name: [] for name in BASELINES}}
    for person in people:
        train, test = _fold(all_windows, person, None)
        mean = np.mean([found[_job(chosen[person], person, None, m)]["p"] for m in members], 0)
        table[CHOSEN].append(scores_of(train, test, mean))
        penalty = _best(PENALTIES, person, found)
        table[LOGISTIC].append(scores_of(train, test, np.array(found[_job(penalty, person, None)]["p"])))
        for name in BASELINES:
            plain = classical_scores(name, TASK, train, test, 0)
            table[name].append({**plain, "argmax": plain["balanced_accuracy"]})
    rows = [{"model": name, **averages(values)} for name, values in table.items()]
    balanced = {name: [one["balanced_accuracy"] for one in values] for name, values in table.items()}
    extra = {
        "note": NOTE, "configuration": settings, "people": people, "balanced_accuracy": balanced, "chosen": chosen,
        "inner": {c: _mean(found[_job(c, p, k)] for p in people for k in range(INNER)) for c in candidates},
        "differences": {
            f"balanced accuracy of {CHOSEN} - {LOGISTIC}": paired_difference(balanced[CHOSEN], balanced[LOGISTIC])
        },
        "job_seconds": sum(result["seconds"] for result in found.values()), "threads_per_job": 1,
    }  # fmt: skip
    return Outcome(rows, identity, list(members), extra, stress_text(rows, extra))


def stress_text(rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> str:
    """Return the table for the terminal, with the paired difference below."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "majority", "auroc", "ece", "argmax")
    shown = [
        {"model": row["model"], **{k: row[k] for name in names for k in (name, f"{name}_se") if k in row}}
        for row in rows
    ]
    lines = [f"{what}: {value:+.3f} ± {error:.3f} (paired SE)" for what, (value, error) in extra["differences"].items()]
    return "\n".join([format_table(shown), "", *lines])


def _best(names: Sequence[Any], person: str, found: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return the candidate (or penalty) with the best balanced accuracy over the inner folds of the other people."""
    return max(names, key=lambda name: _mean(found[_job(name, person, k)] for k in range(INNER)))


def _mean(results: Iterable[Mapping[str, Any]]) -> float:
    return float(np.mean([result["balanced_accuracy"] for result in results]))


def _job(what: str | float, person: str, fold: int | None, seed: int = 0) -> str:
    """Return the name of a job; a number is a penalty of logistic regression."""
    what = what if isinstance(what, str) else f"logistic-{what}"
    words = "".join(c if c.isalnum() or c in ".-" else "-" for c in f"{what}-{person}")
    return f"{'-'.join(filter(None, words.split('-')))}-{'all' if fold is None else fold}-{seed}"
