"""The process on the labels by itself, beside a line and trees, on development seeds: how its features share scales."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ....criticism.scores import mae
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ....inference.label_process import LabelProcess
from ..card import CARD
from ..data.batches import participant_folds
from ..data.simulator import GAITS, LOADS_LB, Gait, simulate
from ..model import AuxVAE
from .choices import DEVELOPMENT
from .departure import RIVALS, probe
from .runs import DEPARTURE, PROFILES


def louder(factor: float) -> Gait:
    """The gait "linear" with other sizes of sensor noise and of differences between the walks of a person."""
    usual = Gait()
    noise = {name: factor * getattr(usual, name) for name in ("trial", "acc_noise", "gyro_noise")}
    return Gait(**noise)


SIMULATORS: Mapping[str, tuple[Gait, int]] = {
    **{name: (GAITS[name], 22) for name in ("linear", "coordination", "nonlinear")},
    "twice the noise": (louder(2.0), 22), "half the noise": (louder(0.5), 22),
    "half the effect": (Gait(effect=0.5), 22),
    "sensors askew by 20 degrees": (Gait(misalignment_deg=20.0), 22), "six people": (GAITS["linear"], 6),
}  # fmt: skip
BY_KIND, BY_SENSOR = "process, scales by kind", "process, scales by kind and sensor"
FOLDS = (0, 1)  # of five
NOTE = (
    "Simulated gait of a development seed, people left out, two of five folds of every simulator. The mean of both "
    "kinds of the process, without networks, on the features of AuxVAE.process_features, which share their scales by "
    "kind, or by kind and sensor; 'rounded': to the nearest of the four loads."
)


class BySensor(AuxVAE):
    """`AuxVAE` whose process has a scale for each kind of features of each sensor."""

    def process_features(self, data: Batch) -> dict[str, Tensor]:
        """Return the features of `AuxVAE` by sensor, whose channels differ in the last two parts of their names."""
        sensors: dict[str, list[int]] = {}
        for k, name in enumerate(data.coords["channel"].tolist()):
            sensors.setdefault(str(name).rsplit("_", 2)[0], []).append(k)
        return {
            f"{kind} of {sensor}": part.unflatten(1, (-1, self.n_channels))[..., own].flatten(1)
            for kind, part in super().process_features(data).items()
            for sensor, own in sensors.items()
        }


def process_trial(seed: int, simulator: str, fold: int, profile: str) -> dict[str, Any]:
    """Errors [lb] of the process and of simple methods for the people of one fold."""
    started = time.perf_counter()
    train, test = participant_folds(_data(seed, simulator, profile), 5, seed=seed)[fold]
    truth, levels, out = test["y"].numpy().astype(float), np.array(LOADS_LB), probe(train, test, seed)
    for name, family in ((BY_KIND, AuxVAE), (BY_SENSOR, BySensor)):
        model = family(**{**family.sizes_from(train), **DEPARTURE})
        mean = LabelProcess.learn(model, train, "y", seed).predict(model, test)[0][..., 0].mean(0)
        out |= {name: mae(truth, mean)}
        out |= {f"{name}, rounded": mae(truth, levels[np.abs(mean[:, None] - levels).argmin(1)])}
    return {**out, "seconds": round(time.perf_counter() - started, 2)}


def _data(seed: int, simulator: str, profile: str) -> Batch:
    gait, people = SIMULATORS[simulator]
    return simulate(seed=seed, gait=gait, **{"n_participants": people, **PROFILES[profile]["data"]})


def process_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """The process on the labels by itself with two ways to share scales, on simulators of many kinds.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (one simulator), "quick" or "paper" (T = 800).
        seeds: Number of seeds, from 100 on; None takes one.
        jobs: Number of worker processes.
    """
    numbers = range(DEVELOPMENT, DEVELOPMENT + (seeds or 1))
    simulators = ["six people"] if profile == "smoke" else list(SIMULATORS)
    profile = "quick" if profile == "smoke" else profile
    data = simulated_data(
        "simulated gait of all simulators and seeds",
        (_data(seed, one, profile) for one in simulators for seed in numbers),
    )
    resumed = claim(CARD, out, data)
    places = [(seed, fold) for seed in numbers for fold in FOLDS]
    plan = {
        f"{place}-{seed}-{fold}": {"seed": seed, "simulator": one, "fold": fold, "profile": profile}
        for place, one in enumerate(simulators) for seed, fold in places
    }  # fmt: skip
    results = run_jobs(process_trial, plan, out / "jobs", n_jobs=jobs)
    names = [*RIVALS, *(f"{name}{end}" for name in (BY_KIND, BY_SENSOR) for end in ("", ", rounded"))]
    rows, differences = [], {}
    for place, one in enumerate(simulators):
        found = [results[f"{place}-{seed}-{fold}"] for seed, fold in places]
        errors = {name: [own[name] for own in found] for name in names}
        rows += [{"model": f"{one}: {name}", **averages([{"mae": value} for value in errors[name]])} for name in names]
        pair = [errors[f"{name}, rounded"] for name in (BY_SENSOR, BY_KIND)]
        differences[f"{one}: MAE of scales by kind and sensor - by kind, rounded"] = paired_difference(*pair)
    extra = {"note": NOTE, "differences": differences, **timing(results, resumed)}
    return Outcome(rows, data, list(numbers), extra, format_table(rows))
