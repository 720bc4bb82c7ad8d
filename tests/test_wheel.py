"""The built wheel, installed in an environment of its own and run from another folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Interpreter of an environment that holds the wheel, and sees this one's packages but not its pyrozoo."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("pyrozoo", "data"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("pyrozoo-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(purelib), str(wheel)], check=True)
    # Packages of this environment come after the wheel's; a .pth line would also run an editable pyrozoo's hook.
    return python, {**os.environ, "PYTHONPATH": os.pathsep.join([str(purelib), sysconfig.get_path("purelib")])}, folder


def run(installed, *arguments):
    python, environment, folder = installed
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    command = [python, "-m", "pyrozoo", *arguments]
    return subprocess.run(command, cwd=elsewhere, env=environment, check=True, capture_output=True, text=True).stdout


def test_it_runs_the_installed_copy(installed):
    python, environment, folder = installed
    code = "import pyrozoo; print(pyrozoo.__file__)"
    out = subprocess.run([python, "-c", code], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    assert out.stdout.startswith(str(folder / "env"))


def test_it_says_that_it_is_typed(installed):
    python, environment, folder = installed
    code = "import pyrozoo, pathlib; print(pathlib.Path(pyrozoo.__file__).with_name('py.typed').is_file())"
    out = subprocess.run([python, "-c", code], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "True"


def test_list_and_show(installed):
    assert "ssmtl" in run(installed, "list")
    assert "71 batches" in run(installed, "show", "ssmtl")


def test_it_finds_its_data_and_reference(installed):
    python, environment, folder = installed
    code = (
        "import pyrozoo as zoo; print(zoo.load_data('ssmtl', 'dryer').n_rows, zoo.load_reference('ssmtl/dryer').status)"
    )
    out = subprocess.run([python, "-c", code], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    rows, status = out.stdout.split()
    assert int(rows) > 1000
    assert status == "finished"


def test_it_writes_a_new_entry(installed):
    assert "wrote lake_levels" in run(installed, "new", "lake_levels")
    assert (installed[2] / "elsewhere" / "lake_levels" / "lake_levels" / "model.py").is_file()


@pytest.mark.slow
def test_it_reproduces_the_dryer(installed):
    run(installed, "reproduce", "ssmtl", "dryer", "--profile", "smoke", "--out", "dryer")
    assert (installed[2] / "elsewhere" / "dryer" / "record.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["own_table", "own_prior", "save_share"])
def test_it_runs_a_howto(installed, page, tmp_path):
    python, environment, _ = installed
    text = (REPOSITORY / "docs" / "howto" / f"{page}.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    (tmp_path / "page.py").write_text(re.sub(r"\bsteps=\d+", "steps=20", code))
    environment = {**environment, "MPLBACKEND": "Agg"}
    done = subprocess.run([python, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout or len(list(tmp_path.iterdir())) > 1, "a page shows something"
