"""Processor time of whole commands beyond that of importing torch and Pyro: `list`, `fit` of one step and `predict`."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from timing import add_out, report

from pyrozoo.models.ssmtl import simulate

IMPORTS = "import torch, pyro"
COLUMNS = ["--unit", "unit", "--x", "u,p", "--y", "y"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="each of every command, in turn (default: 5)")
    add_out(parser)
    parser.set_defaults(threads=1, clock="cpu")
    given = parser.parse_args(arguments)
    report(given, tables(given.rounds))


def tables(rounds: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Least processor time of every command, and how much more than the imports that is."""
    with tempfile.TemporaryDirectory() as folder:
        calls = commands(Path(folder))
        seconds = pd.DataFrame([{name: call() for name, call in calls.items()} for _ in range(rounds + 1)])
    least = seconds.iloc[1:].min()  # the first round compiles bytecode
    yield "ssmtl, seconds", pd.DataFrame({"min_s": least, "beyond_imports_s": least - least[IMPORTS]})


def commands(folder: Path) -> dict[str, Callable[[], float]]:
    """Commands by name, with a table to fit and a run to predict by."""
    rows, _ = simulate(n_units=6, n_labelled=5, n_unlabelled=20, n_test=1)
    table = pd.DataFrame(rows["x"].numpy(), columns=["u", "p"]).assign(unit=rows["unit"].numpy())
    table.assign(y=pd.Series(rows["y"][:, 0].numpy()).where(rows.observed("y"))).to_csv(folder / "train.csv")
    table.to_csv(folder / "rows.csv")
    fit = ["fit", "ssmtl", "--data", "train.csv", *COLUMNS, "--no-cross-fit", "--steps", "1", "--out"]
    predict = ["predict", "run", "--data", "rows.csv", "--out", "predictions.csv"]
    processor_time(folder, *command(*fit, "run"))
    runs = (str(number) for number in range(10**6))
    return {
        IMPORTS: lambda: processor_time(folder, sys.executable, "-c", IMPORTS),
        "pyrozoo list": lambda: processor_time(folder, *command("list")),
        "pyrozoo fit, one step": lambda: processor_time(folder, *command(*fit, next(runs))),
        "pyrozoo predict": lambda: processor_time(folder, *command(*predict)),
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pyrozoo", *arguments]


def processor_time(folder: Path, *call: str) -> float:
    """Seconds of processor time of a process and its children, on one thread.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(call, cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
