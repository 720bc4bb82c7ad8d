import json
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from pyrozoo import CompileWarning


@pytest.fixture(scope="module")
def bench():
    """The benchmark, which imports torch's compiler: seconds that only the process that runs these tests shall need."""
    import svi_step

    return svi_step


def run(bench, tmp_path, *arguments):
    out = tmp_path / "out.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompileWarning)  # auxvae says why it runs eagerly
        bench.main(["--sizes", "smoke", "--rounds", "1", "--clock", "cpu", "--out", str(out), *arguments])
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    ("parts", "modes"),
    [
        pytest.param(["ssmtl", "vae"], ("none",), id="two parts, eager"),
        pytest.param(["ssmtl", "auxvae", "m3sense", "vae"], ("none", "graph"), marks=pytest.mark.slow, id="all"),
    ],
)
def test_every_part_is_timed_and_the_losses_agree(bench, tmp_path, monkeypatch, capsys, parts, modes):
    monkeypatch.setattr(bench, "MODES", modes)
    monkeypatch.setitem(sys.modules, "numpyro_ssmtl", None)  # as where the extra is not installed
    record = run(bench, tmp_path, "--parts", *parts)
    assert "NumPyro is left out: pip install" in capsys.readouterr().out
    for part in parts:
        table = record[f"{part}: a step"]
        assert table["plain PyTorch"]["ratio"] == 1.0
        assert all(line["min_ms"] > 0 for line in table.values())
        assert "matrix products alone" in table
        assert len(record[f"{part}: first steps"]) >= len(modes)
    different = record["ssmtl: zoo, plain PyTorch and NumPyro in double precision"]["plain PyTorch"]
    assert different["loss"] < 1e-12
    assert different["gradients"] < 1e-10


def test_the_part_for_a_gpu_runs_on_any_device(bench, monkeypatch):
    monkeypatch.setattr(bench, "MODES", ("none", "graph"))
    compared, steps = bench.on_device("smoke", "cpu")
    for step in compared.values():
        step()
    assert set(compared) == set(steps) == {"Pyro ELBO, eager", "CompiledLoss, graph", "plain PyTorch"}


@pytest.mark.slow
def test_the_profile_of_a_compiled_step(bench, tmp_path):
    (table,) = (value for key, value in run(bench, tmp_path, "--profile").items() if key.startswith("ssmtl"))
    assert table["graph"]["zoo"] > 0
    assert table["networks"]["zoo"] == 0
    assert table["networks"]["plain"] > 0
