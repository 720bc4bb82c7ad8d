"""Run the tutorials' text sources in full and write the notebooks with their outputs.

``python tutorials/execute.py`` runs all, ``python tutorials/execute.py 00_quickstart`` one. A tutorial that fails, or
writes to standard error, leaves its notebook as it was.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
VIEW = "application/vnd.jupyter.widget-view+json"


def execute(source: Path, before: str | None = None) -> nbformat.NotebookNode:
    """Run a text source in a kernel of this Python, in an empty folder, and return the notebook with its outputs.

    Args:
        source: The tutorial.
        before: Code of a first cell, in front of the tutorial's own.
    """
    notebook = jupytext.read(source)
    if before is not None:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02d}"  # else random: every run would change every cell
    environment = {name: value for name, value in os.environ.items() if name != "PYROZOO_SMOKE"}
    environment["OMP_NUM_THREADS"] = "1"  # the last digits of a sum depend on the threads, and training enlarges them
    environment["TQDM_DISABLE"] = "1"  # a bar would stay in the notebook as a widget that nothing draws
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=900,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,  # times would change every cell
            on_cell_executed=refuse_noise,
            extra_arguments=["--IPKernelApp.log_level=40"],  # it warns of TCP, which does not leave this machine
        )
        client.execute(env=environment)
    notebook.metadata.pop("widgets", None)  # the state of bars that nothing draws, and below their views
    for cell in notebook.cells:
        if "outputs" in cell:
            cell["outputs"] = [own for own in cell["outputs"] if VIEW not in own.get("data", {})]
    notebook.metadata["language_info"] = {"name": "python"}  # without the version, which differs between machines
    return notebook


def refuse_noise(cell: nbformat.NotebookNode, **_: object) -> None:
    """Stop at the first cell that writes to standard error: warnings and progress bars are no part of a tutorial.

    Raises:
        RuntimeError: With the cell and what it wrote.
    """
    for output in cell.get("outputs", []):
        if output.get("name") == "stderr":
            raise RuntimeError(f"a cell wrote to standard error\n\n{cell.source}\n\n{output.text}")


def main(names: list[str]) -> None:
    """Run the named tutorials, all where none is named."""
    for source in [HERE / f"{name}.py" for name in names] or sorted(HERE.glob("[0-9][0-9]_*.py")):
        started = time.perf_counter()
        notebook = execute(source)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
