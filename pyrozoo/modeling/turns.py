"""One thread at a time: Pyro's handlers and settings and torch's random state belong to the whole process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_LOCK = threading.RLock()


def _new_lock() -> None:
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):  # a lock that another thread held would stay held in the child for ever
    os.register_at_fork(after_in_child=_new_lock)


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait until no other thread is in such a block; a thread may enter it again."""
    with _LOCK:
        yield
