"""Recordings of wrist sensors, and the functions that all readers share: finding, checking and cleaning files."""

from __future__ import annotations

import datetime
import importlib
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from ....files import naming

MODALITIES = ("bvp", "eda", "temp")
_SENTINEL = (380.0, 385.0)  # [deg C]; the device writes 382.18 or so where it measured nothing
# What a wristband measures, with a margin: temperature as in its data sheet, conductance up to 100 uS, acceleration up
# to 2 g; the pulse wave has units of its own.
_RANGES = {
    "temp": ("a temperature", -40.0, 115.0, "deg C"),
    "eda": ("a skin conductance", -1.0, 200.0, "uS"),
    "bvp": ("a pulse wave", -1e5, 1e5, "units"),
    "acc": ("an acceleration", -20.0, 20.0, "g"),
}
_GAP_S = 1.0  # without samples for longer, a recording is cut in two
_EXTRA = "pip install 'pyrozoo[spreadsheets]'"


@dataclass(frozen=True, eq=False)
class Recording:
    """One stretch of signals of one person, all beginning at the same moment, without gaps.

    Attributes:
        subject: Name of the person within the data set, a string even where it looks like a number.
        signals: Modality -> samples, (n,), or (n, channels) where it has several: ``bvp`` in the device's units,
            ``eda`` in uS, ``temp`` in deg C, ``acc`` in g, ``hr`` in beats per minute, ``ibi`` in seconds.
        rates: Modality -> samples per second.
        task: Name of the task that the labels belong to, such as "stress"; None where there are no labels.
        classes: Names of the task's classes, in the order of their numbers.
        labels: (from, to, class) in seconds from the start, in order, without overlap; the time between is unlabelled.
        start: Unix time of the first sample [s], 0 where unknown.
        dataset: Name of the data set.
        notes: Description of what the reader replaced or left out -> number of samples (or as the description says).
        channels: Modality of several channels -> their names; numbers by default.
        tags: Moments at which the button of the device was pressed, in seconds from the start; see `label_by_tags`.

    Raises:
        ValueError: A signal is empty, not finite or not one-dimensional; a rate is missing or not positive; labels
            overlap or name no class. The message names subject and field.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import Recording
        >>> labels = ((0.0, 30.0, "baseline"), (40.0, 60.0, "stress"))
        >>> recording = Recording("S01", {"eda": np.ones(240)}, {"eda": 4.0}, "stress", ("baseline", "stress"), labels)
        >>> recording.name, recording.seconds
        ('recordings/S01', 60.0)
    """

    subject: str
    signals: Mapping[str, np.ndarray]
    rates: Mapping[str, float]
    task: str | None = None
    classes: tuple[str, ...] = ()
    labels: tuple[tuple[float, float, str], ...] = ()
    start: float = 0.0
    dataset: str = "recordings"
    notes: Mapping[str, int] = field(default_factory=dict)
    tags: tuple[float, ...] = ()
    channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with located(self.name):
            if not isinstance(self.subject, str) or not self.subject:
                raise ValueError(f"subject {self.subject!r}: give a name, as a string ('15', not 15)")
            signals = {name: np.asarray(signal, dtype=float) for name, signal in self.signals.items()}
            _check_signals(signals, self.rates)
            _check_labels(self.task, self.classes, self.labels)
        fixed: dict[str, Any] = {
            "signals": MappingProxyType(signals),
            "classes": tuple(self.classes),
            "labels": tuple(self.labels),
        }
        fixed["tags"] = tuple(float(tag) for tag in self.tags)
        several = {name: range(signal.shape[1]) for name, signal in signals.items() if signal.ndim == 2}
        names = {name: tuple(str(c) for c in self.channels.get(name, own)) for name, own in several.items()}
        fixed["channels"] = MappingProxyType(names)
        for name in ("rates", "notes"):
            fixed[name] = MappingProxyType(dict(getattr(self, name)))
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """Name of the person among those of all data sets, such as "wesad/S2"."""
        return f"{self.dataset}/{self.subject}"

    @property
    def seconds(self) -> float:
        """Duration of the shortest signal [s]; others may be a few seconds longer."""
        return min(len(signal) / self.rates[name] for name, signal in self.signals.items())


