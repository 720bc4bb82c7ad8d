"""Decoding a folder of recordings as a stream: memory against its size, speed by processes, memory by length.

README.md of the medication entry says what came out. All recordings are simulated.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib.externals.loky import get_reusable_executor
from timing import alternate, report, summary
from units import CLEAR, _peak

import pyrozoo as zoo
from pyrozoo.data.batch import Batch
from pyrozoo.files import sha256_file
from pyrozoo.models.medication import decode_folder, read, read_segments, simulate
from pyrozoo.models.medication.uses.streaming import decode_file, digest_of_fit

FILES = (10, 40, 160)  # in a folder
RECORDINGS = 20  # in a file
LENGTHS = (10**4, 10**5, 10**6)  # frames of one recording
LONGEST_CSV = 10**5
PROCESSES = (1, 2)
DECODERS = ("map", "mea")
RATE = 5.0


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report(given, _tables(given, Path(folder)))


def _tables(given: argparse.Namespace, place: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    run = saved_fit(place / "run")
    if given.part in ("all", "folders"):
        title = f"peak memory of each process against the files in the folder, {RECORDINGS} recordings in each"
        yield title, against_files(run, place / "folders", given.files)
    if given.part in ("all", "speed"):
        title = f"{given.files[1]} files by the number of processes, warmed up and compiled before"
        yield title, against_processes(run, place / "speed", given.files[1], given.rounds)
    if given.part in ("all", "length"):
        title = "growth of the peak memory by a file with one recording, in a fresh process, compiled before"
        yield title, against_length(run, place / "length", given.lengths)


# ------------------------------------------------------------------------------------------------------------- data
def saved_fit(path: Path) -> Path:
    """A closed-form fit to 60 simulated recordings of the pen, saved."""
    train = simulate("pen", 60, "medium", 0, RATE)
    zoo.fit(zoo.create_model("medication", train), "closed-form", train, progress=False).save(path)
    return path


def write_files(folder: Path, number: int, recordings: int = RECORDINGS) -> int:
    """Write files of simulated recordings, no two alike; returns their frames."""
    folder.mkdir(parents=True)
    frames = 0
    for i in range(number):
        batch = simulate("pen", recordings, "medium", 1 + i, RATE)
        write(folder / f"part{i:04d}.npz", batch["score"].numpy(), _names(batch), batch)
        frames += len(batch["score"])
    return frames


def write_long(path: Path, length: int) -> None:
    """Write one recording of so many frames: simulated sessions, one after the other."""
    batches = (simulate("pen", 50, "medium", 1000 + i, RATE) for i in itertools.count())
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < length:
        batch = next(batches)
        parts.append(batch["score"].numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, np.concatenate(parts)[:length], np.full(length, "r0"), batch)


def write(path: Path, score: np.ndarray, names: np.ndarray, like: Batch) -> None:
    """Write scores as `medication.read` reads them, by the ending of the name."""
    labels = like.coords["label_class"].astype(str)
    if path.suffix == ".npz":
        np.savez(path, score=score, recording=names, labels=labels, rate=RATE)
    else:
        table = pd.DataFrame(score, columns=labels)
        table.insert(0, "recording", names)
        table.to_csv(path, index=False)


def _names(batch: Batch) -> np.ndarray:
    return np.repeat(batch.names("recording").astype(str), batch["lengths"].tolist())


# ---------------------------------------------------------------------------------------------------------- memory
def against_files(run: Path, place: Path, numbers: Sequence[int], recordings: int = RECORDINGS) -> pd.DataFrame:
    """Peak memory [MB] of the calling process and of the largest of its two workers, in fresh processes."""
    rows = {}
    for number in numbers:
        folder = place / f"{number}"
        frames = write_files(folder, number, recordings)
        content = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        caller, worker = fresh(folder_peaks, run, folder, place / f"out{number}")
        rows[f"{number} files"] = {
            "recordings": number * recordings, "frames": frames, "folder_MB": content, "caller_MB": caller,
            "worker_MB": worker,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def folder_peaks(run: Path, folder: Path, out: Path, n_jobs: int = 2) -> tuple[float, float]:
    """Peaks [MB] of this process and of its largest child, over decoding a folder and reading all results back."""
    torch.set_num_threads(1)
    decode_folder(run, folder, out, n_jobs=n_jobs, progress=False)
    assert sum(len(table) for table in read_segments(out)) > 0
    peaks = float("nan"), float("nan")
    if CLEAR.exists():
        peaks = _peak(), max(map(_child_peak, _children()), default=float("nan"))
    if n_jobs > 1:
        get_reusable_executor().shutdown()  # or this process ends when they have waited in vain for minutes
    return peaks


def _children() -> list[int]:
    """The workers, which wait for further work, and joblib's small helper."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def _child_peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def against_length(run: Path, place: Path, lengths: Sequence[int]) -> pd.DataFrame:
    """Growth of the peak [MB] over reading a file, and over reading and decoding it, also per frame [bytes]."""
    rows = {}
    for ending in ("npz", "csv"):
        for length in lengths:
            if ending == "csv" and length > LONGEST_CSV:
                continue
            path = place / f"long{length}.{ending}"
            write_long(path, length)
            size = path.stat().st_size
            reading = fresh(file_peak, run, path, place, None)
            for decoder in DECODERS:
                peak = fresh(file_peak, run, path, place, decoder)
                rows[f"{ending}, {length} frames, {decoder}"] = {
                    "file_MB": size / 2**20, "reading_MB": reading, "all_MB": peak,
                    "reading_per_byte": reading * 2**20 / size, "all_bytes_per_frame": peak * 2**20 / length,
                }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def file_peak(run: Path, path: Path, place: Path, decoder: str | None) -> float:
    """Growth of the peak [MB] over one file; only over reading it where there is no decoder."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / f"small{path.suffix}"
        write_long(small, 200)
        one_file(run, small, Path(folder), decoder or "map")()  # compiles, loads the fit
        function = partial(read, path) if decoder is None else one_file(run, path, Path(folder), decoder)
        if not CLEAR.exists():
            function()
            return float("nan")
        CLEAR.write_text("5")  # sets the peak back to what is held now
        before = _peak()
        function()
        return _peak() - before


def one_file(run: Path, path: Path, out: Path, decoder: str) -> Callable[[], dict[str, Any]]:
    """The job of a file, as `decode_folder` gives it to a worker, without a limit."""
    return partial(
        decode_file, str(path), path.name, sha256_file(path), str(run), digest_of_fit(run), decoder, 200, 0, 0, RATE,
        str(out / f"{path.name}.csv"), float("inf"),
    )  # fmt: skip


def fresh(function: Callable, *given: Any) -> Any:
    """What a function returns in a fresh process: one that has once had much memory does not give all of it back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


