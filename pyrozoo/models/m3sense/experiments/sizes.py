"""Tables 6 and 7 of the paper: parameters and time of one multitask model beside single-task ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ....data.batch import Batch
from ....experiments.record import PUBLISHED, format_table
from ....experiments.running import Outcome, simulated_data
from ....inference.copies import build, isolated
from ....inference.losses import materialise
from ....modeling import registry
from ..data.simulator import simulate_all
from .presets import MULTITASK, SINGLE_TASK
from .published import PARAMETERS, REFERENCE, TIMES
from .runs import PROFILES, TASKS, arguments_of

# Multitask model -> the single-task model of the same encoders.
MATCH = {
    "M3Sense (Non-Attention)": "Non-Attention", "M3Sense (Keyless)": "Keyless", "M3Sense (HAMLET)": "HAMLET",
    "M3Sense (CAM)": "Keyless",
}  # fmt: skip
NOTE_6 = (
    "Thousands of parameters of model and guide at the paper's sizes, of which the paper prints some and the others "
    "are chosen so that the first row fits; 'share' is that of three single-task models. The increments that the paper "
    "prints for attention (HAMLET + 5, CAM + 7) do not fit its own equations. Published values are the paper's."
)
NOTE_7 = (
    "Milliseconds of processor time for the labels of all three tasks on one batch of windows, evaluation, one thread, "
    "median over rounds in which all models take turns; 'ratio' is that to three single-task models. It is the sharing "
    "of encoders: it holds where all tasks are wanted of the same windows. Published times are the paper's, on its own "
    "computer."
)


def table6_experiment(out: Path, profile: str = "paper") -> Outcome:
    """Table 6: parameters at the paper's sizes.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (small sizes), or "quick" and "paper", which are the same.
    """
    sizes = "smoke" if profile == "smoke" else "paper"
    data = _windows(sizes)
    found = {}
    for model in (*SINGLE_TASK, *MULTITASK):
        tasks = TASKS if model in MULTITASK else TASKS[:1]
        parts = _built(model, data, tasks, sizes)
        found[model] = sum(p.numel() for part in parts for p in part.parameters()) / 1000
    rows = [
        {"model": m, "parameters": found[m], "three": 3 * found[m]} if m in SINGLE_TASK
        else {"model": m, "parameters": found[m], "share": found[m] / (3 * found[MATCH[m]])} for m in found
    ]  # fmt: skip
    published = [
        {"model": m, "parameters": n, "three": 3 * n} if m in SINGLE_TASK
        else {"model": m, "parameters": n, "share": n / (3 * PARAMETERS[MATCH[m]])} for m, n in PARAMETERS.items()
    ]  # fmt: skip
    published = [{**row, "source": PUBLISHED, "reference": f"{REFERENCE}, Table 6"} for row in published]
    identity = simulated_data("shapes of simulated windows", [data])
    rows += published
    return Outcome(rows, identity, [0], {"note": NOTE_6}, sizes_text(rows))


def table7_experiment(out: Path, profile: str = "paper") -> Outcome:
    """Table 7: time for all tasks, at batches of 2 and of 64; the arguments are those of `table6_experiment`."""
    smoke = profile == "smoke"
    sizes, rounds = ("smoke", 2) if smoke else ("paper", 11)
    data = _windows(sizes)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {size: _times(data, sizes, size, rounds) for size in (2, 64)}
    finally:
        torch.set_num_threads(before)
    rows = []
    for size, times in found.items():
        rows += [{"model": m, "batch": size, "ms": ms} for m, ms in times.items() if m in SINGLE_TASK]
        rows += [
            {"model": m, "batch": size, "ms": times[m], "ratio": times[m] / times[single]}
            for m, single in MATCH.items()
        ]
    published = [
        {"model": m, "batch": 2, "ms": ms, **({"ratio": ms / TIMES[MATCH[m]]} if m in MATCH else {}),
         "source": PUBLISHED, "reference": f"{REFERENCE}, Table 7"} for m, ms in TIMES.items()
    ]  # fmt: skip
    identity = simulated_data("shapes of simulated windows", [data])
    extra = {"note": NOTE_7, "rounds": rounds, "threads_per_job": 1}
    rows += published
    return Outcome(rows, identity, [0], extra, sizes_text(rows))


def sizes_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for the terminal."""
    shown = []
    for row in rows:
        mark = " (published)" if row.get("source") == PUBLISHED else ""
        kept = {k: row[k] for k in ("batch", "parameters", "three", "share", "ms", "ratio") if k in row}
        shown.append({"model": f"{row['model']}{mark}", **kept})
    return format_table(shown)


def _windows(sizes: str) -> Batch:
    shape = {"n_subjects": 5, "n_windows": 5, "seconds": 20.0} if sizes == "paper" else PROFILES["smoke"]["data"]
    return simulate_all(0, rates=PROFILES[sizes]["rates"], **shape)


def _built(model: str, data: Batch, tasks: Sequence[str], sizes: str) -> tuple[nn.Module, nn.Module]:
    variant, arguments = arguments_of(model, sizes)
    classes = {task: len(data.coords[f"y_{task}_class"]) for task in tasks}
    guide = "none" if variant == "unaligned" else "paper"
    with isolated(0):
        parts = build(registry.create_model("m3sense", data, variant=variant, tasks=classes, **arguments), guide)
        materialise(*parts, data.take(np.arange(4)))
    return parts


def _times(data: Batch, sizes: str, batch_size: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds for the logits of all tasks, by model."""
    batch = data.take(np.arange(batch_size) % data.n_rows)
    models = {model: [_built(model, data, (task,), sizes)[0].eval() for task in TASKS] for model in SINGLE_TASK}
    models |= {model: [_built(model, data, TASKS, sizes)[0].eval()] for model in MULTITASK}

    def labels(parts: Sequence[Any]) -> None:
        for part in parts:
            h = part.encode(**batch)
            for i in range(len(part.tasks)):
                part.classifiers[i](h[i])

    taken: dict[str, list[float]] = {model: [] for model in models}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for model, parts in models.items():
                begun = time.process_time()  # other programs on the machine do not count
                labels(parts)
                taken[model].append(1000 * (time.process_time() - begun))
    return {model: float(np.median(times[1:])) for model, times in taken.items()}
