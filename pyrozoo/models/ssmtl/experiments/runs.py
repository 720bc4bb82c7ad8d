"""One run of an experiment as a job: plain arguments in, plain numbers out, the same for tuning and scoring."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....criticism.scores import coverage, crps_normal, mape, per_group, rmse, wmape
from ....data.batch import Batch
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....modeling import registry
from ....posterior.columns import interval_names, tails
from ....posterior.predicting import predict
from ..data.datasets import draw_labels, dryer
from ..data.simulator import PRESETS, simulate
from .baselines import BASELINES

INTERVALS = {level: interval_names(level / 100) for level in (50, 80, 90)}
# What tuned configurations leave out; `create_model` would take what is for few labels.
PINNED: dict[str, Any] = {"width": 200, "floor": 0.02}
QUANTILES = tuple(sorted(q for level in INTERVALS for q in tails(level / 100)))


def dryer_data(
    draw: int, protocol: str = "same", hold_out: int = 0, batches: int | None = None, time: bool = False
) -> tuple[Batch, Batch, np.ndarray]:
    """Return training data, data to predict, and which of its rows are scored.

    Args:
        draw: Random seed of the choice of five labelled rows per batch.
        protocol: "same" scores the unlabelled rows of the same batches (their inputs are in the training data:
            transductive); "later" keeps the last 25 % of each batch out of training altogether, and scores it.
        hold_out: Number of labels per batch to keep out of training and to score in place of the unlabelled rows.
        batches: Number of batches to keep, the first ones (to see an experiment run); None keeps all.
        time: Whether rows have times.
    """
    data = dryer(time=time)
    if batches is not None:
        data = data.subset(np.flatnonzero(data["unit"].numpy() < batches))
    if protocol == "later":
        train, test = data.split(0.25, by="last")
        return train.relabel(draw_labels(train, 5, draw)), test, np.ones(test.n_rows, bool)
    labelled = draw_labels(data, 5, draw)
    kept = draw_labels(data, 5 - hold_out, draw) if hold_out else labelled
    return data.relabel(kept), data, (labelled & ~kept) if hold_out else ~labelled


def dryer_run(
    model: str, draw: int, protocol: str = "same", hold_out: int = 0, repeat: int = 0, batches: int | None = None,
    guide: str = "paper", arguments: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None,
    save: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one model to the dryer with five labels per batch and score it; RMSE in units of the tank level.

    `repeat` changes the fit's seed and nothing else: another network initialisation on the same labels.
    """
    train, test, scored = dryer_data(draw, protocol, hold_out, batches)
    result, prediction = _run(model, train, test, draw + 1000 * repeat, guide, arguments, settings, save)
    truth = test["y"][:, 0].numpy()
    result["rmse"] = rmse(truth[scored], prediction["mean"][scored])
    return result | _coverage(truth[scored], {k: v[scored] for k, v in prediction.items()})


def table1_run(
    model: str, seed: int, ratio: int = 20, preset: str = "any-valve", repeat: int = 0, guide: str = "paper",
    arguments: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None, save: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one model to simulated wells and score it on 100 rows per unit.

    There are 50 units with 5 labelled and 5 x `ratio` unlabelled rows each. MAPE and WMAPE are percentages per unit.
    """
    train, test = simulate(50, 5, 5 * ratio, 100, seed=seed, **PRESETS[preset])
    return wells_scored(model, train, test, seed + 1000 * repeat, arguments, settings, guide, save)


def wells_scored(
    model: str, train: Batch, test: Batch, seed: int, arguments: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None, guide: str = "paper", save: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one model to simulated wells and score it on the test rows; MAPE and WMAPE are percentages per unit."""
    result, prediction = _run(model, train, test, seed, guide, arguments, settings, save)
    truth = test["y"][:, 0].numpy()
    units = test.group_names("unit")
    for name, metric in (("mape", mape), ("wmape", wmape)):
        result[name] = per_group(metric, truth, prediction["mean"], units).tolist()
    return result | _coverage(truth, prediction)


def cross_fitted_trial(draw: int, arguments: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Fit one configuration with five labels per batch, and score the unlabelled rows."""
    train, full, scored = dryer_data(draw)
    model = registry.create_model("ssmtl", train, **arguments)
    table = predict(fit(model, "paper", train, seed=1000, progress=False, **settings), full, draws=50)
    truth, mean, sd = (values[scored] for values in (full["y"][:, 0].numpy(), table["y.mean"], table["y.sd"]))
    return {"rmse": rmse(truth, mean), "crps": crps_normal(truth, mean, sd)}


def _run(
    model: str, train: Batch, test: Batch, seed: int, guide: str, arguments: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None, save: str | None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:  # fmt: skip
    started = time.perf_counter()
    if model in BASELINES:
        prediction = {"mean": BASELINES[model](train, test, seed=seed)}
        return {"seconds": round(time.perf_counter() - started, 2)}, prediction
    zoo_model = registry.create_model("ssmtl", train, variant=model, **PINNED | dict(arguments or {}))
    fitted = fit(zoo_model, guide, train, seed=seed, progress=False, **(settings or {}))
    seconds = round(time.perf_counter() - started, 2)
    if save is not None:
        _save(fitted, save)
    table = predict(fitted, test, draws=100, seed=seed, quantiles=QUANTILES)
    prediction = {name.removeprefix("y."): table[name].to_numpy() for name in table}
    return {"seconds": seconds, "elbo": fitted.best.final_elbo}, prediction


def _save(fitted: Fit, folder: str) -> None:
    from ....inference.saving import save

    save(fitted, Path(folder), overwrite=True)


def _coverage(truth: np.ndarray, prediction: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the share of rows inside the central 50, 80 and 90 % predictive intervals."""
    return {
        f"cover{level}": coverage(truth, prediction[low], prediction[high])
        for level, (low, high) in INTERVALS.items()
        if low in prediction
    }
