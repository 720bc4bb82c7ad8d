"""Readers of Empatica E4 exports: one session as a folder or zip file, and the nurses' data."""

from __future__ import annotations

import contextlib
import datetime
import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from .recordings import (
    MODALITIES,
    MissingDataError,
    Recording,
    Recordings,
    added,
    cleaned,
    find,
    folder_of,
    located,
    read_sheet,
    require_plausible,
    single,
    wanted,
)

CHANNELS = {
    "bvp": "BVP.csv", "eda": "EDA.csv", "temp": "TEMP.csv", "hr": "HR.csv", "acc": "ACC.csv", "ibi": "IBI.csv",
}  # fmt: skip
AXES = ("x", "y", "z")
IBI_HZ, _IBI_GAP_S = 4.0, 2.0  # rate at which intervals are interpolated; farther from a beat, samples are counted
_G = 64.0  # units of acceleration in one g
NURSE_LEVELS = ("level 0", "level 1", "level 2")
_SESSION = re.compile(r"([0-9A-Za-z]{2})_(\d{9,11})")
_SHORTEST, _GAP_S = 0.8, 20.0  # how much shorter than the longest a channel may be: by a fifth, and by 20 s
_MOST_BYTES, _MOST_ROWS = 1 << 28, 1 << 24  # of one file: 16 million samples are three days at 64 Hz
_LAST_START, _HIGHEST_RATE = 1e11, 1e5  # beyond these, times of samples are not even numbers
_LONGEST, _LONGEST_BEAT = 30 * 86400.0, 10.0  # of a session with beats, and between two of them [s]
_NURSE_ZONE = "America/Chicago"
_SURVEY = ("ID", "Start time", "End time", "date", "Stress level")


