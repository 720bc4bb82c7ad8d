"""Groups that the training data lack: their latents come from the prior, given the global latents of each draw."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..data.batch import Batch, require_batch
from ..inference.aligning import amortised_elsewhere, holds_group
from ..inference.fitted import Fit, Run
from ..modeling.base import ZooModel
from ..modeling.enumeration import COPIES, frames_of
from ..modeling.guides import declared


def new_groups(fit: Fit, batch: Batch, run: Run | None = None) -> dict[str, list[Any]]:
    """Group -> names that the training data lack and whose latents can be drawn from their prior.

    Left out are groups over which the guide, or another one of the entry, is amortised: these have an answer that reads
    the new group's rows. So are groups without a plate, whose parameters no prior gives.

    Args:
        fit: The fit.
        batch: Data, not yet prepared.
        run: The restart; by default the best one.
    """
    run = run or fit.best
    out = {}
    for group in batch.groups:
        if group not in run.model.plate_dims or not holds_group(run.model, group):
            continue
        if group in declared(run.guide, "amortized") or amortised_elsewhere(run.model, group):
            continue
        known = set(fit.prototype.coords[group].tolist())
        new = [name for name in batch.coords[group].tolist() if name not in known]
        if new:
            out[group] = new
    return out


def ready(fit: Fit, batch: Batch, run: Run | None = None) -> tuple[Run, Batch]:
    """A restart and the batch in the terms of the fit, as `Fit.prepare`, with a guide that covers new groups.

    Args:
        fit: The fit.
        batch: The batch.
        run: The restart; by default the best one.

    Raises:
        KeyError, ValueError: As `Fit.prepare`; KeyError also for new groups whose rows' latents the guide cannot draw.
        TypeError: `batch` is no Batch.
    """
    require_batch("batch", batch)
    run = run or fit.best
    new = new_groups(fit, batch, run)
    if not new:
        return run, fit.prepare(batch, run)
    wider = dataclasses.replace(fit, prototype=_widened(fit.prototype, batch, new))
    data = wider.prepare(batch, run)
    known = {group: fit.prototype.sizes[group] for group in new}
    return dataclasses.replace(run, guide=FromPrior(run, data, known, fit.guide_name)), data


def _widened(prototype: Batch, batch: Batch, new: Mapping[str, list[Any]]) -> Batch:
    """The prototype with further groups, and their tables from the batch."""
    tensors, coords, sizes = dict(prototype.tensors), dict(prototype.coords), dict(prototype.sizes)
    for group, names in new.items():
        place = {name: i for i, name in enumerate(batch.coords[group].tolist())}
        rows = torch.tensor([place[name] for name in names])
        for name, table in prototype.tensors.items():
            if prototype.along[name] == group:
                tensors[name] = torch.cat([table, batch.tensors[name][rows].to(table)])
        labels = [*prototype.coords[group].tolist(), *names]
        coords[group] = Batch.from_arrays(rows={"n": range(len(labels))}, groups={"g": labels}).coords["g"]
        sizes[group] = len(labels)
    return dataclasses.replace(prototype, tensors=tensors, coords=coords, sizes=sizes)


class FromPrior(nn.Module):
    """A guide with further groups: known ones from a fitted guide, new ones from the model's prior given its draw.

    Args:
        run: The restart whose guide draws the rest.
        data: The prepared batch, with known groups first and new ones after them.
        known: Group -> number of known ones, for groups with new ones.
        name: Name of the guide, for messages.
    """

    def __init__(self, run: Run, data: Batch, known: Mapping[str, int], name: str) -> None:
        super().__init__()
        self.guide, self.known, self.name = run.guide, dict(known), name
        self._model, self._few = (run.model,), data.take([0])  # in a tuple: the model's parameters are not the guide's
        self.tables = {group: [k for k, along in data.along.items() if along == group] for group in known}
        self.amortized = declared(run.guide, "amortized")

    def forward(self, **batch: Any) -> None:
        """Sample all latents outside the rows, and then those of the rows."""
        model: ZooModel = self._model[0]
        with poutine.block(), _Copies():
            trace = poutine.trace(self.guide).get_trace(**model.arguments(self._as_known(batch)))
        local = declared(self.guide, "local")
        drawn = dict(trace.iter_stochastic_nodes())
        outer = {name: site for name, site in drawn.items() if model.rows not in frames_of(site).values()}
        if local is None and len(outer) < len(drawn):
            raise KeyError(
                f"unknown {', '.join(self.known)}: the guide {self.name!r} samples the rows' latents in one with the "
                f"groups', so that it knows none of a new group; give it a part `local` (see ZooGuide)"
            )
        extend = _Extend(outer, self.known)
        try:
            with poutine.block(), extend, _Copies(), torch.no_grad():
                model(**model.arguments(self._few))
        except (ValueError, RuntimeError) as error:
            raise KeyError(
                f"unknown {', '.join(self.known)}: the model has parameters or sizes per group, so that no prior gives "
                f"those of a new one ({str(error).splitlines()[0]})"
            ) from error
        values = {}
        opened: dict[str, pyro.plate] = {}  # each once: a second plate of the same name would be another one
        for name, (site, value, density) in extend.found.items():
            with contextlib.ExitStack() as plates:
                for frame in sorted(site["cond_indep_stack"], key=lambda frame: frame.dim):
                    if frame.name != COPIES:
                        if frame.name not in opened:
                            opened[frame.name] = pyro.plate(frame.name, frame.size, dim=frame.dim)
                        plates.enter_context(opened[frame.name])
                fn = dist.Delta(value, density, event_dim=site["fn"].event_dim)
                values[name] = pyro.sample(name, fn)
        if local is not None:
            local(**batch, **values)

    def _as_known(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with known groups only; rows of a new one pretend to be of the first."""
        out = {name: value for name, value in batch.items() if name != "h"}
        out["sizes"] = {**batch["sizes"], **self.known}
        for group, size in self.known.items():
            out[group] = torch.where(batch[group] < size, batch[group], 0)
            out |= {table: batch[table][:size] for table in self.tables[group] if table in batch}
        return out


