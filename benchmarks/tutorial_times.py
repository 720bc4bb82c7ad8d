"""Wall time of the tutorials in full, with draws at once and with draws one after the other.

Both kinds of one tutorial run at the same time, each in a kernel of one thread: so they find the same machine. Needs
`make tutorials` to have set up what runs notebooks, and two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from timing import add_out, report

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
ONE_BY_ONE = "import pyrozoo.posterior.many\n\npyrozoo.posterior.many.broadcasts = lambda *_, **__: False"
KINDS = {"at once": None, "one by one": ONE_BY_ONE}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 00_quickstart; default: all")
    add_out(parser)
    parser.set_defaults(threads=1, rounds=1, clock="wall")
    given = parser.parse_args(arguments)
    sources = [TUTORIALS / f"{name}.py" for name in given.names] or sorted(TUTORIALS.glob("[0-9][0-9]_*.py"))
    report(given, tables(sources))


def tables(sources: list[Path]) -> Iterator[tuple[str, pd.DataFrame]]:
    """For every tutorial the seconds of both kinds, and their ratio to draws at once."""
    for source in sources:
        with ProcessPoolExecutor(len(KINDS), multiprocessing.get_context("spawn")) as pool:
            seconds = list(pool.map(run_for, [source] * len(KINDS), KINDS))
        table = pd.DataFrame({"seconds": seconds}, index=list(KINDS))
        yield source.stem, table.assign(ratio=table["seconds"] / table["seconds"].iloc[0])


def run_for(source: Path, kind: str) -> float:
    """Seconds of one tutorial."""
    sys.path.insert(0, str(TUTORIALS))
    from execute import execute

    started = time.perf_counter()
    execute(source, before=KINDS[kind])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
