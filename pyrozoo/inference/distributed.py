"""One fit over several processes: every process takes its share of each minibatch, and gradients are averaged.

The processes are started by ``torchrun``, which tells each one its rank and restarts all of them when one fails.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

PATIENCE = 1800.0  # seconds in which all processes must have started


@dataclass(frozen=True)
class Processes:
    """This process among those of a fit; a single one if nothing is distributed.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def wrap(self, loss: nn.Module) -> nn.Module:
        """Wrap the loss so that its backward pass averages the gradients of all processes."""
        # A share may lack the rows of a stratum or data set, so that a parameter gets no gradient.
        return loss if self.size == 1 else DistributedDataParallel(loss, find_unused_parameters=True)

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar tensor over the processes, the same number in all of them."""
        if self.size == 1:
            return value.item()
        value = value.detach().to(torch.float64, copy=True)
        dist.all_reduce(value)
        return (value / self.size).item()

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors in every process with the first process's values."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def gather(self, value: Tensor) -> list[Tensor]:
        """Collect one tensor of each process, all of one shape, in every process."""
        if self.size == 1:
            return [value]
        moved = value.to(_device())
        out = [torch.empty_like(moved) for _ in range(self.size)]
        dist.all_gather(out, moved)
        return [tensor.to(value.device) for tensor in out]


ALONE = Processes()


@contextlib.contextmanager
def joined(distributed: bool, device: str | torch.device | None) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; they stay joined for later fits, until the script ends.

    Args:
        distributed: Whether to join; otherwise this process is alone.
        device: Device of the fit; for "cuda" without a number, each process uses the GPU of its ``LOCAL_RANK``.

    Raises:
        RuntimeError: The process was not started by ``torchrun``.
    """
    if not distributed:
        yield ALONE
        return
    if not dist.is_initialized():
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise RuntimeError(
                "distributed=True: this process was not started by torchrun; run "
                "`torchrun --nproc-per-node 2 YOUR_SCRIPT.py`, or leave the argument out"
            )
        _join(torch.device(device or "cpu"))
    processes = Processes(dist.get_rank(), dist.get_world_size())
    processes.gather(torch.zeros(()))  # wait for files that the first process writes at the end of a fit
    yield processes


def _join(device: torch.device) -> None:
    """Join the process group, until the script ends.

    Leaving earlier can hang: a thread of gloo may wait for Python's lock to free a tensor, while the last reference to
    the group (held by a DistributedDataParallel) is dropped and waits for that thread.
    """
    from torch.distributed.rendezvous import rendezvous  # missing in some builds of torch

    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device)
    store, rank, size = next(rendezvous("env://"))
    own = dist.PrefixStore(_agreed_name(store, rank, size), store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=own, rank=rank, world_size=size)
    atexit.register(_leave)


def _agreed_name(store: dist.Store, rank: int, size: int) -> str:
    """A name on which the processes of this start agree, and which no earlier start has used.

    torchrun may keep its store when it restarts the processes; they would find there the addresses of those that were
    killed.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + PATIENCE
    if rank:
        store.set(f"pyrozoo/asks/{rank}", own)
        name = store.get(f"pyrozoo/answer/{own}").decode()  # waits until it is set
        store.set(f"pyrozoo/{name}/{rank}", "")
        return name
    missing = set(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"pyrozoo/asks/{other}"]):  # may still be that of an earlier start
                store.set(f"pyrozoo/answer/{store.get(f'pyrozoo/asks/{other}').decode()}", own)
        missing = {other for other in missing if not store.check([f"pyrozoo/{own}/{other}"])}
        if time.monotonic() > until:
            raise RuntimeError(f"distributed=True: process(es) {sorted(missing)} of {size} did not come")
        time.sleep(0.02)
    return own


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    """Device on which the backend's tensors must be."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
