"""What a report is made of: sections of texts, tables and figures, as objects and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..files import atomic_write_json, atomic_write_text, jsonable
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
    blocks: list[str | Table | Picture] = field(default_factory=list)
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
            else:
                blocks.append({"text": block})
        numbers = {k: _plain(v) for k, v in self.numbers.items()}
        return {
            "key": self.key, "title": self.title, "blocks": blocks, "marks": [mark.as_json() for mark in self.marks],
            "problems": self.problems, "numbers": numbers,
        }  # fmt: skip


@dataclass(repr=False)
class Report:
    """The report of a fit, see `pyrozoo.report`.

    Attributes:
        title: Heading of the page.
        about: One line below it.
        sections: The sections, the verdict first.
    """

    title: str
    about: str
    sections: list[Section]

    def __repr__(self) -> str:
        return "\n".join([f"Report({self.title})", *(f"  {m.mark}: {m.question} {m.says}" for m in self.marks)])

    @property
    def marks(self) -> list[Mark]:
        """Lines of the verdict, the worst first."""
        return self.sections[0].marks

    @property
    def verdict(self) -> pd.DataFrame:
        """One line per rule: mark, what was found, number, and what to do next."""
        columns = ["mark", "question", "says", "value", "rule_text", "then"]
        rows = {mark.rule: [getattr(mark, name) for name in columns] for mark in self.marks}
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("rule")

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables by name."""
        return {b.name: b.data for s in self.sections for b in s.blocks if isinstance(b, Table)}

    @property
    def figures(self) -> dict[str, Any]:
        """Figures of matplotlib by name; of several that the page switches between, by ``name/label``."""
        found = [b for s in self.sections for b in s.blocks if isinstance(b, Picture)]
        return {f"{b.name}/{part}" if part else b.name: f for b in found for part, f in b.parts.items()}

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON holds it; numbers that are not finite are null."""
        content = {"title": self.title, "about": self.about, "sections": [s.as_json() for s in self.sections]}
        return jsonable(content, "report")

    def save(self, out: str | Path) -> Path:
        """Write the page, and the same as JSON beside it.

        Args:
            out: File of the page, such as ``report.html``; the JSON has its name with ``.json``.

        Returns:
            The file of the page.
        """
        from .page import render

        path = Path(out)
        atomic_write_json(path.with_suffix(".json"), self.as_json())
        atomic_write_text(path, render(self))
        return path


def _plain(value: Any) -> Any:
    """A cell as JSON holds it."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float | bool | type(None) | list | dict) else str(value)
