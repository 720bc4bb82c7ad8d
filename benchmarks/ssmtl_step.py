"""One training step of SSMTL: the zoo, Pyro's SVI, hand-written PyTorch, and the matrix-multiplication floor.

README.md beside this file says what each number means.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import pandas as pd
import torch
from sections import profile
from timing import add_clock_and_out, environment
from units import against_units
from variants import compare, disagreement


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    record: dict = {"environment": environment(given.clock), "rounds": given.rounds}
    print(
        ", ".join(f"{key} {value}" for key, value in record["environment"].items()), f"{given.rounds} rounds", sep=", "
    )
    with pd.option_context("display.float_format", "{:.3g}".format, "display.width", 120):
        for title, table in _tables(given):
            print(f"\n{title}\n{table}", flush=True)
            record[title] = json.loads(table.to_json(orient="index"))
    if given.out is not None:
        given.out.write_text(json.dumps(record, indent=2) + "\n")


def _tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    if given.units:
        yield "zoo, 500 rows x 1 particle, against the number of units", against_units(given.rounds, given.clock)
        return
    for rows, particles in given.sizes:
        size = f"{rows} rows x {particles} particles"
        if given.profile:
            yield f"{size}: milliseconds per section of a step", profile(rows, particles, given.rounds, given.clock)
        else:
            different = pd.Series(disagreement(rows, particles), name="relative difference").to_frame().T
            yield f"{size}: zoo and plain PyTorch in double precision", different
            yield f"{size}: a step", compare(rows, particles, given.rounds, given.clock)


def _parser() -> argparse.ArgumentParser:
    def size(text: str) -> tuple[int, int]:
        rows, particles = text.split("x")
        return int(rows), int(particles)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="instead: where the time of a step goes")
    parser.add_argument("--units", action="store_true", help="instead: time and memory against the number of units")
    parser.add_argument(
        "--sizes", nargs="+", type=size, metavar="ROWSxPARTICLES", default=[(500, 1), (500, 5), (2500, 1)]
    )
    parser.add_argument("--rounds", type=int, default=30, help="each of 20 steps per variant (default: 30)")
    parser.add_argument("--threads", type=int, default=1)
    add_clock_and_out(parser)
    return parser


if __name__ == "__main__":
    main()
