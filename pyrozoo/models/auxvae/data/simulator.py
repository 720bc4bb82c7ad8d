"""Simulated gait with and without hand loads, in the design of the paper: people x carrying styles x loads.

Segment angles are Fourier series of the gait phase. Gyroscopes measure their rates; accelerometers measure gravity in
the frame of the rotated sensor, movement, and heel strikes. A load changes the walker's own gait in a direction that
depends on the carrying style, and people differ from one another along the same directions: without the unloaded walk,
a personal habit can be mistaken for a load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import scipy

from ....data.batch import Batch
from .batches import to_batch

SITES = (
    "left_thigh", "right_thigh", "left_shank", "right_shank", "right_foot", "left_upper_arm", "right_upper_arm",
    "left_forearm", "right_forearm", "t6", "sternum", "l5_s1",
)  # fmt: skip
CHANNELS = tuple(f"{site}_{kind}_{axis}" for site in SITES for kind in ("acc", "gyro") for axis in "xyz")
STYLES = ("right hand", "left hand", "both sides", "anterior")
LOADS_LB = (10.0, 20.0, 30.0, 50.0)
RATE_HZ = 80.0
LB_PER_KG = 2.2046

_LEGS, _ARMS, _TRUNK = slice(0, 5), slice(5, 9), slice(9, 12)
_LEFT = np.array([site.startswith("left") for site in SITES])
_ROLL, _PITCH, _YAW = range(3)
# Amplitudes [deg] of the first three harmonics of (roll, pitch, yaw) by kind of segment: peak rates of thigh, shank and
# foot about 150, 350 and 500 deg/s at a stride of 1.08 s, arm swing 25 deg, ranges of thorax and pelvis 8 and 9 deg.
_AMPLITUDES = {
    "thigh": ((3.0, 1.0, 0.3), (22.0, 4.0, 1.0), (4.0, 1.5, 0.5)),
    "shank": ((3.0, 1.5, 0.5), (28.0, 12.0, 4.0), (5.0, 2.0, 0.8)),
    "foot": ((5.0, 2.5, 1.0), (34.0, 17.0, 7.0), (5.0, 2.5, 1.0)),
    "upper_arm": ((3.0, 1.0, 0.3), (20.0, 3.0, 1.0), (5.0, 1.0, 0.4)),
    "forearm": ((4.0, 1.2, 0.4), (25.0, 5.0, 1.5), (8.0, 2.0, 0.6)),
    "t6": ((1.5, 0.6, 0.2), (0.6, 1.5, 0.2), (4.0, 0.6, 0.3)),
    "sternum": ((1.5, 0.6, 0.2), (0.6, 1.5, 0.2), (4.0, 0.6, 0.3)),
    "l5_s1": ((3.0, 0.8, 0.3), (0.6, 1.8, 0.3), (4.5, 0.8, 0.3)),
}
# Peak of the heel-strike transient and of the movement with each step [g].
_STRIKE = {"thigh": 0.5, "shank": 1.5, "foot": 3.0, "upper_arm": 0.1, "forearm": 0.1, "t6": 0.2, "sternum": 0.2}
_BOUNCE = {"thigh": 0.25, "shank": 0.3, "foot": 0.3, "upper_arm": 0.2, "forearm": 0.2}


@dataclass(frozen=True)
class Gait:
    """Parameters of the simulation; starting values are from the gait literature.

    `between`, `effect` and `trial` set the difficulty; `coordination`, `curvature` and `mass_shown` the kind of effect,
    see `GAITS`.

    Attributes:
        stride_s, stride_sd: Mean and standard deviation (sd) over people of the duration of a stride [s].
        mass_kg, mass_sd: Mean and sd over people of the body mass [kg].
        between: Size of all differences between people; at 1 the sd is 3 deg for the posture and 12 % for amplitudes.
        effect: Size of all effects of a load.
        sensitivity_sd: Sd over people of the log of the strength with which a load acts.
        trial: Size of the differences between the walks of a person; at 1 the sd is 1 deg for the posture, 3 % for
            amplitudes and 3 % for the pace.
        jitter: Relative sd of the duration of a stride within a walk.
        misalignment_deg: Sd of the rotation of a sensor on the body [deg].
        lean_deg: Lean away from a one-handed load equal to the body weight; four fifths of it backwards for an anterior
            load [deg].
        acc_noise, gyro_noise: Sd of the sensor noise [g], [deg/s].
        coordination: Shift of the phases between pelvis, thorax and arms by a load equal to the body weight [rad]; the
            direction depends on the style. With it, phases also differ between the walks of a person: sd
            0.05 x `trial` rad.
        curvature: All effects but those on phases grow with the load to the power 1 + `curvature`; they are what
            `effect` says where the load is 0.3 body weights.
        mass_shown: Power of the body mass with which heel strikes and bounces grow in all walks of a person, so that
            the unloaded walk tells something of the mass.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import Gait, simulate
        >>> harder = Gait(between=2.0, effect=0.5)
        >>> simulate(n_participants=2, n_steps=40, duration_s=3.0, gait=harder)["x"].shape
        torch.Size([32, 40, 72])
    """

    stride_s: float = 1.08
    stride_sd: float = 0.07
    mass_kg: float = 75.0
    mass_sd: float = 10.0
    between: float = 1.2
    effect: float = 1.0
    sensitivity_sd: float = 0.08
    trial: float = 1.0
    jitter: float = 0.02
    misalignment_deg: float = 7.0
    lean_deg: float = 25.0
    acc_noise: float = 0.03
    gyro_noise: float = 2.0
    coordination: float = 0.0
    curvature: float = 0.0
    mass_shown: float = 0.0


# Kinds of effect that a load may have, by name. In "linear" amplitudes and posture change nearly in proportion to the
# load. In "coordination" the load is nearly only in the timing of thorax and arms against the pelvis; in "nonlinear"
# effects grow with the square of the load relative to a body mass that the unloaded walk alone tells; "mixed" has both.
# Sizes were set by `departure_probe` alone, before any network was fitted to the last three.
GAITS: Mapping[str, Gait] = MappingProxyType(
    {
        "linear": Gait(),
        "coordination": Gait(effect=0.05, coordination=4.0),
        "nonlinear": Gait(curvature=1.0, mass_shown=2.0, mass_sd=20.0),
        "mixed": Gait(effect=0.5, coordination=2.0, curvature=1.0, mass_shown=2.0),
    }
)


@dataclass(frozen=True)
class _Walker:
    """A person's own gait: amplitudes and phases (site, axis, harmonic), posture (site, axis) [deg], and the rest."""

    amplitude: np.ndarray
    phase: np.ndarray
    posture: np.ndarray
    turned: np.ndarray
    strike: np.ndarray
    bounce: np.ndarray
    stride_s: float
    mass_kg: float
    sensitivity: float


