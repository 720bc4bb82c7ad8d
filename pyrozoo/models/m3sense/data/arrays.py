"""Windows from anybody's arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....data.batch import Batch
from .batches import CLOCK, SEGMENT, Labels, build, class_order, clock, require_classes, require_segment


def from_arrays(
    signals: Mapping[str, Any], labels: Any, subject: Any, task: str | None, *, classes: Sequence[str] | None = None,
    begin: Any = None, start: Any = None, channels: Mapping[str, Sequence[str]] | None = None, dataset: str = "own",
    segment: int = SEGMENT, dtype: torch.dtype | None = None, **info: Any,
) -> Batch:  # fmt: skip
    """Make a batch of windows that are already cut.

    Args:
        signals: Modality -> windows, (N, samples), or (N, samples, channels) for a modality of several channels, such
            as three axes of acceleration; any names and numbers of samples.
        labels: Whole numbers from 0, -1 where unknown, or names of classes, None or "" where unknown, (N,); None where
            no label is known.
        subject: Name of the person of each window, (N,); 15 and "15" are the same.
        task: Name of the task that the labels belong to, such as "stress"; None where there are no labels.
        classes: Names of the classes in the order of their numbers; by default the numbers, or the sorted names.
        begin: Begin of each window in seconds from the start of its recording, (N,); None where no times are known.
            With it the batch has the coordinates of `windows`; it needs ``rates`` or ``seconds``.
        start: Unix time of the start of the recording, one number or (N,), NaN where unknown. Windows of one person and
            one start are of one recording.
        channels: Modality -> names of its channels, of those with several; by default their numbers.
        dataset: Name of the data set; people of data sets of different names are different people.
        segment: Samples in a segment of the encoder; a window has at least one segment.
        dtype: Floating type; torch's default where None.
        **info: Provenance, such as name=, rates= (modality -> Hz), seconds=, simulated=.

    Returns:
        Batch: Windows in the layout that `windows` returns.

    Raises:
        ValueError: A shape, label or subject is wrong, a value is not finite, a task has one class, or a window is
            shorter than a segment. The message names field, row and remedy.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import from_arrays
        >>> signals = {"eda": np.random.default_rng(0).normal(size=(4, 40))}
        >>> labels, people = ["calm", "stress", "stress", ""], ["S01", "S01", "S02", "S02"]
        >>> data = from_arrays(signals, labels, people, "stress", rates={"eda": 4.0})
        >>> data.coords["y_stress_class"].tolist(), data.observed("y_stress").tolist()
        (['calm', 'stress'], [True, True, True, False])
    """
    if task is None and labels is not None:
        raise ValueError("task: name what the labels are of, such as 'stress', or give labels=None")
    if task is not None and labels is None:
        raise ValueError(f"labels: there are none for the task {task!r}; give them, or task=None")
    given = {} if task is None else {task: labels}
    batch, targets = checked(
        signals, subject, given, {} if classes is None else dict.fromkeys(given, classes), "labels", dataset, segment,
        dtype, {"name": dataset, "simulated": False, **info}, begin, start, channels,
    )  # fmt: skip
    require_classes(targets)
    return batch


def checked(
    signals: Mapping[str, Any], subject: Any, labels: Mapping[str, Any], classes: Mapping[str, Sequence[str]],
    field: str, dataset: str, segment: int, dtype: torch.dtype | None, info: Mapping[str, Any], begin: Any = None,
    start: Any = None, channels: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Batch, dict[str, Labels]]:  # fmt: skip
    """Check windows and labels; returns their batch and the labels by task. `field` names the labels in messages."""
    if not signals:
        raise ValueError("signals: there are none; give at least one modality")
    taken = [name for name in signals if name in ("dataset", "subject", "window", *CLOCK) or name.startswith("y_")]
    if taken:
        raise ValueError(f"signals: the name {taken[0]!r} is taken; call the modality otherwise")
    people = _values(subject, "subject")
    n, arrays = len(people), {name: _signal(name, value) for name, value in signals.items()}
    for name, array in arrays.items():
        if array.ndim not in (2, 3) or len(array) != n or array.dtype.kind not in "fiu":
            raise ValueError(
                f"{name}: {array.dtype} of shape {array.shape}; give numbers, ({n} windows, samples) or ({n} windows, "
                "samples, channels)"
            )
        if not array[:1].size:
            raise ValueError(f"{name}: the channel is empty; leave the modality out")
        if not np.isfinite(array).all():
            row, sample = np.argwhere(~np.isfinite(array))[0][:2]
            raise ValueError(
                f"{name}, row {row}: sample {sample} is not finite; interpolate it or leave the window out"
            )
    counts = {name: array.shape[1] for name, array in arrays.items()}
    require_segment(counts, segment)
    info = dict(info)
    if info.get("rates"):
        info["seconds"] = _require_rates(counts, info["rates"], info.get("seconds"))
    names = np.array([f"{dataset}/{_subject(value, row)}" for row, value in enumerate(people)])
    targets = {
        task: (tuple(classes[task]), np.full(n, -1))
        if given is None
        else _coded(given, classes.get(task), n, task, field.format(task=task))
        for task, given in labels.items()
    }
    signals = {name: array.astype(float) for name, array in arrays.items()}
    named = _channel_names(arrays, channels or {})
    times = _times(begin, start, names, info.get("seconds"))
    return build(signals, np.full(n, dataset), names, targets, dtype, times, named, **info), targets


def _channel_names(arrays: Mapping[str, np.ndarray], given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Names of the channels of every modality (N, samples, channels): those given, or numbers."""
    numbers = {name: array.shape[2] for name, array in arrays.items() if array.ndim == 3}
    for name, own in given.items():
        if name not in numbers:
            raise ValueError(f"channels: {name!r} is no modality of several channels; those are {list(numbers)}")
        if len(own) != numbers[name] or len(set(own)) != len(own):
            raise ValueError(f"channels: {name} has {numbers[name]} channels; give as many names, not {list(own)}")
    return {name: [str(c) for c in given.get(name, range(n))] for name, n in numbers.items()}


