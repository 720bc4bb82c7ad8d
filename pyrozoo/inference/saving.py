"""Loading fits from run directories, and the small fits that ship with the package."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ..data.batch import Batch
from ..modeling import priors as prior_tools
from ..modeling import registry
from ..store.directory import read_directory
from .copies import build, default_dtype, isolated
from .fitted import Fit, Run
from .foreign import Frugal, check_record, naming_run
from .law import PredictiveLaw
from .losses import materialise
from .minibatches import some_rows
from .publishing import HUB, fetched, plain_folder

_MODELS = Path(registry.__file__).parents[1] / "models"


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
    return fit.save(path, overwrite=overwrite)


def load(path: str | Path, *, priors: Mapping[str, Any] | None = None, guide: Any = None, model: Any = None) -> Fit:
    """Read a run directory that `save` or `publish` wrote.

    Args:
        path: The folder, or ``"hf://owner/name"``: a fit published on the hub of that name, fetched by its client
            (extra ``hub``) or found in the client's cache. Any other text is a path.
        priors: Site -> prior, for priors that JSON could not hold.
        guide: Guide factory or class of the fit, needed if it is no guide of the entry.
        model: A model with the same constructor arguments, needed if the model comes from no entry of the registry.

    Returns:
        The fit, without its training data.

    Raises:
        ImportError: An address on the hub, and its client is not installed.
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
    if isinstance(path, str) and path.startswith(HUB):
        with tempfile.TemporaryDirectory() as folder:
            return load(plain_folder(fetched(path), Path(folder)), priors=priors, guide=guide, model=model)
    path = Path(path)
    record, weights, prototype = read_directory(path)
    with naming_run(path):
        check_record(record)
        return _rebuilt(record, weights, prototype, priors, guide, model)


def _rebuilt(
    record: dict, weights: Mapping[str, Tensor], prototype: Batch, priors: Mapping[str, Any] | None, guide: Any,
    model: Any,
) -> Fit:  # fmt: skip
    """The fit of a record; its models and guides are made anew and given their weights."""
    n_bytes = sum(t.numel() * t.element_size() for t in (*weights.values(), *prototype.tensors.values()))
    runs = []
    for index, run in enumerate(record["runs"]):
        with isolated(run["seed"]), default_dtype(record["dtype"]), Frugal(n_bytes):
            template = _model(record, priors, model)
            run_model, run_guide = build(template, _guide(record, guide, template))
            materialise(run_model, run_guide, some_rows(run_model, run_guide, prototype))
            for part, module in (("model", run_model), ("guide", run_guide)):
                prefix = f"{index}/{part}/"
                own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
                try:
                    module.load_state_dict(own)
                except RuntimeError as error:
                    reason = " ".join(str(error).split())
                    raise ValueError(f"not the weights of this {part}; give the one of the fit ({reason})") from None
            run_model.eval(), run_guide.eval()
        runs.append(Run(run["seed"], run_model, run_guide, pd.DataFrame(run["history"]), run["status"]))
    law = None
    if "law" in record:
        process = {k.removeprefix("process/"): v for k, v in weights.items() if k.startswith("process/")}
        names = prototype.coords[prototype.groups[0]] if prototype.groups else None
        law = PredictiveLaw.from_json(record["law"], process, names)
    return Fit(
        runs, record["guide"], record["settings"], record["data"], prototype, record["seconds"], record["versions"],
        law=law,
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
    folder = _MODELS / model / "reference"
    if not (folder / reference / "run.json").exists():
        known = sorted(f"{p.parts[-4]}/{p.parts[-2]}" for p in _MODELS.glob("*/reference/*/run.json"))
        raise KeyError(f"no reference fit {name!r}; there are {known}")
    return load(folder / reference)


def _model(record: dict, priors: Mapping[str, Any] | None, model: Any) -> Any:
    lost = [site for site, prior in record["priors"].items() if prior is None and site not in (priors or {})]
    if lost:
        raise ValueError(f"the prior(s) of {lost} could not be written as JSON; give them: load(path, priors={{...}})")
    given = {site: prior_tools.from_json(prior) for site, prior in record["priors"].items() if prior} | dict(
        priors or {}
    )
    arguments = dict(record["config"]) | ({"priors": given} if given else {})
    if model is not None:
        found = type(model)(**arguments)
        found.entry = model.entry
    elif record["entry"] is None:
        raise ValueError("its model is in no registry entry; give one: load(path, model=...)")
    else:
        name, variant = record["entry"]
        found = registry.create_model(name, variant=variant, **arguments)
    if found.version != record["model_version"]:
        raise ValueError(
            f"fitted with version {record['model_version']} of {type(found).__name__}, whose log density "
            f"differs from version {found.version} here; install the pyrozoo that wrote it, "
            f"{record['versions'].get('pyrozoo', 'of unknown version')} (with {record['versions']}), or fit again: "
            f"{_command(record, found)}"
        )
    return found


def _command(record: dict, found: Any) -> str:
    """The command, or the call in Python, that makes such a fit from its data."""
    (name, variant), settings = record["entry"] or ("MODEL", None), record["settings"]
    columns = record["data"].get("columns")
    if record["entry"] is None or not columns:
        return f"zoo.fit(zoo.create_model({name!r}, data, variant={variant!r}), {record['guide']!r}, data)"
    words = ["pyrozoo", "fit", name, "--data", record["data"]["name"]]
    for key, own in columns.items():
        option = _option(key, found)
        for column in own if isinstance(own, list) else [own]:
            words += [f"--{option}", str(column) if option in ("unit", "x") or key == "y" else f"{key}={column}"]
    words += ["--variant", variant, "--guide", record["guide"], "--seed", str(settings.get("seed", 0))]
    words += ["--steps", str(settings["steps"])] if settings.get("steps") else []
    return shlex.join([*words, "--out", "DIR"])


def _option(name: str, model: Any) -> str:
    """Option of `pyrozoo fit` for what a model calls by this name."""
    if name in ("unit", "x"):
        return name
    return "y" if name == "y" or name in model.targets else "group" if name in model.plate_dims else "row"


def _guide(record: dict, guide: Any, model: Any) -> Any:
    if guide is not None:
        return guide
    name = record["guide"]
    if model.entry is not None and name in registry.entry(model.entry[0]).parts.GUIDES:
        return name
    from pyro.infer import autoguide

    kind = getattr(autoguide, name, None)
    if isinstance(kind, type) and issubclass(kind, autoguide.AutoGuide):
        return kind
    raise ValueError(f"its guide {name!r} is no guide of the zoo; give its factory: load(path, guide=...)")
