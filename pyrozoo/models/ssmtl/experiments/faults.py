"""Sensor surveillance: AUROC of SSMTL's log density and of simple monitors against the size of injected faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, simulated_data, timing
from ....files import sha256_text
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....inference.saving import load_reference
from ....modeling import registry
from ....plots.style import COLOURS
from ..data.datasets import dryer
from ..data.simulator import PRESETS, simulate
from ..uses.surveillance import KINDS, inject_fault, monitor, trailing_mean
from .runs import PINNED, dryer_data
from .shared import claim, configuration

SIZES = {"bias": (0.25, 0.5, 1.0, 2.0, 4.0), "drift": (0.25, 0.5, 1.0, 2.0, 4.0), "stuck": (5.0, 10.0, 20.0)}
SHOWN = {"bias": (0.25, 0.5, 1.0), "drift": (0.5, 1.0), "stuck": (10.0, 20.0)}  # in tables of text
START, WINDOW, DRAWS, FALSE_ALARMS = 0.75, 10, 30, 0.01
SMOKE_UNITS = 3
SIMULATED, FEW = "simulated wells", "simulated wells, 10 training rows each"
DRYER, LATER = "dryer", "dryer, later rows held out"
SCORES = ("auroc", "auroc_first_half", f"auroc_window{WINDOW}", "detected", "suspect")
NOTE = (
    "One sensor at a time fails in the last quarter of every unit's rows; size in standard deviations of the sensor "
    "over all training rows (bias: of the offset; drift: at its end) or in rows (stuck). Scored: the faulty rows "
    "against the same rows without the fault, averaged over sensors (all inputs but set points); targets hidden. "
    f"auroc_first_half: of the first half of each fault's rows; auroc_window{WINDOW}: of the mean over the last "
    f"{WINDOW} rows; detected: share of faulty rows above the score that {FALSE_ALARMS:.0%} of them exceed without "
    "the fault; suspect: share of faulty rows whose most surprising sensor is the faulty one. Wells have 105 training "
    "rows each (5 labelled), or 10 (5 labelled). 'dryer': the fit that "
    "ships with the package, whose training data hold the clean rows; 'later rows held out': trained on the first "
    "75 % of each batch. Rows of the simulated wells have no order in time, so that a sensor there is stuck at the "
    "value of an unrelated row."
)


def faults_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> dict[str, Outcome]:
    """AUROC against fault size on simulated wells (held-out rows of known units) and on the real dryer.

    Args:
        out: Folder for ``simulated`` and ``dryer``, each with record.json and table.csv, and figures.
        profile: "smoke" (to see it run), "quick" (one data seed) or "paper" (three, and the dryer with the later rows
            of each batch held out too).
        seeds: Number of data seeds and label draws; None takes the profile's.
        jobs: Number of worker processes.

    Returns:
        Outcomes on ``simulated`` wells and on the ``dryer``.
    """
    draws = range(seeds or {"smoke": 1, "quick": 1, "paper": 3}[profile])
    smoke = {"units": SMOKE_UNITS, "draws": 2} if profile == "smoke" else {}
    wells, later = configuration("table1", "ssmtl", profile), configuration("dryer", "ssmtl", profile)
    plan = {
        f"simulated-{short}-{seed}": {"data": data, "seed": seed, **wells, **smoke}
        for short, data in (("105", SIMULATED), ("10", FEW))
        for seed in draws
    }
    plan["dryer-0"] = {"data": DRYER, "seed": 0, **smoke}
    if profile == "paper":
        plan |= {f"later-{seed}": {"data": LATER, "seed": seed, **later} for seed in draws}
    data = {"simulated": _simulated_data(draws), "dryer": _dryer_data()}
    digests = "".join(found["sha256"] for found in data.values())
    resumed = claim(out, {"sha256": sha256_text(digests)})
    results = run_jobs(faults_run, plan, out / "jobs", n_jobs=jobs)
    rows = {
        "simulated": _summary([results[f"simulated-105-{seed}"] for seed in draws], SIMULATED)
        + _summary([results[f"simulated-10-{seed}"] for seed in draws], FEW),
        "dryer": _summary([results["dryer-0"]], DRYER),
    }
    if profile == "paper":
        rows["dryer"] += _summary([results[f"later-{seed}"] for seed in draws], LATER)
    every = [row for part in rows.values() for row in part]
    (out / "figures").mkdir(exist_ok=True)
    _figure(every).savefig(out / "figures" / "faults.png", dpi=110)
    used = {"simulated": {"wells": wells}, "dryer": {"later": later} if profile == "paper" else {}}
    outcomes: dict[str, Outcome] = {}
    for name, part in rows.items():
        own = {job: result for job, result in results.items() if job.startswith("simulated") == (name == "simulated")}
        extra = {"note": NOTE, "configurations": used[name], "sensors": _by_sensor(own), **timing(own, resumed)}
        text = "" if outcomes else auroc_table(every)  # one table of both
        outcomes[name] = Outcome(part, data[name], list(draws), extra, text)
    return outcomes


def faults_run(
    data: str, seed: int, units: int | None = None, draws: int = DRAWS, arguments: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit where there is no fit yet, inject every fault into every sensor, and score all monitors.

    Args:
        data: `SIMULATED`, `FEW`, `DRYER` or `LATER`.
        seed: Random seed of the data, the labels and the fit.
        units: Number of units to keep (to see it run); None keeps all.
        draws: Number of importance draws per row.
        arguments: Arguments of the model.
        settings: Settings of the fit.
    """
    started = time.perf_counter()
    train, test = _data(data, seed)
    if data == DRYER:
        fitted = load_reference("ssmtl/dryer")
    else:
        model = registry.create_model("ssmtl", train, **PINNED | dict(arguments or {}))
        fitted = fit(model, "paper", train, seed=seed, progress=False, **(settings or {}))
    test = test.hide()
    if units is not None:
        test = test.subset(np.flatnonzero(test["unit"].numpy() < units))
    monitors = {"SSMTL": _ssmtl(fitted, draws), **{name: make(train) for name, make in SIMPLE.items()}}
    clean = {name: score(test)[0] for name, score in monitors.items()}
    found = []
    for place, column in enumerate(str(name) for name in test.coords["input"]):
        if column.endswith("SP"):
            continue
        sd = float(train["x"][:, place].double().std())
        for kind, sizes in SIZES.items():
            for size in sizes:
                fault = inject_fault(test, column, kind, size * (1.0 if kind == "stuck" else sd), start=START)
                for name, score in monitors.items():
                    scores = _scores(*fault, column, score, clean[name])
                    found.append({"model": name, "sensor": column, "fault": kind, "size": size, **scores})
    return {"rows": found, "seconds": round(time.perf_counter() - started, 2)}


