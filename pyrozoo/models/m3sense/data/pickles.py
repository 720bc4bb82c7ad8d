"""Read pickles of numeric arrays without running any code in the file.

A pickle is a program. Here Python's own interpreter of it is not used: the few instructions that a dictionary of numpy
arrays consists of are carried out one by one, every length is compared with the size of the file before memory is
taken, and the classes and functions that such a file names are replaced by placeholders: even numpy's own constructors,
which trust the bytes they are given, are not called.
"""

from __future__ import annotations

import codecs
import copyreg
import os
import pickletools
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....files import naming, require_plain

_BUILTINS = ("builtins", "__builtin__")  # of Python 3 and 2
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_ATOMS = (bool, bytes, complex, float, int, str, type(None), np.generic)
_LARGEST_DEPTH = 50
_MOST_STEPS = 1_000_000  # instructions; a file of WESAD has some hundreds
_MOST_VALUES = 1_000_000  # where a container that is held twice counts twice
_COPIES = 4  # how often the content of the file may be copied, on average
_INSTRUCTIONS = {instruction.code: instruction for instruction in pickletools.opcodes}
_PREFIXES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}  # fmt: skip


def load(path: str | Path) -> Any:
    """Read a pickle of numpy arrays in Python's own containers, written by Python 2 or 3.

    Args:
        path: Path of the file.

    Returns:
        The pickled object; arrays are of real or complex numbers, truth values or text, and may be read-only.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, no pickle, or names anything but arrays and Python's own containers, which is not
            run, or it would need far more memory or time than a file of its size. The message names the file and what
            it names.
    """
    path = Path(path)
    require_plain(path)
    with path.open("rb") as stream, naming(str(path)):
        try:
            return _resolve(_Machine(stream).run())
        except _Refused:
            raise
        except Exception as error:  # a damaged pickle may raise any type of error
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise ValueError(f"truncated or no pickle of arrays ({reason})") from error


class _Refused(ValueError):
    """The pickle names something that must not be run, or would take too much."""


class _Call:
    """Placeholder of a function that the pickle may call."""

    def __init__(self, function: Callable) -> None:
        self.function = function