class _Extend(Messenger):
    """Hold a model's latents at a guide's draw, and draw those of further groups from their prior.

    Attributes:
        found: Latent -> its site in the model, value, and log density: the guide's, and the prior's for new groups.
    """

    def __init__(self, drawn: Mapping[str, Mapping[str, Any]], known: Mapping[str, int]) -> None:
        super().__init__()
        self.drawn, self.known = drawn, known
        self.found: dict[str, tuple[dict, Tensor, Tensor]] = {}

    def _pyro_sample(self, msg: dict) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self.drawn or site_is_subsample(msg):
            return
        own, event = self.drawn[name], msg["fn"].event_dim
        value, density = own["value"], own["fn"].log_prob(own["value"])
        inner = self.drawn.get(f"{name}_unconstrained")
        if inner is not None:  # an AutoGuide's, which has the density of what it transforms
            density = density + inner["fn"].log_prob(inner["value"]).reshape(density.shape)
        further = [frame for frame in msg["cond_indep_stack"] if frame.name in self.known]
        if further:
            prior = msg["fn"].sample()
            priors = msg["fn"].log_prob(prior)
            for frame in further:
                size = self.known[frame.name]
                value = _joined(value, prior, frame.dim - event, size)
                density = _joined(density, priors, frame.dim, size)
        msg["value"], msg["done"] = value, True
        self.found[name] = (dict(msg), value, density)


def _joined(known: Tensor, drawn: Tensor, dim: int, size: int) -> Tensor:
    """The first `size` entries along a dimension as known, and the rest as drawn; other dimensions are broadcast."""
    rest = drawn.narrow(dim, size, drawn.shape[dim] - size)
    shape = list(torch.broadcast_shapes(_without(known.shape, dim), _without(rest.shape, dim)))
    n = len(shape)
    own, other = list(shape), list(shape)
    own[n + dim], other[n + dim] = size, rest.shape[dim]
    return torch.cat([known.expand(own), rest.expand(other)], dim)


def _without(shape: torch.Size, dim: int) -> list[int]:
    out = list(shape)
    out[len(out) + dim] = 1
    return out


class _Copies(Messenger):
    """Lets the plate of many draws at once, where it is open outside, see sites inside a block that hides it."""

    def __init__(self) -> None:
        super().__init__()
        found = (frame for frame in _PYRO_STACK if isinstance(frame, pyro.plate) and frame.name == COPIES)
        self.plate = next(found, None)

    def _process_message(self, msg: dict) -> None:
        if self.plate is not None:
            self.plate._process_message(msg)
