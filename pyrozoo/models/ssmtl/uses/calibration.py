"""Calibration of new units with frozen networks (section 6.3, figure 11)."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor

from ....data.batch import Batch, require_batch
from ....inference.copies import isolated
from ....inference.fit import train_run
from ....inference.fitted import Fit, Run, identity, prototype_of
from ....inference.loop import Training
from ....inference.losses import NonFiniteLoss
from ....inference.settings import Settings
from ....modeling.base import ZooModel
from ....modeling.guides import declared
from ..guides import C_SCALE, ContextGuide, PaperGuide
from .objective import ROWS_AT_ONCE, require_finite, unit_objective

MODES = ("supervised", "unsupervised", "semi-supervised")
PAPER_VARIANCE, PAPER_STEPS, PAPER_RATE = 0.1, 100, 1e-4
SCREEN_DRAWS, CHOICE_DRAWS = 4, 32  # draws per objective: to screen many candidates, to choose among the best


@dataclass(repr=False)
class CalibratedFit(Fit):
    """A `Fit` to new units with the networks of an earlier fit; every function that takes a fit accepts it.

    Attributes:
        units: One line per unit; `calibrate` and `refine` list the columns they make. Not saved with the fit.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import calibrate, simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=10, n_test=1)
        >>> new, test = simulate(n_units=2, n_labelled=3, n_unlabelled=10, n_test=5, seed=1)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> calibrated = calibrate(fit, new, steps=5, progress=False)
        >>> isinstance(calibrated, zoo.Fit)
        True
        >>> zoo.predict(calibrated, test).shape[0]
        10
    """

    units: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)


def calibrate(
    fit: Fit, data: Batch, *, mode: str = "semi-supervised", method: str = "robust", start: Any = None,
    alpha: float | None = None, starts: int = 3, candidates: int = 64, steps: int = 100, lr: float = 0.1,
    particles: int = 1, batch_size: int = ROWS_AT_ONCE, seed: int = 0, progress: bool = True,
) -> CalibratedFit:  # fmt: skip
    """Learn the contexts q(c_i) of new units from their own rows, while all networks of `fit` stay frozen.

    The objective of unit i is its share of N times eq. 20, with its own numbers of rows: the ELBO of its rows plus
    alpha N_i / N_i^l times the sum of log q(y | x, c_i) over its labelled rows. With frozen networks no term depends on
    two units, so that calibrating units together equals calibrating each alone.

    Args:
        fit: Fit of SSMTL or MTL with any guide of the zoo, of which the best restart is used.
        data: Rows of the new units, which may have any names. A unit of the training data is calibrated from scratch.
        mode: Rows to use: "supervised" (labelled), "unsupervised" (unlabelled) or "semi-supervised" (all). MTL allows
            only "supervised".
        method: "robust": Adam on mean and log scale from several starts, of which each unit keeps the one with the
            best objective. Candidates for a start are the posterior means of the trained units (where the networks are
            good) and the middle of the prior; the best few by objective are optimised.
            "paper" (section 6.3, appendix A): only the mean is learned, from 0, with the variance fixed at 0.1, by 100
            epochs of SGD with rate 1e-4 on eq. 20 (a mean over the unit's rows). An epoch is one step on all rows
            here, which the paper does not say. The variance is far from that of trained contexts, and the mean ends far
            from the optimum.
        start: Start of the mean ("paper"), or one more candidate ("robust"): numbers of shape (K,) or (M, K). For its
            real data the paper takes the average context of the units of the same field.
        alpha: Weight of the labelled rows' log q(y | x, c); that of the model by default. With 0, the ELBO itself, many
            unlabelled rows outweigh the labels: the context is more certain and the prediction worse. The fit that is
            returned keeps this alpha.
        starts: Number of candidates that are optimised.
        candidates: Largest number of trained units that serve as candidates, chosen at random.
        steps: Number of steps of Adam.
        lr: Initial learning rate of Adam; it falls linearly.
        particles: Number of draws of the objective per step.
        batch_size: Largest number of rows in a step, where each row counts once per start.
        seed: Random seed for the starts and all draws.
        progress: Show a progress bar.

    Returns:
        A fit with the guide "paper", whose training data are the rows of `data` that were used. Columns of ``units``:
        labelled, unlabelled (numbers of rows used), objective (nats) and, for "robust", lead (nats from the objective
        of the best start to that of the next best: near 0 if both reached the same optimum; NaN for a single start).

    Raises:
        ValueError: Data that do not fit the networks, an unknown mode or method, or a unit without a row to use, which
            would get its prior as if that were a calibration.
        TypeError: `data` is not a Batch, or `start` not an array of numbers.
        NonFiniteLoss: A loss is not finite; its ``fit`` is the last good state.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import calibrate, simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=10, n_test=1)
        >>> new, test = simulate(n_units=2, n_labelled=3, n_unlabelled=10, n_test=5, seed=1)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> calibrated = calibrate(fit, new, mode="semi-supervised", steps=5, progress=False)
        >>> calibrated.units[["labelled", "unlabelled"]]
              labelled  unlabelled
        unit
        0            3          10
        1            3          10
        >>> zoo.predict(calibrated, test)["y.mean"].shape
        (10,)
    """
    if method not in ("robust", "paper"):
        raise ValueError(f"method: {method!r} is none of ['robust', 'paper']")
    for name, number in (("starts", starts), ("candidates", candidates), ("steps", steps), ("particles", particles),
                         ("batch_size", batch_size)):  # fmt: skip
        if number < 1:
            raise ValueError(f"{name}: {number}; at least 1 is needed")
    if lr <= 0 or (alpha is not None and alpha < 0):
        raise ValueError(f"lr {lr} must be positive, alpha {alpha} must not be negative")
    require_batch("data", data)
    started = time.perf_counter()
    train = _rows_of(fit.model, data, mode)
    settings = {"mode": mode, "method": method, "alpha": alpha, "seed": seed}
    with isolated(seed):
        found = _candidates(fit, candidates) if method == "robust" else None  # first: the same whatever the units
        model, guide = frozen(fit, train.sizes["unit"], alpha)
        train = train.to(device=model.x_loc.device, dtype=model.x_loc.dtype)
        batch = _with_shares(train)
        run = Run(seed, model, guide, pd.DataFrame(), "failed")
        result = _as_fit(fit, train, run, "paper", settings)
        begin = None if start is None else _start(start, guide.c_loc)
        bar = f"calibrate {len(guide.c_loc)} units" if progress else None
        try:
            if method == "paper":
                _paper(run, batch, begin, bar)
            else:
                options: dict[str, Any] = {"steps": steps, "lr": lr, "particles": particles, "batch_size": batch_size}
                options |= {"schedule": "linear", "groups": "all"}
                settings |= {**options, "starts": starts, "candidates": candidates}
                assert found is not None
                means = [*found[0], *([] if begin is None else [begin])]
                enlarged = functools.partial(frozen, fit, alpha=alpha)
                columns = _robust(run, batch, means, found[1], starts, Settings(**options), enlarged, bar)
                result.units = result.units.assign(**columns)
            objective = unit_objective(run, batch, guide.c_loc, guide.c_log_scale, CHOICE_DRAWS)
            result.units["objective"] = require_finite(objective, train).cpu().numpy()
        except NonFiniteLoss as error:
            error.fit = result
            raise
    result.seconds = time.perf_counter() - started
    return result


# -------------------------------------------------------------------- data and modules
def _rows_of(model: ZooModel, data: Batch, mode: str) -> Batch:
    """Return the rows of `data` that a mode uses, or raise an error if they do not fit the model."""
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r} is none of {list(MODES)}")
    if "c" not in model.priors() or not model.y_dim:
        raise ValueError(f"fit: {type(model).__name__} has no context c, or no target y, to calibrate")
    if not model.row_sites and mode != "supervised":
        raise ValueError(f"mode: {mode!r} needs a model of x, which {type(model).__name__} is not; use 'supervised'")
    if "y" not in data.tensors and mode == "unsupervised":
        data = _without_targets(data, model.y_dim)
    if "y" not in data.labels or "unit" not in data.groups:
        raise ValueError("data: they need the group 'unit' and the target 'y', with NaN where it is not known")
    for name, size in (("x", model.x_dim), ("y", model.y_dim)):
        if data[name].shape[1:] != (size,):
            raise ValueError(f"{name}: shape {tuple(data[name].shape)}; the networks take (rows, {size})")
    seen = data.observed("y")
    used = {"supervised": seen, "unsupervised": ~seen}.get(mode, np.ones(data.n_rows, bool))
    count = np.bincount(data["unit"].cpu().numpy()[used], minlength=data.sizes["unit"])
    if (count == 0).any():
        kind = {"supervised": "labelled ", "unsupervised": "unlabelled "}.get(mode, "")
        name = data.coords["unit"][int((count == 0).argmax())]
        raise ValueError(f"unit {name}: it has no {kind}row, so {mode} calibration learns nothing of it; leave it out")
    return data.subset(np.flatnonzero(used))


def _without_targets(data: Batch, y_dim: int) -> Batch:
    """Add a target y that is observed in no row."""
    y, labelled = data["x"].new_zeros(data.n_rows, y_dim), torch.zeros_like(data["x"][:, 0], dtype=torch.bool)
    along = {**data.along, "y": data.rows, "labelled": data.rows}
    tensors = {**data.tensors, "y": y, "labelled": labelled}
    empty = dataclasses.replace(data, tensors=tensors, along=along, labels={"y": "labelled"})
    return empty.hide()  # which counts the rows with and without a label


def _with_shares(train: Batch) -> Batch:
    """Add ``head_weight``, N_i / N_i^l of each row's unit (1 if it has no label), the weight of its labelled rows."""
    unit, n = train["unit"], train.sizes["unit"]
    rows, labelled = torch.bincount(unit, minlength=n), torch.bincount(unit[train["labelled"]], minlength=n)
    share = torch.where(labelled > 0, rows / labelled.clamp(min=1), torch.ones(()).to(rows))
    tensors = {**train.tensors, "head_weight": share.to(train["x"])[unit]}
    return dataclasses.replace(train, tensors=tensors, along={**train.along, "head_weight": "row"})


