"""Simulated wrist recordings in the design of the paper's five data sets: three labelled tasks, two unlabelled sets.

People differ from one another as much as a stressful situation changes one person, so that it is hard to predict for
people who are not in the training data. Sizes are medians of real recordings with the Empatica E4; those that are taken
from general knowledge are marked [K].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy

from ....data.batch import Batch
from .physiology import STATES, Physiology, State

DEVICE_RATES: Mapping[str, float] = MappingProxyType({"bvp": 64.0, "eda": 4.0, "temp": 4.0})  # [Hz]
CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "anxiety": ("low", "high"),
    "emotion": ("other", "high valence and arousal"),
    "stress": ("baseline", "stress", "amusement"),
})  # fmt: skip
_SLOW_HZ = 4.0  # of levels, drifts and trends


@dataclass(frozen=True)
class _Design:
    """People and situations of a data set; class k of its task is state k.

    The time between two sessions is not recorded. Without sessions, bouts of `bout_s` on average follow one another in
    one recording, which thus shows the lag of the body. The first `fixed` sessions keep their place in the order.
    """

    task: str | None
    people: int
    states: tuple[str, ...]
    shares: tuple[float, ...]  # of the windows, by state
    sessions: tuple[int, ...] = ()  # their states
    fixed: int = 0
    bout_s: float = 0.0


_DESIGNS: Mapping[str, _Design] = MappingProxyType({
    "simulated anxiety": _Design("anxiety", 55, ("low anxiety", "high anxiety"), (0.5, 0.5), (0, 1, 0, 1)),
    # One class has 0.752 of the paper's windows; which one is not said.
    "simulated emotion": _Design("emotion", 32, ("other emotion", "high emotion"), (0.75, 0.25), bout_s=80.0),
    "simulated stress": _Design("stress", 15, ("baseline", "stress", "amusement"), (0.5, 0.3, 0.2), (0, 1, 2), 1),
    "simulated work": _Design(None, 15, ("quiet work", "busy work", "stress at work"), (0.4, 0.4, 0.2), bout_s=120.0),
    "simulated exercise": _Design(None, 12, ("rest", "exercise"), (0.35, 0.65), bout_s=200.0),
})  # fmt: skip
DATASETS_SIMULATED: tuple[str, ...] = tuple(_DESIGNS)


def simulate(
    dataset: str, seed: int = 0, n_subjects: int | None = None, n_windows: int = 40, seconds: float = 20.0,
    rates: Mapping[str, float] | None = None, physiology: Physiology | None = None,
) -> Batch:  # fmt: skip
    """Simulate one data set: windows of blood volume pulse, electrodermal activity and skin temperature.

    ::

        person p     levels, reactivity ~ population;  states z ~ design of the data set
          eda        level_p ratio(z)^reactivity_p drift + Poisson responses, log-normal in size, + noise  [uS]
          bvp        pulses of two waves on jittered beats at HR_p + reactivity_p change(z) + drift; motion, noise
          temp       level_p + reactivity_p change(z) + slope(z) time + drift + noise  [deg C]

    Rows are windows. Tensors: ``bvp``, ``eda``, ``temp`` (N, rate x seconds); ``y_anxiety``, ``y_emotion``,
    ``y_stress`` (N,), each observed on all windows of its own data set and on no others; ``dataset`` (N,), position
    in `DATASETS_SIMULATED`. Group ``subject`` has names like ``"stress/S01"``. ``truth`` holds along windows
    ``heart_rate`` [1/min], ``scl`` [uS], ``scr_rate`` [1/min], ``temperature`` [deg C], means over the window, and
    ``state``, position in ``coords["state_class"]``, which is the body's where the label is a self-report; along
    people their own levels at rest, ``person_...``, and reactivities, ``reactivity_...``.

    People have random streams of their own: with more people, the first ones stay the same. The difficulty was set
    before any neural network was fitted. Balanced accuracy of a logistic regression on summaries of windows, people
    left out, mean over seeds 0 to 4: anxiety 0.64, emotion 0.51, stress 0.57; standardised by person 0.76, 0.53, 0.82.

    Args:
        dataset: One of `DATASETS_SIMULATED`.
        seed: Random seed for all streams, 0 or more.
        n_subjects: Number of people; as many as in the paper where None.
        n_windows: Number of windows of each person, at least 4.
        seconds: Duration of a window [s].
        rates: Modality -> sampling rate [Hz], a whole fraction of the device's (`DEVICE_RATES`), which is the default.
        physiology: Sizes of all variation; `Physiology()` by default.

    Raises:
        ValueError: An unknown data set or modality, or a number out of range; the message names the argument.

    Example:
        >>> from pyrozoo.models.m3sense import simulate
        >>> windows = simulate("simulated stress", n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 16})
        >>> {name: tuple(windows[name].shape) for name in ("bvp", "eda", "temp")}
        {'bvp': (12, 80), 'eda': (12, 20), 'temp': (12, 20)}
        >>> windows.coords["y_stress_class"].tolist()
        ['baseline', 'stress', 'amusement']
    """
    return simulate_all(seed, n_subjects, n_windows, seconds, rates, physiology, datasets=(dataset,))


def simulate_all(
    seed: int = 0, n_subjects: int | None = None, n_windows: int = 40, seconds: float = 20.0,
    rates: Mapping[str, float] | None = None, physiology: Physiology | None = None, *,
    datasets: Sequence[str] = DATASETS_SIMULATED,
) -> Batch:  # fmt: skip
    """Simulate several data sets, joined to one batch; each has the same windows as if simulated alone.

    Args:
        seed: Random seed for all streams, 0 or more.
        n_subjects: Number of people in each data set; as many as in the paper where None.
        n_windows: Number of windows of each person, at least 4.
        seconds: Duration of a window [s].
        rates: Modality -> sampling rate [Hz], see `simulate`.
        physiology: Sizes of all variation; `Physiology()` by default.
        datasets: Names of the data sets, some of `DATASETS_SIMULATED`; all five by default.

    Returns:
        Batch: Windows as described in `simulate`.

    Raises:
        ValueError: An unknown data set or modality, or a number out of range; the message names the argument.

    Example:
        >>> from pyrozoo.models.m3sense import simulate_all
        >>> windows = simulate_all(n_subjects=1, n_windows=4, seconds=5.0, rates={"bvp": 16})
        >>> windows.n_rows, {name: int(windows.observed(name).sum()) for name in windows.labels}
        (20, {'y_anxiety': 4, 'y_emotion': 4, 'y_stress': 4})
    """
    physiology = physiology or Physiology()
    _check(datasets, seed, n_subjects, n_windows, seconds, physiology)
    factors = _factors(rates or {}, seconds)
    people, names, origin = [], [], []
    for dataset in datasets:
        design, position = _DESIGNS[dataset], DATASETS_SIMULATED.index(dataset)
        root = np.random.SeedSequence(seed, spawn_key=(position,))  # of this data set, joined or alone
        for p, stream in enumerate(root.spawn(n_subjects or design.people)):
            people.append(_simulate_person(design, stream, n_windows, seconds, factors, physiology))
            names.append(f"{dataset.removeprefix('simulated ')}/S{p + 1:02d}")
            origin.append(position)
    rows, truth = ({key: np.concatenate([p[part][key] for p in people]) for key in people[0][part]} for part in (0, 1))
    effects = {key: np.array([p[2][key] for p in people]) for key in people[0][2]}
    label, dataset_of = rows.pop("label"), np.repeat(origin, n_windows)
    task = np.array([design.task or "" for design in _DESIGNS.values()])[dataset_of]
    return Batch.from_arrays(
        rows={**rows, **{f"y_{t}": label for t in CLASSES}, "dataset": dataset_of},
        groups={"subject": np.repeat(names, n_windows)}, row_plate="window",
        labels={f"y_{t}": task == t for t in CLASSES}, dims={key: (f"{key}_time",) for key in DEVICE_RATES},
        coords={
            "subject": np.array(names), "dataset_class": np.array(DATASETS_SIMULATED),
            "state_class": np.array(list(STATES)), **{f"y_{t}_class": np.array(CLASSES[t]) for t in CLASSES},
        },
        truth=truth | effects, truth_along=dict.fromkeys(truth, "window") | dict.fromkeys(effects, "subject"),
        name=datasets[0] if len(datasets) == 1 else "simulated affect", simulated=True, seed=seed, seconds=seconds,
        rates={key: DEVICE_RATES[key] / factor for key, factor in factors.items()},
    )  # fmt: skip


# ------------------------------------------------------------------ inside: people
def _simulate_person(
    design: _Design, stream: np.random.SeedSequence, n_windows: int, seconds: float, factors: Mapping[str, int],
    physiology: Physiology,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, float]]:  # fmt: skip
    """Simulate one person: rows, truth along the windows, and the person's own levels and reactivities."""
    own, course, slow, eda, bvp, temp = (np.random.default_rng(s) for s in stream.spawn(6))
    person = _draw_person(own, physiology)
    state, session, label = _course(design, course, n_windows, seconds, physiology)
    levels = _levels(design, state, session, seconds, person, physiology, slow)
    signals = {
        "bvp": _bvp(levels, [physiology.states[design.states[k]] for k in state], seconds, physiology, bvp),
        "eda": _eda(levels, math.sqrt(person["person_scl"] / physiology.scl_us[0]), physiology, eda),
        "temp": levels["temperature"] + physiology.noise[2] * temp.standard_normal(len(levels["temperature"])),
    }
    for name, factor in factors.items():  # low-pass filtered against aliasing, before it is cut into windows
        signals[name] = scipy.signal.resample_poly(signals[name], 1, factor, padtype="line").reshape(n_windows, -1)
    known = ("heart_rate", "scl", "scr_rate", "temperature")
    truth = {key: levels[key].reshape(n_windows, -1).mean(1) for key in known}
    truth["state"] = np.array([list(STATES).index(name) for name in design.states])[state]
    return {**signals, "label": label}, truth, person


