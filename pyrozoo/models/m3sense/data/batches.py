"""Windows as batches: from arrays, joined data sets, standardisation, resampling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from ....data.batch import Batch
from .recordings import located
from .simulator import CLASSES

SEGMENT = 5  # samples that the encoder reads at once
Labels = tuple[tuple[str, ...], np.ndarray]  # names of classes; (N,) their numbers, -1 where unknown


# -------------------------------------------------------------------- anybody's windows
def from_arrays(
    signals: Mapping[str, Any], labels: Any, subject: Any, task: str | None, *, classes: Sequence[str] | None = None,
    dataset: str = "own", segment: int = SEGMENT, dtype: torch.dtype | None = None, **info: Any,
) -> Batch:  # fmt: skip
    """Make a batch of windows that are already cut.

    Args:
        signals: Modality -> windows, (N, samples); any names and numbers of samples.
        labels: Whole numbers from 0, -1 where unknown, or names of classes, None or "" where unknown, (N,); None where
            no label is known.
        subject: Name of the person of each window, (N,); 15 and "15" are the same.
        task: Name of the task that the labels belong to, such as "stress"; None where there are no labels.
        classes: Names of the classes in the order of their numbers; by default the numbers, or the sorted names.
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
        dtype, {"name": dataset, "simulated": False, **info},
    )  # fmt: skip
    require_classes(targets)
    return batch


def checked(
    signals: Mapping[str, Any], subject: Any, labels: Mapping[str, Any], classes: Mapping[str, Sequence[str]],
    field: str, dataset: str, segment: int, dtype: torch.dtype | None, info: Mapping[str, Any],
) -> tuple[Batch, dict[str, Labels]]:  # fmt: skip
    """Check windows and labels; returns their batch and the labels by task. `field` names the labels in messages."""
    if not signals:
        raise ValueError("signals: there are none; give at least one modality")
    taken = [name for name in signals if name in ("dataset", "subject", "window") or name.startswith("y_")]
    if taken:
        raise ValueError(f"signals: the name {taken[0]!r} is taken; call the modality otherwise")
    people = _values(subject, "subject")
    n, arrays = len(people), {name: _signal(name, value) for name, value in signals.items()}
    for name, array in arrays.items():
        if array.ndim != 2 or len(array) != n or array.dtype.kind not in "fiu":
            raise ValueError(f"{name}: {array.dtype} of shape {array.shape}; give numbers, ({n} windows, samples)")
        if not array.shape[1]:
            raise ValueError(f"{name}: the channel is empty; leave the modality out")
        if not np.isfinite(array).all():
            row, sample = np.argwhere(~np.isfinite(array))[0]
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
    return build(signals, np.full(n, dataset), names, targets, dtype, **info), targets


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
    if any(isinstance(value, str) for value in values):  # a pandas Series turns None among text into NaN
        values = [None if isinstance(value, float) and value != value else value for value in values]
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
        names = _ordered(task, known) if classes is None else tuple(classes)
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


# -------------------------------------------------------------------- batches
def standardise(data: Batch, by: str = "subject") -> Batch:
    """Subtract every signal's mean and divide by its standard deviation, per person or per window.

    Standardising by person removes the differences between people. It uses all windows of a person but no labels:
    people for whom a fit predicts later must be standardised by their own windows, too.

    Args:
        data: Windows.
        by: Unit over which mean and standard deviation are taken, "subject" or "window".

    Returns:
        Batch: The standardised windows; ``info["standardised"]`` is `by`.

    Raises:
        ValueError: A signal never changes; the data are standardised already.

    Example:
        >>> from pyrozoo.models.m3sense import simulate, standardise
        >>> data = standardise(simulate("simulated stress", n_subjects=2, n_windows=6, seconds=5.0))
        >>> first = data["temp"][data["subject"] == 0]
        >>> bool(first.mean().abs() < 1e-5), data.info["standardised"]
        (True, 'subject')
    """
    if by not in ("subject", "window"):
        raise ValueError(f"by: {by!r} is none of ['subject', 'window']")
    if "standardised" in data.info:
        raise ValueError(f"the data are standardised already, by {data.info['standardised']}")
    index = data[by].cpu().numpy()
    index = np.unique(index, return_inverse=True)[1]
    count, tensors = np.bincount(index), {}
    for name in modalities(data):
        signal = data[name].double().cpu().numpy()
        mean = np.bincount(index, signal.mean(1)) / count
        centred = signal - mean[index, None]
        sd = np.sqrt(np.bincount(index, (centred**2).mean(1)) / count)
        flat = ~(sd > 1e-9 * np.maximum(1e-9, np.abs(mean)))
        if flat.any():
            row = int((index == flat.argmax()).argmax())
            whose = f"{by} {str(data.group_names(by)[row])!r}" if by == "subject" else f"window {row}"
            raise ValueError(f"{name}, {whose}: it never changes; leave the {by} or the modality out")
        tensors[name] = torch.as_tensor(centred / sd[index, None]).to(data[name])
    data = data.with_tensors(tensors)
    return replace(data, info={**data.info, "standardised": by})


