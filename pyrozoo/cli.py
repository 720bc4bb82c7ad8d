"""The command line: list, show, fit, predict, reproduce and check.

Exit codes: 0 for success; 1 for a failed check; 2 for bad usage or bad input, with one line on standard error; 130 if
interrupted. Any other error is a bug and shows its traceback. Only the commands that compute import torch.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import importlib
import inspect
import itertools
import os
import shlex
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .files import atomic_write_text, check_target, naming, one_line
from .modeling import registry

if TYPE_CHECKING:
    import pandas as pd

    from .data.batch import Batch
    from .inference.fitted import Fit
    from .modeling.base import ZooModel

_BAD_INPUT = (OSError, ValueError, TypeError, KeyError)
_MARGIN = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments of the command; by default those of the process.

    Returns:
        The exit code.
    """
    arguments = argparse.Namespace(debug=False, hint="nothing was started")
    try:
        _parser().parse_args(argv, arguments)
        for module in arguments.modules:
            _import(module)
        return arguments.command(arguments)
    except KeyboardInterrupt as interrupt:
        print(f"pyrozoo: interrupted; {interrupt if interrupt.args else arguments.hint}", file=sys.stderr)
        return 130
    except _BAD_INPUT as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"pyrozoo: error: {one_line(error)}", file=sys.stderr)
        return 2


