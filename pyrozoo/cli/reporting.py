"""report: a saved run and its data to a page that says whether to use it."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_target
from ..modeling import registry
from .inspecting import data_of

if TYPE_CHECKING:
    from ..data.batch import Batch
    from ..inference.fitted import Fit


def report_command(arguments: argparse.Namespace) -> int:
    """Write the page and its JSON, and print the verdict."""
    out = Path(arguments.out)
    check_target(out)
    if out.is_dir() or out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out {out}: give a file of HTML, such as report.html")

    from ..inference.saving import load
    from ..reports.build import report

    fit = load(arguments.run)
    train, test = (_data(arguments, fit, file) for file in (arguments.train, arguments.test))
    found = report(
        fit, train, test, out=out, draws=arguments.draws, slow=arguments.slow, run=shlex.quote(arguments.run)
    )
    for mark in found.marks:
        print(f"{mark.mark:<10}  {mark.question} {mark.says}")
    print(f"the report is in {out}, the same as JSON in {out.with_suffix('.json')}")
    return 0


def _data(arguments: argparse.Namespace, fit: Fit, file: str | None) -> Batch | None:
    """A file, or a data set of the entry by its name; of a data set in two parts the one that the run was fitted to."""
    if file is None:
        return None
    name = fit.model.entry[0] if fit.model.entry else None
    if name is None or file not in registry.card(name).datasets:
        return data_of(arguments, fit, file)
    data = registry.load_data(name, file)
    return data[0 if file == arguments.train else 1] if isinstance(data, tuple) else data
