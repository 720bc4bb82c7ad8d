"""Threads for what is independent: recordings, parameter draws, steps that are left out. Kernels release the lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Task = TypeVar("Task")
Found = TypeVar("Found")
WORTH_THREADS = 20_000  # frames from which on threads are worth their start


def threaded(function: Callable[[Task], Found], tasks: Sequence[Task], frames: int) -> list[Found]:
    """Apply a function to every task, on as many threads as torch has where there is much to do.

    Results come in the order of the tasks, and are the same for any number of threads. Every thread holds the state of
    its own task.

    Args:
        function: Function of one task; most of its time should be a kernel's.
        tasks: What is independent of each other.
        frames: Frames of all tasks together.
    """
    workers = min(torch.get_num_threads(), len(tasks))
    if workers < 2 or frames < WORTH_THREADS:
        return [function(task) for task in tasks]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, tasks))