def _start(start: Any, like: Tensor) -> Tensor:
    try:
        tensor = torch.as_tensor(start).to(like)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"start: {start!r} is no array of numbers") from None
    if not bool(tensor.isfinite().all()):
        raise ValueError("start: its numbers must be finite")
    if tensor.shape not in (like.shape, like.shape[1:]):
        raise ValueError(f"start: shape {tuple(tensor.shape)}; give {tuple(like.shape[1:])} or {tuple(like.shape)}")
    return tensor.expand_as(like)


def frozen(
    fit: Fit, n_units: int, alpha: float | None = None, guide: Callable[..., ContextGuide] = PaperGuide
) -> tuple[ZooModel, ContextGuide]:
    """Copy the networks of a fit, frozen, into a model and guide of `n_units` units whose q(c) can be learned."""
    source = fit.best
    config = copy.deepcopy(source.model.config) | {"n_units": n_units}
    if alpha is not None:
        if not hasattr(source.model, "alpha"):
            raise ValueError(f"alpha: {type(source.model).__name__} has no such term; leave it out")
        config["alpha"] = alpha
    model = type(source.model)(**config)
    model.entry = source.model.entry
    made = guide(model)
    for module in (model, made):
        module.to(device=source.model.x_loc.device, dtype=source.model.x_loc.dtype)
    model.load_state_dict(source.model.state_dict())
    local = declared(made, "local")
    if local is not None:
        networks = declared(source.guide, "local")
        if networks is None:
            raise TypeError(f"fit: its guide {fit.guide_name!r} has no row networks (.local) to calibrate with")
        local.load_state_dict(networks.state_dict())
        local.requires_grad_(False)
    model.requires_grad_(False)
    return model.eval(), made.eval()


