"""Figure 11 (b) of the paper on the dryer: batches that no network has seen, whose labels arrive in time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure

from ....criticism.scores import coverage, rmse
from ....data.batch import Batch
from ....data.parts import places
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, timing
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....inference.saving import load
from ....modeling import registry
from ....posterior.predicting import predict
from ..data.datasets import draw_labels, dryer
from ..guides import AmortizedGuide, PaperGuide
from ..uses.calibration import MODES, calibrate
from .baselines import BASELINES
from .cross_fitted import SMOKE_BATCHES
from .runs import PINNED
from .shared import claim, configuration

NEW, LABELS, COUNTS = 20, 8, (1, 2, 4, 8)  # new batches, their labels, and the numbers of labels that are looked at
TREES = "trees_with_unit_means_and_offset"
SCORED = ("next", "last quarter")
NOTE_FIGURE11B = (
    "CollectorTankLevel. Networks and trees learn from 51 batches with 5 labelled rows each, all other rows "
    "unlabelled. Of 20 new batches the first three quarters arrive in time, with 8 labels at equal distances; at N^l "
    "labels the rows up to the last of them are known. Scored: 'next', the rows from then to the next label, and 'last "
    "quarter', the last quarter of every batch; RMSE over rows, mean and standard error over draws of the new batches "
    "and of the labels of the others. 'calibrate' learns contexts with frozen networks; 'amortized' reads them off the "
    "set encoder of another fit. SSMTL has the configuration of tuning/cross_fitted.json, MTL that of "
    "tuning/dryer.json; trees have the labels of the new batches, too, and the means of their inputs so far."
)


def figure11b_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Figure 11 (b)'s counterpart on the dryer: error on unseen batches whose labels arrive in time, in three modes.

    Args:
        out: Folder for record.json, table.csv, the fits and the figure.
        profile: "smoke" (a few steps on a few batches), "quick" (N^l = 1, 2, 4, 8; 3 draws) or "paper" (N^l = 1..8, 10
            draws).
        seeds: Number of draws; None takes the profile's.
        jobs: Number of worker processes.
    """
    draws = range(seeds or {"smoke": 1, "quick": 3, "paper": 10}[profile])
    counts = {"smoke": (1, 2), "quick": COUNTS, "paper": tuple(range(1, LABELS + 1))}[profile]
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    resumed = claim(out, data)
    batches = SMOKE_BATCHES if profile == "smoke" else None
    small, of_mtl = configuration("cross_fitted", "ssmtl", profile), configuration("dryer", "mtl", profile)
    networks = {"ssmtl": ("paper", small), "amortized": ("amortized", small), "mtl": ("paper", of_mtl)}
    training = {
        f"networks-{name}-{draw}": {
            "model": "mtl" if name == "mtl" else "ssmtl", "guide": guide, "draw": draw, "batches": batches,
            "save": str(out / "fits" / f"{name}-{draw}"), **own,
        }
        for name, (guide, own) in networks.items()
        for draw in draws
    }  # fmt: skip
    trained = run_jobs(networks_run, training, out / "jobs", n_jobs=jobs)
    cells = _cells(counts)
    options = {"steps": 5, "candidates": 5} if profile == "smoke" else {}
    plan = {
        _job(method, mode, labels, draw): {
            "method": method, "mode": mode, "labels": labels, "draw": draw, "batches": batches, "options": options,
            "networks": str(out / "fits" / f"{FITS[method]}-{draw}") if method in FITS else "",
        }
        for method, mode, labels in cells
        for draw in draws
    }  # fmt: skip
    results = run_jobs(figure11b_run, plan, out / "jobs", n_jobs=jobs)

    def found(method: str, mode: str, labels: int) -> list[dict[str, Any]]:
        return [results[_job(method, mode, labels, draw)] for draw in draws]

    rows = [
        {"model": NAMES[method], "mode": mode, "labels": labels, **averages(found(method, mode, labels))}
        for method, mode, labels in cells
    ]
    differences = {
        f"RMSE of {one} - {other}, {what}, N^l = {n}": paired_difference(
            *([r[f"rmse_{what.split()[0]}"] for r in found(*which, n)] for which in (CELLS[one], CELLS[other]))
        )
        for one, other in PAIRS
        for what in SCORED
        for n in counts
    }
    _figure(rows, out / "figures" / "figure11b.png")
    extra = {"note": NOTE_FIGURE11B, "differences": differences, "configurations": {"ssmtl": small, "mtl": of_mtl}}
    extra |= timing({**trained, **results}, resumed)
    lines = (f"{k}: {d:+.2f}" + ("" if e is None else f" ± {e:.2f}") for k, (d, e) in differences.items())
    return Outcome(rows, data, list(draws), extra, "\n".join([figure11b_table(rows), "", *lines]))


