"""The tutorials run, their notebooks are their text sources executed, and nothing but results is in them."""

import re
from pathlib import Path

import jupytext
import nbformat
import pyro
import pytest
import torch
from matplotlib import pyplot as plt

pytestmark = pytest.mark.usefixtures("short_searches")

FOLDER = Path(__file__).parents[1] / "tutorials"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|var|work|private|opt|usr|mnt)/|[A-Z]:\\|site-packages")
SECRET = re.compile(
    r"-----BEGIN|\bAKIA[0-9A-Z]{16}\b|\bgh[opsu]_\w{30,}|\bhf_\w{30,}|\bsk-[\w-]{20,}|(?:password|token|secret)\s*[=:]",
    re.IGNORECASE,
)


def read(path):
    return nbformat.read(path, as_version=4)


def texts(notebook):
    """All that is written in a notebook: sources and outputs, pictures left out."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield from [output[key] for key in ("text", "evalue") if key in output]
            yield from (value for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))


def answers(source):
    """The code of the folded answers of a source."""
    last = jupytext.read(source).cells[-1].source
    return re.findall(r"<summary>Answer</summary>\n\n```python\n(.*?)\n```\n\n[^<]+\n\n</details>", last, re.DOTALL)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """An empty folder, no window, and nothing left behind in Pyro's store or the random state."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYROZOO_SMOKE", "1")
    plt.switch_backend("Agg")
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        yield
    plt.close("all")


# The first by default, the others in the slow tests.
@pytest.mark.parametrize(
    "source",
    [pytest.param(path, marks=[] if path.stem[:2] == "00" else [pytest.mark.slow]) for path in SOURCES],
    ids=lambda path: path.stem,
)
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping:DeprecationWarning")  # ArviZ 0.23's plots
def test_every_cell_runs(source, outside):
    names = {"__name__": "__main__"}
    exec(compile(source.read_text(), source.name, "exec"), names)
    assert names["claims"], "the last cell of code checks what the text says"
    for answer in answers(source):
        exec(compile(answer, f"{source.name}, answer", "exec"), names)


def test_each_source_has_its_notebook_and_back():
    assert SOURCES
    assert [path.stem for path in SOURCES] == [path.stem for path in NOTEBOOKS]


def test_the_readme_lists_each():
    listed = re.findall(r"\((\w+)\.ipynb\)", (FOLDER / "README.md").read_text())
    assert listed == [path.stem for path in SOURCES]


@every_notebook
def test_the_notebook_has_the_cells_of_its_source(path):
    def cells(notebook):
        return [(cell.cell_type, cell.source) for cell in notebook.cells]

    assert cells(read(path)) == cells(jupytext.read(path.with_suffix(".py")))


@every_notebook
def test_the_notebook_was_run_from_top_to_bottom_in_full_and_in_peace(path):
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@every_notebook
def test_the_notebook_holds_no_path_of_a_machine_and_no_secret(path):
    nbformat.validate(read(path))
    for text in texts(read(path)):
        assert not MACHINE.search(text), text
        assert not SECRET.search(text), text
    assert path.stat().st_size < 1.5e6


@pytest.mark.parametrize(
    "text",
    ["File /root/x.py", "'/home/me/runs/a'", "C:\\Users\\me", "/tmp/a/b", "lib/site-packages/x", "token = 'abc'"],
)
def test_what_must_not_be_in_a_notebook_is_found(text):
    assert MACHINE.search(text) or SECRET.search(text)


@pytest.mark.parametrize("text", ["https://pyro.ai/home/", "runs/quickstart", "nats / row", "../work/a"])
def test_what_may_be_in_a_notebook_is_not_mistaken(text):
    assert not MACHINE.search(text)
    assert not SECRET.search(text)


@every_notebook
def test_the_last_cell_checks_the_claims_in_a_full_run(path):
    last = [cell for cell in read(path).cells if cell.cell_type == "code"][-1]
    assert "assert smoke or " in last.source
    printed = "".join(output.get("text", "") for output in last.outputs)
    assert re.search("^yes ", printed, re.MULTILINE)
    assert not re.search("^NO ", printed, re.MULTILINE)


@every_notebook
def test_the_first_cell_says_how_long_it_takes_and_what_for(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert re.search(r"\bminutes?\b", first.source)
    assert "After it you can " in first.source


@every_notebook
def test_the_second_cell_of_code_names_the_versions(path):
    cell = [cell for cell in read(path).cells if cell.cell_type == "code"][1]
    assert re.search(r"^pyro-ppl [\d.]+, torch [\d.]+.*\npyrozoo [\d.]+$", cell.outputs[0]["text"], re.MULTILINE)


@every_notebook
def test_the_last_cell_has_exercises_with_answers_and_links_to_howtos(path):
    last = read(path).cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Exercises")
    exercises = re.split(r"^\*\*\d\.\*\* ", last.source, flags=re.MULTILINE)[1:]
    assert len(exercises) == len(answers(path.with_suffix(".py"))) >= 2
    for exercise in exercises:
        pages = re.findall(r"\]\(([^)\s]+)\)", exercise.partition("<details>")[0])
        assert pages
        assert all((FOLDER / page).is_file() for page in pages)