def _as_fit(fit: Fit, train: Batch, run: Run, guide: str, settings: dict[str, Any]) -> CalibratedFit:
    prototype = prototype_of(train, run.model)
    strata = {k: fit.prototype.sizes.get(k, 0) + train.sizes[k] for k in train.strata}  # rows the networks have seen
    prototype = dataclasses.replace(prototype, sizes={**prototype.sizes, **strata})
    labelled = np.bincount(train["unit"].cpu().numpy()[train.observed("y")], minlength=train.sizes["unit"])
    total = np.bincount(train["unit"].cpu().numpy(), minlength=train.sizes["unit"])
    units = pd.DataFrame(
        {"labelled": labelled, "unlabelled": total - labelled}, pd.Index(train.names("unit"), name="unit")
    )
    return CalibratedFit([run], guide, settings, identity(train), prototype, train=train, units=units)


def context_draws(fit: Fit, draws: int) -> Tensor:
    """Draw the contexts of the units of a fit, (draws, M, K), from its guide."""
    run, batch = fit.best, fit.prepare(fit.prototype)
    arguments = run.model.arguments(batch)
    with torch.no_grad():
        if isinstance(run.guide, ContextGuide):
            own = {k: v for k, v in arguments.items() if k not in ("sizes", "unit_ids", "unit_weight")}
            return run.guide.contexts(arguments.get("unit_ids"), **own).sample((draws,))
        traces = (poutine.trace(run.guide).get_trace(**arguments) for _ in range(draws))
        return torch.stack([trace.nodes["c"]["value"] for trace in traces])


