"""Samples of a wristband as they arrive: how a stretch of them becomes a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ....data.batch import Batch
from ....posterior.streaming import Window
from .arrays import checked
from .batches import SEGMENT, channels, features_of, modalities, standardise
from .features import add_features, features, scale_of, scaling
from .recordings import Recording


def samples_of(recording: Recording, like: Batch) -> np.ndarray:
    """Put the channels of a recording side by side, as `pyrozoo.stream` takes them.

    A sample has a value of every channel, at the rate of the fastest modality; a slower one keeps its value between its
    own samples. To follow a recording that grows, read it again and push what is new:
    ``live.push(samples_of(read_e4(folder)[0], data)[live.seen:])``.

    Args:
        recording: Recording whose modalities have the rates of the windows.
        like: Windows in the layout of the fit's training data.

    Returns:
        Samples (n, channels), as many as all modalities have.

    Raises:
        ValueError: The recording lacks a modality, or has it at another rate.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import Recording, samples_of, windows
        >>> signals = {"bvp": np.arange(160.0), "eda": np.arange(80.0)}
        >>> recording = Recording("S01", signals, {"bvp": 8.0, "eda": 4.0})
        >>> like = windows([recording], seconds=10.0, rates=recording.rates, keep_unlabelled=True)
        >>> samples_of(recording, like)[:4].tolist()
        [[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [3.0, 1.0]]
    """
    rates = _rates(like, modalities(like))
    base, columns = max(rates.values()), []
    for name, rate in rates.items():
        if name not in recording.signals or recording.rates[name] != rate:
            found = f"at {recording.rates[name]:g} Hz" if name in recording.signals else "not there"
            raise ValueError(f"{recording.name}: {name} is {found}; the windows have it at {rate:g} Hz")
        signal = np.asarray(recording.signals[name], dtype=float)
        columns.append(np.repeat(signal.reshape(len(signal), -1), round(base / rate), axis=0))
    n = min(map(len, columns))
    return np.hstack([column[:n] for column in columns])


def live_window(like: Batch, wanted: Sequence[str], person: Batch | None, step: float | None) -> Window:
    """Describe how the newest samples become a window in the terms of a fit, for `pyrozoo.stream`.

    Args:
        like: Windows in the layout of the fit's training data.
        wanted: Modalities that the fit reads.
        person: Windows of the one person who is recorded, not standardised, from which means and standard deviations
            are taken; None where the windows of training are not standardised by person and have no features.
        step: Seconds between windows; None for windows that follow one another.

    Raises:
        ValueError: `person` is missing, is standardised, has windows of several people, or other windows than the fit;
            rates are unknown or no multiples of one another; `step` is no whole number of samples.
    """
    rates, names = _rates(like, wanted), channels(like)
    counts = {name: like[name].shape[1] for name in rates}
    base = max(rates, key=rates.__getitem__)
    every = {name: _whole(counts[base] / counts[name], f"rates: of {base} and {name}") for name in rates}
    samples = counts[base] if step is None else _whole(step * rates[base], f"step: {step} s; samples of {base}")
    columns = tuple(f"{name}_{own}" if own else name for name in rates for own in names.get(name, [""]))
    known = _Person.of(like, wanted, person)
    classes = {t.removeprefix("y_"): like.coords[f"{t}_class"].tolist() for t in like.labels}

    def row(held: np.ndarray) -> Batch:
        signals, place = {}, 0
        for name in rates:
            width = len(names.get(name, [""]))
            own = held[:: every[name], place : place + width]
            signals[name] = (own if name in names else own[:, 0])[None]
            place += width
        several = {name: own for name, own in names.items() if name in rates}
        window, _ = checked(
            signals, ["live"], dict.fromkeys(classes), classes, "labels", "live", SEGMENT, like[base].dtype,
            {"name": "live", "rates": rates}, channels=several,
        )  # fmt: skip
        return known.standardised(window)

    return Window(counts[base], samples, columns, row, rates[base])


# -------------------------------------------------------------------- inside
@dataclass(frozen=True)
class _Person:
    """Mean and standard deviation of a person's signals, by channel, and what scales features; none of what stays."""

    by: str | None  # how the signals of training are standardised
    signals: Mapping[str, tuple[np.ndarray, np.ndarray]]
    features: Mapping[str, Callable[[np.ndarray], np.ndarray]]
    scale: str  # of the features

    @classmethod
    def of(cls, like: Batch, wanted: Sequence[str], person: Batch | None) -> _Person:
        by, several = like.info.get("standardised"), set(features_of(like)) & set(wanted)
        if by != "subject" and not several:
            return cls(by, {}, {}, scale_of(like))
        if person is None:
            raise ValueError(
                "person: the fit's data are standardised by person; give windows of the person who is recorded, such "
                "as those of an earlier session, not standardised"
            )
        if "standardised" in person.info or features_of(person):
            raise ValueError("person: its windows are standardised or have features already; give them as recorded")
        if len(people := sorted(set(person.group_names("subject").tolist()))) > 1:
            raise ValueError(f"person: windows of {people}; give those of one person")
        for name in wanted:
            if name not in person or person[name].shape[1:] != like[name].shape[1:]:
                raise ValueError(f"person: no windows of {name} of shape {tuple(like[name].shape[1:])}, as the fit has")
        signals = {}
        for name in wanted if by == "subject" else ():
            own = person[name].double().cpu().numpy()
            flat = own.reshape(-1, own.shape[2] if own.ndim == 3 else 1)
            signals[name] = flat.mean(0), flat.std(0)
        scale = scale_of(like)
        found = {name: scaling(_matrix(own), scale) for name, own in features(person).items() if name in several}
        return cls(by, signals, found, scale)

    def standardised(self, window: Batch) -> Batch:
        found = {name: own for name, own in features(window).items() if name in self.features}
        if self.by == "window":
            window = standardise(window, "window")
        elif self.by is not None:
            window = replace(window, info={**window.info, "standardised": self.by})
        tensors = {}
        for name, (mean, sd) in self.signals.items():
            own = window[name].double().cpu().numpy()
            scaled = (own.reshape(*own.shape[:2], -1) - mean) / sd
            tensors[name] = torch.as_tensor(scaled.reshape(own.shape)).to(window[name])
        more = {
            name: torch.as_tensor(self.features[name](_matrix(own))).to(window[name]) for name, own in found.items()
        }
        names = {name: list(own) for name, own in found.items()}
        return add_features(window.with_tensors(tensors), more, names, self.scale)


def _matrix(own: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack(list(own.values()), 1)


def _rates(like: Batch, wanted: Sequence[str]) -> dict[str, float]:
    known = like.info.get("rates") or {}
    lacking = [name for name in wanted if name not in known]
    if lacking:
        raise ValueError(f"rates: that of {lacking[0]} is unknown in the training data; give rates= with the windows")
    return {name: float(known[name]) for name in wanted}


def _whole(value: float, what: str) -> int:
    if value != round(value) or value < 1:
        raise ValueError(f"{what}: {value:g} is no whole number")
    return round(value)
