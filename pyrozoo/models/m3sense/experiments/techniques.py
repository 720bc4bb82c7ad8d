"""Do pre-training without labels, augmentation, restarts or features by ranks help? Measured on people left out."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ....criticism import scores
from ....data.batch import Batch
from ....experiments.cross_fitting import cross_fitted
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, mean_se
from ....experiments.running import Outcome, claim, simulated_data, timing
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....inference.settings import without_single
from ....modeling import registry
from ..card import CARD
from ..data.batches import modalities, standardise
from ..data.features import add_features, features, scaling, with_features
from ..data.simulator import simulate
from ..data.splits import split_subjects
from ..model import AffectModel, by_rule, class_shares
from .runs import MODELS, names_of, probabilities_of
from .stress import (
    INNER,
    LATENTS,
    LEARNING_RATE,
    RATES,
    SIZES,
    TASK,
    folds_of,
    only,
    people_of,
    stress_windows,
    without,
)
from .tables import job_name

ONE, TOGETHER = "one fit", "fits together"
PRETRAINED, CHANGED, DROPPED = "pre-trained without labels", "scale and shift", "modalities left out"
RANKS = "features by ranks"
CROSSED, CROSSED_RANKS = "cross-fitted by people", "cross-fitted by people, features by ranks"
TECHNIQUES = {"features": (ONE, PRETRAINED, CHANGED, DROPPED, RANKS), "signals": (ONE, PRETRAINED, CHANGED, DROPPED)}
FITS = {"features": 4, "signals": 1}  # seeds of each; those of "one fit" together are the restarts
# Of features the model that a user gets; of signals, which take ten times as long, that of the experiment
# stress-predict.
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {"features": {}, "signals": {**SIZES, **LATENTS}}
STEPS = {"features": 300, "signals": 200}
SETTINGS: Mapping[str, Any] = {"lr": LEARNING_RATE, "batch_size": 64}
GAMMA = MODELS["generative (CAM)"]["gamma"]
COPIES, SIZE, SHARE = 8, 0.2, 0.2  # of an augmented window; standard deviation of scale and shift; modalities left out
SEEDS = (100, 101, 102)  # of simulations, which no experiment scores
PEOPLE, WINDOWS, LABELLED = 24, 48, 4  # a simulation's; people in training who have labels
NOTE = (
    "M3Sense (CAM), one task, stress; nobody is in training and scored. Recordings: the first person is left out, as "
    f"in the first fold of stress-predict, and the others are scored in its {INNER} inner folds, not in the outer "
    "ones; cross-fits likewise without the first person and without the one in the middle. Simulations: half of "
    f"{PEOPLE} people are scored, and {LABELLED} of the others have labels. 'pre-trained without labels': the networks "
    "up to X_T start from a fit of the variant generative to the windows of everybody, without any label, the people "
    f"who are scored among them. 'scale and shift': each training window {COPIES} times, each modality times "
    f"exp({SIZE} e) plus {SIZE} e' standard deviations of the person, with e, e' ~ N(0, 1). 'modalities left out': "
    f"{COPIES} times, each modality replaced by the person's mean in {SHARE:.0%} of the windows, never all of them. "
    "'features by ranks': normal scores of the ranks within a person in place of standardised features. 'fits "
    "together': the mean of the probabilities of all seeds of 'one fit'. On features: the default networks, "
    f"{STEPS['features']} steps, {FITS['features']} seeds, 1 of cross-fits; on signals: small ones, "
    f"{STEPS['signals']} steps, {FITS['signals']} seed. Scores are means over seeds and folds by person, then mean and "
    "standard error over people; changes are from 'one fit', of cross-fits by ranks from those of standardised "
    "features, paired by person."
)


class Parts(NamedTuple):
    """Windows of people in training, of people who are scored, and of everybody, without labels."""

    train: Batch
    test: Batch
    everybody: Batch


@functools.lru_cache(maxsize=12)
def parts_of(path: str | None, place: int, few: bool = False, scale: str = "sd") -> Parts:
    """Return the windows of a simulation (its seed) or of an inner fold (its number) of recordings.

    Args:
        path: Path of the recordings, see `stress_windows`; None simulates.
        place: Seed of the simulation, or number of the fold: those without the first person, then those without the
            one in the middle.
        few: Whether to simulate few people and windows.
        scale: Scale of the features, see `with_features`.
    """
    if path is None:
        n_subjects, n_windows = (6, 12) if few else (PEOPLE, WINDOWS)
        raw = simulate("simulated stress", place, n_subjects=n_subjects, n_windows=n_windows, rates=dict(RATES))
        data = with_features(standardise(raw), scale)
        train, test = split_subjects(data, 0.5, place)
        train = only(train, people_of(train)[:LABELLED])
    else:
        data = with_features(stress_windows(path), scale)
        people = people_of(data)
        outer, inner = folds_of(people, len(people))
        first = place // INNER * (len(people) // 2)
        train, test = without(without(data, outer[first])[0], inner[first][place % INNER])
    return Parts(train, test, data.hide())


# -------------------------------------------------------------------- techniques
def left_out(data: Batch, seed: int) -> Batch:
    """Repeat the windows, with modalities replaced by zeros, the means of a person, at random."""
    rng, many, names = np.random.default_rng(seed), _repeated(data), modalities(data)
    absent = rng.random((many.n_rows, len(names))) < SHARE
    nothing = np.flatnonzero(absent.all(1))
    absent[nothing, rng.integers(len(names), size=len(nothing))] = False
    return many.with_tensors({
        name: many[name].masked_fill(torch.as_tensor(absent[:, k]).reshape(-1, *[1] * (many[name].dim() - 1)), 0.0)
        for k, modality in enumerate(names) for name in (modality, f"{modality}_features")
    })  # fmt: skip


def changed(data: Batch, seed: int) -> Batch:
    """Repeat the windows, with each signal scaled and shifted at random, and the features of what comes out."""
    rng, many = np.random.default_rng(seed), _repeated(data)
    signals = {}
    for name in modalities(data):
        shape = (many.n_rows, *[1] * (many[name].dim() - 1))
        scale, shift = np.exp(SIZE * rng.normal(size=shape)), SIZE * rng.normal(size=shape)
        signals[name] = many[name] * torch.as_tensor(scale).to(many[name]) + torch.as_tensor(shift).to(many[name])
    many = many.with_tensors(signals)
    before, after = (
        {name: np.stack(list(own.values()), 1) for name, own in features(part).items()} for part in (data, many)
    )
    for name, values in after.items():
        for own, theirs in zip(_rows_of_people(data), _rows_of_people(many), strict=True):
            values[theirs] = scaling(before[name][own], "sd")(values[theirs])
    tensors = {name: torch.as_tensor(values).to(many[name]) for name, values in after.items()}
    return add_features(many, tensors, {name: list(many.coords[f"{name}_feature"]) for name in tensors}, "sd")


def pretrained(model: AffectModel, parts: Parts, seed: int, settings: Mapping[str, Any]) -> Fit:
    """Return a fit to start from: the representation of a generative fit to the windows of everybody, without labels.

    Args:
        model: Model that starts from it.
        parts: Windows.
        seed: Random seed.
        settings: Settings of the generative fit.
    """
    shared = {k: v for k, v in model.config.items() if k not in ("gamma", "priors")}
    generative = registry.create_model("m3sense", variant="generative", **shared, gamma=GAMMA)
    before = fit(generative, "paper", parts.everybody, seed=seed, progress=False, **settings)
    start = fit(model, "paper", parts.train, seed=seed, progress=False, **{**settings, "steps": 1})
    start.model.representation.load_state_dict(before.model.representation.state_dict())
    return start


def _repeated(data: Batch) -> Batch:
    return data.subset(np.tile(np.arange(data.n_rows), COPIES))


def _rows_of_people(data: Batch) -> list[np.ndarray]:
    people = data["subject"].cpu().numpy()
    return [np.flatnonzero(people == person) for person in np.unique(people)]


# -------------------------------------------------------------------- jobs
def technique_run(path: str | None, place: int, inputs: str, technique: str, seed: int, smoke: bool) -> dict[str, Any]:
    """Train in one way and predict the people who are scored.

    Args:
        path: Path of the recordings; None simulates.
        place: Number of the fold, or seed of the simulation.
        inputs: What the network reads, "features" or "signals".
        technique: One of `TECHNIQUES`, or a cross-fit.
        seed: Random seed of the fit.
        smoke: Whether to train few steps, on few simulated people.

    Returns:
        p, the probabilities of the windows predicted, (N, C); seconds.
    """
    started = time.perf_counter()
    parts = parts_of(path, place, smoke, "ranks" if technique in (RANKS, CROSSED_RANKS) else "sd")
    tasks = {TASK: len(parts.train.coords[f"y_{TASK}_class"])}
    model = registry.create_model("m3sense", parts.train, tasks=tasks, inputs=inputs, **ARGUMENTS[inputs])
    length = {"steps": 4 if smoke else STEPS[inputs]}
    if technique in (CROSSED, CROSSED_RANKS):
        options = {**registry.entry("m3sense").parts.CROSS_FITS, **length, "folds": 2 if smoke else 5}
        found = cross_fitted(model, "paper", parts.train, seed=seed, progress=False, **options)
    else:
        train = {CHANGED: changed, DROPPED: left_out}.get(technique, lambda data, seed: data)(parts.train, seed)
        settings: dict[str, Any] = {
            **SETTINGS,
            **length,
            "batch_size": without_single(SETTINGS["batch_size"], train.n_rows),
        }
        start = pretrained(model, parts, seed, settings) if technique == PRETRAINED else None
        found = fit(model, "paper", train, seed=seed, warm_start=start, progress=False, **settings)
    p = probabilities_of(found, parts.test, TASK, seed)[0]
    return {"p": p.tolist(), "seconds": round(time.perf_counter() - started, 2)}


def scores_by_person(parts: Parts, p: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the balanced accuracy and the log loss of every person who is scored, from probabilities (N, C)."""
    rows, truth = names_of(parts.test, TASK)
    people, classes = parts.test.group_names("subject")[rows], parts.test.coords[f"y_{TASK}_class"]
    names = classes.tolist()
    label = classes[by_rule("balanced", p, class_shares(parts.train)[TASK])]
    out = {}
    for person in people_of(parts.test):
        own = people == person
        out[person] = scores.balanced_accuracy(truth[own], label[own]), scores.log_loss(truth[own], p[own], names)
    return out


