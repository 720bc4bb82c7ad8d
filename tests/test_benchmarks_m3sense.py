import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import m3sense_people as people
import m3sense_time as bench
import plain_m3sense
from plain_m3sense import PLAIN, UNKNOWN, PlainM3Sense

SMOKE = bench.SIZES["smoke"]


@pytest.mark.parametrize("variant", PLAIN)
def test_the_hand_written_step_has_the_loss_and_the_gradients_of_the_zoo_and_trains_alike(variant):
    different = bench.disagreement(SMOKE, variant)
    assert different["loss"] < 1e-12
    assert different["gradients"] < 1e-10
    assert different["weights"] < 1e-8


@pytest.mark.parametrize("variant", PLAIN)
def test_the_agreement_would_notice_another_objective(variant, monkeypatch):
    original = PlainM3Sense.posterior

    def wider(*given):
        loc, sd = original(*given)
        return loc, 1.001 * sd

    monkeypatch.setattr(PlainM3Sense, "posterior", wider)
    different = bench.disagreement(SMOKE, variant)
    assert different["loss"] > 1e-6
    assert different["gradients"] > 1e-6


@pytest.mark.parametrize(("name", "other"), [("CLIP", 1e-7), ("ADAM", torch.optim.SGD)])
def test_the_agreement_would_notice_another_way_to_train(name, other, monkeypatch):
    monkeypatch.setattr(plain_m3sense, name, other)
    different = bench.disagreement(SMOKE, "m3sense")
    assert different["gradients"] < 1e-10
    assert different["weights"] > 1e-3


def test_every_window_has_labels_of_its_own_set_or_of_all_tasks():
    own = bench.data(SMOKE.samples, 12)
    masks = torch.stack([own[mask] for mask in own.labels.values()])
    assert masks.sum(1).tolist() == [3, 3, 3]
    assert masks.sum(0).tolist() == [1, 1, 1, 0] * 3
    assert all(bench.data(SMOKE.samples, 12, "all")[mask].all() for mask in own.labels.values())


def test_unknown_labels_reach_the_hand_written_step_as_such():
    own = bench.step_training(SMOKE, "m3sense", 4)
    labels = bench.plain_data(own)["labels"]
    for y, mask in zip(labels, own.train.labels.values(), strict=True):
        assert torch.equal(y == UNKNOWN, ~own.train[mask])


def test_the_logits_are_of_all_tasks_and_those_that_the_model_scores():
    train = bench.data(SMOKE.samples, 5, "all")
    several = bench.preset("M3Sense (CAM)", train, SMOKE).eval()
    assert [tuple(out.shape) for out in bench.logits(several, train)] == [(5, 2), (5, 2), (5, 3)]
    h = several.encode(**train)
    assert torch.equal(bench.logits(several, train)[1], several.logits(1, h, None))
    single = bench.preset("Keyless", train, SMOKE, "stress").eval()
    assert [tuple(out.shape) for out in bench.logits(single, train)] == [(5, 3)]


def test_a_step_without_denormals_ends_at_the_same_weights():
    table = bench.denormals(SMOKE, rounds=2)
    assert list(table.index) == ["Non-Attention", "Keyless"]
    assert (table.drop(columns="difference") > 0).all(axis=None)
    assert (table["difference"] <= 1e-7).all()


@pytest.mark.parametrize("times", [bench.inference, bench.training])
def test_models_of_all_tasks_are_timed_beside_three_of_one(times):
    table = times(SMOKE, 2, rounds=1)
    assert list(table.index) == list(bench.PAIRS)
    assert (table > 0).all(axis=None)
    assert table["ratio"].to_numpy() == pytest.approx((table["ms"] / table["singles_ms"]).to_numpy())
    assert table["singles_ms"]["M3Sense (CAM)"] == table["singles_ms"]["M3Sense (Keyless)"]
    assert table["published"]["M3Sense (CAM)"] == pytest.approx(203 / 517)


def test_one_task_of_a_model_is_timed_beside_all_of_its_tasks():
    table = bench.switch(SMOKE, 2, rounds=1)
    assert list(table.index) == list(bench.PAIRS)
    assert (table > 0).all(axis=None)
    assert table["ratio"].to_numpy() == pytest.approx((table["one_ms"] / table["all_ms"]).to_numpy())


def test_parameters_are_those_of_the_tables():
    table = bench.parameters(bench.SIZES["quick"])
    assert table.loc["M3Sense (Non-Attention)", "single"] == pytest.approx(1.110, rel=0.01)
    assert table.loc["M3Sense (Non-Attention)", "multitask"] == pytest.approx(2.244, rel=0.01)
    assert (table["ratio"] < 0.7).all()
    assert table["published ratio"]["M3Sense (CAM)"] == pytest.approx(2251 / 3339)


