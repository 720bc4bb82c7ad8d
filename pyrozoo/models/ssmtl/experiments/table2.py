"""Table 2 of the paper on the dryer, which takes the place of its wells: STL, MTL and SSMTL at ratios 1, 5 and 20."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....criticism.scores import per_group, rmse, summarise, wmape
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, timing
from ....inference.fit import fit
from ....modeling import registry
from ....posterior.predicting import predict
from ..data.datasets import draw_labels, dryer
from .baselines import BASELINES
from .cross_fitted import SMOKE_BATCHES
from .published import TABLE_2
from .runs import PINNED
from .shared import claim, configuration, label
from .table1 import RATIOS

LABELLED = 5  # labelled rows of a batch; the paper's wells have 20
MODELS = (("STL_default_gamma", 1), ("STL", 1), ("mtl", 1), *(("ssmtl", ratio) for ratio in RATIOS))
PROTOCOLS = ("same", "later")
NOTE_TABLE2 = (
    "CollectorTankLevel of 71 batches: 5 labelled and 5 x ratio unlabelled training rows each, as many as there are. A "
    "quarter of every batch is kept out of training altogether and scored: rows at random ('same'), or the last ones "
    "('later', as in the paper). WMAPE in percent, mean and percentiles over batches, since levels of 0 have no MAPE; "
    "rmse is over all rows. SSMTL has the configuration of tuning/cross_fitted.json, MTL that of tuning/dryer.json."
)


def table2_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Table 2's counterpart on the dryer: error over batches of STL, MTL and SSMTL with more and more unlabelled rows.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (a few steps on a few batches), "quick" (3 draws of labels) or "paper" (20).
        seeds: Number of draws of the labels; None takes the profile's.
        jobs: Number of worker processes.
    """
    draws = range(seeds or {"smoke": 1, "quick": 3, "paper": 20}[profile])
    data = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    resumed = claim(out, data)
    batches = SMOKE_BATCHES if profile == "smoke" else None
    configured = {m: configuration(e, m, profile) for m, e in (("mtl", "dryer"), ("ssmtl", "cross_fitted"))}
    cells = [(*which, protocol) for protocol in PROTOCOLS for which in MODELS]
    plan = {
        _job(model, ratio, protocol, draw): {
            "model": model, "ratio": ratio, "protocol": protocol, "draw": draw, "batches": batches,
            **configured.get(model, {}),
        }
        for model, ratio, protocol in cells
        for draw in draws
    }  # fmt: skip
    results = run_jobs(table2_run, plan, out / "jobs", n_jobs=jobs)

    def found(model: str, ratio: int, protocol: str) -> list[dict[str, float]]:
        return [_scores(results[_job(model, ratio, protocol, draw)]) for draw in draws]

    rows: list[dict[str, Any]] = []
    for model, ratio, protocol in cells:
        about = {"model": label(model), "scored": protocol, "ratio": ratio if model == "ssmtl" else None}
        rows.append(about | averages(found(model, ratio, protocol)))
    pairs = [(("ssmtl", 20), ("mtl", 1)), (("mtl", 1), ("STL", 1)), (("ssmtl", 20), ("ssmtl", 1))]
    differences = {
        f"mean WMAPE of {_name(*a)} - {_name(*b)} ({protocol})": paired_difference(
            *([s["wmape"] for s in found(*which, protocol)] for which in (a, b))
        )
        for protocol in PROTOCOLS
        for a, b in pairs
    }
    extra: dict[str, Any] = {"note": NOTE_TABLE2, "differences": differences, "configurations": configured}
    extra |= {"published": [dict(row) for row in TABLE_2], **timing(results, resumed)}
    return Outcome(rows, data, list(draws), extra, table2_table(rows, differences))


def table2_table(rows: list[dict[str, Any]], differences: Mapping[str, Any]) -> str:
    """Return the table of a record as text, with the paired differences below."""
    left_out = ("source", "seconds", "seconds_se")
    lines = [format_table([{k: v for k, v in row.items() if k not in left_out} for row in rows]), ""]
    for name, (difference, error) in differences.items():
        lines.append(f"{name}: {difference:+.2f}" + ("" if error is None else f" ± {error:.2f} (paired SE)"))
    return "\n".join(lines)


def table2_data(draw: int, ratio: int, protocol: str, batches: int | None = None) -> tuple[Batch, Batch]:
    """Return training data with 5 labelled and 5 x `ratio` unlabelled rows of each batch, and the quarter to score.

    A smaller ratio has a subset of the rows of a larger one; the labels and the scored rows are the same.
    """
    data = dryer()
    if batches is not None:
        data = data.subset(np.flatnonzero(data["unit"].numpy() < batches))
    if protocol == "later":
        rest, test = data.split(0.25, by="last")
    else:
        unit = data["unit"].numpy()
        order = pd.Series(np.random.default_rng(draw).random(data.n_rows)).groupby(unit).rank(pct=True)
        rest, test = (data.subset(np.flatnonzero(kept)) for kept in (order > 0.25, order <= 0.25))
    kept = draw_labels(rest, LABELLED, draw)
    priority = np.where(kept, -1.0, np.random.default_rng([draw, 1]).random(rest.n_rows))
    place = pd.Series(priority).groupby(rest["unit"].numpy()).rank(method="first")
    return rest.relabel(kept).subset(np.flatnonzero(place <= LABELLED * (1 + ratio))), test


def table2_run(
    model: str, ratio: int, protocol: str, draw: int, batches: int | None = None,
    arguments: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one model and score the rows that were kept out.

    Returns:
        ``wmape`` (percent, of each batch), ``rmse`` (of all rows) and ``seconds``.
    """
    started = time.perf_counter()
    train, test = table2_data(draw, ratio, protocol, batches)
    if model in BASELINES:
        mean = BASELINES[model](train, test, seed=draw)
    else:
        made = registry.create_model("ssmtl", train, variant=model, **PINNED | dict(arguments or {}))
        fitted = fit(made, "paper", train, seed=draw, progress=False, **(settings or {}))
        mean = predict(fitted, test, draws=100, seed=draw, quantiles=())["y.mean"].to_numpy()
    truth = test["y"][:, 0].numpy()
    errors = per_group(wmape, truth, mean, test.group_names("unit")).tolist()
    return {"wmape": errors, "rmse": rmse(truth, mean), "seconds": round(time.perf_counter() - started, 2)}


def _scores(result: Mapping[str, Any]) -> dict[str, float]:
    """The scores of one draw: errors summarised over batches."""
    summary = summarise(pd.Series(result["wmape"]))
    own = {"wmape" if key == "mean" else f"wmape_{key}": value for key, value in summary.items()}
    return own | {"rmse": result["rmse"], "seconds": result["seconds"]}


def _name(model: str, ratio: int) -> str:
    return f"{label(model)}({ratio})" if model == "ssmtl" else label(model)


def _job(model: str, ratio: int, protocol: str, draw: int) -> str:
    return f"{model}-{ratio}-{protocol}-{draw}"
