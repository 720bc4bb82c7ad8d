"""fit(): stochastic variational inference on fresh copies of a model and guide, and the Fit record it returns."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import nn

from . import registry
from .base import ZooModel, make_local
from .batch import Batch
from .distributed import Processes, joined
from .guides import with_support
from .losses import Loss, NonFiniteLoss, bad_site, materialise
from .minibatches import some_rows
from .training import Settings, Training

__all__ = ["Fit", "NonFiniteLoss", "Run", "fit"]


@dataclass
class Run:
    """One restart: its own model and guide, its history and how it ended.

    Attributes:
        history: One line per epoch: epoch, step, elbo (mean over the epoch of minus the loss, nats per row: the
            objective, which for SSMTL with alpha > 0 holds the alpha term beside the ELBO), beta (weight of the
            annealed sites), lr, grad_norm, and valid_elbo (the same, of the validation set).
        status: "finished", "stopped early", "interrupted", "failed" or "solved".
    """

    seed: int
    model: ZooModel
    guide: nn.Module
    history: pd.DataFrame
    status: str

    @property
    def final_elbo(self) -> float:
        """Validation ELBO of the weights kept, or else the mean ELBO over the last 5 % of the epochs; nats per row."""
        if "valid_elbo" in self.history:
            kept = self.history.loc[self.history["beta"] >= 1.0, "valid_elbo"]
            return float(kept.max()) if len(kept) else float("-inf")
        tail = max(1, len(self.history) // 20)
        return float(self.history["elbo"].tail(tail).mean()) if len(self.history) else float("-inf")


@dataclass
class Fit:
    """A fitted model: what every other function of the zoo takes.

    Attributes:
        runs: The restarts, in order of their seeds; a restart is a chain of the posterior.
        guide_name: How the guide was given: a name of the entry, or the name of a class or function.
        settings: The arguments of the fit that JSON can hold.
        data: Identity of the training data: name, sha256, simulated, columns.
        prototype: One training row with the names and tables of all groups that are not open: what aligns new
            data with the fit.
        seconds: Wall time of the fit.
        versions: Library versions that wrote a loaded fit.
        train: The training data; not saved, so None for a loaded fit.
    """

    runs: list[Run]
    guide_name: str
    settings: dict[str, Any]
    data: dict[str, Any]
    prototype: Batch
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    train: Batch | None = field(default=None, repr=False)

    @property
    def best(self) -> Run:
        """The restart with the highest final ELBO."""
        return max(self.runs, key=lambda run: run.final_elbo)

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
        """Read a new table by the columns of the training table; ``labels=False`` where it has no targets."""
        columns = self.data.get("columns")
        if columns is None:
            raise ValueError("this fit was not trained on a data frame; build the Batch yourself")
        y = columns["y"] if labels else []
        batch = Batch.from_dataframe(df, unit=columns["unit"], x=columns["x"], y=y or None)
        if y:
            return batch
        blank = {name: torch.zeros(batch.n_rows, len(columns["y"])) for name in self.prototype.labels}
        masks = {name: np.zeros(batch.n_rows, bool) for name in self.prototype.labels}
        coords = {k: v for k, v in batch.coords.items() if k != "target"} | {"target": columns["y"]}
        return Batch.from_arrays(
            rows={"x": batch["x"], **blank}, groups={"unit": batch.group_names("unit")}, labels=masks, coords=coords,
            dims=batch.dims, **batch.info,
        )  # fmt: skip

    def prepare(self, batch: Batch, run: Run | None = None) -> Batch:
        """Bring a batch into the terms of the fit: group positions, group tables and support rows, device.

        Groups of the training data take their place and tables from there. Other groups need a guide that is
        amortised over them, which then reads this batch's own rows. Open groups of the model keep the tables they come
        with, and new ones are as good as known ones.

        Raises:
            KeyError: A group was not in the training data and the guide has parameters per group.
            ValueError: The batch has other names along a dimension, or is standardised otherwise.
        """
        run = run or self.best
        checked = {dim for dims in self.prototype.dims.values() for dim in dims}
        checked |= {f"{target}_class" for target in run.model.targets}
        for dim in checked & set(batch.coords):
            own, known = batch.coords[dim].tolist(), self.prototype.coords.get(dim, np.array([])).tolist()
            if own and known and own != known:
                raise ValueError(
                    f"{dim}: the batch has {own} where the fit was trained on {known}; give the same "
                    f"{'classes' if dim.endswith('_class') else 'columns'} in the same order"
                )
        own, known = (data.info.get("standardised") for data in (batch, self.prototype))
        if own != known:
            raise ValueError(
                f"standardised: the batch is standardised by {own} where the fit was trained on data standardised by "
                f"{known}; treat both alike"
            )
        amortized = getattr(run.guide, "amortized", ())
        for group in batch.groups:
            if not holds_group(run.model, group):
                continue
            known = self.prototype.coords[group]
            position = {name: i for i, name in enumerate(known.tolist())}
            new = [name for name in batch.coords[group].tolist() if name not in position]
            tables = {k: v for k, v in self.prototype.tensors.items() if self.prototype.along[k] == group}
            if not new:
                batch = batch.align(group, known).with_tables(group, tables)
            elif group in amortized:
                batch = with_support(run.guide, batch)
                places = [position.get(name, -1) for name in batch.coords[group].tolist()]
                support = {k: v for k, v in tables.items() if k.startswith("support_") and k in batch.tensors}
                batch = batch.with_tables(group, {k: _merged(batch.tensors[k], v, places) for k, v in support.items()})
            else:
                raise KeyError(
                    f"unknown {group}(s) {new[:5]}: the guide {self.guide_name!r} has a posterior only for the "
                    f"{len(known)} {group}s it was trained on; fit with a guide that is amortised over {group}s "
                    "('amortized' in this zoo), or include them in the training data"
                )
        tensor = reference_tensor(run.model)
        return batch if tensor is None else batch.to(device=tensor.device, dtype=tensor.dtype)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run directory, JSON and safetensors only; `overwrite` replaces an earlier one. See `pyrozoo.load`."""
        from .io import save

        return save(self, path, overwrite=overwrite)