def test_all_steps_run_and_references_have_ratio_one():
    table = bench.steps(SMOKE, 4, rounds=1)
    kinds = ("zoo", "Pyro SVI.step", "plain PyTorch")
    assert list(table.index) == [f"{kind}, {variant}" for variant in PLAIN for kind in kinds]
    assert (table > 0).all(axis=None)
    assert (table.loc[[f"plain PyTorch, {variant}" for variant in PLAIN], ["ratio", "ratio_rounds"]] == 1).all(
        axis=None
    )


@pytest.mark.parametrize("variant", ["m3sense", "latent"])
def test_steps_of_pyro_train_weights_of_their_own(variant, monkeypatch):
    own = bench.step_training(SMOKE, variant, 4)
    kept, original = [], bench.PaperGuide
    monkeypatch.setattr(bench, "PaperGuide", lambda model: kept.append(model) or original(model))
    epoch = bench.svi_epoch(own, SMOKE.arguments)
    before = [p.detach().clone() for p in kept[0].parameters()]
    epoch()
    changed = [not torch.equal(old, new) for old, new in zip(before, kept[0].parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)  # a small network may have dead units


def test_parameters_without_a_twin_are_refused():
    own = bench.step_training(SMOKE, "m3sense", 4)
    plain = bench.plain_copy(own)
    plain.more = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="parameters of one side only: \\['more'\\]"):
        bench._twins(plain, own)


def test_sections_add_up_and_name_what_ran():
    table = bench.profile(SMOKE, "generative", rounds=1)
    assert table.loc["sum", "beyond"] == pytest.approx(table.loc["sum", "zoo"] - table.loc["sum", "plain"])
    assert list(table.index) == [*bench.SECTIONS, "sum"]
    assert (table["zoo"] > 0).all()
    assert (table.drop(index=["guide", "model"])["plain"] > 0).all()
    assert (table.loc[["guide", "model"], "plain"] == 0).all()


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    parts = ["--parts", "parameters", "training"]
    bench.main(["--sizes", "smoke", "--rounds", "1", *parts, "--out", str(tmp_path / "numbers.json")])
    record, printed = json.loads((tmp_path / "numbers.json").read_text()), capsys.readouterr().out
    assert set(record) == {"environment", "rounds", "parameters, millions", "training of all tasks, batches of 2"}
    assert record["environment"]["threads"] == 1
    assert "M3Sense (HAMLET)" in printed


def test_the_command_measures_all_by_default(monkeypatch, capsys):
    for name in ("inference", "switch", "training", "steps", "parameters"):
        monkeypatch.setattr(bench, name, lambda *given: pd.DataFrame({"ms": {"zoo": 1.5}}))
    monkeypatch.setattr(bench, "disagreement", lambda *given: {"loss": 0.25})
    bench.main(["--sizes", "smoke"])
    printed = capsys.readouterr().out
    titles = ("parameters", "inference of all tasks", "task switch", "training of all tasks")
    for title in (*titles, "0.25", "a step, bvp at 4 Hz"):
        assert title in printed


def test_the_time_for_many_people_is_that_of_the_jobs_times_their_number(monkeypatch, tmp_path):
    clock = iter(range(1000))
    monkeypatch.setitem(people.CLOCKS, "cpu", lambda: float(next(clock)))
    for name in ("net_run", "crossed_run", "simple_run"):
        monkeypatch.setattr(people.stress, name, lambda **given: None)
    path = people.simulated_file(tmp_path / "people.npz", 4, 4)
    jobs, folds = people.counts(4)
    table = people.whole(pd.DataFrame([people.run_fold(str(path), 0, True, "cpu")]), jobs)
    assert folds == 4
    assert people.counts(34)[1] == 12
    assert (table["seconds"] == 1).all()
    nested = 4 * people.stress.INNER * (len(people.stress.NETS) + len(people.stress.PENALTIES))
    outer = 4 * people.stress.SEEDS["quick"] * (4 + len(people.stress.BASELINES))
    assert table["all"].sum() == nested + outer


def test_the_profile_comes_alone(monkeypatch, capsys):
    monkeypatch.setattr(bench, "profile", lambda *given: pd.DataFrame({"zoo": {"model": 1.5}}))
    bench.main(["--profile", "--sizes", "smoke"])
    printed = capsys.readouterr().out
    assert "milliseconds per section of a step, latent, bvp at 4 Hz" in printed
    assert "parameters" not in printed
