"""The runner of the entries' experiments, and what these share.

An experiment is a function ``(out, profile="quick", ...) -> Outcome``. It also has a parameter for each of the options
`seeds`, `jobs`, `data`, `split`, `folds`, `people` and `repeats` that it takes; `run` refuses the others. It claims its
folder (`claim`), runs its jobs (`jobs.run_jobs`) and puts its table together; `run` does the rest. An experiment with
several records returns a dict of outcomes by the subfolder of `out` for each record.
"""

from __future__ import annotations

import inspect
import pkgutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write_json, read_json_object, sha256_text
from ..modeling import registry
from .record import mean_se, read_record, write_record

if TYPE_CHECKING:
    from ..data.batch import Batch
    from ..modeling.registry import Card

PROFILES = ("smoke", "quick", "paper")


@dataclass(frozen=True)
class Outcome:
    """What an experiment found: the contents of its record, and the table for the terminal.

    Attributes:
        rows: Rows of the table (see `record.write_record`).
        data: Identity of the data: `name`, `sha256` and `simulated`.
        seeds: All seeds.
        extra: Further contents of the record, such as a note, paired differences and the seconds of the jobs.
        text: Table for the terminal; "" prints none, as where the table of another outcome shows these rows too.
    """

    rows: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]
    seeds: Sequence[int]
    extra: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def run(
    name: str, experiment: str, *, profile: str | None = None, seeds: int | None = None, jobs: int | None = None,
    out: Path | str | None = None, data: str | None = None, split: str | None = None, folds: int | None = None,
    people: int | None = None, repeats: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run an experiment of an entry, print its table and write its record.

    Args:
        name: Name of the entry.
        experiment: Name of the experiment, one of the card's.
        profile: "smoke", "quick" or "paper"; None takes the experiment's default.
        seeds: Number of repeats (seeds 0, 1, ...); None takes the profile's.
        jobs: Number of worker processes; None means 1.
        out: Folder of the results; None means ``results/<name>-<experiment>``.
        data: Path of your own copy of the recordings.
        split: How an experiment that offers a choice splits its data, such as "subject" or "window"; None takes the
            default.
        folds: Number of folds of a cross-validation; None takes the profile's.
        people: Number of people of the data, the first by name; None takes all.
        repeats: Number of network initialisations of each fit, whose errors are averaged; None takes the profile's.

    Returns:
        The record. Where an experiment writes several, a dict of them by their subfolder of `out`.

    Raises:
        KeyError: There is no such entry or experiment.
        ValueError: There is no such profile, the experiment does not take one of the options, or `out` holds results of
            another version, other data or other settings.
    """
    function = function_of(name, experiment)
    taken = inspect.signature(function).parameters
    profile = taken["profile"].default if profile is None else profile
    if profile not in PROFILES:
        raise ValueError(f"profile: {profile!r} is none of {list(PROFILES)}")
    options: dict[str, Any] = {"seeds": seeds, "jobs": jobs, "data": data, "split": split, "folds": folds}
    options |= {"people": people, "repeats": repeats}
    given = {k: v for k, v in options.items() if v is not None}
    if refused := [option for option in given if option not in taken]:
        raise ValueError(f"{', '.join(refused)}: {experiment!r} of {name!r} takes none; leave it out")
    out = Path(out or f"results/{name}-{experiment}")
    started = time.perf_counter()
    found = function(out, profile=profile, **given)
    seconds = time.perf_counter() - started
    outcomes = {"": found} if isinstance(found, Outcome) else found
    records = {}
    for folder, outcome in outcomes.items():
        if outcome.text:
            print(outcome.text)
        records[folder] = _write(out / folder, outcome, registry.card(name), experiment, profile, seconds)
    return records if len(records) > 1 else next(iter(records.values()))


def function_of(name: str, experiment: str) -> Callable[..., Outcome | Mapping[str, Outcome]]:
    """Return the function of an experiment; one that the entry names as "module:function" is imported now."""
    experiments = getattr(registry.entry(name).parts, "EXPERIMENTS", {})
    if experiment not in experiments:
        raise KeyError(f"{experiment!r} is no experiment of {name!r}; there are {sorted(experiments)}")
    found = experiments[experiment]
    return pkgutil.resolve_name(found) if isinstance(found, str) else found


def _write(out: Path, outcome: Outcome, card: Card, experiment: str, profile: str, seconds: float) -> dict[str, Any]:
    """Write the record of an outcome, say where it is, and return it."""
    write_record(
        out, outcome.rows, model=card.name, version=card.version, experiment=experiment, profile=profile,
        data=outcome.data, seeds=outcome.seeds, wall_time_s=round(seconds, 1), extra=outcome.extra,
    )  # fmt: skip
    print(f"{out / 'record.json'} ({seconds:.0f} s)")
    return read_record(out)


def claim(card: Card, out: Path, data: Mapping[str, Any], configuration: Mapping[str, str] | None = None) -> bool:
    """Mark the folder as results of this version of the entry on these data; return whether it was begun before.

    Args:
        card: Card of the entry.
        out: Folder of the results.
        data: Identity of the data.
        configuration: Settings, in words, that the results of jobs depend on beside the jobs' arguments.

    Raises:
        ValueError: The folder holds results of another version, other data or other settings.
    """
    identity = {"model": f"{card.name}@{card.version}", "data": data["sha256"]}
    identity |= {"configuration": dict(configuration)} if configuration else {}
    file = out / "identity.json"
    if file.exists() and read_json_object(file, "the identity of an experiment") != identity:
        raise ValueError(
            f"{out} holds results of another version of the entry, other data or other settings; choose another folder"
        )
    begun = (out / "jobs").exists() or any(out.glob("*/jobs"))
    atomic_write_json(file, identity)
    return begun


def simulated_data(name: str, batches: Iterable[Batch]) -> dict[str, Any]:
    """Return the identity of several simulated data sets together, for a record."""
    digest = sha256_text("".join(batch.sha256 for batch in batches))
    return {"name": name, "sha256": digest, "simulated": True}


def timing(results: Mapping[str, Mapping[str, Any]], resumed: bool) -> dict[str, Any]:
    """Return the seconds of all jobs, earlier calls included (the record's `wall_time_s` is that of the last call)."""
    return {"job_seconds": sum(r["seconds"] for r in results.values()), "threads_per_job": 1, "resumed": resumed}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the default values of the arguments of a function or class that have one."""
    parameters = inspect.signature(function).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def averages(found: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Return the mean and standard error (`<name>_se`) of every number over repeats."""
    out: dict[str, float | None] = {}
    for name in found[0]:
        out[name], out[f"{name}_se"] = mean_se([result[name] for result in found])
    return out
