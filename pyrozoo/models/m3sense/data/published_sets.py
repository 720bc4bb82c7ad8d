"""Readers of WESAD (stress), K-EmoCon (emotion) and VerBIO (anxiety), each in the form in which it is published."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import pickles
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
    on_grids,
    read_columns,
    read_sheet,
    runs,
    single,
    wanted,
)
from .simulator import CLASSES, DEVICE_RATES

_WESAD_LABEL_HZ = 700.0
_WESAD_CLASSES = dict(zip((1, 2, 3), CLASSES["stress"], strict=True))
# Two people of K-EmoCon wore two devices; this is the one whose signals belong to them.
_KEMOCON_DEVICES = ("A013E1", "A01A3A")
_KEMOCON_RATERS = {
    "self": "self_annotations", "partner": "partner_annotations", "external": "aggregated_external_annotations"
}  # fmt: skip
_KEMOCON_STEP_S = 5.0
_STAI_HIGH = 37  # scores above are high anxiety
_STAI_RANGE = (20, 80)


# -------------------------------------------------------------------- WESAD
def read_wesad(root: str | Path, *, modalities: Sequence[str] = MODALITIES) -> Recordings:
    """Read WESAD: the wrist's signals and the labels of ``S2/S2.pkl`` ...; code in a pickle is not run.

    Labels are given at 700 Hz: 1 baseline, 2 stress, 3 amusement are the classes; 0 (transient), 4 (meditation) and 5
    to 7 are no class, so these stretches are unlabelled.

    Args:
        root: A folder that holds the folders of people, at any depth.
        modalities: Modalities to read, some of "bvp", "eda", "temp".

    Returns:
        Recordings: One recording per person, of task "stress".

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no person; a pickle holds something else or code; rates and lengths do not match.

    Example:
        >>> import pickle, tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_wesad
        >>> wrist = {name: np.full((10 * rate, 1), 32.5) for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items()}
        >>> content = {"subject": "S2", "signal": {"wrist": wrist}, "label": np.repeat([1, 2], 5 * 700)}
        >>> with tempfile.TemporaryDirectory() as root:
        ...     Path(root, "S2").mkdir()
        ...     with Path(root, "S2", "S2.pkl").open("wb") as file:
        ...         pickle.dump(content, file)
        ...     recordings = read_wesad(root)
        >>> recordings[0].name, recordings[0].labels
        ('wesad/S2', ((0.0, 5.0, 'baseline'), (5.0, 10.0, 'stress')))
    """
    root, modalities = folder_of(root), wanted(modalities, MODALITIES)
    people: dict[str, Path] = {}
    for path in find(root, "S*.pkl"):
        if re.fullmatch(r"S\d+", path.stem):
            people[path.stem] = single([*([people[path.stem]] if path.stem in people else []), path], path.name)
    if not people:
        raise ValueError(f"{root}: no S2/S2.pkl ... is in it; give the folder of the unpacked WESAD.zip")
    names = sorted(people, key=lambda name: int(name[1:]))  # S10 after S9
    return Recordings(_wesad_person(people[name], name, modalities) for name in names)


def _wesad_person(path: Path, subject: str, modalities: Sequence[str]) -> Recording:
    content = pickles.load(path)
    with located(str(path)):
        wrist, labels = _entry(content, "signal", "wrist"), np.asarray(_entry(content, "label"))
        if str(_entry(content, "subject")) != subject:
            raise ValueError(f"'subject' is {content['subject']!r}, but the file is {path.name}; rename the wrong one")
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise ValueError(f"'label': {labels.dtype} of shape {labels.shape}; expected whole numbers, one row")
        odd = (labels < 0) | (labels > 7)
        if odd.any():
            raise ValueError(f"'label', sample {int(odd.argmax())}: {labels[odd.argmax()]}; labels are 0 to 7")
        seconds, signals = len(labels) / _WESAD_LABEL_HZ, {}
        notes: dict[str, int] = {}
        for name in modalities:
            signal = np.asarray(_entry(wrist, name.upper()))
            if signal.dtype.kind not in "fiu" or signal.ndim not in (1, 2) or signal.size != len(signal):
                raise ValueError(f"{name}: {signal.dtype} of shape {signal.shape}; expected one column of samples")
            if not len(signal):
                raise MissingDataError(f"{name}: the channel is empty; leave the modality or the person out")
            signal, own = cleaned(name, signal.reshape(-1).astype(float), first_row=0)
            if abs(len(signal) / DEVICE_RATES[name] - seconds) > 2:
                raise ValueError(
                    f"{name}: {len(signal)} samples are {len(signal) / DEVICE_RATES[name]:.1f} s at "
                    f"{DEVICE_RATES[name]:g} Hz, but the labels last {seconds:.1f} s at {_WESAD_LABEL_HZ:g} Hz; the "
                    "rates do not match"
                )
            signals[name] = signal
            added(notes, own)
        stretches = tuple(
            (first / _WESAD_LABEL_HZ, stop / _WESAD_LABEL_HZ, _WESAD_CLASSES[label])
            for first, stop, label in runs(labels)
            if label in _WESAD_CLASSES
        )
        rates = {name: DEVICE_RATES[name] for name in signals}
        return Recording(subject, signals, rates, "stress", CLASSES["stress"], stretches, 0.0, "wesad", notes)


def _entry(content: Any, *keys: str) -> Any:
    """Look up an entry of nested dictionaries; MissingDataError if a key is not there."""
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            held = list(content) if isinstance(content, Mapping) else type(content).__name__
            raise MissingDataError(f"there is no entry {key!r}, only {held}")
        content = content[key]
    return content


def minutes_seconds(word: str) -> float:
    """Parse a time written as minutes.seconds with trailing zeros left out: "50.3" is 50:30, "7.08" is 7:08.

    Returns:
        The time in seconds.

    Raises:
        ValueError: The word is no such time, as "7.65" with its 65 seconds.
    """
    match = re.fullmatch(r"(\d+)(?:\.(\d{1,2}))?", str(word).strip())
    seconds = int((match[2] or "").ljust(2, "0")) if match else 60
    if match is None or seconds >= 60:
        raise ValueError(f"{word!r} is no time in minutes.seconds, such as 50.3 for 50:30")
    return 60.0 * int(match[1]) + seconds


def read_wesad_protocol(path: str | Path) -> list[tuple[str, float, float]]:
    r"""Read the conditions of a person from ``S2_quest.csv``: (name, from, to) in seconds, in their order.

    Times count from the start of the chest device, not of the wrist device: they are not times in an E4 export, and
    `read_wesad` takes its labels from elsewhere.

    Args:
        path: Path of the file, whose times are written as minutes.seconds: 7.08 is 7 minutes and 8 seconds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lacks a row, or a time is not in minutes.seconds; the message names file, row and column.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pyrozoo.models.m3sense import read_wesad_protocol
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "S2_quest.csv")
        ...     lines = ["# ORDER;Base;TSST", "# START;7.08;39.55", "# END;26.32;50.3"]
        ...     _ = path.write_text("\n".join(lines))
        ...     conditions = read_wesad_protocol(path)
        >>> conditions
        [('Base', 428.0, 1592.0), ('TSST', 2395.0, 3030.0)]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    with located(str(path)):
        rows: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            name, *cells = (cell.strip() for cell in line.split(";"))
            rows.setdefault(name, [cell for cell in cells if cell])
        for name in ("# ORDER", "# START", "# END"):
            if name not in rows:
                raise ValueError(f"there is no row {name!r}")
            if len(rows[name]) < len(rows["# ORDER"]):
                raise ValueError(f"row {name!r}: {len(rows[name])} times for {len(rows['# ORDER'])} conditions")
        times = {}
        for name in ("# START", "# END"):
            with located(f"row {name!r}"):
                times[name] = [minutes_seconds(word) for word in rows[name]]
        return list(zip(rows["# ORDER"], times["# START"], times["# END"], strict=False))


