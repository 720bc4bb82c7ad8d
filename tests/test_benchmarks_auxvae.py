import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import auxvae_step as bench
from plain_auxvae import PlainAuxVAE

from pyrozoo.inference.copies import isolated
from pyrozoo.posterior.predicting import predict

SMOKE = bench.SIZES["smoke"]


@pytest.mark.parametrize("known", bench.KNOWN)
def test_the_hand_written_step_has_the_loss_and_the_gradients_of_the_zoo(known):
    different = bench.disagreement(SMOKE, known)
    assert different["loss"] < 1e-12
    assert different["gradients"] < 1e-10


@pytest.mark.parametrize("known", bench.KNOWN)
def test_the_agreement_would_notice_another_objective(known, monkeypatch):
    original = PlainAuxVAE._log_y
    monkeypatch.setattr(PlainAuxVAE, "_log_y", lambda *given: 1.001 * original(*given))
    different = bench.disagreement(SMOKE, known)
    assert different["loss"] > 1e-6
    assert different["gradients"] > 1e-6


def test_the_hand_written_prediction_is_the_zoos():
    found, new, plain, own = bench.predictor(SMOKE)
    table = predict(found, new, draws=bench.DRAWS, seed=3)  # few trials: all draws at once, from the same noise
    with isolated(3):
        load, style = plain.predict(**own, draws=bench.DRAWS)
    assert np.allclose(table["y.mean"], load, rtol=1e-5)
    assert np.allclose(table.filter(like="style.p["), style, atol=1e-5)


def test_all_variants_run_and_references_have_ratio_one():
    table = bench.steps(SMOKE, rounds=1)
    kinds = ["style known", "style hidden", "style mixed"]
    assert list(table.index) == [
        *(f"zoo, {kind}" for kind in kinds), "Pyro SVI.step, style known", *(f"plain PyTorch, {kind}" for kind in kinds)
    ]  # fmt: skip
    assert (table[["min_ms", "median_ms", "ratio", "ratio_rounds"]] > 0).all(axis=None)
    assert (table.loc["plain PyTorch, style known", ["ratio", "ratio_rounds"]] == 1).all()
    assert table.loc["zoo, style known", "to_zoo_known"] == 1
    own = table["min_ms"]["zoo, style hidden"] / table["min_ms"]["plain PyTorch, style hidden"]
    assert table.loc["zoo, style hidden", "to_own_plain"] == pytest.approx(own)


def test_plain_steps_train():
    plain, epoch = bench.plain_variant(bench.zoo_training(bench.data(SMOKE, "some"), SMOKE), "some")
    before = [p.detach().clone() for p in plain.parameters()]
    epoch()
    assert all(not torch.equal(old, new) for old, new in zip(before, plain.parameters(), strict=True))


def test_predictions_are_timed():
    table = bench.predictions(SMOKE, rounds=1)
    assert table.loc["plain PyTorch, 200 draws", "ratio"] == 1
    assert np.allclose(table["trials_per_s"], SMOKE.predicted / (table["min_ms"] / 1e3))


def test_sections_add_up_and_name_what_ran():
    table = bench.profile(SMOKE, "none", rounds=1)
    assert table.loc["sum", "beyond"] == pytest.approx(table.loc["sum", "zoo"] - table.loc["sum", "plain"])
    assert list(table.index) == [*bench.SECTIONS, "sum"]
    assert (table.drop(index="sum")["zoo"] > 0).all()
    assert (table.loc[["guide's encoder", "aux streams", "decoder", "heads", "loss", "backward"], "plain"] > 0).all()


def test_unknown_kinds_of_labels_are_refused():
    model = bench.model_for(bench.data(SMOKE, "all"), SMOKE)
    with pytest.raises(ValueError, match="styles_known: 'most' is none of"):
        bench.plain_copy(model, bench.PaperGuide(model), 28, "most")


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    bench.main(["--sizes", "smoke", "--rounds", "1", "--out", str(tmp_path / "numbers.json")])
    record, printed = json.loads((tmp_path / "numbers.json").read_text()), capsys.readouterr().out
    assert record["a step"]["plain PyTorch, style known"]["ratio"] == 1
    assert record["environment"]["threads"] == 1
    assert "prediction, 6 trials" in record
    assert "zoo.predict, 200 draws" in printed


def test_the_profile_comes_alone(monkeypatch, capsys):
    monkeypatch.setattr(bench, "profile", lambda *given: pd.DataFrame({"zoo": {"model": 1.5}}))
    bench.main(["--profile", "--sizes", "smoke"])
    printed = capsys.readouterr().out
    assert "milliseconds per section of a step, style hidden" in printed
    assert "prediction" not in printed