# -------------------------------------------------------------------- usage
class _Parser(argparse.ArgumentParser):
    """Parser that reports bad usage like any other bad input, in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def _parser() -> _Parser:
    parser = _Parser(prog="pyrozoo", description="A model zoo for Pyro.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"pyrozoo {__version__}")
    common = _Parser(add_help=False)
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

    add("list", _list, "list the entries of the zoo")
    add("show", _show, "show the card of an entry").add_argument("name", metavar="NAME")
    _fit_options(add("fit", _fit, "fit an entry to a table or to one of its data sets"))
    predict = add("predict", _predict, "predict the targets of a table, or decode recordings, with a saved run")
    predict.add_argument("run", metavar="RUN", help="folder that `fit` saved")
    columns = "a table with the run's unit and x columns, or a file in the entry's own format"
    predict.add_argument("--data", metavar="FILE", required=True, help=columns)
    predict.add_argument(
        "--out", metavar="FILE.csv", required=True,
        help="predictions, one line per row or frame, with the table's other columns; an entry may write further "
        "tables beside it (FILE.steps.csv)",
    )  # fmt: skip
    _rate_option(predict)
    _dialect_options(predict)
    again = "run the same command again: finished jobs in the folder of --out are kept"
    reproduce = add("reproduce", _reproduce, "reproduce a table or figure of the paper", hint=again)
    reproduce.add_argument("name", metavar="NAME")
    reproduce.add_argument("experiment", metavar="EXPERIMENT", help="one of those that `show NAME` lists")
    reproduce.add_argument(
        "--profile", choices=("smoke", "quick", "paper"), help="default: quick, or paper where that takes no longer"
    )
    reproduce.add_argument("--seeds", type=_positive, metavar="N", help="number of repeats; default: the profile's")
    where = reproduce.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=_positive, metavar="N", help="worker processes; default: 1")
    where.add_argument(
        "--cluster", metavar="ADDRESS",
        help="of a dask scheduler, e.g. tcp://10.0.0.5:8786, all of whose workers run the jobs",
    )  # fmt: skip
    reproduce.add_argument(
        "--data", metavar="PATH", help="your own copy of the recordings, where an experiment takes one"
    )
    reproduce.add_argument("--out", metavar="DIR", help="folder; default: results/NAME-EXPERIMENT")
    check = add("check", _check, "check an entry against the contract of the zoo")
    check.add_argument("name", metavar="NAME")
    check.add_argument("--slow", action="store_true", help="also the checks that take minutes")
    return parser


def _fit_options(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("name", metavar="NAME")
    fit.add_argument(
        "--data", required=True, metavar="FILE|DATASET",
        help="a CSV table, a file in the entry's own format (its README says), or a data set of the entry",
    )  # fmt: skip
    _rate_option(fit)
    _dialect_options(fit)
    fit.add_argument("--unit", metavar="COL", help="column of the table that names the unit of a row")
    fit.add_argument("--x", action="append", type=_names, metavar="COL,COL", help="input columns; may be repeated")
    fit.add_argument("--y", action="append", type=_names, metavar="COL", help="target column; empty where unlabelled")
    fit.add_argument("--variant", metavar="NAME", help="default: the first of the card")
    fit.add_argument("--guide", metavar="NAME", help="a guide of the card (default: the first), or a Pyro AutoGuide")
    fit.add_argument(
        "--prior", action="append", type=_assignment, default=[], metavar="SITE=DIST",
        help='prior of a site, e.g. "c=StudentT(4, 0, 1)"; may be repeated',
    )  # fmt: skip
    fit.add_argument(
        "--set", dest="values", action="append", type=_value_assignment, default=[], metavar="NAME=VALUE",
        help="argument of the model's constructor, e.g. c_dim=8 or fusion=concat; may be repeated",
    )  # fmt: skip
    fit.add_argument("--steps", type=_positive, metavar="N", help="optimiser steps")
    fit.add_argument("--batch-size", type=_positive, metavar="N", help="rows per step; the model's default or all")
    fit.add_argument("--lr", type=float, metavar="RATE", help="learning rate")
    fit.add_argument(
        "--compile", choices=("none", "graph", "inductor", "auto"),  # compiling.MODES, which import torch
        help="capture the step as a graph and replay or compile it; auto: where that pays (default: none)",
    )  # fmt: skip
    fit.add_argument("--seed", type=_natural, metavar="N", default=0, help="default: 0")
    fit.add_argument("--restarts", type=_positive, metavar="N", default=1, help="independent fits; default: 1")
    fit.add_argument("--checkpoint", metavar="DIR", help="folder for a checkpoint after every epoch")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint, where there is one")
    fit.add_argument("--out", required=True, metavar="DIR", help="folder to make for the run")


def _dialect_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sep", type=_separator, metavar="CHAR",
        help='separator of a table, e.g. ";" or "\\t"; by default the one that fits the header',
    )  # fmt: skip
    command.add_argument("--decimal", choices=(".", ","), help="decimal mark of a table; guessed where unambiguous")


def _rate_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--rate", type=float, metavar="HZ", help="frames per second of recordings, where the file does not say"
    )


def _separator(text: str) -> str:
    text = "\t" if text == "\\t" else text
    if len(text) != 1 or text.isalnum() or text in '."\n\r':
        raise argparse.ArgumentTypeError(f"{text!r} is no separator; give one character, such as ';'")
    return text


def _positive(text: str) -> int:
    return _whole(text, 1)


def _natural(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _names(text: str) -> list[str]:
    """Split names at commas; a name that holds a comma is quoted, as in a CSV file."""
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not all(names) or not names:
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty column name")
    return names


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _value_assignment(text: str) -> tuple[str, Any]:
    """Name and value; the value as a number, True, False, None or a tuple of them if it reads as one, else as text."""
    name, value = _assignment(text)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _unique(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{option}: {name!r} is given twice")
        values[name] = value
    return values


def _import(module: str) -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does, so that the user's own modules in this folder are found
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"--import {module}: there is no such module") from error


# -------------------------------------------------------------------- list and show
def _list(arguments: argparse.Namespace) -> int:
    for name in registry.list_models():
        card = registry.card(name)
        print(f"{name}: {card.title} ({card.year})")
        print(_wrapped(card.summary, "    "))
        print(f"    variants: {', '.join(card.variants)}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    card = registry.card(arguments.name)
    print(f"{card.name}, version {card.version}: {card.title}\n{card.authors} ({card.year})")
    print(f"{card.reference}\n" if card.reference else "")
    print(_wrapped(card.summary))
    _section("Variants (the first is the default)", card.variants.items())
    for variant, sites in card.sites.items():
        header = ("site", "kind", "plates", "dims", "prior", "meaning")
        rows = [
            (name, s.kind, ", ".join(s.plates) or "-", ", ".join(s.dims) or "-", s.prior or "-", s.meaning)
            for name, s in sites.items()
        ]
        _section(f"Generative sites of {variant}", [header, *rows])
    _section("Guides (the first is the default)", card.guides.items())
    _section("Data sets", card.datasets.items())
    _section("Experiments (`pyrozoo reproduce`)", card.experiments.items())
    expected = [(k, f"{value:g} ± {k_se:g} × {se:g}") for k, (value, se, k_se) in card.expected.items()]
    _section("Expected on simulated data (mean ± k × standard error)", expected)
    _section("The same in every restart", [(site,) for site in card.identified])
    if card.limitations:
        print("\nLimitations")
        print("\n".join(_wrapped(f"- {text}", "  ", "    ") for text in card.limitations))
    return 0


def _section(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Print a titled, aligned table, or nothing if it is empty."""
    rows = list(rows)
    if rows:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        print(f"\n{title}")
        print("\n".join(f"  {line}".rstrip() for line in lines))


