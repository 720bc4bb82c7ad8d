"""Simulated manual work: steps that touch, several passes in a recording, confident errors; and a plain HSMM."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ....inference.fit import fit
from ....modeling import registry
from ..card import CARD
from ..data.recordings import recordings
from ..data.simulator import simulate_scores
from ..decoding import log_scores
from ..process import decode, durations
from ..process.counts import labelled_sequences
from ..process.kernels import Graph
from ..process.segments import runs, scores
from ..uses.decoding import decode_recordings

# Fixed before any decoder was run on it; three other seeds (100 to 102) were used while the models were written.
RATE = 5.0
STEPS = ("reach", "pick", "place", "align", "press", "check")
MEAN, SD = (1.6, 0.3, 1.2, 3.0, 0.4, 2.4), (0.5, 0.1, 0.4, 1.2, 0.15, 0.8)  # seconds; the second: one frame or two
SWAPPED, SKIPPED, REPEATED = 0.1, 0.05, 0.05  # per step of a pass: with the next one; left out; done twice
GAP_SHARE, GAP = 0.3, 0.8  # share of boundaries with a non-event, and its mean duration [s]
PASSES = 6
CLASSIFIER: dict[str, Any] = {
    "strength": 4.0,
    "noise": 1.5,
    "burst_rate": 0.12,
    "burst_length": 1.2,
    "blur": 0.2,
    "temperature": 1.5,
}
NOTE = (
    "Simulated manual work at 5 frames per second: six steps of 0.3 to 3 s in a usual order that is at times swapped, "
    "skipped or repeated, without a non-event at seven of ten boundaries, six passes per recording, and a classifier "
    "whose errors come in bursts and are confident. Four labelled recordings to fit, four others to score. `hsmm`: a "
    "plain hidden semi-Markov model of all labels, the non-event among them: transitions by counts, Gaussian durations "
    "in whole frames by moments, its exact maximum. Half: every second step counts as non-event, too, and the scores "
    "of both are added. Mean and standard error over data seeds."
)
HALF = (2, 4, 6)  # steps that count as non-event in the half variant
KINDS = ("with", "half", "without")  # non-events: between steps, every second step as well, none
MODELS: dict[str, tuple[str, str, str | None]] = {
    "default (mea)": ("semi-markov", "closed-form", None),
    "default, map": ("semi-markov", "closed-form", "map"),
    "vanilla Viterbi": ("frame-hmm", "closed-form", None),
}


def manual_work(seed: int, n_recordings: int = 4, kind: str = "with") -> Batch:
    """Simulate recordings of manual work; see `NOTE`.

    Args:
        seed: Random seed.
        n_recordings: Number of recordings.
        kind: Which frames are non-events: those between steps ("with"), those of every second step as well ("half"),
            or none ("without"), so that all steps touch.
    """
    score, label, non_event = [], [], kind != "without"
    for rng in np.random.default_rng(seed).spawn(n_recordings):
        label.append(_labels(rng, non_event))
        own = simulate_scores(label[-1], len(STEPS) + 1, rng, RATE, **CLASSIFIER)
        score.append(own if non_event else own[:, 1:] / own[:, 1:].sum(1, keepdims=True))
    names = ["non-event", *STEPS] if non_event else list(STEPS)
    if kind == "half":
        kept = [k for k in range(len(names)) if k not in HALF]
        renamed = np.array([kept.index(k) if k in kept else 0 for k in range(len(names))])
        label = [renamed[own] for own in label]
        merged = [own[:, kept] for own in score]
        for own, all_steps in zip(merged, score, strict=True):
            own[:, 0] += all_steps[:, HALF].sum(1)
        score, names = merged, [names[k] for k in kept]
    return recordings(
        score, label, labels=names, rate=RATE, non_event=non_event, name="manual-work", simulated=True, seed=seed
    )


def _labels(rng: np.random.Generator, non_event: bool) -> np.ndarray:
    out: list[int] = []
    for _ in range(PASSES):
        order = list(range(1, len(STEPS) + 1))
        for i in range(len(order) - 1):
            if rng.random() < SWAPPED:
                order[i], order[i + 1] = order[i + 1], order[i]
        for k in order:
            for _ in range(1 + int(rng.random() < REPEATED) - int(rng.random() < SKIPPED)):
                gap = 1 + rng.poisson(GAP * RATE) if non_event and rng.random() < GAP_SHARE else 0
                out += [0] * gap + [k] * max(1, round(float(rng.normal(MEAN[k - 1], SD[k - 1])) * RATE))
    return np.array(out)


def hsmm(sequences: list[np.ndarray], n_labels: int) -> Graph:
    """Learn a plain hidden semi-Markov model of all labels by counts and moments.

    Args:
        sequences: Label sequences, shapes (T,).
        n_labels: Number K of labels.
    """
    moves, first = np.full((n_labels, n_labels), 0.1), np.full(n_labels, 0.1)
    lengths: list[list[float]] = [[] for _ in range(n_labels)]
    for labels in sequences:
        value, start, stop = runs(labels)
        first[value[0]] += 1
        np.add.at(moves, (value[:-1], value[1:]), 1)
        for k, n in zip(value[:-1], (stop - start)[:-1], strict=True):
            lengths[k].append(float(n))
    np.fill_diagonal(moves, 0.0)
    mean = torch.tensor([np.mean(own or [1.0]) for own in lengths], dtype=torch.double)
    sd = torch.tensor([max(np.std(own), 0.5) if len(own) > 1 else 1.0 for own in lengths], dtype=torch.double)
    n_ages = int(3 * max([10, *(max(own) for own in lengths if own)]))
    exactly, at_least = (table.numpy() for table in durations.renewal(mean, sd, n_ages))
    source, target = np.nonzero(~np.eye(n_labels, dtype=bool))
    with np.errstate(divide="ignore"):
        log_move = np.log(moves / moves.sum(1, keepdims=True))[source, target]
    last = at_least[:, -1] - at_least[:, -2]
    return Graph(
        np.arange(n_labels), np.full(n_labels, n_ages - 1), np.arange(n_labels + 1) * (n_labels - 1), source, target,
        np.log(first / first.sum()), exactly[source] + log_move[:, None], at_least, last,
        (exactly[:, -2] - at_least[:, -2])[source] + log_move,
    )  # fmt: skip


def touching_run(seed: int, kind: str = "with") -> dict[str, Any]:
    """Fit every model to four recordings and score it on four others.

    Args:
        seed: Seed of the data; training and test recordings have seeds of their own.
        kind: Argument of `manual_work`.
    """
    started = time.perf_counter()
    train, test = manual_work(2 * seed, kind=kind), manual_work(2 * seed + 1, kind=kind)
    out: dict[str, Any] = {}
    for name, (variant, guide, decoder) in MODELS.items():
        model = registry.create_model("medication", train, variant=variant)
        found = fit(model, guide, train, seed=0, progress=False)
        out[name] = decode_recordings(found, test, decoder).scores(test)
    own = log_scores(model, test)
    plain = hsmm(labelled_sequences(train), model.n_labels)
    truth = labelled_sequences(test)
    out["plain HSMM"] = scores(truth, decode.decode(own, plain, "map"))
    out["argmax of the scores"] = scores(truth, decode.decode(own, plain, "argmax"))
    return out | {"seconds": round(time.perf_counter() - started, 2)}


def touching_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Simulated manual work: the default, the vanilla chain and a plain HSMM where steps touch and passes repeat.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (one seed), "quick" (6) or "paper" (30).
        seeds: Number of data seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    numbers = range(seeds or {"smoke": 1, "quick": 6, "paper": 30}[profile])
    data = simulated_data("simulated manual work of all seeds", [manual_work(2 * seed) for seed in numbers])
    resumed = claim(CARD, out, data)
    plan = {f"{kind}-{seed}": {"seed": seed, "kind": kind} for kind in KINDS for seed in numbers}
    results = run_jobs(touching_run, plan, out / "jobs", n_jobs=jobs)
    rows: list[dict[str, Any]] = []
    differences: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        found = [results[f"{kind}-{seed}"] for seed in numbers]
        for name in found[0]:
            if name != "seconds":
                own = [r[name] for r in found]
                row = {"model": name, "non_event": kind} | averages(own)
                rows.append(row)
        accuracy = {name: [r[name]["frame_accuracy"] for r in found] for name in found[0] if name != "seconds"}
        for other in ("vanilla Viterbi", "plain HSMM"):
            by_seed = np.array(accuracy["default (mea)"]) - np.array(accuracy[other])
            differences[f"{kind} non-event: default - {other}"] = {
                "mean_and_se": paired_difference(accuracy["default (mea)"], accuracy[other]),
                "least": float(by_seed.min()),
            }
    extra = {"note": NOTE, "differences": differences, **timing(results, resumed)}
    lines = [format_table(rows)]
    for name, gain in differences.items():
        mean, error = gain["mean_and_se"]
        spread = "" if error is None else f" ± {error:.4f}"
        lines.append(f"frame accuracy, {name}: {mean:+.4f}{spread}, least {gain['least']:+.4f}")
    return Outcome(rows, data, list(numbers), extra, "\n".join(lines))
