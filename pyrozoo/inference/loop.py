"""The training loop: minibatches, annealing, schedules, early stopping, what a checkpoint holds."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from tqdm import tqdm

from ..data.batch import Batch
from ..files import one_line
from ..modeling.base import ZooModel
from ..modeling.guides import declared
from .checkpoint import (
    load_checkpoint,
    load_moments,
    model_facts,
    moments_of,
    random_state,
    save_checkpoint,
    set_random_state,
    under,
)
from .compiling import CompiledLoss, CompiledStep, mode_for, norm_and_factor
from .distributed import ALONE, Processes
from .losses import NO_DISTRIBUTION, Anneal, Chosen, Loss, NonFiniteLoss, bad_site, materialise, validation
from .minibatches import can_take_present, rows_per_group, sample_minibatches, sample_rows, some_rows, steps_per_epoch
from .optimisers import optimizers_of
from .settings import FUSED_ADAM, SCHEDULES, Settings

MANY_GROUPS = 20_000  # measured: from this number on, picking the groups present is cheaper
VALIDATION_SEED = 20_250_101  # common random numbers: every validation ELBO uses the same draws

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and JSON state of a checkpoint
_WHOLE: ContextVar[bool] = ContextVar("whole_fits", default=False)


@contextlib.contextmanager
def whole_fits() -> Iterator[None]:
    """Let an interrupt end what asked for fits, where a fit that is half done would be taken for a whole one."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


