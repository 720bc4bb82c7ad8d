"""The small fit that ships with the package."""

from __future__ import annotations

from pathlib import Path

from ....experiments.record import format_table
from ....experiments.running import Outcome, simulated_data
from .runs import TASKS, chosen, deep_run, parts_of

MODEL = "latent (CAM)"


def reference_experiment(out: Path, profile: str = "quick") -> dict[str, Outcome]:
    """Make the small fit that ships with the package: labels from the latents, seed 0.

    The subfolder ``fit`` of `out`, with its record, then goes to ``pyrozoo/models/m3sense/reference/simulated``.

    Args:
        out: Folder for the fit and its record.
        profile: "smoke", "quick" or "paper" (the paper's sizes).
    """
    result = deep_run(MODEL, TASKS, 0, profile, save=str(out / "fit"))
    rows = [{"model": MODEL, **{name: value for name, value in result.items() if name != "seconds"}}]
    data = simulated_data("simulated wrist signals, half of the people", [chosen(parts_of(0, profile)[0], TASKS)])
    note = {"note": "Simulated wrist signals; scored on the other half of the people."}
    return {"fit": Outcome(rows, data, [0], note, format_table(rows))}
