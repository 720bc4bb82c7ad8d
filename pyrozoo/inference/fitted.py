"""The Fit record: restarts with their models and guides, and what aligns new data with them."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro.infer.autoguide import AutoGuide
from torch import nn

from ..data.batch import Batch
from ..data.tables import described
from ..modeling import priors as prior_tools
from ..modeling.base import ZooModel
from ..store.directory import write_directory
from .aligning import aligned, check_columns
from .copies import copied
from .law import PredictiveLaw


@dataclass(repr=False)
class Run:
    """One restart: its own model and guide, its history and how it ended.

    Attributes:
        seed: Random seed of this restart.
        model: The fitted model.
        guide: The fitted guide.
        history: One line per epoch with these columns: epoch; step; elbo (mean over the epoch of minus the loss, in
            nats per row: the objective, which for SSMTL with alpha > 0 holds the alpha term beside the ELBO); beta
            (weight of the annealed sites); lr; grad_norm; and valid_elbo (the objective of the validation set).
        status: "finished", "stopped early", "interrupted", "failed" or "solved".
    """

    seed: int
    model: ZooModel
    guide: nn.Module
    history: pd.DataFrame
    status: str

    def __repr__(self) -> str:
        last = f"{len(self.history)} epochs, ELBO {self.final_elbo:.4g}"
        return f"Run(seed {self.seed}: {type(self.model).__name__}, {type(self.guide).__name__}; {self.status}, {last})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        """Copy the guide by `copied`: Pyro's own copy of an AutoGuide loses its model."""
        model = copy.deepcopy(self.model, memo)
        guide = copied(self.guide, memo | {id(self.model): model})
        return Run(self.seed, model, guide, self.history.copy(), self.status)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickle, with a copy of the guide and beside it the models of its AutoGuides, which Pyro leaves out.

        Pyro's pickling would take the model from the guide itself, too.
        """
        autos = {name: part for name, part in self.guide.named_modules() if isinstance(part, AutoGuide)}
        if not autos:
            return dict(vars(self))
        copy_of = copied(self.guide, {id(self.model): self.model})
        return vars(self) | {"guide": copy_of, "models": {name: part._model for name, part in autos.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        models = state.pop("models", {})
        vars(self).update(state)
        parts = dict(self.guide.named_modules())
        for name, model in models.items():
            parts[name]._model = model

    @property
    def final_elbo(self) -> float:
        """Validation ELBO of the weights kept, or else the mean ELBO over the last 5 % of the epochs; nats per row."""
        if "valid_elbo" in self.history:
            kept = self.history.loc[self.history["beta"] >= 1.0, "valid_elbo"]
            return float(kept.max()) if len(kept) else float("-inf")
        tail = max(1, len(self.history) // 20)
        return float(self.history["elbo"].tail(tail).mean()) if len(self.history) else float("-inf")


@dataclass(repr=False)
class Fit:
    """A fitted model, which most functions of the zoo take as their first argument.

    Attributes:
        runs: The restarts, in order of their seeds; a restart is a chain of the posterior.
        guide_name: Name of the guide: a name of the entry, or the name of a class or function.
        settings: The arguments of the fit that JSON can hold.
        data: Identity of the training data: name, sha256, simulated, sizes, columns, and, if it had them, the column of
            the time and the ``levels`` of the inputs that hold categories.
        prototype: One training row with the names and tables of all groups that are not open; new data are aligned
            with it.
        seconds: Wall time of the fit, in seconds.
        versions: Versions of the libraries that wrote a loaded fit.
        train: The training data; not saved, so None for a loaded fit.
        law: The predictive law of a fit by `pyrozoo.cross_fitted`, which corrects its predictions; None for others.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> type(fit.model).__name__, fit.guide_name, fit.status, len(fit.runs)
        ('SSMTL', 'paper', 'finished', 1)
        >>> fit.history.columns[:3].tolist()
        ['epoch', 'step', 'elbo']
    """

    runs: list[Run]
    guide_name: str
    settings: dict[str, Any]
    data: dict[str, Any]
    prototype: Batch
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    train: Batch | None = field(default=None, repr=False)
    law: PredictiveLaw | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{n} {name}s" for name, n in self.sizes.items())
        lines = [
            f"Fit of {type(self.model).__name__} with the guide {self.guide_name!r} to {self.data['name']}: {sizes}"
        ]
        lines += [f"  {run}" for run in self.runs[:5]]
        lines += [f"  and {len(self.runs) - 5} more"] if len(self.runs) > 5 else []
        lines += [f"  {self.law}"] if self.law else []
        return "\n".join([*lines, f"  {self.seconds:.1f} s; history, model and guide are attributes"])

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the training data, plate -> number; without open groups in a fit saved before these were recorded.

        Example:
            >>> import pyrozoo as zoo
            >>> zoo.load_reference("ssmtl/dryer").sizes["unit"]
            71
        """
        known = self.data.get("sizes")
        if known is not None:
            return dict(known)
        return {name: n for name, n in self.prototype.sizes.items() if name not in self.model.open_groups}

    def as_batch(self, data: Batch | pd.DataFrame) -> Batch:
        """A batch as it is, and a data frame read by the columns of the training table, without targets.

        Raises:
            TypeError: Neither a batch nor a data frame.
        """
        if isinstance(data, pd.DataFrame):
            return self.batch(data, labels=False)
        if not isinstance(data, Batch):
            raise TypeError(f"batch: a {described(data)}; give a Batch or a data frame")
        return data

    @property
    def best(self) -> Run:
        """The restart with the highest final ELBO."""
        return max(self.runs, key=lambda run: run.final_elbo)

    def chosen(self, restart: int | None) -> list[tuple[int, Run]]:
        """The restarts that predict, with their positions: all that are complete, or the one at position `restart`.

        A restart that was interrupted or failed does not predict beside complete ones; if none is complete, the best
        one predicts.

        Raises:
            ValueError: There is no restart at this position.
        """
        numbered = list(enumerate(self.runs))
        if restart is None:
            complete = [(i, run) for i, run in numbered if run.status not in ("interrupted", "failed")]
            return complete or [(i, run) for i, run in numbered if run is self.best]
        if isinstance(restart, bool) or not isinstance(restart, int) or not 0 <= restart < len(numbered):
            raise ValueError(f"restart: {restart!r}; this fit has the restarts 0 to {len(numbered) - 1}")
        return [numbered[restart]]

    @property
    def model(self) -> ZooModel:
        """Model of the best restart."""
        return self.best.model

    @property
    def guide(self) -> nn.Module:
        """Guide of the best restart."""
        return self.best.guide

    @property
    def history(self) -> pd.DataFrame:
        """History of the best restart."""
        return self.best.history

    @property
    def status(self) -> str:
        """Status of the last restart: whether the fit is complete."""
        return self.runs[-1].status

    def batch(self, df: pd.DataFrame, labels: bool = True) -> Batch:
        """Read a new table by the columns of the training table.

        Args:
            df: The table, with the columns of the training table.
            labels: Whether the table has the targets; False reads only groups and inputs.

        Raises:
            KeyError, TypeError, ValueError: As `Batch.from_dataframe`; ValueError also if the fit was not trained on a
                data frame.

        Example:
            >>> import pandas as pd
            >>> import pyrozoo as zoo
            >>> fit = zoo.load_reference("ssmtl/dryer")
            >>> columns = fit.data["columns"]
            >>> unit = fit.prototype.names("unit")[0]
            >>> table = pd.DataFrame({columns["unit"]: [unit] * 3, **dict.fromkeys(columns["x"], [0.1, 0.2, 0.3])})
            >>> zoo.predict(fit, fit.batch(table, labels=False), draws=20).shape[0]
            3
        """
        columns = self.data.get("columns")
        if columns is None:
            raise ValueError("this fit was not trained on a data frame; build the Batch yourself")
        like = self.prototype
        targets = {name: own for name, own in columns.items() if name in like.labels}
        rows = {name: own for name, own in columns.items() if name not in (*like.groups, *targets) and own != []}
        groups = {name: own for name, own in columns.items() if name in like.groups}
        return Batch.from_columns(
            df, groups=groups, rows=rows, targets=targets, labels=labels, dims=like.dims, time=self.data.get("time"),
            levels=self.data.get("levels"),
        )  # fmt: skip

    def prepare(self, batch: Batch, run: Run | None = None) -> Batch:
        """Convert a batch to the layout of the training data: group positions, tables, support rows, device and type.

        Groups of the training data take their position and tables from there. Other groups need a guide that is
        amortised over them, which then reads this batch's own rows. Open groups of the model keep the tables of this
        batch, whether they are new or known.

        Args:
            batch: The batch.
            run: The restart whose guide and device count; by default the best one.

        Raises:
            KeyError: A group was not in the training data and the guide has parameters per group.
            ValueError: An input is missing that the model cannot integrate out; the batch has other names along a
                dimension, a dimension of size 1 where the training data have more (or the reverse), rows of another
                length where the model was made for that of the training data, or is standardised differently.
        """
        run = run or self.best
        return aligned(batch, self.prototype, run.model, run.guide, self.guide_name)

    def check_columns(self, batch: Batch, model: ZooModel) -> None:
        """Compare the names along dimensions, the classes and the standardisation of a batch with the training data's.

        Args:
            batch: The batch.
            model: The model whose targets count.

        Raises:
            ValueError: The batch has other names along a dimension, or is standardised differently.
        """
        check_columns(batch, self.prototype, model)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run directory of JSON and safetensors, to be read by `pyrozoo.load`.

        Args:
            path: Folder to create.
            overwrite: Whether to replace an earlier run directory there.

        Returns:
            The folder.

        Raises:
            FileExistsError: As `pyrozoo.save`.
            ValueError: A constructor argument that JSON cannot hold.
        """
        path = Path(path)
        weights = {
            f"{i}/{part}/{k}": v
            for i, run in enumerate(self.runs)
            for part, module in (("model", run.model), ("guide", run.guide))
            for k, v in module.state_dict().items()
        }
        if self.law is not None and self.law.process is not None:
            weights |= {f"process/{name}": tensor for name, tensor in self.law.process.tensors.items()}
        write_directory(path, _record(self), weights, self.prototype, overwrite=overwrite)
        return path


def prototype_of(train: Batch, model: ZooModel) -> Batch:
    """One training row with all group tables and names, see `Fit`.

    Of an open group only the entry of that row is kept: others are never needed later.
    """
    row = train.take([0])
    tensors, sizes = dict(row.tensors), dict(row.sizes)
    coords = {k: v for k, v in row.coords.items() if k != train.rows and k not in train.row_coords}
    for group in set(train.groups) & set(model.open_groups):
        own = row[group]
        tensors |= {k: v[own] for k, v in row.tensors.items() if row.along[k] == group}
        tensors[group], sizes[group] = torch.zeros_like(own), 1
        coords[group] = coords[group][own.cpu().numpy()]
    return dataclasses.replace(row, tensors=tensors, sizes=sizes, coords=coords, truth={})


def identity(train: Batch) -> dict[str, Any]:
    """Identity of the training data, see `Fit`."""
    return {
        "name": train.info.get("name", "unnamed"),
        "sha256": train.sha256,
        "simulated": bool(train.info.get("simulated", False)),
        "sizes": dict(train.sizes),
        "columns": train.info.get("columns"),
    } | {fact: train.info[fact] for fact in ("time", "levels") if fact in train.info}


def _record(fit: Fit) -> dict[str, Any]:
    """What ``run.json`` says of a fit."""
    model = fit.runs[0].model
    arrays = np.ndarray | torch.Tensor  # as lists, which the constructor takes, too
    config = {k: v.tolist() if isinstance(v, arrays) else v for k, v in model.config.items() if k != "priors"}
    priors = {site: prior_tools.to_json(p) for site, p in (model.config.get("priors") or {}).items()}
    try:
        json.dumps(config)
    except TypeError as error:
        raise ValueError(
            f"{type(model).__name__}: a constructor argument cannot be written as JSON ({error})"
        ) from None
    own = importlib.import_module(__package__.partition(".")[0]).__version__
    modules = model, fit.runs[0].guide  # a model of global latents may have no tensor of its own
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    return {
        "entry": model.entry,
        "model_version": model.version,
        "config": config,
        "priors": priors,
        "guide": fit.guide_name,
        "dtype": str(tensors[0].dtype if tensors else torch.get_default_dtype()).removeprefix("torch."),
        "settings": fit.settings,
        "data": fit.data,
        "seconds": round(fit.seconds, 3),
        "versions": {"pyrozoo": own, **{name: version(name) for name in ("pyro-ppl", "torch", "numpy")}},
        "runs": [
            {"seed": run.seed, "status": run.status, "history": run.history.to_dict(orient="list")} for run in fit.runs
        ],
    } | ({} if fit.law is None else {"law": fit.law.as_json()})