def fit(
    model: ZooModel,
    guide: Any,
    train: Batch,
    *,
    seed: int = 0,
    restarts: int = 1,
    warm_start: Fit | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[dict[str, Any]], None] | None = None,
    valid: Batch | None = None,
    **settings: Any,
) -> Fit:
    """Fit a guide and the model's parameters to data by SVI, on fresh copies built under the seed.

    Nothing that is passed in changes: not the model, not a guide instance, not the caller's random state, parameter
    store or Pyro settings. The same arguments give bit-equal results on the same machine and thread count.

    With ``distributed=True``, in a script that ``torchrun`` starts several times, each process takes its share of
    every minibatch and all return the same fit; the first one shows the progress, calls back and writes checkpoints
    (into a folder that all of them see).

    Args:
        model: A model; its constructor arguments, not its parameters, are used.
        guide: Name of a guide of the entry, an AutoGuide class, a factory ``model -> guide module``, or a guide
            module, which is copied. A guide with ``solve(train)`` replaces SVI by that call.
        train: The training data; cast to the floating type of the model.
        seed: Of everything random.
        restarts: Number of independent fits; each is a chain of the posterior.
        warm_start: A fit of the same architecture whose weights to start from.
        checkpoint: Folder for a checkpoint per restart, written after every epoch.
        resume: Go on from the checkpoint: after an interruption at any moment the history and the weights are
            bit-identical to those of an uninterrupted run.
        progress: Show a progress bar with the ELBO and the time left.
        callback: Called after every epoch with its line of the history.
        valid: Validation data for early stopping, see ``patience``; groups take their place from `train` by name.
        **settings: The fields of `pyrozoo.training.Settings`, e.g. ``steps``, ``lr``, ``batch_size``; the model's own
            ``fit_defaults`` hold where nothing is given.

    Returns:
        The fit; after KeyboardInterrupt what there is so far, with status "interrupted".

    Raises:
        NonFiniteLoss: The loss or a gradient is not finite; names step and site; its ``fit`` is the last good state.
        KeyError: A group of `valid` is not in `train`, and the guide is not amortised over it.
        ValueError, TypeError: An argument does not fit the data or the model.
        RuntimeError: ``distributed=True`` in a process that ``torchrun`` did not start.
    """
    started = time.perf_counter()
    options = Settings.resolve(model, guide, settings).for_data(train)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=FOLDER")
    if restarts < 1:
        raise ValueError(f"restarts: {restarts}; at least 1 is needed")
    if settings.get("patience") is not None and valid is None:
        raise ValueError("patience needs validation data: give valid=BATCH, e.g. from train.split()")
    result = Fit([], guide_label(guide), options.as_json() | {"seed": seed}, identity(train), train, train=train)
    with joined(options.distributed, options.device) as processes:
        for index in range(restarts):
            own_seed = run_seed(seed, index)
            file = None if checkpoint is None else Path(checkpoint) / f"run-{index}.safetensors"
            if file is not None and file.exists() and not resume:
                raise ValueError(f"{file} is there already; resume=True goes on from it, or choose another folder")
            label = f"{type(model).__name__} x {result.guide_name}" + (
                f" {index + 1}/{restarts}" if restarts > 1 else ""
            )
            try:
                with isolated(own_seed):
                    run_model, run_guide = build(model, guide)
                    run = Run(own_seed, run_model, run_guide, pd.DataFrame(), "failed")
                    result.runs.append(run)
                    training = _prepared(result, run, train, valid, warm_start, options, file, processes)
                    if training is not None:
                        shown = label if progress and processes.first else None
                        train_run(training, run, resume, shown, callback if processes.first else None)
            except NonFiniteLoss as error:
                error.fit = result
                raise
            finally:
                result.seconds = time.perf_counter() - started
            if run.status == "interrupted":
                break
    return result