class Recordings(list):
    """A list of recordings that also holds the names of those that its reader left out.

    Args:
        recordings: The recordings.
        skipped: Reason -> names of the people or sessions that were left out.

    Attributes:
        skipped: Reason -> names of the people or sessions that were left out.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import Recording, Recordings
        >>> found = Recordings([Recording("S01", {"eda": np.ones(240)}, {"eda": 4.0})])
        >>> found.skip("a file is missing or empty", "recordings/S02")
        >>> len(found), found.skipped
        (1, {'a file is missing or empty': ['recordings/S02']})
    """

    def __init__(self, recordings: Iterable[Recording] = (), skipped: Mapping[str, Sequence[str]] | None = None):
        super().__init__(recordings)
        self.skipped: dict[str, list[str]] = {reason: list(names) for reason, names in (skipped or {}).items()}

    def skip(self, reason: str, name: str) -> None:
        """Record that the person or session `name` was left out, and the reason."""
        self.skipped.setdefault(reason, []).append(name)

    def __add__(self, other: Any) -> Recordings:
        both = Recordings(self, self.skipped)
        both += other
        return both

    def __iadd__(self, other: Any) -> Recordings:
        self.extend(other)
        for reason, names in getattr(other, "skipped", {}).items():
            self.skipped.setdefault(reason, []).extend(names)
        return self


class MissingDataError(ValueError):
    """A file or channel of a recording is missing or empty; readers of many recordings leave such a one out."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Prefix the message of a ValueError with a place, like `files.naming`; a MissingDataError keeps its type."""
    try:
        with naming(place):
            yield
    except ValueError as error:
        if isinstance(error.__cause__, MissingDataError):
            raise MissingDataError(str(error)) from error
        raise


def _check_signals(signals: Mapping[str, np.ndarray], rates: Mapping[str, float]) -> None:
    if not signals:
        raise ValueError("signals: there are none; give at least one modality")
    for name, signal in signals.items():
        if signal.ndim not in (1, 2):
            raise ValueError(f"{name}: shape {signal.shape}; give samples (n,), or (n, channels)")
        if not signal.size:
            raise MissingDataError(f"{name}: the channel is empty; leave it or the recording out")
        if not np.isfinite(signal).all():
            at = int((~np.isfinite(signal.reshape(len(signal), -1))).any(1).argmax())
            raise ValueError(f"{name}, sample {at}: {signal[at]} is not finite; interpolate it or cut the recording")
        if not 0 < rates.get(name, 0.0) < np.inf:
            raise ValueError(f"{name}: the rate is {rates.get(name)}; give samples per second")


def _check_labels(task: str | None, classes: Sequence[str], labels: Sequence[tuple[float, float, str]]) -> None:
    if labels and (task is None or not classes):
        raise ValueError("labels: they need a task and its classes")
    end = -np.inf
    for start, stop, name in labels:
        if name not in classes:
            raise ValueError(f"labels: {name!r} is none of the classes {list(classes)} of {task!r}")
        if not end <= start < stop < np.inf:
            raise ValueError(f"labels: {name!r} from {start:g} to {stop:g} s; they must be in order, without overlap")
        end = stop


