"""Windows as batches: anybody's own arrays, data sets joined, standardisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...batch import Batch
from .recordings import located
from .simulator import CLASSES, DEVICE_RATES

SEGMENT = 5  # samples that the encoder reads at once
Labels = tuple[tuple[str, ...], np.ndarray]  # names of classes; (N,) their numbers, -1 where unknown


# -------------------------------------------------------------------- anybody's windows
def from_arrays(
    signals: Mapping[str, Any], labels: Any, subject: Any, task: str | None, *, classes: Sequence[str] | None = None,
    dataset: str = "own", segment: int = SEGMENT, dtype: torch.dtype | None = None, **info: Any,
) -> Batch:  # fmt: skip
    """Windows that are cut already, as a batch.

    Args:
        signals: Modality -> windows, (N, samples); any names and numbers of samples.
        labels: Whole numbers from 0, -1 where unknown, or names of classes, None or "" where unknown, (N,); None where
            no label is known.
        subject: Name of the person of each window, (N,); 15 and "15" are the same.
        task: What the labels are of; None where there are none.
        classes: Names of the classes in the order of their numbers; by default the numbers, or the sorted names.
        dataset: Name of the data set; people of data sets of different names are different people.
        segment: Samples in a segment of the encoder; a window has at least one.
        dtype: Floating type; torch's default where None.
        **info: Provenance, such as name=, rates= (modality -> Hz), seconds=, simulated=.

    Returns:
        Batch: As `windows` gives it.

    Raises:
        ValueError: A shape, label or subject is wrong, a value is not finite, a task has one class, or a window is
            shorter than a segment. The message names field, row and remedy.
    """
    if not signals:
        raise ValueError("signals: there are none; give at least one modality")
    taken = [name for name in signals if name in ("dataset", "subject", "window") or name.startswith("y_")]
    if taken:
        raise ValueError(f"signals: the name {taken[0]!r} is taken; call the modality otherwise")
    arrays = {name: np.asarray(value) for name, value in signals.items()}
    n = len(np.asarray(subject))
    for name, array in arrays.items():
        if array.ndim != 2 or len(array) != n or array.dtype.kind not in "fiu":
            raise ValueError(f"{name}: {array.dtype} of shape {array.shape}; give numbers, ({n} windows, samples)")
        if not array.shape[1]:
            raise ValueError(f"{name}: the channel is empty; leave the modality out")
    require_segment({name: array.shape[1] for name, array in arrays.items()}, segment)
    names = np.array([f"{dataset}/{_subject(value, row)}" for row, value in enumerate(np.asarray(subject).tolist())])
    targets: dict[str, Labels] = {}
    if task is not None:
        if labels is None:
            raise ValueError(f"labels: there are none for the task {task!r}; give them, or task=None")
        targets[task] = _coded(labels, classes, n, task)
    elif labels is not None:
        raise ValueError("task: name what the labels are of, such as 'stress', or give labels=None")
    require_classes(targets)
    info = {"name": dataset, "simulated": False, **info}
    return build(
        {name: array.astype(float) for name, array in arrays.items()}, np.full(n, dataset), names, targets, dtype,
        **info,
    )  # fmt: skip


def _subject(value: Any, row: int) -> str:
    """Name of a person, however it was given."""
    if isinstance(value, float):
        raise ValueError(
            f"subject, row {row}: {value} is a number with decimals; read the column as text (dtype=str), for '15' and "
            "'1E4' are names"
        )
    name = "" if value is None else str(value).strip()
    if not name:
        raise ValueError(f"subject, row {row}: the name is missing; name the person or drop the row")
    return name


def _coded(labels: Any, classes: Sequence[str] | None, n: int, task: str) -> Labels:
    """Names of the classes, and the number of each label, -1 where unknown."""
    values = np.asarray(labels.tolist() if hasattr(labels, "tolist") else list(labels), dtype=object)
    if values.shape != (n,):
        raise ValueError(f"labels: shape {values.shape}, expected ({n},)")
    whole = [isinstance(value, int) and not isinstance(value, bool) for value in values]
    if all(whole):
        code = values.astype(int)
        names = tuple(map(str, range(max(0, code.max(initial=-1) + 1)))) if classes is None else tuple(classes)
        odd = (code < -1) | (code >= len(names))
        remedy = f"classes are numbered 0 to {len(names) - 1}, -1 where unknown"
    else:
        odd = np.array([value is not None and not isinstance(value, str) for value in values])
        remedy = "give whole numbers, -1 where unknown, or names, None where unknown"
        given = [value or "" if isinstance(value, str | None) else "" for value in values]
        known = sorted(set(given) - {""})
        names = _ordered(task, known) if classes is None else tuple(classes)
        if not odd.any():
            odd = np.array([value not in ("", *names) for value in given])
            remedy = f"it is none of the classes {list(names)}" if odd.any() else remedy
        code = np.array([names.index(value) if value in names else -1 for value in given], dtype=int)
    if odd.any():
        raise ValueError(f"labels, row {int(odd.argmax())}: {values[odd.argmax()]!r}; {remedy}")
    return names, code


def read_stress_predict_windows(path: str | Path) -> Batch:
    """Read Stress-Predict as windows of 20 s in one npz file: ``eda_nS, bvp_x10, temp_cC, label, subject``.

    Args:
        path: The file: whole numbers in nS, tenths of the device's unit and hundredths of a degree, (N, samples).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no npz file of these arrays.
    """
    path = Path(path)
    with path.open("rb") as stream, located(str(path)):
        try:
            with np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in ("eda_nS", "bvp_x10", "temp_cC", "label", "subject")}
        except (OSError, EOFError, AttributeError, KeyError, ValueError) as error:
            raise ValueError(f"no npz file of windows ({error})") from error
        units = {"bvp": ("bvp_x10", 10.0), "eda": ("eda_nS", 1000.0), "temp": ("temp_cC", 100.0)}
        return from_arrays(
            {name: arrays[key] / unit for name, (key, unit) in units.items()}, arrays["label"],
            [f"S{int(number):02d}" for number in arrays["subject"]], "stress", classes=CLASSES["stress"][:2],
            dataset="stress_predict", seconds=20.0, rates=dict(DEVICE_RATES),
        )  # fmt: skip


# -------------------------------------------------------------------- batches
def standardise(data: Batch, by: str = "subject") -> Batch:
    """Every signal less its mean and over its standard deviation, of each person or of each window.

    By person it takes away what differs between people, using all windows of a person but no labels: a person whom a
    model meets later must be standardised by windows of their own, too.

    Args:
        data: Windows.
        by: "subject" or "window".

    Returns:
        Batch: ``info["standardised"]`` is `by`.

    Raises:
        ValueError: A signal never changes; the data are standardised already.
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


