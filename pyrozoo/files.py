"""Files that are either whole or absent: atomic writing, JSON that any reader accepts, and npz files without pickle."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
import sys
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# A compressed npz file may declare arrays far larger than itself; one that is not compressed cannot.
LARGEST_ARRAYS = 2 << 30
LARGEST_RATIO = 20
LARGEST_JSON = 1 << 29  # the histories of a fit of some million epochs


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


@contextmanager
def reserved(folder: str | os.PathLike) -> Iterator[None]:
    """Keep a folder for the block: whoever reserves it meanwhile is refused. The end of the process frees it, too.

    Args:
        folder: The folder; made if missing.

    Raises:
        BlockingIOError: It is reserved by another process or thread.
    """
    try:
        import fcntl
    except ImportError:  # Windows has other locks, which leave a file behind
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder} is in use by another fit; wait for its end, or choose another") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


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


def require_plain(path: Path) -> None:
    """Refuse pipes, devices and folders; opening a pipe would wait for its writer, and a device need not end.

    Raises:
        ValueError: There is something at `path` that is not a plain file.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a plain file")


def require_heaps_that_end(path: Path) -> None:
    """Refuse an HDF5 file with a damaged heap for which the HDF5 library searches for ever.

    Names of dimensions and texts lie in global heaps: a header of 16 bytes ("GCOL", version, size), then objects with
    an index and a length each. Free space has index 0 and ends the heap; where its length is 0, the library takes no
    step (HDF5 file format specification, III.E).

    Raises:
        ValueError: Such a heap is in the file.
    """
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            heap = content.find(b"GCOL\x01\x00\x00\x00")
            while heap >= 0 and heap + 16 <= len(content):
                (size,) = struct.unpack_from("<Q", content, heap + 8)
                place, end = heap + 16, min(heap + size, len(content))
                while place + 16 <= end:
                    index, length = struct.unpack_from("<H6xQ", content, place)
                    if index == 0 and length == 0:
                        raise ValueError(f"the heap at byte {heap} does not end")
                    place += length if index == 0 else 16 + -(-length // 8) * 8
                heap = content.find(b"GCOL\x01\x00\x00\x00", heap + 8)


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.
        what: Description of the file for error messages, such as "a result record".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or is something else, or its values hold one another too deeply.
    """
    path = Path(path)
    require_plain(path)
    if path.exists() and path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} is not {what}: it is larger than {LARGEST_JSON} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is truncated or not {what}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not {what}: it holds no JSON object")
    return value


def read_npz(
    path: str | os.PathLike, required: Sequence[str] = (), optional: Sequence[str] | None = None, *,
    writer: str = "numpy.savez", largest: int | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Read the arrays of an npz file, of numbers or text; nothing is unpickled.

    The sizes that the file declares are checked before memory is taken for them.

    Args:
        path: Path of the file.
        required: Names of arrays that the file must have.
        optional: Names of further arrays to read where the file has them; by default all others.
        writer: Function that writes such files, for error messages.
        largest: Largest number of bytes of all arrays together; by default 2 GiB, or 20 times the file's size if that
            is larger.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, damaged, encrypted or no npz file; it lacks a required array, an array holds
            Python objects, or the arrays are too large. The message names the file, the array and the remedy.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.files import read_npz
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "own.npz"), eda=[0.1, 0.2], subject=["A", "B"], note="not needed")
        ...     arrays = read_npz(Path(folder, "own.npz"), required=["eda", "subject"], optional=["label"])
        >>> sorted(arrays), arrays["subject"].tolist()
        (['eda', 'subject'], ['A', 'B'])
    """
    path = Path(path)
    require_plain(path)
    with path.open("rb") as stream, naming(str(path)):
        try:
            archive = zipfile.ZipFile(stream)
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        except Exception as error:  # a damaged archive may raise any type of error
            raise ValueError(
                f"no npz file, or only a part of one ({one_line(error)}); write it again with {writer}"
            ) from error
        absent = [name for name in required if name not in members]
        if absent:
            raise ValueError(f"array {absent[0]!r} is missing; the file has {list(members)}")
        wanted = {n: m for n, m in members.items() if optional is None or n in required or n in optional}
        declared = sum(member.file_size for member in wanted.values())
        largest = max(LARGEST_ARRAYS, LARGEST_RATIO * path.stat().st_size) if largest is None else largest
        if declared > largest:
            raise ValueError(
                f"its arrays would take {declared} bytes of memory, more than the {largest} bytes allowed; write it "
                "without compression, or with fewer or smaller arrays"
            )
        arrays = {}
        for name, member in wanted.items():
            try:
                arrays[name] = _read_array(archive, member)
            except Exception as error:
                raise ValueError(
                    f"array {name!r} cannot be read ({one_line(error)}); write the file again with {writer}"
                ) from error
        return arrays


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read one array of an npz file; ValueError if its header does not agree with its size, or it is pickled."""
    from numpy.lib import format as npy  # here, since the command line must answer without numpy

    with archive.open(member.filename) as stream:
        version = npy.read_magic(stream)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"a format of version {version}")
        shape, _, dtype = readers[version](stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which could run code; give numbers, or text by .astype(str)")
        content = member.file_size - stream.tell()
        if math.prod(shape) * max(dtype.itemsize, 1) != content:  # an item of no bytes could stand any number of times
            raise ValueError(f"its header says {dtype} of shape {shape}, but it has {content} bytes")
    with archive.open(member.filename) as stream:
        array = npy.read_array(stream, allow_pickle=False)
    if dtype.kind == "U" and array.nbytes and array.ravel("K").view(f"{dtype.str[0]}u4").max() > sys.maxunicode:
        raise ValueError("it holds numbers that are no characters")  # which Python finds only when it looks at them
    return array


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8 as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's JSON text with sorted keys, as 64 hexadecimal digits."""
    return sha256_text(json.dumps(value, sort_keys=True))


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