def _data(data: str, seed: int) -> tuple[Batch, Batch]:
    if data in (SIMULATED, FEW):
        return simulate(50, 5, 100 if data == SIMULATED else 5, 100, seed=seed, **PRESETS["same-valve"])
    return dryer_data(seed, "same" if data == DRYER else "later")[0], dryer()


Score = Callable[[Batch], tuple[np.ndarray, np.ndarray | None]]


def _scores(faulty: Batch, mask: np.ndarray, column: str, score: Score, clean: np.ndarray) -> dict[str, float]:
    """Score one monitor on one fault, reusing its scores of the clean rows."""
    rows, units = np.flatnonzero(mask), faulty.group_names("unit")
    values, suspects = score(faulty.subset(rows))
    after = clean.copy()
    after[rows] = values

    def auroc(which: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
        truth = np.repeat([0, 1], len(which))
        return float(roc_auc_score(truth, np.concatenate([before[which], after[which]])))

    groups = pd.Series(rows).groupby(units[rows])
    place = (groups.cumcount() / groups.transform("size")).to_numpy()
    means = [trailing_mean(part, units, WINDOW) for part in (clean, after)]
    out = {
        "auroc": auroc(rows, clean, after),
        "auroc_first_half": auroc(rows[place < 0.5], clean, after),
        f"auroc_window{WINDOW}": auroc(rows, *means),
        "detected": float((values > np.quantile(clean[rows], 1 - FALSE_ALARMS)).mean()),
    }
    return out if suspects is None else out | {"suspect": float((suspects == column).mean())}


# -------------------------------------------------------------------- monitors
def _ssmtl(fitted: Fit, draws: int) -> Score:
    def score(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        table = monitor(fitted, batch, draws=draws, progress=False)
        return table["score"].to_numpy(), table["suspect"].to_numpy()

    return score


def _pooled(make: Callable[[np.ndarray], Callable]) -> Callable[[Batch], Score]:
    """A monitor of all units together."""

    def trained(train: Batch) -> Score:
        distance = make(train["x"].double().numpy())
        return lambda batch: (distance(batch["x"].double().numpy()), None)

    return trained


def _per_unit(make: Callable[[np.ndarray], Callable]) -> Callable[[Batch], Score]:
    """A monitor of each unit, of its own training rows."""

    def trained(train: Batch) -> Score:
        x, names = train["x"].double().numpy(), train.group_names("unit")
        distances = {unit: make(x[names == unit]) for unit in np.unique(names)}

        def score(batch: Batch) -> tuple[np.ndarray, None]:
            x, names = batch["x"].double().numpy(), batch.group_names("unit")
            out = np.empty(len(x))
            for unit in np.unique(names):
                out[names == unit] = distances[unit](x[names == unit])
            return out, None

        return score

    return trained


def _mahalanobis(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Squared Mahalanobis distance from the mean, covariance shrunk (Ledoit and Wolf 2004)."""
    scaler = StandardScaler().fit(x)
    covariance = LedoitWolf().fit(scaler.transform(x))
    return lambda new: covariance.mahalanobis(scaler.transform(new))


def _spe(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Squared prediction error Q of PCA (Jackson and Mudholkar 1979); 90 % of the variance, one dimension left over."""
    scaler = StandardScaler().fit(x)
    share = np.cumsum(PCA().fit(scaler.transform(x)).explained_variance_ratio_)
    components = min(int(np.searchsorted(share, 0.9)) + 1, x.shape[1] - 1)
    model = make_pipeline(scaler, PCA(components)).fit(x)

    return lambda new: (((new - model.inverse_transform(model.transform(new))) / scaler.scale_) ** 2).sum(1)


def _neighbours(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Distance to the fifth nearest training row."""
    scaler = StandardScaler().fit(x)
    search = NearestNeighbors(n_neighbors=5).fit(scaler.transform(x))
    return lambda new: search.kneighbors(scaler.transform(new))[0][:, -1]


SIMPLE: Mapping[str, Callable[[Batch], Score]] = {
    "Mahalanobis, per unit": _per_unit(_mahalanobis),
    "PCA SPE, pooled": _pooled(_spe),
    "PCA SPE, per unit": _per_unit(_spe),
    "5th neighbour, per unit": _per_unit(_neighbours),
}


# -------------------------------------------------------------------- records
def _simulated_data(seeds: range) -> dict[str, Any]:
    batches = (part for seed in seeds for data in (SIMULATED, FEW) for part in _data(data, seed))
    return simulated_data("simulated (same valve), training and test data of all seeds", batches)


def _dryer_data() -> dict[str, Any]:
    return {"name": "dryer", "sha256": dryer().sha256, "simulated": False}


def _summary(results: list[dict[str, Any]], data: str) -> list[dict[str, Any]]:
    """Return one row per monitor, fault and size: the mean over sensors, averaged over the seeds."""
    out = []
    for model in ("SSMTL", *SIMPLE):
        for kind, sizes in SIZES.items():
            for size in sizes:
                key = {"model": model, "fault": kind, "size": size}
                own = [[r for r in found["rows"] if key.items() <= r.items()] for found in results]
                names = [name for name in SCORES if name in own[0][0]]
                per_seed = [{name: float(np.mean([r[name] for r in rows])) for name in names} for rows in own]
                out.append({"data": data, **key, **averages(per_seed)})
    return out


def _by_sensor(results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return AUROC and suspect of SSMTL by job and sensor."""
    return [
        {"job": job, **{name: row[name] for name in ("sensor", "fault", "size", "auroc", "suspect")}}
        for job, found in results.items()
        for row in found["rows"]
        if row["model"] == "SSMTL"
    ]


def auroc_table(rows: list[dict[str, Any]]) -> str:
    """Return a table of the AUROC of all monitors side by side, for some sizes of every fault."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for kind, sizes in SHOWN.items():
            for size in sizes:
                line = {"data": data, "fault": kind, "size": size}
                for row in rows:
                    if line["data"] == row["data"] and (kind, size) == (row["fault"], row["size"]):
                        line |= {row["model"]: row["auroc"], f"{row['model']}_se": row["auroc_se"]}
                lines.append(line)
    return format_table(lines)


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw AUROC against fault size: a line per monitor, a panel per kind and data set."""
    datasets = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(12, 3.4 * len(datasets)), layout="constrained")
    axes = figure.subplots(len(datasets), len(KINDS), sharey=True, squeeze=False)
    for line, data in zip(axes, datasets, strict=True):
        for ax, kind in zip(line, KINDS, strict=True):
            for colour, model in zip(COLOURS, ("SSMTL", *SIMPLE), strict=False):
                own = [r for r in rows if (r["data"], r["fault"], r["model"]) == (data, kind, model)]
                error = [r["auroc_se"] or 0.0 for r in own]
                ax.errorbar([r["size"] for r in own], [r["auroc"] for r in own], error, color=colour, marker="o", ms=4,
                            lw=2.2 if model == "SSMTL" else 1.3, label=model)  # fmt: skip
            ax.axhline(0.5, color="black", lw=0.8, ls=":")
            ax.set_xscale("log", base=2)
            ax.set_xticks(SIZES[kind], [f"{size:g}" for size in SIZES[kind]])
            ax.minorticks_off()
            ax.spines[["top", "right"]].set_visible(False)
            ax.set(title=f"{data}: {kind}", ylim=(0.4, 1.02), xlabel=_SIZE_LABELS[kind])
        line[0].set_ylabel("AUROC, faulty against clean rows")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


_SIZE_LABELS = {
    "bias": "offset [sd of the sensor]",
    "drift": "offset at the end [sd of the sensor]",
    "stuck": "length [rows]",
}
