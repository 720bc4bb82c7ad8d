"""Decode a folder of recordings that is larger than memory: file by file, on all cores; it can be interrupted.

Each file is a job (`jobs.run_jobs`). Its result is a table, ``<job>.csv``, and then a small record, ``<job>.json``,
which marks the file as finished. Table and record are separate because the records of all files are held in memory at
once, and the tables of all files may not fit.
"""

from __future__ import annotations

import functools
import os
import re
import zipfile
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import effective_n_jobs
from tqdm.auto import tqdm

from ....data.batch import Batch
from ....experiments.jobs import JobError, run_jobs
from ....files import atomic_write_text, naming, one_line, read_json_object, sha256_file, sha256_text
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ....inference.saving import load
from ..data import readers
from ..decoding import Decoded, Plan, frame_rate
from ..process import decode
from .stream_tables import record_of, to_text

ENDINGS = (".npz", ".csv")
# Arguments that identify a result: if one of these differs, it is the result of something else. Paths may change.
IDENTITY = ("name", "sha256", "fit", "decoder", "draws", "average", "seed", "rate")
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._=+,@-]{0,150}")
# Bytes of memory per byte of content, to read and check a file; benchmarks/decode_stream.py measures 4.7 and 8.9. Each
# cell of a csv file is an object at first, so that files with short cells take more than that.
_READING = {".npz": 6, ".csv": 16}


