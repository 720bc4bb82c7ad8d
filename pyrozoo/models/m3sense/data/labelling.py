"""Labels for recordings of one's own: from a table of stretches, or from the tags that a wristband stored."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from .batches import class_order
from .recordings import Recording, Recordings, added, checked_columns, located, read_columns, utc

CLOCKS = ("seconds", "unix", "clock")
_OUTSIDE = "labels: seconds outside of the recording, left out"
_DAY = 86400.0


def label_by_table(
    recordings: Iterable[Recording], table: str | Path | pd.DataFrame, task: str, *, time: str = "seconds",
    zone: str | None = None, classes: Sequence[str] | None = None,
) -> Recordings:  # fmt: skip
    """Label recordings by a table of stretches: a line each, with the columns ``start``, ``end`` and ``label``.

    A column ``subject`` names the person and is needed for more than one recording; of several recordings of a person,
    a line belongs to the one at its time. Lines with an empty label are left out, and the time that no line covers is
    unlabelled. What lies outside of the recording is cut off and counted in ``notes``.

    Args:
        recordings: Recordings, such as those of `read_e4`; those of people whom the table lacks are returned as they
            are.
        table: Path of a CSV file with a header, or a data frame.
        task: Name of the task.
        time: How times are written: "seconds" from the start of the recording; "unix" seconds; "clock", as
            "2022-02-07 09:53:03", with an offset ("...+01:00") or in `zone`, or as the time of day, "09:53:03", of a
            recording of less than 12 hours.
        zone: Time zone of clock times that have no offset, such as "Europe/Dublin".
        classes: Names of the classes in the order of their numbers; by default in the order of the paper's task of that
            name, or of their first line.

    Returns:
        Recordings: The labelled recordings.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A time cannot be read or is not unique in its zone; stretches end before they begin, overlap, or lie
            outside of all recordings of the person; a person or class is unknown. The message names file and line.

    Example:
        >>> import numpy as np
        >>> import pandas as pd
        >>> from pyrozoo.models.m3sense import Recording, label_by_table
        >>> recording = Recording("S01", {"eda": np.ones(480)}, {"eda": 4.0}, start=1644227580.0)
        >>> times = ["2022-02-07 09:53:00", "2022-02-07 09:54:00"], ["2022-02-07 09:54:00", "2022-02-07 09:55:00"]
        >>> table = pd.DataFrame({"start": times[0], "end": times[1], "label": ["rest", "talk"]})
        >>> label_by_table([recording], table, "stress", time="clock", zone="Europe/Dublin")[0].labels
        ((0.0, 60.0, 'rest'), (60.0, 120.0, 'talk'))
    """
    if time not in CLOCKS:
        raise ValueError(f"time: {time!r} is none of {list(CLOCKS)}")
    out = Recordings(recordings, getattr(recordings, "skipped", None))
    place = "table" if isinstance(table, pd.DataFrame) else str(table)
    lines = _lines(table, time)
    with located(place):
        names = [line.label for line in lines]
        order = class_order(task, names) if classes is None else tuple(classes)
        for line in lines:
            if line.label not in order:
                raise ValueError(f"line {line.number}: {line.label!r} is none of the classes {list(order)}")
        found: dict[int, list[tuple[float, float, _Line]]] = {}
        for line in lines:
            with located(f"line {line.number}"):
                which, start, end = _place(line, out, time, _zone(zone))
            found.setdefault(which, []).append((start, end, line))
        for which, stretches in found.items():
            out[which] = _labelled(out[which], stretches, task, order)
    return out


def label_by_tags(
    recordings: Iterable[Recording], names: Sequence[str | None] | Mapping[str, Sequence[str | None]], task: str, *,
    classes: Sequence[str] | None = None,
) -> Recordings:  # fmt: skip
    """Label recordings by their tags, the moments at which the button of the wristband was pressed.

    Args:
        recordings: Recordings with ``tags``, as `read_e4` reads them.
        names: Class of every stretch between two neighbouring tags, None or "" where it has none: one name fewer than
            there are tags. One list for all, or subject -> list; people whom it lacks are returned as they are.
        task: Name of the task.
        classes: Names of the classes in the order of their numbers; by default in the order of the paper's task of that
            name, or as they first occur.

    Returns:
        Recordings: The labelled recordings.

    Raises:
        ValueError: A recording has another number of tags, or one outside of its time; a person or class is unknown.
            The message lists the tags.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import Recording, label_by_tags
        >>> recording = Recording("S01", {"eda": np.ones(480)}, {"eda": 4.0}, tags=(10.0, 50.0, 60.0, 110.0))
        >>> label_by_tags([recording], ["rest", None, "talk"], "stress")[0].labels
        ((10.0, 50.0, 'rest'), (60.0, 110.0, 'talk'))
    """
    out = Recordings(recordings, getattr(recordings, "skipped", None))
    people = {recording.subject for recording in out}
    lists = dict(names) if isinstance(names, Mapping) else dict.fromkeys(people, names)
    unknown = [subject for subject in lists if subject not in people]
    if unknown:
        raise ValueError(f"names: {unknown[0]!r} has no recording; there are {sorted(people)}")
    given = [name for own in lists.values() for name in own if name]
    order = class_order(task, given) if classes is None else tuple(classes)
    for k, recording in enumerate(out):
        if recording.subject not in lists:
            continue
        own, tags = list(lists[recording.subject]), recording.tags
        said = ", ".join(f"{tag:g}" for tag in tags) or "none"
        with located(recording.name):
            if len(own) != len(tags) - 1:
                raise ValueError(
                    f"{len(own)} names, but {len(tags)} tags (at {said} s): give a name for every stretch between two "
                    "tags, None where it has no class; leave out stray tags by dataclasses.replace(recording, tags=...)"
                )
            if any(not 0 <= tag <= recording.seconds for tag in tags):
                raise ValueError(
                    f"tags at {said} s, but the signals last {recording.seconds:g} s; leave out stray tags by "
                    "dataclasses.replace(recording, tags=...)"
                )
            pairs = zip(tags[:-1], tags[1:], own, strict=True)
            labels = tuple((start, end, name) for start, end, name in pairs if name)
            out[k] = replace(recording, task=task, classes=order, labels=labels)
    return out


# -------------------------------------------------------------------- inside
class _Line(NamedTuple):
    """A line of a table of labels: its number in the file, person ("" if not named), times as written, class."""

    number: int
    subject: str
    start: Any
    end: Any
    label: str


def _lines(table: str | Path | pd.DataFrame, time: str) -> list[_Line]:
    """Read the lines that have a label."""
    text = ("label", "subject", *(("start", "end") if time == "clock" else ()))
    columns = ("start", "end", "label")
    if isinstance(table, pd.DataFrame):
        with located("table"):
            given = [str(name).strip() for name in table.columns]
            frame = checked_columns(table, columns + (("subject",) if "subject" in given else ()), text)
    else:
        path = Path(table)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
        header = [name.strip() for name in path.read_text(encoding="utf-8-sig").partition("\n")[0].split(",")]
        frame = read_columns(path, columns + (("subject",) if "subject" in header else ()), text)
    people = frame["subject"].fillna("") if "subject" in frame else [""] * len(frame)
    rows = zip(people, frame["start"], frame["end"], frame["label"].fillna(""), strict=True)
    return [_Line(k, *row) for k, row in enumerate(rows, start=2) if row[-1] not in ("", "nan", "None")]


def _place(line: _Line, recordings: Sequence[Recording], time: str, zone: ZoneInfo | None) -> tuple[int, float, float]:
    """Find a line's recording and its times in seconds from the start of that recording."""
    own = [k for k, recording in enumerate(recordings) if line.subject in ("", recording.subject)]
    if not own:
        people = sorted({recording.subject for recording in recordings})
        raise ValueError(f"subject {line.subject!r} has no recording; there are {people}")
    if not line.subject and len(recordings) > 1:
        raise ValueError(f"there are {len(recordings)} recordings; add a column 'subject' that names the person")
    if time == "seconds" and len(own) > 1:
        raise ValueError(f"subject {line.subject!r} has {len(own)} recordings; give unix or clock times (time=)")
    places = []
    for k in own:
        start, end = (_seconds(word, recordings[k], time, zone) for word in (line.start, line.end))
        if end < start and time == "clock" and _of_day(str(line.end)) is not None:  # past midnight
            end += _DAY
        if not start < end:
            raise ValueError(f"it ends ({_word(line.end)}) before it begins ({_word(line.start)}); correct the times")
        places.append((k, start, end))
    inside = [(k, start, end) for k, start, end in places if start < recordings[k].seconds and end > 0]
    if not inside:
        spans = "; ".join(_span(recordings[k], time) for k in own)
        raise ValueError(
            f"from {_word(line.start)} to {_word(line.end)} is outside of the recording, {spans}; correct the times, "
            "their kind (time=) or their zone (zone=)"
        )
    if len(inside) > 1:
        raise ValueError(
            f"from {_word(line.start)} to {_word(line.end)} is in two recordings of {line.subject!r}; cut the line"
        )
    return inside[0]