def _wrapped(text: str, indent: str = "", later: str | None = None) -> str:
    later = indent if later is None else later
    return textwrap.fill(text, _MARGIN, initial_indent=indent, subsequent_indent=later)


# -------------------------------------------------------------------- fit and predict
def _fit(arguments: argparse.Namespace) -> int:
    _check_folders(arguments)
    card = registry.card(arguments.name)
    if arguments.data not in card.datasets and not Path(arguments.data).exists():
        known = f"{card.name!r} has no data set of that name; it has {list(card.datasets)}"
        raise FileNotFoundError(f"{arguments.data}: there is no such file, and {known}")

    data = _training_data(arguments, card)
    result = _train(arguments, _model(arguments, data), _guide(arguments.guide, card), data)
    if result.status == "interrupted":
        _interrupted(arguments, result)
    result.save(arguments.out)
    steps = int(result.history["step"].iloc[-1])
    of = f", the best of {len(result.runs)} restarts" if len(result.runs) > 1 else ""
    print(f"ELBO {result.best.final_elbo:.4f} nats per row after {steps} steps{of}")
    print(f"saved in {arguments.out}")
    print(_how_to_predict(arguments, result.data["columns"]))
    return 0


def _train(arguments: argparse.Namespace, model: ZooModel, guide: Any, data: Batch) -> Fit:
    from .inference.fit import fit
    from .inference.losses import NonFiniteLoss

    settings = {key: getattr(arguments, key) for key in ("steps", "batch_size", "lr", "compile")}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # Pyro's; the error below says more
            return fit(
                model, guide, data, seed=arguments.seed, restarts=arguments.restarts, checkpoint=arguments.checkpoint,
                resume=arguments.resume, **{key: value for key, value in settings.items() if value is not None},
            )  # fmt: skip
    except NonFiniteLoss as error:
        reason = str(error).partition("; the last good state")[0]
        raise ValueError(f"training stopped at {reason}; nothing was saved; try a smaller --lr") from error


def _check_folders(arguments: argparse.Namespace) -> None:
    if Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} exists; choose another folder for --out")
    for folder in (arguments.out, arguments.checkpoint):
        if folder is not None:
            check_target(folder)
    if arguments.resume and arguments.checkpoint is None:
        raise ValueError("--resume needs --checkpoint DIR")
    if arguments.checkpoint and not arguments.resume and any(Path(arguments.checkpoint).glob("run-*.safetensors")):
        raise FileExistsError(
            f"{arguments.checkpoint} holds a checkpoint; add --resume to go on from it, or choose another folder"
        )


def _training_data(arguments: argparse.Namespace, card: registry.Card) -> Batch:
    if arguments.data in card.datasets:
        if arguments.unit or arguments.x or arguments.y:
            raise ValueError(
                f"--unit, --x and --y belong to a table, but {arguments.data!r} is a data set of {card.name!r}; "
                f"leave them out (a file of that name is ./{arguments.data})"
            )
        if arguments.rate is not None:
            raise ValueError(f"--rate belongs to a file, but {arguments.data!r} is a data set of {card.name!r}")
        data = registry.load_data(card.name, arguments.data)
        return data[0] if isinstance(data, tuple) else data
    if hasattr(registry.entry(card.name).parts, "read"):
        if arguments.unit or arguments.x or arguments.y:
            raise ValueError(f"--unit, --x and --y belong to a table; {card.name!r} reads recordings, see its README")
        return _recordings(arguments, card.name)
    if arguments.rate is not None:
        raise ValueError(f"--rate belongs to recordings; {card.name!r} is fitted to a table")
    if not (arguments.unit and arguments.x):
        raise ValueError(f"{arguments.data} is a table: name its columns by --unit COL and --x COL,COL")
    from .data.batch import Batch

    x, y = (list(itertools.chain(*(names or []))) for names in (arguments.x, arguments.y))
    from .data.tables import read_table

    table = read_table(arguments.data, arguments.unit, [*x, *y], arguments.sep, arguments.decimal)
    with naming(arguments.data):
        return Batch.from_dataframe(table, unit=arguments.unit, x=x, y=y or None, name=Path(arguments.data).name)