def simulate(
    seed: int = 0, n_participants: int = 22, n_steps: int = 120, duration_s: float = 10.0,
    gait: Gait | str = "linear",
) -> Batch:  # fmt: skip
    """Simulate people who each walk once without a load and once with every style and load.

    ::

        for person p:      own gait ~ population, also along the directions of the load's effects
          unloaded walk    x_aux_p = walk(own gait)
          for style, load: f = sensitivity_p x load / body weight
                           x = walk(own gait, changed by f in the style's direction, and by the style's signature)
        walk: own pace, random first phase, jitter from stride to stride, sensor noise; 80 Hz, resampled to T steps

    Shapes: x (N, T, S) with N = 16 x people and S = 72; x_aux (people, T, S); acceleration in g, angular velocity in
    deg/s; y (N,) [lb]; style (N,). ``truth`` holds ``load`` and ``style`` of the rows, and ``mass_kg`` and
    ``sensitivity`` of each person. Each person has a separate random stream, so that a larger number of people does not
    change the first ones.

    The difficulty (`Gait`: between, sensitivity_sd, mass_sd) was set by the linear probe `ridge_probe` alone, before
    any neural network saw the data, and is the same for every model. Its errors on people left out, mean over seeds 0
    to 4 (standard error), in lb: a constant prediction 12.5; the loaded walk alone 7.36 (0.52); with the unloaded walk
    as further input 6.71 (0.61); the difference of both 3.92 (0.23). Single simulations differ: with seed 3 the
    unloaded walk as further input does not help the probe.

    Args:
        seed: Random seed for all random streams.
        n_participants: Number of people.
        n_steps: T, number of steps after resampling.
        duration_s: Duration of a walk [s].
        gait: Parameters of the simulation, or a name in `GAITS`.

    Raises:
        ValueError: An impossible number; the message names the argument.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import simulate
        >>> walks = simulate(n_participants=2, n_steps=40, duration_s=3.0)
        >>> walks["x"].shape, walks["x_aux"].shape
        (torch.Size([32, 40, 72]), torch.Size([2, 40, 72]))
        >>> sorted(set(walks["y"].tolist()))
        [10.0, 20.0, 30.0, 50.0]
    """
    if isinstance(gait, str):
        if gait not in GAITS:
            raise ValueError(f"gait: {gait!r} is none of {list(GAITS)}; or give a Gait of your own")
        gait = GAITS[gait]
    _check(n_participants, n_steps, duration_s, gait)
    loaded, unloaded, walkers = [], [], []
    for stream in np.random.SeedSequence(seed).spawn(n_participants):
        rng = np.random.default_rng(stream)
        walker = _draw_walker(rng, gait)
        walkers.append(walker)
        unloaded.append(_walk(walker, rng, gait, duration_s))
        for style in range(len(STYLES)):
            for load in LOADS_LB:
                relative = walker.sensitivity * load / (LB_PER_KG * walker.mass_kg)
                loaded.append(_walk(_carrying(walker, style, relative, gait), rng, gait, duration_s))
    n_loads, n_styles = len(LOADS_LB), len(STYLES)
    y = np.tile(LOADS_LB, n_styles * n_participants)
    styles = np.tile(np.repeat(np.arange(n_styles), n_loads), n_participants)
    people = np.array([f"P{p + 1:02d}" for p in range(n_participants)])
    return to_batch(
        x=resample(np.stack(loaded), n_steps), y=y, style=styles, participant=np.repeat(people, n_styles * n_loads),
        x_aux=resample(np.stack(unloaded), n_steps), participants=people, channels=CHANNELS, styles=STYLES,
        truth={
            "load": y, "style": styles, "mass_kg": np.array([w.mass_kg for w in walkers]),
            "sensitivity": np.array([w.sensitivity for w in walkers]),
        },
        truth_along={"load": "row", "style": "row", "mass_kg": "participant", "sensitivity": "participant"},
        name="simulated gait", simulated=True, seed=seed,
    )  # fmt: skip


