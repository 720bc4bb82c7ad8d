"""SSMTL trained from disk with the amortised guide: rows per second and memory against the number of rows and units.

The data are simulated, 100 rows of each unit, every tenth labelled, sorted by unit. Tables:

* writing: `pyrozoo.write_rows`, the simulation of the chunks included in `sim_s` and not in `rows_per_s`.
* a step: training steps of all sizes, alternating in one process; ``in memory`` is the second size without files.
  ``units``: distinct units in a minibatch. The encoder reads up to 32 rows of each, so that steps with few units to
  draw from are cheaper: compare sizes whose number of units is far above the minibatch.
* memory: of `pyrozoo.create_model` and `pyrozoo.fit`, a fresh process each. ``anon_MB`` is the peak of RssAnon (Linux,
  sampled every 2 ms), memory that only the process itself can give back; ``start_MB`` the same before the data are
  opened, mostly libraries. ``mapped_MB`` is the peak growth of RssFile: pages of the files that the process has looked
  at. They belong to the page cache, and the kernel drops them when memory is short.
* variance: of the ELBO of a minibatch in the order of windows, relative to that of a whole permutation.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timing import alternate, options, report, summary
from units import STATUS

import pyrozoo as zoo
from pyrozoo.data.batch import Batch
from pyrozoo.inference.copies import build, isolated
from pyrozoo.inference.loop import Training
from pyrozoo.inference.losses import validation
from pyrozoo.inference.minibatches import rows_per_group, sample_minibatches
from pyrozoo.inference.settings import Settings
from pyrozoo.models.ssmtl.data.simulator import PRESETS, simulate

SIZES = (10**5, 10**6, 10**7)
PER_UNIT, LABELLED = 100, 10
CHUNK_UNITS = 1000  # of a chunk of 100,000 rows
MINIBATCHES = (500, 5000)
STEPS = {500: 200, 5000: 20}  # of a round and of a fit whose memory is looked at
FOREVER = 10**9


def chunks(rows: int) -> Iterator[pd.DataFrame]:
    """The simulated table, some units at a time."""
    for i, first in enumerate(range(0, rows // PER_UNIT, CHUNK_UNITS)):
        n = min(CHUNK_UNITS, rows // PER_UNIT - first)
        data = simulate(n, LABELLED, PER_UNIT - LABELLED, 1, seed=i, **PRESETS["same-valve"])[0]
        df = pd.DataFrame(data["x"].numpy(), columns=data.coords["input"])
        df["flow"] = np.where(data["labelled"].numpy(), data["y"].numpy()[:, 0], np.nan)
        yield df.assign(unit=data["unit"].numpy() + first)


def write(folder: str, rows: int) -> dict[str, float]:
    """Write one table; seconds without the simulation, and peak memory."""
    torch.set_num_threads(1)
    simulating = [0.0]

    def timed() -> Iterator[pd.DataFrame]:
        source = chunks(rows)
        while True:
            started = time.perf_counter()
            chunk = next(source, None)
            simulating[0] += time.perf_counter() - started
            if chunk is None:
                return
            yield chunk

    inputs = list(next(chunks(PER_UNIT)).columns[:2])
    started, cpu = time.perf_counter(), time.process_time()
    memory = watched(lambda: zoo.write_rows(folder, timed(), unit="unit", x=inputs, y="flow", simulated=True))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    on_disk = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
    own = seconds - simulating[0]
    return {"s": own, "sim_s": simulating[0], "cpu_s": cpu, "rows_per_s": rows / own, "files_MB": on_disk, **memory}


def fit(folder: str, minibatch: int) -> dict[str, float]:
    """Peak memory of model and fit."""
    torch.set_num_threads(1)

    def everything() -> None:
        data = zoo.open_rows(folder)
        model = zoo.create_model("ssmtl", data)
        zoo.fit(
            model,
            "amortized",
            data,
            steps=n_steps(minibatch),
            batch_size=halves(minibatch),
            groups="present",
            progress=False,
        )

    return watched(everything)


def watched(run: Callable[[], Any]) -> dict[str, float]:
    """Run under a thread that looks at the memory [MB]; NaN where there is no /proc."""
    if not STATUS.exists():
        run()
        return dict.fromkeys(("start_MB", "anon_MB", "mapped_MB"), float("nan"))
    found, stop = [_memory()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            found.append(_memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        run()
    finally:
        stop.set()
        thread.join()
    anonymous, mapped = zip(*found, strict=True)
    return {"start_MB": anonymous[0], "anon_MB": max(anonymous), "mapped_MB": max(mapped) - mapped[0]}


def _memory() -> tuple[float, float]:
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))


def halves(minibatch: int) -> dict[str, int]:
    return {"labelled": minibatch // 2, "unlabelled": minibatch // 2}


def training(data: Batch, minibatch: int) -> Training:
    """A training as `pyrozoo.fit` sets it up."""
    given = {"steps": FOREVER, "batch_size": halves(minibatch), "groups": "present"}
    with isolated(0):
        own, guide = build(zoo.create_model("ssmtl", data), "amortized")
        return Training(own, guide, data, None, Settings.resolve(own, guide, given), 0, None)


def n_steps(minibatch: int) -> int:
    return STEPS.get(minibatch, 20)


def stepper(training: Training, n: int) -> Callable[[], None]:
    """`n` steps of the training loop, from where the last call ended: a window is begun once, not in every round."""

    def endless() -> Iterator[Batch]:
        while True:
            yield from sample_minibatches(
                training.train, training.options.batch_size, training.generator, training.group_rows
            )

    def some() -> None:
        training.loss.train()
        with validation(False):
            for _ in range(n):
                training._update(next(batches), 1.0)

    batches = endless()
    return some


def steps(folders: dict[int, str], minibatch: int, rounds: int, clock: str) -> pd.DataFrame:
    """Milliseconds per step and rows per second."""
    data = {f"{rows:,}": zoo.open_rows(folder) for rows, folder in folders.items()}
    second = list(data)[min(1, len(data) - 1)]
    data[f"{second} in memory"] = in_memory(data[second])
    trainings = {name: training(batch, minibatch) for name, batch in data.items()}
    variants = {name: stepper(run, n_steps(minibatch)) for name, run in trainings.items()}
    table = summary(alternate(variants, rounds, clock) / n_steps(minibatch), next(iter(data)))
    table["rows_per_s"] = 1e3 * minibatch / table["median_ms"]
    table["units"] = {name: distinct_units(batch, minibatch) for name, batch in data.items()}
    return table


def in_memory(data: Batch) -> Batch:
    copies = {name: tensor.clone() for name, tensor in data.tensors.items()}
    return dataclasses.replace(data, tensors=copies, on_disk=None)


def distinct_units(data: Batch, minibatch: int, n: int = 20) -> float:
    batches = sample_minibatches(data, halves(minibatch), torch.Generator().manual_seed(0))
    return float(np.mean([len(batch["unit"].unique()) for batch, _ in zip(batches, range(n), strict=False)]))


def variance(folder: str, minibatch: int, n: int) -> dict[str, float]:
    """Of the ELBO of `n` minibatches [nats per row, squared], by windows and by a whole permutation."""
    data = zoo.open_rows(folder)
    few = zoo.create_model("ssmtl", data, width=32)
    run = zoo.fit(few, "amortized", data, steps=300, batch_size=halves(500), groups="present", progress=False).best
    elbo = run.model.elbo()
    found = {}
    for name, batch in (("windows", data), ("permutation", dataclasses.replace(data, on_disk=None))):
        counts = rows_per_group(batch, halves(minibatch))
        values: list[float] = []
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            generator = torch.Generator().manual_seed(1)
            while len(values) < n:  # few minibatches of many orders: those of one window are alike
                parts = sample_minibatches(batch, halves(minibatch), generator, counts)
                values += [
                    elbo.loss(run.model, run.guide, **part) / batch.n_rows
                    for part, _ in zip(parts, range(5), strict=False)
                ]
        found[name] = float(np.var(values))
    return found | {"ratio": found["windows"] / found["permutation"]}


def alone(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """In a fresh process: one that has once had much memory does not give all of it back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    folder = Path(tempfile.mkdtemp(prefix="pyrozoo-", dir=given.folder))
    try:
        folders = {rows: str(folder / str(rows)) for rows in given.sizes}
        written = {f"{rows:,}": alone(write, path, rows) for rows, path in folders.items()}
        yield "writing simulated rows in chunks of 100,000", pd.DataFrame(written).T
        for minibatch in given.minibatches:
            memory = {f"{rows:,}": alone(fit, path, minibatch) for rows, path in folders.items()}
            yield f"minibatch {minibatch}: memory of a fit of {n_steps(minibatch)} steps", pd.DataFrame(memory).T
        for minibatch in given.minibatches:
            yield f"minibatch {minibatch}: a step", steps(folders, minibatch, given.rounds, given.clock)
        if max(folders) > 10**6:
            path = folders[max(folders)]
            found = {
                str(minibatch): variance(path, minibatch, min(600, 10 * n_steps(minibatch)))
                for minibatch in given.minibatches
            }
            yield f"{max(folders):,} rows: variance of the ELBO by minibatch", pd.DataFrame(found).T
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__, "200 steps (of 5,000 rows: 20) of each size")
    parser.set_defaults(rounds=2)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="ROWS")
    parser.add_argument("--minibatches", nargs="+", type=int, default=list(MINIBATCHES), metavar="ROWS")
    parser.add_argument("--folder", type=Path, help="where the data go for a while (default: the temporary folder)")
    given = parser.parse_args(arguments)
    report(given, tables(given))


if __name__ == "__main__":
    main()