FITS = {"no data": "ssmtl", "calibrate": "ssmtl", "amortized": "amortized", "mtl": "mtl"}
NAMES = {
    "no data": "SSMTL, no data", "calibrate": "SSMTL, calibrate", "amortized": "SSMTL, amortized",
    "mtl": "MTL, calibrate", "trees": "trees with unit means and offset", "last": "last value",
}  # fmt: skip
CELLS = {
    "semi-supervised": ("calibrate", "semi-supervised"), "supervised": ("calibrate", "supervised"),
    "unsupervised": ("calibrate", "unsupervised"), "no data": ("no data", ""), "trees": ("trees", ""),
    "last value": ("last", ""), "MTL": ("mtl", "supervised"), "amortized": ("amortized", "semi-supervised"),
}  # fmt: skip
PAIRS = [
    ("unsupervised", "no data"),
    *(("semi-supervised", other) for other in ("supervised", "amortized", "MTL", "trees", "last value")),
]


def _cells(counts: tuple[int, ...]) -> list[tuple[str, str, int]]:
    ways = [("no data", ""), *((method, mode) for method in ("calibrate", "amortized") for mode in MODES)]
    ways += [("mtl", "supervised"), ("trees", ""), ("last", "")]
    return [(*way, n) for way in ways for n in counts]


def _job(method: str, mode: str, labels: int, draw: int) -> str:
    return f"{method}-{mode}-{labels}-{draw}".replace(" ", "-").replace("--", "-")


def split_batches(draw: int, batches: int | None = None) -> tuple[Batch, Batch]:
    """Return the known batches, with five labels each, and the new ones, all of whose rows are labelled."""
    data = dryer(time=True)
    if batches is not None:
        data = data.subset(np.flatnonzero(data["unit"].numpy() < batches))
    known, new = data.split(NEW / 71, by="unit", seed=draw)
    return known.relabel(draw_labels(known, 5, draw)), new


