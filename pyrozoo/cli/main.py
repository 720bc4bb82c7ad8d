"""Commands and options of the command line, and what becomes of errors.

Exit codes: 0 for success; 1 for a failed check; 2 for bad usage, bad input or any other error, with one line on
standard error; 130 if interrupted, 143 if terminated. An error that no input should cause is named with its type;
--debug shows the traceback of any.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import one_line
from .arguments import Parser, assignment, codes, column_names, natural, positive, separator, value_assignment
from .calibrating import MODES, calibrate_command
from .creating import new_command
from .fitting import fit_command, tune_command
from .inspecting import KINDS, metrics_command, plot_command, posterior_command, ppc_command
from .predicting import predict_command
from .reporting import report_command
from .running import check_command, reproduce_command
from .showing import list_entries, show_command

PACKAGE = Path(__file__).parents[1]
_BAD_INPUT = (OSError, ValueError, TypeError, KeyError)
_LONGEST = 4000  # characters of a message; it may quote an argument of any length


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments of the command; by default those of the process.

    Returns:
        The exit code.
    """
    arguments, terminated = argparse.Namespace(debug=False, hint="nothing was started"), threading.Event()
    try:
        with _terminable(terminated), _warnings_once():
            _parser().parse_args(argv, arguments)
            for module in arguments.modules:
                _import(module)
            return arguments.command(arguments)
    except KeyboardInterrupt as interrupt:
        code, what = (143, "terminated") if terminated.is_set() else (130, "interrupted")
        print(f"pyrozoo: {what}; {interrupt if interrupt.args else arguments.hint}", file=sys.stderr)
        return code
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        text = one_line(error)
        if not isinstance(error, _BAD_INPUT):
            text = f"{type(error).__name__}, which no input should cause: {text}; --debug shows where"
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
        printable = text.encode(errors="backslashreplace").decode()  # a name of a file need not be UTF-8
        print(f"pyrozoo: error: {printable}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _terminable(terminated: threading.Event) -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that a scheduler's end of a command leaves what it can go on from."""

    def interrupt(*_: Any) -> None:
        terminated.set()
        raise KeyboardInterrupt

    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if own:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _parser() -> Parser:
    parser = Parser(prog="pyrozoo", description="A model zoo for Pyro.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"pyrozoo {__version__}")
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument(
        "--import", dest="modules", metavar="MODULE", action="append", default=[],
        help="import a module that registers entries of its own; may be repeated",
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Any, text: str, *, hint: str = "nothing was written") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        sub.set_defaults(command=command, hint=hint)
        return sub

    add("list", list_entries, "list the entries of the zoo")
    add("show", show_command, "show the card of an entry").add_argument("name", metavar="NAME")
    _fit_options(add("fit", fit_command, "fit an entry to a table or to one of its data sets"))
    tune = add("tune", tune_command, "choose arguments and settings by labels that fits have not seen")
    _fit_options(tune, "preset, which `fit --preset` takes", "FILE.json")
    tune.add_argument(
        "--score", choices=("crps", "log_score"), default="crps", help="of held-out labels; default: crps"
    )
    predict = add("predict", predict_command, "predict the targets of a table, or decode recordings, with a saved run")
    predict.add_argument("run", metavar="RUN", help="folder that `fit` saved")
    columns = "a table with the run's columns of groups and inputs, or a file in the entry's own format"
    predict.add_argument("--data", metavar="FILE", required=True, help=columns)
    predict.add_argument("--decoder", metavar="NAME", help="decoder of the entry, e.g. map; default: the model's")
    predict.add_argument(
        "--out", metavar="FILE.csv", required=True,
        help="predictions, one line per row or frame, with the table's other columns; an entry may write further "
        "tables beside it (FILE.steps.csv)",
    )  # fmt: skip
    _rate_option(predict)
    _dialect_options(predict)
    calibrate = add("calibrate", calibrate_command, "adapt a saved run to units that it was not trained on (ssmtl)")
    calibrate.add_argument("run", metavar="RUN", help="folder that `fit` saved; its networks stay as they are")
    rows = "rows of the new units, with the run's columns; targets empty where unlabelled"
    calibrate.add_argument("--data", metavar="FILE", required=True, help=rows)
    calibrate.add_argument("--mode", choices=MODES, default=MODES[0], help=f"rows to learn from; default: {MODES[0]}")
    calibrate.add_argument("--seed", type=natural, metavar="N", default=0, help="default: 0")
    calibrate.add_argument("--out", metavar="DIR", required=True, help="folder to make for the run of the new units")
    _dialect_options(calibrate)
    _inspect_options(add)
    report = add("report", report_command, "write a page that says whether to use a saved run")
    report.add_argument("run", metavar="RUN", help="folder that `fit` saved")
    training = "the data that the run was fitted to, a file or a data set of the entry"
    report.add_argument("--train", metavar="FILE", help=f"{training}; without it, what needs them says so")
    scored = "rows with targets that the run has not seen; without it, further fits score the training labels"
    report.add_argument("--test", metavar="FILE", help=scored)
    report.add_argument("--out", metavar="FILE.html", default="report.html", help="default: report.html")
    report.add_argument("--draws", type=positive, metavar="N", default=200, help="default: 200")
    report.add_argument("--slow", action="store_true", help="also calibration by simulation, which fits 20 times more")
    _rate_option(report)
    _dialect_options(report)
    new = add("new", new_command, "write a small package with an entry of your own, which passes `check`")
    new.add_argument("name", metavar="NAME", help="of the entry and of its package, e.g. item_response")
    new.add_argument("--out", metavar="DIR", help="folder to make; default: NAME")
    again = "run the same command again: finished jobs in the folder of --out are kept"
    reproduce = add("reproduce", reproduce_command, "reproduce a table or figure of the paper", hint=again)
    reproduce.add_argument("name", metavar="NAME")
    reproduce.add_argument("experiment", metavar="EXPERIMENT", help="one of those that `show NAME` lists")
    reproduce.add_argument(
        "--profile", choices=("smoke", "quick", "paper"), help="default: quick, or paper where that takes no longer"
    )
    reproduce.add_argument("--seeds", type=positive, metavar="N", help="number of repeats; default: the profile's")
    reproduce.add_argument(
        "--repeats", type=positive, metavar="N",
        help="network initialisations of each fit, where an experiment averages several; default: the profile's",
    )  # fmt: skip
    where = reproduce.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=positive, metavar="N", help="worker processes; default: 1")
    where.add_argument(
        "--cluster", metavar="ADDRESS",
        help="of a dask scheduler, e.g. tcp://10.0.0.5:8786, all of whose workers run the jobs",
    )  # fmt: skip
    reproduce.add_argument(
        "--data", metavar="PATH", help="your own copy of the recordings, where an experiment takes one"
    )
    reproduce.add_argument(
        "--split", metavar="SPLIT", help="how to split the data, where an experiment offers a choice"
    )
    reproduce.add_argument("--folds", type=positive, metavar="N", help="folds of a cross-validation of people")
    reproduce.add_argument("--people", type=positive, metavar="N", help="people of the data, the first N; default: all")
    reproduce.add_argument("--out", metavar="DIR", help="folder; default: results/NAME-EXPERIMENT")
    check = add("check", check_command, "check an entry against the contract of the zoo")
    check.add_argument("name", metavar="NAME")
    check.add_argument("--slow", action="store_true", help="also the checks that take minutes")
    check.add_argument("--only", type=codes, metavar="CODE,CODE", help="only these checks, e.g. C5,C9")
    fast = "only the first guide of each variant, with the default priors"
    check.add_argument("--fast", action="store_true", help=fast)
    check.add_argument("--stop", action="store_true", help="end at the first check that fails")
    return parser


def _inspect_options(add: Callable[..., argparse.ArgumentParser]) -> None:
    for name, command, text, out, required in (
        ("metrics", metrics_command, "score a saved run on data with targets", "FILE.csv", False),
        ("ppc", ppc_command, "compare data with those that a saved run draws", "FILE.csv", False),
        ("posterior", posterior_command, "write draws of a saved run as netCDF, for ArviZ", "FILE.nc", True),
        ("plot", plot_command, "draw a picture of a saved run", "FILE.png", True),
    ):
        sub = add(name, command, text)
        sub.add_argument("run", metavar="RUN", help="folder that `fit` saved")
        if name == "plot":
            sub.add_argument("kind", metavar="KIND", choices=KINDS, help=", ".join(KINDS))
            sub.add_argument(
                "--coords", metavar="AXIS=LABEL,LABEL", action="append", default=[], help="what to keep of an axis"
            )
        sub.add_argument("--data", metavar="FILE", required=True, help="data like those of the fit, with their targets")
        sub.add_argument("--out", metavar=out, required=required, help=None if required else "default: print")
        sub.add_argument("--draws", type=positive, metavar="N", default=200, help="default: 200")
        if name == "metrics":
            sub.add_argument("--by", metavar="GROUP", help="a group of the run, e.g. unit: scores of each in a line")
        if name in ("posterior", "plot"):
            sub.add_argument("--site", dest="sites", action="append", metavar="SITE", help="site to keep; default: all")
        _rate_option(sub)
        _dialect_options(sub)


def _fit_options(
    fit: argparse.ArgumentParser, out: str = "folder to make for the run", written: str = "DIR"
) -> None:  # fmt: skip
    fit.add_argument("name", metavar="NAME")
    fit.add_argument(
        "--data", required=True, metavar="FILE|DATASET",
        help="a CSV table (errors count its rows from 0, below the header), a file in the entry's own format (its "
        "README says), or a data set of the entry",
    )  # fmt: skip
    _rate_option(fit)
    _dialect_options(fit)
    fit.add_argument("--unit", metavar="COL", help="column that names the unit of a row; short for --group unit=COL")
    for option, metavar, text in (
        ("--group", "[NAME=]COL,...", "columns that name the groups of a row, e.g. person,item or person=pupil"),
        ("--x", "COL,COL", "input columns, together x of the model (ssmtl: empty where missing); may be repeated"),
        ("--category", "COL,COL", "those of --x that hold categories: one input of 0 and 1 is made for each of them"),
        ("--row", "[NAME=]COL,...", "further inputs of one number per row, e.g. exposure=hours"),
        ("--y", "[TARGET=]COL", "target column; empty where unlabelled; may be repeated"),
    ):
        fit.add_argument(option, action="append", type=column_names, metavar=metavar, help=text)
    fit.add_argument(
        "--time", metavar="COL", help="column with the time of a row: numbers, or dates such as 2024-05-01"
    )
    fit.add_argument(
        "--y-transform", metavar="NAME", choices=("log", "logit", "yeo-johnson"),
        help="scale on which the target is modelled (ssmtl): predictions are in its own units",
    )  # fmt: skip
    fit.add_argument(
        "--x-transform", action="append", type=assignment, default=[], metavar="COL=NAME",
        help="the same of an input, e.g. pressure=log; may be repeated",
    )  # fmt: skip
    fit.add_argument("--variant", metavar="NAME", help="default: the first of the card")
    fit.add_argument("--guide", metavar="NAME", help="a guide of the card (default: the first), or a Pyro AutoGuide")
    fit.add_argument(
        "--prior", action="append", type=assignment, default=[], metavar="SITE=DIST",
        help='prior of a site, e.g. "c=StudentT(4, 0, 1)"; may be repeated',
    )  # fmt: skip
    fit.add_argument(
        "--set", dest="values", action="append", type=value_assignment, default=[], metavar="NAME=VALUE",
        help="argument of the model's constructor, e.g. c_dim=8 or fusion=concat; may be repeated",
    )  # fmt: skip
    fit.add_argument(
        "--separate-steps", choices=("refuse", "borrow", "merge"),
        help="put a non-event between steps that touch, for the text's models; what to do with steps of one frame",
    )  # fmt: skip
    fit.add_argument(
        "--styles", type=lambda text: tuple(name.strip() for name in text.split(",")), metavar="NAME,NAME",
        help="all carrying styles of the recordings, in this order (auxvae); default: the paper's, or those there",
    )  # fmt: skip
    fit.add_argument("--steps", type=positive, metavar="N", help="optimiser steps")
    fit.add_argument("--batch-size", type=positive, metavar="N", help="rows per step; the model's default or all")
    fit.add_argument("--lr", type=float, metavar="RATE", help="learning rate")
    fit.add_argument(
        "--compile", choices=("none", "graph", "inductor", "auto"),  # compiling.MODES, which import torch
        help="capture the step as a graph and replay or compile it; auto: where that pays (default: none)",
    )  # fmt: skip
    fit.add_argument("--seed", type=natural, metavar="N", default=0, help="default: 0")
    fit.add_argument(
        "--restarts", type=positive, metavar="N",
        help="independent fits to all data; default: 1, or what an entry that cross-fits takes",
    )  # fmt: skip
    fit.add_argument(
        "--no-cross-fit", dest="cross_fit", action="store_false",
        help="one plain fit, where an entry (ssmtl, auxvae, m3sense) corrects it by fits that leave labels out",
    )  # fmt: skip
    fit.add_argument(
        "--held-out", metavar="KIND",
        help="labels like the rows to be predicted: row, block, last (later rows), or a group such as unit; "
        "default: the entry's (ssmtl: row, and with --time also last; auxvae: participant; m3sense: subject)",
    )  # fmt: skip
    fit.add_argument("--jobs", type=positive, metavar="N", default=1, help="processes of a cross-fit; default: 1")
    fit.add_argument("--checkpoint", metavar="DIR", help="folder for a checkpoint after every epoch, or of every fit")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint, where there is one")
    if written == "DIR":
        fit.add_argument("--preset", metavar="FILE.json", help="what `tune` wrote; other options come before it")
    fit.add_argument("--out", required=True, metavar=written, help=out)


def _dialect_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sep", type=separator, metavar="CHAR",
        help='separator of a table, e.g. ";" or "\\t"; by default the one that fits the header',
    )  # fmt: skip
    command.add_argument("--decimal", choices=(".", ","), help="decimal mark of a table; guessed where unambiguous")


def _rate_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--rate", type=float, metavar="HZ", help="frames per second of recordings, where the file does not say"
    )


def _import(module: str) -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does, so that the user's own modules in this folder are found
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"--import {module}: {one_line(error)}") from error
        raise ValueError(f"--import {module}: there is no such module") from error
    except Exception as error:
        raise ValueError(f"--import {module}: {type(error).__name__}: {one_line(error)}") from error


@contextlib.contextmanager
def _warnings_once() -> Iterator[None]:
    """Show a warning once; Python alone shows it anew after every change of the filters, which Pyro makes often."""
    seen: set[tuple[type[Warning], str]] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def once(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if (category, str(message)) not in seen:
                seen.add((category, str(message)))
                if category is UserWarning and where and str(where[0]).startswith(str(PACKAGE)):
                    print(f"pyrozoo: warning: {message}", file=sys.stderr)  # the line of code helps no user
                else:
                    show(message, category, *where, **more)

        warnings.showwarning = once
        yield
