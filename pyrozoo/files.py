"""Files that are either whole or absent: atomic writing, and JSON that any reader accepts."""

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path to write to that replaces `path` when the block ends well, and is removed otherwise.

    A reader, or a crash at any moment, finds the old content or the new one.

    Args:
        path: The file; missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: str | os.PathLike) -> None:
    """Check that a file or folder can be made at `path`, before the work whose result it is to hold.

    Raises:
        OSError: A folder on the way is a file or may not be written to, or the name is too long.
    """
    path = Path(path)
    above = path
    while not above.exists():
        above = above.parent
    if above != path and not above.is_dir():
        raise NotADirectoryError(f"{path} cannot be made: {above} is a file; choose another folder")
    if not os.access(above, os.W_OK):
        raise PermissionError(f"{path} cannot be made: {above} may not be written to; choose another folder")


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old content or the new one.

    Args:
        path: The file; missing parent folders are created.
        content: All of its new content.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with line ends unchanged."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON atomically.

    Args:
        path: The file; missing parent folders are created.
        value: A value that `jsonable` accepts.

    Raises:
        TypeError: The value holds something that JSON cannot; the message names its place. Nothing is written.
    """
    atomic_write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def jsonable(value: Any, place: str = "value") -> Any:
    """Convert a value to JSON's own types.

    Tuples become lists; NumPy arrays and scalars and torch tensors become lists and numbers. A float that is not finite
    becomes None: JSON has no NaN, and most readers refuse a file that holds one.

    Args:
        value: The value to write.
        place: Name of the value in error messages.

    Raises:
        TypeError: Something in the value has no JSON form, or a key is not a string; the message names its place.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}; the keys of a JSON object are strings")
        return {key: jsonable(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{place} is a {type(value).__name__}, which has no JSON form")


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.
        what: Description of the file for error messages, such as "a result record".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or is something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or not {what}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not {what}: it holds no JSON object")
    return value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's JSON text with sorted keys, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def one_line(error: BaseException) -> str:
    """Message of an error in one line, without the quotes that KeyError adds."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Put the name of `file` before the message of an error about its content, and raise it as ValueError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: {one_line(error)}") from error