def _recordings(arguments: argparse.Namespace, name: str, **options: Any) -> Batch:
    """Read a file in the entry's own format."""
    if arguments.sep or arguments.decimal:
        raise ValueError(f"--sep and --decimal belong to a table; {name!r} reads recordings, see its README")
    batch = registry.entry(name).parts.read(arguments.data, rate=arguments.rate, **options)
    if batch.info.get("rate_assumed") and not options:
        print("no frame rate is given: times are in frames (name it by --rate HZ)")
    return batch


def _model(arguments: argparse.Namespace, data: Batch) -> ZooModel:
    from .modeling.priors import parse

    priors = {site: parse(text) for site, text in _unique("--prior", arguments.prior).items()}
    values = _unique("--set", arguments.values)
    given = {**values, **({"priors": priors} if priors else {})}
    entry = registry.entry(arguments.name)
    family = entry.parts.VARIANTS.get(arguments.variant or next(iter(entry.card.variants)))
    taken = {} if family is None else dict(inspect.signature(family).parameters)
    for name, value in values.items():
        default = taken[name].default if name in taken else value
        kind = next((kind for kind in (bool, str, tuple) if isinstance(default, kind)), None)
        if kind and not isinstance(value, kind):
            raise ValueError(f"--set {name}={value}: {value!r} is no {kind.__name__} such as {default!r}")
        if not kind and (isinstance(value, str | bool | tuple) or not isinstance(value, int | float | type(None))):
            raise ValueError(f"--set {name}={value}: {value!r} is not a number")
    try:
        return registry.create_model(arguments.name, data, variant=arguments.variant, **given)
    except (TypeError, RuntimeError) as error:
        names = [name for name in taken if name != "priors"]
        wanted = ", ".join(f"{name}={value}" for name, value in values.items()) or "these data"
        raise ValueError(
            f"{family.__name__} cannot be made with {wanted}: {one_line(error)}; its arguments are {names}"
        ) from error


def _guide(name: str | None, card: registry.Card) -> Any:
    """The guide of this name in the card, or Pyro's AutoGuide class of this name."""
    if name is None:
        return next(iter(card.guides))
    from pyro.infer import autoguide

    return name if name in card.guides or not name.startswith("Auto") else getattr(autoguide, name, name)


def _interrupted(arguments: argparse.Namespace, result: Fit) -> NoReturn:
    """Save the fit so far, and raise KeyboardInterrupt with a message on how to go on."""
    if arguments.checkpoint:
        again = "run the same command again" if arguments.resume else "run the same command with --resume"
        raise KeyboardInterrupt(f"{again} to go on from {arguments.checkpoint}")
    if result.best.history.empty:
        raise KeyboardInterrupt("nothing was saved: no epoch was finished")
    result.save(arguments.out)
    raise KeyboardInterrupt(
        f"saved the fit so far in {arguments.out}; to be able to resume, fit with --checkpoint DIR, then add --resume"
    )


def _how_to_predict(arguments: argparse.Namespace, columns: Mapping[str, Any] | None) -> str:
    out = shlex.quote(arguments.out)
    if hasattr(registry.entry(arguments.name).parts, "tables"):
        return f"decode with: pyrozoo predict {out} --data FILE --out labels.csv"
    if not (columns and columns["y"]):
        return f"go on in Python: fit = pyrozoo.load({arguments.out!r})"
    imports = "".join(f" --import {shlex.quote(module)}" for module in arguments.modules)
    table = arguments.data if arguments.x else "FILE.csv"
    return f"predict with: pyrozoo predict {out} --data {shlex.quote(table)} --out predictions.csv{imports}"