def resample(values: np.ndarray, n_steps: int) -> np.ndarray:
    """Resample walks to a number of steps, with a low-pass filter against aliasing.

    Args:
        values: Walks, (..., T_raw, S).
        n_steps: Number of steps of the result.

    Returns:
        Resampled walks, (..., n_steps, S).

    Raises:
        ValueError: More steps than samples: they would have to be made up.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import resample
        >>> slow = np.sin(np.linspace(0, 6, 800))[:, None]
        >>> resample(slow, 120).shape
        (120, 1)
    """
    n = values.shape[-2]
    if not 1 < n_steps <= n:
        raise ValueError(f"n_steps: {n_steps}; a walk of {n} samples can be resampled to 2 to {n} steps")
    if n_steps == n:
        return values
    ratio = Fraction(n_steps, n)
    return scipy.signal.resample_poly(values, ratio.numerator, ratio.denominator, axis=-2, padtype="line")


def _draw_walker(rng: np.random.Generator, gait: Gait) -> _Walker:
    n = len(SITES)
    kinds = [site.removeprefix("left_").removeprefix("right_") for site in SITES]
    amplitude = np.array([_AMPLITUDES[kind] for kind in kinds])
    population = np.random.default_rng(0)  # mean phases of the population, the same in every simulation
    phase = population.uniform(0, 2 * np.pi, (n, 3, 3)) + np.pi * _LEFT[:, None, None] * np.arange(1, 4)
    posture = np.zeros((n, 3))
    between = gait.between
    # Habits that look like loads: lean to one side or backwards, a stiff thorax, short steps, still arms.
    lean, back = 3.0 * between * rng.normal(size=2)
    stiff, short, still, hard = 0.12 * between * rng.normal(size=4)
    posture[_TRUNK, _ROLL], posture[_TRUNK, _PITCH] = lean, back
    posture += 1.5 * between * rng.normal(size=posture.shape)
    amplitude = amplitude * np.exp(0.12 * between * rng.normal(size=amplitude.shape))
    amplitude[_TRUNK, _YAW] *= np.exp(2 * stiff)
    amplitude[_LEGS] *= np.exp(short)
    amplitude[_ARMS] *= np.exp(2 * still)
    phase = phase + 0.15 * between * rng.normal(size=phase.shape)
    angles = np.deg2rad(gait.misalignment_deg) * rng.normal(size=(n, 3))
    strike = np.array([_STRIKE.get(kind, 0.3) for kind in kinds]) * np.exp(hard + 0.1 * between * rng.normal(size=n))
    bounce = np.array([_BOUNCE.get(kind, 0.2) for kind in kinds]) * np.exp(0.1 * between * rng.normal(size=n))
    stride_s = max(0.6, gait.stride_s + gait.stride_sd * rng.normal())
    mass_kg = max(40.0, gait.mass_kg + gait.mass_sd * rng.normal())
    heavy = (mass_kg / gait.mass_kg) ** gait.mass_shown
    return _Walker(
        amplitude, phase, posture, _rotation(angles), strike * heavy, bounce * heavy, stride_s=stride_s,
        mass_kg=mass_kg, sensitivity=float(np.exp(gait.sensitivity_sd * rng.normal())),
    )  # fmt: skip


