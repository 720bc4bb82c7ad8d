"""Time and memory of the zoo's training step against the number of units, at a fixed minibatch of 500 rows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timing import alternate, summary
from variants import model_for, zoo_training

from pyrozoo.data.batch import Batch
from pyrozoo.inference.loop import Training
from pyrozoo.models.ssmtl.data.simulator import PRESETS, simulate

UNITS = (10**2, 10**3, 10**4, 10**5)
GROUPS = ("all", "present")
ROWS, MINIBATCH = 10**5, 500
STEPS = 40  # of an epoch: enough that what an epoch does once hardly counts
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def data(units: int, rows: int = ROWS) -> Batch:
    """As many rows whatever the number of units, every other one labelled."""
    full = simulate(units, rows // units, 0, 1, seed=100, **PRESETS["same-valve"])[0]
    return full.relabel(np.arange(rows) % 2 == 0)


def against_units(
    rounds: int, clock: str, numbers: Sequence[int] = UNITS, rows: int = ROWS, minibatch: int = MINIBATCH,
    width: int = 200,
) -> pd.DataFrame:  # fmt: skip
    """Milliseconds per step, ratio to the fewest units with all groups in each step, and growth of peak memory [MB]."""
    trainings: dict[str, Training] = {}
    for units in numbers:
        train = data(units, rows)
        for groups in GROUPS:
            trainings[f"{units} {groups}"] = zoo_training(model_for(train, width), train, minibatch, groups=groups)
    variants = {name: partial(some_steps, training) for name, training in trainings.items()}
    table = summary(alternate(variants, rounds, clock) / STEPS, f"{numbers[0]} all")
    peaks = {}
    for name in trainings:
        units, groups = name.split()
        # A fresh process each: one that has once had much memory does not give all of it back.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks[name] = pool.submit(peak_memory, int(units), groups, rows, minibatch, width).result()
    table["peak_MB"] = pd.Series(peaks)
    return table


def some_steps(training: Training) -> None:
    """`STEPS` steps of the training loop."""
    training.total_steps = training.step + STEPS
    while training.step < training.total_steps:
        training._one_epoch()


def peak_memory(units: int, groups: str, rows: int, minibatch: int, width: int) -> float:
    """Growth of the process's peak memory [MB] over model, optimiser and `STEPS` steps; NaN where there is no /proc."""
    torch.set_num_threads(1)
    train = data(units, rows)
    if not CLEAR.exists():
        return float("nan")
    CLEAR.write_text("5")  # sets the peak back to what is held now
    before = _peak()
    some_steps(zoo_training(model_for(train, width), train, minibatch, groups=groups))
    return _peak() - before


def _peak() -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
