"""Real Empatica E4 windows of Stress-Predict: people left out in turn, everything chosen by inner folds."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....criticism import scores
from ....data.batch import Batch
from ....experiments.cross_fitting import cross_fitted
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, timing
from ....inference.settings import AdamW
from ....modeling import registry
from ..card import CARD
from ..data.batches import at_rates, detrended, numbered, standardise
from ..data.features import with_features
from ..data.stress_predict import read_stress_predict
from ..data.window_files import read_stress_predict_windows
from ..data.windowing import filtered, windows
from ..model import by_rule, class_shares
from .baselines import BASELINES, CLOCK, inputs_of, logistic
from .runs import class_scores, configuration, fitted, most_frequent, names_of, probabilities_of
from .tables import job_name

TASK, INNER = "stress", 3
RATES: Mapping[str, float] = {"bvp": 8.0, "eda": 4.0, "temp": 4.0}
# Small networks, since people are few.
SIZES: Mapping[str, Any] = {"embedding": 16, "lstm_layers": 1, "hidden": (32, 32), "head": 32, "rule": "balanced"}
LATENTS: Mapping[str, Any] = {"a_dim": 8, "q_hidden": 32}
NETS = ("Non-Attention", "Keyless", "M3Sense (CAM)")
STEPS = 300  # of any number of people, so that time does not grow with it
MEMBERS = 3  # fits whose probabilities are averaged
SEEDS = {"smoke": 1, "quick": 3, "paper": 3}
MOST_FOLDS = {"smoke": 3, "quick": 12, "paper": None}  # beyond that, several people are left out at a time
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # C of logistic regression
LOGISTIC, CHOSEN = "logistic regression", "network chosen by inner folds"
CROSSED = "cross-fitted by people"
SIMPLE = (LOGISTIC, *BASELINES)
LEARNING_RATE = 3e-3
ADAMW = functools.partial(AdamW, weight_decay=1e-2, fused=True)
SETTINGS = {
    "candidates": f"{NETS} {STEPS} steps {sorted(SIZES.items())} {sorted(LATENTS.items())} {MEMBERS} members, "
    f"AdamW 1e-2, learning rate {LEARNING_RATE}",
    "inner": f"{INNER} folds; penalties {PENALTIES}",
}
NOTE = (
    "Recorded windows of 20 s (Empatica E4), rest or a stressful task; handcrafted features, standardised by person "
    "without labels, are the inputs of all models but the clock, a decision tree that sees nothing but the number of "
    "the window in its session. All models decide by the rule for balanced accuracy: the largest ratio of probability "
    "to the class's share of the training windows (the linear classifier and the SVM, which have no probabilities, "
    "weigh the classes equally in training); `argmax` is the balanced accuracy of the likelier class. The network's "
    "preset, and the penalty of logistic regression, are those with the best balanced accuracy "
    f"over {INNER} inner folds of the people in training; the network's probabilities are the mean of {MEMBERS} fits. "
    f"'{CROSSED}' is what `pyrozoo fit m3sense` makes of the people in training by default: five fits of the default "
    "model, which leave out a fifth of them each, beside Gaussian processes on their labels, with shares and a "
    "temperature from those left out. "
    "Means over seeds by person, then mean and standard error over people."
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
    return numbered(standardise(detrended(data, degree) if degree else data))


@functools.lru_cache(maxsize=1)
def featured_windows(path: str | None) -> Batch:
    """Return the windows of `stress_windows` with handcrafted features."""
    return with_features(stress_windows(path))


def people_of(data: Batch) -> list[str]:
    """Return the names of the people, in order."""
    return sorted(set(data.group_names("subject").tolist()))


def without(data: Batch, people: Sequence[str]) -> tuple[Batch, Batch]:
    """Split off some people: the windows of all others, and those of these people."""
    own = np.isin(data.group_names("subject"), list(people))
    return data.subset(np.flatnonzero(~own)), data.subset(np.flatnonzero(own))


def only(data: Batch, people: Sequence[str]) -> Batch:
    """Keep the windows of some people."""
    return data.subset(np.flatnonzero(np.isin(data.group_names("subject"), list(people))))


def folds_of(people: Sequence[str], n: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Deal people out over n outer folds, and in each the others over the inner folds.

    Returns:
        People left out by each outer fold, and by each inner fold of each outer fold.
    """
    outer = [list(people[k::n]) for k in range(n)]
    return outer, [[sorted(set(people) - set(held))[k::INNER] for k in range(INNER)] for held in outer]