def _carrying(walker: _Walker, style: int, relative: float, gait: Gait) -> _Walker:
    """The walker with a load, relative to the body weight, in a carrying style."""
    f = gait.effect * relative * (relative / 0.3) ** gait.curvature
    amplitude, posture = walker.amplitude.copy(), walker.posture.copy()
    right, left, both, anterior = (style == k for k in range(4))
    hands = np.array([left or both or anterior, right or both or anterior] * 2)  # of left and right arm segments
    swing = np.where(hands, max(0.15, 0.6 - 1.5 * f), 1.0 + 0.3 * f)
    amplitude[_ARMS] *= swing[:, None, None]
    amplitude[_LEGS] *= max(0.1, 1 - 0.5 * f)
    amplitude[_TRUNK, _YAW] *= max(0.1, 1 - (2.0 if anterior else 1.2 if both else 0.8) * f)
    amplitude[_TRUNK, _ROLL] *= 1 + (1.5 if left or right else 0.5) * f
    if left or right:
        posture[_TRUNK, _ROLL] += (-1 if right else 1) * (gait.lean_deg * f + 1.0)
    if anterior:
        posture[_TRUNK, _PITCH] -= 0.8 * gait.lean_deg * f + 1.0
        posture[7:9, _PITCH] += 75.0  # elbows bent: gravity turns in the frame of the forearm
        posture[5:7, _PITCH] += 10.0
    if both:
        posture[_ARMS, _ROLL] += np.array([1, -1, 1, -1]) * 4.0  # arms held off the body
    faster = 1 + 0.1 * f if both or anterior else 1.0
    return replace(
        walker, amplitude=amplitude, phase=_coordinated(walker.phase, style, gait.coordination * relative),
        posture=posture, strike=walker.strike * (1 + 1.2 * f),
        bounce=walker.bounce * (1 + 0.4 * f), stride_s=walker.stride_s / faster,
    )  # fmt: skip


def _coordinated(phase: np.ndarray, style: int, shift: float) -> np.ndarray:
    """Phases (site, axis, harmonic) of a walker whose thorax and loaded arms are shifted in time against the pelvis.

    The thorax comes nearer to the pelvis with a load in the right hand or before the body, and goes away from it with
    one in the left hand or at both sides; arms that hold nothing shift half as far, the other way.
    """
    right, left, both, anterior = (style == k for k in range(4))
    hands = np.array([left or both or anterior, right or both or anterior] * 2)
    delay = np.zeros(phase.shape[0])
    delay[9:11] = shift * (1.0 if right or anterior else -1.0)  # t6 and sternum
    delay[_ARMS] = shift * np.where(hands, 1.0, -0.5) * (1.0 if right or both else -1.0)
    return phase - delay[:, None, None] * np.arange(1, 4)


