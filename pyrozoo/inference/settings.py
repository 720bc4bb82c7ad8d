"""Settings of a fit: names, defaults, checks."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..data.batch import Batch
from ..modeling.base import ZooModel
from .compiling import MODES

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - 0.98 * progress,
    "cosine": lambda progress: 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress)),
}


class _WithoutCompilers(torch.optim.Optimizer):
    """Methods of an optimiser without what torch wraps around them for compilers, which takes a second to import."""

    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class AdamW(_WithoutCompilers, torch.optim.AdamW):
    """torch's AdamW without compilers."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Adam(_WithoutCompilers, torch.optim.Adam):
    """torch's Adam without compilers; a fused one steps by its kernel alone, in half the time of a small network."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """As torch's Adam: the same numbers and state."""
        if closure is None and self._step_by_kernel():
            return None
        return inspect.unwrap(torch.optim.Adam.step)(self, closure)

    def _step_by_kernel(self) -> bool:
        """Whether it was done: not where parameters have no state yet, before a first step, or are of several types."""
        if any(not group["fused"] or group["amsgrad"] or group["maximize"] for group in self.param_groups):
            return False
        groups = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        states = [[self.state.get(p, {}) for p in group] for group in groups]
        if not all(map(all, states)) or len({p.dtype for group in groups for p in group}) > 1:
            return False
        for options, params, own in zip(self.param_groups, groups, states, strict=True):
            if params:
                first, second, steps = ([state[name] for state in own] for name in ("exp_avg", "exp_avg_sq", "step"))
                beta1, beta2 = options["betas"]
                torch._foreach_add_(steps, 1)
                torch._fused_adam_(
                    params, [p.grad for p in params], first, second, [], steps, lr=options["lr"], beta1=beta1,
                    beta2=beta2, weight_decay=options["weight_decay"], eps=options["eps"], amsgrad=False,
                    maximize=False,
                )  # fmt: skip
        return True


FUSED_ADAM = functools.partial(Adam, fused=True)
INTERNAL = {"lenient_groups", "default_strata", "default_size", "given_lr"}
GROUPS = ("auto", "all", "present")


def without_single(batch_size: int, n_rows: int) -> int:
    """The batch size, one larger where it leaves a single row for the last step, which has no batch statistics."""
    return batch_size + (n_rows % batch_size == 1)


