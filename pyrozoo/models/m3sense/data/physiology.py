"""Sizes of what simulated situations do to simulated people; [K] marks those from general knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class State:
    """Effect of a situation on a person of reactivity 1, relative to the person's own rest.

    Attributes:
        scl_ratio: Factor of the skin conductance level.
        scr_per_min: Increase of the rate of skin conductance responses [1/min].
        scr_us: Median amplitude of a response of a person with the median level [uS].
        temp_c, temp_slope: Change of the skin temperature: mean [deg C] and trend [deg C/min] during the situation.
        hr_bpm: Increase of the heart rate [1/min].
        pulse_ratio: Factor of the pulse's amplitude, as vessels narrow [K].
        motion, motion_gain: Share of windows with motion, and its smallest and largest peak-to-peak size, in
            amplitudes of the pulse [K].
    """

    scl_ratio: float = 1.0
    scr_per_min: float = 0.0
    scr_us: float = 0.035
    temp_c: float = 0.0
    temp_slope: float = 0.0
    hr_bpm: float = 0.0
    pulse_ratio: float = 1.0
    motion: float = 0.05
    motion_gain: tuple[float, float] = (0.5, 2.0)


STATES: Mapping[str, State] = MappingProxyType({
    "baseline": State(temp_slope=0.03),
    # Between the change of medians over people (HR +14, TEMP -0.8) and the median change of a person (+8.5, -1.2).
    "stress": State(4.5, 6.5, 0.063, -1.0, -0.07, 11.0, 0.75, 0.15),
    "amusement": State(1.1, -0.3, 0.041, -0.9, -0.03, 0.0, 0.95, 0.1),
    "low anxiety": State(1.5, 0.4, 0.038, -0.2, 0.0, 3.2, 0.95, 0.1),  # as under a mild stressor
    "high anxiety": State(3.0, 5.0, 0.055, -0.6, -0.05, 13.0, 0.75, 0.15),  # as in an interview
    "other emotion": State(),
    "high emotion": State(1.2, 0.0, 0.037, 0.0, 0.0, 1.5),
    "quiet work": State(1.2, 0.5, 0.038, 0.0, 0.0, 5.0, 0.95, 0.2),  # [K], as are all below
    "busy work": State(1.8, 1.5, 0.04, -0.2, 0.0, 12.0, 0.9, 0.5),
    "stress at work": State(3.0, 5.0, 0.055, -0.6, -0.05, 13.0, 0.75, 0.3),
    "rest": State(motion=0.2),
    "exercise": State(2.2, 2.0, 0.045, -0.3, 0.1, 25.0, 0.9, 1.0, (2.0, 4.0)),
})  # fmt: skip


@dataclass(frozen=True)
class Physiology:
    """Sizes of all variation in simulated signals; `between`, `within`, `effect` and `report_noise` set the difficulty.

    Attributes:
        between: Factor of all differences between people (0: all are alike).
        within: Factor of all differences between sessions of a person, and of drifts.
        effect: Factor of all effects of states.
        report_noise: Share of sessions or bouts whose self-reported label (anxiety, emotion) ignores the state [K].
        scl_us: Skin conductance level at rest over people, median [uS] and log sd.
        scr_per_min: Rate of skin conductance responses at rest over people, median [1/min] and log sd [K].
        temp_c, hr_bpm: Skin temperature [deg C] and heart rate [1/min] at rest over people, mean and sd.
        pulse_au: Amplitude of the pulse over people, median [arbitrary units of the device] and log sd.
        reactivity: Log sd over people of how strongly situations act: a part common to all channels, and one of each.
        session: Sd over a person's sessions of level [log], SCR rate [log], TEMP [deg C], HR [1/min], pulse [log] [K].
        drift: Sd of AR(1) drifts of level [log], temperature [deg C], heart rate [1/min] and pulse [log] [K].
        drift_s: Time in which the autocorrelation of these drifts falls by a factor e, in the same order [s] [K].
        rise_s: Lag of level and temperature, and of the heart rate, behind a recorded change of situation [s].
        scr_log_sd: Log sd of the amplitudes of a person's responses [K].
        scr_kernel_s: Shape of a response: time to its peak, sd of the Gaussian rise, and the two decays [s].
        jitter_s: Sd of the time of a heart beat [s]; 0.016 makes successive intervals differ by 40 ms [K].
        noise: Sd of the sensors' noise: EDA [uS] and its part per level, TEMP [deg C], BVP [amplitudes of the pulse].
        states: Name -> `State`, for all the names in `STATES`.

    Example:
        >>> from pyrozoo.models.m3sense import Physiology, simulate
        >>> alike = Physiology(between=0.0)  # no differences between people
        >>> windows = simulate("simulated stress", n_subjects=3, n_windows=4, physiology=alike)
        >>> windows.truth["person_temperature"].tolist()
        [33.7, 33.7, 33.7]
    """

    between: float = 1.0
    within: float = 1.0
    effect: float = 1.0
    report_noise: float = 0.3
    scl_us: tuple[float, float] = (0.40, 0.9)
    scr_per_min: tuple[float, float] = (1.4, 0.6)
    temp_c: tuple[float, float] = (33.7, 1.6)
    hr_bpm: tuple[float, float] = (69.5, 9.7)
    pulse_au: tuple[float, float] = (120.0, 0.7)
    reactivity: tuple[float, float] = (0.4, 0.4)
    session: tuple[float, float, float, float, float] = (0.3, 0.4, 0.6, 4.5, 0.25)
    drift: tuple[float, float, float, float] = (0.3, 0.2, 4.5, 0.2)
    drift_s: tuple[float, float, float, float] = (120.0, 300.0, 40.0, 40.0)
    rise_s: tuple[float, float] = (60.0, 20.0)
    scr_log_sd: float = 0.6
    scr_kernel_s: tuple[float, float, float, float] = (3.07, 0.70, 3.15, 14.1)
    jitter_s: float = 0.016
    noise: tuple[float, float, float, float] = (0.001, 0.002, 0.007, 0.03)
    states: Mapping[str, State] = field(default_factory=lambda: STATES)
