"""What the entries' experiments share: profiles, folders that belong to one version and data, averages, records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.batch import Batch
from ..files import atomic_write_json, read_json_object, sha256_text
from ..modeling.registry import Card
from .record import mean_se, read_record, write_record

PROFILES = ("smoke", "quick", "paper")


def known(profile: str) -> str:
    """The profile, if there is one of that name."""
    if profile not in PROFILES:
        raise ValueError(f"profile: {profile!r} is none of {list(PROFILES)}")
    return profile


def claim(card: Card, out: Path, data: Mapping[str, Any], configuration: Mapping[str, str] | None = None) -> bool:
    """Let the folder belong to this version of the entry and these data; return whether it was begun before.

    Args:
        card: Of the entry.
        out: The folder.
        data: Identity of the data.
        configuration: Settings that finished jobs depend on beside their arguments, in words.

    Raises:
        ValueError: Its finished jobs are of another version, other data or other settings.
    """
    identity = {"model": f"{card.name}@{card.version}", "data": data["sha256"]}
    identity |= {"configuration": dict(configuration)} if configuration else {}
    file = out / "identity.json"
    if file.exists() and read_json_object(file, "the identity of an experiment") != identity:
        raise ValueError(
            f"{out} holds results of another version of the entry, other data or other settings; choose another folder"
        )
    begun = (out / "jobs").exists()
    atomic_write_json(file, identity)
    return begun


def simulated_data(name: str, batches: Iterable[Batch]) -> dict[str, Any]:
    """Identity of several simulated data sets together, for a record."""
    digest = sha256_text("".join(batch.sha256 for batch in batches))
    return {"name": name, "sha256": digest, "simulated": True}


def timing(results: Mapping[str, Mapping[str, Any]], resumed: bool) -> dict[str, Any]:
    """Time in the jobs, of earlier calls too; ``wall_time_s`` of the record is that of the last call."""
    return {"job_seconds": sum(r["seconds"] for r in results.values()), "threads_per_job": 1, "resumed": resumed}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a function or class that have a default."""
    parameters = inspect.signature(function).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def averages(found: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Mean and standard error (``<name>_se``) of every number over repetitions."""
    out: dict[str, float | None] = {}
    for name in found[0]:
        out[name], out[f"{name}_se"] = mean_se([result[name] for result in found])
    return out


def finish(
    card: Card, out: Path, rows: list, experiment: str, profile: str, data: dict, seeds: list[int], seconds: float,
    extra: dict,
) -> dict[str, Any]:  # fmt: skip
    """Write the record of an experiment, say where it is, and return it."""
    write_record(
        out, rows, model=card.name, version=card.version, experiment=experiment, profile=profile, data=data,
        seeds=seeds, wall_time_s=round(seconds, 1), extra=extra,
    )  # fmt: skip
    print(f"{out / 'record.json'} ({seconds:.0f} s)")
    return read_record(out)