class _Dtype:
    """Placeholder of a numpy.dtype until its byte order is known."""

    def __init__(self, code: Any, align: Any = 0, copy: Any = 0) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d{1,9}", code):
            raise _Refused(f"it holds an array of type {_shown(code)}; only numbers, truth values and text are read")
        self.code, self.order = code, "="

    def build(self, state: Any) -> None:
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

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if fortran else "C")


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Make an array from bytes, which Python 2 wrote as text."""
    if not isinstance(dtype, _Dtype) or not isinstance(content, str | bytes | bytearray):
        raise _Refused("it holds an array that is not made of bytes and a type of number; only such are read")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(size) is int for size in sizes) or order not in ("C", "F"):
        raise _Refused("it holds an array whose shape is not made of whole numbers")
    content = content.encode("latin1") if isinstance(content, str) else content
    flat = np.frombuffer(content, dtype.dtype())
    # Without a copy where the byte order is the machine's own: a file of WESAD is nearly 1 GB.
    return flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(sizes, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    return _from_bytes(content, dtype, ())[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Decode bytes as Python 3 writes them in an old protocol: as text in latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"it encodes by {_shown(encoding)}; it is not read")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """What Python 3 calls for empty bytes in an old protocol."""
    return b""


def _set(items: Any = ()) -> set:
    return {_key(item) for item in items}


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(_key(item) for item in items)


def _complex(real: Any, imaginary: Any) -> complex:
    return complex(float(real), float(imaginary))


def _key(value: Any) -> Any:
    """A value that can be a key; others, as nested tuples, could take for ever to hash."""
    if isinstance(value, _ATOMS) or (isinstance(value, tuple) and all(isinstance(part, _ATOMS) for part in value)):
        return value
    raise _Refused("a key of a dictionary or set is neither text nor a number; it is not read")


def _named(module: str, name: str) -> _Call:
    """Placeholder of what the pickle names."""
    builtins: dict[str, Callable] = {"set": _set, "frozenset": _frozenset, "bytes": _no_bytes, "complex": _complex}
    if module in _BUILTINS and name in builtins:
        return _Call(builtins[name])
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
        f"it calls {module[:60]}.{name[:60]}, which a file of signals does not need, so it was not run; do not trust "
        "this file, get it from its source"
    )


def _whole(raw: bytes) -> int | bool:
    """A whole number as a line of text; 00 and 01 are truth values."""
    return raw == b"01" if raw in (b"00", b"01") else int(raw, 0)


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _unsigned(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _latin1(raw: bytes) -> str:
    return raw.decode("latin1")


def _quoted(raw: bytes) -> str:
    """Text of Python 2 in quotes, in which some bytes stand as backslash sequences."""
    if len(raw) < 2 or raw[:1] not in (b"'", b'"') or raw[-1:] != raw[:1]:
        raise ValueError("a text without quotes")
    return codecs.escape_decode(raw[1:-1])[0].decode("latin1")


# Instruction -> value that it puts on the stack, from the bytes that follow it in the file.
_VALUES: dict[str, Callable[[bytes], Any]] = {
    "NONE": lambda raw: None, "NEWTRUE": lambda raw: True, "NEWFALSE": lambda raw: False, "INT": _whole,
    "BININT": _signed, "BININT1": _unsigned, "BININT2": _unsigned, "LONG": lambda raw: int(raw.rstrip(b"L")),
    "LONG1": _signed, "LONG4": _signed, "FLOAT": float, "BINFLOAT": lambda raw: struct.unpack(">d", raw)[0],
    "STRING": _quoted, "BINSTRING": _latin1, "SHORT_BINSTRING": _latin1,
    "UNICODE": lambda raw: raw.decode("raw-unicode-escape"), "BINUNICODE": _utf8, "SHORT_BINUNICODE": _utf8,
    "BINUNICODE8": _utf8, "BINBYTES": bytes, "SHORT_BINBYTES": bytes, "BINBYTES8": bytes, "BYTEARRAY8": bytearray,
    "EMPTY_LIST": lambda raw: [], "EMPTY_TUPLE": lambda raw: (), "EMPTY_DICT": lambda raw: {},
    "EMPTY_SET": lambda raw: set(),
}  # fmt: skip
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_EXTENSIONS = ("EXT1", "EXT2", "EXT4")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Carries out the instructions of a pickle that holds arrays and Python's own containers; refuses all others."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.left = stream, os.fstat(stream.fileno()).st_size
        self.copies = _COPIES * self.left + 1024
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Carry out all instructions and return what they leave."""
        for _ in range(_MOST_STEPS):
            code = self._read(1).decode("latin1")
            if code not in _INSTRUCTIONS:
                raise ValueError(f"no instruction of a pickle: {code!r}")
            name, raw = _INSTRUCTIONS[code].name, self._operand(_INSTRUCTIONS[code])
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(_VALUES[name](raw))
            else:
                self._step(name, raw)
        raise _Refused(f"it has more than {_MOST_STEPS} instructions; keep signals in arrays, not in lists")

    def _read(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError(f"{count} bytes are announced where {self.left} are left")
        self.left -= count
        return self.stream.read(count)

    def _line(self) -> bytes:
        line = self.stream.readline()
        self.left -= len(line)
        if not line.endswith(b"\n"):
            raise ValueError("it ends within a line")
        return line[:-1]

    def _operand(self, instruction: pickletools.OpcodeInfo) -> bytes:
        """The bytes that belong to an instruction, without their length; of two lines, both."""
        if instruction.arg is None:
            return b""
        size = instruction.arg.n
        if size >= 0:
            return self._read(size)
        if size == pickletools.UP_TO_NEWLINE:
            first = self._line()
            return first + b"\n" + self._line() if instruction.name in ("GLOBAL", "INST") else first
        return self._read(_unsigned(self._read(_PREFIXES[size])))

    def _marked(self) -> list[Any]:
        """Take all values above the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def _step(self, name: str, raw: bytes) -> None:
        stack = self.stack
        if name == "FRAME" and _unsigned(raw) > self.left:
            raise ValueError(f"{_unsigned(raw)} bytes are announced where {self.left} are left")
        if name in ("PROTO", "FRAME"):
            return
        if name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name in _PUTS:
            self.memo[self._place(name, raw)] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[self._place(name, raw)])
        elif name in _TUPLES:
            taken = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(taken)))
        elif name in ("TUPLE", "LIST", "DICT", "FROZENSET", "POP_MARK"):
            self._collect(name, self._marked())
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            count = {"APPEND": 1, "SETITEM": 2}.get(name)
            values = self._marked() if count is None else [stack.pop() for _ in range(count)][::-1]
            self._extend(name, values)
        elif name == "POP":
            stack.pop()
        else:
            self._call(name, raw)

    def _place(self, name: str, raw: bytes) -> int:
        if name == "MEMOIZE":
            return len(self.memo)
        return int(raw) if name in ("PUT", "GET") else _unsigned(raw)

    def _collect(self, name: str, values: list[Any]) -> None:
        if name == "DICT":
            self.stack.append({})
            self._extend("SETITEMS", values)
        elif name != "POP_MARK":
            kinds: dict[str, Callable] = {"TUPLE": tuple, "LIST": list, "FROZENSET": _frozenset}
            self.stack.append(kinds[name](values))

    def _extend(self, name: str, values: list[Any]) -> None:
        """Add values to the container on top of the stack."""
        container = self.stack[-1]
        if name.startswith("SETITEM") and type(container) is dict:
            container.update((_key(key), value) for key, value in zip(values[::2], values[1::2], strict=True))
        elif name.startswith("APPEND") and type(container) is list:
            container.extend(values)
        elif name == "ADDITEMS" and type(container) is set:
            container.update(_set(values))
        else:
            raise _Refused(f"it adds to a {type(container).__name__}; it is not read")

    def _call(self, name: str, raw: bytes) -> None:
        """Instructions that name classes and functions, or call them."""
        stack = self.stack
        if name in ("GLOBAL", "INST"):
            stack.append(_named(*raw.decode("utf-8").split("\n")))
        elif name == "STACK_GLOBAL":
            names = [stack.pop(), stack.pop()][::-1]
            if not all(isinstance(part, str) for part in names):
                raise _Refused("it names a function by something that is no text")
            stack.append(_named(*names))
        elif name in _EXTENSIONS:
            known = getattr(copyreg, "_inverted_registry", {})
            stack.append(_named(*known.get(_unsigned(raw), ("copyreg", f"extension {_unsigned(raw)}"))))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Call) or not isinstance(arguments, tuple):
                raise _Refused("it calls something that is no function; it is not read")
            self._charge(arguments)
            stack.append(function.function(*arguments))
        elif name == "BUILD":
            state, target = stack.pop(), stack[-1]
            if not isinstance(target, _Array | _Dtype):
                raise _Refused("it changes a function; it is not read" if isinstance(target, _Call) else
                               f"it changes a {type(target).__name__}; it is not read")  # fmt: skip
            self._charge(state)
            target.build(state)
        elif name in ("PERSID", "BINPERSID"):
            raise _Refused("it refers to something outside the file; it is not read")
        else:
            raise _Refused(f"it holds the instruction {name}, which a file of arrays does not need; it is not read")

    def _charge(self, arguments: Any) -> None:
        """Count what a call may copy: one text of the file could be handed to it any number of times."""
        sized = str | bytes | bytearray | list | tuple | set | frozenset
        parts: Iterable[Any] = arguments if isinstance(arguments, tuple) else ()
        self.copies -= sum(len(part) for part in parts if isinstance(part, sized))
        if self.copies < 0:
            raise _Refused("it copies its content again and again; it is not read")


def _shown(value: Any) -> str:
    """A value in an error message; a container could be far too long."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def _resolve(value: Any) -> Any:
    """Replace array placeholders by arrays, visiting each container once."""
    return _resolved(value, 0, {})[0]


def _resolved(value: Any, depth: int, done: dict[int, tuple[Any, int]]) -> tuple[Any, int]:
    """A value with arrays in the place of their placeholders, and the number of values in it."""
    if id(value) in done:
        return done[id(value)]
    if depth > _LARGEST_DEPTH:
        raise _Refused("its containers hold one another without end; it is not read")
    if isinstance(value, _Array):
        if value.value is None:
            raise _Refused("it holds an array without content")
        return value.value, 1
    if isinstance(value, _Dtype | _Call):
        raise _Refused("it holds a type or function in the place of values")
    if not isinstance(value, dict | list | tuple):
        return value, 1
    items = value.values() if isinstance(value, dict) else value
    parts = [_resolved(item, depth + 1, done) for item in items]
    count = 1 + sum(own for _, own in parts)
    if count > _MOST_VALUES:
        raise _Refused(f"its containers hold more than {_MOST_VALUES} values; it is not read")
    inner = [part for part, _ in parts]
    whole: Any = dict(zip(value, inner, strict=True)) if isinstance(value, dict) else type(value)(inner)
    done[id(value)] = whole, count
    return whole, count
