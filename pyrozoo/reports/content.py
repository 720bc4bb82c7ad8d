"""What a report is made of: sections of texts, tables, figures and code, as objects and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .rules import Mark


@dataclass(frozen=True)
class Table:
    """A table with its caption; ``<name>_se`` is the standard error of the column ``<name>``.

    Attributes:
        name: Key in `Report.tables`.
        data: The numbers; the index is shown if it has a name.
        caption: What it shows, with units.
    """

    name: str
    data: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Code:
    """Lines of code or commands, shown as they are.

    Attributes:
        text: The lines.
    """

    text: str


@dataclass(frozen=True)
class Picture:
    """A figure, or several to switch between.

    Attributes:
        name: Key in `Report.figures`.
        parts: Label -> matplotlib figure; one label "" for a single figure.
        alt: What is to be seen, for readers who see no picture.
        caption: Text below it.
    """

    name: str
    parts: Mapping[str, Any]
    alt: str
    caption: str = ""


@dataclass
class Section:
    """A section of the page.

    Attributes:
        key: Name in JSON.
        title: Heading.
        blocks: Texts, tables and pictures, in the order of the page.
        marks: Lines of the verdict that rest on this section.
        problems: What could not be computed, and why.
        numbers: Further numbers that the texts quote.
    """

    key: str
    title: str
    blocks: list[str | Table | Picture | Code] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The section as JSON holds it; pictures by their alternative text."""
        blocks: list[Any] = []
        for block in self.blocks:
            if isinstance(block, Table):
                table = block.data.reset_index() if block.data.index.name else block.data
                rows = [{str(k): _plain(v) for k, v in row.items()} for row in table.to_dict("records")]
                blocks.append({"table": block.name, "caption": block.caption, "rows": rows})
            elif isinstance(block, Picture):
                shown = {"figure": block.name, "parts": list(block.parts), "alt": block.alt, "caption": block.caption}
                blocks.append(shown)
            elif isinstance(block, Code):
                blocks.append({"code": block.text})
            else:
                blocks.append({"text": block})
        numbers = {k: _plain(v) for k, v in self.numbers.items()}
        return {
            "key": self.key, "title": self.title, "blocks": blocks, "marks": [mark.as_json() for mark in self.marks],
            "problems": self.problems, "numbers": numbers,
        }  # fmt: skip


def _plain(value: Any) -> Any:
    """A cell as JSON holds it."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float | bool | type(None) | list | dict) else str(value)
