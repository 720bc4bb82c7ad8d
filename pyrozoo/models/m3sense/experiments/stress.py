"""Real Empatica E4 windows of Stress-Predict: one person left out at a time, everything chosen by inner folds."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .... import scores
from ....batch import Batch
from ....experiments import averages, claim, finish, known
from ....jobs import run_jobs
from ....record import format_table, paired_difference
from ..batches import at_rates, read_stress_predict_windows, standardise
from ..card import CARD
from ..e4 import read_stress_predict
from ..features import BASELINES, handcrafted
from ..runs import MODELS, class_scores, configuration, fitted, most_frequent, names_of, probabilities_of
from ..windowing import filtered, windows

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


@functools.lru_cache(maxsize=1)
def stress_windows(path: str) -> Batch:
    """Windows of an npz file, see `read_stress_predict_windows`, or of the data set's folder; standardised."""
    if Path(path).is_file():
        return standardise(at_rates(read_stress_predict_windows(path), RATES))
    return standardise(windows(filtered(read_stress_predict(path)), rates=RATES, resample=True))


def people_of(data: Batch) -> list[str]:
    """Names of the people, in order."""
    return sorted(set(data.group_names("subject").tolist()))


def _without(data: Batch, people: Sequence[str]) -> tuple[Batch, Batch]:
    """Windows of the other people, and of these."""
    own = np.isin(data.group_names("subject"), list(people))
    return data.subset(np.flatnonzero(~own)), data.subset(np.flatnonzero(own))


def _fold(data: Batch, person: str, inner: int | None) -> tuple[Batch, Batch]:
    """Training and test windows with one person left out; with `inner`, the split of the others by that fold."""
    train, test = _without(data, [person])
    if inner is None:
        return train, test
    return _without(train, people_of(train)[inner::INNER])


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
    own |= SIZES | (LATENTS if MODELS[net]["variant"] != "unaligned" else {})
    found = fitted(net, train, "quick", (TASK,), seed, settings, **own)
    p, truth = probabilities_of(found, test, TASK, seed)
    return _result(train, test, p, truth, started)


def logistic_run(path: str, penalty: float, person: str, inner: int | None) -> dict[str, Any]:
    """The same of logistic regression on handcrafted features."""
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
    """Classes by probability over share in training, by name."""
    classes, truth = train.coords[f"y_{TASK}_class"], names_of(train, TASK)[1]
    share = np.array([(truth == name).mean() for name in classes])
    return classes[(p / share).argmax(1)]