def _times(begin: Any, start: Any, names: np.ndarray, seconds: float | None) -> dict[str, np.ndarray] | None:
    """Compute the coordinates of windows from their begins and the starts of their recordings; see `clock`."""
    if begin is None:
        if start is not None:
            raise ValueError("start: give begin, too, the seconds from the start at which each window begins")
        return None
    if seconds is None:
        raise ValueError("begin: the duration of a window is not known; give rates=, or seconds=")
    given = {"begin": begin, "start": np.nan if start is None else start}
    arrays = {}
    for field, value in given.items():
        try:
            arrays[field] = np.array(np.broadcast_to(np.asarray(value, dtype=float), names.shape))
        except (TypeError, ValueError):
            raise ValueError(f"{field}: give a number of seconds for each of the {len(names)} windows") from None
        odd = np.isinf(arrays[field]) | (np.isnan(arrays[field]) & (field == "begin"))
        if odd.any():
            raise ValueError(f"{field}, row {int(odd.argmax())}: {arrays[field][odd.argmax()]}; give seconds")
    recording = np.array([f"{name} {first:.3f}" for name, first in zip(names, arrays["start"], strict=True)])
    return clock(recording, arrays["begin"], float(seconds), arrays["start"])


def _signal(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: its windows differ in length; cut or resample them to one length") from None


def _values(given: Any, field: str) -> list[Any]:
    """List one value per window, as Python's own types; not through an array, which would convert mixed types."""
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{field}: {values!r}; give one value per window")
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if any(isinstance(value, str) for value in values):  # a pandas Series turns None among text into NaN or NA
        values = [
            None if value is pd.NA or (isinstance(value, float) and value != value) else value for value in values
        ]
    odd = [value for value in values if isinstance(value, list | tuple | np.ndarray)]
    if odd:
        raise ValueError(f"{field}: {odd[0]!r} in the place of one value; give one per window")
    return values


def _require_rates(counts: Mapping[str, int], rates: Mapping[str, float], seconds: float | None) -> float:
    """Check that all modalities' windows have the same duration at these rates; returns the duration [s]."""
    for name in (*counts, *rates):
        if name not in rates or name not in counts:
            have, lack = ("signals", "rate") if name in counts else ("rate", "signals")
            raise ValueError(f"rates: {name!r} has {have} but no {lack}; give the rate of every modality, or of none")
        if not 0 < rates[name] < np.inf:
            raise ValueError(f"rates: {name} at {rates[name]} Hz; give samples per second")
    first = next(iter(counts))
    expected = counts[first] / rates[first] if seconds is None else seconds
    for name, n in counts.items():
        # Windows may end within a sample of one another.
        if abs(n / rates[name] - expected) > 1 / min(rates.values()) - 1e-9:
            raise ValueError(
                f"{name}: {n} samples at {rates[name]:g} Hz are {n / rates[name]:g} s, but windows of "
                f"{f'{first} last' if seconds is None else 'all modalities should last'} {expected:g} s; the rates do "
                "not match: correct them"
            )
    return expected


_NO_NAMES = ("nan", "None", "<NA>", "NaT")  # missing values after conversion to text


def _subject(value: Any, row: int) -> str:
    """Convert the name of a person to text; ValueError if it is missing or was read as a number with decimals."""
    if isinstance(value, bytes):
        raise ValueError(f"subject, row {row}: {value!r} are bytes; give text")
    name = "" if value is None else str(value).strip()
    if not name or name in _NO_NAMES:
        raise ValueError(f"subject, row {row}: the name is missing; name the person or drop the row")
    if isinstance(value, float) or re.fullmatch(r"\d+\.0+", name):
        raise ValueError(
            f"subject, row {row}: {value} is a number with decimals; read the column as text (dtype=str), for '15' and "
            "'1E4' are names"
        )
    return name


def _coded(labels: Any, classes: Sequence[str] | None, n: int, task: str, field: str) -> Labels:
    """Convert labels to numbers, -1 where unknown; returns the names of the classes and the numbers (n,)."""
    values = np.empty(len(given := _values(labels, field)), dtype=object)
    values[:] = given
    if values.shape != (n,):
        raise ValueError(f"{field}: shape {values.shape}, expected ({n},)")
    whole = [isinstance(value, int) and not isinstance(value, bool) for value in values]
    if all(whole):
        code = values.astype(int)
        names = tuple(map(str, range(max(0, code.max(initial=-1) + 1)))) if classes is None else tuple(classes)
        gaps = sorted(set(range(len(names))) - set(code.tolist())) if classes is None else []
        if gaps:
            raise ValueError(
                f"{field}: no window has class {gaps[0]}, and classes are numbered from 0; give the names of all "
                "classes in the order of their numbers as classes=[...], or number the labels from 0 without gaps"
            )
        odd = (code < -1) | (code >= len(names))
        remedy = f"classes are numbered 0 to {len(names) - 1}, -1 where unknown"
    else:
        odd = np.array([value is not None and not isinstance(value, str) for value in values])
        remedy = "give whole numbers, -1 where unknown, or names, None where unknown"
        words = [value.strip() if isinstance(value, str) else "" for value in values]
        known = sorted(set(words) - {""})
        names = class_order(task, known) if classes is None else tuple(classes)
        if classes is None and not odd.any():
            odd = np.array([word in (*_NO_NAMES, "-1") for word in words])
            remedy = "it looks like a label that is missing; give '' where unknown" if odd.any() else remedy
        if not odd.any():
            odd = np.array([word not in ("", *names) for word in words])
            remedy = f"it is none of the classes {list(names)}" if odd.any() else remedy
        code = np.array([names.index(word) if word in names else -1 for word in words], dtype=int)
    if odd.any():
        raise ValueError(f"{field}, row {int(odd.argmax())}: {values[odd.argmax()]!r}; {remedy}")
    return names, code