def read_e4(
    path: str | Path, *, subject: str | None = None, modalities: Sequence[str] = MODALITIES, dataset: str = "e4"
) -> Recordings:
    """Read one session as the Empatica E4 exports it: a folder or zip file with BVP.csv, EDA.csv, TEMP.csv ...

    A file has no header: its first row is the start (unix seconds), the second the rate [Hz], then come the samples.
    ``acc`` is read in g, (n, 3). ``ibi``, the seconds between heart beats, has a line for each beat; it is interpolated
    linearly at 4 Hz, and ``notes`` counts the samples farther than 2 s from a beat, often many under stress. All
    channels are cut to begin with the one that begins last (HR begins 10 s after the others). A first EDA sample of
    zero and temperatures of 382.18 are artefacts and replaced; ``notes`` counts all of this. The tags of ``tags.csv``
    (or ``tags_S05.csv``) are read where there are any. Label the recording by `label_by_table` or `label_by_tags`.

    Args:
        path: Path of the folder or zip file.
        subject: Name of the person; by default that of the folder or file.
        modalities: Modalities to read, some of "bvp", "eda", "temp", "hr", "acc", "ibi".
        dataset: Name of the data set.

    Returns:
        Recordings: One recording, without labels.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: A file is missing, empty or not as the E4 writes it; the message names file, row and remedy.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_e4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items():
        ...         np.savetxt(Path(folder, f"{name}.csv"), [1.6e9, rate, *[32.5] * (10 * rate)])
        ...     recording = read_e4(folder, subject="S01")[0]
        >>> recording.name, recording.seconds, recording.signals["eda"].shape
        ('e4/S01', 10.0, (40,))
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder or zip file")
    modalities = wanted(modalities, CHANNELS)
    channels = {name: _channel(path, CHANNELS[name], name) for name in modalities if name != "ibi"}
    if "ibi" in modalities:
        channels["ibi"] = _intervals(path, [begin + len(signal) / rate for begin, rate, signal, _ in channels.values()])
    start = max(begin for begin, _, _, _ in channels.values())
    signals, rates = {}, {}
    notes: dict[str, int] = {}
    for name, (begin, rate, signal, own) in channels.items():
        skip = round((start - begin) * rate)
        if skip:
            own[f"{name}: samples before the last channel begins, left out"] = skip
        if skip >= len(signal):
            raise MissingDataError(
                f"{path}: {CHANNELS[name]} ends before another channel begins; leave the recording out"
            )
        signals[name], rates[name] = signal[skip:], rate
        added(notes, own)
    seconds = {name: len(signal) / rates[name] for name, signal in signals.items()}
    short, long = min(seconds, key=seconds.__getitem__), max(seconds, key=seconds.__getitem__)
    # Channels of real exports end up to some seconds apart; with a wrong rate their durations differ by a factor.
    if seconds[short] < _SHORTEST * seconds[long] - _GAP_S:
        raise MissingDataError(
            f"{path}: {CHANNELS[short]} lasts {seconds[short]:g} s at {rates[short]:g} Hz and {CHANNELS[long]} "
            f"{seconds[long]:g} s at {rates[long]:g} Hz; the rates do not match, or a file is not whole: correct row "
            "2, or leave the recording out"
        )
    if subject is None:
        subject = path.name if path.is_dir() else path.stem
    tags, axes = tuple(round(tag - start, 6) for tag in _tags(path)), {"acc": AXES} if "acc" in signals else {}
    recording = Recording(
        subject, {name: signals[name] for name in modalities}, rates, start=start, dataset=dataset, notes=notes,
        tags=tags, channels=axes,
    )  # fmt: skip
    return Recordings([recording])


def read_e4_folder(root: str | Path, *, modalities: Sequence[str] = MODALITIES, dataset: str = "e4") -> Recordings:
    """Read all E4 exports in a folder: ``<person>.zip``, ``<person>/`` or ``<person>/<session>``, zip files or folders.

    Sessions with a missing or empty file are left out, see ``skipped``.

    Args:
        root: Path of the folder.
        modalities: Modalities to read, as in `read_e4`.
        dataset: Name of the data set.

    Returns:
        Recordings: One recording per session, without labels, of the person after whom the first folder or zip file
        below `root` is named.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no export, none is complete, or a file is wrong.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_e4_folder
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for session in ("Ann/monday", "Ann/tuesday", "Bo"):
        ...         Path(root, session).mkdir(parents=True)
        ...         for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items():
        ...             np.savetxt(Path(root, session, f"{name}.csv"), [1.6e9, rate, *[32.5] * (10 * rate)])
        ...     recordings = read_e4_folder(root)
        >>> [recording.subject for recording in recordings]
        ['Ann', 'Ann', 'Bo']
    """
    root = folder_of(root)
    files = wanted(modalities, CHANNELS)
    paths = {path.parent for name in files for path in find(root, CHANNELS[name])} | set(find(root, "*.zip"))
    if not paths - {root}:
        raise ValueError(f"{root}: no export of an E4 is in it; put a folder or zip file for each person there")
    out = Recordings()
    for path in sorted(paths - {root}):
        first = path.relative_to(root).parts[0]
        subject = first.removesuffix(".zip") if path == root / first else first
        try:
            out += read_e4(path, subject=subject, modalities=modalities, dataset=dataset)
        except MissingDataError as error:
            out.skip("a file is missing or empty", f"{dataset}/{subject}: {error}")
    if not out:
        raise ValueError(f"{root}: no session is complete; {out.skipped['a file is missing or empty'][0]}")
    return out


def _intervals(path: Path, ends: Sequence[float]) -> tuple[float, float, np.ndarray, dict[str, int]]:
    """Read start, rate, samples and notes from the intervals between beats, interpolated until the last end."""
    with located(f"{path}/IBI.csv"):
        lines = _member(path, "IBI.csv").decode("utf-8-sig", "replace").splitlines()
        cells = [[cell.strip() for cell in line.split(",")] for line in lines]
        try:
            start = float(cells[0][0]) if cells else np.nan
        except ValueError:
            start = np.nan
        if not 0 <= start <= _LAST_START:
            raise ValueError(
                f"row 1: {lines[0][:60] if lines else ''!r}; it holds the start in unix seconds, and 'IBI'"
            )
        values = np.full((len(cells) - 1, 2), np.nan)
        for row, pair in enumerate(cells[1:]):
            with contextlib.suppress(ValueError):
                values[row] = [float(cell) for cell in pair]
            inside = 0 < values[row, 0] <= _LONGEST and 0 < values[row, 1] <= _LONGEST_BEAT
            if not inside or not values[row, 0] > (values[row - 1, 0] if row else 0):
                line = lines[row + 1][:60]
                raise ValueError(
                    f"row {row + 2}: {line!r}; expected seconds from the start, in order, and the interval"
                )
        if not len(values):
            raise MissingDataError("the channel is empty: no interval follows the start; leave it or the recording out")
        seconds = max([*(end - start for end in ends), values[-1, 0]])
        time = np.arange(max(1, int(seconds * IBI_HZ))) / IBI_HZ
        after = np.searchsorted(values[:, 0], time).clip(1, max(1, len(values) - 1))
        nearest = np.abs(values[[after - 1, after.clip(max=len(values) - 1)], 0] - time).min(0)
        far = int((nearest > _IBI_GAP_S).sum())
        notes = {f"ibi: samples farther than {_IBI_GAP_S:g} s from a beat, interpolated": far} if far else {}
        return start, IBI_HZ, np.interp(time, values[:, 0], values[:, 1]), notes


def _tags(path: Path) -> list[float]:
    """Read the unix times of the file of tags, none if there is no such file."""
    if path.is_dir():
        names = sorted(file.name for file in path.glob("tags*.csv"))
    else:
        with zipfile.ZipFile(path) as archive:
            members = [m.filename.rsplit("/", 1)[-1] for m in archive.infolist() if "__MACOSX" not in m.filename]
        names = sorted(name for name in members if re.fullmatch(r"tags.*\.csv", name))
    if not names:
        return []
    with located(f"{path}/{names[0]}"):
        if len(names) > 1:
            raise ValueError(f"there is also {names[1]}; keep the tags of this session")
        out = []
        for row, line in enumerate(_member(path, names[0]).decode("utf-8-sig", "replace").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                tag = float(line.strip().rstrip(","))
            except ValueError:
                tag = np.nan
            if not 0 <= tag <= _LAST_START:
                raise ValueError(f"row {row}: {line[:60]!r} is no unix time; a file of tags holds one a line")
            out.append(tag)
        return sorted(out)


def _channel(path: Path, file: str, name: str) -> tuple[float, float, np.ndarray, dict[str, int]]:
    """Read start, rate, samples and notes from one file of a session."""
    with located(f"{path}/{file}"):
        content = _member(path, file)
        if not content.strip():
            raise MissingDataError("the file is empty; leave it or the recording out")
        width, rows = content.partition(b"\n")[0].count(b",") + 1, max(content.count(end) for end in (b"\n", b"\r"))
        expected = len(AXES) if name == "acc" else 1
        if width != expected:
            word = "one" if expected == 1 else "three"
            raise ValueError(f"{width} columns, expected {word}: start, rate, then samples")
        if rows > _MOST_ROWS:
            raise ValueError(f"{rows} rows, more than the {_MOST_ROWS} of a recording of several days; cut it in parts")
        try:
            table = pd.read_csv(
                io.BytesIO(content.rstrip()), header=None, dtype=str, skip_blank_lines=False, skipinitialspace=True
            )
        except Exception as error:  # pandas raises many types of error for a damaged table
            raise ValueError(f"not one column of numbers ({error})") from None
        columns = [pd.to_numeric(table[k], errors="coerce").to_numpy(float) for k in range(expected)]
        values = np.stack(columns, 1)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0].tolist()
            word = str(table[column].iloc[row])[:60]
            raise ValueError(f"row {row + 1}: {word!r} is not a number; an E4 file holds start, rate, then samples")
        if len(values) < 3:
            raise MissingDataError("the channel is empty: no sample follows start and rate; leave the recording out")
        start, rate = values[:2, 0].tolist()
        if not (0 <= start <= _LAST_START and 0 < rate <= _HIGHEST_RATE):
            raise ValueError(f"start {start:g}, rate {rate:g}; rows 1 and 2 hold unix seconds and Hz")
        if name == "acc":
            require_plausible(name, values[2:] / _G, first_row=3)
            return start, rate, values[2:] / _G, {}
        signal, notes = cleaned(name, values[2:, 0], first_row=3)
        return start, rate, signal, notes


def _member(path: Path, file: str) -> bytes:
    """Read the content of a file in a folder or zip file; nothing is unpacked to disk."""
    if path.is_dir():
        if not (path / file).is_file():
            raise MissingDataError("there is no such file; leave the modality or the recording out")
        _require_small((path / file).stat().st_size)
        return (path / file).read_bytes()
    if not path.is_file():  # opening a pipe would wait for its writer
        raise ValueError("neither a folder nor a zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            member = _named_member(archive.infolist(), file)
            _require_small(member.file_size)
            return archive.read(member)
    except (_Refused, MissingDataError):
        raise
    except Exception as error:  # a damaged zip file may raise any type of error
        raise ValueError(f"neither a folder nor a whole zip file ({error})") from None


class _Refused(ValueError):
    """What a zip file holds is not read."""


def _named_member(members: list[zipfile.ZipInfo], file: str) -> zipfile.ZipInfo:
    """The one member of a zip file that is called `file`, in whichever folder."""
    odd = [m.filename for m in members if m.filename.startswith("/") or ".." in PurePosixPath(m.filename).parts]
    if odd:
        raise _Refused(
            f"the zip file holds {odd[0][:200]!r}, a place outside of it; nothing was read or written: do not trust "
            "this file, get it from its source"
        )
    found = [m for m in members if m.filename.rsplit("/", 1)[-1] == file and "__MACOSX" not in m.filename]
    if not found:
        raise MissingDataError("the zip file has no such file; leave the modality or the recording out")
    if len(found) > 1:
        raise _Refused(f"the zip file has it twice, {found[0].filename} and {found[1].filename}; one session is needed")
    return found[0]


def _require_small(size: int) -> None:
    """Refuse a file that is too large to be one channel: a small zip file can declare any size."""
    if size > _MOST_BYTES:
        raise _Refused(f"{size} bytes, more than the {_MOST_BYTES} of a recording of several days; it is not read")


# -------------------------------------------------------------------- nurses
def read_nurses(
    root: str | Path, *, sessions: str = "one", labelled: bool = False, modalities: Sequence[str] = MODALITIES,
    seed: int = 0,
) -> Recordings:  # fmt: skip
    """Read the nurses' data (Dryad 5hqbzkh6f): ``<ID>/<ID>_<unix start>.zip``, or the same as folders.

    IDs are strings, among them "15" and "E4". Sessions with a missing or empty file are left out, as are reports of
    nurses who have no session in the folder; ``skipped`` of the result names them.

    Args:
        root: A folder that holds the sessions, at any depth.
        sessions: "one" of each nurse, at random among the complete ones, as in the paper, or "all".
        labelled: Whether to read stress levels from SurveyResults.xlsx (needs openpyxl), as the task "nurse_stress"
            with classes `NURSE_LEVELS`. In the paper the data are unlabelled.
        modalities: Modalities to read, as in `read_e4`.
        seed: Random seed for the choice of sessions.

    Returns:
        Recordings: One recording per session, of data set "nurses".

    Raises:
        FileNotFoundError: There is no such folder, or no SurveyResults.xlsx in it (with ``labelled=True``).
        ImportError: openpyxl is not installed (with ``labelled=True``).
        ValueError: It holds no sessions, none is complete, or a file is wrong.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_nurses
        >>> with tempfile.TemporaryDirectory() as root:
        ...     session = Path(root, "5C", "5C_1600000000")
        ...     session.mkdir(parents=True)
        ...     for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items():
        ...         np.savetxt(session / f"{name}.csv", [1.6e9, rate, *[32.5] * (10 * rate)])
        ...     recordings = read_nurses(root)
        >>> [recording.name for recording in recordings], recordings.skipped
        (['nurses/5C'], {})
    """
    root = folder_of(root)
    if sessions not in ("one", "all"):
        raise ValueError(f"sessions: {sessions!r} is none of ['one', 'all']")
    found: dict[str, dict[str, Path]] = {}
    for path in find(root, "*_*"):
        match = _SESSION.fullmatch(path.stem)
        if match and (path.is_dir() or path.suffix.lower() == ".zip"):
            own = found.setdefault(match[1], {})
            # A zip file and the folder that it was unpacked to are the same session.
            if match[0] not in own or own[match[0]].suffix:
                own[match[0]] = path
    if not found:
        raise ValueError(f"{root}: no session <ID>_<unix start>.zip is in it; unpack Stress_dataset.zip there")
    survey = _survey(root) if labelled else {}
    out, rng = Recordings(), np.random.default_rng(seed)
    for name in sorted(survey.keys() - found.keys()):  # nurses without a session, or IDs that a spreadsheet changed
        out.skip("reports of somebody who has no session", f"nurses/{name}")
    if survey and not survey.keys() & found.keys():
        raise ValueError(
            f"{root}: SurveyResults.xlsx reports on {sorted(survey)}, but the sessions are of {sorted(found)}; IDs are "
            "text there, such as '15' and '5E1'"
        )
    for subject, own in sorted(found.items()):
        order = rng.permutation(sorted(own)).tolist() if sessions == "one" else sorted(own)
        for session in order:
            try:
                recording = read_e4(own[session], subject=subject, modalities=modalities, dataset="nurses")[0]
            except MissingDataError as error:
                out.skip("a file is missing or empty", f"nurses/{subject}: {error}")
                continue
            out.append(_surveyed(recording, survey.get(subject, [])) if labelled else recording)
            if sessions == "one":
                break
    if not out:
        raise ValueError(f"{root}: no session is complete; {out.skipped['a file is missing or empty'][0]}")
    return out


def _survey(root: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Read subject -> (from, to [unix s], level) as reported, without the reports whose level is "na"."""
    files = find(root, "SurveyResults.xlsx")
    if not files:
        raise FileNotFoundError(f"{root}: there is no SurveyResults.xlsx; leave labelled=False or add it")
    path = single(files, "SurveyResults.xlsx")
    table = read_sheet(path, _SURVEY, text=_SURVEY)
    zone = ZoneInfo(_NURSE_ZONE)
    out: dict[str, list[tuple[float, float, str]]] = {}
    with located(str(path)):
        for row, (subject, begin, end, date, level) in enumerate(table.itertuples(index=False), start=2):
            if level.lower() in ("na", "", "nan"):
                continue
            if level not in ("0", "1", "2"):
                raise ValueError(f"column 'Stress level', line {row}: {level!r}; expected 0, 1, 2 or na")
            try:
                day = datetime.date.fromisoformat(date[:10])
                times = [datetime.time.fromisoformat(word) for word in (begin, end)]
            except ValueError:
                what = f"from {begin!r} to {end!r} on {date!r}"
                raise ValueError(f"line {row}: {what}; expected times of day and a date") from None
            # Reports are in the hospital's local time, the device counts in UTC.
            start, stop = (datetime.datetime.combine(day, time, zone).timestamp() for time in times)
            if stop < start:  # past midnight
                stop += 86400
            if stop > start:
                out.setdefault(subject, []).append((start, stop, NURSE_LEVELS[int(level)]))
    return out


def _surveyed(recording: Recording, reports: Sequence[tuple[float, float, str]]) -> Recording:
    """Label the recording with the levels reported within it; a report that overlaps an earlier one is left out."""
    labels: list[tuple[float, float, str]] = []
    notes = dict(recording.notes)
    for start, stop, level in sorted(reports):
        start, stop = max(start - recording.start, 0.0), min(stop - recording.start, recording.seconds)
        if start >= stop:
            continue
        if labels and start < labels[-1][1]:
            added(notes, {"labels: reports that overlap an earlier one, left out": 1})
            continue
        labels.append((start, stop, level))
    return replace(recording, task="nurse_stress", classes=NURSE_LEVELS, labels=tuple(labels), notes=notes)
