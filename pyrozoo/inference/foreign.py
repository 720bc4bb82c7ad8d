"""Records of runs that came from elsewhere: what they must hold, and how much memory their sizes may ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..files import one_line

_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "entry": (list, type(None)), "model_version": str, "config": dict, "priors": dict, "guide": str, "dtype": str,
    "settings": dict, "data": dict, "seconds": (int, float), "versions": dict, "runs": list,
}  # fmt: skip
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_MAKERS = (
    torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.normal, torch.ones, torch.rand,
    torch.randint, torch.randn, torch.randperm, torch.tril_indices, torch.zeros,
)  # fmt: skip
_NUMBERS = 1 << 26  # that any fit may make as it is loaded
_NUMBERS_PER_BYTE = 64  # of its files
_PER_CALL = 1 << 13  # what a tensor of no size counts, so that their number is bounded, too


def check_record(record: Mapping[str, Any]) -> None:
    """Check that a record holds what a fit is made from, each of its type.

    Raises:
        ValueError: An entry is missing or of another type.
    """
    for name, kinds in _KINDS.items():
        if name not in record or not isinstance(record[name], kinds) or isinstance(record[name], bool):
            raise ValueError(f"{name!r} of its record is missing, or not what pyrozoo writes; save the run again")
    entry, columns = record["entry"], record["data"].get("columns")
    if entry is not None and not (len(entry) == 2 and all(isinstance(word, str) for word in entry)):
        raise ValueError("'entry' of its record is not the name of an entry and a variant; save the run again")
    if record["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {record['dtype'][:60]!r} is none of {list(_DTYPES)}; save the run again")
    if columns is not None and not (isinstance(columns, dict) and all(map(_is_column, columns.values()))):
        raise ValueError("'columns' of its record's data does not name columns of a table; save the run again")
    if not record["runs"]:
        raise ValueError("'runs' of its record is empty; save the run again")
    for run in record["runs"]:
        _check_run(run)


def _is_column(own: Any) -> bool:
    """Whether it is the name of a column, or a list of names."""
    return all(isinstance(name, str | int | float) for name in (own if isinstance(own, list) else [own]))


def _check_run(run: Any) -> None:
    run = run if isinstance(run, dict) else {}
    seed, history = run.get("seed"), run.get("history")
    if type(seed) is not int or not 0 <= seed < 1 << 64 or not isinstance(run.get("status"), str):
        raise ValueError("a run of its record has no seed or no status; save the run again")
    known = isinstance(history, dict) and (not history or "elbo" in history)  # a fit that was not trained has none
    columns = list(history.values()) if isinstance(history, dict) else []
    numbers = (int, float, type(None))
    if not known or not all(
        isinstance(column, list)
        and len(column) == len(columns[0])
        and all(isinstance(value, numbers) for value in column)
        for column in columns
    ):
        raise ValueError("a run of its record has no history of numbers; save the run again")


@contextmanager
def naming_run(path: Path) -> Iterator[None]:
    """Put the folder's name before the message of any error that its content causes, and raise it as ValueError."""
    try:
        yield
    except (ImportError, OSError):
        raise
    except Exception as error:  # models, guides and priors fail in their own ways for values that they never expect
        raise ValueError(f"{path}: {one_line(error)}") from error


def _numbers(func: Callable, args: tuple, options: Mapping[str, Any]) -> int:
    """How many numbers one of the `_MAKERS` is about to make.

    Torch knows from the same call on its device without memory; but where it knows by Python, this imports SymPy, which
    takes a second. So what every run makes is counted here.
    """
    if func is torch.arange and not {"start", "end", "step"} & set(options):
        start, end, step = args if len(args) == 3 else (*args, 1) if len(args) == 2 else (0, *args, 1)
        return max(0, math.ceil((end - start) / step)) if step else 0
    func = torch.empty if func in (torch.rand, torch.randn) else func
    return func(*args, **options, device="meta").numel()


class Frugal(TorchFunctionMode):
    """Refuses tensors, before memory is taken for them, once they hold far more numbers than a run's files explain.

    The record of a run says how large a model is, and a few digits there could ask for any amount of memory.

    Args:
        n_bytes: Size of the run's weights and prototype.
    """

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self.left = _NUMBERS + _NUMBERS_PER_BYTE * n_bytes

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count what a function that makes tensors is about to make, and call it."""
        kwargs = dict(kwargs or {})
        if func in _MAKERS and not any(isinstance(value, torch.Tensor) for value in args):
            options = {k: v for k, v in kwargs.items() if k not in ("generator", "pin_memory", "out", "device")}
            self.left -= _PER_CALL + _numbers(func, args, options)
            if self.left < 0:
                raise ValueError(
                    "its model or guide is far larger than the weights in the folder; the record does not belong to "
                    "them: save the run again"
                )
        return func(*args, **kwargs)