def _parts(path: str, people: Sequence[str], outer: Sequence[str], inner: Sequence[str]) -> tuple[Batch, Batch]:
    """Return training and test windows: the people of the inner fold are tested if there are any, else of the outer."""
    train, test = without(only(featured_windows(path), people), outer)
    return without(train, inner) if inner else (train, test)


# -------------------------------------------------------------------- jobs
def net_run(
    path: str, people: Sequence[str], outer: Sequence[str], inner: Sequence[str], candidate: str, seed: int,
    smoke: bool,
) -> dict[str, Any]:  # fmt: skip
    """Fit a network without the people of an outer fold, and predict these, or people of an inner fold.

    Args:
        path: Path of the windows, see `stress_windows`.
        people: Names of all people of the experiment.
        outer: People left out.
        inner: People of the inner fold, who are left out, too, and predicted; none to predict those of `outer`.
        candidate: Preset, one of `NETS`.
        seed: Random seed of the fit.
        smoke: Whether to train 20 steps.

    Returns:
        p, the probability of stress of the windows predicted; balanced_accuracy, the mean over people; seconds.
    """
    started = time.perf_counter()
    train, test = _parts(path, people, outer, inner)
    settings = {
        "steps": 20 if smoke else STEPS, "batch_size": 64, "lr": LEARNING_RATE, "optimizer": ADAMW,
        "restarts": 1 if inner or smoke else MEMBERS,
    }  # fmt: skip
    latents = LATENTS if candidate == "M3Sense (CAM)" else {}
    found = fitted(candidate, train, "quick", (TASK,), seed, settings, **SIZES, **latents)
    return _result(train, test, probabilities_of(found, test, TASK, seed)[0][:, 1], started)


def crossed_run(
    path: str, people: Sequence[str], outer: Sequence[str], inner: Sequence[str], model: str, seed: int, smoke: bool
) -> dict[str, Any]:
    """Return the same of a fit by `pyrozoo.cross_fitted` with the defaults of ``pyrozoo fit m3sense``."""
    started = time.perf_counter()
    train, test = _parts(path, people, outer, inner)
    few = {"steps": 20, "folds": 2} if smoke else {}
    options = {**registry.entry("m3sense").parts.CROSS_FITS, **few, "seed": seed, "progress": False}
    found = cross_fitted(registry.create_model("m3sense", train), "paper", train, **options)
    assert found.law is not None
    own = found.law.as_json()["parts"][f"y_{TASK}"]
    return _result(train, test, probabilities_of(found, test, TASK, seed)[0][:, 1], started) | {"law": own}


def simple_run(
    path: str, people: Sequence[str], outer: Sequence[str], inner: Sequence[str], model: str, seed: int
) -> dict[str, Any]:
    """Return the same of a classifier of `baselines`, the clock, or logistic regression (its name and penalty)."""
    started = time.perf_counter()
    train, test = _parts(path, people, outer, inner)
    x, x_test = (inputs_of(part, model) for part in (train, test))
    classes, names = train.coords[f"y_{TASK}_class"], names_of(train, TASK)[1]
    if model.startswith(LOGISTIC):
        classifier = logistic(float(model.removeprefix(LOGISTIC)))
    else:
        classifier = BASELINES["decision tree" if model == CLOCK else model](seed)
    last = classifier[-1]
    if not hasattr(last, "predict_proba"):
        last.set_params(class_weight="balanced")
    fit = classifier.fit(x, names)
    if hasattr(last, "predict_proba"):
        return _result(train, test, fit.predict_proba(x_test)[:, list(fit.classes_).index(classes[1])], started)
    stressed = (fit.predict(x_test) == classes[1]).astype(float)
    return _result(train, test, stressed, started)


