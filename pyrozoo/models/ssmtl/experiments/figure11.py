"""Figure 11 of the paper on simulated data: new units calibrated with frozen networks, row by row."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....criticism.scores import coverage, mape, per_group
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, simulated_data, timing
from ....inference.fitted import Fit
from ....inference.losses import NonFiniteLoss
from ....inference.saving import load
from ....posterior.predicting import predict
from ..data.simulator import PRESETS, simulate
from ..guides import PaperGuide
from ..uses.calibration import MODES, CalibratedFit, calibrate
from ..uses.refinement import refine
from .runs import table1_run
from .shared import claim, configuration

PRESET = "same-valve"
UNITS, LABELLED, RATIO = 20, 10, 10
PAPER_COUNTS, REFINED_COUNTS = (1, 3, 10), {"quick": (1,), "paper": (1, 3)}
REFINEMENT: Mapping[str, Any] = {"draws": 200, "inner": 10, "rounds": 3}
NO_DATA = ("prior mean", "trained contexts")
NOTE_FIGURE11 = (
    "Simulated data. Networks: 50 units, 5 labelled and 100 unlabelled rows each. Then 20 new units per seed with N^l "
    "labelled and 10 N^l unlabelled rows (the first of a longer draw), 100 test rows each, calibrated from scratch at "
    "every N^l; MAPE in percent, mean over units, then mean and standard error over seeds. Method 'paper' is its SGD, "
    "unit by unit: its MAPE is over the units that stayed finite. 'refined' is the semi-supervised robust calibration "
    "after importance weighting."
)


def figure11_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Figure 11 (a) on simulated data: error on new units against the number of their labels, by mode of calibration.

    Args:
        out: Folder for record.json, table.csv and figures.
        profile: "smoke" (a few steps), "quick" (N^l = 1, 3, 10) or "paper" (N^l = 1..10); 3 seeds.
        seeds: Number of seeds of data and networks; None takes the profile's.
        jobs: Number of worker processes.
    """
    data_seeds = range(seeds or {"smoke": 1, "quick": 3, "paper": 3}[profile])
    counts = {"smoke": (1, 2), "quick": PAPER_COUNTS, "paper": tuple(range(1, LABELLED + 1))}[profile]
    data = _identity(data_seeds)
    resumed = claim(out, data)
    configured = configuration("table1", "ssmtl", profile)
    training = {
        f"networks-{seed}": {
            "model": "ssmtl", "seed": seed, "ratio": 20, "preset": PRESET, "save": str(out / "fits" / str(seed)),
            **configured,
        }
        for seed in data_seeds
    }  # fmt: skip
    networks = run_jobs(table1_run, training, out / "jobs", n_jobs=jobs)
    cells = _cells(counts, profile)
    plan = {
        f"{name}-{seed}".replace(" ", "-"): {**cell, "seed": seed, "networks": str(out / "fits" / str(seed))}
        for name, cell in cells.items()
        for seed in data_seeds
    }
    results = run_jobs(figure11_run, plan, out / "jobs", n_jobs=jobs)

    def found(name: str) -> list[dict[str, Any]]:
        return [results[f"{name}-{seed}".replace(" ", "-")] for seed in data_seeds]

    rows = [
        {"model": "SSMTL", "method": cell["method"], "mode": cell["mode"], "labels": cell["labels"]}
        | averages([{k: v for k, v in result.items() if k != "unit_mape"} for result in found(name)])
        for name, cell in cells.items()
    ]
    differences = _differences({name: [r["mape"] for r in found(name)] for name in cells}, counts)
    lines = (f"{k}: {d:+.2f}" + ("" if e is None else f" ± {e:.2f}") for k, (d, e) in differences.items())
    _figure(rows, out / "figures" / "figure11.png")
    extra = {"note": NOTE_FIGURE11, "differences": differences, "configurations": {"ssmtl": configured}}
    extra |= {"networks_mape": averages([{"mape": float(np.mean(r["mape"]))} for r in networks.values()])}
    extra |= timing({**networks, **results}, resumed)
    return Outcome(rows, data, list(data_seeds), extra, "\n".join([figure11_table(rows), *lines]))


