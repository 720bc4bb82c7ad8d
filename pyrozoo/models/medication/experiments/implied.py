"""What durations the process really has when a distribution function is taken for the hazard, by frame rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....experiments.record import format_table
from ....experiments.running import Outcome
from ....files import atomic_write_json, sha256_text
from ..process import durations
from ..uses.plots import implied_durations

STEP = 8.0, 2.5  # seconds: a physical step, at every frame rate the same
RATES = (1, 2, 5, 10, 20, 30)
FRAMES = ((10, 3), (30, 5), (50, 10), (100, 30), (300, 60))  # mean and sd in frames
COMPETING = ((10.0, 3.0), (40.0, 8.0))  # gaps in frames, mean and sd, to two next steps of equal probability
NOTE = (
    "Exact numbers of the process, no data: the text takes the distribution function of a Gaussian at age d + 1 as the "
    "probability to end after d frames, so that a step's duration is not that Gaussian; it is shorter, the more so the "
    "finer time is cut. The hazard reading has the Gaussian's mean and standard deviation at every rate, up to the "
    "rounding to whole frames."
)


def implied(mean: float, sd: float, reading: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the ages of a step and the probability of each as its duration, under a reading; all in frames."""
    n = int(mean + 12 * sd) + 2
    at = torch.tensor([mean], dtype=torch.double), torch.tensor([sd], dtype=torch.double)
    if reading == "hazard":
        log_p = durations.renewal(*at, n)[0][0]
    else:
        leave, stay = (table[0] for table in durations.distribution_function(*at, n))
        log_p = leave + torch.nn.functional.pad(stay.cumsum(0)[:-1], (1, 0))
    return np.arange(1, n + 1), log_p.exp().numpy()


def shares(reading: str) -> list[float]:
    """Return how often each of two next steps follows under a reading; D = 0.5 each, gaps as in `COMPETING`."""
    mean, sd = (torch.tensor(own, dtype=torch.double) for own in zip(*COMPETING, strict=True))
    n = 200
    if reading == "hazard":
        log_p = durations.renewal(mean, sd, n)[0]
    else:
        end, wait = durations.distribution_function(mean, sd, n)
        stay = torch.logsumexp(wait, 0) - np.log(2)
        log_p = end + torch.nn.functional.pad(stay.cumsum(0)[:-1], (1, 0))
    return (0.5 * log_p.exp().sum(-1)).tolist()


def implied_experiment(out: Path, profile: str = "quick") -> Outcome:
    """Mean and sd of the durations that each reading implies, by frame rate; and a figure.

    Args:
        out: Folder for record.json, table.csv and the figure.
        profile: Name for the record; the numbers are exact and the same in every profile.
    """
    rows = []
    for reading in ("cdf", "hazard"):
        for rate in RATES:
            rows.append(_row(reading, STEP[0] * rate, STEP[1] * rate, rate))
        rows += [_row(reading, *given, 1) for given in FRAMES]
    curves = {}
    for rate in (1, 5, 30):
        age, p = implied(STEP[0] * rate, STEP[1] * rate, "cdf")
        curves[f"cdf as hazard, {rate} frames/s"] = age / rate, p
    age, p = implied(STEP[0] * 30, STEP[1] * 30, "hazard")
    curves["hazard reading, 30 frames/s"] = age / 30, p
    (out / "figures").mkdir(parents=True, exist_ok=True)
    axes = implied_durations(curves, reference="hazard reading, 30 frames/s")
    axes.figure.savefig(out / "figures" / "implied_durations.png", dpi=110)
    followed = {reading: shares(reading) for reading in ("cdf", "hazard")}
    text = f"{format_table(rows)}\ntwo next steps, D = 0.5 each, gaps {COMPETING} frames: {followed}"
    facts = {"step_s": STEP, "rates": RATES, "frames": FRAMES, "competing": COMPETING}
    atomic_write_json(out / "settings.json", facts)
    digest = sha256_text(repr(facts))
    data = {"name": "no data: laws of durations", "sha256": digest, "simulated": True}
    return Outcome(rows, data, [], {"note": NOTE, "shares_of_next_steps": followed}, text)


def _row(reading: str, mean: float, sd: float, rate: int) -> dict[str, Any]:
    age, p = implied(mean, sd, reading)
    found = float((age * p).sum())
    spread = float(np.sqrt((p * (age - found) ** 2).sum()))
    return {
        "model": reading, "frames_per_s": rate, "mean_s": mean / rate, "sd_s": sd / rate,
        "implied_mean_s": found / rate, "implied_sd_s": spread / rate, "bias_percent": 100 * (found / mean - 1),
        "bias_sd": (found - mean) / sd, "sd_ratio": spread / sd,
    }  # fmt: skip