def _draw_person(rng: np.random.Generator, physiology: Physiology) -> dict[str, float]:
    """Draw the levels of one person at rest, and reactivities of median 1."""
    z = physiology.between * rng.standard_normal(9)
    skewed = np.array([physiology.scl_us, physiology.scr_per_min, physiology.pulse_au])
    symmetric = np.array([physiology.temp_c, physiology.hr_bpm])
    levels = [*skewed[:, 0] * np.exp(skewed[:, 1] * z[:3]), *symmetric[:, 0] + symmetric[:, 1] * z[3:5]]
    reactivity = np.exp(physiology.reactivity[0] * z[5] + physiology.reactivity[1] * z[6:])
    names = [f"person_{key}" for key in ("scl", "scr_rate", "pulse", "temperature", "heart_rate")]
    names += [f"reactivity_{key}" for key in ("eda", "temp", "hr")]
    return dict(zip(names, map(float, [*levels, *reactivity]), strict=True))


def _course(
    design: _Design, rng: np.random.Generator, n_windows: int, seconds: float, physiology: Physiology
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw state, session (or bout) and label of every window of a person, each (W,)."""
    if design.sessions:
        order = np.array(design.sessions)
        order[design.fixed :] = rng.permutation(order[design.fixed :])
        share = np.cumsum([design.shares[k] / design.sessions.count(k) for k in order])
        n = len(order)
        ends = np.rint(share * (n_windows - n)).astype(int) + np.arange(1, n + 1)  # every session has a window
    else:
        n = min(n_windows, max(4, round(n_windows * seconds / design.bout_s)))
        # Systematic sampling: every person has each state that has at least 1 / n of the time.
        order = rng.permutation(np.searchsorted(np.cumsum(design.shares)[:-1], (np.arange(n) + rng.random()) / n))
        ends = np.append(np.sort(rng.choice(n_windows - 1, n - 1, replace=False)) + 1, n_windows)
    session = np.repeat(np.arange(n), np.diff(ends, prepend=0))
    unrelated = rng.choice(len(design.shares), n, p=design.shares)
    noisy = (design.task in ("anxiety", "emotion")) & (rng.random(n) < physiology.report_noise)
    return order[session], session, np.where(noisy, unrelated, order)[session]


def _levels(
    design: _Design, state: np.ndarray, session: np.ndarray, seconds: float, person: Mapping[str, float],
    physiology: Physiology, rng: np.random.Generator,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Simulate the slow quantities at 4 Hz: tonic level, rate and size of responses, temperature, heart rate, pulse."""
    ph, each = physiology, round(seconds * _SLOW_HZ)
    n = len(state) * each
    eda, temp, hr = (ph.effect * person[f"reactivity_{key}"] for key in ("eda", "temp", "hr"))

    def by_state(size: str, rise_s: float = 0.0) -> np.ndarray:
        values = np.array([getattr(ph.states[name], size) for name in design.states])
        target = np.repeat((np.log(values) if size.endswith("ratio") else values)[state], each)
        if design.sessions or rise_s == 0:
            return target
        keep = math.exp(-1 / (rise_s * _SLOW_HZ))
        return scipy.signal.lfilter([1 - keep], [1, -keep], target, zi=[keep * target[0]])[0]

    def vary(session_sd: float, drift: int | None = None) -> np.ndarray:
        out = session_sd * bool(design.sessions) * np.repeat(rng.standard_normal(session[-1] + 1)[session], each)
        if drift is not None:
            out += ph.drift[drift] * _drift(rng, n, ph.drift_s[drift], _SLOW_HZ)
        return ph.within * out

    start = np.flatnonzero(np.diff(session, prepend=-1, append=session[-1] + 1)) * each
    minutes = (np.arange(n) - np.repeat(((start[:-1] + start[1:]) / 2)[session], each)) / (60 * _SLOW_HZ)
    trend = temp * by_state("temp_c", ph.rise_s[0]) + ph.effect * by_state("temp_slope") * minutes
    level = person["person_scl"] * np.exp(eda * by_state("scl_ratio", ph.rise_s[0]) + vary(ph.session[0], 0))
    rate = (person["person_scr_rate"] + eda * by_state("scr_per_min")) * np.exp(vary(ph.session[1]))
    beat = person["person_heart_rate"] + hr * by_state("hr_bpm", ph.rise_s[1]) + vary(ph.session[3], 2)
    return {
        "scl": level / (1 + level / 40.0),  # skin saturates [K]
        "scr_rate": np.clip(rate, 0.1, 20.0),
        "scr_us": by_state("scr_us"),
        "temperature": person["person_temperature"] + trend + vary(ph.session[2], 1),
        "heart_rate": np.clip(beat, 40.0, 200.0),
        "pulse": person["person_pulse"] * np.exp(ph.effect * by_state("pulse_ratio") + vary(ph.session[4], 3)),
    }


# ------------------------------------------------------------------ inside: signals
@functools.cache
def _response(peak_s: float, rise_s: float, *decay_s: float) -> np.ndarray:
    """A skin conductance response of amplitude 1, at 4 Hz, until it has decayed to almost nothing."""

    def shape(time: np.ndarray) -> np.ndarray:
        return sum(decay * scipy.stats.exponnorm.pdf(time, decay / rise_s, scale=rise_s) for decay in decay_s)

    near = np.arange(-4 * rise_s, 8 * rise_s, 0.002)  # the peak
    shift = near[shape(near).argmax()] - peak_s
    return shape(np.arange(0, 5 * max(decay_s), 1 / _SLOW_HZ) + shift) / shape(near).max()


def _eda(levels: Mapping[str, np.ndarray], size: float, physiology: Physiology, rng: np.random.Generator) -> np.ndarray:
    """Tonic level, responses and noise [uS], 4 Hz; `size` makes responses larger in people with a high level [K]."""
    level = levels["scl"]
    onsets = rng.poisson(levels["scr_rate"] / (60 * _SLOW_HZ))
    amplitude = size * levels["scr_us"] * np.exp(physiology.scr_log_sd * rng.standard_normal(len(level)))
    responses = scipy.signal.fftconvolve(onsets * amplitude, _response(*physiology.scr_kernel_s))[: len(level)]
    noise = (physiology.noise[0] + physiology.noise[1] * level) * rng.standard_normal(len(level))
    return np.clip(level + responses + noise, 0.01, 100.0)  # what the device measures


def _bvp(
    levels: Mapping[str, np.ndarray], states: Sequence[State], seconds: float, physiology: Physiology,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Pulses on jittered beats, motion and noise [arbitrary units], 64 Hz."""
    rate, n_windows, each = DEVICE_RATES["bvp"], len(states), round(seconds * DEVICE_RATES["bvp"])
    time = np.arange(n_windows * each) / rate
    # Number of beats up to each time of the slow grid; padded at both ends, so that the first and last pulse are whole.
    padded = np.pad(levels["heart_rate"], round(4 * _SLOW_HZ), mode="edge")
    done = np.append(0.0, np.cumsum(padded / 60) / _SLOW_HZ) + rng.random()
    whole = np.arange(math.ceil(done[0]), math.floor(done[-1]) + 1)
    at = np.interp(whole, done, np.arange(len(done)) / _SLOW_HZ - 4)
    phase = np.interp(time, np.sort(at + physiology.jitter_s * rng.standard_normal(len(at))), whole)
    height = np.interp(phase, whole, np.exp(0.1 * rng.standard_normal(len(whole))))
    angle = 2 * np.pi * phase
    # Gaussian waves of the phase, wrapped: the systolic one of sd 0.11 of a cycle, the diastolic one of sd 0.16.
    pulse = np.exp(2.1 * (np.cos(angle - 1.6) - 1)) + 0.35 * np.exp(np.cos(angle - 4.0) - 1)
    low, high = np.array([s.motion_gain for s in states]).T
    gain = rng.uniform(low, high) * (rng.random(n_windows) < [s.motion for s in states])
    gain = np.interp(time, (np.arange(n_windows) + 0.5) * seconds, gain)
    sway = 2 * np.pi * np.cumsum(np.repeat(rng.uniform(0.3, 0.6, n_windows), each)) / rate
    motion = gain / 2 * (np.sin(sway) + 0.3 * np.sin(2 * sway + 1)) * (1 + 0.3 * _drift(rng, len(time), 2.0, rate))
    wave = (pulse - pulse.mean()) * height + motion + physiology.noise[3] * rng.standard_normal(len(time))
    return np.repeat(levels["pulse"], round(rate / _SLOW_HZ)) * wave


def _drift(rng: np.random.Generator, n: int, time_s: float, rate: float) -> np.ndarray:
    """AR(1) noise of variance 1 at knots, interpolated linearly, since drifts are slower than the signals, (n,)."""
    step = min(10.0, time_s / 2)
    shocks, keep = rng.standard_normal(math.ceil(n / rate / step) + 1), math.exp(-step / time_s)
    shocks[1:] *= math.sqrt(1 - keep**2)
    return np.interp(np.arange(n) / rate / step, np.arange(len(shocks)), scipy.signal.lfilter([1], [1, -keep], shocks))


def _factors(rates: Mapping[str, float], seconds: float) -> dict[str, int]:
    """Modality -> factor by which to decimate the device's rate; windows must have whole numbers of samples."""
    for name, rate in rates.items():
        device = DEVICE_RATES.get(name, 0.0)
        if not 0 < rate <= device or device % rate or rate * seconds % 1:
            raise ValueError(f"rates: {name} at {rate} Hz; needed: {dict(DEVICE_RATES)} or whole parts of it")
    return {name: round(device / rates.get(name, device)) for name, device in DEVICE_RATES.items()}


def _check(
    datasets: Sequence[str], seed: int, n_subjects: int | None, n_windows: int, seconds: float, physiology: Physiology
) -> None:
    unknown: list[Any] = [dataset for dataset in datasets if dataset not in _DESIGNS] or [datasets]
    if unknown != [datasets] or not len(set(datasets)) == len(datasets) > 0:
        raise ValueError(f"dataset: {unknown[0]!r}; needed are different ones of {list(_DESIGNS)}")
    people = 1 if n_subjects is None else n_subjects
    for name, number, least in (("seed", seed, 0), ("n_subjects", people, 1), ("n_windows", n_windows, 4)):
        if not isinstance(number, int | np.integer) or number < least:
            raise ValueError(f"{name}: {number}; a whole number of at least {least} is needed")
    if not 1 <= seconds <= 600 or seconds * _SLOW_HZ % 1:
        raise ValueError(f"seconds: {seconds}; windows of 1 to 600 s, in steps of {1 / _SLOW_HZ:g} s, can be made")
    above_0 = ("drift_s", "rise_s", "scr_kernel_s", "scl_us")
    for name, values in vars(physiology).items():
        value, default = (np.ravel(0.0 if name == "states" else v) for v in (values, getattr(Physiology(), name)))
        fits = value.shape == default.shape and (np.isfinite(value) & (value >= 0)).all()
        if not fits or (name in above_0 and 0 in value):
            raise ValueError(f"physiology.{name}: {values}; needed are {len(default)} finite, positive number(s)")
    if missing := sorted(set(STATES) - set(physiology.states)):
        raise ValueError(f"physiology.states: {missing[0]!r} is missing")