# -------------------------------------------------------------------- K-EmoCon
def read_kemocon(root: str | Path, *, rater: str = "self", modalities: Sequence[str] = MODALITIES) -> Recordings:
    """Read K-EmoCon: debates of pairs, with ratings of arousal and valence, 1 to 5, for every 5 s.

    A label is "high valence and arousal" where both are above 2, else "other". Ratings are aligned at their end with
    the debate's end. The archives may be unpacked with or without ``raw/``. People who lack a signal are left out, see
    ``skipped`` (11 of 32 lack one); a recording with gaps of a second or more becomes several.

    Args:
        root: The folder of the unpacked archives.
        rater: Source of the ratings: "self", "partner" or "external" (the aggregate of five).
        modalities: Modalities to read, some of "bvp", "eda", "temp".

    Returns:
        Recordings: One recording or more per person, of task "emotion".

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no subjects.csv or no signals, or a file is wrong.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import pandas as pd
        >>> from pyrozoo.models.m3sense import read_kemocon
        >>> begin = 1_600_000_000_000  # unix milliseconds
        >>> with tempfile.TemporaryDirectory() as root:
        ...     signals, ratings = Path(root, "e4_data", "1"), Path(root, "emotion_annotations", "self_annotations")
        ...     signals.mkdir(parents=True)
        ...     ratings.mkdir(parents=True)
        ...     debate = pd.DataFrame({"pid": [1], "startTime": [begin], "endTime": [begin + 10_000]})
        ...     debate.to_csv(Path(root, "subjects.csv"), index=False)
        ...     for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items():
        ...         times = begin + np.arange(10 * rate) * 1000 / rate
        ...         table = pd.DataFrame({"timestamp": times, "value": 32.5, "device_serial": "A01"})
        ...         table.to_csv(signals / f"E4_{name}.csv", index=False)
        ...     rated = pd.DataFrame({"seconds": [5, 10], "arousal": [1, 4], "valence": [3, 3]})
        ...     rated.to_csv(ratings / "P1.self.csv", index=False)
        ...     recordings = read_kemocon(root)
        >>> recordings[0].name, [rating for _, _, rating in recordings[0].labels]
        ('kemocon/1', ['other', 'high valence and arousal'])
    """
    root, modalities = folder_of(root), wanted(modalities, MODALITIES)
    if rater not in _KEMOCON_RATERS:
        raise ValueError(f"rater: {rater!r} is none of {list(_KEMOCON_RATERS)}")
    listing = find(root, "subjects.csv")
    if not listing:
        raise ValueError(f"{root}: there is no metadata/subjects.csv, which holds the times of debates; unpack it, too")
    path = single(listing, "subjects.csv")
    table = read_columns(path, ("pid", "startTime", "endTime"), text=("pid",))
    out = Recordings()
    for pid, start, end in table.itertuples(index=False):
        with located(f"{path}, pid {pid}"):
            if not 0 < start < end:
                raise ValueError(f"startTime {start}, endTime {end}; expected unix milliseconds, in this order")
        try:
            out += _kemocon_person(root, pid, (start / 1000, end / 1000), rater, modalities)
        except MissingDataError as error:
            out.skip("a file is missing or empty", f"kemocon/{pid}: {error}")
    if not out:
        reason = next(iter(out.skipped.values()), ["subjects.csv is empty"])[0]
        raise ValueError(f"{root}: nobody has all of {list(modalities)}; {reason}")
    return out


