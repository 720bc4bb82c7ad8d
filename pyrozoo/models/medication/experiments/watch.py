"""Semi-synthetic watch sessions: every decoder with parameters from the other subjects; and the reference fit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import averages, claim, finish, known, timing
from ..card import CARD
from ..data.datasets import watch_sessions, watch_sessions_all
from ..uses.decoding import plug_in
from .runs import fitted, watch_run

N_SUBJECTS = 10
SCORES = ("frame_accuracy", "segment_f1", "edit", "frame_nll")
NOTE = (
    "Semi-synthetic: sensor signals, durations and classifier errors are real; the order of the six exercises is "
    "staged and always the same, and gaps are drawn from a Gaussian, so the order and the law of gaps are true by "
    "construction. Leave one subject out: scores are nested (no forest that scored a training session has seen the "
    "test subject), and parameters and power come from the other nine subjects. Mean and standard error over ten "
    "subjects, each with two sessions."
)
# name -> variant, guide, arguments, decoder -> how the table calls it
CONFIGURATIONS: dict[str, tuple[str, str, dict[str, Any], dict[str, str]]] = {
    "vanilla": ("frame-hmm", "closed-form", {}, {"argmax": "argmax of the scores", "viterbi": "vanilla Viterbi"}),
    "cdf": ("paper", "closed-form", {}, {
        "paper": "cdf, the text's recursion", "map": "cdf, exact map", "mea": "cdf, exact mea",
    }),
    "cdf-power": ("paper", "closed-form", {"power": "fit"}, {"mea": "cdf, exact mea, fitted power"}),
    "cdf-ml": ("paper", "ml", {}, {
        "paper": "cdf by likelihood, the text's recursion", "map": "cdf by likelihood, exact map",
    }),
    "hazard-1": ("semi-markov", "closed-form", {"power": 1.0}, {"map": "hazard, exact map, power 1"}),
    "hazard-half": ("semi-markov", "closed-form", {"power": 0.5}, {"mea": "hazard, exact mea, power 0.5"}),
    "hazard": ("semi-markov", "closed-form", {}, {
        "paper": "hazard, the text's recursion, fitted power", "map": "hazard, exact map, fitted power",
        "marginal": "hazard, marginals, fitted power", "mea": "hazard, exact mea, fitted power",
    }),
    "hazard-ml": ("semi-markov", "ml", {}, {"mea": "hazard by likelihood, exact mea, fitted power"}),
}  # fmt: skip
# The order of steps, from as it was seen to unknown: every step may follow every step, with this many pseudo-counts.
SMOOTHING = (0.01, 0.1, 0.5, 2.0, 1000.0)


def watch_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/medication-watch"
) -> dict[str, Any]:
    """Semi-synthetic watch sessions: every decoder by leave-one-subject-out, and what a smoothed D takes away.

    Args:
        profile: "smoke" (two subjects), "quick" and "paper" (all ten; the data are the same).
        seeds: Number of test subjects in place of the profile's.
        jobs: Processes.
        out: Folder for record.json, table.csv and figures.
    """
    started, out = time.perf_counter(), Path(out)
    folds = range(min(N_SUBJECTS, seeds or {"smoke": 2}.get(known(profile), N_SUBJECTS)))
    data = watch_identity()
    resumed = claim(CARD, out, data)
    configurations = dict(CONFIGURATIONS)
    for alpha in SMOOTHING:
        arguments = {"pairs": _every_pair(6), "alpha": alpha}
        configurations[f"cdf-smooth-{alpha:g}"] = ("paper", "closed-form", arguments, {
            "paper": f"cdf, the text's recursion, D + {alpha:g}", "map": f"cdf, exact map, D + {alpha:g}",
        })  # fmt: skip
        configurations[f"hazard-smooth-{alpha:g}"] = (
            "semi-markov", "closed-form", arguments, {"mea": f"hazard, exact mea, fitted power, D + {alpha:g}"}
        )  # fmt: skip
    plan = {
        f"{name}-{fold}": {
            "fold": fold, "variant": variant, "guide": guide, "decoders": list(named), "arguments": arguments
        }
        for name, (variant, guide, arguments, named) in configurations.items()
        for fold in folds
    }  # fmt: skip
    results = run_jobs(watch_run, plan, out / "jobs", n_jobs=jobs)
    rows = [
        _row(results, name, decoder, label, folds)
        for name, (_, _, _, named) in configurations.items()
        for decoder, label in named.items()
    ]
    print(format_table(rows))
    differences = _differences(results, folds)
    for name, (difference, error) in differences.items():
        print(f"frame accuracy, {name}: {difference:+.4f}" + ("" if error is None else f" ± {error:.4f} (paired SE)"))
    if profile != "smoke":
        from .report import watch_figures

        watch_figures(out / "figures")
    fitted_powers = [name for name in ("hazard", "cdf-power") if name in configurations]
    powers = {name: [results[f"{name}-{fold}"]["power"] for fold in folds] for name in fitted_powers}
    extra = {"note": NOTE, "differences": differences, "power_by_subject": powers, **timing(results, resumed)}
    return finish(CARD, out, rows, "watch", profile, data, list(folds), time.perf_counter() - started, extra)


def reference_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/medication-reference"
) -> dict[str, Any]:
    """Make the small fit that ships with the package: all sessions, each with the scores of forests that have not seen
    its subject. Its folder then goes to ``pyrozoo/models/medication/reference/watch``.
    """  # noqa: D205
    started, out = time.perf_counter(), Path(out)
    known(profile)
    sessions = watch_sessions_all()
    found = fitted(sessions, "semi-markov")
    found.save(out / "fit", overwrite=True)
    _, power = plug_in(found, sessions)
    rows = [{"model": "semi-markov, closed form", "power": power, "elbo_per_recording": found.best.final_elbo}]
    print(format_table(rows))
    return finish(
        CARD, out / "fit", rows, "reference", profile, watch_identity(), [0], time.perf_counter() - started,
        {"note": "fitted to all sessions: it has seen every subject, so no score on these data is an honest one"},
    )  # fmt: skip


def watch_identity() -> dict[str, Any]:
    """Identity of the sessions for a record."""
    return {
        "name": "watch_sessions", "sha256": watch_sessions(0)[0].sha256, "simulated": False, "semi_synthetic": True
    }  # fmt: skip


def _every_pair(n_steps: int) -> list[list[int]]:
    return [[h, k] for h in range(n_steps + 1) for k in range(1, n_steps + 1)]


def _row(results: Mapping[str, Any], name: str, decoder: str, label: str, folds: range) -> dict[str, Any]:
    found = [results[f"{name}-{fold}"] for fold in folds]
    kept = [{score: r[decoder][score] for score in SCORES} | {"power": r["power"]} for r in found]
    row = {"model": label} | averages(kept)
    if decoder == "argmax":  # it uses no process, and no power
        row |= dict.fromkeys(("frame_nll", "frame_nll_se", "power", "power_se"))
    return row | {"least_accuracy": float(np.min([r[decoder]["frame_accuracy"] for r in found]))}


def _differences(results: Mapping[str, Any], folds: range) -> dict[str, Any]:
    pairs = {
        "cdf, exact map - recursion": (("cdf", "map"), ("cdf", "paper")),
        "cdf by likelihood, exact map - recursion": (("cdf-ml", "map"), ("cdf-ml", "paper")),
        "cdf by likelihood - by moments, exact map": (("cdf-ml", "map"), ("cdf", "map")),
        "cdf, exact map - vanilla Viterbi": (("cdf", "map"), ("vanilla", "viterbi")),
        "hazard, exact mea, fitted power - vanilla Viterbi": (("hazard", "mea"), ("vanilla", "viterbi")),
        "cdf, exact map: D as seen - order unknown": (("cdf", "map"), (f"cdf-smooth-{SMOOTHING[-1]:g}", "map")),
        "hazard, exact mea: D as seen - order unknown": (
            ("hazard", "mea"), (f"hazard-smooth-{SMOOTHING[-1]:g}", "mea")
        ),
    }  # fmt: skip
    values = lambda name, decoder: [results[f"{name}-{fold}"][decoder]["frame_accuracy"] for fold in folds]  # noqa: E731
    return {label: paired_difference(values(*a), values(*b)) for label, (a, b) in pairs.items()}
