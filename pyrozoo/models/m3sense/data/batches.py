"""Windows as batches: from arrays, joined data sets, standardisation, resampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from ....data.batch import Batch
from ....data.values import check_precision
from .recordings import located
from .simulator import CLASSES

SEGMENT = 5  # samples that the encoder reads at once
Labels = tuple[tuple[str, ...], np.ndarray]  # names of classes; (N,) their numbers, -1 where unknown


def standardise(data: Batch, by: str = "subject") -> Batch:
    """Subtract every channel's mean and divide by its standard deviation, per person or per window.

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
        out = np.empty_like(signal)
        for k in range(1 if signal.ndim == 2 else signal.shape[2]):
            own = signal if signal.ndim == 2 else signal[..., k]
            mean = np.bincount(index, own.mean(1)) / count
            centred = own - mean[index, None]
            sd = np.sqrt(np.bincount(index, (centred**2).mean(1)) / count)
            flat = ~(sd > 1e-9 * np.maximum(1e-9, np.abs(mean)))
            if flat.any():
                row = int((index == flat.argmax()).argmax())
                whose = f"{by} {str(data.group_names(by)[row])!r}" if by == "subject" else f"window {row}"
                channel = f", {channels(data)[name][k]}" if signal.ndim == 3 else ""
                raise ValueError(f"{name}{channel}, {whose}: it never changes; leave the {by} or the modality out")
            (out if signal.ndim == 2 else out[..., k])[:] = centred / sd[index, None]
        tensors[name] = torch.as_tensor(out).to(data[name])
    data = data.with_tensors(tensors)
    return replace(data, info={**data.info, "standardised": by})


def window_numbers(data: Batch) -> np.ndarray:
    """Number the windows of each person by time, or in their order where times are not known, (N,) from 0."""
    order = np.arange(data.n_rows)
    if "begin" in data.row_coords:
        times = data.describe_rows()
        unix, begin = times["unix"].to_numpy(), times["begin"].to_numpy()
        order = np.lexsort((order, begin, np.where(np.isnan(unix), 0.0, unix)))
    people = data["subject"].cpu().numpy()
    out, count = np.empty(data.n_rows, dtype=int), dict[int, int]()
    for row in order.tolist():
        out[row] = count.get(people[row], 0)
        count[people[row]] = out[row] + 1
    return out


def numbered(data: Batch) -> Batch:
    """Add the coordinate ``number`` of the windows, see `window_numbers`, which parts of the data then keep."""
    coords = {**data.coords, "number": window_numbers(data)}
    return replace(data, coords=coords, along={**data.along, "number": data.rows})


def detrended(data: Batch, degree: int = 1) -> Batch:
    """Take the trend over a person's session out of every channel.

    In experiments in which everybody follows one schedule, slow drifts tell the time, and the time tells the label. The
    polynomial that fits the means of a person's windows best is subtracted from them, its own mean left; what changes
    within a few windows stays. Time is the number of the window (by its begin, where that is known).

    Args:
        data: Windows that are not standardised.
        degree: Degree of the polynomial, at least 1.

    Returns:
        Batch: The windows without the trend; ``info["detrended"]`` is `degree`.

    Raises:
        ValueError: The data are standardised already, or have features; a person has too few windows.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import detrended, from_arrays
        >>> drift = np.arange(6.0)[:, None] + np.zeros((6, 40))
        >>> data = detrended(from_arrays({"temp": drift}, None, ["S01"] * 6, None))
        >>> np.round(data["temp"][:, 0].numpy(), 3).tolist()
        [2.5, 2.5, 2.5, 2.5, 2.5, 2.5]
    """
    if degree < 1:
        raise ValueError(f"degree: {degree}; a trend has a degree of at least 1")
    if "standardised" in data.info:
        raise ValueError("the data are standardised already; take the trend out before (detrended, then standardise)")
    _require_no_features(data)
    number, people = window_numbers(data), data["subject"].cpu().numpy()
    tensors = {name: data[name].double().cpu().numpy().copy() for name in modalities(data)}
    for person in np.unique(people):
        own = np.flatnonzero(people == person)
        if len(own) < degree + 2:
            name = str(data.coords["subject"][person])
            raise ValueError(f"subject {name!r} has {len(own)} windows; a trend of degree {degree} needs {degree + 2}")
        basis = np.polynomial.legendre.legvander(np.interp(number[own], [0, number[own].max()], [-1, 1]), degree)
        for signal in tensors.values():
            level = signal[own].mean(1)
            trend = basis @ np.linalg.lstsq(basis, level, rcond=None)[0]
            signal[own] -= (trend - trend.mean(0))[:, None]
    changed = {name: torch.as_tensor(signal).to(data[name]) for name, signal in tensors.items()}
    return replace(data.with_tensors(changed), info={**data.info, "detrended": degree})


def at_rates(data: Batch, rates: Mapping[str, float]) -> Batch:
    """Resample every signal to another rate, each window on its own, by a polyphase filter.

    Args:
        data: Windows whose rates are known.
        rates: Modality -> samples per second, for all modalities.

    Returns:
        Batch: The same windows at these rates.

    Raises:
        ValueError: A rate is missing or unknown, or gives no whole number of samples; the data have features.

    Example:
        >>> from pyrozoo.models.m3sense import at_rates, simulate
        >>> data = simulate("simulated stress", n_subjects=1, n_windows=4, seconds=5.0)
        >>> slower = at_rates(data, {"bvp": 16.0, "eda": 4.0, "temp": 4.0})
        >>> data["bvp"].shape, slower["bvp"].shape
        (torch.Size([4, 320]), torch.Size([4, 80]))
    """
    from scipy.signal import resample_poly

    _require_no_features(data)
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
    return [name for name, dims in data.dims.items() if dims[:1] == (f"{name}_time",) and name in data]


