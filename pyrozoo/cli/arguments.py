"""Kinds of arguments, checked as they are read."""

from __future__ import annotations

import argparse
import ast
import csv
from collections.abc import Iterable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Parser that reports bad usage like any other bad input, in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line reports in one line."""
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def separator(text: str) -> str:
    """A separator of a table: one character, or backslash t for a tab."""
    text = "\t" if text == "\\t" else text
    if len(text) != 1 or text.isalnum() or text in '."\n\r':
        raise argparse.ArgumentTypeError(f"{text!r} is no separator; give one character, such as ';'")
    return text


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def column_names(text: str) -> list[str]:
    """Split names at commas; a name that holds a comma is quoted, as in a CSV file."""
    try:
        names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    except csv.Error as error:
        raise argparse.ArgumentTypeError(f"no names of columns ({error})") from error
    if not all(names) or not names:
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty column name")
    return names


def codes(text: str) -> list[str]:
    """Codes of checks, split at commas; c5 is C5."""
    return [code.strip().upper() for code in text.split(",") if code.strip()]


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE as a pair of text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def value_assignment(text: str) -> tuple[str, Any]:
    """Name and value; the value as a number, True, False, None or a tuple of them if it reads as one, else as text."""
    name, value = assignment(text)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, value


def unique(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; refuses a name that is given twice."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{option}: {name!r} is given twice")
        values[name] = value
    return values