def arrived(new: Batch, labels: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Say which rows of new batches are known at a number of labels, which are scored, and which have a label.

    Args:
        new: Rows of the new batches, in time.
        labels: Number of labels of each batch that have arrived, from 1 to 8.

    Returns:
        The known rows, the scored rows by what they are (`SCORED`), and the labelled ones, (N,) each.
    """
    place, size = places(new["unit"].numpy(), new.time)
    head = np.ceil(0.75 * size)
    ends = [np.round(head * k / LABELS) - 1 for k in range(1, labels + 2)]  # of labels, and of the next one
    known = place <= ends[labels - 1]
    scored = {SCORED[0]: ~known & (place <= ends[labels]), SCORED[1]: place >= head}
    return known, scored, np.any([place == end for end in ends[:labels]], axis=0)


def networks_run(
    model: str, guide: str, draw: int, save: str, arguments: Mapping[str, Any], settings: Mapping[str, Any],
    batches: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one model to the known batches of a draw and save it."""
    known, _ = split_batches(draw, batches)
    made = registry.create_model("ssmtl", known, variant=model, **PINNED | dict(arguments))
    own = dict(settings) | ({"lr_groups": {}} if guide == "amortized" else {})  # it has no table of contexts
    fitted = fit(made, guide, known, seed=draw, progress=False, **own)
    fitted.save(Path(save), overwrite=True)
    return {"seconds": round(fitted.seconds, 2)}


def figure11b_run(
    method: str, mode: str, labels: int, draw: int, networks: str, options: Mapping[str, Any],
    batches: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Adapt one method to the new batches of a draw at a number of labels, and score it.

    Args:
        method: "no data" (context at the prior mean), "calibrate", "amortized", "mtl", "trees" or "last" (value).
        mode: Mode of `calibrate`, of which rows of the new batches are read; "" for methods without.
        labels: Number of labels of each new batch.
        draw: Random seed of the new batches, of the labels of the others and of the method.
        networks: Folder of the fit whose networks are used; "" for methods without.
        options: Further options of `calibrate`.
        batches: Number of batches to keep, the first ones; None keeps all.

    Returns:
        ``rmse_next``, ``rmse_last`` of the two kinds of scored rows; ``cover90_next``, ``cover90_last``, the shares in
        the central 90 % interval, of networks; ``seconds``.
    """
    started = time.perf_counter()
    known, new = split_batches(draw, batches)
    now, scored, labelled = arrived(new, labels)
    rows = new.relabel(labelled).subset(np.flatnonzero(now))
    if method in FITS:
        table = predict(_adapted(method, mode, networks, rows, draw, options), new, draws=100, seed=draw)
        mean, ends = table["y.mean"].to_numpy(), [table[f"y.{end}"].to_numpy() for end in ("q05", "q95")]
    else:
        mean, ends = _trees(known, new, now, labelled, draw) if method == "trees" else _last(new, labelled), []
    out: dict[str, Any] = {}
    truth = new["y"][:, 0].numpy()
    for what, kept in scored.items():
        name = what.split()[0]
        out[f"rmse_{name}"] = rmse(truth[kept], mean[kept])
        if ends:
            out[f"cover90_{name}"] = coverage(truth[kept], *(end[kept] for end in ends))
    return out | {"seconds": round(time.perf_counter() - started, 2)}


def _adapted(method: str, mode: str, networks: str, rows: Batch, seed: int, options: Mapping[str, Any]) -> Fit:
    """A fit of the new batches with the networks of another."""
    source = load(networks)
    if method in ("calibrate", "mtl"):
        return calibrate(source, rows, mode=mode, seed=seed, progress=False, **options)
    once: dict[str, Any] = {"steps": 1, "starts": 1, "candidates": 1}  # its contexts are replaced
    found = calibrate(source, rows, mode=mode or "semi-supervised", seed=seed, progress=False, **once)
    guide, read = cast(PaperGuide, found.guide), found.train
    assert read is not None
    with torch.no_grad():
        if method == "no data":
            guide.c_loc.zero_()
            guide.c_log_scale.fill_(-10.0)
        else:
            encoder = cast(AmortizedGuide, source.guide)
            told = encoder.contexts(None, **{k: v for k, v in source.prepare(read).items() if k != "unit_ids"})
            normal = cast(torch.distributions.Normal, told.base_dist)
            guide.c_loc.copy_(normal.loc)
            guide.c_log_scale.copy_(normal.scale.log())
    return found


def _trees(known: Batch, new: Batch, now: np.ndarray, labelled: np.ndarray, seed: int) -> np.ndarray:
    """Predictions of all rows of the new batches by trees that know the rows and labels that have arrived."""
    whole = dryer()
    place = {name: i for i, name in enumerate(whole.names("row").tolist())}
    rows = [[place[name] for name in part.names("row").tolist()] for part in (known, new)]
    seen, kept = np.zeros(whole.n_rows, bool), np.zeros(whole.n_rows, bool)
    kept[rows[0]], kept[rows[1]] = True, now
    seen[rows[0]], seen[rows[1]] = known.observed(), labelled
    train = whole.relabel(seen).subset(np.flatnonzero(kept))
    return BASELINES[TREES](train, new, seed=seed)


def _last(new: Batch, labelled: np.ndarray) -> np.ndarray:
    """The latest label of each row's batch, (N,)."""
    unit, truth = new["unit"].numpy(), new["y"][:, 0].numpy()
    where = np.flatnonzero(labelled)
    where = where[np.argsort(new.time[where], kind="stable")]  # type: ignore[index]
    latest = np.zeros(new.sizes["unit"])
    latest[unit[where]] = truth[where]
    return latest[unit]


def figure11b_table(rows: list[dict[str, Any]]) -> str:
    """RMSE by number of labels, one line per method and mode, for both kinds of scored rows."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for what in SCORED:
        name = f"rmse_{what.split()[0]}"
        for row in rows:
            start = {"model": row["model"], "mode": row["mode"], "scored": what}
            line = lines.setdefault((what, row["model"], row["mode"]), start)
            column = f"N^l = {row['labels']}"
            line |= {column: row[name], f"{column}_se": row[f"{name}_se"]}
    return format_table(list(lines.values()))


def _figure(rows: list[dict[str, Any]], file: Path) -> None:
    """Error against the number of labels, by method and mode, for both kinds of scored rows."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    colours = {"supervised": "tab:green", "unsupervised": "tab:red", "semi-supervised": "tab:blue"}
    others = {
        "SSMTL, no data": ("0.4", "--"), "MTL, calibrate": ("tab:orange", "-"),
        "trees with unit means and offset": ("tab:brown", "-"), "last value": ("0.2", ":"),
    }  # fmt: skip
    all_axes = figure.subplots(1, 2)
    for axes, what in zip(all_axes, SCORED, strict=True):
        name = f"rmse_{what.split()[0]}"
        for key in dict.fromkeys((row["model"], row["mode"]) for row in rows):
            own = [row for row in rows if (row["model"], row["mode"]) == key]
            colour, line = others.get(key[0], (colours.get(key[1], "k"), "--" if "amortized" in key[0] else "-"))
            mode = f", {key[1]}" if key[1] and "MTL, " in key[0] and key[0] not in others else ""
            labels, mean = (np.array([row[k] for row in own], float) for k in ("labels", name))
            error = np.array([row[f"{name}_se"] or 0.0 for row in own])
            axes.plot(labels, mean, line, color=colour, marker="o", markersize=3, label=f"{key[0]}{mode}")
            axes.fill_between(labels, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
        axes.set(
            title={SCORED[0]: "Rows up to the next label", SCORED[1]: "Last quarter of every batch"}[what],
            xlabel="labels of a new batch that have arrived, $N^l$", ylabel="RMSE of the tank level", ylim=(0, None),
            xticks=sorted({row["labels"] for row in rows}),
        )  # fmt: skip
    figure.suptitle("Unseen batches of a real dryer (bands: ± 1 standard error over draws)")
    figure.legend(*all_axes[0].get_legend_handles_labels(), frameon=False, loc="outside right center", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