def at_rates(data: Batch, rates: Mapping[str, float]) -> Batch:
    """Resample every signal to another rate, each window on its own, by a polyphase filter.

    Args:
        data: Windows whose rates are known.
        rates: Modality -> samples per second, for all modalities.

    Returns:
        Batch: The same windows at these rates.

    Raises:
        ValueError: A rate is missing or unknown, or gives no whole number of samples.

    Example:
        >>> from pyrozoo.models.m3sense import at_rates, simulate
        >>> data = simulate("simulated stress", n_subjects=1, n_windows=4, seconds=5.0)
        >>> slower = at_rates(data, {"bvp": 16.0, "eda": 4.0, "temp": 4.0})
        >>> data["bvp"].shape, slower["bvp"].shape
        (torch.Size([4, 320]), torch.Size([4, 80]))
    """
    from scipy.signal import resample_poly

    own, tensors = data.info.get("rates") or {}, {}
    for name in modalities(data):
        if name not in own or name not in rates:
            raise ValueError(f"rates: that of {name} is unknown; the data have {dict(own)}, given are {dict(rates)}")
        ratio = Fraction(rates[name] / own[name]).limit_denominator(1000)
        if ratio <= 0 or (data[name].shape[1] * ratio).denominator != 1:
            raise ValueError(f"rates: {name} from {own[name]:g} to {rates[name]:g} Hz makes no whole number of samples")
        signal = data[name].double().cpu().numpy()
        if ratio != 1:
            signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")
        tensors[name] = torch.as_tensor(signal).to(data[name])
    info = {**data.info, "rates": {name: float(rates[name]) for name in tensors}}
    return replace(data, tensors={**data.tensors, **tensors}, info=info)


def modalities(data: Batch) -> list[str]:
    """List the names of the signals in a batch of windows."""
    return [name for name, dims in data.dims.items() if dims == (f"{name}_time",) and name in data]


def merge(batches: Sequence[Batch]) -> Batch:
    """Join data sets into one batch; windows are unlabelled for the tasks that their own data set does not have.

    Classes of a task that several data sets share are matched by name. Values that only a simulator knows (`truth`) are
    dropped.

    Args:
        batches: Whole data sets with the same modalities.

    Returns:
        Batch: The windows of all data sets, in order, with the tasks of all.

    Raises:
        ValueError: There are none, or they differ in modalities, samples, rates or standardisation; one is a minibatch;
            a person is in two of them.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import from_arrays, merge
        >>> eda, people = np.random.default_rng(0).normal(size=(2, 4, 40)), ["S01", "S01", "S02", "S02"]
        >>> stress = from_arrays({"eda": eda[0]}, [0, 1, 0, 1], people, "stress", dataset="lab")
        >>> sleep = from_arrays({"eda": eda[1]}, [1, 0, 0, 1], people, "sleep", dataset="home")
        >>> both = merge([stress, sleep])
        >>> both.n_rows, {name: int(both.observed(name).sum()) for name in both.labels}
        (8, {'y_stress': 4, 'y_sleep': 4})
    """
    batches = list(batches)
    if not batches:
        raise ValueError("batches: there are none; give at least one")
    first, people = batches[0], set[str]()
    shape = {m: first[m].shape[1] for m in modalities(first)}
    for k, batch in enumerate(batches):
        with located(f"batch {k} ({batch.info.get('name', 'unnamed')})"):
            if batch.n_rows != batch.sizes[batch.rows]:
                raise ValueError("it is a minibatch; give whole data sets, or parts made by subset")
            own = {m: batch[m].shape[1] for m in modalities(batch)}
            if own != shape:
                raise ValueError(f"samples in a window {own}, but {shape} in the first; cut all windows alike")
            for field in ("rates", "standardised"):
                if batch.info.get(field) != first.info.get(field) and not (field == "rates" and _unknown(batch, first)):
                    mine, others = batch.info.get(field), first.info.get(field)
                    raise ValueError(f"{field}: {mine}, but {others} in the first; treat all data sets alike")
            both = people & set(batch.coords["subject"].tolist())
            if both:
                raise ValueError(f"{min(both)!r} is in an earlier batch, too; give the data sets different names")
            people |= set(batch.coords["subject"].tolist())
    tasks = all_classes((t, batch.coords[f"y_{t}_class"].tolist()) for batch in batches for t in _tasks(batch))
    targets = {t: (names, np.concatenate([_codes(batch, t, names) for batch in batches])) for t, names in tasks.items()}
    info = {field: first.info[field] for field in ("rates", "seconds", "standardised") if field in first.info}
    return build(
        {m: torch.cat([batch[m] for batch in batches]) for m in shape},
        np.concatenate([batch.coords["dataset_class"][batch["dataset"].cpu().numpy()] for batch in batches]),
        np.concatenate([batch.group_names("subject") for batch in batches]), targets, first.reference.dtype,
        name=" + ".join(str(batch.info.get("name", "unnamed")) for batch in batches),
        simulated=any(batch.info.get("simulated", False) for batch in batches),
        info=info | {"parts": {str(batch.info.get("name", k)): dict(batch.info) for k, batch in enumerate(batches)}},
    )  # fmt: skip


