"""Read pickles of numeric arrays without running any code in the file.

A pickle is a program; `pickle.load` runs it. Here it may name only the few classes and functions that a dictionary of
numpy arrays consists of, and these are replaced by placeholders: even numpy's own constructors, which trust the bytes
they are given, are not called.
"""

from __future__ import annotations

import copyreg
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ....files import naming

_PLAIN = {kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)}
_BUILTINS = ("builtins", "__builtin__")  # of Python 3 and 2
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_LARGEST_DEPTH = 50


def load(path: str | Path) -> Any:
    """Read a pickle of numpy arrays in Python's own containers, written by Python 2 or 3.

    Args:
        path: Path of the file.

    Returns:
        The pickled object; arrays are of real or complex numbers, truth values or text, and may be read-only.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, no pickle, or names anything but arrays and Python's own containers, which is not
            run. The message names the file and what it names.
    """
    with Path(path).open("rb") as stream, naming(str(path)):
        # Extensions that the program has used once are taken from this cache without a call of find_class.
        copyreg.clear_extension_cache()
        try:
            return _resolve(_Reader(stream, encoding="latin1").load())
        except _Refused:
            raise
        except Exception as error:  # a damaged pickle may raise any type of error
            raise ValueError(f"truncated or no pickle of arrays ({type(error).__name__}: {error})") from error


class _Refused(ValueError):
    """The pickle names something that must not be run."""


class _Call:
    """A function that the pickle may call; its attributes cannot be set (the opcode BUILD would set them)."""

    __slots__ = ("function",)
    function: Callable

    def __init__(self, function: Callable) -> None:
        object.__setattr__(self, "function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused(f"it sets {name!r} of a function; it is not read")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it changes a function; it is not read")


class _Dtype:
    """Placeholder of a numpy.dtype until its byte order is known."""

    def __init__(self, code: Any, align: Any = 0, copy: Any = 0) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d+", code):
            raise _Refused(f"it holds an array of type {code!r}; only numbers, truth values and text are read")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise _Refused("it holds an array of a type that is none of numpy's own")
        if any(part is not None for part in state[2:5]):
            raise _Refused("it holds a structured array; only numbers, truth values and text are read")
        self.order = state[1]

    def dtype(self) -> np.dtype:
        return np.dtype(self.code if self.order == "|" else self.order + self.code)


class _Array:
    """Placeholder of a numpy.ndarray until all of it is read."""

    def __init__(self, subtype: Any = None, shape: Any = None, code: Any = None) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if fortran else "C")


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Make an array from bytes, which Python 2 wrote as text."""
    if not isinstance(dtype, _Dtype) or not isinstance(content, str | bytes | bytearray):
        raise _Refused("it holds an array that is not made of bytes and a type of number; only such are read")
    content = content.encode("latin1") if isinstance(content, str) else content
    flat = np.frombuffer(content, dtype.dtype())
    # Without a copy where the byte order is the machine's own: a file of WESAD is nearly 1 GB.
    return flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(shape, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    return _from_bytes(content, dtype, ())[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Decode bytes as Python 3 writes them in an old protocol: as text in latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"it encodes by {encoding!r}; it is not read")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    """An unpickler that accepts arrays and Python's own containers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _BUILTINS and name in _PLAIN:
            return _PLAIN[name]
        if module in _MULTIARRAY and name == "_reconstruct":
            return _Call(_Array)
        if module in _MULTIARRAY and name == "scalar":
            return _Call(_scalar)
        if module in _NUMERIC and name == "_frombuffer":
            return _Call(_from_bytes)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Call(_Array if name == "ndarray" else _Dtype)
        if (module, name) == ("_codecs", "encode"):
            return _Call(_encode)
        raise _Refused(
            f"it calls {module}.{name}, which a file of signals does not need, so it was not run; do not trust this "
            "file, get it from its source"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to something outside the file; it is not read")


def _resolve(value: Any, depth: int = 0, done: dict[int, Any] | None = None) -> Any:
    """Replace array placeholders by arrays, visiting each container once."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    if depth > _LARGEST_DEPTH:
        raise _Refused("its containers hold one another without end; it is not read")
    if isinstance(value, _Array):
        if value.value is None:
            raise _Refused("it holds an array without content")
        return value.value
    if isinstance(value, dict):
        done[id(value)] = {key: _resolve(item, depth + 1, done) for key, item in value.items()}
        return done[id(value)]
    if isinstance(value, list | tuple):
        done[id(value)] = type(value)(_resolve(item, depth + 1, done) for item in value)
        return done[id(value)]
    if isinstance(value, _Dtype | _Call):
        raise _Refused("it holds a type or function in the place of values")
    return value
