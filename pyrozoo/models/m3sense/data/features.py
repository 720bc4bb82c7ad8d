"""Handcrafted features of windows, as the classical models use them and as inputs of the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ....data.batch import Batch
from .batches import channels, features_of, modalities

STATISTICS = ("mean", "sd", "max", "min", "median", "iqr", "slope", "mean_abs_diff")
PULSE = ("rate", "mean_rate", "rate_share")
PULSE_BAND = (0.7, 2.5)  # Hz, 42 to 150 beats per minute
SCALES = ("sd", "ranks")
_OF_RANKS = "_rank"  # end of the names of features that are scaled by ranks


def handcrafted(data: Batch) -> tuple[np.ndarray, list[str]]:
    """Compute eight summaries of every window and channel.

    They are mean, sd, max, min, median, iqr, slope and mean_abs_diff. The slope is the change of the least-squares line
    over the whole window, independent of the rate; mean_abs_diff is the mean absolute difference between neighbouring
    samples.

    Args:
        data: Windows.

    Returns:
        Features (N, 8 C) of C channels in all, and their names such as "eda_slope" or, with several channels,
        "acc_x_slope".

    Raises:
        ValueError: The batch holds no signals, or one of a single sample.

    Example:
        >>> from pyrozoo.models.m3sense import BASELINES, handcrafted, simulate
        >>> data = simulate("simulated stress", n_subjects=2, n_windows=6, seconds=5.0)
        >>> features, names = handcrafted(data)
        >>> features.shape, names[8:10]
        ((12, 24), ['eda_mean', 'eda_sd'])
        >>> classifier = BASELINES["LDA"](0).fit(features, data["y_stress"].numpy())
        >>> classifier.predict(features).shape
        (12,)
    """
    found = {name: _statistics(data, name) for name in _signals(data)}
    names = [f"{name}_{own}" for name, columns in found.items() for own in columns]
    return np.stack([values for columns in found.values() for values in columns.values()], 1), names


def with_features(data: Batch, scale: str = "sd") -> Batch:
    """Add handcrafted features of every modality, on a scale of each person, as further inputs of the networks.

    They are the eight of `handcrafted` for every channel and, of the pulse (modality "bvp", of a known rate of 5 Hz or
    more), three of its spectrum between 0.7 and 2.5 Hz: the frequency of the peak, the mean frequency, and the share of
    the peak in the power. Each has mean 0 and standard deviation 1 over all windows of a person, without labels; with
    ``scale="ranks"`` it is the standard normal quantile of (rank - 1/2) / n among the n windows of the person, whose
    others an outlying window moves by one place at most, and its name ends in "_rank". A feature that does not change
    within a person is 0. It does not matter whether the signals are standardised by person before.

    Args:
        data: Windows of whole people, without features.
        scale: "sd" or "ranks"; the same for data to predict, which `pyrozoo.stream` and the command line see to.

    Returns:
        Batch: The windows with a tensor ``<modality>_features`` (N, J) beside each signal.

    Raises:
        ValueError: The data have features already, or hold no signals; an unknown scale.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate, standardise, with_features
        >>> data = with_features(standardise(simulate("simulated stress", n_subjects=2, n_windows=6)))
        >>> data["eda_features"].shape, data.coords["bvp_feature"].tolist()[7:]
        (torch.Size([12, 8]), ['mean_abs_diff', 'rate', 'mean_rate', 'rate_share'])
        >>> bool(data["eda_features"][data["subject"] == 0].mean(0).abs().max() < 1e-5)
        True
        >>> zoo.create_model("m3sense", data).inputs  # networks read the features then, unless you choose otherwise
        'features'
    """
    if features_of(data):
        raise ValueError("the data have features already; compute them once, after all changes of the signals")
    if scale not in SCALES:
        raise ValueError(f"scale: {scale!r} is none of {list(SCALES)}")
    people, found = data["subject"].cpu().numpy(), features(data)
    tensors = {}
    for name, columns in found.items():
        values = np.stack(list(columns.values()), 1)
        for person in np.unique(people):
            own = people == person
            values[own] = scaling(values[own], scale)(values[own])
        tensors[name] = torch.as_tensor(values).to(data[name])
    return add_features(data, tensors, {name: list(columns) for name, columns in found.items()}, scale)


def scale_of(data: Batch) -> str:
    """Return the scale of the features of a batch, one of `SCALES`."""
    names = [str(name) for modality in features_of(data) for name in data.coords[f"{modality}_feature"]]
    return "ranks" if names and all(name.endswith(_OF_RANKS) for name in names) else "sd"


def add_features(
    data: Batch, values: Mapping[str, torch.Tensor], names: Mapping[str, Sequence[str]], scale: str
) -> Batch:
    """Add features by modality, (N, J) each, and their names, without the end that tells their scale, to a batch."""
    end = _OF_RANKS if scale == "ranks" else ""
    tensors = {f"{name}_features": tensor for name, tensor in values.items()}
    return replace(
        data, tensors={**data.tensors, **tensors}, along={**data.along, **dict.fromkeys(tensors, data.rows)},
        dims={**data.dims, **{f"{name}_features": (f"{name}_feature",) for name in values}},
        coords={**data.coords, **{f"{m}_feature": np.array([f"{own}{end}" for own in names[m]]) for m in names}},
    )  # fmt: skip


def features(data: Batch) -> dict[str, dict[str, np.ndarray]]:
    """Compute the features of every modality as they are, modality -> name of the feature -> values (N,)."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for name in _signals(data):
        own = _statistics(data, name)
        rate = (data.info.get("rates") or {}).get(name)
        if name == "bvp" and data[name].dim() == 2 and rate is not None and rate >= 2 * PULSE_BAND[1]:
            own |= _pulse(data[name].double().cpu().numpy(), rate)
        out[name] = own
    return out


