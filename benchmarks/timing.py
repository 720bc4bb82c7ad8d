"""Timing by ratios: variants alternate in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import pyrozoo

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
LAYOUT = ("display.float_format", "{:.3g}".format, "display.width", 120, "display.max_columns", None)


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


def report(given: argparse.Namespace, tables: Iterator[tuple[str, pd.DataFrame]]) -> None:
    """Print titles and tables as they come, under what they depend on; write them as JSON, too, where asked to."""
    torch.set_num_threads(given.threads)
    record: dict = {"environment": environment(given.clock), "rounds": given.rounds}
    print(*(f"{key} {value}" for key, value in record["environment"].items()), f"{given.rounds} rounds", sep=", ")
    with pd.option_context(*LAYOUT):
        for title, table in tables:
            print(f"\n{title}\n{table}", flush=True)
            record[title] = json.loads(table.to_json(orient="index"))
    if given.out is not None:
        given.out.write_text(json.dumps(record, indent=2) + "\n")


def options(doc: str, each: str) -> argparse.ArgumentParser:
    """Parser of what `report` reads; `each`: what a round is of."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="instead: where the time of a step goes")
    parser.add_argument("--rounds", type=int, default=30, help=f"each of {each} (default: 30)")
    parser.add_argument("--threads", type=int, default=1)
    add_clock_and_out(parser)
    return parser


def add_clock_and_out(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--clock`` and ``--out``."""
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, steadier beside other work"
    )
    add_out(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--out``."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON, too")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
