"""What the pages say of files and names is so: the rooms of docs/architecture.md, the paper maps of the entries."""

import importlib
import re
from pathlib import Path

import pytest

import pyrozoo as zoo

PACKAGE = Path(zoo.__file__).parent
REPOSITORY = PACKAGE.parent
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


def _place(entry, token):
    """The module attribute that a dotted name of an entry's page stands for, None where its first part is no module."""
    parts = token.split(".")
    for n in range(len(parts), 0, -1):
        path = PACKAGE / "models" / entry / Path(*parts[:n])
        if path.with_suffix(".py").exists() or (path.is_dir() and (path / "__init__.py").exists()):
            found = importlib.import_module(".".join(("pyrozoo.models", entry, *parts[:n])))
            for attribute in parts[n:]:
                found = getattr(found, attribute)
            return found
    return None


@pytest.mark.parametrize("entry", zoo.list_models())
def test_files_and_names_in_the_paper_map_exist(entry):
    text = (PACKAGE / "models" / entry / "README.md").read_text()
    table = "\n".join(line for line in text.split("\n") if line.startswith("|"))
    names = 0
    for token in re.findall(r"`([A-Za-z_][\w./]*)", table):
        if token.endswith(".py"):
            places = (PACKAGE / "models" / entry, REPOSITORY, REPOSITORY / "tests" / "models", REPOSITORY / "tests")
            assert any((place / token).exists() for place in places), token
        elif re.fullmatch(r"\w+(\.\w+)+", token):
            names += _place(entry, token) is not None  # raises where the module has no such name
    assert names >= 5


def test_the_page_of_the_architecture_names_what_there_is():
    text = ARCHITECTURE.read_text()
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} - {"models"}
    assert all(f"`{room}/`" in text for room in rooms)
    for room, words in re.findall(r"^\| `(\w+)/` \| (.*) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", words):
            assert (PACKAGE / room / f"{name}.py").exists(), f"{room}/{name}"
    for path in re.findall(r"`((?:criticism|data|inference|modeling|plots|posterior|store|contract)/[\w./]+)`", text):
        place = PACKAGE / path
        assert place.exists() or place.with_suffix(".py").exists() or _is_name(path), path


def _is_name(path):
    """Whether ``room/module.name`` is a name that the module has."""
    module, _, name = path.replace("/", ".").rpartition(".")
    return hasattr(importlib.import_module(f"pyrozoo.{module}"), name)


def _importing(package):
    """Files of the package that import `package`, deferred or not."""
    pattern = re.compile(rf"^\s*(?:from|import) {package}\b", re.MULTILINE)
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text())}


def test_one_file_imports_arviz_and_nets_know_no_pyro():
    assert _importing("arviz") == {"posterior/export.py"}
    assert not {name for name in _importing("pyro") if name.endswith("/nets.py")}