def channels(data: Batch) -> dict[str, list[str]]:
    """Map each modality of several channels to their names."""
    return {name: data.coords[data.dims[name][1]].tolist() for name in modalities(data) if len(data.dims[name]) > 1}


def features_of(data: Batch) -> dict[str, int]:
    """Map each modality that has handcrafted features (`with_features`) to their number."""
    return {name: data[f"{name}_features"].shape[1] for name in modalities(data) if f"{name}_features" in data}


def _require_no_features(data: Batch) -> None:
    if features_of(data):
        raise ValueError("the data have features of their signals, which would no longer be theirs; add them last")


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
            a person is in two of them; one has features, which are added to the whole.

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
    shape = {m: _shape(first, m) for m in modalities(first)}
    for k, batch in enumerate(batches):
        with located(f"batch {k} ({batch.info.get('name', 'unnamed')})"):
            _require_no_features(batch)
            if batch.n_rows != batch.sizes[batch.rows]:
                raise ValueError("it is a minibatch; give whole data sets, or parts made by subset")
            own = {m: _shape(batch, m) for m in modalities(batch)}
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
        _joined_times(batches), channels(first),
        name=" + ".join(str(batch.info.get("name", "unnamed")) for batch in batches),
        simulated=any(batch.info.get("simulated", False) for batch in batches),
        info=info | {"parts": {str(batch.info.get("name", k)): dict(batch.info) for k, batch in enumerate(batches)}},
    )  # fmt: skip


def _shape(data: Batch, modality: str) -> int | tuple[int, list[str]]:
    """Return the number of samples in a window, and of several channels their names."""
    samples = data[modality].shape[1]
    return (samples, channels(data)[modality]) if modality in channels(data) else samples


def _joined_times(batches: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Join the times of windows, NaN where a batch has none."""
    known = [name for name in CLOCK if any(name in batch.row_coords for batch in batches)]
    parts = [batch.describe_rows().reindex(columns=known) for batch in batches] if known else []
    return {name: np.concatenate([part[name].to_numpy(float) for part in parts]) for name in known}


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


def class_order(task: str, names: Iterable[str]) -> tuple[str, ...]:
    """Order the names of classes as in the paper's task of that name; other tasks keep their order."""
    names = list(dict.fromkeys(names))
    known = CLASSES.get(task, ())
    return tuple(name for name in known if name in names) if set(names) <= set(known) else tuple(names)


def all_classes(pairs: Iterable[tuple[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """Collect task -> the classes that occur in any data set, from pairs (task, classes)."""
    found: dict[str, list[str]] = {}
    for task, names in pairs:
        found.setdefault(task, []).extend(names)
    return {task: class_order(task, names) for task, names in found.items()}


def clock(recording: np.ndarray, begin: np.ndarray, seconds: float, start: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what each window knows of its time, as coordinates of the windows.

    Args:
        recording: Number or name of each window's recording, (N,).
        begin: Begin of each window in seconds from the start of its recording, (N,).
        seconds: Duration of a window.
        start: Unix time of the start of its recording, NaN where unknown, (N,).

    Returns:
        begin and end [s from the start of the recording]; gap, seconds since the end of the window before in the same
        recording, NaN for its first window; unix, the unix time of the begin.
    """
    gap, before = np.full(len(begin), np.nan), dict[Any, float]()
    for row, (name, first) in enumerate(zip(recording.tolist(), begin.tolist(), strict=True)):
        if name in before:
            gap[row] = round(first - before[name], 6)
        before[name] = first + seconds
    return {"begin": begin, "end": begin + seconds, "gap": gap, "unix": start + begin}


CLOCK = ("begin", "end", "gap", "unix")


def build(
    signals: Mapping[str, Any], dataset: np.ndarray, subject: np.ndarray, targets: Mapping[str, Labels],
    dtype: torch.dtype | None, times: Mapping[str, np.ndarray] | None = None,
    names: Mapping[str, Sequence[str]] | None = None, **info: Any,
) -> Batch:  # fmt: skip
    """Build the batch that the models of this entry read.

    Args:
        signals: Modality -> windows, (N, samples) or (N, samples, channels).
        dataset: Name of the data set of each window, (N,).
        subject: Name of the person of each window, (N,).
        targets: Task -> labels.
        dtype: Floating type; torch's default where None.
        times: Coordinates of the windows, see `clock`.
        names: Modality of several channels -> their names.
        **info: Provenance.
    """
    several = {f"{name}_channel": np.array(list(own)) for name, own in (names or {}).items()}
    kind = dtype or torch.get_default_dtype()
    for name, values in signals.items():  # of a signal as a whole: neighbouring windows differ by little
        check_precision(name, torch.as_tensor(values).flatten(), kind)
    axes = {name: [f"{name}_time", f"{name}_channel"] for name in signals}
    datasets = np.array(list(dict.fromkeys(dataset.tolist())))
    number = {name: k for k, name in enumerate(datasets.tolist())}
    return Batch.from_arrays(
        rows={
            **{name: torch.as_tensor(values).to(kind) for name, values in signals.items()},
            **{f"y_{task}": code for task, (_, code) in targets.items()},
            "dataset": np.array([number[name] for name in dataset.tolist()]),
        },
        groups={"subject": subject}, labels={f"y_{task}": code >= 0 for task, (_, code) in targets.items()},
        row_plate="window",
        dims={name: tuple(own if f"{name}_channel" in several else own[:1]) for name, own in axes.items()},
        coords={
            **several,
            "subject": np.array(list(dict.fromkeys(subject.tolist()))), "dataset_class": datasets,
            **{f"y_{task}_class": np.array(names) for task, (names, _) in targets.items()},
        },
        row_coords=times, dtype=dtype, **info,
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
