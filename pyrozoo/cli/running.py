"""reproduce, check: experiments and the contract."""

from __future__ import annotations

import argparse
import contextlib
import inspect

from ..modeling import registry


def reproduce_command(arguments: argparse.Namespace) -> int:
    """Run an experiment of an entry."""
    from ..experiments.running import function_of, run

    options = {name: getattr(arguments, name) for name in ("profile", "seeds", "jobs", "out", "data")}
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
    """Check an entry against the contract, line by line."""
    registry.entry(arguments.name)  # an unknown name is reported before torch is imported
    from .. import contract

    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for result in contract.check(arguments.name, slow=arguments.slow):
        outcome = "skipped" if result.skipped else "passed" if result.ok else "failed"
        counts[outcome] += 1
        note = f": {' '.join(result.message.split())}" if result.message else ""
        print(f"{outcome:7}  {result.code:3}  {result.subject} ({result.seconds:.1f} s){note}", flush=True)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    return 1 if counts["failed"] else 0
