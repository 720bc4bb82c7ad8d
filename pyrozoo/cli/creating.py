"""new: a small package with an entry of its own, complete and passing the contract."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shlex
import tempfile
from importlib.resources import files
from pathlib import Path

from ..files import atomic_write_text, check_target
from ..modeling import registry

_NAME = "my_entry"  # of the entry in the template
_FILES = {
    "README.md": "README.md", "pyproject.toml": "pyproject.toml", f"{_NAME}/__init__.py": "init.py",
    f"{_NAME}/card.py": "card.py", f"{_NAME}/model.py": "model.py", f"{_NAME}/guides.py": "guides.py",
    f"{_NAME}/entry.py": "entry.py", f"tests/test_{_NAME}.py": "test.py",
}  # fmt: skip


def new_command(arguments: argparse.Namespace) -> int:
    """Write the package, and say how to go on."""
    name = arguments.name
    _check_name(name)
    folder = Path(arguments.out or name)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder for --out")
    check_target(folder)
    template = files(__package__) / "template"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        for path, source in _FILES.items():
            text = (template / f"{source}.txt").read_text(encoding="utf-8")
            atomic_write_text(Path(temporary, "new", path.replace(_NAME, name)), text.replace(_NAME, name))
        Path(temporary, "new").rename(folder)
    print(f"wrote {folder}: {', '.join(path.replace(_NAME, name) for path in _FILES)}")
    print(f"go on with: pip install -e {shlex.quote(str(folder))} && pyrozoo check {name}")
    return 0


def _check_name(name: str) -> None:
    """Refuse what cannot be the name of a package and of an entry.

    Raises:
        ValueError: The name is no lowercase identifier, or an entry or an installed package has it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise ValueError(
            f"{name!r} cannot be the name of a Python package; take lowercase letters, digits and _, a letter first, "
            "and no word of the language"
        )
    if name in registry.list_models():
        raise ValueError(f"there is an entry {name!r} already; choose another name")
    if importlib.util.find_spec(name) is not None:
        raise ValueError(f"there is a Python package {name!r} already; choose another name")