def decode_folder(
    run: str | Path, folder: str | Path, out: str | Path, *, decoder: str | None = None, rate: float | None = None,
    draws: int = 200, average: int = 0, seed: int = 0, n_jobs: int | None = None, memory: float | None = None,
    progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Decode all files of recordings in a folder with a saved fit, and write tables of the steps that were found.

    Memory is that of one file per worker: its scores, and the decoder's state for one recording of it, some
    8 (5 N + 6 K) bytes per frame for K labels, N = 2 K − 1. Posterior marginals of frames are not kept; for these, use
    `decode_recordings` on single recordings.

    The call may be stopped at any time, or lose a worker; the same call then continues. A finished file is not decoded
    again; files that have been added to the folder since are decoded. A process that is killed while it writes may
    leave a hidden ``.tmp`` file in `out`, which is never read.

    Args:
        run: Folder of a fit, as `pyrozoo.load` reads it; each worker process reads it once.
        folder: Folder of ``.npz`` or ``.csv`` files as `read` reads them, each with one recording or more, also in
            subfolders; names that begin with a dot and links to folders are left out. Two files may hold recordings of
            the same name.
        out: Folder of the results, made if missing, and not inside `folder`: see `read_segments`, `read_performed`.
        decoder: A name in `decode.DECODERS`; the model's default where None.
        rate: Frames per second, for files that have no rate.
        draws: Number of posterior draws for the means of the parameters, as in `decode_recordings`.
        average: Number of posterior draws to average over, as in `decode_recordings`.
        seed: Random seed for the draws; results do not depend on the order of files or on `n_jobs`.
        n_jobs: Number of worker processes; all cores where None. With 1 the work is done in this process.
        memory: GB that one worker may use to read and decode one file; where None, the workers share the machine's
            memory. A file that needs more is refused, and the others are decoded.
        progress: Whether to show progress on standard error.

    Returns:
        Table with one line per file of the folder, by name: index ``file``, the path below `folder`; columns
        ``recordings``, ``frames`` and ``segments``, their numbers in the file.

    Raises:
        FileNotFoundError: There is no such run or folder.
        ValueError: No file of recordings in the folder; a decoder that does not suit the model; a file that has changed
            since it was decoded, or a result of another fit or other arguments, with the remedy. Nothing has been
            decoded.
        JobError: Some files are bad; its ``failures`` maps their paths below `folder` to messages with the remedy. All
            others are decoded.
        concurrent.futures.BrokenExecutor: Worker processes were killed again and again. Finished files are kept.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import decode_folder, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> names = np.repeat(["left", "right"], test["lengths"])  # of the recording of each frame
        >>> with tempfile.TemporaryDirectory() as root:
        ...     run, folder, out = (Path(root, name) for name in ("run", "new", "out"))
        ...     _ = zoo.save(fit, run)
        ...     folder.mkdir()
        ...     np.savez(folder / "monday.npz", score=test["score"], recording=names, rate=test.info["rate"])
        ...     table = decode_folder(run, folder, out, draws=10, n_jobs=1, progress=False)
        >>> table.loc["monday.npz"].to_dict()
        {'recordings': 2, 'frames': 596, 'segments': 12}
    """
    run, folder, out = (Path(path).resolve() for path in (run, folder, out))
    found = _listed(folder, out)
    fit = digest_of_fit(run)
    decoder = decoder or _fit(str(run), fit).model.default_decoder
    settings = {"fit": fit, "decoder": decoder, "draws": draws, "average": average, "seed": seed, "rate": rate}
    # Before anything is read: this refuses a decoder that does not fit.
    decode.decode([], _plan(str(run), fit, decoder, draws, average, seed).mean[0], decoder)
    n_jobs = -1 if n_jobs is None else n_jobs
    workers = effective_n_jobs(n_jobs)
    limit = _machine_memory() / workers if memory is None else memory * 1e9
    digests, failed = _digests(found, workers, progress)
    jobs: dict[str, dict[str, Any]] = {}
    for name, digest in digests.items():
        job = job_name(name)
        given = {"name": name, "sha256": digest, **settings}
        paths = {"path": str(found[name]), "run": str(run), "table": str(out / f"{job}.csv")}
        jobs[job] = {**given, **paths, "memory": limit}
    done = {job: record for job, given in jobs.items() if (record := _finished(out, job, given)) is not None}
    missing = {job: given for job, given in jobs.items() if job not in done}
    try:
        done |= run_jobs(decode_file, missing, out, n_jobs=n_jobs, progress=progress)
    except JobError as error:
        failed |= {jobs[job]["name"]: message for job, message in error.failures.items()}
        raise JobError(dict(sorted(failed.items()))) from error.__cause__
    except BrokenExecutor as error:
        error.add_note(
            f"{out} keeps the files that are finished; call again for the others, with fewer n_jobs, or a smaller "
            "memory, which refuses the files that need more, if the workers were killed for memory"
        )
        raise
    if failed:
        raise JobError(failed)
    columns = ["recordings", "frames", "segments"]
    index = pd.Index([given["name"] for given in jobs.values()], name="file")
    return pd.DataFrame([[done[job][column] for column in columns] for job in jobs], index=index, columns=columns)


# ---------------------------------------------------------------------------------------------- one file: the job
def decode_file(
    path: str, name: str, sha256: str, run: str, fit: str, decoder: str, draws: int, average: int, seed: int,
    rate: float | None, table: str, memory: float,
) -> dict[str, Any]:  # fmt: skip
    """Decode one file; see `decode_folder`.

    Args:
        path: Path of the file.
        name: Path of the file below the folder.
        sha256: Digest of the file when the folder was listed.
        run: Folder of the fit.
        fit: Digest of the fit.
        decoder: A name in `decode.DECODERS`.
        draws: Number of posterior draws for the means of the parameters.
        average: Number of posterior draws to average over, or 0.
        seed: Random seed for the draws.
        rate: Frames per second, for a file that has no rate.
        table: Path of the table to write.
        memory: Bytes of memory that reading or decoding may use.

    Returns:
        Numbers of ``recordings``, ``frames`` and ``segments``; ``steps``, the names of the steps; ``table_sha256``.

    Raises:
        ValueError: The file is bad; the message names it, the field or recording, the row or frame, and the remedy.
        MemoryError: The file needs more than `memory`.
    """
    file = Path(path)
    if sha256_file(file) != sha256:
        raise ValueError(f"{file}: changed after the folder was listed; wait until it is complete, and call again")
    _require(_reading_bytes(file), memory, f"{file}: to read it", "cut it into several files")
    found, plan = _fit(run, fit), _plan(run, fit, decoder, draws, average, seed)
    batch = readers.read(file, labels=found.prototype.coords["label_class"].tolist(), rate=rate)
    with naming(str(file)):
        decoded = _decoded(found, plan, batch, memory, str(file))
    text = to_text(decoded)
    atomic_write_text(Path(table), text)
    return {
        "recordings": len(decoded.names),
        "frames": sum(map(len, decoded.labels)),
        "segments": len(decoded.segments()),
        "steps": list(decoded.label_names[1:]),
        "table_sha256": sha256_text(text),
    }


# Both are cached for the next file: reading a fit and computing its posterior means costs as much as decoding a file.
@functools.lru_cache(maxsize=1)
def _fit(run: str, fit: str) -> Fit:
    found = load(run)
    if digest_of_fit(Path(run)) != fit:
        raise ValueError(
            f"{run}: another fit has taken its place meanwhile; call again, with another folder of results"
        )
    return found


@functools.lru_cache(maxsize=1)
def _plan(run: str, fit: str, decoder: str, draws: int, average: int, seed: int) -> Plan:
    found = _fit(run, fit)
    with isolated(seed):
        # Parameters are global, so their draws do not depend on the recordings: the fit's own prototype will do.
        data = found.prototype.hide()
        return Plan.of(found.model, found.guide, data, decoder, draws=draws, average=average)


@torch.no_grad()
def _decoded(found: Fit, plan: Plan, batch: Batch, memory: float, file: str) -> Decoded:
    """Decode the recordings of a file one after the other: labels and step probabilities, without marginals."""
    model, data = found.model, found.prepare(batch.hide())
    lengths, names = data["lengths"].tolist(), [str(name) for name in data.names("recording")]
    longest = int(np.argmax(lengths))
    needed = _decoding_bytes(lengths[longest], model.n_labels)
    what = f"{file}: recording {names[longest]!r}: to decode its {lengths[longest]} frames"
    _require(needed, memory, what, "cut it where nothing happens")
    labels, performed = [], []
    for name, score in zip(names, data["score"].split(lengths), strict=True):
        potentials = [model.log_potentials(score).detach().cpu().numpy()]
        performed.append(plan.performed(potentials, [name])[0])
        labels += [own.astype(np.int16) for own in plan.labels(potentials, [name])]
    table = pd.DataFrame(performed, index=pd.Index(names, name="recording"), columns=list(model.names[1:]))
    return Decoded(np.array(names), model.names, frame_rate(model, data), labels, [], table, plan.decoder)


def _decoding_bytes(n_frames: int, n_labels: int) -> float:
    """Memory of forward and backward pass [bytes]: five numbers per node and six per label, in each frame."""
    return 8.0 * (5 * (2 * n_labels - 1) + 6 * n_labels) * n_frames


def _reading_bytes(file: Path) -> float:
    """Estimate the memory for reading a file [bytes] from its size; of an npz file, from its uncompressed size."""
    size = file.stat().st_size
    if file.suffix.lower() == ".npz":
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
        except (OSError, zipfile.BadZipFile):
            return 0.0  # the reader says what is wrong with it
    return float(_READING[file.suffix.lower()] * size)


def _require(needed: float, memory: float, what: str, remedy: str) -> None:
    if needed > memory:
        raise MemoryError(
            f"{what} takes about {needed / 1e9:.3g} GB, a worker has {memory / 1e9:.3g} GB; {remedy}, or give it more: "
            "memory=..., or fewer n_jobs"
        )


def _machine_memory() -> float:
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    return float(np.prod([float(os.sysconf(name)) for name in names])) if hasattr(os, "sysconf") else float("inf")


# ---------------------------------------------------------------------------------------------- the folder
def job_name(name: str) -> str:
    """Name of a file's job: unique for every file, and independent of the other files.

    A plain name in lower case is used as it is; any other gets a digest after its ending, so that it cannot be equal to
    a plain one.
    """
    if _PLAIN.fullmatch(name) and name.endswith(ENDINGS):
        return name
    return f"{re.sub(r'[^a-z0-9._-]', '-', name.lower()).lstrip('._-')[-100:].lstrip('._-')}-{sha256_text(name)[:16]}"


def _listed(folder: Path, out: Path) -> dict[str, Path]:
    """List the files of recordings, sorted by their path below the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if out.is_relative_to(folder):
        raise ValueError(
            f"out: {out} is inside {folder}, where its tables would be taken for recordings; put it beside"
        )
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if file.lower().endswith(ENDINGS) and not file.startswith("."):
                path = Path(place, file)
                found[path.relative_to(folder).as_posix()] = path
    if not found:
        raise ValueError(f"{folder}: no file of recordings, {' or '.join(ENDINGS)}, is in it; give the folder of them")
    return dict(sorted(found.items()))


def _digests(found: Mapping[str, Path], workers: int, progress: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Compute the SHA-256 of each file, and messages on files that cannot be read or have no valid name, by name.

    Files are compared by content, since times of files do not survive a copy. This takes a hundredth of the time of
    decoding.
    """

    def digest(item: tuple[str, Path]) -> tuple[str | None, str]:
        name, path = item
        try:
            name.encode()
            return sha256_file(path), ""
        except UnicodeEncodeError:
            return None, f"ValueError: {name!a}: its name is not UTF-8; rename it"
        except OSError as error:
            return None, f"{type(error).__name__}: {one_line(error)}"

    good, bad = {}, {}
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(found), desc="checksums", disable=not progress) as bar:
        for name, (value, wrong) in zip(found, pool.map(digest, found.items()), strict=True):
            if value is None:
                bad[name] = wrong
            else:
                good[name] = value
            bar.update()
    return good, bad


def _finished(out: Path, job: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the result of a finished file, None if there is none; ValueError for a result with other arguments."""
    path = out / f"{job}.json"
    if not path.exists():
        return None
    record = record_of(path)
    own, table = record["arguments"], out / f"{job}.csv"
    remedy = f"delete {path} to decode the file again, or choose another folder of results"
    other = {key: own.get(key) for key in IDENTITY if own.get(key) != given[key]}
    if "sha256" in other and "name" not in other:
        raise ValueError(f"{given['path']}: changed since it was decoded; {remedy}")
    if other:
        asked = {key: given[key] for key in other}
        raise ValueError(f"{path}: is a result with {other}, not {asked}; {remedy}")
    if not table.exists():
        raise ValueError(f"{table}: is missing; {remedy}")
    return record["result"]


def digest_of_fit(run: Path) -> str:
    """Digest that a saved fit has in its record."""
    path = run / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run}: there is no run; give a folder that Fit.save has written")
    return str(read_json_object(path, "the record of a run").get("sha256"))