def _word(time: Any) -> str:
    return time if isinstance(time, str) else f"{time:.12g}"


def _span(recording: Recording, time: str) -> str:
    if time == "seconds":
        return f"which lasts {recording.seconds:g} s"
    return f"{utc(recording.start)} to {utc(recording.start + recording.seconds)} UTC"


def _seconds(word: Any, recording: Recording, time: str, zone: ZoneInfo | None) -> float:
    """Convert a time as written to seconds from the start of the recording."""
    if time != "clock":
        value = float(word)
        if np.isnan(value):
            raise ValueError("a time is missing; fill it in, or leave the label empty")
        if time == "seconds":
            return value
    if not recording.start:
        raise ValueError(f"the start of {recording.name} is not known; give seconds from its start (time='seconds')")
    return (_unix(str(word), recording, zone) if time == "clock" else value) - recording.start


def _of_day(word: str) -> datetime.time | None:
    try:
        return datetime.time.fromisoformat(word)
    except ValueError:
        return None


def _unix(word: str, recording: Recording, zone: ZoneInfo | None) -> float:
    """Convert a clock time to unix seconds; a time of day is that within 12 hours of the recording's start."""
    of_day = _of_day(word)
    try:
        moment = None if of_day is not None else datetime.datetime.fromisoformat(word)
    except ValueError:
        raise ValueError(f"{word!r} is no clock time, such as 2022-02-07 09:53:03 or 09:53:03") from None
    if moment is not None and moment.tzinfo is not None:
        return moment.timestamp()
    if zone is None:
        raise ValueError(f"{word!r} is in no time zone; give zone='Europe/Dublin' or another, or write its offset")
    if moment is not None:
        return _in_zone(moment, zone)
    if recording.seconds >= _DAY / 2:
        raise ValueError(f"{word!r} is a time of day, and the recording lasts 12 hours or more; write dates, too")
    day = datetime.datetime.fromtimestamp(recording.start, zone).date()
    days = (day + datetime.timedelta(days=k) for k in (-1, 0, 1))
    moments = [_in_zone(datetime.datetime.combine(d, of_day), zone) for d in days]  # type: ignore[arg-type]
    return min(moments, key=lambda moment: abs(moment - recording.start - recording.seconds / 2))