def scaling(values: np.ndarray, scale: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return what scales features (N, J) as those of a person whose features `values` (n, J) are known.

    By ranks, values that differ by rounding are equal, and one that none of the person's windows has lies between its
    neighbours.

    Args:
        values: Features of the person.
        scale: One of `SCALES`.
    """
    mean, sd = values.mean(0), values.std(0)
    sd = np.where(sd > 1e-9 * np.maximum(1e-3, np.abs(mean)), sd, np.inf)  # less is rounding

    def standardised(new: np.ndarray) -> np.ndarray:
        return (new - mean) / sd

    if scale == "sd":
        return standardised
    known, n = np.sort(standardised(values).astype(np.float32), 0), len(values)

    def normal_scores(new: np.ndarray) -> np.ndarray:
        rounded = standardised(new).astype(np.float32)
        below, to = (
            np.stack([np.searchsorted(*pair, side) for pair in zip(known.T, rounded.T, strict=True)], 1)
            for side in ("left", "right")
        )
        share = (below + to) / (2 * n)  # of a person's own window (rank - 1/2) / n, with the mean rank of equal ones
        return torch.special.ndtri(torch.from_numpy(np.clip(share, 0.5 / n, 1 - 0.5 / n))).numpy()

    return normal_scores


# -------------------------------------------------------------------- inside
def _signals(data: Batch) -> list[str]:
    names = modalities(data)
    if not names:
        raise ValueError("the data hold no signals; give windows, as from windows() or from_arrays()")
    return names


def _channels(data: Batch, modality: str) -> list[tuple[str, np.ndarray]]:
    """List the channels of a modality, (prefix of their names, (N, samples)); the prefix of a single one is empty."""
    values, several = data[modality].double().cpu().numpy(), channels(data).get(modality)
    return [(f"{own}_", values[..., k]) for k, own in enumerate(several)] if several else [("", values)]


def _statistics(data: Batch, modality: str) -> dict[str, np.ndarray]:
    return {
        f"{channel}{statistic}": values
        for channel, signal in _channels(data, modality)
        for statistic, values in _statistics_of(signal, modality).items()
    }


def _statistics_of(signal: np.ndarray, modality: str) -> Mapping[str, np.ndarray]:
    n = signal.shape[1]
    if n < 2:
        raise ValueError(f"{modality}: a window has one sample; features need at least two")
    time = np.linspace(-0.5, 0.5, n)
    low, median, high = np.quantile(signal, [0.25, 0.5, 0.75], axis=1)
    values = (
        signal.mean(1), signal.std(1), signal.max(1), signal.min(1), median, high - low, signal @ time / (time @ time),
        np.abs(np.diff(signal, axis=1)).mean(1),
    )  # fmt: skip
    return dict(zip(STATISTICS, values, strict=True))


def _pulse(signal: np.ndarray, rate: float) -> dict[str, np.ndarray]:
    """Summarise the power spectrum of the pulse within `PULSE_BAND`, of windows (N, samples)."""
    n = signal.shape[1]
    centred = (signal - signal.mean(1, keepdims=True)) * np.hanning(n)
    frequency = np.fft.rfftfreq(4 * n, 1 / rate)  # four times as fine as the window's own: between its frequencies
    inside = (frequency >= PULSE_BAND[0]) & (frequency <= PULSE_BAND[1])
    power, frequency = np.abs(np.fft.rfft(centred, 4 * n, axis=1)[:, inside]) ** 2, frequency[inside]
    total = np.maximum(power.sum(1), np.finfo(float).tiny)
    values = frequency[power.argmax(1)], power @ frequency / total, power.max(1) / total
    return dict(zip(PULSE, values, strict=True))
