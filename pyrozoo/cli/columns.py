"""Columns of a table by the names that a model gives to them: groups, rows and targets."""

from __future__ import annotations

import argparse
import inspect
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import naming
from ..modeling import registry
from .arguments import unique

if TYPE_CHECKING:
    import pandas as pd

    from ..data.batch import Batch
    from ..inference.fitted import Fit
    from ..modeling.base import ZooModel

_OPTIONS = ("unit", "group", "x", "row", "y", "time", "category")
_OWN = ("self", "sizes", "lengths", "weight", "h", "labelled")  # what a batch or a fit adds to what a table holds


def named(arguments: argparse.Namespace) -> bool:
    """Whether any column of a table is named."""
    return any(getattr(arguments, option) for option in _OPTIONS)


def table_batch(arguments: argparse.Namespace, card: registry.Card) -> Batch:
    """Read a table as the options say.

    Raises:
        ValueError, KeyError: A name that no model of the entry takes, one that it needs and nothing gives, or a fault
            of the table.
    """
    parts = registry.entry(card.name).parts
    variant = arguments.variant or next(iter(card.variants))
    family = registry.named(parts.VARIANTS, variant, f"variant of {card.name!r}")
    families = [family, *(other for other in parts.VARIANTS.values() if other is not family)]
    if not named(arguments):
        raise ValueError(f"{arguments.data} is a table: name its columns by {_hint(family)}")

    groups: dict[str, str] = unique("--group", [*_of_unit(arguments), *_pairs(arguments.group)])
    rows: dict[str, Any] = unique("--row", _pairs(arguments.row))
    if arguments.x:
        rows = {"x": list(itertools.chain(*arguments.x)), **rows}
    targets = _targets(arguments, families)
    _require_taken(families, {"--group": groups, "--row": rows, "--y": targets})
    needed = [name for name in _needed(family) if name not in {**groups, **rows, **targets}]
    if needed:
        raise ValueError(f"{family.__name__} needs {needed[0]!r}: add {_option(family, needed[0])}")

    from ..criticism.folds import IN_TIME
    from ..data.batch import Batch
    from ..data.tables import parse_times, read_table, require_no_missing_words

    given = (*rows.values(), *targets.values())
    numbers = [column for own in given for column in (own if isinstance(own, list) else [own])]
    time, categories = arguments.time, list(itertools.chain(*(arguments.category or [])))
    if wrong := [column for column in categories if column not in rows.get("x", [])]:
        raise ValueError(f"--category {wrong[0]}: it is none of the inputs; name it by --x, too")
    if arguments.held_out in IN_TIME and not time:
        raise ValueError(f"--held-out {arguments.held_out}: name the column of the rows' time by --time COL")
    numbers = [column for column in numbers if column not in categories]
    kept = [*groups.values(), *categories, *([time] if time and time not in numbers else [])]
    table = read_table(arguments.data, kept, numbers, arguments.sep, arguments.decimal)
    require_no_missing_words(arguments.data, table, categories)
    table = table.astype(dict.fromkeys(categories, "category"))
    if time in kept and time not in groups.values():
        table[time] = parse_times(arguments.data, table, time)
    dims = {"x": ("input",), **{name: own for other in families for name, own in other.dims.items() if len(own) == 1}}
    with naming(arguments.data):
        return Batch.from_columns(
            table, groups=groups, rows=rows, targets=targets, dims=dims, time=time, name=Path(arguments.data).name
        )