def _unknown(*batches: Batch) -> bool:
    return any("rates" not in batch.info for batch in batches)


def _tasks(data: Batch) -> list[str]:
    return [target.removeprefix("y_") for target in data.labels]


def _codes(data: Batch, task: str, names: Sequence[str]) -> np.ndarray:
    """Number a task's labels by their position in `names`, -1 where unknown, (N,)."""
    if f"y_{task}" not in data.labels:
        return np.full(data.n_rows, -1)
    place = np.array([names.index(name) for name in data.coords[f"y_{task}_class"].tolist()])
    return np.where(data.observed(f"y_{task}"), place[data[f"y_{task}"].cpu().numpy()], -1)


def _ordered(task: str, names: Iterable[str]) -> tuple[str, ...]:
    """Order the names of classes as in the paper's task of that name; other tasks keep their order."""
    names = list(dict.fromkeys(names))
    known = CLASSES.get(task, ())
    return tuple(name for name in known if name in names) if set(names) <= set(known) else tuple(names)


def all_classes(pairs: Iterable[tuple[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """Collect task -> the classes that occur in any data set, from pairs (task, classes)."""
    found: dict[str, list[str]] = {}
    for task, names in pairs:
        found.setdefault(task, []).extend(names)
    return {task: _ordered(task, names) for task, names in found.items()}


def build(
    signals: Mapping[str, Any], dataset: np.ndarray, subject: np.ndarray, targets: Mapping[str, Labels],
    dtype: torch.dtype | None, **info: Any,
) -> Batch:  # fmt: skip
    """Build the batch that the models of this entry read; `targets` are the labels by task."""
    datasets = np.array(list(dict.fromkeys(dataset.tolist())))
    number = {name: k for k, name in enumerate(datasets.tolist())}
    return Batch.from_arrays(
        rows={
            **signals, **{f"y_{task}": code for task, (_, code) in targets.items()},
            "dataset": np.array([number[name] for name in dataset.tolist()]),
        },
        groups={"subject": subject}, labels={f"y_{task}": code >= 0 for task, (_, code) in targets.items()},
        row_plate="window", dims={name: (f"{name}_time",) for name in signals},
        coords={
            "subject": np.array(list(dict.fromkeys(subject.tolist()))), "dataset_class": datasets,
            **{f"y_{task}_class": np.array(names) for task, (names, _) in targets.items()},
        },
        dtype=dtype, **info,
    )  # fmt: skip


def require_segment(counts: Mapping[str, int], segment: int) -> None:
    """Raise ValueError if windows are shorter than a segment."""
    short = [name for name, n in counts.items() if n < segment]
    if short:
        raise ValueError(
            f"{short[0]}: a window has {counts[short[0]]} samples, fewer than a segment of {segment}; make windows "
            "longer or segments shorter"
        )


def require_classes(targets: Mapping[str, Labels]) -> None:
    """Raise ValueError if the labels of a task have fewer than two classes."""
    for task, (names, code) in targets.items():
        present = np.unique(code[code >= 0])
        if len(present) < 2:
            what = f"all labelled windows are {names[present[0]]!r}" if len(present) else "no window has a label"
            raise ValueError(f"task {task!r}: {what}; a task needs two classes: add data, or use them without the task")
