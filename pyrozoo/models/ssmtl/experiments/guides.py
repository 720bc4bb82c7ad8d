"""Guides × priors of the contexts, on simulated and on real data: what changing either changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
from matplotlib.figure import Figure

from ....criticism.importance import khat
from ....criticism.scores import coverage, rmse
from ....data.batch import Batch
from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, simulated_data, timing
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....modeling import registry
from ....modeling.priors import LearnedScale, Mixture
from ....plots.style import COLOURS
from ....posterior.drawing import draw
from ....posterior.predicting import predict
from ..card import CARD
from ..data.datasets import dryer
from ..data.simulator import PRESETS, simulate
from .runs import PINNED, dryer_data
from .shared import claim, configuration

PRIORS: Mapping[str, Callable[[int], Any]] = {
    "normal": lambda c_dim: None,
    "student-t": lambda c_dim: dist.StudentT(4.0, 0.0, 1.0),
    "learned scale": lambda c_dim: LearnedScale(c_dim),
    "mixture": lambda c_dim: Mixture(3, c_dim),
}
DATA = ("simulated", "dryer")
UNITS_FOR_KHAT, INNER = 8, 50
SMOKE_BATCHES = 6
NOTE = (
    "simulated: 30 units, 5 labelled and 10 unlabelled rows each, 40 test rows, RMSE in m3/h; dryer: five labels in "
    "each of 71 batches, RMSE on the other rows. elbo: strict ELBO, nats per training row, without the alpha term that "
    "the objective adds; none for 'delta', whose point has no entropy. khat_unit: median over the units (of eight) "
    "whose k can be told from the noise of the inner estimates; untold: share of units where it cannot, all with "
    "'delta'; not computed on the dryer, where 130 rows in a unit leave nothing but noise. khat_row: median over rows, "
    "given the contexts. Quick profile: networks of 64 units a layer and 1,500 steps, smaller than in the other "
    "experiments."
)


def guides_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> dict[str, Outcome]:
    """Every guide with every prior: ELBO, RMSE, coverage, Pareto k per unit and row, seconds; one table, one figure.

    Args:
        out: Folder for ``simulated`` and ``dryer``, each with record.json and table.csv, and the figure.
        profile: "smoke", "quick" (small networks, 1 seed) or "paper" (tuned configurations, 3 seeds).
        seeds: Number of seeds of simulated data and of label draws; None takes the profile's.
        jobs: Number of worker processes.

    Returns:
        Outcomes on ``simulated`` wells and on the ``dryer``.
    """
    numbers = range(seeds or {"smoke": 1, "quick": 1, "paper": 3}[profile])
    guides = tuple(CARD.guides) if profile != "smoke" else ("paper", "delta")
    priors = tuple(PRIORS) if profile != "smoke" else ("normal", "mixture")
    batches = (study_data("simulated", seed, profile)[0] for seed in numbers)
    wells = simulated_data("simulated (same valve), training data of all seeds", batches)
    real = {"name": "dryer", "sha256": dryer().sha256, "simulated": False}
    resumed = claim(out, {"sha256": f"{real['sha256']} {wells['sha256']}"})
    plan = {
        f"{name}-{guide}-{prior.replace(' ', '-')}-{seed}": {
            "data": name, "guide": guide, "prior": prior, "seed": seed, "profile": profile,
        }
        for seed in numbers for name in DATA for guide in guides for prior in priors
    }  # fmt: skip
    results = run_jobs(guides_run, plan, out / "jobs", n_jobs=jobs)
    rows = []
    for name in DATA:
        for guide in guides:
            for prior in priors:
                found = [results[f"{name}-{guide}-{prior.replace(' ', '-')}-{seed}"] for seed in numbers]
                rows.append(
                    {"model": "SSMTL", "data": name, "guide": guide, "prior": prior, **_means(found, guide, name)}
                )
    (out / "figures").mkdir(parents=True, exist_ok=True)
    guides_figure(rows).savefig(out / "figures" / "guides.png", dpi=110)
    outcomes: dict[str, Outcome] = {}
    for name, data in (("simulated", wells), ("dryer", real)):
        own = {job: result for job, result in results.items() if job.startswith(name)}
        extra = {"note": NOTE} | timing(own, resumed)
        part = [row for row in rows if row["data"] == name]
        text = "" if outcomes else guides_table(rows)  # one table of both
        outcomes[name] = Outcome(part, data, list(numbers), extra, text)
    return outcomes


def _means(found: list[dict[str, Any]], guide: str, data: str) -> dict[str, float | None]:
    """Return mean and standard error of every score over the seeds that have it."""
    # A point has no entropy, so that its ELBO is on no common scale; k per unit is not computed on the dryer.
    without = ({"elbo"} if guide == "delta" else set()) | ({"khat_unit", "untold"} if data == "dryer" else set())
    out: dict[str, float | None] = {}
    for name in found[0]:
        values = [result[name] for result in found if name not in without and result[name] is not None]
        if values:
            out |= averages([{name: value} for value in values])
    return out


def study_data(name: str, seed: int, profile: str) -> tuple[Batch, Batch, np.ndarray]:
    """Return training data, data to predict, and which of its rows are scored."""
    if name == "dryer":
        return dryer_data(seed, batches=SMOKE_BATCHES if profile == "smoke" else None)
    train, test = simulate(30, 5, 10, 40, seed=seed, **PRESETS["same-valve"])
    return train, test, np.ones(test.n_rows, bool)


def guides_run(data: str, guide: str, prior: str, seed: int, profile: str) -> dict[str, Any]:
    """Fit one guide with one prior and score it."""
    train, test, scored = study_data(data, seed, profile)
    chosen = configuration("dryer" if data == "dryer" else "table1", "ssmtl", profile)
    if profile != "paper":
        chosen["arguments"]["width"] = 64
        chosen["settings"]["steps"] = min(chosen["settings"]["steps"], 1500)
    if guide not in ("paper", "mvn", "flow", "delta"):
        chosen["settings"]["lr_groups"] = {"guide.auto.*": 10 * chosen["settings"]["lr"]} if guide == "normal" else {}
    given = PRIORS[prior](chosen["arguments"]["c_dim"])
    chosen["arguments"] = PINNED | chosen["arguments"]
    model = registry.create_model("ssmtl", train, **chosen["arguments"], priors={} if given is None else {"c": given})
    fitted = fit(model, guide, train, seed=seed, progress=False, **chosen["settings"])
    seconds = round(fitted.seconds, 2)
    table = predict(fitted, test, draws=20 if profile == "smoke" else 100, seed=seed, quantiles=(0.05, 0.95))[scored]
    truth = test["y"][:, 0].numpy()[scored]
    result = {
        "elbo": strict_elbo(fitted, train, seed),
        "rmse": rmse(truth, table["y.mean"]),
        "cover90": coverage(truth, table["y.q05"], table["y.q95"]),
        **_pareto(fitted, train, seed, data == "simulated", *((25, 5) if profile == "smoke" else (100, INNER))),
    }
    return result | {"seconds": seconds}


def strict_elbo(fitted: Fit, train: Batch, seed: int, draws: int = 20) -> float:
    """Return the ELBO per row [nats] without the alpha term, a factor of the guide that is no part of its density."""
    stats = draw(fitted, train, draws=draws, seed=seed, sites=[], predictive=False).groups["sample_stats"]
    return float((stats["lp"] - stats["lq"]).mean()) / train.n_rows


def _pareto(fitted: Fit, train: Batch, seed: int, per_unit: bool, draws: int, inner: int) -> dict[str, float | None]:
    found = {"khat_row": float(khat(fitted, train, draws=draws, seed=seed).median())}
    if not per_unit:
        return found | {"khat_unit": None, "untold": None}
    some = train.coords["unit"][:UNITS_FOR_KHAT]
    units = khat(fitted, train, per="unit", only=some, draws=draws, inner=inner, seed=seed)
    told = units.dropna().replace(-np.inf, np.nan).dropna()
    return found | {"khat_unit": float(told.median()) if len(told) else None, "untold": float(units.isna().mean())}


def guides_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the record as text."""
    keep = ("data", "guide", "prior", "elbo", "rmse", "cover90", "khat_unit", "untold", "khat_row", "seconds")
    shown = [{k: row.get(k) for name in keep for k in (name, f"{name}_se") if k in row} for row in rows]
    return format_table(shown)


