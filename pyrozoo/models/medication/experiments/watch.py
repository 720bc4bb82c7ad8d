"""Semi-synthetic watch sessions: every decoder with parameters from the other subjects; and the reference fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....experiments.jobs import run_jobs
from ....experiments.record import format_table, paired_difference
from ....experiments.running import Outcome, averages, claim, timing
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


def watch_experiment(out: Path, profile: str = "quick", seeds: int | None = None, jobs: int = 1) -> Outcome:
    """Semi-synthetic watch sessions: every decoder by leave-one-subject-out, and what a smoothed D takes away.

    Args:
        out: Folder for record.json, table.csv and figures.
        profile: "smoke" (two subjects), "quick" or "paper" (both all ten subjects of the same data).
        seeds: Number of test subjects; None takes the profile's.
        jobs: Number of worker processes.
    """
    folds = range(min(N_SUBJECTS, seeds or {"smoke": 2}.get(profile, N_SUBJECTS)))
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
    differences = _differences(results, folds)
    lines = [format_table(rows)]
    for name, (difference, error) in differences.items():
        spread = "" if error is None else f" ± {error:.4f} (paired SE)"
        lines.append(f"frame accuracy, {name}: {difference:+.4f}{spread}")
    if profile != "smoke":
        from .report import watch_figures

        watch_figures(out / "figures")
    fitted_powers = [name for name in ("hazard", "cdf-power") if name in configurations]
    powers = {name: [results[f"{name}-{fold}"]["power"] for fold in folds] for name in fitted_powers}
    extra = {"note": NOTE, "differences": differences, "power_by_subject": powers, **timing(results, resumed)}
    return Outcome(rows, data, list(folds), extra, "\n".join(lines))


def reference_experiment(out: Path, profile: str = "quick") -> dict[str, Outcome]:
    """Make the small fit that ships with the package, to all sessions.

    The scores of a session are from forests that have not seen its subject. The subfolder ``fit`` of `out`, with its
    record, then goes to ``pyrozoo/models/medication/reference/watch``.

    Args:
        out: Folder for the fit and its record.
        profile: Name for the record; the fit is the same in every profile.
    """
    sessions = watch_sessions_all()
    found = fitted(sessions, "semi-markov")
    found.save(out / "fit", overwrite=True)
    _, power = plug_in(found, sessions)
    rows = [{"model": "semi-markov, closed form", "power": power, "elbo_per_recording": found.best.final_elbo}]
    note = {"note": "fitted to all sessions: it has seen every subject, so no score on these data is an honest one"}
    return {"fit": Outcome(rows, watch_identity(), [0], note, format_table(rows))}


def watch_identity() -> dict[str, Any]:
    """Return the identity of the sessions for a record."""
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
