"""The small fit that ships with the package."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ....experiments.record import format_table
from ....experiments.running import finish, known, simulated_data
from ..card import CARD
from .runs import TASKS, chosen, deep_run, parts_of

MODEL = "latent (CAM)"


def reference_experiment(
    profile: str = "quick", seeds: int | None = None, jobs: int = 1, out: Path | str = "results/m3sense-reference"
) -> dict[str, Any]:
    """Make the fit of ``pyrozoo/models/m3sense/reference/simulated``: labels from the latents, seed 0.

    It is one fit: `seeds` and `jobs` change nothing.
    """
    started, out = time.perf_counter(), Path(out)
    result = deep_run(MODEL, TASKS, 0, known(profile), save=str(out / "fit"))
    rows = [{"model": MODEL, **{name: value for name, value in result.items() if name != "seconds"}}]
    print(format_table(rows))
    data = simulated_data("simulated wrist signals, half of the people", [chosen(parts_of(0, profile)[0], TASKS)])
    note = {"note": "Simulated wrist signals; scored on the other half of the people."}
    return finish(CARD, out / "fit", rows, "reference", profile, data, [0], time.perf_counter() - started, note)