def guides_figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw RMSE, strict ELBO and coverage for each data set, one dot per guide and prior."""
    measures = {
        "rmse": {
            "simulated": "RMSE [m3/h]\n(lower is better)",
            "dryer": "RMSE [tank level, 0 to 116]\n(lower is better)",
        },
        "elbo": dict.fromkeys(DATA, "strict ELBO [nats per row]\n(higher is better)"),
        "cover90": dict.fromkeys(DATA, "coverage of 90 % intervals\n(0.9 is right)"),
    }
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(len(DATA), len(measures), sharey=True)
    guides = list(dict.fromkeys(row["guide"] for row in rows))
    priors = list(dict.fromkeys(row["prior"] for row in rows))
    for line, name in zip(axes, DATA, strict=True):
        for ax, (measure, labels) in zip(line, measures.items(), strict=True):
            for k, prior in enumerate(priors):
                own = {row["guide"]: row for row in rows if row["data"] == name and row["prior"] == prior}
                place = np.arange(len(guides)) + 0.15 * (k - (len(priors) - 1) / 2)
                values = [own[guide].get(measure, np.nan) for guide in guides]
                errors = [own[guide].get(f"{measure}_se") or 0.0 for guide in guides]
                style: dict[str, Any] = {"color": COLOURS[k], "marker": "os^D"[k % 4], "ls": "none", "ms": 6}
                ax.errorbar(values, place, xerr=errors, label=f"{prior} prior", **style)
            if measure == "cover90":
                ax.axvline(0.9, color="0.5", ls="--", lw=1)
            ax.set_xlabel(labels[name])
            ax.set_yticks(range(len(guides)), guides)
            ax.grid(axis="x", alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{name} data\nguide of the contexts")
    axes[0, 0].invert_yaxis()  # shared by all
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(priors), frameon=False)
    return figure