def figure11_run(
    seed: int, networks: str, method: str, mode: str, labels: int, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Calibrate the new units of one seed in one way and score their test rows.

    Args:
        seed: Random seed; that of the new units is 1000 larger.
        networks: Folder of the fit whose networks are used.
        method: "robust", "refined", "paper" or "no data".
        mode: Mode of `calibrate`; for "no data" one of `NO_DATA`, where the contexts are put.
        labels: Number of labelled rows per unit, N^l.
        options: Further options of `calibrate`.

    Returns:
        ``mape`` (percent, mean over the finite units), ``unit_mape`` (of each finite unit), ``cover90`` (share of test
        rows in the central 90 % interval), ``refined`` (units whose weights were usable), ``non_finite`` (units without
        a result), ``seconds``.
    """
    started = time.perf_counter()
    fit, (train, test) = load(networks), new_units(seed, labels)
    given, refined = {"seed": seed, "progress": False, **(options or {})}, None
    if method == "paper":
        parts = _paper_parts(fit, train, test, mode, seed)
    elif method == "no data":
        parts = [(_no_data(fit, train, mode), test)]
    else:
        found = calibrate(fit, train, mode=mode, **given)
        parts = [(found, test)]
        if method == "refined":
            parts, refined = [(better := _refined(found, seed), test)], int(better.units["refined"].sum())
    scored = [_score(*part, seed) for part in parts]
    by_unit = [value for errors, _ in scored for value in errors]
    return {
        "mape": float(np.mean(by_unit)) if by_unit else None, "unit_mape": by_unit,
        "cover90": float(np.mean([cover for _, cover in scored])) if scored else None,
        **({} if refined is None else {"refined": refined}),
        "non_finite": UNITS - len(by_unit), "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip


def figure11_table(rows: list[dict[str, Any]]) -> str:
    """MAPE by number of labels, one line per way of calibration, with the units that came out non-finite."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        none = row["method"] == "no data"
        line = lines.setdefault((row["method"], row["mode"]), {"calibration": row["method"], "mode": row["mode"]})
        column = "no data" if none else f"N^l = {row['labels']}"
        line |= {column: row.get("mape"), f"{column}_se": row.get("mape_se")}
        if row["non_finite"]:
            line[column] = f"{row['non_finite']:.3g} of {UNITS} not finite"
            line.pop(f"{column}_se")
    columns = ["calibration", "mode", "no data", *sorted({c for line in lines.values() for c in line if "=" in c})]
    columns = [c for c in columns if not c.endswith("_se")]
    columns.sort(key=lambda c: (c.startswith("N^l"), int(c.split()[-1]) if c.startswith("N^l") else 0))
    return format_table(
        [{k: line.get(k) for c in columns for k in (c, f"{c}_se") if k in line or k == c} for line in lines.values()]
    )


def new_units(seed: int, labels: int) -> tuple[Batch, Batch]:
    """Return the first `labels` labelled and ten times as many unlabelled rows of 20 new units; and their test rows."""
    train, test = simulate(UNITS, LABELLED, LABELLED * RATIO, 100, seed=1000 + seed, **PRESETS[PRESET])
    place = np.tile(np.arange(LABELLED * (1 + RATIO)), UNITS)  # rows are sorted by unit, labelled ones first
    kept = (place < labels) | ((place >= LABELLED) & (place < LABELLED + RATIO * labels))
    return train.subset(np.flatnonzero(kept)), test


def _of_unit(batch: Batch, unit: int) -> Batch:
    return batch.subset(np.flatnonzero(batch["unit"].numpy() == unit))


def _paper_parts(fit: Fit, train: Batch, test: Batch, mode: str, seed: int) -> list[tuple[Fit, Batch]]:
    """Fit all units by the paper's method, or each alone if one fails; pair each fit with the units' test rows."""
    options: dict[str, Any] = {"mode": mode, "method": "paper", "seed": seed, "progress": False}
    try:
        return [(calibrate(fit, train, **options), test)]
    except NonFiniteLoss:
        parts: list[tuple[Fit, Batch]] = []
    for unit in range(UNITS):
        with contextlib.suppress(NonFiniteLoss):
            parts.append((calibrate(fit, _of_unit(train, unit), **options), _of_unit(test, unit)))
    return parts


def _no_data(fit: Fit, train: Batch, where: str) -> Fit:
    """Return a fit to the units whose contexts were not inferred from the units' rows."""
    found = calibrate(fit, train, steps=1, starts=1, candidates=1, progress=False)
    guide, trained = cast(PaperGuide, found.guide), cast(PaperGuide, fit.guide).c_loc.detach()
    with torch.no_grad():
        if where == "prior mean":
            guide.c_loc.zero_()
            guide.c_log_scale.fill_(-10.0)
        else:
            guide.c_loc.copy_(trained.mean(0).expand_as(guide.c_loc))
            guide.c_log_scale.copy_(trained.std(0).log().expand_as(guide.c_log_scale))
    return found


def _refined(found: CalibratedFit, seed: int) -> CalibratedFit:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unit.* keep the q")  # the record has their number
        return refine(found, **REFINEMENT, seed=seed, progress=False)


def _score(fit: Fit, test: Batch, seed: int) -> tuple[list[float], float]:
    table, truth = predict(fit, test, draws=100, seed=seed), test["y"][:, 0].numpy()
    errors = per_group(mape, truth, table["y.mean"].to_numpy(), test.group_names("unit"))
    return errors.tolist(), coverage(truth, table["y.q05"].to_numpy(), table["y.q95"].to_numpy())


def _cells(counts: tuple[int, ...], profile: str) -> dict[str, dict[str, Any]]:
    options = {"steps": 5, "candidates": 5} if profile == "smoke" else {}
    cells = {f"no data-{where}": {"method": "no data", "mode": where, "labels": 1} for where in NO_DATA}
    ways: list[tuple[str, str, Sequence[int], dict[str, int]]]
    ways = [("robust", mode, counts, options) for mode in MODES]
    ways += [("paper", mode, [n for n in counts if n in PAPER_COUNTS], {}) for mode in MODES]
    if profile != "smoke":  # costly with many rows
        ways.append(("refined", "semi-supervised", [n for n in counts if n in REFINED_COUNTS[profile]], options))
    for method, mode, numbers, given in ways:
        for n in numbers:
            cells[f"{method}-{mode}-{n}"] = {"method": method, "mode": mode, "labels": n, "options": given}
    return cells


def _differences(mapes: Mapping[str, list[float]], counts: tuple[int, ...]) -> dict[str, Any]:
    pairs: dict[str, tuple[str, str]] = {}
    for n in counts:
        semi = f"robust-semi-supervised-{n}"
        pairs |= {f"MAPE of unsupervised - no data, N^l = {n}": (f"robust-unsupervised-{n}", "no data-prior mean")}
        pairs |= {f"MAPE of semi-supervised - supervised, N^l = {n}": (semi, f"robust-supervised-{n}")}
        pairs |= {f"MAPE of refined - semi-supervised, N^l = {n}": (f"refined-semi-supervised-{n}", semi)}
    pairs = {name: (a, b) for name, (a, b) in pairs.items() if a in mapes}
    return {name: paired_difference(mapes[a], mapes[b]) for name, (a, b) in pairs.items()}


def _figure(rows: list[dict[str, Any]], file: Path) -> None:
    """Error against the number of labels by mode, bands of one standard error over seeds."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    lines = [("robust", "supervised", "tab:green", "o"), ("robust", "unsupervised", "tab:red", "s")]
    lines += [("robust", "semi-supervised", "tab:blue", "D"), ("refined", "semi-supervised", "tab:cyan", "^")]
    for method, mode, colour, marker in lines:
        own = [row for row in rows if (row["method"], row["mode"]) == (method, mode)]
        if not own:
            continue
        labels, mean = (np.array([row[k] for row in own], float) for k in ("labels", "mape"))
        error = np.array([row["mape_se"] or 0.0 for row in own])
        axes.plot(labels, mean, marker=marker, color=colour, label=mode + (", refined" if method == "refined" else ""))
        axes.fill_between(labels, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    none = next(row for row in rows if row["mode"] == NO_DATA[0])
    axes.axhline(none["mape"], color="0.4", linestyle="--", label="no data (context at the prior mean)")
    axes.axhspan(
        *(none["mape"] + sign * (none["mape_se"] or 0.0) for sign in (-1, 1)), color="0.4", alpha=0.15, linewidth=0
    )
    axes.set(
        xlabel="labelled rows per new unit, $N^l$ (and $N^u = 10\\,N^l$ unlabelled)", ylim=(0, None),
        ylabel="MAPE of the flow [%], mean of 20 new units",
        title="Calibration with frozen networks, simulated wells\n(bands: ± 1 standard error over seeds)",
    )  # fmt: skip
    cast(MaxNLocator, axes.xaxis.get_major_locator()).set_params(integer=True)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.2))  # below the unsupervised line
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def _identity(seeds: range) -> dict[str, Any]:
    batches = [simulate(50, 5, 100, 100, seed=seed, **PRESETS[PRESET])[0] for seed in seeds]
    batches += [new_units(seed, LABELLED)[0] for seed in seeds]
    return simulated_data("simulated (same valve), training data and new units of all seeds", batches)
