"""One run of an experiment as a job: plain arguments in, plain numbers out."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....criticism import scores
from ....data.batch import Batch
from ....experiments.running import defaults_of
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....inference.settings import Adam, without_single
from ....modeling import registry
from ....posterior.columns import probabilities
from ....posterior.predicting import predict
from ..data.batches import numbered, standardise
from ..data.folders import read_study
from ..data.simulator import simulate_all
from ..data.splits import split_subjects, split_windows
from .baselines import BASELINES, CLOCK, inputs_of
from .presets import PAPER_LATENTS, PAPER_SIZES, PRESETS, SINGLE_TASK

TASKS = ("anxiety", "emotion", "stress")
CAM = PRESETS["M3Sense (CAM)"]
MODELS: Mapping[str, Mapping[str, Any]] = {
    **PRESETS,
    # Not in the paper: labels from the latents, and missing labels that inform. Weights chosen on simulation 100.
    "latent (CAM)": {**CAM, "variant": "latent", "gamma": 0.03},
    "generative (CAM)": {**CAM, "variant": "generative", "gamma": 0.3},
}


def warm_restarts(progress: float) -> float:
    """Return the factor of the paper's learning rate: a cosine over 30 of 65 epochs, then 35 epochs of one over 60."""
    epoch = 65 * progress
    return 0.5 * (1 + math.cos(math.pi * (epoch / 30 if epoch < 30 else (epoch - 30) / 60)))


# The paper's optimiser, Adam with an L2 penalty, and its rule, the likeliest class, in all of its tables.
ADAM = functools.partial(Adam, weight_decay=1e-4, fused=True)
RULE = "likeliest"
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "data": {"n_subjects": 6, "n_windows": 16, "seconds": 5.0}, "rates": {"bvp": 8.0, "eda": 4.0, "temp": 4.0},
        "sizes": {"embedding": 6, "lstm_layers": 1, "hidden": (6, 5), "head": 4},
        "latents": {"a_dim": 2, "q_hidden": 4}, "settings": {"epochs": 2, "batch_size": 32, "optimizer": ADAM},
    },
    "quick": {
        "data": {"n_subjects": 24, "n_windows": 16}, "rates": {"bvp": 8.0, "eda": 4.0, "temp": 4.0}, "sizes": {},
        # The same number of steps for single-task and multitask networks.
        "latents": {}, "settings": {"steps": 300, "optimizer": ADAM},
    },
    "paper": {
        "data": {}, "rates": {"bvp": 64.0, "eda": 4.0, "temp": 4.0}, "sizes": PAPER_SIZES, "latents": PAPER_LATENTS,
        "settings": {"epochs": 65, "batch_size": 2, "lr": 3e-4, "schedule": warm_restarts, "optimizer": ADAM},
    },
}  # fmt: skip


# -------------------------------------------------------------------- data
@functools.lru_cache(maxsize=2)
def data_of(seed: int, profile: str, data: str | None = None) -> Batch:
    """Return windows standardised by person: simulated from a seed, or read from the real folders in `data`.

    Raises:
        ValueError: The folders lack a task.
    """
    rates, design = PROFILES[profile]["rates"], PROFILES[profile]["data"]
    if data is None:
        return standardise(simulate_all(seed, rates=rates, **design))
    windows = read_study(data, tuple(rates.items()), design.get("seconds", 20.0))
    lacking = [task for task in TASKS if f"y_{task}" not in windows.labels]
    if lacking:
        raise ValueError(
            f"{data}: no data set of task {lacking[0]!r}; the tables need verbio (anxiety), kemocon (emotion), and "
            "wesad or stress_predict (stress)"
        )
    return numbered(standardise(windows))


def parts_of(seed: int, profile: str, data: str | None = None, split: str = "subject") -> tuple[Batch, Batch]:
    """Return training and test windows. By subject nobody is in both; by window, as in the paper, everybody is.

    Half of the simulated people are for testing, since more can be simulated; of real people a quarter.
    """
    windows = data_of(seed, profile, data)
    if split not in ("subject", "window"):
        raise ValueError(f"split: {split!r} is none of ['subject', 'window']")
    if split == "window":
        parts = split_windows(windows, seed)
        return parts.semi_supervised, parts.test
    return split_subjects(windows, 0.5 if data is None else 0.25, seed)


