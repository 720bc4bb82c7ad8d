"""Minibatches without replacement, also by stratum, whose scaled ELBO is unbiased."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .batch import Batch


def sample_minibatches(
    train: Batch, batch_size: Any, generator: torch.Generator, group_rows: Mapping[str, Tensor] | None = None
) -> Iterator[Batch]:
    """One epoch of minibatches; their mean ELBO, weighted by their share, is the full batch's ELBO.

    A smaller stratum is gone through again, in a new order, until the largest has been gone through once.

    Args:
        train: The full data.
        batch_size: Rows per step, or stratum -> rows per step, as in `pyrozoo.training.Settings`.
        generator: Of the order.
        group_rows: As in `Batch.take`, from `rows_per_group`, where a minibatch holds only the groups of its rows.
    """
    if batch_size is None:
        yield train
        return
    if not isinstance(batch_size, Mapping):
        for rows in torch.randperm(train.n_rows, generator=generator).split(batch_size):
            yield train.take(rows, group_rows=group_rows)
        return
    strata = _strata_in_use(train, batch_size)
    n_steps = max(math.ceil(len(rows) / size) for rows, size in strata)
    queues = [_cycle(rows, size, n_steps, generator) for rows, size in strata]
    for parts in zip(*queues, strict=True):
        n = sum(map(len, parts))
        scale = [len(rows) / len(part) * n / train.n_rows for (rows, _), part in zip(strata, parts, strict=True)]
        weight = torch.cat([torch.full((len(part),), s) for part, s in zip(parts, scale, strict=True)])
        yield train.take(torch.cat(parts), weight=weight.to(train.reference), group_rows=group_rows)


def can_take_present(model: nn.Module, guide: nn.Module, train: Batch) -> bool:
    """Whether model and guide can do with the groups of a minibatch's rows alone, as `Batch.take` gives them."""
    taken = inspect.signature(model.forward).parameters
    sparse = getattr(guide, "sparse", {})
    return bool(train.groups) and all(group in sparse and f"{group}_weight" in taken for group in train.groups)


def rows_per_group(train: Batch, batch_size: Any) -> dict[str, Tensor]:
    """Number of rows of each group among those that minibatches are drawn from.

    Raises:
        ValueError: A group has none, so that no step would ever reach its latents.
    """
    rows = None
    if isinstance(batch_size, Mapping):
        rows = torch.cat([positions for positions, _ in _strata_in_use(train, batch_size)])
    out = {}
    for group in train.groups:
        index = train[group] if rows is None else train[group][rows.to(train[group].device)]
        out[group] = torch.bincount(index, minlength=train.sizes[group])
        if not bool(out[group].all()):
            name = train.coords[group].tolist()[int((out[group] == 0).nonzero()[0, 0])]
            raise ValueError(
                f"{group} {name!r} has no row in the strata that batch_size uses, so that groups='present' would never "
                "reach it; leave it out of the data, or use groups='all'"
            )
    return out


def steps_per_epoch(train: Batch, batch_size: Any) -> int:
    """Number of minibatches in one epoch."""
    if batch_size is None:
        return 1
    if isinstance(batch_size, Mapping):
        return max(math.ceil(len(rows) / size) for rows, size in _strata_in_use(train, batch_size))
    return math.ceil(train.n_rows / batch_size)


def _strata_in_use(train: Batch, batch_size: Mapping[str, int | None]) -> list[tuple[Tensor, int]]:
    if set(batch_size) != set(train.strata):
        raise ValueError(f"batch_size names {sorted(batch_size)}; the strata of the data are {sorted(train.strata)}")
    used = [(train.strata[name], size) for name, size in batch_size.items() if size != 0 and len(train.strata[name])]
    if not used:
        raise ValueError("batch_size: every stratum that it names is empty")
    every = torch.cat([rows for rows, _ in used])
    if len(every.unique()) < len(every):
        raise ValueError("batch_size: strata of several targets overlap, which would count rows twice; use a number")
    return [(rows, len(rows) if size is None else min(size, len(rows))) for rows, size in used]


def _cycle(rows: Tensor, size: int, n_steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    done = 0
    while done < n_steps:
        for part in rows[torch.randperm(len(rows), generator=generator)].split(size):
            yield part
            done += 1
            if done == n_steps:
                return