def _scores(train: Batch, test: Batch, p: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    truth, classes = names_of(test, TASK)[1], train.coords[f"y_{TASK}_class"]
    found = class_scores(truth, _balanced(train, p), most_frequent(train, TASK), p, classes)
    argmax = scores.balanced_accuracy(truth, classes[p.argmax(1)])
    return {**found, "argmax": argmax, "auroc": float(roc_auc_score(truth == classes[1], p[:, 1]))}


def stress_predict_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/m3sense-stress-predict",
    data: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Stress from real wrist recordings of people left out: a network chosen by inner folds, and classical models.

    Args:
        profile: "smoke" (three people, one epoch), "quick", or "paper", which is the same.
        seeds: Repeats of the networks with other seeds; their scores are averaged for each person.
        jobs: Processes.
        out: Folder for record.json and table.csv.
        data: The data set's folder, or windows in an npz file.

    Raises:
        ValueError: No data are given.
    """
    started, out = time.perf_counter(), Path(out)
    smoke = known(profile) == "smoke"
    if data is None:
        raise ValueError("data: the experiment needs the recordings of Stress-Predict; name their folder, or windows")
    windows_ = stress_windows(data)
    people, repeats = people_of(windows_)[: 3 if smoke else None], range(seeds or 1)
    candidates = CANDIDATES[:2] if smoke else CANDIDATES
    identity = {"name": windows_.info["name"], "sha256": windows_.sha256, "simulated": False}
    settings = {
        **configuration(NETS, "quick"),
        "candidates": f"{CANDIDATES} {SIZES} {LATENTS} {REGULARISATION} {INNER} {MEMBERS} {PENALTIES}",
    }
    claim(CARD, out, identity, settings)
    inner = range(INNER)

    def net(candidate: str, person: str, fold: int | None, seed: int) -> dict[str, Any]:
        return {"path": data, "candidate": candidate, "person": person, "inner": fold, "seed": seed, "smoke": smoke}

    plan = {_job(c, p, k, s): net(c, p, k, s) for c in candidates for p in people for k in inner for s in repeats}
    found = run_jobs(net_run, plan, out / "jobs", n_jobs=jobs)
    logistic = {
        _job(f"logistic-{c}", p, k): {"path": data, "penalty": c, "person": p, "inner": k}
        for c in PENALTIES for p in people for k in (*inner, None)
    }  # fmt: skip
    found |= run_jobs(logistic_run, logistic, out / "jobs", n_jobs=jobs)

    def best(names: Sequence[Any], job: Any) -> Any:
        return max(names, key=lambda name: _mean(found[job(name, k)] for k in inner))

    picked = {(p, s): best(candidates, lambda c, k, p=p, s=s: _job(c, p, k, s)) for p in people for s in repeats}
    members = [(p, s, m) for p, s in picked for m in range(1 if smoke else MEMBERS)]
    final = {_job(picked[p, s], p, None, 100 * s + m): net(picked[p, s], p, None, 100 * s + m) for p, s, m in members}
    found |= run_jobs(net_run, final, out / "jobs", n_jobs=jobs)

    table: dict[str, list[dict[str, float]]] = {CHOSEN: [], LOGISTIC: [], **{name: [] for name in BASELINES}}
    for person in people:
        train, test = _fold(windows_, person, None)
        own = []
        for seed in repeats:
            p1 = [
                found[_job(picked[p, s], p, None, 100 * s + m)]["p"] for p, s, m in members if (p, s) == (person, seed)
            ]
            own.append(_scores(train, test, _both(np.mean(p1, 0))))
        table[CHOSEN].append({name: float(np.mean([scores_[name] for scores_ in own])) for name in own[0]})
        penalty = best(PENALTIES, lambda c, k, person=person: _job(f"logistic-{c}", person, k))
        p1 = np.array(found[_job(f"logistic-{penalty}", person, None)]["p"])
        table[LOGISTIC].append(_scores(train, test, _both(p1)))
        truth, majority = names_of(test, TASK)[1], most_frequent(train, TASK)
        x, x_test = handcrafted(train)[0], handcrafted(test)[0]
        for name, make in BASELINES.items():
            label = make(0).fit(x, names_of(train, TASK)[1]).predict(x_test)
            plain = class_scores(truth, label, majority)
            table[name].append({**plain, "argmax": plain["balanced_accuracy"]})
    rows = [{"model": name, **averages(values)} for name, values in table.items()]
    print(format_table(rows))
    balanced = {name: [person["balanced_accuracy"] for person in values] for name, values in table.items()}
    difference = paired_difference(balanced[CHOSEN], balanced[LOGISTIC])
    print(f"\nbalanced accuracy, network - logistic regression: {difference[0]:+.3f} ± {difference[1]:.3f} (paired SE)")
    extra = {
        "note": NOTE, "configuration": settings, "people": people, "balanced_accuracy": balanced,
        "chosen": {f"{p}, seed {s}": name for (p, s), name in picked.items()},
        "differences": {f"balanced accuracy of {CHOSEN} - {LOGISTIC}": difference},
        "inner": {
            c: _mean(found[_job(c, p, k, s)] for p in people for k in inner for s in repeats) for c in candidates
        },
        "job_seconds": sum(result["seconds"] for result in found.values()), "threads_per_job": 1,
    }  # fmt: skip
    seconds = time.perf_counter() - started
    return finish(CARD, out, rows, "stress-predict", profile, identity, list(repeats), seconds, extra)


def _mean(results: Iterable[Mapping[str, Any]]) -> float:
    return float(np.mean([result["balanced_accuracy"] for result in results]))


def _both(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], 1)


def _job(what: str, person: str, fold: int | None, seed: int = 0) -> str:
    words = "".join(c if c.isalnum() or c in ".-" else "-" for c in f"{what}-{person}")
    return f"{'-'.join(filter(None, words.split('-')))}-{'all' if fold is None else fold}-{seed}"