# -------------------------------------------------------------------- experiment
def techniques_experiment(
    out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1, data: str | None = None
) -> Outcome:
    """Which techniques of training help on people left out, of a simulation or, by `data`, of recordings?

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (one small simulation or fold, features alone, 4 steps), or "quick" and "paper", the same.
        seeds: Number of seeds of the fits; None takes 4 for features, and for signals, of recordings alone, 1.
        jobs: Number of worker processes.
        data: Folder of Stress-Predict, or npz file of its windows; None simulates.
    """
    smoke = profile == "smoke"
    given = FITS if data and not smoke else {"features": 2 if smoke else FITS["features"]}
    numbers = {inputs: range(seeds or n) for inputs, n in given.items()}
    places = (range(INNER) if data else SEEDS)[: 1 if smoke else None]
    if data:
        windows = with_features(stress_windows(data))
        identity: Mapping[str, Any] = {"name": windows.info["name"], "sha256": windows.sha256, "simulated": False}
    else:
        identity = simulated_data("simulated stress", [parts_of(None, place, smoke).everybody for place in places])
    settings = {
        "fits": f"{SETTINGS} {STEPS} {dict(ARGUMENTS)} {COPIES} copies, size {SIZE}, share {SHARE}, gamma {GAMMA}",
        "places": str(list(places)),
    }
    resumed = claim(CARD, out, identity, settings)
    runs: dict[tuple[str, str], tuple[Sequence[int], Sequence[int]]] = {
        (i, t): (places, own) for i, own in numbers.items() for t in TECHNIQUES[i]
    }
    if data:
        runs |= {("features", t): (places if smoke else range(2 * INNER), [0]) for t in (CROSSED, CROSSED_RANKS)}
    plan = {
        job_name(*of, place, seed): {
            "path": data, "place": place, "inputs": of[0], "technique": of[1], "seed": seed, "smoke": smoke,
        }
        for of, (own, seeds_of) in runs.items() for place in own for seed in seeds_of
    }  # fmt: skip
    found = run_jobs(technique_run, plan, out / "jobs", n_jobs=jobs)
    table: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for of, (own, seeds_of) in runs.items():
        each = [(k, [np.array(found[job_name(*of, k, seed)]["p"]) for seed in seeds_of]) for k in own]
        table[of] = _by_person(data, [(k, p) for k, several in each for p in several], smoke)
        if of[1] == ONE and len(seeds_of) > 1:
            table[of[0], TOGETHER] = _by_person(data, [(k, np.mean(several, 0)) for k, several in each], smoke)
    rows = [_row(inputs, technique, table) for inputs, technique in table]
    balanced = {": ".join(of): {person: both[0] for person, both in own.items()} for of, own in table.items()}
    extra = {"note": NOTE, "configuration": settings, "balanced_accuracy": balanced, **timing(found, resumed)}
    return Outcome(rows, identity, [*numbers["features"]], extra, format_table(rows))