def _result(train: Batch, test: Batch, stressed: np.ndarray, started: float) -> dict[str, Any]:
    balanced = [
        scores.balanced_accuracy(names_of(own, TASK)[1], _labels(train, p)) for own, p in _by_person(test, stressed)
    ]
    return {
        "p": stressed.tolist(), "balanced_accuracy": float(np.mean(balanced)),
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip


def _by_person(test: Batch, stressed: np.ndarray) -> Iterable[tuple[Batch, np.ndarray]]:
    names = test.group_names("subject")
    for person in people_of(test):
        rows = np.flatnonzero(names == person)
        yield test.subset(rows), stressed[rows]


def _labels(train: Batch, stressed: np.ndarray) -> np.ndarray:
    """Return classes by name from the probability of stress, by the rule for balanced accuracy."""
    p = np.stack([1 - stressed, stressed], 1)
    return train.coords[f"y_{TASK}_class"][by_rule("balanced", p, class_shares(train)[TASK])]


def scores_of(train: Batch, test: Batch, stressed: np.ndarray) -> dict[str, float]:
    """Return scores from the probability of stress, (N,)."""
    from sklearn.metrics import roc_auc_score

    p = np.stack([1 - stressed, stressed], 1)
    truth, classes = names_of(test, TASK)[1], train.coords[f"y_{TASK}_class"]
    found = class_scores(truth, _labels(train, stressed), most_frequent(train, TASK), p, classes)
    argmax = scores.balanced_accuracy(truth, classes[p.argmax(1)])
    return {**found, "argmax": argmax, "auroc": float(roc_auc_score(truth == classes[1], p[:, 1]))}


# -------------------------------------------------------------------- experiment
def stress_predict_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None,
    folds: int | None = None, people: int | None = None,
) -> Outcome:  # fmt: skip
    """Stress from real wrist recordings of people left out: a network chosen by inner folds, and simple models.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (three folds, 20 steps), "quick" (at most 12 folds) or "paper" (one person at a time).
        seeds: Number of seeds, averaged by person; None takes the profile's.
        jobs: Number of worker processes.
        data: Folder of the data set, or npz file of windows.
        folds: Number of outer folds, over which the people are dealt out; None takes the profile's.
        people: Number of people, the first by name; None takes all.

    Raises:
        ValueError: No data are given; there are fewer than four people, or more folds than people.
    """
    smoke, numbers = profile == "smoke", range(seeds or SEEDS[profile])
    everything = featured_windows(data)
    names = people_of(everything)[:people]
    n = folds or min(len(names), MOST_FOLDS[profile] or len(names))
    if len(names) <= INNER or not 2 <= n <= len(names):
        raise ValueError(
            f"people, folds: {len(names)} people in {n} folds; give more than {INNER} people, and 2 folds to as many "
            "as people"
        )
    everything = only(everything, names)
    outer, inner = folds_of(names, n)
    identity = {"name": everything.info["name"], "sha256": everything.sha256, "simulated": False}
    candidates = NETS[:2] if smoke else NETS
    options = sorted(registry.entry("m3sense").parts.CROSS_FITS.items())
    settings = {
        **configuration(NETS, "quick"), **SETTINGS, "folds": f"{n} of {len(names)} people",
        CROSSED: f"the defaults of pyrozoo fit m3sense: {options}, 5 folds",
    }  # fmt: skip
    resumed = claim(CARD, out, identity, settings)

    def run(function: Any, models: Mapping[int, Iterable[str]], seeds: Iterable[int], nested: bool) -> None:
        own = {"path": data, "people": names, **({} if function is simple_run else {"smoke": smoke})}
        word = "candidate" if function is net_run else "model"
        plan = {
            job_name(model, k, *((i,) if nested else ()), f"seed{seed}"): {
                **own, word: model, "outer": outer[k], "inner": inner[k][i] if nested else [], "seed": seed,
            }
            for k, own_models in models.items() for model in own_models
            for i in range(INNER if nested else 1) for seed in seeds
        }  # fmt: skip
        found.update(run_jobs(function, plan, out / "jobs", n_jobs=jobs))

    def best(models: Sequence[str], k: int) -> str:
        return max(models, key=lambda m: _mean(found[job_name(m, k, i, "seed0")] for i in range(INNER)))

    found: dict[str, dict[str, Any]] = {}
    penalised = [f"{LOGISTIC} {penalty}" for penalty in PENALTIES]
    run(net_run, dict.fromkeys(range(n), candidates), [0], True)
    run(simple_run, dict.fromkeys(range(n), penalised), [0], True)
    chosen = {CHOSEN: [best(candidates, k) for k in range(n)], LOGISTIC: [best(penalised, k) for k in range(n)]}
    chosen |= {model: [model] * n for model in (CLOCK, CROSSED, *BASELINES)}
    run(net_run, {k: [model] for k, model in enumerate(chosen[CHOSEN])}, numbers, False)
    run(crossed_run, {k: [CROSSED] for k in range(n)}, numbers, False)
    run(simple_run, {k: [chosen[m][k] for m in (CLOCK, *SIMPLE)] for k in range(n)}, numbers, False)

    table: dict[str, list[dict[str, float]]] = {}
    for model in (CLOCK, CROSSED, CHOSEN, *SIMPLE):
        for k, held in enumerate(outer):
            train, test = without(everything, held)
            runs = [np.array(found[job_name(chosen[model][k], k, f"seed{seed}")]["p"]) for seed in numbers]
            seeded = [[scores_of(train, own, p) for own, p in _by_person(test, stressed)] for stressed in runs]
            table.setdefault(model, []).extend(_averaged(each) for each in zip(*seeded, strict=True))
    for model in ("linear", "SVM"):  # no probabilities
        table[model] = [{k: v for k, v in one.items() if k not in ("ece", "auroc", "argmax")} for one in table[model]]
    rows = [{"model": name, **averages(values)} for name, values in table.items()]
    balanced = {name: [one["balanced_accuracy"] for one in values] for name, values in table.items()}
    extra = {
        "note": NOTE, "configuration": settings, "people": [person for held in outer for person in held],
        "balanced_accuracy": balanced, "chosen": dict(zip(map(" ".join, outer), chosen[CHOSEN], strict=True)),
        "inner": {c: _mean(found[job_name(c, k, i, "seed0")] for k in range(n) for i in range(INNER))
                  for c in candidates},
        "law": {name: float(np.mean([found[job_name(CROSSED, k, f"seed{seed}")]["law"][name]
                                     for k in range(n) for seed in numbers])) for name in ("t", "w", "u")},
        "differences": {
            f"balanced accuracy of {own} - {name}": paired_difference(balanced[own], balanced[name])
            for own in (CROSSED, CHOSEN) for name in (CLOCK, *SIMPLE)
        },
        **timing(found, resumed),
    }  # fmt: skip
    return Outcome(rows, identity, list(numbers), extra, stress_text(rows, extra))


def stress_text(rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> str:
    """Return the table for the terminal, with the paired differences below."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "majority", "auroc", "ece", "argmax")
    shown = [
        {"model": row["model"], **{k: row[k] for name in names for k in (name, f"{name}_se") if k in row}}
        for row in rows
    ]
    lines = [f"{what}: {value:+.3f} ± {error:.3f} (paired SE)" for what, (value, error) in extra["differences"].items()]
    return "\n".join([format_table(shown), "", *lines])


def _averaged(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _mean(results: Iterable[Mapping[str, Any]]) -> float:
    return float(np.mean([result["balanced_accuracy"] for result in results]))
