"""Seconds for 100 SSMTL steps: one process beside two that share every minibatch (gloo), each with one thread.

In each round the one process works while the other waits, then both. Wall clock; the cores are shared with whatever
else runs there, and where fewer than two are free, two processes gain nothing.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
import variants
from timing import alternate, report
from torch import distributed as dist

from pyrozoo.inference.distributed import ALONE, Processes, joined
from pyrozoo.inference.loop import Training
from pyrozoo.inference.losses import validation
from pyrozoo.inference.minibatches import sample_minibatches

STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 5000], help="rows of a minibatch")
    parser.add_argument("--width", type=int, default=200, help="of the networks")
    parser.add_argument("--rounds", type=int, default=5, help="each of the two (default: 5)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON, too")
    parser.set_defaults(threads=1, clock="wall")
    given = parser.parse_args()
    if "RANK" not in os.environ:  # not yet one of the two processes
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *sys.argv]
        subprocess.run(start, env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}, check=True)
        return
    torch.set_num_threads(1)
    with joined(True, None) as processes:
        if processes.first:
            report(given, tables(given, processes))
        else:
            list(tables(given, processes))


def tables(given: argparse.Namespace, processes: Processes) -> Iterator[tuple[str, pd.DataFrame]]:
    for rows in given.rows:
        alone, both = (steps(rows, given.width, which) for which in (ALONE, processes))

        def one(alone: Callable[[], None] = alone) -> None:
            if processes.first:
                alone()
            dist.barrier()

        seconds = alternate({"one process": one, "two processes": both}, given.rounds, given.clock)
        table = pd.DataFrame({"min_s": seconds.min(), "median_s": seconds.median()})
        yield f"{rows} rows: {STEPS} steps", table.assign(ratio=table["min_s"] / table["min_s"]["one process"])


def steps(rows: int, width: int, processes: Processes) -> Callable[[], None]:
    """Steps of the loop of `pyrozoo.fit`; half of the rows are labelled."""
    train = variants.data(rows)
    training: Training = variants.zoo_training(variants.model_for(train, width), train, rows)
    training.processes, training.step_loss = processes, processes.wrap(training.loss)
    size, share = {"labelled": rows // 2, "unlabelled": rows // 2}, (processes.rank, processes.size)

    def run() -> None:
        with validation(False):
            for _ in range(STEPS // variants.STEPS):  # epochs
                for batch in sample_minibatches(train, size, training.generator, share=share):
                    training._update(batch, 1.0)

    return run


if __name__ == "__main__":
    main()