def _in_zone(moment: datetime.datetime, zone: ZoneInfo) -> float:
    early, late = (moment.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if early != late:
        raise ValueError(f"{moment} is not one moment in {zone}, where clocks were changed; write its offset (+01:00)")
    return early


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"zone: {name!r} is no time zone, such as 'Europe/Dublin' or 'UTC'") from None


def _labelled(
    recording: Recording, stretches: Sequence[tuple[float, float, _Line]], task: str, classes: Sequence[str]
) -> Recording:
    """Label a recording by stretches in seconds from its start, which are cut to its time."""
    labels: list[tuple[float, float, str]] = []
    before, cut = -1, 0.0
    for start, end, line in sorted(stretches, key=lambda stretch: stretch[:2]):
        inside = max(start, 0.0), min(end, recording.seconds)
        if labels and inside[0] < labels[-1][1] - 1e-6:
            raise ValueError(f"line {line.number}: it overlaps line {before}; give every moment one label")
        first = max(inside[0], labels[-1][1]) if labels else inside[0]  # times rounded to less than a microsecond
        labels.append((first, inside[1], line.label))
        before, cut = line.number, cut + (end - start) - (inside[1] - inside[0])
    notes = dict(recording.notes)
    if round(cut):
        added(notes, {_OUTSIDE: round(cut)})
    return replace(recording, task=task, classes=tuple(classes), labels=tuple(labels), notes=notes)
