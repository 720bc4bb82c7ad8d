"""Timing by ratios: variants alternate in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import pyrozoo

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def alternate(variants: Mapping[str, Callable[[], Any]], rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Time every variant once per round, the order rotating from round to round.

    Returns:
        Seconds: one line per round, one column per variant. A first round warms up and is not counted.
    """
    now, names = CLOCKS[clock], list(variants)
    seconds = []
    for r in range(rounds + 1):
        shift = r % len(names)
        line = {}
        for name in names[shift:] + names[:shift]:
            started = now()
            variants[name]()
            line[name] = now() - started
        seconds.append(line)
    return pd.DataFrame(seconds[1:], columns=names)


def summary(seconds: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Minimum and median over the rounds [ms], and both as ratios to `reference`.

    ``ratio`` is that of the minima; ``ratio_rounds`` the median over the rounds of the ratio within a round.
    """
    within = seconds.div(seconds[reference], axis=0)
    return pd.DataFrame(
        {
            "min_ms": seconds.min() * 1e3,
            "median_ms": seconds.median() * 1e3,
            "ratio": seconds.min() / seconds[reference].min(),
            "ratio_rounds": within.median(),
        }
    )


def environment(clock: str) -> dict[str, Any]:
    """What a timing depends on: processor, threads, load, versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "clock": clock,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "pyro-ppl")},
        "pyrozoo": pyrozoo.__version__,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