def _by_person(path: str | None, predicted: Sequence[tuple[int, np.ndarray]], smoke: bool) -> dict[str, np.ndarray]:
    """Return the scores of every person, means over folds and seeds; people of several simulations are told apart.

    Args:
        path: Path of the recordings; None: they are simulated.
        predicted: Fold or simulation, and the probabilities of its windows, (N, C).
        smoke: Whether simulations are small.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for place, p in predicted:
        for person, both in scores_by_person(parts_of(path, place, smoke), p).items():
            found.setdefault(person if path else f"{place}: {person}", []).append(both)
    return {person: np.mean(several, 0) for person, several in found.items()}


def _row(inputs: str, technique: str, table: Mapping[tuple[str, str], Mapping[str, np.ndarray]]) -> dict[str, Any]:
    own = np.stack(list(table[inputs, technique].values()))
    first = CROSSED if technique in (CROSSED, CROSSED_RANKS) else ONE
    change = own - np.stack(list(table[inputs, first].values()))
    row: dict[str, Any] = {"inputs": inputs, "model": technique, "people": len(own)}
    for k, (name, other) in enumerate((("balanced_accuracy", "change"), ("log_loss", "log_loss_change"))):
        row[name], row[f"{name}_se"] = mean_se(own[:, k])
        row[other], row[f"{other}_se"] = mean_se(change[:, k]) if technique != first else (None, None)
    return row
