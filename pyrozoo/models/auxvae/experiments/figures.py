"""Figures 5 and 6 of the paper on simulated data, with the numbers behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, claim, simulated_data, timing
from ....inference.saving import load
from ..card import CARD
from ..uses.latent import feature_probes, latent_probes
from .runs import configuration, data_of, fold_of, table_run

JOINT, ALONE = "5: cross-attention, style", "4: cross-attention, no style"
NOTE = (
    "Simulated gait. Probes are learned on the training people of a fold and scored on the others; mean and standard "
    "error over seeds."
)


def probe_run(model: str, seed: int, profile: str, folder: str) -> dict[str, Any]:
    """Fit one row of table 2 to the first fold, keep the fit, and probe its latent space and features."""
    result = table_run(model, seed, 0, profile, save=folder)
    found, (train, test) = load(folder), fold_of(seed, 0, profile)
    probes = {f"R2 of load, {stage}": value for stage, value in feature_probes(found, train, test).items()}
    return {"mae": result["mae"], **latent_probes(found, train, test), **probes, "seconds": result["seconds"]}


def figure5_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Figure 5 on simulated data: the latent space with and without the style, by style and by load.

    Args:
        out: Folder for record.json, table.csv and figures.
        profile: "smoke", "quick" (2 seeds) or "paper" (the paper's sizes).
        seeds: Number of seeds; None takes the profile's.
        jobs: Number of worker processes.
    """
    return _experiment("figure5", {"joint": JOINT, "load only": ALONE}, out, profile, seeds, jobs)


def figure6_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Figure 6 on simulated data: features of the walks before and after cross-attention, by load.

    The arguments are those of `figure5_experiment`.
    """
    return _experiment("figure6", {"joint": JOINT}, out, profile, seeds, jobs)


def reference_experiment(out: Path, profile: str = "quick") -> dict[str, Outcome]:
    """Make the small fit that ships with the package: the first fold of the first simulation.

    The subfolder ``fit`` of `out`, with its record, then goes to ``pyrozoo/models/auxvae/reference/simulated``.

    Args:
        out: Folder for the fit and its record.
        profile: "smoke", "quick" or "paper" (the paper's sizes).
    """
    result = table_run(JOINT, 0, 0, profile, save=str(out / "fit"))
    rows = [{"model": JOINT, **{k: v for k, v in result.items() if k != "seconds"}}]
    data = simulated_data("simulated gait, training people of the first fold", [fold_of(0, 0, profile)[0]])
    note = {"note": "Simulated gait; scored on the people of the first fold, who were left out."}
    return {"fit": Outcome(rows, data, [0], note, format_table(rows))}


def _experiment(name: str, models: dict[str, str], out: Path, profile: str, seeds: int | None, jobs: int) -> Outcome:
    numbers = range(seeds or {"smoke": 1, "quick": 2, "paper": 2}[profile])
    data = simulated_data("simulated gait of all seeds", (data_of(seed, profile) for seed in numbers))
    settings = configuration(models.values(), profile)
    resumed = claim(CARD, out, data, settings)
    plan = {
        _job(title, seed): {
            "model": model, "seed": seed, "profile": profile, "folder": str(out / "fits" / _job(title, seed)),
        }
        for title, model in models.items() for seed in numbers
    }  # fmt: skip
    results = run_jobs(probe_run, plan, out / "jobs", n_jobs=jobs)
    for job in plan:
        if not (out / "fits" / job).is_dir():
            raise FileNotFoundError(f"{out / 'fits' / job}: the fit of a finished job is gone; delete {out / 'jobs'}")
    rows = [{"model": title, **averages([results[_job(title, seed)] for seed in numbers])} for title in models]
    _figure(name, models, out, profile)
    extra = {"note": NOTE, "configuration": settings, **timing(results, resumed)}
    return Outcome(rows, data, list(numbers), extra, format_table(rows))


def _figure(name: str, models: dict[str, str], out: Path, profile: str) -> None:
    """Draw the figure of the first seed."""
    from .report import feature_figure, latent_figure

    train, test = fold_of(0, 0, profile)
    fits = {title: load(out / "fits" / _job(title, 0)) for title in models}
    figure = latent_figure(fits, train, test) if name == "figure5" else feature_figure(fits["joint"], test)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "figures" / f"{name}.png", dpi=110)


def _job(title: str, seed: int) -> str:
    return f"{title.replace(' ', '-')}-{seed}"
