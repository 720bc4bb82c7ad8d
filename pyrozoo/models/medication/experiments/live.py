"""Speed of live decoding: frames per second of processor time, by lag."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ....experiments.record import format_table
from ....experiments.running import Outcome
from ....inference.saving import load_reference
from ....posterior.streaming import stream
from ..data.datasets import watch_sessions
from .watch import watch_identity

LAGS = (0.0, 1.0, 2.0, 5.0)  # seconds
NOTE = (
    "The reference fit (six steps, one frame per second) decodes a watch session frame by frame. Processor time of one "
    "thread, so that other work on the machine counts little; the probabilities of all steps and the alarms are "
    "computed in every frame. `states`: numbers that are kept, whatever the length of the recording."
)


def live_experiment(out: Path, profile: str = "quick") -> Outcome:
    """Frames per second of `stream` with the reference fit, by lag.

    Args:
        out: Folder for record.json and table.csv.
        profile: "smoke" (few frames), "quick" (one session) or "paper" (ten sessions' frames).
    """
    fit, score = load_reference("medication/watch"), watch_sessions(0)[1]["score"].numpy()
    frames = np.concatenate([score] * {"smoke": 1, "quick": 1, "paper": 20}[profile])[
        : 40 if profile == "smoke" else None
    ]
    rows: list[dict[str, Any]] = []
    for lag in LAGS:
        stream(fit, lag=lag).push(frames[:20])  # compile
        live: Any = stream(fit, lag=lag)
        started = time.process_time()
        for frame in frames:
            live.push(frame)
        seconds = time.process_time() - started
        rows.append({
            "model": "semi-markov", "lag_s": lag, "frames": len(frames), "frames_per_s": len(frames) / seconds,
            "states": live.n_states,
        })  # fmt: skip
    return Outcome(rows, watch_identity(), [0], {"note": NOTE}, format_table(rows))