def _kemocon_person(
    root: Path, pid: str, debate: tuple[float, float], rater: str, modalities: Sequence[str]
) -> Recordings:
    series: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: dict[str, int] = {}
    for name in modalities:
        file = f"E4_{name.upper()}.csv"
        files = [path for path in find(root, file) if path.parent.name == pid]
        if not files:
            raise MissingDataError(f"there is no e4_data/{pid}/{file}")
        path = single(files, f"{pid}/{file}")
        table = read_columns(path, ("timestamp", "value", "device_serial"), text=("device_serial",))
        with located(str(path)):
            own, left_out = _one_device(table)
            known = own[["timestamp", "value"]].notna().all(axis=1)
            if known.sum() < 2:
                raise MissingDataError("the channel is empty; leave the person out")
            signal, replaced = cleaned(name, own["value"][known].to_numpy(), first_row=2)
            series[name] = (own["timestamp"][known].to_numpy() / 1000, signal)
        counts = {"of another device": left_out, "without value": int((~known).sum())}
        added(notes, {f"{name}: samples {what}, left out": n for what, n in counts.items() if n} | replaced)
    files = [path for path in find(root, f"P{pid}.{rater}.csv") if path.parent.name == _KEMOCON_RATERS[rater]]
    if not files:
        raise MissingDataError(f"there is no {_KEMOCON_RATERS[rater]}/P{pid}.{rater}.csv")
    stretches, unknown = _ratings(single(files, files[0].name), debate[1])
    added(notes, {"labels: ratings without a value, left out": unknown} if unknown else {})
    rates = {name: DEVICE_RATES[name] for name in modalities}
    with located(f"{root}, pid {pid}"):
        pieces, gaps = on_grids(series, rates)
    out = Recordings()
    for k, (start, signals) in enumerate(pieces):
        seconds = min(len(signal) / rates[name] for name, signal in signals.items())
        labels = _within(stretches, start, seconds)
        # Notes concern the person: only the first piece has them, so that nothing is counted twice.
        own = {**notes, **gaps} if k == 0 else {}
        out.append(Recording(pid, signals, rates, "emotion", CLASSES["emotion"], labels, start, "kemocon", own))
    return out


