"""Publishing a fit: a run directory with a model card, and reading one from a hub."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..files import atomic_write_bytes, read_json_object
from ..modeling import registry
from ..store.directory import PROTOTYPE, RECORD, WEIGHTS

if TYPE_CHECKING:
    from .fitted import Fit

HUB = "hf://"
README = "README.md"


def publish(
    fit: Fit, path: str | Path, *, summary: str, data_licence: str, licence: str = "apache-2.0",
    metrics: Mapping[str, Any] | None = None, intended_use: str = "", limitations: str = "", overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write a run directory with a model card beside it, as model hubs show it.

    The folder is what `Fit.save` writes and a ``README.md``: front matter in YAML (licence, library, tags, results),
    then what the model is, what it was trained on, how good it is, what it is for, and its limitations.

    Args:
        fit: The fit.
        path: Folder to create.
        summary: What the fit is, in a sentence or two.
        data_licence: Licence of the training data, or "simulated".
        licence: Licence of the weights, as hubs abbreviate it.
        metrics: Metric -> value, as `pyrozoo.metrics` returns it, or -> (value, standard error); say in `summary` on
            which rows they were computed.
        intended_use: What the fit is for, and what it is not for.
        limitations: What a user must know; those of the entry's card are added.
        overwrite: Whether to replace an earlier run directory there.

    Returns:
        The folder, which `pyrozoo.load` reads.

    Raises:
        ValueError: No summary or licence, or a metric that is neither a finite number nor a pair of them.
        FileExistsError: There is something at `path`, and `overwrite` is False or it is no run directory.

    Example:
        >>> import tempfile
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = zoo.publish(fit, f"{folder}/dryer", summary="A dryer's tank level.", data_licence="CC-BY-4.0")
        ...     print((path / "README.md").read_text().splitlines()[0], zoo.load(path).guide_name)
        --- paper
    """
    for name, text in {"summary": summary, "data_licence": data_licence, "licence": licence}.items():
        if not (isinstance(text, str) and text.strip()):
            raise ValueError(f"{name}: {text!r}; a published fit says it in words")
    numbers = {name: _number(name, value) for name, value in (metrics or {}).items()}
    path = fit.save(path, overwrite=overwrite)
    record = read_json_object(path / RECORD, "the record of a run")
    text = _card_text(record, summary, data_licence, licence, numbers, intended_use, limitations)
    atomic_write_bytes(path / README, text.encode())
    return path


def fetched(address: str) -> Path:
    """Return the folder of a published fit on a hub, fetched by its client or found in the client's cache.

    Raises:
        ValueError: The address is not ``hf://owner/name``.
        ImportError: The hub's client is not installed.
    """
    name = address.removeprefix(HUB).strip("/")
    if name.count("/") != 1 or not all(part.strip(".") for part in name.split("/")):
        raise ValueError(f"{address!r}: an address on the hub is hf://owner/name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(f"{address} needs the hub's client: pip install 'pyrozoo[hub]'") from None
    # Only what a run directory consists of: nothing else of a stranger's repository is needed, or kept.
    return Path(snapshot_download(name, allow_patterns=[RECORD, "*.safetensors", README]))


def plain_folder(folder: Path, to: Path) -> Path:
    """Copy a fetched run directory, whose files a hub's cache keeps as links, to plain files in `to`."""
    for name in (RECORD, WEIGHTS, PROTOTYPE):
        if (folder / name).exists():
            shutil.copyfile(folder / name, to / name)
    return to


def _number(name: str, value: Any) -> tuple[float, float | None]:
    pair = value if isinstance(value, tuple | list) else (value, None)
    try:
        mean, error = float(pair[0]), None if len(pair) < 2 or pair[1] is None else float(pair[1])
    except (TypeError, ValueError, IndexError):
        raise ValueError(f"metrics[{name!r}]: {value!r}; give a number, or a number and its standard error") from None
    if not math.isfinite(mean) or not math.isfinite(error or 0.0):
        raise ValueError(f"metrics[{name!r}]: {value!r} is not finite")
    return mean, error


def _card_text(
    record: Mapping[str, Any], summary: str, data_licence: str, licence: str,
    numbers: Mapping[str, tuple[float, float | None]], intended_use: str, limitations: str,
) -> str:  # fmt: skip
    entry, data = record.get("entry"), record["data"]
    card = registry.card(entry[0]) if entry else None
    title = f"{entry[0]}, variant {entry[1]}" if entry else "a model outside the registry"
    results = [{"type": name, "value": mean, "name": name} for name, (mean, _) in numbers.items()]
    front: dict[str, Any] = {
        "license": licence,
        "library_name": "pyrozoo",
        "tags": ["pyro", "probabilistic-programming", "sensor-data", *([entry[0]] if entry else [])],
    }
    if results:
        task = {"type": "tabular-regression", "name": title}
        dataset = {"type": data["name"], "name": data["name"]}
        front["model-index"] = [
            {"name": data["name"], "results": [{"task": task, "dataset": dataset, "metrics": results}]}
        ]
    parts = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    parts += [f"# {title}", "", summary.strip(), ""]
    parts += ["    import pyrozoo as zoo", "    fit = zoo.load(FOLDER)", "    zoo.predict(fit, rows)", ""]
    parts += [
        "## Training data",
        "",
        f"* {data['name']}, {'simulated' if data['simulated'] else 'recorded'}; licence: {data_licence}",
    ]
    parts += [f"* sha256 {data['sha256']}"]
    columns = data.get("columns") or {}
    parts += [f"* {role}: {', '.join(names) if isinstance(names, list) else names}" for role, names in columns.items()]
    if numbers:
        parts += ["", "## Results", "", "| metric | value | standard error |", "|---|---|---|"]
        parts += [
            f"| {n} | {mean:.4g} | {'' if error is None else f'{error:.2g}'} |" for n, (mean, error) in numbers.items()
        ]
    parts += ["", "## Intended use", "", intended_use.strip() or "Not stated by who published it."]
    known = [*([limitations.strip()] if limitations.strip() else []), *(card.limitations if card else ())]
    parts += ["", "## Limitations", "", *(f"* {line}" for line in known or ["Not stated by who published it."])]
    made = [f"pyrozoo {__version__}", *(f"{name} {v}" for name, v in record["versions"].items() if name != "pyrozoo")]
    parts += [
        "",
        "## How it was made",
        "",
        f"Guide `{record['guide']}`, {len(record['runs'])} restart(s), with {', '.join(made)}.",
    ]
    if card:
        parts += [f"Version {record['model_version']} of the entry. Paper: {card.reference}"]
    return "\n".join(parts) + "\n"