def modalities(data: Batch) -> list[str]:
    """Names of the signals in a batch of windows."""
    return [name for name, dims in data.dims.items() if dims == (f"{name}_time",) and name in data]


def merge(batches: Sequence[Batch]) -> Batch:
    """Join data sets into one batch; windows of one have no label of another's task.

    Classes of a task that several data sets have are matched by name. What a simulator alone knows (`truth`) is not
    kept.

    Args:
        batches: Whole data sets with the same modalities.

    Raises:
        ValueError: There are none, or they differ in modalities, samples, rates or standardisation; one is a minibatch;
            a person is in two of them.
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
        simulated=any(batch.info.get("simulated", False) for batch in batches), **info,
        parts={str(batch.info.get("name", k)): dict(batch.info) for k, batch in enumerate(batches)},
    )  # fmt: skip


def _unknown(*batches: Batch) -> bool:
    return any("rates" not in batch.info for batch in batches)


def _tasks(data: Batch) -> list[str]:
    return [target.removeprefix("y_") for target in data.labels]


def _codes(data: Batch, task: str, names: Sequence[str]) -> np.ndarray:
    """Numbers of a task's labels among `names`, -1 where unknown, (N,)."""
    if f"y_{task}" not in data.labels:
        return np.full(data.n_rows, -1)
    place = np.array([names.index(name) for name in data.coords[f"y_{task}_class"].tolist()])
    return np.where(data.observed(f"y_{task}"), place[data[f"y_{task}"].cpu().numpy()], -1)


def _ordered(task: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in the order of the paper's tasks, else as they are."""
    names = list(dict.fromkeys(names))
    known = CLASSES.get(task, ())
    return tuple(name for name in known if name in names) if set(names) <= set(known) else tuple(names)


def all_classes(pairs: Iterable[tuple[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """Task -> the classes that any data set has."""
    found: dict[str, list[str]] = {}
    for task, names in pairs:
        found.setdefault(task, []).extend(names)
    return {task: _ordered(task, names) for task, names in found.items()}


def build(
    signals: Mapping[str, Any], dataset: np.ndarray, subject: np.ndarray, targets: Mapping[str, Labels],
    dtype: torch.dtype | None, **info: Any,
) -> Batch:  # fmt: skip
    """The batch in which every data set of this entry reaches the models; `targets` are the labels by task."""
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
    """Refuse windows that are shorter than a segment."""
    short = [name for name, n in counts.items() if n < segment]
    if short:
        raise ValueError(
            f"{short[0]}: a window has {counts[short[0]]} samples, fewer than a segment of {segment}; make windows "
            "longer or segments shorter"
        )


def require_classes(targets: Mapping[str, Labels]) -> None:
    """Refuse tasks of which there is nothing to learn."""
    for task, (names, code) in targets.items():
        present = np.unique(code[code >= 0])
        if len(present) < 2:
            what = f"all labelled windows are {names[present[0]]!r}" if len(present) else "no window has a label"
            raise ValueError(f"task {task!r}: {what}; a task needs two classes: add data, or use them without the task")
