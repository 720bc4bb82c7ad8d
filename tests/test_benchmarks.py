import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import sections
import ssmtl_step
import units
import variants
from timing import alternate, summary


@pytest.mark.parametrize("particles", [1, 3])
def test_the_hand_written_step_has_the_loss_and_the_gradients_of_the_zoo(particles):
    different = variants.disagreement(rows=12, particles=particles, units=3, width=8)
    assert different["loss"] < 1e-12
    assert different["gradients"] < 1e-10


def test_the_agreement_would_notice_another_objective(monkeypatch):
    original = variants.plain_copy

    def without_head(training):
        plain = original(training)
        plain.alpha = 0.0
        return plain

    monkeypatch.setattr(variants, "plain_copy", without_head)
    assert variants.disagreement(rows=12, particles=1, units=3, width=8)["gradients"] > 1e-3


def test_all_variants_run_and_the_reference_has_ratio_one():
    table = variants.compare(rows=12, particles=2, rounds=1, units=3, width=8)
    assert list(table.index) == ["zoo", "zoo ELBO + fused Adam", "Pyro SVI.step", "plain PyTorch", "matmul floor"]
    assert (table > 0).all(axis=None)
    assert (table.loc["plain PyTorch", ["ratio", "ratio_rounds"]] == 1).all()


def test_plain_steps_train():
    train = variants.data(12, 3)
    training = variants.zoo_training(variants.model_for(train, 8), train, 12)
    plain, step = variants.plain_variant(training, 12, 1)
    before = [p.detach().clone() for p in plain.parameters()]
    step()
    assert all(not torch.equal(old, new) for old, new in zip(before, plain.parameters(), strict=True))


def test_the_floor_counts_every_layer():
    train = variants.data(12, 3)
    plain = variants.plain_copy(variants.zoo_training(variants.model_for(train, 8), train, 12))
    # inputs: g_y x, c = 6; g_z x, y, c = 7; decoder z, c = 9; two hidden layers of 8; outputs 2, 10, 6
    weights = sum(inputs * 8 + 8 * 8 + 8 * outputs for inputs, outputs in ((6, 2), (7, 10), (9, 6)))
    assert variants.flops(plain, rows=12, particles=5) == 6 * weights * 12 * 5


def test_sections_add_up_and_name_what_ran():
    table = sections.profile(rows=12, particles=1, rounds=1, units=3, width=8)
    assert table.loc["sum", "beyond"] == pytest.approx(table.loc["sum", "zoo"] - table.loc["sum", "plain"])
    assert (table.loc[["minibatch", "networks", "model", "guide", "loss", "backward", "optimiser"], "zoo"] > 0).all()
    assert (table.loc[["minibatch", "networks", "loss", "backward", "optimiser"], "plain"] > 0).all()


def test_an_inner_section_is_charged_alone():
    watch = sections.Stopwatch(iter(range(100)).__next__)
    with watch.section("outer"), watch.section("inner"):  # opened at 0, 1; closed at 2, 3
        pass
    assert watch.seconds == {"outer": 2, "inner": 1}


def test_units_by_groups(monkeypatch):
    monkeypatch.setattr(units, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # a process takes seconds
    table = units.against_units(1, "wall", numbers=(4,), rows=16, minibatch=8, width=8)
    assert list(table.index) == ["4 all", "4 present"]
    assert (table["min_ms"] > 0).all()
    assert units.CLEAR.exists() == bool(table["peak_MB"].notna().all())


def test_rounds_rotate_and_the_first_is_not_counted():
    order = []
    seconds = alternate({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert order == list("abcbcacab")
    assert seconds.shape == (2, 3)


def test_summary_takes_ratios_within_rounds():
    table = summary(pd.DataFrame({"a": [2.0, 40.0, 6.0], "b": [1.0, 10.0, 2.0]}), "b")
    assert table.loc["a", "ratio"] == 2.0
    assert table.loc["a", "ratio_rounds"] == 3.0


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ssmtl_step, "compare", lambda *_: pd.DataFrame({"min_ms": {"zoo": 1.5}}))
    monkeypatch.setattr(ssmtl_step, "disagreement", lambda *_: {"loss": 0.0, "gradients": 0.0})
    ssmtl_step.main(["--sizes", "10x2", "--rounds", "1", "--out", str(tmp_path / "numbers.json")])
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert record["10 rows x 2 particles: a step"] == {"zoo": {"min_ms": 1.5}}
    assert record["environment"]["threads"] == 1
    assert "10 rows x 2 particles: a step" in capsys.readouterr().out


def test_rows_must_fill_the_units():
    with pytest.raises(ValueError, match="rows: 10 is not an even multiple of the 3 units"):
        variants.data(10, 3)