def _walk(walker: _Walker, rng: np.random.Generator, gait: Gait, duration_s: float) -> np.ndarray:
    """Simulate one walk at 80 Hz, (T_raw, S): acceleration [g] and angular velocity [deg/s] of every site."""
    n, trial = round(duration_s * RATE_HZ), gait.trial
    pace = np.exp(0.03 * trial * rng.normal())
    drift = np.cumsum(rng.normal(0, gait.jitter / np.sqrt(walker.stride_s * RATE_HZ), n))
    rate = 2 * np.pi * pace / walker.stride_s * (1 + drift)  # of the gait phase [rad/s]
    phase = rng.uniform(0, 2 * np.pi) + np.cumsum(rate) / RATE_HZ
    amplitude = walker.amplitude * np.exp(0.03 * trial * (rng.normal() + rng.normal(size=walker.amplitude.shape)))
    posture = walker.posture + trial * (rng.normal(size=3) + 0.5 * rng.normal(size=walker.posture.shape))
    harmonic = np.arange(1, 4)
    phases = walker.phase
    if gait.coordination:
        phases = phases + 0.05 * trial * rng.normal(size=phases.shape)
    argument = harmonic * phase[:, None] + phases[:, :, None, :]  # (site, axis, time, harmonic)
    angle = posture[..., None] + (amplitude[:, :, None] * np.sin(argument)).sum(-1)
    gyro = (amplitude[:, :, None] * harmonic * np.cos(argument)).sum(-1) * rate
    acc = _gravity(np.deg2rad(angle))
    step = np.exp(30 * (np.cos(phase[None] - np.pi * _LEFT[:, None]) - 1))  # heel strike of the own side
    step[_TRUNK] += np.exp(30 * (np.cos(phase - np.pi) - 1))
    shape = np.array([0.5, 0.2, 1.0])[None, :, None]
    acc += shape * (walker.strike[:, None] * step)[:, None]
    acc += shape * (walker.bounce[:, None] * np.cos(2 * phase))[:, None]
    seen = np.concatenate([walker.turned @ acc, walker.turned @ gyro], 1)  # (site, 6, time)
    noise = np.repeat([gait.acc_noise, gait.gyro_noise], 3)[None, :, None]
    return (seen + noise * rng.normal(size=seen.shape)).transpose(2, 0, 1).reshape(n, -1)


def _gravity(angle: np.ndarray) -> np.ndarray:
    """Gravity [g], (site, 3, time), in the frame of sensors rotated by `angle` [rad], (site, 3, time)."""
    roll, pitch = angle[:, _ROLL], angle[:, _PITCH]
    return np.stack([np.sin(pitch), np.sin(roll) * np.cos(pitch), np.cos(roll) * np.cos(pitch)], 1)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrices, (site, 3, 3), from rotation vectors [rad], (site, 3)."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(angles).as_matrix()


def _check(n_participants: int, n_steps: int, duration_s: float, gait: Gait) -> None:
    for name, number in (("n_participants", n_participants), ("n_steps", n_steps)):
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name}: {number}; a whole number of at least 1 is needed")
    if not 0 < duration_s <= 600 or round(duration_s * RATE_HZ) < n_steps:
        raise ValueError(
            f"duration_s: {duration_s}; walks are made at {RATE_HZ:g} Hz, so {n_steps} steps need at least "
            f"{n_steps / RATE_HZ:g} s (and at most 600 s are made)"
        )
    for field in fields(gait):
        value, positive = getattr(gait, field.name), field.name in ("stride_s", "mass_kg")
        if not np.isfinite(value) or value < 0 or (positive and value == 0):
            needed = "a positive number" if positive else "a number of at least 0"
            raise ValueError(f"gait.{field.name}: {value}; {needed} is needed")
