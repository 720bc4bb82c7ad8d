"""What the experiments share: profiles, folders that belong to one version and data, tables, records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ....batch import Batch
from ....files import atomic_write_json, read_json_object
from ....record import format_table, mean_se, read_record, write_record
from ..card import CARD
from ..runs import INTERVALS
from ..tune import chosen

PROFILES = ("smoke", "quick", "paper")
COVERAGES = tuple(f"cover{level}" for level in INTERVALS)


def known(profile: str) -> str:
    """The profile, if there is one of that name."""
    if profile not in PROFILES:
        raise ValueError(f"profile: {profile!r} is none of {list(PROFILES)}")
    return profile


def claim(out: Path, data: Mapping[str, Any]) -> bool:
    """Let the folder belong to this version of the entry and these data; return whether it was begun before.

    Raises:
        ValueError: Its finished jobs are of another version or other data.
    """
    identity = {"model": f"{CARD.name}@{CARD.version}", "data": data["sha256"]}
    file = out / "identity.json"
    if file.exists() and read_json_object(file, "the identity of an experiment") != identity:
        raise ValueError(f"{out} holds results of another version of the entry or of other data; choose another folder")
    begun = (out / "jobs").exists()
    atomic_write_json(file, identity)
    return begun


def simulated_data(name: str, batches: Iterable[Batch]) -> dict[str, Any]:
    """Identity of several simulated data sets together, for a record."""
    digest = hashlib.sha256("".join(batch.sha256 for batch in batches).encode()).hexdigest()
    return {"name": name, "sha256": digest, "simulated": True}


def timing(results: Mapping[str, Mapping[str, Any]], resumed: bool) -> dict[str, Any]:
    """Time in the jobs, of earlier calls too; ``wall_time_s`` of the record is that of the last call."""
    return {"job_seconds": sum(r["seconds"] for r in results.values()), "threads_per_job": 1, "resumed": resumed}


def configuration(experiment: str, model: str, profile: str) -> dict[str, Any]:
    """The tuned arguments and settings of a model, with few steps in a smoke run."""
    found = chosen(experiment, model)
    if profile == "smoke":
        found["settings"]["steps"] = 20
    return found


def configurations(experiment: str, profile: str) -> dict[str, Any]:
    """The configurations of both models, for the record."""
    return {model: configuration(experiment, model, profile) for model in ("mtl", "ssmtl")}


def label(model: str) -> str:
    """How a table calls a model."""
    names = {"ssmtl": "SSMTL", "mtl": "MTL", "STL_default_gamma": "STL (only C tuned)"}
    return names.get(model, model.replace("_", " "))


def averages(found: list[dict[str, float]]) -> dict[str, float | None]:
    """Mean and standard error (``<name>_se``) of every number over repetitions."""
    out: dict[str, float | None] = {}
    for name in found[0]:
        out[name], out[f"{name}_se"] = mean_se([result[name] for result in found])
    return out


def summary_table(rows: list[dict[str, Any]], differences: Mapping[str, Any]) -> str:
    """The table of a record as text, with the paired differences of its first score below."""
    lines = [format_table(_printed(rows)), ""]
    for name, (difference, error) in differences.items():
        lines.append(f"{name}: {difference:+.2f}" + ("" if error is None else f" ± {error:.2f} (paired SE)"))
    return "\n".join(lines)


def _printed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that fit a terminal."""
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


def finish(
    out: Path, rows: list, experiment: str, profile: str, data: dict, seeds: list[int], seconds: float, extra: dict
) -> dict[str, Any]:
    """Write the record of an experiment, say where it is, and return it."""
    write_record(
        out, rows, model=CARD.name, version=CARD.version, experiment=experiment, profile=profile, data=data,
        seeds=seeds, wall_time_s=round(seconds, 1), extra=extra,
    )  # fmt: skip
    print(f"{out / 'record.json'} ({seconds:.0f} s)")
    return read_record(out)
