"""reproduce, check: experiments and the contract."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..modeling import registry

if TYPE_CHECKING:
    from ..contract import Result

_NAMED = 3  # subjects that a line names


def reproduce_command(arguments: argparse.Namespace) -> int:
    """Run an experiment of an entry."""
    from ..experiments.running import function_of, run

    names = ("profile", "seeds", "jobs", "out", "data", "split", "folds", "people", "repeats")
    options = {name: getattr(arguments, name) for name in names}
    with contextlib.ExitStack() as stack:
        if arguments.cluster is not None:
            if "jobs" not in inspect.signature(function_of(arguments.name, arguments.experiment)).parameters:
                raise ValueError(
                    f"--cluster: {arguments.experiment!r} of {arguments.name!r} runs no jobs; leave it out"
                )
            from ..experiments.jobs import on_cluster

            try:
                stack.enter_context(on_cluster(arguments.cluster))
            except ImportError as error:
                raise ValueError(f"--cluster: {error}") from error
        run(arguments.name, arguments.experiment, **options)
    return 0


def check_command(arguments: argparse.Namespace) -> int:
    """Check an entry against the contract: a line per passed check, and one for all that say the same of a clause."""
    registry.entry(arguments.name)  # an unknown name is reported before torch is imported
    from .. import contract

    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    options = {name: getattr(arguments, name) for name in ("slow", "only", "fast", "stop")}
    for _, results in itertools.groupby(contract.check(arguments.name, **options), lambda result: result.code):
        _print_clause(results, counts)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    return 1 if counts["failed"] else 0


def _print_clause(results: Iterable[Result], counts: dict[str, int]) -> None:
    """Print what passes at once, and what has a message at the end of the clause, equal messages in one line."""
    same: dict[tuple[str, str], list[Result]] = {}
    try:
        for result in results:
            outcome = "skipped" if result.skipped else "passed" if result.ok else "failed"
            counts[outcome] += 1
            if result.message:
                same.setdefault((outcome, result.message), []).append(result)
            else:
                _print_line(outcome, "", [result])
    finally:  # also if the user interrupts
        for (outcome, message), those in same.items():
            _print_line(outcome, message, those)


def _print_line(outcome: str, message: str, results: list[Result]) -> None:
    names = "; ".join(result.subject for result in results[:_NAMED])
    more = f"; and {len(results) - _NAMED} more" if len(results) > _NAMED else ""
    what = names if len(results) == 1 else f"{len(results)} subjects: {names}{more}"
    seconds = sum(result.seconds for result in results)
    note = f": {' '.join(message.split())}" if message else ""
    print(f"{outcome:7}  {results[0].code:3}  {what} ({seconds:.1f} s){note}", flush=True)
