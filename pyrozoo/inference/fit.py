"""fit(): stochastic variational inference on fresh copies of a model and guide."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..data.batch import Batch
from ..data.tables import described
from ..files import check_target, reserved
from ..modeling.base import ZooModel
from ..modeling.checks import fault_at_once, forgotten_latents, require_complete, require_sizes, require_structure
from ..modeling.guides import declared, with_support
from ..modeling.hidden import UNOBSERVED, public_name
from ..store.batches import names_to_json
from .aligning import holds_group
from .copies import build, copied, guide_label, isolated, reference_tensor, run_seed, without_denormals
from .distributed import Processes, joined
from .fitted import Fit, Run, identity, prototype_of
from .loop import Training
from .losses import NO_DISTRIBUTION, Loss, NonFiniteLoss, bad_site, materialise
from .minibatches import some_rows
from .settings import Settings, plain_number, whole
from .warm import check_tables
from .warm import warm_start as start_from


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
    every minibatch and all return the same fit; the first process shows the progress, calls `callback` and writes
    checkpoints (into a folder that all processes can read).

    Args:
        model: A model; its constructor arguments, not its parameters, are used.
        guide: Name of a guide of the entry, an AutoGuide class, a factory ``model -> guide module``, or a guide
            module, which is copied. A guide with ``solve(train)`` replaces SVI by that call.
        train: The training data; cast to the floating type of the model.
        seed: Random seed for initial weights, minibatches and draws of the latents.
        restarts: Number of independent fits; each is a chain of the posterior.
        warm_start: A fit of the same architecture whose weights are the initial ones. Groups are matched by name: a
            group that it does not know starts from its fresh initial values; other columns are refused.
        checkpoint: Folder for a checkpoint per restart, written after every epoch.
        resume: Whether to continue from the checkpoint: after an interruption at any moment the history and the weights
            are bit-identical to those of an uninterrupted run. A finished fit is trained longer by more ``steps`` (or
            ``epochs``): optimiser, history and random states go on, and a schedule follows the new total. With a
            constant learning rate the result is that of one long run, if the first one ended with a whole epoch.
        progress: Whether to show a progress bar with the ELBO and the time left.
        callback: Function called after every epoch with that epoch's line of the history.
        valid: Validation data for early stopping, see ``patience``; groups are matched to those of `train` by name.
        **settings: Fields of `Settings`, where all are described: ``steps`` or ``epochs``, ``batch_size``, ``lr``,
            ``schedule``, ``anneal``, ``clip``, ``patience``, ``particles``, ``groups``, ``device``, ``compile`` and
            others; by default those of the model's ``fit_defaults``.

    Returns:
        The fit; after KeyboardInterrupt the fit as it is so far, with status "interrupted".

    Raises:
        NonFiniteLoss: The loss or a gradient is not finite; the message names step and site, and ``error.fit`` is the
            last good state; with a checkpoint, ``resume=True`` goes on from it with another ``lr``, ``lr_groups``,
            ``clip`` or ``schedule``.
        KeyError: A group of `valid` is not in `train`, and the guide is not amortised over it.
        ValueError, TypeError: An argument does not fit the data or the model.
        OSError: The checkpoint's folder cannot be made, or another fit is using it.
        RuntimeError: ``distributed=True`` in a process that ``torchrun`` did not start.

    Example:
        >>> import pyrozoo as zoo
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(500))
        >>> model = zoo.create_model("ssmtl", data)
        >>> fit = zoo.fit(model, "amortized", data, steps=20, restarts=2, progress=False)
        >>> fit.status, len(fit.runs), int(fit.history["step"].max())
        ('finished', 2, 20)
    """
    started = time.perf_counter()
    for what, data in (("train", train), ("valid", valid)):
        if not isinstance(data, Batch) and not (what == "valid" and data is None):
            raise TypeError(
                f"{what}: a {described(data)}; give a Batch, of a data frame "
                "zoo.Batch.from_dataframe(df, unit=COLUMN, x=[COLUMNS], y=COLUMN)"
            )
    for what, value, wanted, fits in (
        ("warm_start", warm_start, "a Fit", isinstance(warm_start, Fit)),
        (
            "checkpoint",
            checkpoint,
            "a folder",
            isinstance(checkpoint, str | os.PathLike) and os.fspath(checkpoint) != "",
        ),
        ("callback", callback, "a function of an epoch's line", callable(callback)),
    ):
        if value is not None and not fits:
            raise TypeError(f"{what}: {value!r}; give {wanted}")
    seed, restarts = whole("seed", plain_number(seed), 0), whole("restarts", plain_number(restarts), 1)
    options = Settings.resolve(model, guide, settings).for_data(train)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=FOLDER")
    if settings.get("patience") is not None and valid is None:
        raise ValueError("patience needs validation data: give valid=BATCH, e.g. from train.split()")
    _check_names(model, train)
    if checkpoint is not None:
        check_target(checkpoint)
    result = Fit([], guide_label(guide), options.as_json() | {"seed": seed}, identity(train), train, train=train)
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(joined(options.distributed, options.device))
        if checkpoint is not None and processes.first:
            stack.enter_context(reserved(checkpoint))
        for index in range(restarts):
            own_seed = run_seed(seed, index)
            file = None if checkpoint is None else Path(checkpoint) / f"run-{index}.safetensors"
            if file is not None and file.exists() and not resume:
                raise ValueError(f"{file} is there already; resume=True goes on from it, or choose another folder")
            label = f"{type(model).__name__} x {result.guide_name}" + (
                f" {index + 1}/{restarts}" if restarts > 1 else ""
            )
            try:
                with isolated(own_seed), without_denormals():
                    run_model, run_guide = build(model, guide)
                    run = Run(own_seed, run_model, run_guide, pd.DataFrame(), "failed")
                    result.runs.append(run)
                    training = _prepared(result, run, train, valid, warm_start, options, file, processes)
                    if training is not None:
                        shown = label if progress and processes.first else None
                        train_run(training, run, resume, shown, callback if processes.first else None)
                        _finish(run, training.train)
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
    """The training of one restart, or None if its guide has been solved in closed form."""
    device = options.device or train.tensors[train.rows].device
    run.model.to(device)
    run.guide.to(device)
    require_complete(run.model, train)
    run.model.check_values(train)
    run.model.check(train)
    require_sizes(run.model, train)
    check_tables(run.guide, train)
    data, reference = with_support(run.guide, train), reference_tensor(run.model)
    data = data.read_to(device=device, dtype=None if reference is None else reference.dtype)
    if len(result.runs) == 1:
        result.prototype = prototype_of(data, run.model)
        few = some_rows(run.model, run.guide, data)
        require_structure(run.model, few, data)
        _require_covered(run, few)
    if warm_start is not None:
        few = data if data.on_disk is None else some_rows(run.model, run.guide, data)
        start_from(run.model, run.guide, warm_start, few, train)
    if declared(run.guide, "solve"):
        _solve(run, data, result)
        return None
    run_valid = None if valid is None else result.prepare(valid, run)
    return Training(run.model, run.guide, data, run_valid, options, run.seed, file, processes)


