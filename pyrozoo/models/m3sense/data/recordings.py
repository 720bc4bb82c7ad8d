"""Recordings of wrist sensors, and what their readers share: the parts of files that need care in every data set."""

from __future__ import annotations

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
_SENTINEL = 380.0  # [deg C]; the device writes 382.18 or so, the largest number it has, where it measured nothing
_TEMP_RANGE = (-40.0, 115.0)  # what the device measures [deg C]
_GAP_S = 1.0  # without samples for longer, a recording is cut in two
_EXTRA = "pip install 'pyrozoo[spreadsheets]'"


@dataclass(frozen=True, eq=False)
class Recording:
    """One stretch of signals of one person, all from the same moment, without gaps.

    Attributes:
        subject: Name of the person within the data set, a string even where it looks like a number.
        signals: Modality -> samples, (n,): ``bvp`` in the device's units, ``eda`` in uS, ``temp`` in deg C.
        rates: Modality -> samples per second.
        task: What the labels are of, such as "stress"; None where there are none.
        classes: Names of the task's classes, in the order of their numbers.
        labels: (from, to, class) in seconds from the start, in order, without overlap; what lies between is unlabelled.
        start: Unix time of the first sample [s], 0 where unknown.
        dataset: Name of the data set.
        notes: What was replaced or left out by the reader -> how many samples (or what the note says).

    Raises:
        ValueError: A signal is empty, not finite or not one-dimensional; a rate is missing or not positive; labels
            overlap or name no class. The message names subject and field.
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

    def __post_init__(self) -> None:
        with located(self.name):
            if not isinstance(self.subject, str) or not self.subject:
                raise ValueError(f"subject {self.subject!r}: give a name, as a string ('15', not 15)")
            signals = {name: np.asarray(signal, dtype=float) for name, signal in self.signals.items()}
            _check_signals(signals, self.rates)
            _check_labels(self.task, self.classes, self.labels)
        fixed = {"signals": MappingProxyType(signals), "classes": tuple(self.classes), "labels": tuple(self.labels)}
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
        """How long all signals last [s]; some go on for a few seconds more."""
        return min(len(signal) / self.rates[name] for name, signal in self.signals.items())


class Recordings(list):
    """A list of recordings that knows what its reader left out.

    Attributes:
        skipped: Reason -> names of the people or sessions that were left out.
    """

    def __init__(self, recordings: Iterable[Recording] = (), skipped: Mapping[str, Sequence[str]] | None = None):
        super().__init__(recordings)
        self.skipped: dict[str, list[str]] = {reason: list(names) for reason, names in (skipped or {}).items()}

    def skip(self, reason: str, name: str) -> None:
        """Note that something was left out, and why."""
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
    """A file or channel of a recording is missing or empty; a reader of many may leave that one out."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put a place before a message about what is there, as `files.naming`; MissingDataError stays one."""
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
        if signal.ndim != 1:
            raise ValueError(f"{name}: shape {signal.shape}; give one row of samples")
        if not len(signal):
            raise MissingDataError(f"{name}: the channel is empty; leave it or the recording out")
        if not np.isfinite(signal).all():
            at = int((~np.isfinite(signal)).argmax())
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
    """The modalities asked for; ValueError for one that the data set does not have."""
    chosen = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    odd = [name for name in chosen if name not in known]
    if odd or not chosen:
        raise ValueError(f"modalities: {odd[0] if odd else 'none'!r}; choose among {list(known)}")
    return chosen


def folder_of(root: str | Path) -> Path:
    """The folder; FileNotFoundError where there is none."""
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    return Path(root)


def find(root: Path, pattern: str) -> list[Path]:
    """Files or folders below `root` by name, sorted; those that file managers add are no data."""
    return sorted(
        path
        for path in root.rglob(pattern)
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)
    )


def single(paths: Sequence[Path], what: str) -> Path:
    """The one file of this kind; ValueError where an archive was unpacked twice."""
    if len(paths) > 1:
        raise ValueError(f"{what} is there twice, {paths[0]} and {paths[1]}; keep one")
    return paths[0]


def cleaned(name: str, signal: np.ndarray, first_row: int = 1) -> tuple[np.ndarray, dict[str, int]]:
    """A channel without the device's known artefacts, and how many samples were replaced.

    The first EDA sample is 0.000000 in every export: it becomes the second. Temperatures of 382.18 deg C or so mean
    "not measured": they become the value before, or at the beginning the first one measured.

    Args:
        name: The modality.
        signal: Samples, (n,).
        first_row: Row of the first sample in the file, for messages.

    Raises:
        ValueError: No temperature was measured, or one is out of the device's range.
    """
    notes: dict[str, int] = {}
    if name == "eda" and len(signal) > 1 and signal[0] == 0:
        signal = np.concatenate([signal[1:2], signal[1:]])
        notes["eda: first sample, a zero, replaced"] = 1
    if name == "temp":
        sentinel = signal > _SENTINEL
        if sentinel.all():
            raise MissingDataError("temp: the channel holds no measured temperature; leave it or the recording out")
        if sentinel.any():
            last = np.maximum.accumulate(np.where(sentinel, -1, np.arange(len(signal))))
            signal = signal[np.where(last < 0, int((~sentinel).argmax()), last)]
            notes["temp: samples not measured (382 deg C), replaced"] = int(sentinel.sum())
        odd = (signal < _TEMP_RANGE[0]) | (signal > _TEMP_RANGE[1])
        if odd.any():
            at = int(odd.argmax())
            raise ValueError(
                f"row {at + first_row}: a temperature of {signal[at]:g} is out of the device's range {_TEMP_RANGE} deg "
                "C; correct its unit or cut the recording"
            )
    return signal, notes


def added(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts to counts."""
    for key, number in more.items():
        counts[key] = counts.get(key, 0) + number


def runs(values: np.ndarray) -> list[tuple[int, int, Any]]:
    """Stretches of equal values: (first, one past the last, value)."""
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    bounds = [0, *edges.tolist(), len(values)] if len(values) else [0]
    return [(a, b, values[a].item()) for a, b in itertools.pairwise(bounds)]


def on_grids(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]], rates: Mapping[str, float]
) -> tuple[list[tuple[float, dict[str, np.ndarray]]], dict[str, int]]:
    """Signals with a time for each sample, at their nominal rates: one piece for each stretch without gaps.

    Within a stretch samples are interpolated linearly, by less than a sample.

    Args:
        series: Modality -> times [s], in order, and samples, each (n,).
        rates: Modality -> nominal rate [Hz].

    Returns:
        Pieces (start [s], modality -> samples), and counts of what was left out.

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
    """Columns of a CSV file with a header, whose names may be padded with blanks.

    Args:
        path: The file.
        columns: Names of the columns wanted.
        text: Those that hold text; the others hold numbers, NaN where empty.
        missing: Further marks of a missing number, such as "x".

    Returns:
        pandas.DataFrame: The columns wanted.

    Raises:
        MissingDataError: The file is empty.
        ValueError: No table, a column is missing, or a number is none; the message names file, column and line.
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
    """The columns of a table of strings as numbers, or text where they are named in `text`; see `read_columns`."""
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
    """Columns of a spreadsheet, as `read_columns` those of a CSV file; it needs openpyxl.

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
