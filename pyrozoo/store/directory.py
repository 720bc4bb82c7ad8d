"""A run directory on disk: JSON and safetensors, written atomically, checked on reading, never pickle."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.batch import Batch
from ..files import atomic_write_bytes, read_json_object, require_plain, sha256_file, sha256_json
from .batches import load_batch, save_batch
from .tensors import load_tensors, save_tensors

FORMAT = 1
RECORD, WEIGHTS, PROTOTYPE = "run.json", "weights.safetensors", "prototype.safetensors"


def write_directory(
    path: Path, record: Mapping[str, Any], weights: Mapping[str, Tensor], prototype: Batch, *, overwrite: bool = False
) -> None:
    """Write ``run.json``, ``weights.safetensors`` and ``prototype.safetensors`` to a new folder.

    Args:
        path: Folder to make.
        record: Facts of the run; the format, the files' hashes and the record's own are added.
        weights: Tensors by name.
        prototype: One training row, see `pyrozoo.Fit`.
        overwrite: Replace an earlier run directory there.

    Raises:
        FileExistsError: There is something at `path`, and `overwrite` is False or it is no run directory.
        ValueError: A name in the prototype that JSON cannot hold.
    """
    if path.exists() and not (overwrite and (path / RECORD).exists()):
        raise FileExistsError(f"{path} exists; choose another folder, or overwrite=True for an earlier run")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_prefix(path)}{os.getpid()}-", dir=path.parent))
    try:
        save_tensors(folder / WEIGHTS, weights, {})
        save_batch(folder / PROTOTYPE, prototype)
        files = {name: sha256_file(folder / name) for name in (WEIGHTS, PROTOTYPE)}
        whole = {"format": FORMAT, **record, "files": files}
        whole["sha256"] = sha256_json(whole)
        atomic_write_bytes(folder / RECORD, json.dumps(whole, indent=1).encode())
        os.chmod(folder, 0o755)
        if not path.exists():
            os.replace(folder, path)
        elif not _exchanged(folder, path):  # a kill between the two renames leaves both, and `read_directory` finds one
            os.replace(path, folder.with_name(f"{folder.name}-old"))
            os.replace(folder, path)
    finally:
        if not path.exists() and (folder / RECORD).exists():  # interrupted between the two renames
            os.replace(folder, path)
        shutil.rmtree(folder, ignore_errors=True)
        if path.exists():
            for left in _left_behind(path):
                shutil.rmtree(left, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that each name always has a whole one; False where that cannot be done."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    paths = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):  # Linux: AT_FDCWD, RENAME_EXCHANGE
        return library.renameat2(-100, paths[0], -100, paths[1], ctypes.c_uint(2)) == 0
    if hasattr(library, "renamex_np"):  # macOS: RENAME_SWAP
        return library.renamex_np(*paths, ctypes.c_uint(2)) == 0
    return False


def _prefix(path: Path) -> str:
    """Beginning of the hidden names beside `path` that this machine gives to unfinished folders."""
    return f".{path.name}-{hashlib.sha256(platform.node().encode()).hexdigest()[:6]}-"


def _left_behind(path: Path) -> list[Path]:
    """Hidden folders beside `path` of this process, or of processes of this machine that are no longer there."""
    found = []
    for folder in path.parent.glob(f"{glob.escape(_prefix(path))}*"):
        number = folder.name.removeprefix(_prefix(path)).partition("-")[0]
        if not number.isdecimal() or not folder.is_dir():
            continue
        alive = int(number) != os.getpid()
        try:
            if alive:
                os.kill(int(number), 0)  # signal 0 only asks whether the process is there
        except ProcessLookupError:
            alive = False
        except OSError:
            alive = True
        found += [] if alive else [folder]
    return found


def _whole(path: Path) -> Path:
    """The run directory `path`; if a kill left it only under a hidden name, that one."""
    if (path / RECORD).exists() or path.exists():
        return path
    found = [folder for folder in _left_behind(path) if (folder / RECORD).exists()]
    return max(found, key=lambda folder: (folder / RECORD).stat().st_mtime, default=path)


def read_directory(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Batch]:
    """Read what `write_directory` wrote: the record, the weights and the prototype.

    Raises:
        FileNotFoundError: No run directory there.
        ValueError: Truncated, edited or foreign files, or another format.
    """
    path = _whole(path)
    record = _read_record(path / RECORD)
    for name in (WEIGHTS, PROTOTYPE):  # no other file is opened, whatever the record names
        require_plain(path / name)
        if not (path / name).exists() or sha256_file(path / name) != record["files"][name]:
            raise ValueError(f"{path / name}: missing or changed since the run was saved; copy the whole folder again")
    weights, _ = load_tensors(path / WEIGHTS)
    return record, weights, load_batch(path / PROTOTYPE)


def _read_record(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise FileNotFoundError(f"{file.parent} is no run directory: it has no {RECORD}")
    foreign = f"{file}: truncated, or not written by pyrozoo; save the run again"
    try:
        record = read_json_object(file, "the record of a run")
        digest, found = record.pop("sha256"), record["format"]
        own = sha256_json(record)
    except (KeyError, ValueError, RecursionError):
        raise ValueError(foreign) from None
    if found != FORMAT:
        raise ValueError(f"{file}: format {_shown(found)}, this version reads {FORMAT}; use the version that wrote it")
    if digest != own:
        raise ValueError(f"{file}: changed since the run was saved; restore the file or fit again")
    files = record.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted((WEIGHTS, PROTOTYPE)):
        raise ValueError(f"{file}: its files are not {WEIGHTS} and {PROTOTYPE}; save the run again")
    return record


def _shown(value: Any) -> str:
    """A value of a damaged record, which may be of any type and length, in a message."""
    return repr(value) if isinstance(value, int) and abs(value) < 10**9 else f"of another kind ({type(value).__name__})"
