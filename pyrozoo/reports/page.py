"""The report as one HTML file: pictures inside, no request to anywhere, readable without its script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .content import Code, Picture, Section, Table
from .rules import BAD, GOOD, LOOK, RULES, limit
from .words import number, with_se

TEMPLATE = Path(__file__).with_name("template.html")
LARGEST_SVG = 60_000  # bytes; larger pictures, of many points, become pixels
HEADINGS = {"predictions": "Its predictions", "model": "The model, and the posterior of its latents"}  # of the verdict
SIGNS = {GOOD: "✓", LOOK: "?"}  # beside colour, which not everybody sees


def render(title: str, about: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: Heading.
        about: One line below it.
        sections: The sections, the verdict first.

    Returns:
        HTML.
    """
    import jinja2
    import matplotlib

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with matplotlib.rc_context({"svg.hashsalt": "pyrozoo"}):
        shown = [_section(index, section) for index, section in enumerate(sections)]
    marks = sections[0].marks
    headings = [
        (about, f"{heading}: {_counts([m.mark for m in marks if RULES[m.rule].about == about])}")
        for about, heading in HEADINGS.items()
    ]
    return template.render(
        title=title,
        about=about,
        sections=shown,
        signs=SIGNS,
        headings=headings,
        rules=RULES,
        number=number,
        limit=limit,
    )


def _counts(marks: list[str]) -> str:
    return (
        ", ".join(f"{marks.count(mark)} × {mark}" for mark in (BAD, LOOK, GOOD) if mark in marks)
        or "nothing was judged"
    )


def _section(index: int, section: Section) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    for block in section.blocks:
        if isinstance(block, Table):
            blocks.append(_table(block))
        elif isinstance(block, Picture):
            blocks.append(_picture(block))
        elif isinstance(block, Code):
            blocks.append({"kind": "code", "text": block.text})
        elif block.startswith("• ") and blocks and blocks[-1]["kind"] == "list":
            blocks[-1]["items"].append(block[2:])
        elif block.startswith("• "):
            blocks.append({"kind": "list", "items": [block[2:]]})
        else:
            blocks.append({"kind": "text", "text": block})
    return {
        "number": index + 1, "key": section.key, "title": section.title, "blocks": blocks, "marks": section.marks,
        "problems": section.problems,
    }  # fmt: skip


def _table(table: Table) -> dict[str, Any]:
    """Header and cells; a number shares its cell with its standard error, and sorts by its value."""
    data = table.data.reset_index() if table.data.index.name else table.data
    names = [str(name) for name in data.columns]
    shown = [name for name in names if not (name.endswith("_se") and name.removesuffix("_se") in names)]
    rows = []
    for row in data.to_dict("records"):
        cells = [_cell(row[name], row.get(f"{name}_se")) for name in shown]
        rows.append(cells)
    return {"kind": "table", "names": shown, "rows": rows, "caption": table.caption}


def _cell(value: Any, error: Any) -> dict[str, Any]:
    if isinstance(value, str) or value is None:
        return {"text": "–" if value is None else value, "sort": None}
    if pd.isna(value):
        return {"text": "–", "sort": ""}
    if isinstance(value, bool) or str(type(value).__name__) == "bool_":
        return {"text": "yes" if value else "no", "sort": int(value)}
    if isinstance(value, pd.Timestamp | pd.Timedelta):
        return {"text": str(value), "sort": value.value}
    try:
        plain = value.item() if hasattr(value, "item") else value
        text = number(plain) if error is None or pd.isna(error) else with_se(float(plain), float(error))
        return {"text": text, "sort": plain if math.isfinite(plain) else ""}
    except (TypeError, ValueError):
        return {"text": str(value), "sort": None}


def _picture(picture: Picture) -> dict[str, Any]:
    parts = [{"label": label, "source": _source(figure)} for label, figure in picture.parts.items()]
    return {"kind": "picture", "parts": parts, "alt": picture.alt, "caption": picture.caption}


def _source(figure: Any) -> str:
    """A figure as a data address: SVG, or PNG where that would be large."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    kind = "svg+xml"
    if buffer.tell() > LARGEST_SVG:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