class Training:
    """One run of the training loop.

    Its state during training is the history, the weights of the modules, the optimisers and two random states.
    """

    def __init__(
        self, model: ZooModel, guide: nn.Module, train: Batch, valid: Batch | None, options: Settings, seed: int,
        checkpoint: Path | None, processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        self.train, self.valid, self.options, self.checkpoint = train, valid, options, checkpoint
        self.processes, self.seed = processes, seed
        materialise(model, guide, some_rows(model, guide, train))
        self.loss = Loss(model, guide, model.elbo(options.particles), data=train)
        self.valid_loss = Loss(model, guide, model.elbo(options.valid_particles))
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self._draws_of_own()
        self.group_rows = self._group_rows()
        self.parameters = [p for p in self.loss.parameters() if p.requires_grad]
        self.optimizers = optimizers_of(self.loss, options, lazy=self.group_rows is not None)
        self.base_lrs = [group["lr"] for group in self._parameter_groups()]
        per_epoch = steps_per_epoch(train, options.batch_size)
        if options.steps:
            self.total_steps = options.steps
        else:
            assert options.epochs is not None  # `Settings.resolve` asks for one of the two
            self.total_steps = max(options.epochs, math.ceil((options.least_steps or 0) / per_epoch)) * per_epoch
        self.total_epochs = math.ceil(self.total_steps / per_epoch)
        self.n_rows = train.sizes[train.rows]
        latents = self._guide_sites()
        self.anneal_sites = self._anneal_sites(set(latents))
        along_rows = {n for n, s in latents.items() if train.rows in {frame.name for frame in s["cond_indep_stack"]}}
        self.outer_sites = set(latents) - along_rows
        self.loss.annealed = self.anneal_sites
        mode = mode_for(options.compile, self.total_steps)
        self.captured = mode != "none"
        self.step_loss = processes.wrap(self._step_loss(mode))
        self.epoch, self.step, self.best, self.bad_epochs = 0, 0, -math.inf, 0
        self.rows: list[dict[str, Any]] = []
        self.latest = self.good = self._state()  # a state is good once a step from it has found its loss finite
        self.good_epochs = 0
        self.held: Snapshot | None = None
        self.pending: Snapshot | None = None
        self.best_state: dict[str, Tensor] | None = None
        # A fit may be resumed on another machine, with another number of processes.
        settings = {k: v for k, v in options.as_json().items() if k not in ("distributed", "device")}
        self.fingerprint = {
            "settings": settings, "data": train.sha256, "validation data": valid and valid.sha256,
            "model": model_facts(model), "guide": sorted(k for k, _ in guide.named_parameters()), "seed": seed,
        }  # fmt: skip

    @property
    def history(self) -> pd.DataFrame:
        """One line per finished epoch, see `Run`."""
        return pd.DataFrame(self.rows)

    def run(self, *, resume: bool, progress: str | None, callback: Callable | None) -> str:
        """Train to the end.

        Args:
            resume: Whether to continue from the checkpoint, if there is one.
            progress: Label of the progress bar; None for no bar.
            callback: Function called after every epoch with that epoch's line of the history.

        Returns:
            How the training ended: "finished", "stopped early" or "interrupted".

        Raises:
            NonFiniteLoss: The loss or a gradient is not finite; the modules hold the weights of the last good epoch.
        """
        status = self._load() if resume and self.checkpoint is not None and self.checkpoint.exists() else "running"
        if status == "running":
            self.held = self.pending = self._snapshot("running")
            bar = tqdm(
                total=self.total_epochs, initial=self.epoch, desc=progress, disable=progress is None, unit="epoch"
            )
            try:
                with bar:
                    status = self._epochs(bar, callback)
            except KeyboardInterrupt:
                self._restore(self.best_state or self.latest)
                if _WHOLE.get():
                    raise
                return "interrupted"
        if self.best_state is not None:
            self._restore(self.best_state)
        return status

    def _epochs(self, bar: tqdm, callback: Callable | None) -> str:
        status = "running"
        while status == "running":
            row = self._one_epoch()
            self.rows.append(row)
            stop = self.options.patience is not None and self.bad_epochs >= self.options.patience
            status = "stopped early" if stop else "finished" if self.step >= self.total_steps else "running"
            self.latest = self._state()
            if status == "finished":
                self._check_end()
            self.pending = self._snapshot(status)
            if self.checkpoint is not None and self.pending is not None:
                save_checkpoint(self.checkpoint, *self.pending)
            bar.update(1)
            bar.set_postfix({k: f"{row[k]:.4g}" for k in ("elbo", "valid_elbo") if k in row})
            if callback is not None:
                callback(row)
        return status

    def _one_epoch(self) -> dict[str, Any]:
        self.loss.train()
        total = norm = 0.0
        beta, lr, first = 1.0, 0.0, self.step
        with validation(self.options.validate, self.epoch), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # NonFiniteLoss reports it, with the site
            for batch in self._minibatches():
                progress = self.step / self.total_steps
                lr, beta = self._set_rates(progress), self._beta(progress)
                loss, norm = self._update(batch, beta)
                self.good, self.good_epochs, self.held = self.latest, self.epoch, self.pending
                total += loss
                self.step += 1
                if self.step == self.total_steps:
                    break
        row = {"epoch": self.epoch, "step": self.step, "elbo": -total / (self.step - first) / self.n_rows,
               "beta": beta, "lr": lr, "grad_norm": norm}  # fmt: skip
        self.epoch += 1
        self.processes.from_first(list(self.loss.buffers()))  # each process has the running means of its own rows
        if self.valid is not None:
            row["valid_elbo"] = self._validate()
            if beta >= 1.0 and row["valid_elbo"] > self.best:
                self.best, self.bad_epochs, self.best_state = row["valid_elbo"], 0, self._state()
            elif beta >= 1.0:
                self.bad_epochs += 1
        return row

    def _minibatches(self) -> Iterator[Batch | Chosen]:
        """One epoch of minibatches; of data in memory a captured step takes the rows itself."""
        given = self.train, self.options.batch_size, self.generator
        share = self.processes.rank, self.processes.size
        if self.captured and self.group_rows is None and self.train.on_disk is None:
            return sample_rows(*given, share)
        return sample_minibatches(*given, self.group_rows, share)

    def _step_loss(self, mode: str) -> nn.Module:
        if mode == "none":
            return self.loss
        alone = self.processes.size == 1  # otherwise, the backward pass averages the gradients of all processes
        return CompiledStep(self.loss, mode, self.options.clip) if alone else CompiledLoss(self.loss, mode)

    def _update(self, batch: Batch | Chosen, beta: float) -> tuple[float, float]:
        before = torch.get_rng_state()
        try:
            loss, norm = self._loss(batch, self._weight(beta))
        except NO_DISTRIBUTION as error:  # Pyro's validation sees a NaN argument before the loss does
            if "share a common poutine.scale" in str(error):
                raise ValueError(
                    "anneal: an annealed site depends on one that is summed out, and all that do must have one weight; "
                    "use anneal=None, or leave it out of anneal_sites"
                ) from error
            self.processes.mean(self._scalar(math.nan))  # the other processes wait for this loss and must fail, too
            site = self._bad_site(batch, before)
            if not site:
                raise
            self._fail(str(error).splitlines()[0] + site)
        value = self.processes.mean(loss)
        if not math.isfinite(value):
            own = math.isfinite(loss.item())
            where = " in another process's share" if own else self._bad_site(batch, before)
            self._fail(f"the loss is {value}{where}")
        if norm is None:
            loss.backward()
            norm = self._clip()
        if not bool(norm.isfinite()):
            named = self.loss.named_parameters()
            bad = [n for n, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
            self._fail(f"the gradient of {bad[:3]} is not finite" + self._bad_site(batch, before))
        for optimizer in self.optimizers:
            optimizer.step()
        return value, norm.item()

    def _loss(self, batch: Batch | Chosen, weight: float | Tensor) -> tuple[Tensor, Tensor | None]:
        """The loss; from a captured step, which gives the parameters their gradients, also the norm of these."""
        found = self.step_loss.gradients(batch, weight) if isinstance(self.step_loss, CompiledStep) else None
        if found is not None:
            return found
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return self.step_loss(batch, weight), None

    def _weight(self, beta: float) -> float | Tensor:
        """The weight of annealed sites; one that changes is an input of a captured graph."""
        return self._scalar(beta) if self.captured and self.options.anneal is not None else beta

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.parameters[0].device)

    def _clip(self) -> Tensor:
        """Clip the gradient to norm ``clip``; return its norm before."""
        norm, factor = norm_and_factor([p.grad for p in self.parameters if p.grad is not None], self.options.clip)
        for parameter in self.parameters:
            if factor is not None and parameter.grad is not None:
                parameter.grad.mul_(factor)
        return norm

    def _bad_site(self, batch: Batch | Chosen, rng_state: Tensor) -> str:
        """Repeat the step with the same draws, to name the first site that is not finite."""
        with torch.random.fork_rng():
            torch.set_rng_state(rng_state)
            return bad_site(self.loss, self.loss.taken(batch))

    def _check_end(self) -> None:
        """Fail if the weights after the last step, from which no further step begins, have a loss that is not finite.

        In evaluation mode and with draws of its own, so that nothing changes.
        """
        self.loss.eval()
        value, few = math.nan, some_rows(self.loss.model, self.loss.guide, self.train)
        with torch.random.fork_rng(), torch.no_grad(), validation(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(*NO_DISTRIBUTION):
                value = self.loss.value(few)
            if not math.isfinite(self.processes.mean(self._scalar(value))):
                self._fail(f"the loss is {value}{bad_site(self.loss, few)}")

    def _fail(self, reason: str) -> None:
        self._restore(self.good)
        self.rows = self.rows[: self.good_epochs]
        again = ""
        if self.checkpoint is not None and self.held is not None:
            tensors, state = self.held
            save_checkpoint(self.checkpoint, tensors, state | {"status": "failed"})
            again = "; the checkpoint holds it, too: go on from there by resume=True with another lr, clip or schedule"
        raise NonFiniteLoss(
            f"step {self.step}: {reason}; the last good state (after epoch {self.good_epochs}) is in this error's "
            f".fit{again}. Try a smaller learning rate, clip=10, or a larger scale floor"
        ) from None

    def _validate(self) -> float:
        """ELBO per validation row; latents outside the rows count as much per row as they do in training."""
        valid = self.valid
        assert valid is not None
        n_valid = valid.sizes[valid.rows]
        self.valid_loss.eval()
        share = n_valid / self.n_rows
        with torch.random.fork_rng(), torch.no_grad(), Anneal(self.outer_sites, share):
            torch.manual_seed(VALIDATION_SEED)
            value = self._scalar(-self.valid_loss.value(valid) / n_valid)
        self.processes.from_first([value])  # all processes stop early together
        return value.item()

    # ---------------------------------------------------------------- rates
    def _group_rows(self) -> dict[str, Tensor] | None:
        """Number of rows of each group if steps hold only the groups of their rows, else None."""
        groups, model, guide = self.train.groups, self.loss.model, self.loss.guide
        able = can_take_present(model, guide, self.train)
        many = max((self.train.sizes[group] for group in groups), default=0) >= MANY_GROUPS
        if self.options.groups == "all" or self.options.batch_size is None:
            return None
        if self.options.groups == "auto":
            if not (able and many and self.options.optimizer is FUSED_ADAM) or self._tables_are_shared():
                return None
            with contextlib.suppress(ValueError):  # a group has no such rows: only steps with all groups reach it
                return rows_per_group(self.train, self.options.batch_size)
            return None
        if not able:
            raise ValueError(
                f"groups='present': {type(model).__name__} with {type(guide).__name__} cannot do with the groups of a "
                "minibatch's rows alone; use groups='all'"
            )
        if self._tables_are_shared():
            raise ValueError(
                f"groups='present': {type(guide).__name__} has parameters per group, whose lazy updates cannot be "
                "distributed; use groups='all', or a guide that is amortised over groups"
            )
        return rows_per_group(self.train, self.options.batch_size)

    def _tables_are_shared(self) -> bool:
        """Whether several processes would each update a few lines of one table, which cannot be averaged."""
        return self.processes.size > 1 and any(declared(self.loss.guide, "sparse").values())

    def _parameter_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _set_rates(self, progress: float) -> float:
        schedule = self.options.schedule
        factor = (SCHEDULES[schedule] if isinstance(schedule, str) else schedule)(progress)
        for group, lr in zip(self._parameter_groups(), self.base_lrs, strict=True):
            group["lr"] = lr * factor
        return self.options.lr * factor

    def _beta(self, progress: float) -> float:
        anneal = self.options.anneal
        if anneal is None:
            return 1.0
        return anneal(progress) if callable(anneal) else min(1.0, (self.epoch + 1) / (anneal + 1))

    def _guide_sites(self) -> dict[str, dict]:
        """Latent sites that the guide samples, by name."""
        self.loss.eval()
        with torch.random.fork_rng(), torch.no_grad(), validation(False):
            arguments = self.loss.model.arguments(some_rows(self.loss.model, self.loss.guide, self.train))
            trace = poutine.trace(self.loss.guide).get_trace(**arguments)
        return {n: s for n, s in trace.iter_stochastic_nodes() if not site_is_subsample(s)}

    def _anneal_sites(self, latents: set[str]) -> set[str]:
        given = set(latents if self.options.anneal_sites is None else self.options.anneal_sites)
        unknown = sorted(given - latents)
        if unknown:
            raise ValueError(f"anneal_sites: the guide does not sample {unknown}, only {sorted(latents)}")
        return given

    def _draws_of_own(self, step: int = 0) -> None:
        """Give processes other than the first their own draws of the latents, for the same order of minibatches.

        From a later step on, where the random states for this number of processes are not known, all draw anew.
        """
        if step or not self.processes.first:
            own = np.random.SeedSequence([self.seed, self.processes.rank, step])
            torch.manual_seed(int(own.generate_state(1)[0]))

    # ---------------------------------------------------------------- state
    def _state(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.loss.state_dict().items()}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self.loss.load_state_dict(state)

    def _snapshot(self, status: str) -> Snapshot | None:
        """What a checkpoint of the present state holds; None without a checkpoint, or in processes after the first."""
        if self.checkpoint is None:
            return None
        draws = self.processes.gather(random_state(self.parameters[0].device))
        if not self.processes.first:
            return None
        tensors = {f"module/{k}": v for k, v in self.latest.items()}
        tensors |= {f"best/{k}": v for k, v in (self.best_state or {}).items()}
        tensors |= {name: moment.clone() for name, moment in moments_of(self.optimizers).items()}
        tensors |= {"rng/torch": draws[0], "rng/minibatches": self.generator.get_state()}
        tensors |= {f"rng/process/{rank}": state for rank, state in enumerate(draws[1:], 1)}
        state = {"epoch": self.epoch, "step": self.step, "best": self.best, "bad_epochs": self.bad_epochs,
                 "history": list(self.rows), "status": status, "fingerprint": self.fingerprint}  # fmt: skip
        return tensors, state

    def _load(self) -> str:
        assert self.checkpoint is not None
        tensors, state = load_checkpoint(self.checkpoint, self.fingerprint)
        try:
            self._take_over(tensors, state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.checkpoint}: it is damaged ({one_line(error)}); delete it, or choose another checkpoint folder"
            ) from error
        if self.step > self.total_steps:
            raise ValueError(
                f"{self.checkpoint}: it is at step {self.step}, more than the {self.total_steps} of this fit; give "
                "more steps (or epochs), or choose another checkpoint folder"
            )
        ended = state["status"] == "failed" or (state["status"] == "finished" and self.step < self.total_steps)
        return "running" if ended else state["status"]

    def _take_over(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Set weights, moments, random states and history to those of a checkpoint."""
        self._restore(under(tensors, "module/"))
        self.best_state = under(tensors, "best/") or None
        self.latest = self.good = self._state()
        load_moments(self.optimizers, tensors)
        others = under(tensors, "rng/process/")
        if self.processes.size == len(others) + 1:
            own = {"0": tensors["rng/torch"], **others}[str(self.processes.rank)]
            set_random_state(own, self.parameters[0].device)
        else:  # another number of processes than before: new draws, and the same order of minibatches
            self._draws_of_own(state["step"])
        self.generator.set_state(tensors["rng/minibatches"])
        self.rows, self.good_epochs = state["history"], state["epoch"]
        self.epoch, self.step, self.best, self.bad_epochs = (state[k] for k in ("epoch", "step", "best", "bad_epochs"))
