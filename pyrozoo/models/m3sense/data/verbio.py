"""The reader of VerBIO (anxiety), in the form in which it is published."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
    read_sheet,
    single,
    wanted,
)
from .simulator import CLASSES, DEVICE_RATES

_STAI_HIGH = 37  # scores above are high anxiety
_STAI_RANGE = (20, 80)


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
