"""Time of ``pyrozoo reproduce m3sense stress-predict`` on many people: jobs of its first folds, times their number.

README.md beside this file says what each number means.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from timing import CLOCKS, add_clock_and_out, report

from pyrozoo.models.m3sense.data.simulator import simulate
from pyrozoo.models.m3sense.experiments import stress

CORES = 2
CAM = "M3Sense (CAM)"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=34)
    parser.add_argument("--windows", type=int, default=160, help="windows of a person (default: 160)")
    parser.add_argument("--folds", type=int, default=1, help="folds whose jobs are run (default: 1)")
    parser.add_argument("--smoke", action="store_true", help="networks and processes of the smoke profile")
    parser.add_argument("--threads", type=int, default=1)
    add_clock_and_out(parser)
    given = parser.parse_args(arguments)
    given.rounds = given.folds
    with tempfile.TemporaryDirectory() as folder:
        path = simulated_file(Path(folder, "people.npz"), given.people, given.windows)
        report(given, _tables(given, path))


def _tables(given: argparse.Namespace, path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    seconds = pd.DataFrame([run_fold(str(path), fold, given.smoke, given.clock) for fold in range(given.folds)])
    table = whole(seconds, counts(given.people)[0])
    people = f"{given.people} simulated people of {given.windows} windows"
    yield f"seconds of the jobs of stress-predict, profile quick, {people}", table
    minutes = pd.DataFrame({"minutes": {"one job at a time": table["all"].sum() / 60}})
    minutes.loc[f"{CORES} jobs at a time"] = minutes["minutes"].iloc[0] / CORES
    yield "the whole experiment", minutes


def simulated_file(path: Path, n_people: int, n_windows: int) -> Path:
    """Write simulated people in the layout of `read_stress_predict_windows`: their times are real, their scores not."""
    data = simulate("simulated stress", 100, n_subjects=n_people, n_windows=n_windows)
    units = {"eda": ("eda_nS", 1000.0), "bvp": ("bvp_x10", 10.0), "temp": ("temp_cC", 100.0)}
    signals = {key: np.rint(data[name].numpy() * unit).astype(int) for name, (key, unit) in units.items()}
    stressed = (data["y_stress"].numpy() > 0).astype(int)
    np.savez(path, label=stressed, subject=data["subject"].numpy() + 1, **signals)
    return path


def counts(n_people: int) -> tuple[dict[str, int], int]:
    """Jobs of each kind in the whole experiment, and its number of folds, in profile "quick"."""
    n = min(n_people, stress.MOST_FOLDS["quick"] or n_people)
    seeds, inner = stress.SEEDS["quick"], stress.INNER
    nested = {f"{net}, inner fold": n * inner for net in stress.NETS}
    logistic = {"logistic regression, inner fold": n * inner * len(stress.PENALTIES)}
    return {**nested, **logistic, **dict.fromkeys(_OUTER, n * seeds)}, n


_OUTER = (f"{CAM}, {stress.MEMBERS} fits", stress.CROSSED, *stress.BASELINES, stress.LOGISTIC, stress.CLOCK)


def run_fold(path: str, fold: int, smoke: bool, clock: str) -> dict[str, float]:
    """Seconds of one job of each kind in a fold; of the networks that may be chosen for it, the slowest."""
    data = stress.featured_windows(path)  # read before the clock starts, as it is for all jobs of a process but one
    people = stress.people_of(data)
    outer, inner = stress.folds_of(people, counts(len(people))[1])
    own = {"path": path, "people": people, "outer": outer[fold], "seed": 0}
    nested, whole_fold = {**own, "inner": inner[fold][0]}, {**own, "inner": []}
    first = f"{stress.LOGISTIC} {stress.PENALTIES[0]}"
    jobs: dict[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {
        f"{net}, inner fold": (stress.net_run, {**nested, "candidate": net, "smoke": smoke}) for net in stress.NETS
    }
    jobs["logistic regression, inner fold"] = (stress.simple_run, {**nested, "model": first})
    jobs[_OUTER[0]] = (stress.net_run, {**whole_fold, "candidate": CAM, "smoke": smoke})
    jobs[stress.CROSSED] = (stress.crossed_run, {**whole_fold, "model": stress.CROSSED, "smoke": smoke})
    simple = {model: model for model in stress.BASELINES} | {stress.LOGISTIC: first, stress.CLOCK: stress.CLOCK}
    jobs |= {name: (stress.simple_run, {**whole_fold, "model": model}) for name, model in simple.items()}
    now, seconds = CLOCKS[clock], {}
    for name, (function, arguments) in jobs.items():
        started = now()
        function(**arguments)
        seconds[name] = now() - started
    return seconds


def whole(seconds: pd.DataFrame, jobs: Mapping[str, int]) -> pd.DataFrame:
    """Per kind of job: its number, the mean seconds of one over the folds that were run, and the seconds of all."""
    table = pd.DataFrame({"jobs": pd.Series(jobs), "seconds": seconds.mean()}).loc[list(jobs)]
    table["all"] = table["jobs"] * table["seconds"]
    return table


if __name__ == "__main__":
    main()
