"""`pyrozoo new`: a package that passes the contract as it is, and clear refusals."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyrozoo as zoo
from pyrozoo.cli import main

ROOT = Path(zoo.__file__).parents[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of a new package, with the metadata that an editable installation would leave."""
    folder = tmp_path_factory.mktemp("new") / "lake_levels"
    assert main(["new", "lake_levels", "--out", str(folder)]) == 0
    info = folder / "lake_levels-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lake_levels\nVersion: 0.1.0\n")
    points = '[project.entry-points."pyrozoo.models"]\nlake_levels = "lake_levels"'
    assert points in (folder / "pyproject.toml").read_text()
    (info / "entry_points.txt").write_text("[pyrozoo.models]\nlake_levels = lake_levels\n")
    return folder


def pyrozoo(package, *arguments):
    path = os.pathsep.join([str(package), str(ROOT)])
    command = [sys.executable, "-m", "pyrozoo", *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=package, env=environment)


@pytest.fixture
def installed(package, monkeypatch):
    monkeypatch.syspath_prepend(package)
    yield
    zoo.unregister("lake_levels")
    for name in [name for name in sys.modules if name.split(".")[0] == "lake_levels"]:
        del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_a_new_entry_is_found_by_its_entry_point_and_passes_the_quick_checks(capsys):
    assert main(["check", "lake_levels", "--only", "C2,C3,C5,C16,C19", "--fast"]) == 0
    assert "5 passed, 0 failed, 0 skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_a_new_entry_is_listed_passes_the_whole_contract_and_its_own_tests(package):
    assert "lake_levels: Straight lines with a level per group" in pyrozoo(package, "list").stdout
    done = pyrozoo(package, "check", "lake_levels")
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "pytest", "-q", str(package / "tests")]
    path = os.pathsep.join([str(package), str(ROOT)])
    done = subprocess.run(command, capture_output=True, text=True, cwd=package, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_commands_of_its_readme_run(package, tmp_path):
    table = "place,depth,flow\n" + "".join(f"{'ab'[i % 2]},{i / 10},{i % 3 if i % 4 else ''}\n" for i in range(20))
    (tmp_path / "t.csv").write_text(table)
    readme = (package / "README.md").read_text()
    columns = "--group group=COL --row x=COL --y COL"
    assert columns in readme
    given = columns.replace("COL", "place", 1).replace("COL", "depth", 1).replace("COL", "flow").split()
    out = str(tmp_path / "run")
    done = pyrozoo(
        package, "fit", "lake_levels", "--data", str(tmp_path / "t.csv"), *given, "--steps", "5", "--out", out
    )
    assert done.returncode == 0, done.stderr
    predictions = tmp_path / "p.csv"
    done = pyrozoo(package, "predict", out, "--data", str(tmp_path / "t.csv"), "--out", str(predictions))
    assert done.returncode == 0, done.stderr
    assert predictions.read_text().startswith("row,place,flow,y.mean")


def test_a_new_entry_is_short_and_holds_no_name_of_the_template(package):
    parts = [package / "lake_levels" / f"{name}.py" for name in ("card", "model", "guides", "entry")]
    assert sum(len(path.read_text().splitlines()) for path in parts) < 100
    for path in [*package.glob("*.*ml"), *package.glob("*.md"), *package.rglob("*.py")]:
        assert "my_entry" not in path.read_text()
    for path in package.rglob("*.py"):
        ast.parse(path.read_text())
        assert max(map(len, path.read_text().splitlines())) <= 120


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("class", "cannot be the name of a Python package"),
        ("match", "cannot be the name of a Python package"),
        ("Lakes", "cannot be the name of a Python package"),
        ("lake-levels", "cannot be the name of a Python package"),
        ("../lakes", "cannot be the name of a Python package"),
        ("ssmtl", "there is an entry 'ssmtl' already"),
        ("torch", "there is a Python package 'torch' already"),
        ("lakes", "lakes exists; choose another folder for --out"),
    ],
)
def test_bad_names_and_existing_folders_are_refused(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lakes").mkdir()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert main(["new", name]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lakes"]