def chosen(train: Batch, tasks: Iterable[str], unlabelled: bool = True) -> Batch:
    """Keep the windows labelled for one of the tasks and, with `unlabelled`, those without any label."""
    own = np.zeros(train.n_rows, bool)
    blank = np.ones(train.n_rows, bool)
    for target in train.labels:
        seen = train.observed(target)
        blank &= ~seen
        if target.removeprefix("y_") in tasks:
            own |= seen
    return train.subset(np.flatnonzero(own | blank if unlabelled else own))


# -------------------------------------------------------------------- models
def arguments_of(model: str, profile: str, **own: Any) -> tuple[str, dict[str, Any]]:
    """Return the variant and constructor arguments of a row of the tables."""
    arguments = {**MODELS[model], **own}
    variant = arguments.pop("variant")
    sizes = PROFILES[profile]["sizes"] | ({} if variant == "unaligned" else PROFILES[profile]["latents"])
    return variant, {"rule": RULE, **sizes, **arguments}


def configuration(models: Iterable[str], profile: str) -> dict[str, str]:
    """Describe each row's model and settings of the fit in words, as part of an experiment's identity."""
    out = {}
    for model in models:
        variant, arguments = arguments_of(model, profile)
        family = registry.entry("m3sense").parts.VARIANTS[variant]
        used = {**defaults_of(family), **arguments}
        for name, value in _UNSAID.items():
            if used.get(name) == value:
                used.pop(name, None)
        if used.get("gamma", 0.0) is None:
            used["gamma"] = family.default_gamma
        plain = {k: _word(v) for k, v in _settings(family.fit_defaults, PROFILES[profile]["settings"]).items()}
        out[model] = f"{variant} {sorted(used.items())} {sorted(plain.items())}"
    return out


# Values of arguments that go without saying: one channel a modality, signals as inputs, and the paper's rule.
_UNSAID = {"channels": None, "inputs": "signals", "features": None, "shares": None, "rule": RULE}


