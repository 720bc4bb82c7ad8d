"""The README's code runs as it stands there; only the numbers of steps, draws, rows and people are cut."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import use

import pyrozoo as zoo
from pyrozoo.models.auxvae.model import AuxVAE
from pyrozoo.models.ssmtl.model import SSMTL

pytestmark = pytest.mark.usefixtures("short_searches")

AUXVAE = Path(__file__).parents[1] / "pyrozoo" / "models" / "auxvae" / "README.md"
M3SENSE = Path(__file__).parents[1] / "pyrozoo" / "models" / "m3sense" / "README.md"
MEDICATION = Path(__file__).parents[1] / "pyrozoo" / "models" / "medication" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping:DeprecationWarning")  # ArviZ 0.23's plots
def test_the_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SSMTL, "fit_defaults", {**SSMTL.fit_defaults, "steps": 2})
    monkeypatch.setattr("pyrozoo.criticism.rivals.N_TREES", 2)
    use("Agg")
    data = zoo.load_data("ssmtl", "dryer", time=True)
    names = {"few": data.subset(np.flatnonzero(data["unit"].numpy() < 12)[::4])}
    for block in BLOCKS:
        code = re.sub(r"steps=\d+", "steps=2", re.sub(r"draws=\d+", "draws=2", block))
        code = code.replace("restarts=4", "restarts=2, folds=2, repeats=1")
        code = code.replace('zoo.load_data("ssmtl", "dryer", time=True)', "few")
        exec(compile(code, "README.md", "exec"), names)
    assert "y.rmse" in capsys.readouterr().out
    assert (tmp_path / "runs" / "dryer" / "run.json").exists()
    assert (tmp_path / "report.html").exists()
    assert names["data"] is names["few"]
    assert len(BLOCKS) == 4


def test_the_blocks_of_the_medication_page_run():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", MEDICATION.read_text(), re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert names["decoded"].scores(names["test"])["frame_accuracy"] > 0.9


def test_the_blocks_of_the_m3sense_page_run():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", M3SENSE.read_text(), re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert names["zoo"].metrics(names["fit"], names["test"], draws=5)["y_stress.accuracy"] >= 0


def test_the_blocks_of_the_auxvae_page_run(monkeypatch):
    monkeypatch.setattr(AuxVAE, "fit_defaults", {**AuxVAE.fit_defaults, "epochs": 1})
    monkeypatch.setattr("pyrozoo.models.auxvae.model.LEAST_STEPS", 1)
    few = {
        '"auxvae", "simulated"': '"auxvae", "simulated", n_participants=12, n_steps=40, duration_s=4',
        "**new_people": "**new_people, folds=2, progress=False",
        'people_folds(model, "paper", train': r"\g<0>, 2",
    }  # fmt: skip
    names = {}
    for block in re.findall(r"```python\n(.*?)```", AUXVAE.read_text(), re.DOTALL):
        for long, short in few.items():
            assert long in block
            block = re.sub(re.escape(long), short, block)
        exec(compile(block, "README.md", "exec"), names)
    assert {"y.mean", "style.label"} <= set(names["zoo"].predict(names["fit"], names["test"], draws=5))
