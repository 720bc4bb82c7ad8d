"""The reader of the Stress-Predict data, in the layout in which they are published and in that of former versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from .e4 import read_e4
from .recordings import (
    MODALITIES,
    Recording,
    Recordings,
    added,
    find,
    folder_of,
    located,
    read_columns,
    runs,
    single,
    utc,
)
from .simulator import CLASSES

_ALL_LABELS, _OWN_LABELS = "Improved_All_Combined_hr_rsp_binary.csv", "P{}_comb_binary.csv"


def read_stress_predict(root: str | Path, *, modalities: Sequence[str] = MODALITIES) -> Recordings:
    """Read the Stress-Predict data (github italha-d/Stress-Predict-Dataset): E4 exports of 35 people.

    Signals are in ``Raw_data/S05``; labels of every second, 1 during a stressful task and 0 otherwise, in one file of
    all people, ``Processed_data/Improved_All_Combined_hr_rsp_binary.csv`` with the columns ``Participant``,
    ``Time(sec)`` (unix seconds) and ``Label``. The repository once had a file per person, ``P5_comb_binary.csv``, which
    is read where the one of all people is missing. Labels begin with the heart rate, 10 s after the signals. People
    without labels (S01) are left out, see ``skipped``; seconds of labels outside of the recording are in ``notes``.

    Args:
        root: Folder of the unpacked repository.
        modalities: Modalities to read, as in `read_e4`.

    Returns:
        Recordings: One recording per person, of task "stress".

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: No person is in it, a file is missing or wrong, or labels are not of the time of the recording.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import pandas as pd
        >>> from pyrozoo.models.m3sense import read_stress_predict
        >>> with tempfile.TemporaryDirectory() as root:
        ...     signals, labels = Path(root, "Raw_data", "S02"), Path(root, "Processed_data")
        ...     signals.mkdir(parents=True)
        ...     labels.mkdir()
        ...     for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items():
        ...         np.savetxt(signals / f"{name}.csv", [1.6e9, rate, *[32.5] * (20 * rate)])
        ...     seconds = {"Participant": 2, "Time(sec)": 1600000000 + np.arange(20), "Label": np.repeat([0, 1], 10)}
        ...     pd.DataFrame(seconds).to_csv(labels / "Improved_All_Combined_hr_rsp_binary.csv", index=False)
        ...     recordings = read_stress_predict(root)
        >>> recordings[0].name, recordings[0].labels
        ('stress_predict/S02', ((0.0, 10.0, 'baseline'), (10.0, 20.0, 'stress')))
    """
    root = folder_of(root)
    people: dict[str, Path] = {}
    for path in find(root, "S*"):
        if path.is_dir() and re.fullmatch(r"S\d+", path.name):
            people[path.name] = single([*([people[path.name]] if path.name in people else []), path], path.name)
    if not people:
        raise ValueError(f"{root}: no folder S01, S02, ... is in it; give the unpacked repository")
    tables = _second_tables(root, people)
    if not tables:
        raise ValueError(
            f"{root}: nobody has labels: neither {_ALL_LABELS} nor files {_OWN_LABELS.format('<n>')} are in it; "
            "download the whole repository, with Processed_data"
        )
    out = Recordings()
    for subject, path in people.items():
        if subject not in tables:
            out.skip("there are no labels of this person", f"stress_predict/{subject}")
            continue
        recording = read_e4(path, subject=subject, modalities=modalities, dataset="stress_predict")[0]
        file, table = tables[subject]
        with located(str(file)):
            out.append(_labelled_by_second(recording, table))
    return out


def _second_tables(root: Path, people: Iterable[str]) -> dict[str, tuple[Path, pd.DataFrame]]:
    """Find subject -> file and table of the labels of every second, whose index is the line in the file."""
    files = find(root, _ALL_LABELS)
    columns, number = ("Time(sec)", "Label"), {subject: int(subject[1:]) for subject in people}
    if not files:
        own = {subject: find(root, _OWN_LABELS.format(n)) for subject, n in number.items()}
        found = {subject: single(paths, paths[0].name) for subject, paths in own.items() if paths}
        tables = {subject: (path, read_columns(path, columns)) for subject, path in found.items()}
    else:
        path = single(files, _ALL_LABELS)
        table = read_columns(path, ("Participant", *columns))
        odd = ~table["Participant"].isin(list(range(1000))).to_numpy()
        if odd.any():
            row = int(odd.argmax())
            with located(str(path)):
                raise ValueError(f"line {row + 2}: participant {table['Participant'][row]:g}; expected 2, 3, ...")
        parts = dict(list(table.groupby("Participant", sort=False)))
        tables = {subject: (path, parts[n]) for subject, n in number.items() if n in parts}
    return {subject: (path, table.set_axis(table.index + 2)) for subject, (path, table) in tables.items()}


def _labelled_by_second(recording: Recording, table: pd.DataFrame) -> Recording:
    """Label a recording by a table of one line per second, whose index is the line in its file."""
    times, labels = table["Time(sec)"].to_numpy() - recording.start, table["Label"].to_numpy()
    odd = ~np.isin(labels, (0, 1)) | np.isnan(times)
    if odd.any():
        row = int(odd.argmax())
        what = f"time {times[row]:g}, label {labels[row]:g}"
        raise ValueError(f"line {table.index[row]}: {what}; expected a time and 0 or 1")
    if (np.diff(times) <= 0).any():
        row = int((np.diff(times) <= 0).argmax()) + 1
        raise ValueError(f"line {table.index[row]}: its time is not after the one before")
    outside = (times < -1) | (times > recording.seconds)
    if outside.mean() > 0.5:
        first, last, start = (utc(recording.start + seconds) for seconds in (times[0], times[-1], 0.0))
        raise ValueError(
            f"its times, {first} to {last} UTC, are not those of the recording {recording.subject}, "
            f"{recording.seconds:g} s from {start} UTC; the labels belong to another person or session"
        )
    notes = dict(recording.notes)
    if outside.any():
        added(notes, {"labels: seconds before or after the signals, left out": int(outside.sum())})
    out: list[tuple[float, float, str]] = []
    gap = np.cumsum(np.diff(times, prepend=times[:1] - 1) > 1.5)  # a second that is missing has no label
    for row, stop, key in runs(2 * gap + labels.astype(int)):
        begin, end = max(float(times[row]), 0.0), min(float(times[stop - 1]) + 1, recording.seconds)
        end = min(end, float(times[stop])) if stop < len(times) else end
        if begin < end:
            out.append((begin, end, CLASSES["stress"][key % 2]))
    return replace(recording, task="stress", classes=CLASSES["stress"][:2], labels=tuple(out), notes=notes)
