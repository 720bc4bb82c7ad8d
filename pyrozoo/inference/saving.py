"""Run directories: a fit as JSON and safetensors, written atomically, checked on reading, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..files import atomic_write_bytes, sha256_file
from ..modeling import priors as prior_tools
from ..modeling import registry
from ..store.batches import _describe, _read_prototype
from ..store.tensors import load_tensors, save_tensors
from .copies import build, isolated
from .fitted import Fit, Run
from .losses import materialise
from .minibatches import some_rows

FORMAT = 1


def save(fit: Fit, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a fit to a run directory: ``run.json``, ``weights.safetensors``, ``prototype.safetensors``.

    Args:
        fit: The fit.
        path: Folder to create.
        overwrite: Whether to replace an earlier run directory there.

    Returns:
        The folder.

    Raises:
        FileExistsError: There is something at `path`, and `overwrite` is False or it is no run directory.
        ValueError: A constructor argument that JSON cannot hold.

    Example:
        >>> import tempfile
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = zoo.save(fit, f"{folder}/run")
        ...     sorted(file.name for file in path.iterdir())
        ['prototype.safetensors', 'run.json', 'weights.safetensors']
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / "run.json").exists()):
        raise FileExistsError(f"{path} exists; choose another folder, or overwrite=True for an earlier run")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        weights = {
            f"{i}/{part}/{k}": v
            for i, run in enumerate(fit.runs)
            for part, module in (("model", run.model), ("guide", run.guide))
            for k, v in module.state_dict().items()
        }
        save_tensors(folder / "weights.safetensors", weights, {})
        save_tensors(
            folder / "prototype.safetensors", fit.prototype.tensors, {"batch": json.dumps(_describe(fit.prototype))}
        )
        record = _record(fit)
        record["files"] = {
            name: sha256_file(folder / name) for name in ("weights.safetensors", "prototype.safetensors")
        }
        record["sha256"] = _digest(record)
        atomic_write_bytes(folder / "run.json", json.dumps(record, indent=1).encode())
        os.chmod(folder, 0o755)
        if path.exists():  # moved aside first: a crash in between loses neither run
            os.replace(path, folder.with_name(f"{folder.name}-old"))
        os.replace(folder, path)
        shutil.rmtree(folder.with_name(f"{folder.name}-old"), ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def load(path: str | Path, *, priors: Mapping[str, Any] | None = None, guide: Any = None, model: Any = None) -> Fit:
    """Read a run directory that `save` wrote.

    Args:
        path: The folder.
        priors: Site -> prior, for priors that JSON could not hold.
        guide: Guide factory or class of the fit, needed if it is no guide of the entry.
        model: A model with the same constructor arguments, needed if the model comes from no entry of the registry.

    Returns:
        The fit, without its training data.

    Raises:
        FileNotFoundError: No run directory there.
        ValueError: Truncated, edited or foreign files, another format, a model whose log density has changed since,
            or a missing argument: a prior, guide or model that must be given again.

    Example:
        >>> import tempfile
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     loaded = zoo.load(fit.save(f"{folder}/run"))
        >>> loaded.history.equals(fit.history)
        True
    """
    path = Path(path)
    record = _read_record(path)
    for name, digest in record["files"].items():
        if not (path / name).exists() or sha256_file(path / name) != digest:
            raise ValueError(f"{path / name}: missing or changed since the run was saved; copy the whole folder again")
    weights, _ = load_tensors(path / "weights.safetensors")
    prototype = _read_prototype(path / "prototype.safetensors")
    runs = []
    for index, run in enumerate(record["runs"]):
        with isolated(run["seed"]), _default_dtype(record["dtype"]):
            template = _model(record, path, priors, model)
            run_model, run_guide = build(template, _guide(record, path, guide, template))
            materialise(run_model, run_guide, some_rows(run_model, run_guide, prototype))
            for part, module in (("model", run_model), ("guide", run_guide)):
                prefix = f"{index}/{part}/"
                own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
                try:
                    module.load_state_dict(own)
                except RuntimeError as error:
                    reason = " ".join(str(error).split())
                    raise ValueError(
                        f"{path}: not the weights of this {part}; give the one of the fit ({reason})"
                    ) from None
            run_model.eval(), run_guide.eval()
        runs.append(Run(run["seed"], run_model, run_guide, pd.DataFrame(run["history"]), run["status"]))
    return Fit(
        runs, record["guide"], record["settings"], record["data"], prototype, record["seconds"], record["versions"]
    )  # fmt: skip


def load_reference(name: str) -> Fit:
    """Load a small trained fit that ships with the package.

    Args:
        name: Entry and name of the fit, e.g. ``"ssmtl/dryer"``.

    Raises:
        KeyError: No such fit; the message lists them.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(10)).hide()
        >>> zoo.predict(fit, data, draws=20).shape[0]
        10
    """
    model, _, reference = name.partition("/")
    folder = Path(__file__).parent / "models" / model / "reference"
    if not (folder / reference / "run.json").exists():
        known = sorted(
            f"{p.parts[-4]}/{p.parts[-2]}" for p in Path(__file__).parent.glob("models/*/reference/*/run.json")
        )
        raise KeyError(f"no reference fit {name!r}; there are {known}")
    return load(folder / reference)


def _record(fit: Fit) -> dict[str, Any]:
    model = fit.runs[0].model
    config = {k: v for k, v in model.config.items() if k != "priors"}
    priors = {site: prior_tools.to_json(p) for site, p in (model.config.get("priors") or {}).items()}
    try:
        json.dumps(config)
    except TypeError as error:
        raise ValueError(
            f"{type(model).__name__}: a constructor argument cannot be written as JSON ({error})"
        ) from None
    modules = model, fit.runs[0].guide  # a model of global latents may have no tensor of its own
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    return {
        "format": FORMAT,
        "entry": model.entry,
        "model_version": model.version,
        "config": config,
        "priors": priors,
        "guide": fit.guide_name,
        "dtype": str(tensors[0].dtype if tensors else torch.get_default_dtype()).removeprefix("torch."),
        "settings": fit.settings,
        "data": fit.data,
        "seconds": round(fit.seconds, 3),
        "versions": {name: version(name) for name in ("pyro-ppl", "torch", "numpy")},
        "runs": [
            {"seed": run.seed, "status": run.status, "history": run.history.to_dict(orient="list")} for run in fit.runs
        ],
    }


def _read_record(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not file.exists():
        raise FileNotFoundError(f"{path} is no run directory: it has no run.json")
    try:
        record = json.loads(file.read_text())
        digest = record.pop("sha256")
        found = record["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{file}: truncated, or not written by pyrozoo; save the run again") from None
    if found != FORMAT:
        raise ValueError(f"{file}: format {found}, this version reads {FORMAT}; use the version that wrote it")
    if digest != _digest(record):
        raise ValueError(f"{file}: changed since the run was saved; restore the file or fit again")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _model(record: dict, path: Path, priors: Mapping[str, Any] | None, model: Any) -> Any:
    lost = [site for site, prior in record["priors"].items() if prior is None and site not in (priors or {})]
    if lost:
        raise ValueError(
            f"{path}: the prior(s) of {lost} could not be written as JSON; give them: load(path, priors={{...}})"
        )
    given = {site: prior_tools.from_json(prior) for site, prior in record["priors"].items() if prior} | dict(
        priors or {}
    )
    arguments = dict(record["config"]) | ({"priors": given} if given else {})
    if model is not None:
        found = type(model)(**arguments)
        found.entry = model.entry
    elif record["entry"] is None:
        raise ValueError(f"{path}: its model is in no registry entry; give one: load(path, model=...)")
    else:
        name, variant = record["entry"]
        found = registry.create_model(name, variant=variant, **arguments)
    if found.version != record["model_version"]:
        raise ValueError(
            f"{path}: fitted with version {record['model_version']} of {type(found).__name__}, whose log density "
            f"differs from version {found.version} here; fit again, or install the "
            f"version that wrote it ({record['versions']})"
        )
    return found


def _guide(record: dict, path: Path, guide: Any, model: Any) -> Any:
    if guide is not None:
        return guide
    name = record["guide"]
    if model.entry is not None and name in registry.entry(model.entry[0]).parts.GUIDES:
        return name
    from pyro.infer import autoguide

    kind = getattr(autoguide, name, None)
    if isinstance(kind, type) and issubclass(kind, autoguide.AutoGuide):
        return kind
    raise ValueError(f"{path}: its guide {name!r} is no guide of the zoo; give its factory: load(path, guide=...)")


@contextmanager
def _default_dtype(name: str):
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
