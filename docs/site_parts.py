"""What the site needs beyond Sphinx's own extensions: API pages, gallery, MathML, inventories without a network."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any
from zlib import compress

from docutils.nodes import SkipNode, make_id
from latex2mathml.converter import convert

import pyrozoo

HERE = Path(__file__).parent
ROOT = HERE.parent
ENTRIES = ("ssmtl", "auxvae", "m3sense", "medication")
# Rooms of the package in the order in which a user meets them.
GROUPS = {
    "Data": ("data", "store"),
    "Models, guides and priors": ("modeling",),
    "Training": ("inference", "experiments"),
    "Predictions and posteriors": ("posterior",),
    "Criticism": ("criticism", "reports"),
}


def inventories(table: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Write Sphinx inventories from a table of names: a build needs no network, and lists what the docstrings link to.

    A line of the table is ``project address``, the lines below it, indented, ``role name page``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mapping: dict[str, tuple[str, str]] = {}
    lines: dict[str, list[str]] = {}
    for line in table.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            project, address = line.split()
            mapping[project] = (address, str(folder / f"{project}.inv"))
            lines[project] = []
        else:
            role, name, page = line.split()
            lines[project].append(f"{name} py:{role} 1 {page} -")
    for project, names in lines.items():
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        head += "# The remainder is compressed using zlib.\n"
        Path(mapping[project][1]).write_bytes(head.encode() + compress(("\n".join(names) + "\n").encode()))
    return mapping


def api_pages(folder: Path) -> None:
    """Write the pages of the API reference: every public name of the package, its modules and its entries."""
    folder.mkdir(exist_ok=True)
    homes: dict[str, list[str]] = {title: [] for title in GROUPS}
    for home, names in pyrozoo._HOMES.items():
        title = next(title for title, rooms in GROUPS.items() if home.split(".")[0] in rooms)
        homes[title] += names
    parts = [
        "API reference\n=============\n\nEverything here is reached as ``zoo.NAME`` after ``import pyrozoo as zoo``.\n"
    ]
    for title, names in homes.items():
        parts.append(_section(title, "pyrozoo", sorted(names, key=str.lower)))
    pages = [f"   {module}" for module in (*pyrozoo._MODULES, *ENTRIES)]
    parts.append(
        "Modules and entries\n-------------------\n\n.. toctree::\n   :maxdepth: 1\n\n" + "\n".join(pages) + "\n"
    )
    _write(folder / "index.rst", "\n".join(parts))
    shown = {f"pyrozoo.{name}" for names in homes.values() for name in names}
    for name in pyrozoo._MODULES:
        shown |= _page(folder, name, f"zoo.{name}", getattr(pyrozoo, name))
    for name in ENTRIES:
        shown |= _page(folder, name, f"pyrozoo.models.{name}", __import__(f"pyrozoo.models.{name}", fromlist=["_"]))
    kept = {"index", *pyrozoo._MODULES, *ENTRIES}
    for page in (*folder.glob("*.rst"), *folder.glob("names/*.rst")):
        if page.stem not in (kept if page.parent == folder else shown):
            page.unlink()


def _write(page: Path, text: str) -> None:
    """Write a page unless it says this already: Sphinx reads again what is newer than the last build."""
    if not page.exists() or page.read_text() != text:
        page.write_text(text)


def _page(folder: Path, name: str, title: str, module: Any) -> set[str]:
    names = [n for n in sorted(getattr(module, "__all__", ()), key=str.lower) if _described_here(module, n)]
    text = f"{title}\n{'=' * len(title)}\n\n.. automodule:: {module.__name__}\n\n"
    _write(folder / f"{name}.rst", text + _section("", module.__name__, names))
    return {f"{module.__name__}.{name}" for name in names}


def _described_here(module: Any, name: str) -> bool:
    """Whether a name has a docstring of its own (a constant has none) and no page under ``zoo``."""
    return callable(getattr(module, name)) and name not in pyrozoo.__all__


def _section(title: str, module: str, names: list[str]) -> str:
    head = f"{title}\n{'-' * len(title)}\n\n" if title else ""
    items = "\n".join(f"   {name}" for name in names)
    return f"{head}.. currentmodule:: {module}\n\n.. autosummary::\n   :toctree: names\n   :nosignatures:\n\n{items}\n"


def gallery(folder: Path) -> None:
    """Write the cards of the gallery: every picture of a tutorial, and the heading under which the code stands."""
    folder.mkdir(exist_ok=True)
    cards = []
    for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        title = _heading("".join(cells[0]["source"])) or notebook.stem
        cards.append(f"\n## {title}\n\n::::{{grid}} 1 2 2 3\n:gutter: 3\n")
        heading, count = title, 0
        for cell in cells:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                heading = _heading(text) or heading
                continue
            for output in cell.get("outputs", ()):
                if picture := output.get("data", {}).get("image/png"):
                    count += 1
                    name = f"{notebook.stem}-{count}.png"
                    (folder / name).write_bytes(b64decode(picture))
                    alt = re.sub(r"[\[\]`$]", "", heading)
                    place = "" if "$" in heading else f"#{make_id(heading)}"  # an equation's place has no plain name
                    cards.append(
                        f":::{{grid-item-card}} {heading}\n:link: ../tutorials/{notebook.stem}.html{place}\n"
                        f":img-top: _gallery/{name}\n:img-alt: {alt}\n:::"
                    )
        cards.append("::::\n")
    (folder / "cards.txt").write_text("\n".join(cards))


def _heading(markdown: str) -> str | None:
    found = re.findall(r"^#{1,3} +(.+)$", markdown, re.MULTILINE)
    return found[-1] if found else None


def _escape_stars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape such as (*lead, F, K), which reStructuredText would read as emphasis."""
    for i, line in enumerate(lines):
        if line.count("*") == 1 and not line.lstrip().startswith("*"):
            lines[i] = line.replace("*", "\\*")
        else:
            lines[i] = re.sub(r"(?<=\()\*(?=\w)", r"\\*", line)


def _back_to_docs(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Lead from a page of source back to the place of a name.

    Where two modules show functions of one file, `sphinx.ext.viewcode` writes the place of all in the first of them.
    """
    if pagename.startswith("_modules/"):
        context["body"] = re.sub(
            r'/names/((?:\w+\.)*(\w+))\.html#(?:\w+\.)*?\2((?:\.\w+)*)"', r'/names/\1.html#\1\3"', context["body"]
        )


def _inline(self: Any, node: Any) -> None:
    self.body.append(convert(node.astext()))
    raise SkipNode


def _display(self: Any, node: Any) -> None:
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Register the renderer of equations, which needs no script, and write the API pages before they are read."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.connect("autodoc-process-docstring", _escape_stars)
    app.connect("html-page-context", _back_to_docs)
    api_pages(HERE / "api")
    gallery(HERE / "_gallery")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