@dataclass
class Settings:
    """Settings of a fit, given as keyword arguments of `pyrozoo.fit`.

    Attributes:
        steps: Number of optimiser steps; give either this or `epochs`.
        epochs: Number of passes over the data (over the largest stratum of a stratified minibatch).
        least_steps: Number of steps below which `epochs` is raised: few data have few minibatches to an epoch. A
            model's default, which does not hold where the caller gives `steps` or `epochs`.
        batch_size: Number of rows per step, drawn without replacement in each epoch; None for all; or stratum -> rows
            per step, where None takes the whole stratum in every step and 0 leaves it out (if the objective does not
            use it). Each stratum gets its exact scale.
        groups: "all": every step has the latents of all groups (exact, and slow with very many groups); "present":
            only those of the groups in the minibatch, weighted so that the ELBO stays unbiased, with lazy Adam updates
            (`torch.optim.SparseAdam`) of their parameters, so that a step's cost does not depend on the number of
            groups; "auto": "present" from 20,000 groups on, if the guide has tables per group (``sparse``), the
            optimiser is the default and every group has rows in the strata of the minibatches.
        particles: Number of samples of the ELBO per step, vectorised.
        lr: Learning rate.
        lr_groups: Pattern of parameter names (``"guide.c_*"``) -> learning rate; the last match counts.
        schedule: "constant", "linear" (to 2 %), "cosine" (to 1 %) or a function of the progress in [0, 1] that
            multiplies every learning rate.
        anneal: Weight of the annealed sites' log densities: a number of epochs over which it rises linearly to 1,
            or a function of the progress in [0, 1]; None for no annealing.
        anneal_sites: Names of the sites to anneal; by default every latent that the guide samples.
        clip: Maximum norm of the gradient; None for no clipping.
        patience: Number of epochs without a better validation ELBO before stopping; the best weights are kept.
        valid_particles: Number of samples of the validation ELBO.
        optimizer: Function ``parameter groups -> torch optimiser``.
        device: Device for training, e.g. "cuda"; None for that of the data.
        compile: "none": Pyro runs at every step. "graph" and "inductor": its tensor operations, from the rows of the
            minibatch to the clipped gradients, are captured once and replayed or compiled, see `pyrozoo.CompiledLoss`
            for what can be captured; where that cannot be done, the fit runs eagerly and a warning says why. "auto":
            the mode that pays off for the number of steps of the whole fit.
        distributed: Whether this is one of several processes that ``torchrun`` started, which share every minibatch.
            A minibatch that cannot be divided evenly (the ragged last one) is computed by all of them.
        validate: Pyro's and torch's validation: True always, False never, None in the first epoch (a bad argument
            shows at once; a non-finite loss is still caught later).
    """

    steps: int | None = None
    epochs: int | None = None
    least_steps: int | None = None
    batch_size: int | Mapping[str, int | None] | None = None
    groups: str = "auto"
    particles: int = 1
    lr: float = 1e-3
    lr_groups: Mapping[str, float] | None = None
    schedule: str | Callable[[float], float] = "constant"
    anneal: int | Callable[[float], float] | None = None
    anneal_sites: tuple[str, ...] | None = None
    clip: float | None = None
    patience: int | None = None
    valid_particles: int = 4
    optimizer: Callable[[list], torch.optim.Optimizer] = FUSED_ADAM
    device: str | None = None
    compile: str = "none"
    distributed: bool = False
    validate: bool | None = None
    lenient_groups: bool = dataclasses.field(default=False, repr=False)
    default_strata: bool = dataclasses.field(default=False, repr=False)
    default_size: bool = dataclasses.field(default=False, repr=False)
    given_lr: bool = dataclasses.field(default=False, repr=False)

    def for_data(self, train: Batch) -> Settings:
        """Settings for these data.

        Without strata, the default batch size by stratum becomes a plain number. A default leaves no single row for the
        last step of an epoch, see `without_single`.
        """
        if not train.strata and self.default_strata:
            assert isinstance(self.batch_size, Mapping)
            return dataclasses.replace(self, batch_size=sum(size or 0 for size in self.batch_size.values()) or None)
        if self.default_size and isinstance(self.batch_size, int):
            return dataclasses.replace(self, batch_size=without_single(self.batch_size, train.n_rows))
        return self

    @classmethod
    def resolve(cls, model: ZooModel, guide: Any, given: Mapping[str, Any]) -> Settings:
        """Combine the model's ``fit_defaults`` with the caller's settings, and check names and combinations.

        Args:
            model: The model.
            guide: The guide as given to `pyrozoo.fit`.
            given: Settings of the caller.

        Raises:
            TypeError: A setting does not exist.
            ValueError: A setting has an invalid value, or two exclude each other.
        """
        names = {f.name for f in dataclasses.fields(cls)} - INTERNAL
        unknown = sorted(set(given) - names)
        if unknown:
            raise TypeError(f"fit() has no argument {unknown}; settings are {sorted(names)}")
        if given.get("steps") is not None and given.get("epochs") is not None:
            raise ValueError("give either steps or epochs, not both")
        defaults = dict(getattr(model, "fit_defaults", {}))
        if "steps" in given or "epochs" in given:
            defaults = {k: v for k, v in defaults.items() if k not in ("steps", "epochs", "least_steps")}
        checked = {name: plain_setting(name, value) for name, value in {**defaults, **given}.items()}
        options = cls(**checked, lenient_groups="lr_groups" not in given, given_lr="lr" in given)
        options.default_strata = "batch_size" not in given and isinstance(options.batch_size, Mapping)
        options.default_size = "batch_size" not in given and isinstance(options.batch_size, int)
        if options.steps is None and options.epochs is None:
            options.steps = 1000
        if isinstance(options.schedule, str) and options.schedule not in SCHEDULES:
            raise ValueError(f"schedule: {options.schedule!r} is none of {sorted(SCHEDULES)}")
        if options.compile not in MODES:
            raise ValueError(f"compile: {options.compile!r} is none of {list(MODES)}")
        if options.groups not in GROUPS:
            raise ValueError(f"groups: {options.groups!r} is none of {list(GROUPS)}")
        if isinstance(options.batch_size, Mapping) and "weight" not in inspect.signature(model.forward).parameters:
            raise ValueError(
                f"batch_size by stratum: {type(model).__name__} takes no row weights (enumerated sites allow only one "
                "scale); use a plain number of rows"
            )
        return options

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON can hold them, functions by their names."""

        def plain(value: Any) -> Any:
            if isinstance(value, functools.partial):
                return f"{value.func.__name__}({', '.join(f'{k}={v}' for k, v in value.keywords.items())})"
            if callable(value):
                return getattr(value, "__qualname__", type(value).__name__)
            return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value

        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in INTERNAL}


COUNTS = {
    "steps": 1, "epochs": 1, "least_steps": 1, "batch_size": 1, "particles": 1, "patience": 1, "valid_particles": 1,
    "anneal": 0,
}  # fmt: skip


def plain_setting(name: str, value: Any) -> Any:
    """Check the type and range of a setting, and convert numbers of NumPy and torch and devices to Python's own types.

    Raises:
        TypeError: A value of another type; the message names the setting.
        ValueError: A number out of range.
    """
    value = plain_number(value)
    if value is None:
        if name in ("lr", "groups", "particles", "valid_particles", "schedule", "optimizer", "compile", "distributed"):
            raise TypeError(f"{name}: None; leave it out for the default")
        return None
    if name in COUNTS and not (name == "anneal" and callable(value)):
        if name == "batch_size" and isinstance(value, Mapping):
            return {k: None if v is None else whole(f"{name}[{k!r}]", plain_number(v), 0) for k, v in value.items()}
        return whole(name, value, COUNTS[name])
    if name == "lr":
        return _rate(name, value)
    if name == "lr_groups":
        if not isinstance(value, Mapping):
            raise TypeError(f"lr_groups: a {type(value).__name__}; give a mapping, pattern -> learning rate")
        return {pattern: _rate(f"lr_groups[{pattern!r}]", plain_number(rate)) for pattern, rate in value.items()}
    if name == "clip":
        if _real(name, value) <= 0:
            raise ValueError(f"clip: {value}; a positive norm is needed, or None")
        return float(value)
    if name == "device":
        return _device(value)
    if name == "anneal_sites":
        if isinstance(value, str) or not all(isinstance(site, str) for site in value):
            raise TypeError(f"anneal_sites: {value!r}; give a tuple of names of sites")
        return tuple(value)
    if name in ("validate", "distributed") and not isinstance(value, bool):
        raise TypeError(f"{name}: {value!r}; give True or False")
    if name == "schedule" and not isinstance(value, str) and not callable(value):
        raise TypeError(f"schedule: a {type(value).__name__}; give a name of {sorted(SCHEDULES)} or a function")
    if name == "optimizer" and not callable(value):
        raise TypeError(f"optimizer: a {type(value).__name__}; give a function, parameter groups -> optimiser")
    return value


def plain_number(value: Any) -> Any:
    """A scalar of NumPy or torch as Python's own number; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def whole(name: str, value: Any, least: int) -> int:
    """The value if it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: {value!r}; a whole number is needed")
    if value < least:
        raise ValueError(f"{name}: {value}; at least {least} is needed")
    return value


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: {value!r}; a number is needed")
    if not math.isfinite(value):
        raise ValueError(f"{name}: {value}; a finite number is needed")
    return float(value)


def _rate(name: str, value: Any) -> float:
    if _real(name, value) < 0:
        raise ValueError(f"{name}: {value}; a learning rate is not negative")
    return float(value)


def _device(value: Any) -> str:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: {value!r} is no device of torch; give 'cpu' or 'cuda', for example") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {value!r}: torch finds no GPU here; give 'cpu', or leave it out")
    return str(device)