def _require_covered(run: Run, few: Batch) -> None:
    """Refuse a guide that forgets latents, and enumerated sites that are not right for all values at once.

    A copy of the guide is run, which leaves its parameters as they are.
    """
    forgotten: list[str] = []
    cause = ""
    guide = copied(run.guide, {id(run.model): run.model})
    with contextlib.suppress(*NO_DISTRIBUTION):  # of data that are not finite; training names the site
        forgotten = forgotten_latents(run.model, guide, few)
        if run.model.enumerated and not forgotten:
            cause = fault_at_once(run.model, guide, few)
    halves = [public_name(name) for name in forgotten if name.endswith(UNOBSERVED)]
    if halves:
        raise ValueError(
            f"guide: it does not sample {forgotten}; obs_mask makes latents of the hidden entries of {halves}, so "
            "sample these in the guide, or give the site a mask instead (poutine.mask, .mask), which hides them; known "
            "values of an enumerated site are a pyro.factor"
        )
    if forgotten:
        raise ValueError(
            f"guide: it does not sample {forgotten}, latents of the model; sample each of them in the guide, or list "
            "those that are summed out in the model's `enumerated`"
        )
    if cause:
        raise ValueError(f"{type(run.model).__name__}: {cause}")


def _check_names(model: ZooModel, train: Batch) -> None:
    """Refuse names of groups that could not be saved after the training."""
    for group in train.groups:
        if holds_group(model, group):
            columns = train.info.get("columns") or {}
            what = f"column {columns[group]!r}," if group in columns else group
            names_to_json(what, train.coords[group])


def train_run(
    training: Training, run: Run, resume: bool = False, progress: str | None = None, callback: Callable | None = None
) -> None:
    """Train a restart to the end, keep its history even if that fails, and switch its modules to evaluation mode."""
    try:
        run.status = training.run(resume=resume, progress=progress, callback=callback)
    finally:
        run.history = training.history
        run.model.eval()
        run.guide.eval()


def _finish(run: Run, train: Batch) -> None:
    finish = declared(run.guide, "finish")
    if finish is None or run.status not in ("finished", "stopped early"):
        return
    if train.on_disk is not None:
        raise ValueError(f"guide: {type(run.guide).__name__} needs the data in memory to finish; read a part of them")
    finish(run.model, train)


def _solve(run: Run, train: Batch, result: Fit) -> None:
    declared(run.guide, "solve")(train)
    loss = Loss(run.model, run.guide, run.model.elbo())
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
