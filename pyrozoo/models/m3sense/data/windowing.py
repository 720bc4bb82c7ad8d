"""From recordings to windows: filtering, and cutting with labels by time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from ....data.batch import Batch
from .arrays import from_arrays
from .batches import SEGMENT, all_classes, build, clock, merge, require_classes, require_segment, standardise
from .recordings import Recording, Recordings, added, located
from .simulator import DEVICE_RATES

__all__ = ["CUTOFFS", "filtered", "fir", "from_arrays", "low_pass", "merge", "standardise", "windows"]
# The paper filters, but does not say at which frequencies [Hz]: above heart rate and its first overtones, above skin
# conductance responses, and above what skin temperature does.
CUTOFFS: Mapping[str, float] = MappingProxyType({"bvp": 8.0, "eda": 1.0, "temp": 0.5})


# -------------------------------------------------------------------- filtering
def low_pass(signal: Any, rate: float, cutoff: float, order: int = 4) -> np.ndarray:
    """Filter by a Butterworth low-pass filter, run forwards and backwards so that nothing is delayed.

    Args:
        signal: Samples, (n,).
        rate: Samples per second.
        cutoff: Frequency [Hz] at which the amplitude is halved.
        order: Order of the filter, which is run twice.

    Returns:
        Filtered samples, (n,).

    Raises:
        ValueError: The cutoff is not below half the rate, or the signal is too short or not finite.
    """
    from scipy.signal import butter, sosfiltfilt

    signal = _filterable(signal, rate, cutoff, least=6 * order + 1)
    return sosfiltfilt(butter(order, cutoff, fs=rate, output="sos"), signal)


def fir(signal: Any, rate: float, cutoff: float, taps: int | None = None) -> np.ndarray:
    """Filter by a finite-impulse-response low-pass filter, a symmetric windowed sinc, so that nothing is delayed.

    Args:
        signal: Samples, (n,).
        rate: Samples per second.
        cutoff: Frequency [Hz] at which the amplitude is halved.
        taps: Length of the filter in samples, an odd number; by default four periods of the cutoff.

    Returns:
        Filtered samples, (n,).

    Raises:
        ValueError: The cutoff is not below half the rate; the signal is too short or not finite; the number of taps is
            even or below 3.
    """
    from scipy.signal import convolve, firwin

    if taps is None:
        taps = 2 * math.ceil(2 * rate / cutoff) + 1 if cutoff > 0 else 3
    if taps < 3 or taps % 2 == 0:
        raise ValueError(f"taps: {taps}; an odd number of at least 3 delays nothing")
    half = taps // 2
    signal = _filterable(signal, rate, cutoff, least=half + 1)
    padded = np.pad(signal, half, mode="reflect", reflect_type="odd")
    return convolve(padded, firwin(taps, cutoff, fs=rate), mode="valid")


def _filterable(signal: Any, rate: float, cutoff: float, least: int) -> np.ndarray:
    signal = np.asarray(signal, dtype=float)
    if signal.ndim != 1 or len(signal) < least:
        raise ValueError(f"signal: shape {signal.shape}; this filter needs one row of at least {least} samples")
    if not np.isfinite(signal).all():
        raise ValueError(f"signal, sample {int((~np.isfinite(signal)).argmax())}: not finite; interpolate it")
    if not 0 < cutoff < rate / 2:
        raise ValueError(f"cutoff: {cutoff:g} Hz; it must be between 0 and half the rate of {rate:g} Hz")
    return signal


def filtered(recordings: Iterable[Recording], cutoffs: Mapping[str, float] = CUTOFFS) -> Recordings:
    """Apply a low-pass and then an FIR filter to the modalities that have a cutoff.

    Args:
        recordings: Recordings as the readers return them; they are not changed.
        cutoffs: Modality -> cutoff [Hz] of both filters.

    Returns:
        Recordings: The recordings with filtered signals.

    Raises:
        ValueError: A cutoff is not below half the rate, or a signal is too short; the message names subject and
            modality.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import Recording, filtered
        >>> noise = np.random.default_rng(0).normal(size=400)
        >>> smooth = filtered([Recording("S01", {"eda": noise}, {"eda": 4.0})], {"eda": 0.2})
        >>> bool(smooth[0].signals["eda"].std() < 0.5 * noise.std())
        True
    """
    out = Recordings(skipped=getattr(recordings, "skipped", None))
    for recording in recordings:
        signals = dict(recording.signals)
        for name in signals.keys() & cutoffs.keys():
            with located(f"{recording.name}, {name}"):
                rate, cutoff = recording.rates[name], cutoffs[name]
                columns = np.atleast_2d(signals[name].T)
                smooth = [fir(low_pass(column, rate, cutoff), rate, cutoff) for column in columns]
                signals[name] = np.stack(smooth, 1) if signals[name].ndim == 2 else smooth[0]
        out.append(replace(recording, signals=signals))
    return out


# -------------------------------------------------------------------- windows
def windows(
    recordings: Sequence[Recording], seconds: float = 20.0, rates: Mapping[str, float] = DEVICE_RATES, *,
    step: float | None = None, min_share: float = 1.0, keep_unlabelled: bool = False, resample: bool = False,
    segment: int = SEGMENT, name: str | None = None, dtype: torch.dtype | None = None,
) -> Batch:  # fmt: skip
    """Cut recordings into windows, each with the label of its time.

    A window begins every `step` seconds from the recording's start. In a recording with a task it is kept if one class
    has at least `min_share` of its time; it is *mixed* if every class has less, and *unlabelled* if no class has any.
    Recordings without a task have unlabelled windows only, which are kept.

    Args:
        recordings: Recordings of any data sets and tasks.
        seconds: Duration of a window.
        rates: Modality -> samples per second; these are the modalities of the batch.
        step: Seconds between beginnings of windows; by default windows do not overlap. Overlapping windows must not be
            split by window: they share samples.
        min_share: Share of a window's time that has its label, in (0.5, 1].
        keep_unlabelled: Whether to keep unlabelled windows of recordings with a task, too.
        resample: Whether to resample signals of another rate; otherwise they are an error.
        segment: Samples in a segment of the encoder; a window has at least one segment.
        name: Name of the data; by default the names of the data sets.
        dtype: Floating type; torch's default where None.

    Returns:
        Batch: Windows along "window": a tensor (N, samples) or (N, samples, channels) for each modality, ``y_<task>``
        (N,) with masks, `dataset` (N,); the group "subject". ``info["dropped"]`` counts dropped windows by reason, and
        the seconds at the ends of recordings that make no window; ``info["replaced"]`` counts what readers replaced or
        left out, and ``info["skipped"]`` names the people and sessions that they left out. Coordinates of the windows
        (`Batch.describe_rows`, columns of `predict`): ``begin`` and ``end``, seconds from the start of the recording;
        ``gap``, seconds since the end of the window before in the recording, NaN for the first; ``unix``, the unix time
        of the begin, NaN where the recording's start is not known.

    Raises:
        ValueError: A recording lacks a modality or has another rate; no window fits or is left; a task has one class;
            a window is shorter than a segment, or not a whole number of samples. The message names subject and field.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import Recording, windows
        >>> labels = ((0.0, 30.0, "baseline"), (30.0, 60.0, "stress"))
        >>> signals = {"eda": np.linspace(1.0, 2.0, 240)}
        >>> recording = Recording("S01", signals, {"eda": 4.0}, "stress", ("baseline", "stress"), labels)
        >>> data = windows([recording], seconds=10.0, rates={"eda": 4.0})
        >>> data["eda"].shape, data["y_stress"].tolist()
        (torch.Size([6, 40]), [0, 0, 0, 1, 1, 1])
        >>> data.coords["begin"].tolist()
        [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    """
    recordings = list(recordings) if not isinstance(recordings, Recordings) else recordings
    step = seconds if step is None else step
    counts = _samples(seconds, step, rates, segment)
    if not recordings:
        raise ValueError("recordings: there are none; read at least one")
    if not 0.5 < min_share <= 1:
        raise ValueError(f"min_share: {min_share:g}; a share in (0.5, 1], so that one class has most of the window")
    names = _channel_names(recordings, rates)
    classes = all_classes((r.task, r.classes) for r in recordings if r.task is not None)
    dropped: dict[str, float] = {"mixed": 0, "unlabelled": 0, "remainder_s": 0.0}
    notes: dict[str, int] = {}
    parts: list[_Part] = []
    for recording in recordings:
        with located(recording.name):
            signals = _at_rates(recording, rates, resample)
        added(notes, recording.notes)
        own = classes.get(recording.task or "", ())
        parts.append(_cut(recording, signals, counts, rates, seconds, step, min_share, keep_unlabelled, own, dropped))
    dropped["remainder_s"] = round(dropped["remainder_s"], 3)
    parts = [part for part in parts if len(part.code)]
    if not parts:
        longest = max(recording.seconds for recording in recordings)
        raise ValueError(
            f"no window of {seconds:g} s is left: the longest recording has {longest:g} s, and {dropped['mixed']} "
            f"windows were mixed, {dropped['unlabelled']} without label; choose shorter windows or keep_unlabelled"
        )
    of = [part.recording for part in parts for _ in part.code]
    number = np.repeat(np.arange(len(parts)), [len(part.code) for part in parts])
    start = np.array([r.start or np.nan for r in of])
    times = clock(number, np.concatenate([part.begin for part in parts]), seconds, start)
    task, code = np.array([r.task or "" for r in of]), np.concatenate([part.code for part in parts])
    targets = {t: (own, np.where(task == t, code, -1)) for t, own in classes.items()}
    require_classes(targets)
    return build(
        {m: np.concatenate([part.signals[m] for part in parts]) for m in rates},
        np.array([r.dataset for r in of]), np.array([r.name for r in of]), targets, dtype, times,
        names, name=name or " + ".join(dict.fromkeys(r.dataset for r in of)), simulated=False, seconds=seconds,
        rates=dict(rates),
        info={"step": step, "dropped": dropped, "replaced": notes, "skipped": dict(getattr(recordings, "skipped", {}))},
    )  # fmt: skip


class _Part(NamedTuple):
    """Windows of one recording: begin [s] and code, -1 where unlabelled, (n,); signals (n, samples[, channels])."""

    recording: Recording
    begin: np.ndarray
    code: np.ndarray
    signals: dict[str, np.ndarray]


def _cut(
    recording: Recording, signals: Mapping[str, np.ndarray], counts: Mapping[str, int], rates: Mapping[str, float],
    seconds: float, step: float, min_share: float, keep_unlabelled: bool, names: Sequence[str],
    dropped: dict[str, float],
) -> _Part:  # fmt: skip
    """Cut a recording into windows and keep those with a label; the others are counted in `dropped`, in place."""
    n = max(0, min((len(s) - counts[m]) // round(step * rates[m]) + 1 for m, s in signals.items()))
    # The longest signal counts: channels end up to some seconds apart.
    lasts = max(len(s) / rates[m] for m, s in signals.items())
    dropped["remainder_s"] += lasts - ((n - 1) * step + seconds if n else 0)
    label, share = _labels(recording, n, seconds, step)
    known = share >= min_share - 1e-9
    kept = known if recording.task is not None else np.ones(n, bool)
    if keep_unlabelled:
        kept = kept | (share == 0)
    dropped["mixed"] += int((~kept & (share > 0)).sum())
    dropped["unlabelled"] += int((~kept & (share == 0)).sum())
    starts = np.flatnonzero(kept)
    code = np.array([names.index(label[k]) if known[k] else -1 for k in starts], dtype=int)
    out = {}
    for m, signal in signals.items():
        views = sliding_window_view(signal, counts[m], axis=0) if len(starts) else np.empty((0, counts[m]))
        out[m] = np.moveaxis(views[starts * round(step * rates[m])], -1, 1)  # (windows, samples[, channels])
    return _Part(recording, starts * step, code, out)


def _samples(seconds: float, step: float, rates: Mapping[str, float], segment: int) -> dict[str, int]:
    """Compute modality -> samples in a window; ValueError unless these are whole numbers of at least a segment."""
    if not rates:
        raise ValueError("rates: give at least one modality")
    if not 0 < seconds < np.inf or not 0 < step < np.inf:
        raise ValueError(f"seconds, step: {seconds}, {step}; give positive durations")
    for name, rate in rates.items():
        if not 0 < rate < np.inf:
            raise ValueError(f"rates: {name} at {rate} Hz; give samples per second")
        for what, duration in (("seconds", seconds), ("step", step)):
            if abs(duration * rate - round(duration * rate)) > 1e-6:
                raise ValueError(f"{what}: {duration:g} s of {name} at {rate:g} Hz is not a whole number of samples")
    counts = {name: round(seconds * rate) for name, rate in rates.items()}
    require_segment(counts, segment)
    return counts


def _channel_names(recordings: Sequence[Recording], modalities: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of the channels of each modality that has several, the same in all recordings."""
    out: dict[str, tuple[str, ...]] = {}
    for recording in recordings:
        for name in modalities:
            own, first = recording.channels.get(name), recordings[0].channels.get(name)
            if own != first and name in recording.signals:
                raise ValueError(f"{recording.name}: {name} has channels {own}, but {first} in {recordings[0].name}")
            if own is not None:
                out[name] = own
    return out


def _at_rates(recording: Recording, rates: Mapping[str, float], resample: bool) -> dict[str, np.ndarray]:
    """Return the signals of a recording at the requested rates, resampled if `resample`."""
    out = {}
    for name, rate in rates.items():
        if name not in recording.signals:
            raise ValueError(
                f"{name}: the recording lacks this modality, it has {list(recording.signals)}; give rates= for those"
            )
        signal, own = recording.signals[name], recording.rates[name]
        if own != rate and not resample:
            raise ValueError(f"{name}: recorded at {own:g} Hz, not {rate:g} Hz; change rates= or use resample=True")
        out[name] = _resampled(signal, own, rate) if own != rate else signal
    return out


def _resampled(signal: np.ndarray, own: float, rate: float) -> np.ndarray:
    from scipy.signal import resample_poly

    ratio = Fraction(rate / own).limit_denominator(1000)
    if abs(float(ratio) * own / rate - 1) > 1e-6:
        raise ValueError(f"rates: {own:g} Hz to {rate:g} Hz is no ratio of small whole numbers; choose another rate")
    return resample_poly(signal, ratio.numerator, ratio.denominator, padtype="line")


def _labels(recording: Recording, n: int, seconds: float, step: float) -> tuple[list[str], np.ndarray]:
    """Find the class that has most of a window's time, and its share of it (0 without labels), for n windows."""
    time = np.zeros((n, max(1, len(recording.classes))))
    begin = np.arange(n) * step
    for start, stop, name in recording.labels:
        shared = np.minimum(stop, begin + seconds) - np.maximum(start, begin)
        time[:, recording.classes.index(name)] += np.maximum(shared, 0)
    names = recording.classes or ("",)
    return [names[k] for k in time.argmax(1)], time.max(1, initial=0) / seconds
