"""Faults thrown at the zoo: kills, damaged files, threads, a full disk, signals; prints what was lost, and counts.

Parts (``--parts``, by default all), each a table:

* kills: a process that trains, saves, runs jobs, writes rows or decodes a folder is killed (SIGKILL) at a random
  moment, again and again; ``lost`` counts kills after which what was finished before could not be read, or the work
  could not go on to the result of an undisturbed process.
* files: ``inputs`` damaged copies of a valid file per reader, ``slow`` where it also fits or predicts (bytes changed,
  cut, repeated, numbers replaced; of run directories half with hashes that fit again), in processes whose memory is
  limited. ``read``: accepted, as a change
  of a value can be. ``refused``: an error of the kinds that the documentation names, in one line. ``unnamed``: such an
  error that does not name the file. ``raw``: errors of other kinds; on the command line, a traceback. ``crashed``,
  ``hung``: processes that died, or took longer than 30 s.
* bombs: files of a few bytes that ask for gigabytes of memory.
* frames: ``inputs`` damaged data frames given to `Batch.from_dataframe`; of polars and pyarrow, too, where they are
  installed.
* threads: predictions and fits in four threads at once, compared with those of one thread.
* growth: memory of one process over many fits [MB], after the first 50.
* checkpoint: a second process that trains on the same checkpoint folder; it must be refused.
* disk: writing to a file system that is full (a tmpfs where one may be mounted, else a limit on the size of files).
* signals: ``pyrozoo fit`` interrupted (SIGINT) or terminated (SIGTERM) at a random moment of the training; its exit
  code, and whether ``--resume`` leads to the result of an undisturbed run.

Processes are forked (Linux, macOS), so that none of them imports torch again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timing import LAYOUT, environment

import pyrozoo as zoo
from pyrozoo.cli import main as command
from pyrozoo.data.tables import read_table
from pyrozoo.files import sha256_file, sha256_json
from pyrozoo.models import auxvae, m3sense, medication
from pyrozoo.posterior.drawing import draw
from pyrozoo.posterior.draws import Draws
from pyrozoo.store.directory import PROTOTYPE, WEIGHTS

SIZES = {
    "full": {
        "kills": 200,
        "inputs": 10_000,
        "slow": 10_000,
        "calls": 50,
        "fits": 300,
        "doubled": 20,
        "full": 20,
        "signals": 40,
    },
    "smoke": {"kills": 5, "inputs": 4, "slow": 4, "calls": 2, "fits": 2, "doubled": 1, "full": 1, "signals": 2},
}
THREADS = 4
SMALL = {"c_dim": 2, "z_dim": 2, "width": 6, "depth": 1}
COLUMNS: dict[str, Any] = {"unit": "well", "x": ["u", "v"], "y": "q"}
DOCUMENTED = (ValueError, OSError, KeyError, TypeError)
PER_PROCESS, MEMORY, SECONDS = 250, 2 << 30, 30  # inputs, bytes, s
WORDS = (b"-1", b"0", b"99999999999", b"1e308", b"nan", b"inf", b"x", b"", b'"a"', b"1" * 400)
NEVER = 600.0  # s after which a process that should have ended counts as hung


def table(n_units: int = 4, n: int = 6, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(rng.normal(size=(n * n_units, 2)), columns=["u", "v"])
    df = df.assign(well=np.repeat([f"well {i}" for i in range(n_units)], n), q=df["u"] + rng.normal(size=len(df)))
    return df.assign(q=df["q"].where(np.arange(len(df)) % 3 > 0))


def small_fit(**options: Any) -> zoo.Fit:
    data = zoo.Batch.from_dataframe(table(), **COLUMNS)
    return zoo.fit(zoo.create_model("ssmtl", data, **SMALL), "paper", data, **{"steps": 5, "progress": False} | options)


def weights(fit: zoo.Fit) -> list[torch.Tensor]:
    return [t.detach().clone() for run in fit.runs for m in (run.model, run.guide) for t in m.state_dict().values()]


def equal(one: zoo.Fit, other: zoo.Fit) -> bool:
    pairs = zip(weights(one), weights(other), strict=True)
    return one.history.equals(other.history) and all(torch.equal(a, b) for a, b in pairs)


# -------------------------------------------------------------------- processes
def forked(work: Callable[[], Any]) -> int:
    """Run `work` in a process of its own; returns its number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.default_int_handler if name == signal.SIGINT else signal.SIG_DFL)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            code = work() or 0
    except BaseException:
        code = 71
    finally:
        os._exit(code)