# -------------------------------------------------------------------- methods
def _paper(run: Run, batch: Batch, start: Tensor | None, progress: str | None) -> None:
    guide = cast(PaperGuide, run.guide)
    with torch.no_grad():
        guide.c_loc.copy_(torch.zeros_like(guide.c_loc) if start is None else start)
        guide.c_log_scale.fill_(0.5 * math.log(PAPER_VARIANCE))
    guide.c_log_scale.requires_grad_(False)
    # eq. 20 is a mean over the rows of a unit that is calibrated alone; the loss is N_i times that mean.
    rows = torch.bincount(batch["unit"], minlength=len(guide.c_loc))[:, None]
    hook = guide.c_loc.register_hook(lambda gradient: gradient / rows)
    _train(run, batch, Settings(steps=PAPER_STEPS, lr=PAPER_RATE, optimizer=torch.optim.SGD), progress)
    hook.remove()
    guide.c_log_scale.requires_grad_(True)


def _train(run: Run, batch: Batch, options: Settings, progress: str | None) -> None:
    train_run(Training(run.model, run.guide, batch, None, options, run.seed, None), run, progress=progress)


def _candidates(fit: Fit, most: int) -> tuple[list[Tensor], Tensor]:
    """Candidates for the start of the mean, (1, K) each, and the median scale of the trained contexts, (K,)."""
    drawn = context_draws(fit, 100)
    means, scale = drawn.mean(0), drawn.std(0).median(0).values
    means = means[torch.randperm(len(means))[:most].to(means.device)]
    floor = torch.full_like(scale, C_SCALE)  # a point estimate has no scale
    return [*means[:, None], _middle(fit.model.prior("c"))[None]], torch.where(scale > 0, scale, floor)


def _middle(prior: Distribution) -> Tensor:
    """Mean of the prior, (K,), or the median of draws if the mean is unknown or not finite (StudentT(1), a flow)."""
    try:
        mean = prior.mean
    except NotImplementedError:
        mean = None
    if mean is not None and bool(mean.isfinite().all()):
        return mean
    return torch.stack([prior.sample() for _ in range(101)]).median(0).values


def _robust(
    run: Run, batch: Batch, candidates: list[Tensor], scale: Tensor, starts: int, options: Settings,
    enlarged: Callable[..., tuple[ZooModel, ContextGuide]], progress: str | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Optimise the best candidates of every unit as separate units of one run, and keep each unit's best result."""
    guide = cast(PaperGuide, run.guide)
    with torch.no_grad():
        guide.c_log_scale.copy_(scale.log().expand_as(guide.c_log_scale))
        means = torch.stack([mean.expand_as(guide.c_loc) for mean in candidates])
        before = torch.stack([unit_objective(run, batch, mean, guide.c_log_scale, SCREEN_DRAWS) for mean in means])
    starts = min(starts, len(means))
    best = before.nan_to_num(-math.inf).topk(starts, 0).indices[..., None].expand(-1, -1, means.shape[-1])
    model, joint = enlarged(n_units=starts * len(guide.c_loc))
    many = Run(run.seed, model, joint, pd.DataFrame(), "failed")
    with torch.no_grad():
        joint.c_loc.copy_(means.gather(0, best).flatten(0, 1))
        joint.c_log_scale.copy_(guide.c_log_scale.repeat(starts, 1))
    tiled = _tile(batch, starts)
    assert isinstance(options.batch_size, int)
    size = None if options.batch_size >= tiled.n_rows else options.batch_size
    _train(many, tiled, dataclasses.replace(options, batch_size=size), progress)
    run.history, run.status = many.history, many.status
    ends = [table.unflatten(0, (starts, -1)) for table in (joint.c_loc, joint.c_log_scale)]
    after = torch.stack([unit_objective(run, batch, m, s, CHOICE_DRAWS) for m, s in zip(*ends, strict=True)])
    order = after.nan_to_num(-math.inf).sort(0, descending=True)
    chosen = order.indices[0][None, :, None].expand(1, -1, means.shape[-1])
    with torch.no_grad():
        for table, end in zip((guide.c_loc, guide.c_log_scale), ends, strict=True):
            table.copy_(end.gather(0, chosen)[0])
    lead = order.values[0] - order.values[1] if starts > 1 else torch.full_like(order.values[0], torch.nan)
    return {"lead": lead.cpu().numpy()}


def _tile(batch: Batch, times: int) -> Batch:
    """Repeat all rows `times` times, giving each copy new unit indices."""
    n, m = batch.n_rows, batch.sizes["unit"]
    copy_of = torch.arange(times, device=batch["unit"].device).repeat_interleave(n)
    tiled = batch.take(torch.arange(n).repeat(times))
    tensors = {k: v for k, v in tiled.tensors.items() if tiled.along[k] == "row"}
    tensors |= {"unit": tiled["unit"] + m * copy_of, "row": torch.arange(n * times, device=copy_of.device)}
    sizes = {k: v * times for k, v in batch.sizes.items()}
    return dataclasses.replace(tiled, tensors=tensors, sizes=sizes, coords={}, truth={})