def _one_device(table: Any) -> tuple[Any, int]:
    """Keep the rows of one device, and count those of another."""
    serials = list(dict.fromkeys(table["device_serial"]))
    if len(serials) < 2:
        return table, 0
    chosen = [serial for serial in serials if serial in _KEMOCON_DEVICES]
    if len(chosen) != 1:
        raise ValueError(f"samples of devices {serials}, of which it is not known whose are the person's; keep one")
    own = table["device_serial"] == chosen[0]
    return table[own], int((~own).sum())


def _ratings(path: Path, end: float) -> tuple[list[tuple[float, float, str]], int]:
    """Read stretches (from, to [unix s], class) from a file of ratings, the last ending at `end`; count empty ones."""
    table = read_columns(path, ("seconds", "arousal", "valence"), missing=("x",))
    with located(str(path)):
        if table.empty:
            raise MissingDataError("the file is empty; leave the person out")
        seconds, ratings = table["seconds"].to_numpy(), table[["arousal", "valence"]].to_numpy()
        if np.isnan(seconds).any() or (np.diff(seconds) < _KEMOCON_STEP_S).any():
            raise ValueError(f"column 'seconds': expected times in order, {_KEMOCON_STEP_S:g} s apart")
        odd = ~np.isnan(ratings) & ((ratings < 1) | (ratings > 5))
        if odd.any():
            row, column = np.argwhere(odd)[0]
            name = ("arousal", "valence")[column]
            raise ValueError(f"column {name!r}, line {row + 2}: {ratings[row, column]:g}; ratings are 1 to 5")
    known = ~np.isnan(ratings).any(axis=1)
    classes = (ratings > 2).all(axis=1).astype(int)
    stops = end - (seconds[-1] - seconds)
    return [
        (stop - _KEMOCON_STEP_S, stop, CLASSES["emotion"][label])
        for stop, label, given in zip(stops.tolist(), classes.tolist(), known, strict=True)
        if given
    ], int((~known).sum())


def _within(
    stretches: Sequence[tuple[float, float, str]], start: float, seconds: float
) -> tuple[tuple[float, float, str], ...]:
    """Convert stretches in unix time to seconds from `start`, clipped to the recording."""
    clipped = ((max(a - start, 0.0), min(b - start, seconds), name) for a, b, name in stretches)
    return tuple(stretch for stretch in clipped if stretch[0] < stretch[1])


# -------------------------------------------------------------------- VerBIO
def read_verbio(
    root: str | Path, *, sessions: Sequence[str] = ("PRE", "POST"), part: str = "PPT",
    modalities: Sequence[str] = MODALITIES,
) -> Recordings:  # fmt: skip
    """Read VerBIO: speeches, with one report of state anxiety after each; this needs openpyxl.

    Signals are in ``P001/PRE/E4_EDA_PPT.xlsx`` ..., with the columns ``Time (s)`` and the signal's name; scores in
    ``PRE_afterPPT.xlsx`` and ``POST_afterPPT.xlsx``, anywhere below `root`, with the columns ``PID`` and ``STAI State
    Score``. A score of at most 37 makes the whole speech "low", above "high". Sessions that lack a signal are left out,
    see ``skipped``; those without a score are unlabelled. Sessions of one person are recordings of the same subject.

    Args:
        root: The folder of the unpacked data.
        sessions: Names of the sessions: "PRE" and "POST" are in real life, as in the paper; "TEST01" to "TEST08", in
            virtual reality, have no scores.
        part: Part of a session: "PPT", the speech; or "RELAX" or "PREP", before it, which the score does not describe,
            so that they are unlabelled.
        modalities: Modalities to read, some of "bvp", "eda", "temp".

    Returns:
        Recordings: One recording or more per session, of task "anxiety".

    Raises:
        FileNotFoundError: There is no such folder.
        ImportError: openpyxl is not installed.
        ValueError: It holds no sessions, none is complete, or a file is wrong.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import pandas as pd
        >>> from pyrozoo.models.m3sense import read_verbio
        >>> with tempfile.TemporaryDirectory() as root:
        ...     session = Path(root, "P001", "PRE")
        ...     session.mkdir(parents=True)
        ...     times = np.arange(40) / 4
        ...     speech = pd.DataFrame({"Time (s)": times, "EDA": np.sin(times) + 2})
        ...     speech.to_excel(session / "E4_EDA_PPT.xlsx", index=False)
        ...     scores = pd.DataFrame({"PID": ["P001"], "STAI State Score": [45]})
        ...     scores.to_excel(Path(root, "PRE_afterPPT.xlsx"), index=False)
        ...     recordings = read_verbio(root, sessions=("PRE",), modalities=("eda",))
        >>> recordings[0].name, recordings[0].labels
        ('verbio/P001', ((0.0, 10.0, 'high'),))
    """
    root, modalities = folder_of(root), wanted(modalities, MODALITIES)
    if part not in ("PPT", "RELAX", "PREP"):
        raise ValueError(f"part: {part!r} is none of ['PPT', 'RELAX', 'PREP']")
    people = [path for path in find(root, "P*") if path.is_dir() and re.fullmatch(r"P\d{3}", path.name)]
    doubled = [path for path in people if sum(path.name == other.name for other in people) > 1]
    if doubled:
        single(doubled, doubled[0].name)
    if not people:
        raise ValueError(f"{root}: no folder P001, P002, ... is in it; the layout by session is not read")
    scores = {session: _stai(root, session) for session in sessions if part == "PPT"}
    out = Recordings()
    for path in people:
        for session in sessions:
            score = scores.get(session, {}).get(int(path.name[1:]))
            try:
                out += _verbio_session(path / session, part, modalities, score)
            except MissingDataError as error:
                out.skip("a file is missing or empty", f"verbio/{path.name}: {error}")
    if not out:
        raise ValueError(f"{root}: no session is complete; {next(iter(out.skipped.values()))[0]}")
    return out