def read_like(arguments: argparse.Namespace, fit: Fit, file: str, labels: bool) -> tuple[Batch, pd.DataFrame]:
    """Read new data as the table that a fit was trained on; and those of their columns that are no inputs, as text.

    Args:
        arguments: With the separator and the decimal mark of the file.
        fit: A fit that was trained on a table.
        file: File of the new data.
        labels: Whether the file has the targets.
    """
    from ..data.tables import parse_times, read_table

    columns, like, levels = fit.data["columns"], fit.prototype, fit.data.get("levels") or {}
    groups = {group: columns[group] for group in like.groups if group in columns}
    given = [columns[name] for name in columns if name not in groups and (labels or name not in like.labels)]
    read = [column for own in given for column in (own if isinstance(own, list) else [own])]
    numbers = [column for column in read if column not in levels]
    time = fit.data.get("time")
    kept = [*groups.values(), *levels, *([time] if time and time not in read else [])]
    table = read_table(file, kept, numbers, arguments.sep, arguments.decimal)
    keys = table.drop(columns=read)
    if time and time not in read:
        table[time] = parse_times(file, table, time)
    names = {column: like.coords[group].tolist() for group, column in groups.items()}
    names |= {column: [True, False] if own == [True] else own for column, own in levels.items()}
    for column, own in names.items():  # a run may hold numbers as names
        known = {str(name): name for name in own}
        table[column] = [known.get(text, text) for text in table[column]]
    with naming(file):
        return fit.batch(table, labels=labels), keys


def _of_unit(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    return [("unit", arguments.unit)] if arguments.unit else []


def _pairs(given: Iterable[list[str]] | None) -> list[tuple[str, str]]:
    """NAME=COL as a pair; COL alone has the name of the column."""
    pairs = []
    for text in itertools.chain(*(given or [])):
        name, equals, column = (part.strip() for part in text.partition("="))
        pairs.append((name, column) if equals and column else (text, text))
    return pairs


def _targets(arguments: argparse.Namespace, families: list[type[ZooModel]]) -> dict[str, str | list[str]]:
    """Target -> its column or, for a target with a dimension of its own, its columns."""
    families = [family for family in families if family.targets]
    known = {target: family for family in reversed(families) for target in family.targets}
    found: dict[str, list[str]] = {}
    for text in itertools.chain(*(arguments.y or [])):
        name, equals, column = (part.strip() for part in text.partition("="))
        if not equals or name not in known:
            name, column = (next(iter(known)) if len(known) == 1 else text), text
        if name not in known:
            raise ValueError(f"--y {text}: name its target, --y TARGET={text}; the targets are {list(known)}")
        found.setdefault(name, []).append(column)
    for target, columns in found.items():
        size = len(known[target].dims.get(target, ()))
        if size > 1 or (size == 0 and len(columns) > 1):
            what = f"has {size} dimensions" if size else f"is one number per row, and --y names {columns}"
            raise ValueError(f"--y: the target {target!r} of {known[target].__name__} {what}; build a Batch in Python")
    return {t: columns if known[t].dims.get(t) else columns[0] for t, columns in found.items()}


def _parameters(family: type[ZooModel]) -> dict[str, inspect.Parameter]:
    """Parameters of `forward` that a table can give."""
    found = inspect.signature(family.forward).parameters
    own = {*_OWN, family.rows, *(f"{target}_labelled" for target in family.targets)}
    own |= {f"{name}_seen" for name in found}
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: given for name, given in found.items() if name not in own and given.kind not in kinds}


def _needed(family: type[ZooModel]) -> list[str]:
    """Names that `forward` cannot do without."""
    return [name for name, given in _parameters(family).items() if given.default is given.empty]


def _require_taken(families: list[type[ZooModel]], given: dict[str, dict[str, Any]]) -> None:
    plates = {name for family in families for name in family.plate_dims if name != family.rows}
    taken = plates.union(*map(_parameters, families))
    if not any(_parameters(family) for family in families):  # forward(**batch) takes anything
        return
    for option, own in given.items():
        for name in own:
            if name not in taken:
                raise ValueError(
                    f"{option} {name}: {families[0].__name__} takes no {name!r}, only {sorted(taken)}; name a column "
                    f"for one of these as NAME=COL"
                )


def _option(family: type[ZooModel], name: str) -> str:
    if name in family.plate_dims:
        return "--unit COL" if name == "unit" else f"--group {name}=COL"
    if name == "x":
        return "--x COL,COL"
    if name in family.targets:
        return "--y COL" if len(family.targets) == 1 else f"--y {name}=COL"
    return f"--row {name}=COL"


def _hint(family: type[ZooModel]) -> str:
    groups = [name for name in family.plate_dims if name != family.rows and name in _parameters(family)]
    return " and ".join(_option(family, name) for name in dict.fromkeys([*groups, *_needed(family)])) or "--y COL"
