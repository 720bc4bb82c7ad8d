"""The how-to pages run as they are printed; only the numbers of steps, draws and simulations are cut."""

import re
import tomllib
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib import use

PAGES = sorted((Path(__file__).parents[1] / "docs" / "howto").glob("*.md"))
INDEX = next(page for page in PAGES if page.stem == "index").read_text()


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "index"], ids=lambda page: page.stem)
def test_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as for a script in its own folder
    use("Agg")
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(page):
            code = re.sub(r"\bsteps=\d+", "steps=20", block)
            exec(compile(code, page.name, "exec"), names)
    plt.close("all")
    assert capsys.readouterr().out or list(tmp_path.iterdir()), "a page shows something"


def test_every_page_is_short_has_code_and_is_in_the_index():
    for page in PAGES:
        assert len(page.read_text().splitlines()) < 100
        assert page.stem == "index" or (blocks(page) and f"\n{page.stem}\n" in INDEX)


def test_every_block_can_be_parsed():
    for page in PAGES:
        for block in blocks(page):
            compile(block, page.name, "exec")


def test_the_page_on_installing_names_every_extra():
    root = Path(__file__).parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [line for line in (root / "docs" / "install.md").read_text().splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in lines))) == sorted(extras)