# -------------------------------------------------------------------- what readers share
def wanted(modalities: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the requested modalities as a tuple; ValueError for one that the data set does not have."""
    chosen = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    odd = [name for name in chosen if name not in known]
    if odd or not chosen:
        raise ValueError(f"modalities: {odd[0] if odd else 'none'!r}; choose among {list(known)}")
    return chosen


def folder_of(root: str | Path) -> Path:
    """Return the folder as a path; FileNotFoundError if it does not exist."""
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    return Path(root)


def find(root: Path, pattern: str) -> list[Path]:
    """List files or folders below `root` whose names match, sorted, without hidden ones and those of file managers."""
    return sorted(
        path
        for path in root.rglob(pattern)
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)
    )


def single(paths: Sequence[Path], what: str) -> Path:
    """Return the only path; ValueError if there are several, as after unpacking an archive twice."""
    if len(paths) > 1:
        raise ValueError(f"{what} is there twice, {paths[0]} and {paths[1]}; keep one")
    return paths[0]


def cleaned(name: str, signal: np.ndarray, first_row: int = 1) -> tuple[np.ndarray, dict[str, int]]:
    """Replace the device's known artefacts in a channel, and count the replaced samples.

    The first EDA sample is 0.000000 in every export: it is replaced by the second. Temperatures of about 382.18 deg C
    mean "not measured": they are replaced by the value before, or at the beginning by the first one measured.

    Args:
        name: Name of the modality.
        signal: Samples, (n,).
        first_row: Row of the first sample in the file, for messages.

    Returns:
        The channel, (n,), and description -> number of replaced samples.

    Raises:
        ValueError: No temperature was measured, or a sample is out of the device's range.
    """
    notes: dict[str, int] = {}
    if name == "eda" and len(signal) > 1 and signal[0] == 0:
        signal = np.concatenate([signal[1:2], signal[1:]])
        notes["eda: first sample, a zero, replaced"] = 1
    if name == "temp":
        sentinel = (signal > _SENTINEL[0]) & (signal < _SENTINEL[1])
        if sentinel.all():
            raise MissingDataError("temp: the channel holds no measured temperature; leave it or the recording out")
        if sentinel.any():
            last = np.maximum.accumulate(np.where(sentinel, -1, np.arange(len(signal))))
            signal = signal[np.where(last < 0, int((~sentinel).argmax()), last)]
            notes["temp: samples not measured (382 deg C), replaced"] = int(sentinel.sum())
    require_plausible(name, signal, first_row)
    return signal, notes


def require_plausible(name: str, signal: np.ndarray, first_row: int = 1) -> None:
    """Refuse samples that no wristband measures.

    Args:
        name: Name of the modality; others than temp, eda, bvp and acc have no range.
        signal: Samples, (n,) or (n, channels).
        first_row: Row of the first sample in the file, for messages.

    Raises:
        ValueError: A sample is out of the device's range.
    """
    if name not in _RANGES:
        return
    what, least, most, unit = _RANGES[name]
    odd = ~((signal >= least) & (signal <= most))
    if odd.any():
        at = tuple(np.argwhere(odd)[0])
        raise ValueError(
            f"row {at[0] + first_row}: {what} of {signal[at]:g} is out of the device's range {(least, most)} {unit}; "
            "correct its unit or cut the recording"
        )


def utc(seconds: float) -> str:
    """Write a unix time as date and time of day in UTC, for messages."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S}"


def added(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add the numbers in `more` to `counts`, in place."""
    for key, number in more.items():
        counts[key] = counts.get(key, 0) + number


def runs(values: np.ndarray) -> list[tuple[int, int, Any]]:
    """List the stretches of equal values: (first, one past the last, value)."""
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    bounds = [0, *edges.tolist(), len(values)] if len(values) else [0]
    return [(a, b, values[a].item()) for a, b in itertools.pairwise(bounds)]


def on_grids(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]], rates: Mapping[str, float]
) -> tuple[list[tuple[float, dict[str, np.ndarray]]], dict[str, int]]:
    """Resample signals that have a time for each sample to their nominal rates, in one piece per stretch without gaps.

    Within a stretch samples are interpolated linearly; they move by less than the time between two samples.

    Args:
        series: Modality -> times [s], in order, and samples, each (n,).
        rates: Modality -> nominal rate [Hz].

    Returns:
        Pieces (start [s], modality -> samples), and notes: description of what was left out -> number.

    Raises:
        ValueError: Times are not in order or do not have the nominal rate; no moment is common to all modalities.
    """
    edges: list[tuple[float, float]] = []
    notes: dict[str, int] = {}
    for name, (times, _) in series.items():
        step = np.diff(times)
        if (step < 0).any():
            raise ValueError(f"{name}, sample {int((step < 0).argmax()) + 1}: its time is before that of the last one")
        rate = 1 / max(float(step[step < _GAP_S].mean()), 1e-9) if (step < _GAP_S).any() else 0.0
        if abs(rate / rates[name] - 1) > 0.05:
            raise ValueError(
                f"{name}: {rate:.3g} samples per second by its times, expected {rates[name]:g}; check the file or "
                "resample it"
            )
        gaps = np.flatnonzero(step >= _GAP_S)
        edges += [(float(times[i]) + 1 / rates[name], float(times[i + 1])) for i in gaps]
        if len(gaps):
            notes[f"{name}: gaps of {_GAP_S:g} s or more, where the recording is cut"] = len(gaps)
    # A sample stands for the time until the next one.
    start, stop = max(t[0] for t, _ in series.values()), min(t[-1] + 1 / rates[m] for m, (t, _) in series.items())
    if not start < stop:
        raise MissingDataError("no moment is common to all modalities; leave the recording out")
    pieces, begin = [], start
    for left, right in sorted([*edges, (stop, np.inf)]):
        end = min(left, stop)
        if end > begin:
            signals = {}
            for name, (times, samples) in series.items():
                count = max(1, round((end - begin) * rates[name]))
                signals[name] = np.interp(begin + np.arange(count) / rates[name], times, samples)
            pieces.append((begin, signals))
        begin = max(begin, right)
    return pieces, notes


# -------------------------------------------------------------------- tables
def read_columns(path: Path, columns: Sequence[str], text: Sequence[str] = (), missing: Sequence[str] = ()) -> Any:
    """Read columns of a CSV file with a header, whose names may be padded with blanks.

    Args:
        path: Path of the file.
        columns: Names of the columns to read.
        text: Names of those that hold text; the others hold numbers, NaN where empty.
        missing: Further marks of a missing number, such as "x".

    Returns:
        pandas.DataFrame: The requested columns.

    Raises:
        MissingDataError: The file is empty.
        ValueError: The file is no table, a column is missing, or a cell is no number; the message names file, column
            and line.
    """
    with located(str(path)):
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False)
        except pd.errors.EmptyDataError:
            raise MissingDataError("the file is empty; leave it or the recording out") from None
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise ValueError(f"no table with a header ({error})") from None
        return checked_columns(table, columns, text, missing)


def checked_columns(table: Any, columns: Sequence[str], text: Sequence[str] = (), missing: Sequence[str] = ()) -> Any:
    """Convert columns of a table of strings to numbers, or keep text for those in `text`; see `read_columns`."""
    table = table.rename(columns=lambda name: str(name).strip())
    out = {}
    for column in columns:
        if list(table.columns).count(column) != 1:
            raise ValueError(f"column {column!r} is not there once; the columns are {list(table.columns)}")
        words = table[column].astype(str).str.strip()
        if column in text:
            out[column] = words
            continue
        empty = words.isin(["", "nan", "NaN", "NA", "n/a", "None", *missing])
        numbers = pd.to_numeric(words.mask(empty), errors="coerce")
        wrong = (numbers.isna() & ~empty).to_numpy() | np.isinf(numbers.to_numpy(float))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"column {column!r}, line {row + 2}: {words.iloc[row]!r} is not a number; correct it")
        out[column] = numbers.astype(float)
    return pd.DataFrame(out)


def read_sheet(path: Path, columns: Sequence[str], text: Sequence[str] = (), sheet: str | int = 0) -> Any:
    """Read columns of a spreadsheet like `read_columns` those of a CSV file; this needs openpyxl.

    Args:
        path: Path of the spreadsheet.
        columns: Names of the columns to read.
        text: Names of those that hold text; the others hold numbers, NaN where empty.
        sheet: Name or position of the sheet.

    Returns:
        pandas.DataFrame: The requested columns.

    Raises:
        ImportError: openpyxl is not installed; the message says how to install it.
        ValueError: As `read_columns`.
    """
    try:
        importlib.import_module("openpyxl")
    except ImportError:
        raise ImportError(f"{path}: reading spreadsheets needs openpyxl; {_EXTRA}") from None
    with located(str(path)), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about styles of cells
        if not path.stat().st_size:
            raise MissingDataError("the file is empty; leave it or the recording out")
        try:
            table = pd.read_excel(path, sheet_name=sheet, dtype=object, engine="openpyxl", keep_default_na=False)
        except Exception as error:  # a damaged archive raises whatever its parts stumble over
            raise ValueError(f"no spreadsheet, or it lacks sheet {sheet!r} ({type(error).__name__}: {error})") from None
        return checked_columns(table, columns, text)
