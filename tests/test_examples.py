"""The examples in docstrings run as they stand, and every public name has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pyro
import pytest

import pyrozoo as zoo

pytestmark = pytest.mark.usefixtures("short_searches")

PACKAGE = Path(zoo.__file__).parent
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Found by their text: importing every module here would cost each worker seconds before its first test.
MODULES = sorted(
    ".".join(("pyrozoo", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, capsys):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    said: list[str] = []
    examples = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert examples
    for test in examples:
        with capsys.disabled(), pyro.get_param_store().scope():
            runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def _public(package, homes):
    for names in homes.values():
        for name in names:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{package.__name__}.{name}", value


@pytest.mark.parametrize("name", ["", *zoo.list_models()])
def test_every_public_function_and_class_has_an_example(name):
    package = importlib.import_module(f"pyrozoo.models.{name}" if name else "pyrozoo")
    without = [place for place, value in _public(package, package._HOMES) if ">>> " not in (value.__doc__ or "")]
    assert not without, f"no example: {without}"


@pytest.mark.parametrize("module", ["plots", "scores"])
def test_every_function_of_a_module_that_users_reach_has_an_example(module):
    found = getattr(zoo, module)
    functions = {name: getattr(found, name) for name in dir(found) if not name.startswith("_") and name != "names_of"}
    without = [
        name
        for name, value in functions.items()
        if inspect.isfunction(value) and _belongs_to(value, module) and ">>> " not in (value.__doc__ or "")
    ]
    assert not without, f"no example: {without}"


def _belongs_to(function, module):
    """Whether a function is one of the module's own, not a helper that it imports."""
    room = function.__module__.removeprefix("pyrozoo.")
    return room.startswith("plots.") if module == "plots" else room.endswith("scores")