# ----------------------------------------------------------------------------------------------------------- speed
def against_processes(
    run: Path, place: Path, number: int, rounds: int, processes: Sequence[int] = PROCESSES, recordings: int = RECORDINGS
) -> pd.DataFrame:
    """Seconds for the same folder, ratio to one process, and frames per second (of the fastest round).

    The first round, in which processes start, read the fit and compile or load the kernels, is not counted.
    """
    frames, count = write_files(place / "in", number, recordings), itertools.count()

    def all_files(n: int) -> None:
        decode_folder(run, place / "in", place / f"out{next(count)}", n_jobs=n, progress=False)

    seconds = alternate({f"{n} processes": partial(all_files, n) for n in processes}, rounds)
    table = summary(seconds, f"{processes[0]} processes")
    return table.assign(frames=frames, frames_per_s=frames / table["min_ms"] * 1e3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("all", "folders", "speed", "length"), default="all")
    parser.add_argument("--files", type=int, nargs=3, default=FILES, metavar="N", help="in the three folders")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="T", help="frames of a recording")
    parser.add_argument("--rounds", type=int, default=3, help="of the folder by each number of processes (default: 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON, too")
    parser.set_defaults(threads=1, clock="wall")  # processor time of workers is not that of this process
    return parser


if __name__ == "__main__":
    main()