def ended(number: int, within: float = NEVER) -> int | None:
    """Exit code of a process, negative if a signal ended it; None, after killing it, if it takes too long."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None


def hit(work: Callable[[], Any], kind: int, after: float) -> int | None:
    """Start a process, send it a signal after some seconds unless it has ended, and return its exit code."""
    number = forked(work)
    until = time.monotonic() + after
    while time.monotonic() < until:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(number, kind)
    return ended(number)


def duration(work: Callable[[], Any]) -> float:
    """Seconds that the process takes when nobody disturbs it."""
    started = time.monotonic()
    ended(forked(work))
    return time.monotonic() - started


# -------------------------------------------------------------------- kills
def kills(n: int, folder: Path, rng: random.Random) -> pd.DataFrame:
    """A line per kind of work."""
    kinds = {"fit": _killed_fits, "save": _killed_saves, "jobs": _killed_jobs, "rows": _killed_rows,
             "decode": _killed_decoding}  # fmt: skip
    lines = {}
    for i, (name, kind) in enumerate(kinds.items()):
        share = n // len(kinds) + (i < n % len(kinds))
        (folder / name).mkdir()
        lines[name] = kind(share, folder / name, rng)
    found = pd.DataFrame(lines).T
    found.loc["all"] = found.sum()
    return found


def _until_killed(n: int, work: Callable[[int], Any], check: Callable[[int, bool], bool], rng: random.Random) -> dict:
    """Kill `work` n times at random moments of its duration; `check(i, killed)` says whether all is well after it."""
    longest, found, i = duration(lambda: work(0)), Counter(kills=0, lost=0), 0
    while found["kills"] < n and i < 20 * n:
        i += 1
        killed = hit(functools.partial(work, i), signal.SIGKILL, rng.uniform(0, longest)) == -signal.SIGKILL
        found["kills"] += killed
        found["lost"] += not check(i, killed)
    return dict(found)


def _killed_fits(n: int, folder: Path, rng: random.Random) -> dict:
    options = {"steps": 60, "seed": 1}
    want, tries = small_fit(**options), Counter()

    def work(_: int) -> None:
        small_fit(**options, checkpoint=folder / f"c{tries['done']}", resume=True)

    def check(_: int, killed: bool) -> bool:
        if killed and rng.random() < 0.7:  # go on, and be killed again
            return True
        again = small_fit(**options, checkpoint=folder / f"c{tries['done']}", resume=True)
        tries["done"] += 1
        return equal(again, want)

    return _until_killed(n, work, check, rng)


def _killed_saves(n: int, folder: Path, rng: random.Random) -> dict:
    fits = [small_fit(seed=i) for i in range(2)]
    fits[0].save(folder / "run")

    def work(_: int) -> None:
        for k in range(20):
            fits[k % 2].save(folder / "run", overwrite=True)

    def check(_: int, __: bool) -> bool:
        try:
            whole = any(equal(zoo.load(folder / "run"), fit) for fit in fits)
            fits[0].save(folder / "run", overwrite=True)
        except Exception:
            return False
        return whole and os.listdir(folder) == ["run"]

    return _until_killed(n, work, check, rng)


def _killed_jobs(n: int, folder: Path, rng: random.Random) -> dict:
    jobs = {f"job-{k}": {"scores": [float(k), 2.0, 3.0]} for k in range(60)}
    want = {name: zoo.scores.summarise(**given) for name, given in jobs.items()}

    def work(i: int) -> None:
        zoo.run_jobs(zoo.scores.summarise, jobs, folder / f"{i}", progress=False)

    def check(i: int, _: bool) -> bool:
        try:
            before = {file.name: file.stat().st_mtime_ns for file in (folder / f"{i}").glob("*.json")}
            found = zoo.run_jobs(zoo.scores.summarise, jobs, folder / f"{i}", progress=False)
            kept = all((folder / f"{i}" / name).stat().st_mtime_ns == when for name, when in before.items())
        except Exception:
            return False
        shutil.rmtree(folder / f"{i}")
        return kept and json.dumps(found) == json.dumps(want)

    return _until_killed(n, work, check, rng)


def _killed_rows(n: int, folder: Path, rng: random.Random) -> dict:
    chunks = [table(seed=k) for k in range(20)]
    want = zoo.write_rows(folder / "want", chunks, **COLUMNS).sha256

    def work(_: int) -> None:
        zoo.write_rows(folder / "rows", chunks, **COLUMNS, overwrite=True)

    def check(_: int, __: bool) -> bool:
        with contextlib.suppress(ValueError, FileNotFoundError):  # incomplete, and it says so
            if zoo.open_rows(folder / "rows", verify=True).sha256 != want:
                return False
        if rng.random() < 0.5:  # the next one writes over what the kill has left
            return True
        try:
            work(0)
            return zoo.open_rows(folder / "rows", verify=True).sha256 == want
        except Exception:
            return False

    return _until_killed(n, work, check, rng)


def _killed_decoding(n: int, folder: Path, rng: random.Random) -> dict:
    run = medication_run(folder)
    (folder / "new").mkdir()
    data = medication.watch_sessions(0)[1]
    names = np.repeat([str(name) for name in data.names("recording")], data["lengths"].numpy())
    for k in range(6):
        np.savez(folder / "new" / f"day{k}.npz", score=data["score"] * 0.9**k, recording=names, rate=data.info["rate"])

    def decoded(out: str) -> pd.DataFrame:
        return medication.decode_folder(run, folder / "new", folder / out, draws=5, n_jobs=1, progress=False)

    want = decoded("want")

    def check(i: int, _: bool) -> bool:
        found = decoded(f"{i}")
        tables = [(folder / out / file.name).read_text() for file in sorted((folder / "want").glob("*.csv"))
                  for out in ("want", f"{i}")]  # fmt: skip
        shutil.rmtree(folder / f"{i}")
        return found.equals(want) and tables[::2] == tables[1::2]

    return _until_killed(n, lambda i: decoded(f"{i}") is None, check, rng)


def medication_run(folder: Path) -> Path:
    return zoo.save(zoo.load_reference("medication/watch"), folder / "run")


# -------------------------------------------------------------------- damaged files
def damaged(content: bytes, rng: random.Random) -> bytes:
    """A copy with bytes changed, a part cut out or repeated, or a number replaced; of a zip file, often in a member."""
    if content.startswith(b"PK") and rng.random() < 0.7:
        new_file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(new_file, "w") as new_zip:
            chosen = rng.choice(old.namelist())
            for name in old.namelist():
                new_zip.writestr(name, damaged(old.read(name), rng) if name == chosen else old.read(name))
        return new_file.getvalue()
    new = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not new:
            break
        at, length = rng.randrange(len(new)), rng.choice((1, 2, 4, 8, 64))
        how = rng.choice(("change", "change", "flip", "cut", "end", "repeat", "number", "number"))
        if how == "change":
            new[at : at + length] = rng.randbytes(min(length, len(new) - at))
        elif how == "flip":
            new[at] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del new[at : at + length]
        elif how == "end":
            del new[at:]
        elif how == "repeat":
            new[at:at] = new[at : at + length] * rng.choice((1, 3, 50))
        else:
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(new)))
            if numbers:
                found = rng.choice(numbers)
                new[found.start() : found.end()] = rng.choice(WORDS)
    return bytes(new)


class Case:
    """A reader and a valid file of it.

    Args:
        path: The file that is damaged.
        read: Called without arguments; reads the file.
        seal: Called after a change, so that hashes fit again; every other input only.
        line: Whether `read` is a command, which prints its error and returns an exit code.
        slow: Whether `read` fits or predicts, too, which takes many times longer than to read.
    """

    def __init__(
        self, path: Path, read: Callable, seal: Callable | None = None, line: bool = False, slow: bool = False
    ) -> None:
        self.path, self.read, self.seal, self.line, self.slow = path, read, seal, line, slow or line
        self.content = path.read_bytes()

    def outcome(self, content: bytes, seal: bool) -> str:
        self.path.write_bytes(content)
        if seal and self.seal is not None:
            with contextlib.suppress(Exception):
                self.seal()
        said = io.StringIO()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                found = self.read()
        except DOCUMENTED as error:
            text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if "\n" in text.strip():
                return f"raw: several lines of {type(error).__name__}"
            return "refused" if self._named(text) else f"unnamed: {type(error).__name__}: {text[:90]}"
        except BaseException as error:
            return f"raw: {type(error).__name__}: {str(error)[:90]}"
        if not self.line or found == 0:
            return "read"
        text = said.getvalue()
        if "Traceback" in text or "no input should cause" in text:
            return f"raw: {text.strip()[-120:]}"
        return "refused" if self._named(text) else f"unnamed: {text.strip()[:90]}"

    def _named(self, text: str) -> bool:
        return any(part in text for part in (self.path.name, self.path.parent.name))


def _cases(folder: Path) -> dict[str, list[Case]]:
    """Valid files of every reader, small ones."""
    fit = small_fit(checkpoint=folder / "point")
    run, csv = fit.save(folder / "run"), folder / "wells.csv"
    table().to_csv(csv, index=False)
    idata = zoo.to_arviz(fit, fit.train, draws=2)
    zoo.save_netcdf(idata, folder / "draws.nc")
    draw(fit, fit.train, draws=2).save(folder / "draws.npz")
    zoo.write_rows(folder / "rows", table(), **COLUMNS, support=2)

    def seal_run() -> None:
        record = json.loads((run / "run.json").read_text())
        record.pop("sha256", None)
        record["files"] = {name: sha256_file(run / name) for name in (WEIGHTS, PROTOTYPE)}
        record["sha256"] = sha256_json(record)
        (run / "run.json").write_text(json.dumps(record))

    def seal_rows() -> None:
        header = json.loads((folder / "rows" / "rows.json").read_text())
        header.pop("sha256", None)
        (folder / "rows" / "rows.json").write_text(json.dumps(header | {"sha256": sha256_json(header)}))

    def predict(run: Path, data: Path) -> int:
        out = folder / "out.csv"
        for file in folder.glob("out*.csv"):
            file.unlink()
        return command(["predict", str(run), "--data", str(data), "--out", str(out)])

    loaded = [Case(run / name, lambda: zoo.load(run), seal_run) for name in ("run.json", WEIGHTS, PROTOTYPE)]
    with_rows = [Case(file, lambda: zoo.open_rows(folder / "rows", verify=True), seal_rows)
                 for file in sorted((folder / "rows").iterdir())]  # fmt: skip
    point, cases = folder / "point" / "run-0.safetensors", {}
    cases["load (run directory)"] = loaded
    cases["fit(resume=True)"] = [Case(point, lambda: small_fit(checkpoint=folder / "point", resume=True), slow=True)]
    cases["load_netcdf"] = [Case(folder / "draws.nc", lambda: zoo.load_netcdf(folder / "draws.nc"))]
    cases["Draws.load"] = [Case(folder / "draws.npz", lambda: Draws.load(folder / "draws.npz"))]
    cases["open_rows"] = with_rows
    cases["read_table (csv)"] = [Case(csv, lambda: read_table(str(csv), ["well"], ["u", "v", "q"]))]
    cases["command line: predict, csv"] = [Case(csv, lambda: predict(run, csv), line=True)]
    cases |= _recordings(folder, predict)
    return cases


def _recordings(folder: Path, predict: Callable[[Path, Path], int]) -> dict[str, list[Case]]:
    """Readers of the entries' own formats."""
    rng, cases = np.random.default_rng(0), {}
    score, who = rng.dirichlet(np.ones(3), 12), np.repeat(["a", "b"], 6)
    np.savez(folder / "steps.npz", score=score, recording=who, labels=["none", "cap", "dose"], rate=5.0)
    pd.DataFrame(score, columns=["none", "cap", "dose"]).assign(recording=who).to_csv(folder / "steps.csv", index=False)
    np.savez(
        folder / "walks.npz", signal=rng.normal(size=(80, 2)), length=[20] * 4, rate_hz=80.0, load_lb=[0.0, 10, 0, 20],
        participant=["A", "A", "B", "B"], style=["", "right hand", "", "anterior"], channels=["t6_acc_x", "t6_gyro_x"],
    )  # fmt: skip
    eda = np.random.default_rng(0).normal(size=(4, 40))
    np.savez(folder / "own.npz", subject=list("aabb"), eda=eda, rates_eda=4.0, label_stress=["calm", "stress"] * 2)
    with zipfile.ZipFile(folder / "e4.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("BVP", "EDA", "TEMP"):
            archive.writestr(f"{name}.csv", b"1600000000\n4\n" + b"32.5\n" * 40)
    wrist = {name: np.full((10 * rate, 1), 32.5) for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items()}
    (folder / "wesad" / "S2").mkdir(parents=True)
    content = {"subject": "S2", "signal": {"wrist": wrist}, "label": np.repeat([1, 2], 5 * 700)}
    (folder / "wesad" / "S2" / "S2.pkl").write_bytes(pickle.dumps(content))
    own = folder / "steps.npz"
    cases["medication.read (npz)"] = [Case(own, lambda: medication.read(own))]
    cases["medication.read (csv)"] = [Case(folder / "steps.csv", lambda: medication.read(folder / "steps.csv"))]
    cases["auxvae.read (npz)"] = [Case(folder / "walks.npz", lambda: auxvae.read(folder / "walks.npz", n_steps=10))]
    cases["m3sense.read_windows (npz)"] = [Case(folder / "own.npz", lambda: m3sense.read_windows(folder / "own.npz"))]
    cases["m3sense.read_e4 (zip)"] = [Case(folder / "e4.zip", lambda: m3sense.read_e4(folder / "e4.zip"))]
    wesad = folder / "wesad" / "S2" / "S2.pkl"
    cases["m3sense.read_wesad (pickle)"] = [Case(wesad, lambda: m3sense.read_wesad(folder / "wesad"))]
    (folder / "pen").mkdir()
    pen, data = medication_run(folder / "pen"), medication.watch_sessions(0)[1]
    first = data.subset([0])
    names = np.repeat("monday", len(first["score"]))
    np.savez(folder / "monday.npz", score=first["score"], recording=names, rate=data.info["rate"])
    cases["command line: predict, npz"] = [
        Case(folder / "monday.npz", lambda: predict(pen, folder / "monday.npz"), line=True)
    ]
    return cases


def files(inputs: int, slow: int, folder: Path, seed: int, readers: list[str]) -> pd.DataFrame:
    """A line per reader whose name begins with one of `readers`; all without."""
    lines, examples = {}, []
    for name, cases in _cases(folder).items():
        if readers and not name.startswith(tuple(readers)):
            continue
        rng = random.Random(f"{seed} {name}")  # whichever others there are
        n = slow if cases[0].slow else inputs
        for case in cases:
            said = case.outcome(case.content, False)
            if said != "read":
                raise SystemExit(f"{name}: the valid {case.path.name} is not read: {said}")
        found: Counter = Counter(inputs=0, read=0, refused=0, unnamed=0, raw=0, crashed=0, hung=0)
        for first in range(0, n, PER_PROCESS):
            seed, count = rng.randrange(2**32), min(PER_PROCESS, n - first)
            report = folder / "report.json"
            report.write_text("[]")
            code = ended(forked(functools.partial(_fuzz, cases, seed, count, report)), SECONDS * 10 + 2 * count)
            outcomes = json.loads(report.read_text())
            found["inputs"] += len(outcomes)
            for outcome in outcomes:
                found[outcome.partition(":")[0]] += 1
                if ": " in outcome:
                    examples.append(f"{name}: {outcome}")
            if code != 0:
                found["hung" if code in (None, -signal.SIGALRM) else "crashed"] += 1
                found["inputs"] += 1
                examples.append(f"{name}: exit code {code} with seed {seed} at input {len(outcomes)}")
            for case in cases:
                case.path.write_bytes(case.content)
        lines[name] = dict(found)
        print(f"  {name}: {dict(found)}", flush=True)
    for example, times in Counter(examples).most_common(40):
        print(f"  {times} x {example}", flush=True)
    return pd.DataFrame(lines).T.fillna(0).astype(int)


def _fuzz(cases: list[Case], seed: int, count: int, report: Path) -> int:
    """Read `count` damaged inputs; the outcomes so far are on disk, should the process die."""
    rng, outcomes = random.Random(seed), []
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit = max(held, _virtual()) + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for i in range(count):
        case = cases[i % len(cases)]
        content, seal = damaged(case.content, rng), rng.random() < 0.5
        report.with_suffix(".last").write_bytes(content)
        signal.alarm(SECONDS)
        outcomes.append(case.outcome(content, seal))
        signal.alarm(0)
        for other in cases:
            other.path.write_bytes(other.content)
        if i % 25 == 24 or i == count - 1 or not outcomes[-1].startswith(("read", "refused")):
            report.write_text(json.dumps(outcomes))
    return 0


def _virtual() -> int:
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 4 << 30


# -------------------------------------------------------------------- bombs and frames
def squeezed(path: Path, name: str, first: bytes, block: bytes, times: int) -> Path:
    """A zip file with one member, `first` and many times the same block."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = deflate.compress(first) + deflate.flush(zlib.Z_FULL_FLUSH)
    repeated = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)  # starts anew, so that it may stand often
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, begin + repeated * times + deflate.flush())
    content, size = bytearray(path.read_bytes()), struct.pack("<I", len(first) + times * len(block))
    at = content.rfind(b"PK\x01\x02")
    content[at + 10 : at + 12] = content[8:10] = b"\x08\0"  # deflated
    content[at + 24 : at + 28] = content[22:26] = size
    path.write_bytes(content)
    return path


def bombs(folder: Path) -> pd.DataFrame:
    """A line per bomb: whether it is refused, its size, and the growth of memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (3 << 27, 1)})
    zeros = squeezed(folder / "zeros.npz", "score.npy", header.getvalue(), bytes(8 << 20), 3 << 7)
    text = squeezed(folder / "session.zip", "BVP.csv", b"", b"1\n" * (1 << 19), 600)
    (folder / "people" / "S2").mkdir(parents=True)
    growing = folder / "people" / "S2" / "S2.pkl"
    growing.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".")
    line = folder / "line.csv"
    line.write_bytes(b"well,u\na," + b"1" * (64 << 20) + b"\n")
    found = {
        "npz, 3 GB of zeros": (zeros, lambda: medication.read(zeros)),
        "zip, 600 MB of text": (text, lambda: m3sense.read_e4(text)),
        "pickle, 2^62 bytes declared": (growing, lambda: m3sense.read_wesad(folder / "people")),
        "csv, a number of 64 MB": (
            line,
            lambda: zoo.Batch.from_dataframe(read_table(str(line), ["well"], ["u"]), unit="well", x="u"),
        ),
    }
    lines = {}
    for name, (path, read) in found.items():

        def work(read: Callable = read) -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            resource.setrlimit(resource.RLIMIT_AS, (_virtual() + (4 << 30),) * 2)
            try:
                read()
                return 3
            except DOCUMENTED:
                grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
                return 0 if grown < 512 else 4
            except BaseException:
                return 5

        code = ended(forked(work), SECONDS * 4)
        said = {0: "refused", 3: "read", 4: "refused, after 512 MB", 5: "raw", None: "hung"}.get(code, "crashed")
        lines[name] = {"KB": path.stat().st_size // 1024, "outcome": said}
    return pd.DataFrame(lines).T


def frames(n: int, rng: random.Random) -> pd.DataFrame:
    """A line per kind of data frame."""
    makers: dict[str, Callable[[pd.DataFrame], Any]] = {"pandas": lambda df: df}
    with contextlib.suppress(ImportError):
        import polars

        makers["polars"] = polars.from_pandas
    with contextlib.suppress(ImportError):
        import pyarrow

        makers["pyarrow"] = pyarrow.Table.from_pandas
    lines = {}
    odd = [None, np.nan, np.inf, "x", "", True, 10**30, 1j, [1], object(), pd.NaT, pd.Timestamp("2024-01-01"), b"a"]
    for name, make in makers.items():
        found: Counter = Counter(inputs=0, read=0, refused=0, raw=0)
        for _ in range(n):
            df = table()
            column = rng.choice(list(df.columns))
            change = rng.choice(("cell", "cell", "drop", "twice", "kind", "index", "empty"))
            with contextlib.suppress(Exception):
                if change == "cell":
                    df[column] = df[column].astype(object)
                    df.iat[rng.randrange(len(df)), df.columns.get_loc(column)] = rng.choice(odd)
                elif change == "drop":
                    df = df.drop(columns=column)
                elif change == "twice":
                    df = pd.concat([df, df[[column]]], axis=1)
                elif change == "kind":
                    kinds = ("category", "string", "Int64", "boolean", "datetime64[ns]", "complex128", "float16")
                    df[column] = df[column].astype(rng.choice(kinds))
                elif change == "index":
                    df.index = pd.Index([rng.choice(odd[:7]) for _ in df.index], dtype=object)
                else:
                    df = df.iloc[: rng.choice((0, 1, 2))]
            try:
                given = make(df)
            except Exception:
                continue  # the other library cannot hold it
            found["inputs"] += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    zoo.Batch.from_dataframe(given, **COLUMNS)
                found["read"] += 1
            except DOCUMENTED as error:
                found["refused" if "\n" not in str(error.args[0]) else "raw"] += 1
            except Exception as error:
                found["raw"] += 1
                print(f"  {name}, {change} of {column}: {type(error).__name__}: {str(error)[:90]}", flush=True)
        lines[name] = dict(found)
    for name in ("polars", "pyarrow"):
        if name not in makers:
            print(f"  {name} is not installed", flush=True)
    return pd.DataFrame(lines).T.astype(int)


# -------------------------------------------------------------------- threads, growth, checkpoints
def threads(calls: int) -> pd.DataFrame:
    """A line for predictions and for fits: calls, errors, and results that differ from those of one thread."""
    fit = small_fit()
    tasks: dict[str, Callable[[int], Any]] = {
        "predict": lambda i: zoo.predict(fit, fit.train, draws=3, seed=i % 4).to_numpy().tolist(),
        "fit": lambda i: small_fit(seed=i % 4).history["elbo"].tolist(),
    }
    lines = {}
    for name, task in tasks.items():
        want, found = [task(i) for i in range(4)], Counter(calls=0, errors=0, wrong=0)
        with ThreadPoolExecutor(THREADS) as pool:
            for i, future in [(i, pool.submit(task, i)) for i in range(THREADS * calls)]:
                found["calls"] += 1
                if future.exception() is not None:
                    found["errors"] += 1
                elif future.result() != want[i % 4]:
                    found["wrong"] += 1
        lines[name] = dict(found)
    return pd.DataFrame(lines).T


def growth(fits: int, folder: Path) -> pd.DataFrame:
    """Memory of a process [MB] and number of Python objects, after the first fits and at the end."""
    report, early = folder / "growth.json", max(1, fits // 6)

    def work() -> None:
        found = []
        for i in range(fits):
            small_fit(seed=i)
            if i + 1 in (early, fits):
                gc.collect()
                pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
                found.append([i + 1, pages * resource.getpagesize() / 2**20, len(gc.get_objects())])
        report.write_text(json.dumps(found))

    ended(forked(work), 10 * NEVER)
    return pd.DataFrame(json.loads(report.read_text()), columns=["fits", "MB", "objects"]).set_index("fits")


def doubled(n: int, folder: Path) -> pd.DataFrame:
    """Second processes on one checkpoint folder: refused ones, and whether the first one ended as if alone."""
    found, want = Counter(tries=0, refused=0, first_as_alone=0), small_fit(steps=300)
    for i in range(n):
        point = folder / f"two{i}"
        first = forked(lambda point=point: small_fit(steps=300, checkpoint=point).save(point / "run") is None)
        until = time.monotonic() + NEVER
        while not (point / "run-0.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.005)
        found["tries"] += 1
        try:
            small_fit(steps=300, checkpoint=point, resume=True)
        except DOCUMENTED:
            found["refused"] += 1
        ended(first)
        found["first_as_alone"] += equal(zoo.load(point / "run"), want)
    return pd.DataFrame({"two processes": dict(found)}).T


# -------------------------------------------------------------------- a full disk
def disk(n: int, folder: Path) -> pd.DataFrame:
    """A line per kind of writing: tries, errors in one line that say so, and whether what was there is whole."""
    place = folder / "full"
    place.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, check=False
        ).returncode
    )
    print(f"  {'a tmpfs of 256 kB' if mounted else 'files limited to 4 kB'}", flush=True)
    try:
        return _disk(n, place, bool(mounted))
    finally:
        if mounted:
            subprocess.run(["umount", place], check=True)


def _disk(n: int, place: Path, mounted: bool) -> pd.DataFrame:
    old, new, chunks = small_fit(), small_fit(seed=1), [table(seed=k) for k in range(5)]
    jobs = {f"job-{k}": {"scores": [float(k), 2.0]} for k in range(100)}
    old.save(place / "run")
    tasks: dict[str, tuple[Callable[[], Any], Callable[[], bool]]] = {
        "save": (lambda: new.save(place / "run", overwrite=True), lambda: equal(zoo.load(place / "run"), old)),
        "fit": (lambda: small_fit(checkpoint=place / "point"), lambda: True),
        "rows": (lambda: zoo.write_rows(place / "rows", chunks, **COLUMNS), lambda: not (place / "rows").exists()),
        "jobs": (lambda: zoo.run_jobs(zoo.scores.summarise, jobs, place / "jobs", progress=False), lambda: True),
        "netcdf": (
            lambda: zoo.save_netcdf(zoo.to_arviz(old, old.train, draws=20), place / "draws.nc"),
            lambda: not (place / "draws.nc").exists(),
        ),
    }
    lines = {}
    for name, (write, intact) in tasks.items():
        found = Counter(tries=0, refused=0, intact=0)
        for i in range(n):
            filler = place / "filler"
            if mounted:
                free = shutil.disk_usage(place).free
                filler.write_bytes(bytes(max(0, free - 4096 * (i % 3))))
            found["tries"] += 1
            before = set(place.rglob("*"))
            code = ended(forked(functools.partial(_refused, write, mounted)))
            found["refused"] += code == 0
            filler.unlink(missing_ok=True)
            found["intact"] += intact()
            for path in sorted(set(place.rglob("*")) - before, reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        lines[name] = dict(found)
    return pd.DataFrame(lines).T


def _refused(write: Callable, mounted: bool) -> int:
    if not mounted:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    try:
        write()
    except OSError as error:
        return int("\n" in str(error))
    return 2


# -------------------------------------------------------------------- signals
def _fit_command(words: list[str], folder: Path, name: str) -> Any:
    return command([*words, "--checkpoint", str(folder / f"{name}-point"), "--resume", "--out", str(folder / name)])


def signals(n: int, folder: Path, rng: random.Random) -> pd.DataFrame:
    """A line per signal: runs that it hit, exit codes, and resumed runs that end as undisturbed ones do."""
    csv = folder / "wells.csv"
    table().to_csv(csv, index=False)
    words = ["fit", "ssmtl", "--data", str(csv), "--unit", "well", "--x", "u,v", "--y", "q"]
    words += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    lines = {}
    # A cross-fitted fit trains several times, and takes as much longer: a tenth of the signals.
    for way, options, hits in (
        ("one fit", ["--no-cross-fit", "--steps", "1000"], n),
        ("cross-fitted", ["--steps", "50"], max(n // 10, 1)),
    ):
        whole = way.replace(" ", "-")
        work = functools.partial(_fit_command, [*words, *options], folder)
        longest = duration(functools.partial(work, whole))
        want = zoo.load(folder / whole)
        for kind, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            found = Counter(hit=0, exit_code=0, resumed=0, beyond_the_training=0)
            while found["hit"] + found["beyond_the_training"] < hits:
                name = f"{whole}-{kind.name}{sum(found.values())}-{rng.random()}"
                code = hit(functools.partial(work, name), kind, rng.uniform(0, longest))
                if code == 0 or (folder / name).exists():
                    found["beyond_the_training"] += 1
                    continue
                found["hit"] += 1
                found["exit_code"] += code == expected
                if code != expected:
                    print(f"  {way}, {kind.name}: exit code {code}", flush=True)
                again = ended(forked(functools.partial(work, name)))
                found["resumed"] += again == 0 and equal(zoo.load(folder / name), want)
            lines[f"{way}, {kind.name} (exit code {expected})"] = dict(found)
    return pd.DataFrame(lines).T


# -------------------------------------------------------------------- all
def tables(
    sizes: dict[str, int], parts: list[str], seed: int, folder: Path, readers: list[str]
) -> Iterator[tuple[str, pd.DataFrame]]:  # fmt: skip
    """Titles and tables, part by part, each in a folder of its own and with random numbers of its own."""
    made: dict[str, tuple[str, Callable[[Path, random.Random], pd.DataFrame]]] = {
        "kills": ("kills", lambda path, rng: kills(sizes["kills"], path, rng)),
        "files": ("damaged files", lambda path, _: files(sizes["inputs"], sizes["slow"], path, seed, readers)),
        "bombs": ("bombs", lambda path, _: bombs(path)),
        "frames": ("data frames", lambda _, rng: frames(sizes["inputs"], rng)),
        "threads": (f"{THREADS} threads", lambda _, __: threads(sizes["calls"])),
        "growth": ("growth over fits", lambda path, _: growth(sizes["fits"], path)),
        "checkpoint": ("one checkpoint, two processes", lambda path, _: doubled(sizes["doubled"], path)),
        "disk": ("full disk", lambda path, _: disk(sizes["full"], path)),
        "signals": ("signals", lambda path, rng: signals(sizes["signals"], path, rng)),
    }
    for part in parts or made:
        title, make = made[part]
        (folder / part).mkdir()
        yield title, make(folder / part, random.Random(f"{seed} {part}"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=SIZES, default="full")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=N", help=f"of {', '.join(SIZES['full'])}")
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART")
    parser.add_argument("--readers", nargs="+", default=[], metavar="NAME", help="of files: those that begin with it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the counts as JSON; other parts, readers stay")
    given = parser.parse_args(argv)
    sizes = SIZES[given.sizes] | {name: int(value) for name, value in (word.split("=") for word in given.set)}
    torch.set_num_threads(1)  # a process that is forked has no other threads
    facts = {"environment": environment("wall"), "seed": given.seed}
    with tempfile.TemporaryDirectory() as folder, pd.option_context(*LAYOUT):
        for title, found in tables(sizes, given.parts, given.seed, Path(folder), given.readers):
            print(f"\n{title}\n{found}", flush=True)
            if given.out is not None:
                record = json.loads(given.out.read_text()) if given.out.exists() else {}
                counts = json.loads(found.to_json(orient="index"))
                if given.readers and title in record:
                    counts = record[title]["found"] | counts
                record[title] = {**facts, "sizes": sizes, "found": counts}
                given.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
