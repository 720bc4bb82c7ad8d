"""Minibatches without replacement, also by stratum, whose scaled ELBO is unbiased."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .batch import Batch


def sample_minibatches(train: Batch, batch_size: Any, generator: torch.Generator) -> Iterator[Batch]:
    """One epoch of minibatches; their mean ELBO, weighted by their share, is the full batch's ELBO.

    A smaller stratum is gone through again, in a new order, until the largest has been gone through once.
    """
    if batch_size is None:
        yield train
        return
    if not isinstance(batch_size, Mapping):
        for rows in torch.randperm(train.n_rows, generator=generator).split(batch_size):
            yield train.take(rows)
        return
    strata = _strata_in_use(train, batch_size)
    n_steps = max(math.ceil(len(rows) / size) for rows, size in strata)
    queues = [_cycle(rows, size, n_steps, generator) for rows, size in strata]
    for parts in zip(*queues, strict=True):
        n = sum(map(len, parts))
        scale = [len(rows) / len(part) * n / train.n_rows for (rows, _), part in zip(strata, parts, strict=True)]
        weight = torch.cat([torch.full((len(part),), s) for part, s in zip(parts, scale, strict=True)])
        reference = next(t for t in train.tensors.values() if t.is_floating_point())
        yield train.take(torch.cat(parts), weight=weight.to(reference))


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
