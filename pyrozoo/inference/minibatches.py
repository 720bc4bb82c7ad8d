"""Minibatches without replacement, also by stratum, whose scaled ELBO is unbiased."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..modeling.guides import declared

# Number of rows on disk that are shuffled together, and minimum number of neighbours that enter a window together.
WINDOW, BLOCK = 2**18, 64


def sample_minibatches(
    train: Batch, batch_size: Any, generator: torch.Generator, group_rows: Mapping[str, Tensor] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:  # fmt: skip
    """Draw one epoch of minibatches; the average of their ELBOs, weighted by their share, is the full batch's ELBO.

    A smaller stratum is repeated, in a new order each time, until the largest has been used once.

    Data on disk: a stratum of more than `WINDOW` rows is not permuted as a whole, which would need memory for all of
    its rows. Instead, its blocks of neighbouring rows come in a random order, and the rows of some thousand blocks at a
    time (a window) are shuffled together. Every row still comes once per epoch, and minibatches are unbiased (if the
    last block is shorter than the others, up to one block's share of a window). But if neighbouring rows are alike, the
    ELBO of B rows varies more than if rows were drawn one by one: with K blocks in a window and correlation r of the
    rows' terms within a block, its variance is 1 + r B / K times as large, and minibatches of one window share this
    excess. K is 4096 blocks of 64 rows; beyond 17 million rows, blocks are longer and fewer, so that their order also
    fits into the memory of a window. Rows that are shuffled before they are written have r = 0.

    Args:
        train: The full data.
        batch_size: Number of rows per step, or stratum -> rows per step, as in `pyrozoo.fit`.
        generator: Random generator for the order.
        group_rows: Number of rows of each group, from `rows_per_group`, for minibatches that hold only the groups of
            their rows (see `Batch.take`); None for all groups.
        share: Rank r and number n of the processes that share every minibatch: process r of n takes rows r, r + n,
            r + 2n, ..., and the mean over processes is the minibatch's ELBO. If a minibatch cannot be divided evenly,
            every process takes all of it.

    Yields:
        The minibatches.

    Raises:
        ValueError: The strata in `batch_size` are not those of the data, are all empty, or overlap.
    """
    for rows, weight in sample_rows(train, batch_size, generator, share):
        yield train if rows is None else train.take(rows, weight=weight, group_rows=group_rows)


def sample_rows(
    train: Batch, batch_size: Any, generator: torch.Generator, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Draw one epoch of minibatches, see `sample_minibatches`, without taking them from the data.

    Yields:
        Positions of the rows, None for all of the data as they are, and the rows' weights, None for equal ones.
    """

    def own(rows: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if len(rows) % share[1] == 0:
            rows, weight = rows[share[0] :: share[1]], None if weight is None else weight[share[0] :: share[1]]
        return rows.to(device), weight

    mapped, device = train.on_disk is not None, train.tensors[train.rows].device
    if batch_size is None:
        yield own(torch.arange(train.n_rows)) if mapped or share[1] > 1 else (None, None)
        return
    if not isinstance(batch_size, Mapping):
        for rows in _shuffled(train.n_rows, batch_size, generator, mapped):
            yield own(rows)
        return
    strata = _strata_in_use(train, batch_size)
    n_steps = max(math.ceil(len(rows) / size) for rows, size in strata)
    queues = [_cycle(rows, size, n_steps, generator, mapped) for rows, size in strata]
    for parts in zip(*queues, strict=True):
        n = sum(map(len, parts))
        scale = [len(rows) / len(part) * n / train.n_rows for (rows, _), part in zip(strata, parts, strict=True)]
        weight = torch.cat([torch.full((len(part),), s) for part, s in zip(parts, scale, strict=True)])
        yield own(torch.cat(parts), weight.to(train.reference))


def some_rows(model: nn.Module, guide: nn.Module, train: Batch) -> Batch:
    """The first two rows for a first run of model and guide, with only their groups if both accept that."""
    rows = torch.arange(min(2, train.n_rows))
    few = can_take_present(model, guide, train)
    ones = {group: torch.ones(train.sizes[group]) for group in train.groups} if few else None
    return train.take(rows, group_rows=ones)


def can_take_present(model: nn.Module, guide: nn.Module, train: Batch) -> bool:
    """Whether model and guide accept minibatches with only the groups of their rows, as `Batch.take` makes them."""
    taken = inspect.signature(model.forward).parameters
    sparse = declared(guide, "sparse")
    return bool(train.groups) and all(group in sparse and f"{group}_weight" in taken for group in train.groups)


def rows_per_group(train: Batch, batch_size: Any) -> dict[str, Tensor]:
    """Number of rows of each group in the data from which minibatches are drawn.

    Args:
        train: The full data.
        batch_size: Number of rows per step, or stratum -> rows per step; strata of size 0 do not count.

    Returns:
        Group -> number of rows, shape (M,).

    Raises:
        ValueError: A group has none, so that no step would ever reach its latents.
    """
    strata = None
    if isinstance(batch_size, Mapping):
        strata = [positions for positions, _ in _strata_in_use(train, batch_size)]
        if sum(map(len, strata)) == train.n_rows:  # all rows; their order does not matter
            strata = None
    out = {}
    for group in train.groups:
        index = train[group]
        parts = (
            index.split(WINDOW)
            if strata is None
            else (index[rows.to(index.device)] for positions in strata for rows in positions.split(WINDOW))
        )
        out[group] = torch.zeros(train.sizes[group], dtype=torch.long, device=index.device)
        for part in parts:
            out[group] += torch.bincount(part, minlength=train.sizes[group])
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
    if len(train.labels) > 1:  # strata of one target never overlap
        every = torch.cat([rows for rows, _ in used])
        if len(every.unique()) < len(every):
            raise ValueError(
                "batch_size: strata of several targets overlap, which would count rows twice; use a number"
            )
    return [(rows, len(rows) if size is None else min(size, len(rows))) for rows, size in used]


def _cycle(rows: Tensor, size: int, n_steps: int, generator: torch.Generator, mapped: bool) -> Iterator[Tensor]:
    done = 0
    while done < n_steps:
        for part in _shuffled(len(rows), size, generator, mapped):
            yield rows[part]
            done += 1
            if done == n_steps:
                return


def _shuffled(n: int, size: int, generator: torch.Generator, mapped: bool) -> Iterator[Tensor]:
    """Positions 0..n-1 in random order in pieces of `size`, the last one shorter; of mapped rows window by window."""
    if not mapped or n <= WINDOW:
        yield from torch.randperm(n, generator=generator).split(size)
        return
    block = max(BLOCK, math.ceil(n / WINDOW))
    blocks = torch.randperm(math.ceil(n / block), generator=generator)
    left = torch.empty(0, dtype=torch.long)
    for firsts in blocks.split(max(1, WINDOW // block)):
        rows = (firsts[:, None] * block + torch.arange(block)).flatten()
        rows = rows[rows < n]
        rows = torch.cat([left, rows[torch.randperm(len(rows), generator=generator)]])
        whole = len(rows) // size * size
        left = rows[whole:].clone()
        if whole:
            yield from rows[:whole].split(size)
    if len(left):
        yield left