def _stai(root: Path, session: str) -> dict[int, float]:
    """Read number of the person -> score after the speech of this session; empty for virtual sessions."""
    files = find(root, f"{session}_afterPPT.xlsx")
    if not files:
        if session.startswith("TEST"):
            return {}
        raise ValueError(f"{root}: there is no {session}_afterPPT.xlsx, which holds the anxiety scores; add it")
    path = single(files, files[0].name)
    table = read_sheet(path, ("PID", "STAI State Score"), text=("PID",))
    out: dict[int, float] = {}
    with located(str(path)):
        for row, (pid, score) in enumerate(table.itertuples(index=False), start=2):
            match = re.fullmatch(r"P?0*(\d+)(?:\.0)?", pid)
            if not match:
                raise ValueError(f"column 'PID', line {row}: {pid!r} is no participant such as P001")
            if int(match[1]) in out:
                raise ValueError(f"column 'PID', line {row}: {pid!r} is there twice; keep one report")
            if np.isnan(score):
                continue
            if not _STAI_RANGE[0] <= score <= _STAI_RANGE[1]:
                raise ValueError(f"column 'STAI State Score', line {row}: {score:g}; scores are 20 to 80")
            out[int(match[1])] = float(score)
    return out


def _verbio_session(folder: Path, part: str, modalities: Sequence[str], score: float | None) -> Recordings:
    series: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: dict[str, int] = {}
    for name in modalities:
        path = folder / f"E4_{name.upper()}_{part}.xlsx"
        if not path.is_file():
            raise MissingDataError(f"there is no {folder.name}/{path.name}")
        table = read_sheet(path, ("Time (s)", name.upper()))
        with located(str(path)):
            known = table.notna().all(axis=1)
            if known.sum() < 2:
                raise MissingDataError("the channel is empty; leave the session out")
            signal, own = cleaned(name, table[name.upper()][known].to_numpy(), first_row=2)
            series[name] = (table["Time (s)"][known].to_numpy(), signal)
        missing = int((~known).sum())
        added(notes, own | ({f"{name}: samples without value, left out": missing} if missing else {}))
    rates = {name: DEVICE_RATES[name] for name in modalities}
    with located(str(folder)):
        pieces, gaps = on_grids(series, rates)
    out = Recordings()
    for k, (_, signals) in enumerate(pieces):
        seconds = min(len(signal) / rates[name] for name, signal in signals.items())
        labels = () if score is None else ((0.0, seconds, CLASSES["anxiety"][int(score > _STAI_HIGH)]),)
        # Times count from the start of the session, whose date is not given; only the first piece has the notes.
        own = {**notes, **gaps} if k == 0 else {}
        out.append(
            Recording(folder.parent.name, signals, rates, "anxiety", CLASSES["anxiety"], labels, 0.0, "verbio", own)
        )
    return out