def _prepared(
    result: Fit, run: Run, train: Batch, valid: Batch | None, warm_start: Fit | None, options: Settings,
    file: Path | None, processes: Processes,
) -> Training | None:  # fmt: skip
    """The training of one restart, or None where its guide has been solved in closed form."""
    device = options.device or train.tensors[train.rows].device
    run.model.to(device)
    run.guide.to(device)
    run.model.check(train)
    data, reference = with_support(run.guide, train), reference_tensor(run.model)
    data = data.read_to(device=device, dtype=None if reference is None else reference.dtype)
    if len(result.runs) == 1:
        result.prototype = prototype_of(data, run.model)
    if warm_start is not None:
        few = data if data.on_disk is None else some_rows(run.model, run.guide, data)
        _warm(run.model, run.guide, warm_start, few)
    if hasattr(run.guide, "solve"):
        _solve(run, data, result)
        return None
    run_valid = None if valid is None else result.prepare(valid, run)
    return Training(run.model, run.guide, data, run_valid, options, run.seed, file, processes)


def holds_group(model: ZooModel, group: str) -> bool:
    """Whether something of the model belongs to the positions of a group, so that they must be those of the training.

    It has the group's plate, or asks for its index and does not say that the group is open.
    """
    taken = group in inspect.signature(model.forward).parameters
    return group in model.plate_dims or (taken and group not in model.open_groups)