def _settings(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings of a fit; `then` overrides `first`, and giving `steps` drops `epochs` (and vice versa)."""
    length = {"steps", "epochs"}
    kept = {k: v for k, v in first.items() if k not in length or not length & set(then)}
    return {**kept, **then}


def _word(value: Any) -> str:
    if isinstance(value, functools.partial):
        return f"{value.func.__name__} {sorted(value.keywords.items())}"
    return getattr(value, "__name__", None) or repr(value)


def fitted(
    model: str, train: Batch, profile: str, tasks: Sequence[str], seed: int = 0,
    settings: Mapping[str, Any] | None = None, **own: Any,
) -> Fit:  # fmt: skip
    """Fit a row of the tables to data, on a GPU where there is one; `own` are further constructor arguments."""
    variant, arguments = arguments_of(model, profile, **own)
    classes = {task: len(train.coords[f"y_{task}_class"]) for task in tasks}
    made = registry.create_model("m3sense", train, variant=variant, tasks=classes, **arguments)
    device = "cuda" if torch.cuda.is_available() else None
    guide = "none" if variant == "unaligned" else "paper"
    options = _settings(PROFILES[profile]["settings"], settings or {})
    options["batch_size"] = without_single(options.get("batch_size", made.fit_defaults["batch_size"]), train.n_rows)
    return fit(made, guide, train, seed=seed, device=device, progress=False, **options)


# -------------------------------------------------------------------- scores
def class_scores(
    truth: Any, label: Any, majority: str, probabilities: Any = None, classes: Any = None
) -> dict[str, float]:
    """Return accuracy, balanced accuracy, macro F1 and the accuracy of the majority rule; ece from probabilities.

    Args:
        truth: Names of the true classes, (N,).
        label: Names of the predicted classes, (N,).
        majority: Class that is most frequent in training.
        probabilities: Class probabilities, (N, C); None leaves out ece.
        classes: Names of the classes, (C,).
    """
    out = {
        "accuracy": scores.accuracy(truth, label),
        "balanced_accuracy": scores.balanced_accuracy(truth, label),
        "macro_f1": scores.macro_f1(truth, label),
        "majority": float(np.mean(np.asarray(truth) == majority)),
    }
    if probabilities is not None:
        out["ece"] = scores.ece(truth, probabilities, classes)
    return out


def names_of(data: Batch, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows where a task's label is known, and the labels by name."""
    rows = np.flatnonzero(data.observed(f"y_{task}"))
    return rows, data.coords[f"y_{task}_class"][data[f"y_{task}"].cpu().numpy()[rows]]


def most_frequent(train: Batch, task: str) -> str:
    """Return the class that the majority rule predicts."""
    names, counts = np.unique(names_of(train, task)[1], return_counts=True)
    return str(names[counts.argmax()])


def probabilities_of(found: Fit, test: Batch, task: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return class probabilities (N, C) on the windows where a task's label is known, and the labels by name (N,)."""
    rows, truth = names_of(test, task)
    table = predict(found, test.subset(rows), draws=50, seed=seed)
    return probabilities(table, f"y_{task}", test.coords[f"y_{task}_class"]), truth


def scored(found: Fit, train: Batch, test: Batch, tasks: Iterable[str], seed: int = 0) -> dict[str, float]:
    """Return ``<task>.<score>`` of a fit on the test windows of each task; see `class_scores`."""
    out: dict[str, float] = {}
    for task in tasks:
        p, truth = probabilities_of(found, test, task, seed)
        classes = test.coords[f"y_{task}_class"]
        label = classes[found.model.decide(f"y_{task}", p)]
        found_scores = class_scores(truth, label, most_frequent(train, task), p, classes)
        out |= {f"{task}.{name}": value for name, value in found_scores.items()}
    return out


# -------------------------------------------------------------------- jobs
def deep_run(
    model: str, tasks: Sequence[str], seed: int, profile: str, data: str | None = None, split: str = "subject",
    unlabelled: bool = True, variant: str | None = None, only: Sequence[str] | None = None, save: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one row of a table and score it on the test windows.

    Args:
        model: Row of the table, a key of `MODELS`.
        tasks: Tasks to learn; windows of other tasks' data sets are left out.
        seed: Random seed of simulated data, the split and the fit.
        profile: Key of `PROFILES`.
        data: Folder of real data sets (see `study.read_study`); None simulates them.
        split: "subject" or "window".
        unlabelled: Whether multitask models are also trained on windows without labels.
        variant: Variant; None takes the row's.
        only: Modalities to keep; None keeps all.
        save: Folder for the fit; None does not save it.
    """
    started = time.perf_counter()
    train, test = parts_of(seed, profile, data, split)
    own = chosen(train, tasks, unlabelled and model not in SINGLE_TASK)
    changed: dict[str, Any] = {} if variant is None else {"variant": variant}
    if only is not None:
        changed["modalities"] = tuple(only)
    found = fitted(model, own, profile, tasks, seed, **changed)
    seconds = round(time.perf_counter() - started, 2)
    if save is not None:
        found.save(Path(save), overwrite=True)
    return scored(found, own, test, tasks, seed) | {"seconds": seconds}


def classical_run(
    model: str, task: str, seed: int, profile: str, data: str | None = None, split: str = "subject",
    only: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit a scikit-learn baseline, or the clock, and score it; the arguments are those of `deep_run`."""
    started = time.perf_counter()
    found = classical_scores(model, task, *parts_of(seed, profile, data, split), seed, only)
    seconds = round(time.perf_counter() - started, 2)
    return {f"{task}.{name}": value for name, value in found.items()} | {"seconds": seconds}


def classical_scores(
    model: str, task: str, train: Batch, test: Batch, seed: int, only: Sequence[str] | None = None
) -> dict[str, float]:
    """Fit and score a baseline, or the clock, on the windows where a task's label is known; see `class_scores`."""
    train, test = (part.subset(names_of(part, task)[0]) for part in (train, test))
    x, x_test = (inputs_of(part, model, only) for part in (train, test))
    make = BASELINES["decision tree" if model == CLOCK else model]
    label = make(seed).fit(x, names_of(train, task)[1]).predict(x_test)
    return class_scores(names_of(test, task)[1], label, most_frequent(train, task))
