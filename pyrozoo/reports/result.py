"""The result of `pyrozoo.report`: its verdict, tables and figures, written as a page and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import atomic_write_json, atomic_write_text, jsonable
from .content import Picture, Section, Table
from .page import render
from .rules import Mark


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
        path = Path(out)
        atomic_write_json(path.with_suffix(".json"), self.as_json())
        atomic_write_text(path, render(self.title, self.about, self.sections))
        return path