def run_seed(seed: int, index: int) -> int:
    """Seed of one restart, chain or simulation among several."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def train_run(
    training: Training, run: Run, resume: bool = False, progress: str | None = None, callback: Callable | None = None
) -> None:
    """Train a restart to the end, keep its history also where that fails, and leave its modules ready for use."""
    try:
        run.status = training.run(resume=resume, progress=progress, callback=callback)
    finally:
        run.history = training.history
        run.model.eval()
        run.guide.eval()


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Local parameters and a random state of one's own; the caller's settings, store and RNG stay as they are."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), pyro.settings.context(module_local_params=True):
        torch.manual_seed(seed)
        yield


def build(model: ZooModel, guide: Any) -> tuple[ZooModel, nn.Module]:
    """Fresh model and guide, under whatever seed and settings hold now."""
    fresh = make_local(model.fresh())
    if isinstance(guide, nn.Module):
        return fresh, make_local(_copy(guide, {id(model): fresh}))
    made = registry.create_guide(fresh, guide)
    if not isinstance(made, nn.Module):
        raise TypeError(f"guide: the factory {guide_label(guide)} returned {type(made).__name__}; return a PyroModule")
    return fresh, made


def _copy(guide: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep copy; Pyro takes the model away from an AutoGuide, and from the original, when it is copied."""
    autos = {name: part for name, part in guide.named_modules() if isinstance(part, AutoGuide)}
    held = {name: (part._model, part.master) for name, part in autos.items()}
    traces = {id(part.prototype_trace): part.prototype_trace for part in autos.values()}  # never written to again
    try:
        new = copy.deepcopy(guide, memo | traces)
    finally:
        for name, part in autos.items():
            part._model, part.master = held[name]
    for name, part in new.named_modules():
        if name in held:
            part._model = (_rebound(held[name][0][0], memo),)
    return new


def _rebound(function: Any, memo: dict[int, Any]) -> Any:
    """The same function under the same handlers, on the objects that take the place of those in `memo`."""
    if id(function) in memo:
        return memo[id(function)]
    wrapped = getattr(function, "func", None)
    if isinstance(wrapped, functools.partial) and len(wrapped.args) == 2 and isinstance(wrapped.args[0], Messenger):
        handler, inner = wrapped.args
        return handler(_rebound(inner, memo))
    return function


def guide_label(guide: Any) -> str:
    """How a guide is named in records: names of the zoo and of Pyro as they are, one's own marked as such."""
    if isinstance(guide, str):
        return guide
    if isinstance(guide, type) and issubclass(guide, AutoGuide):
        return guide.__name__
    return f"{getattr(guide, '__name__', type(guide).__name__)} (own)"


def reference_tensor(model: ZooModel) -> torch.Tensor | None:
    """A tensor that has the device and the floating type of the model."""
    return next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), None)


def _merged(own: torch.Tensor, known: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Support rows of new data's groups, shape (M, S, ...), of which those with a place in `known` are taken there."""
    out = own.new_zeros(len(own), max(own.shape[1], known.shape[1]), *own.shape[2:])
    out[:, : own.shape[1]] = own
    for i, place in enumerate(places):
        if place >= 0:
            out[i] = 0
            out[i, : known.shape[1]] = known[place]
    return out


def prototype_of(train: Batch, model: ZooModel) -> Batch:
    """One training row with all group tables and names, see `Fit`.

    Of an open group only the row's own: nothing of the others is needed later.
    """
    row = train.take([0])
    tensors, sizes = dict(row.tensors), dict(row.sizes)
    coords = {k: v for k, v in row.coords.items() if k != train.rows}
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
        "columns": train.info.get("columns"),
    }


def _warm(model: ZooModel, guide: nn.Module, source: Fit, train: Batch) -> None:
    materialise(model, guide, train)
    for own, other in ((model, source.model), (guide, source.guide)):
        own.load_state_dict(other.state_dict())


def _solve(run: Run, train: Batch, result: Fit) -> None:
    run.guide.solve(train)
    loss = Loss(run.model, run.guide, run.model.elbo(run.guide, train))
    site = bad_site(loss, train)
    if site:
        error = NonFiniteLoss(f"the closed-form fit is not finite{site}; look for NaN in the data")
        error.fit = result
        raise error
    materialise(run.model, run.guide, train)
    with torch.no_grad():
        elbo = -loss.value(train)
    run.history = pd.DataFrame([{"epoch": 0, "step": 0, "elbo": elbo / train.sizes[train.rows]}])
    run.status = "solved"