def _predict(arguments: argparse.Namespace) -> int:
    out = Path(arguments.out)
    check_target(out)
    if out.is_dir() or (out.exists() and out.samefile(arguments.data)):
        raise ValueError(f"{out} is {'a folder' if out.is_dir() else 'the input'}; choose another file for --out")

    from .data.tables import read_table
    from .inference.saving import load
    from .posterior.predicting import predict

    fit = load(arguments.run)
    name = fit.model.entry[0] if fit.model.entry else None
    if name and hasattr(registry.entry(name).parts, "tables"):
        return _write_tables(arguments, fit, name, out)
    if arguments.rate is not None:
        raise ValueError(f"--rate belongs to recordings; {arguments.run} was fitted to a table")
    columns = fit.data["columns"]
    if columns is None:
        raise ValueError(f"{arguments.run} was not fitted to a table; use pyrozoo.predict in Python, with a Batch")
    if not columns["y"]:
        raise ValueError(f"{arguments.run} was fitted without a target, so it predicts none; fit again with --y COL")
    unit = columns["unit"]
    table = read_table(arguments.data, unit, columns["x"], arguments.sep, arguments.decimal)
    known = {str(name): name for name in fit.prototype.coords["unit"].tolist()}  # a run may hold numbers as units
    with naming(arguments.data):
        units = [known.get(name, name) for name in table[unit]]
        batch = fit.batch(table.assign(**{unit: units}), labels=False)
    predictions = predict(fit, batch)
    result = _with_keys(predictions, table.drop(columns=columns["x"]), unit)
    atomic_write_text(out, result.to_csv(index=False, lineterminator="\n"))
    print(f"{len(predictions)} rows predicted in {out}")
    return 0


def _with_keys(predictions: pd.DataFrame, keys: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Predictions beside the row number and the columns of the input that are no inputs x, the unit first."""
    taken = [column for column in keys if column in predictions]
    if taken:
        raise ValueError(f"column {taken[0]!r} of the input has the name of a prediction; rename it")
    number = next(name for name in ("row", "index", "line number") if name not in keys)
    keys = keys[[unit, *(column for column in keys if column != unit)]].reset_index(drop=True)
    keys.insert(0, number, range(len(keys)))
    return keys.join(predictions.reset_index(drop=True))


def _write_tables(arguments: argparse.Namespace, fit: Fit, name: str, out: Path) -> int:
    batch = _recordings(arguments, name, like=fit.prototype)
    with naming(arguments.data):
        tables = registry.entry(name).parts.tables(fit, batch)
    paths = {suffix: out.with_name(f"{out.stem}.{suffix}{out.suffix}") if suffix else out for suffix in tables}
    for path in paths.values():
        if path.exists() and path.samefile(arguments.data):
            raise ValueError(f"{path} is the input; choose another file for --out")
    for suffix, table in tables.items():
        atomic_write_text(paths[suffix], table.to_csv(index=False, lineterminator="\n"))
        print(f"{len(table)} lines in {paths[suffix]}")
    if batch.info.get("rate_assumed"):
        print("no frame rate is given: the fit's is taken (name it by --rate HZ)")
    return 0


# -------------------------------------------------------------------- reproduce and check
def _reproduce(arguments: argparse.Namespace) -> int:
    from .experiments.running import function_of, run

    options = {name: getattr(arguments, name) for name in ("profile", "seeds", "jobs", "out", "data")}
    with contextlib.ExitStack() as stack:
        if arguments.cluster is not None:
            if "jobs" not in inspect.signature(function_of(arguments.name, arguments.experiment)).parameters:
                raise ValueError(
                    f"--cluster: {arguments.experiment!r} of {arguments.name!r} runs no jobs; leave it out"
                )
            from .experiments.jobs import on_cluster

            try:
                stack.enter_context(on_cluster(arguments.cluster))
            except ImportError as error:
                raise ValueError(f"--cluster: {error}") from error
        run(arguments.name, arguments.experiment, **options)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    registry.entry(arguments.name)  # an unknown name is reported before torch is imported
    from . import contract

    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for result in contract.check(arguments.name, slow=arguments.slow):
        outcome = "skipped" if result.skipped else "passed" if result.ok else "failed"
        counts[outcome] += 1
        note = f": {' '.join(result.message.split())}" if result.message else ""
        print(f"{outcome:7}  {result.code:3}  {result.subject} ({result.seconds:.1f} s){note}", flush=True)
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    return 1 if counts["failed"] else 0
