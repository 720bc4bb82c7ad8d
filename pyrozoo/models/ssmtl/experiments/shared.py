"""What the experiments of this entry share: configurations, tables, and `claim` for its card."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ....experiments import running as experiments
from ....experiments.record import format_table
from ....experiments.running import Outcome, averages, simulated_data, timing
from ..card import CARD
from .runs import INTERVALS
from .tuning import chosen

COVERAGES = tuple(f"cover{level}" for level in INTERVALS)
claim = partial(experiments.claim, CARD)


def configuration(experiment: str, model: str, profile: str) -> dict[str, Any]:
    """Return the tuned arguments and settings of a model; a smoke run takes few steps."""
    found = chosen(experiment, model)
    if profile == "smoke":
        found["settings"]["steps"] = 20
    return found


def configurations(experiment: str, profile: str) -> dict[str, Any]:
    """Return the configurations of both models, for the record."""
    return {model: configuration(experiment, model, profile) for model in ("mtl", "ssmtl")}


def label(model: str) -> str:
    """Return the name of a model in a table."""
    names = {"ssmtl": "SSMTL", "mtl": "MTL", "mtl_whole": "MTL, all labels", "STL_default_gamma": "STL (only C tuned)"}
    return names.get(model, model.replace("_", " "))


def summary_table(rows: list[dict[str, Any]], differences: Mapping[str, Any]) -> str:
    """Return the table of a record as text, with the paired differences of its first score below."""
    lines = [format_table(_printed(rows)), ""]
    for name, (difference, error) in differences.items():
        lines.append(f"{name}: {difference:+.2f}" + ("" if error is None else f" ± {error:.2f} (paired SE)"))
    return "\n".join(lines)


def _printed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the columns that fit a terminal."""
    keep = (
        "model",
        "scored",
        "ratio",
        "rmse",
        "mape",
        "mape_p10",
        "mape_p50",
        "mape_p90",
        "wmape",
        *COVERAGES,
        "seconds",
    )
    out = []
    for row in rows:
        shown = {k: row[k] for name in keep for k in (name, f"{name}_se") if k in row}
        out.append(shown | ({"model": f"{row['model']} (published, own data)"} if "reference" in row else {}))
    return out


__all__ = [
    "COVERAGES", "Outcome", "averages", "claim", "configuration", "configurations", "label", "simulated_data",
    "summary_table", "timing",
]  # fmt: skip
