"""m3sense: every experiment runs in its smoke profile and says what it should; records, page and fits agree."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.experiments.record import PUBLISHED, format_table, read_record
from pyrozoo.experiments.running import run
from pyrozoo.models import m3sense
from pyrozoo.models.m3sense.experiments import baselines, clock, runs, stress, techniques, tuning
from pyrozoo.models.m3sense.experiments.figure7 import BEFORE_PAIR, BEFORE_SINGLE, few_of
from pyrozoo.models.m3sense.experiments.published import TABLE_2, TABLE_4, TABLE_5
from pyrozoo.models.m3sense.experiments.sizes import sizes_text
from pyrozoo.models.m3sense.experiments.tables import CAM, table_text

HOME = Path(m3sense.__file__).parent
SCORES = {"accuracy", "balanced_accuracy", "macro_f1", "majority"}


def ours_of(record):
    return [row for row in record["rows"] if row["source"] != PUBLISHED]


@pytest.fixture(autouse=True)
def fewer_models(monkeypatch):
    """The smoke profile with one of each kind of model, so that the tests are quick; all presets in the slow test."""
    from pyrozoo.models.m3sense.experiments import tables

    monkeypatch.setattr(tables, "BASELINES", {"extra trees": m3sense.BASELINES["extra trees"]})
    monkeypatch.setattr(tables, "SINGLE_TASK", {"Keyless": m3sense.SINGLE_TASK["Keyless"]})
    monkeypatch.setattr(tables, "MULTITASK", {CAM: m3sense.MULTITASK[CAM]})
    monkeypatch.setitem(runs.PROFILES["smoke"], "settings", {**runs.PROFILES["smoke"]["settings"], "epochs": 1})


@pytest.fixture
def cheap(monkeypatch):
    """Few draws and trees, where scores only have to be there."""
    predict, trees = runs.predict, baselines.tree_classifier
    monkeypatch.setattr(runs, "predict", lambda *args, **options: predict(*args, **{**options, "draws": 2}))
    monkeypatch.setattr(baselines, "tree_classifier", lambda seed, n_trees: trees(seed, 5))


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("table2", TABLE_2),
        pytest.param("table4", TABLE_4, marks=pytest.mark.slow),
        pytest.param("table5", TABLE_5, marks=pytest.mark.slow),
    ],
)
def test_the_tables_put_published_rows_beside_ours_and_go_on_where_they_stopped(name, published, tmp_path, capsys):
    record = run("m3sense", name, profile="smoke", out=tmp_path)
    theirs = [row for row in record["rows"] if row["source"] == PUBLISHED]
    assert [(r["task"], r["model"], r["accuracy"]) for r in theirs] == [
        (r["task"], r["model"], r["accuracy"]) for r in published
    ]
    assert {row["source"] for row in ours_of(record)} == {"ours (simulated data)"}
    assert all(np.isfinite(row[score]) for row in ours_of(record) for score in SCORES)
    assert record["extra"]["differences"]
    job = next((tmp_path / "jobs").glob("*.json"))
    before = job.stat().st_mtime_ns
    assert run("m3sense", name, profile="smoke", out=tmp_path)["rows"] == record["rows"]
    assert job.stat().st_mtime_ns == before
    assert "(published, own data)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table2", "table5"])
def test_every_preset_runs(name, tmp_path, monkeypatch):
    monkeypatch.undo()
    models = {row["model"] for row in ours_of(run("m3sense", name, profile="smoke", out=tmp_path))}
    assert any(preset in model for preset in m3sense.PRESETS for model in models)


@pytest.mark.slow
def test_the_modalities_are_left_out_one_by_one(tmp_path, monkeypatch):
    from pyrozoo.models.m3sense.experiments import tables

    monkeypatch.setattr(tables, "modalities", lambda data: ["bvp", "temp"])
    record = run("m3sense", "figure8", profile="smoke", out=tmp_path)
    subsets = {row["model"].split(": ")[1] for row in record["rows"]}
    assert subsets == {"bvp", "temp", "bvp+temp"}
    assert (tmp_path / "figures" / "figure8.png").stat().st_size > 10_000


@pytest.mark.parametrize(("profile", "n"), [("quick", 4), ("paper", 15)])
def test_every_model_of_the_paper_is_in_figure_8_of_its_profile(profile, n, tmp_path, monkeypatch):
    from pyrozoo.models.m3sense.experiments import tables

    monkeypatch.undo()
    monkeypatch.setattr(tables, "data_of", lambda *given: None)
    monkeypatch.setattr(tables, "modalities", lambda data: ["bvp", "eda", "temp"])
    monkeypatch.setattr(tables, "_experiment", lambda plan, *given: plan)
    plan = tables.figure8_experiment(tmp_path, profile)
    models = {name.partition(": ")[0] for name, _ in plan}
    assert len(models) == n
    assert models == {arguments["model"] for arguments in plan.values()}
    assert profile == "quick" or models == {*m3sense.PRESETS, *m3sense.BASELINES, "latent (CAM)"}
    for model in models:
        subsets = {name.partition(": ")[2] for name, _ in plan if name.startswith(f"{model}: ")}
        assert len(subsets) == 7


@pytest.mark.usefixtures("cheap")
def test_a_new_task_is_learned_from_few_labels_in_every_way(tmp_path, monkeypatch):
    from pyrozoo.models.m3sense.experiments import figure7

    monkeypatch.setattr(figure7, "TASKS", ("anxiety", "stress"))
    record = run("m3sense", "figure7", profile="smoke", out=tmp_path)
    assert {row["model"] for row in record["rows"]} == set(figure7.METHODS)
    assert all(np.isfinite(row["balanced_accuracy"]) for row in record["rows"])
    assert (tmp_path / "figures" / "figure7.png").stat().st_size > 10_000


def test_few_labels_hold_every_class_and_no_other_task():
    train, _ = runs.parts_of(0, "smoke")
    few = few_of(train, "stress", 8, 0)
    assert few.n_rows == 8
    assert few.observed("y_stress").all()
    assert set(few["y_stress"].tolist()) == {0, 1, 2}
    assert not few.observed("y_anxiety").any()
    with pytest.raises(ValueError, match="labelled windows for training"):
        few_of(train, "stress", 10_000, 0)


@pytest.mark.parametrize("name", ["alignment", pytest.param("calibration", marks=pytest.mark.slow)])
def test_alignment_and_calibration_are_drawn_with_the_numbers_behind_them(name, tmp_path, monkeypatch):
    record = run("m3sense", name, profile="smoke", out=tmp_path)
    assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 10_000
    own = {"kl", "alignment_gradient", "label_gradient"} if name == "alignment" else {"ece", "log_loss"}
    assert all(np.isfinite([row[score] for score in own]).all() for row in record["rows"])
    monkeypatch.setitem(runs.PROFILES["smoke"]["settings"], "batch_size", 16)
    with pytest.raises(ValueError, match="other settings; choose another folder"):  # results are not mixed
        run("m3sense", name, profile="smoke", out=tmp_path)


def test_alignment_is_the_term_of_the_objective():
    data = m3sense.simulate_all(0, n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 8, "eda": 4, "temp": 4})
    model = zoo.create_model("m3sense", data, embedding=4, lstm_layers=1, hidden=(4, 4), head=3, a_dim=2, q_hidden=3)
    fit = zoo.fit(model, "paper", data, epochs=1, progress=False)
    before = {name: buffer.clone() for name, buffer in fit.model.named_buffers()}
    found = m3sense.alignment(fit, data)
    with torch.no_grad():
        h = fit.model.encode(**fit.prepare(data))
        total = 0.0
        for i in range(3):
            q = fit.guide.posterior(fit.guide.networks[i](h[i])).base_dist
            total += (0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()).sum(-1).mean()
    assert found.kl == pytest.approx(float(total), rel=1e-5)
    assert not fit.model.representation.training
    after = {name: buffer.clone() for name, buffer in fit.model.named_buffers()}
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())
    assert found.alignment_gradient > 0
    assert found.label_gradient > 0
    other = zoo.create_model("m3sense", data, variant="unaligned", embedding=4, lstm_layers=1, hidden=(4, 4), head=3)
    with pytest.raises(ValueError, match="variant 'm3sense' or 'latent'"):
        m3sense.alignment(zoo.fit(other, "none", data, epochs=1, progress=False), data)


@pytest.mark.parametrize("name", ["table6", pytest.param("table7", marks=pytest.mark.slow)])
def test_parameters_and_times_stand_beside_the_published_ones(name, tmp_path):
    record = run("m3sense", name, profile="smoke", out=tmp_path)
    what = "parameters" if name == "table6" else "ms"
    assert all(row[what] > 0 for row in record["rows"])
    assert {row["model"] for row in record["rows"] if row["source"] == PUBLISHED} == set(m3sense.PRESETS)


def test_one_model_has_fewer_parameters_than_three_at_the_papers_sizes():
    rows = {row["model"]: row for row in ours_of(read_record(HOME / "results" / "table6"))}
    assert rows["Non-Attention"]["parameters"] == pytest.approx(1110, rel=0.01)
    assert rows[CAM]["parameters"] == pytest.approx(2251, rel=0.02)
    assert all(row["share"] < 0.70 for row in rows.values() if row.get("share") is not None)


def test_all_tasks_at_once_take_less_than_half_the_time_in_the_committed_record():
    rows = [row for row in ours_of(read_record(HOME / "results" / "table7")) if row.get("ratio") is not None]
    assert {row["batch"] for row in rows} == {2, 64}
    assert all(row["ratio"] < 0.5 for row in rows)


@pytest.mark.parametrize("name", ["table2", "table4", "table5", "table6", "table7"])
def test_tables_in_the_page_are_those_of_the_committed_records(name):
    record = read_record(HOME / "results" / name)
    text = sizes_text(record["rows"]) if name in ("table6", "table7") else table_text(record["rows"], record["extra"])
    page = (HOME / "README.md").read_text()
    assert text.split("\n\n" + next(iter(record["extra"].get("differences", {"-": 0})), "-"))[0] in page
    assert record["model"] == f"m3sense@{zoo.card('m3sense').version}"


@pytest.mark.parametrize("name", ["table2", "table4", "table5", "figure7", "figure8", "alignment", "calibration"])
def test_committed_records_are_of_the_configurations_in_the_code(name):
    recorded = read_record(HOME / "results" / name)["extra"]["configuration"]
    models = [model for model in recorded if model in runs.MODELS]
    assert {model: recorded[model] for model in models} == runs.configuration(models, "quick")


def test_the_alignment_of_the_paper_dies_and_that_of_the_latents_lives_in_the_committed_record():
    rows = ours_of(read_record(HOME / "results" / "alignment"))
    course = {name: [row for row in rows if row["model"] == name] for name in (CAM, "latent (CAM)")}
    first, last = ({name: own[k] for name, own in course.items()} for k in (0, -1))
    assert last[CAM]["kl"] < 0.01 < 1 < last["latent (CAM)"]["kl"]
    assert last[CAM]["alignment_gradient"] < 0.1 * first[CAM]["alignment_gradient"]
    assert last["latent (CAM)"]["alignment_gradient"] > first["latent (CAM)"]["alignment_gradient"]


def test_the_reference_fit_predicts_as_its_record_says():
    fit = zoo.load_reference("m3sense/simulated")
    folder = HOME / "reference" / "simulated"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2e6
    train, test = runs.parts_of(0, "quick")
    recorded = read_record(folder)["rows"][0]
    found = runs.scored(fit, runs.chosen(train, runs.TASKS), test, runs.TASKS)
    for task in runs.TASKS:
        assert found[f"{task}.balanced_accuracy"] == pytest.approx(recorded[f"{task}.balanced_accuracy"], abs=0.02)


def test_nobody_is_in_training_and_test_and_single_tasks_see_their_own_windows():
    train, test = runs.parts_of(1, "smoke")
    assert not set(train.group_names("subject")) & set(test.group_names("subject"))
    own = runs.chosen(train, ["stress"], unlabelled=False)
    assert own.observed("y_stress").all()
    both = runs.chosen(train, ["stress"])
    blank = ~(both.observed("y_anxiety") | both.observed("y_emotion") | both.observed("y_stress"))
    assert 0 < blank.sum() == both.n_rows - own.n_rows


def test_the_papers_profile_has_the_papers_sizes_and_learning_rate():
    variant, arguments = runs.arguments_of(CAM, "paper")
    assert (variant, arguments["embedding"], arguments["gamma"]) == ("m3sense", 128, 0.3)
    rate = [runs.warm_restarts(epoch / 65) for epoch in (0, 15, 29.999, 30, 60)]
    assert rate == pytest.approx([1, 0.5, 0, 1, 0.5], abs=1e-3)


@pytest.mark.usefixtures("cheap")
def test_experiments_run_on_folders_of_real_data(tmp_path):
    import test_m3sense_data as miniature

    study = tmp_path / "study"
    miniature.write_verbio(study / "verbio")
    for number in (1, 2):
        miniature.write_kemocon(study / "kemocon", number)
    with pytest.raises(ValueError, match="no data set of task 'stress'; the tables need verbio"):
        runs.data_of(0, "smoke", str(study))
    for person in ("S2", "S3"):
        miniature.write_wesad(study / "wesad", person)
    runs.read_study.cache_clear()
    record = run("m3sense", "table4", profile="smoke", out=tmp_path / "out", data=str(study))
    assert {row["source"] for row in ours_of(record)} == {"ours (real data)"}
    assert {row["task"] for row in ours_of(record) if row["model"] == "clock"} == set(runs.TASKS)
    assert record["data"]["simulated"] is False
    assert "another split of the same people" in record["extra"]["note"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="name the data sets' folders"):
        m3sense.read_study(tmp_path / "empty", (("bvp", 8.0),))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        m3sense.read_study(tmp_path / "nowhere", (("bvp", 8.0),))


def test_the_command_line_hands_data_to_experiments_that_take_them(tmp_path, capsys):
    assert main(["reproduce", "m3sense", "table6", "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "takes none" in capsys.readouterr().err
    assert main(["reproduce", "m3sense", "stress-predict", "--out", str(tmp_path / "o")]) == 2
    assert "needs the recordings" in capsys.readouterr().err


@pytest.fixture
def few_windows(monkeypatch):
    """Six people with a session of ten windows each, in place of the recordings."""
    from pyrozoo.models.m3sense.data.batches import numbered

    data = m3sense.simulate("simulated stress", 0, n_subjects=6, n_windows=10, rates=dict(stress.RATES))
    names, codes = data.coords["y_stress_class"][:2], (data["y_stress"].numpy() > 0).astype(int)
    data = m3sense.from_arrays(
        {m: data[m] for m in stress.RATES}, codes, [f"S{k:02d}" for k in data["subject"].tolist()], "stress",
        classes=list(names), rates=dict(stress.RATES),
    )  # fmt: skip
    data = numbered(m3sense.standardise(data))
    stress.featured_windows.cache_clear()
    monkeypatch.setattr(stress, "stress_windows", lambda path, degree=0: data)
    yield data
    stress.featured_windows.cache_clear()


def test_nobody_is_in_training_and_tested_in_any_fold(few_windows):
    people = stress.people_of(few_windows)
    train, test = stress._parts("few", people[:5], people[:2], [])
    assert set(train.group_names("subject")) == set(people[2:5])
    assert set(test.group_names("subject")) == set(people[:2])
    own, other = stress._parts("few", people, people[:2], people[2:4])
    assert set(own.group_names("subject")) == set(people[4:])
    assert set(other.group_names("subject")) == set(people[2:4])


@pytest.mark.usefixtures("short_searches")
def test_networks_for_people_left_out_are_chosen_without_them(few_windows, tmp_path, monkeypatch):
    monkeypatch.setattr(stress, "INNER", 2)
    command = ["reproduce", "m3sense", "stress-predict", "--data", "few", "--profile", "smoke", "--out", str(tmp_path)]
    assert main([*command, "--people", "5", "--folds", "2"]) == 0
    record = read_record(tmp_path)
    assert [row["model"] for row in record["rows"]] == [stress.CLOCK, stress.CROSSED, stress.CHOSEN, *stress.SIMPLE]
    assert sorted(record["extra"]["people"]) == stress.people_of(few_windows)[:5]
    assert set(record["extra"]["chosen"].values()) <= set(stress.NETS)
    assert len(record["extra"]["chosen"]) == 2
    assert 0 <= record["extra"]["law"]["w"] <= 1
    for values in record["extra"]["balanced_accuracy"].values():
        assert len(values) == 5
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "jobs").glob("*.json")]
    assert {len(job["result"]["p"]) for job in jobs} <= {10, 20, 30}
    assert all(not set(job["arguments"]["outer"]) & set(job["arguments"]["inner"]) for job in jobs)


@pytest.mark.parametrize("options", [{"people": 3}, {"folds": 7}, {"folds": 1}])
def test_too_few_people_or_too_many_folds_are_refused(few_windows, tmp_path, options):
    with pytest.raises(ValueError, match=r"people, folds: . people in . folds; give more than 3 people"):
        run("m3sense", "stress-predict", profile="smoke", data="few", out=tmp_path, **options)


def test_the_page_shows_stress_predict_as_its_record_has_it():
    record = read_record(HOME / "results" / "stress-predict")
    assert stress.stress_text(record["rows"], record["extra"]) in (HOME / "README.md").read_text()
    assert record["data"]["simulated"] is False
    assert record["seeds"] == [0, 1, 2]
    recorded = record["extra"]["configuration"]
    assert {name: recorded[name] for name in stress.SETTINGS} == stress.SETTINGS
    assert {name: recorded[name] for name in stress.NETS} == runs.configuration(stress.NETS, "quick")


@pytest.mark.parametrize("name", sorted(tuning.SEEDS))
def test_a_search_scores_no_seed_of_an_experiment(name):
    _, configurations = tuning.search(name)
    assert min(tuning.SEEDS[name]) >= 100
    assert len({json.dumps(own) for own in configurations}) == len(configurations)


def test_steps_and_learning_rate_are_those_of_the_search_in_its_record():
    record = json.loads((tuning.FOLDER / "stress.json").read_text())
    assert record["seeds"] == list(tuning.SEEDS["stress"])
    assert record["chosen"] == tuning.chosen_of("stress", record["rows"])
    assert record["chosen"] == {"lr": stress.LEARNING_RATE, "steps": stress.STEPS}
    data = m3sense.with_features(m3sense.simulate("simulated stress", n_subjects=2, n_windows=4, rates={"eda": 4}))
    settings = zoo.create_model("m3sense", data, tasks={"stress": 3}).fit_defaults
    assert {name: settings[name] for name in ("lr", "steps")} == record["chosen"]
    chosen = [row for row in record["rows"] if {"lr": row["lr"], "steps": row["steps"]} == record["chosen"]]
    assert [row["net"] for row in chosen] == list(stress.NETS)
    assert min(row["rarest"] for row in chosen) > 0.15, "of three classes; none collapses"


def test_the_page_says_of_figures_7_and_8_what_their_records_have():
    page = " ".join((HOME / "README.md").read_text().split())
    record = read_record(HOME / "results" / "figure7")
    value = {(row["task"], row["labels"], row["model"]): row["balanced_accuracy"] for row in record["rows"]}
    before, after = ([value["stress", n, m] for n in (8, 24, 72)] for m in (BEFORE_SINGLE, BEFORE_PAIR))
    assert (
        "{:.3f}, {:.3f} and {:.3f} with 8, 24 and 72 labels become {:.3f}, {:.3f} and {:.3f}".format(*before, *after)
        in page
    )
    for task, text in (
        ("stress", "({:.0f} to {:.0f} %)"),
        ("anxiety", "the change is {:.0f} to {:.0f} %"),
        ("emotion", "on emotion {:.0f} to {:.0f} %"),
    ):
        change = [100 * (value[task, n, BEFORE_PAIR] / value[task, n, BEFORE_SINGLE] - 1) for n in (8, 24, 72)]
        assert text.format(min(change), max(change)) in page
    gains = [b - a for a, b in zip(before, after, strict=True)]
    assert f"a single-task network from another task by {min(gains):.2f} to {max(gains):.2f}" in page
    for task in ("anxiety", "emotion"):
        for n in (8, 24, 72):
            gain, error = record["extra"]["differences"][
                f"{task}, {n} labels: balanced accuracy of {BEFORE_PAIR} - {BEFORE_SINGLE}"
            ]
            assert abs(gain) < 2 * error

    shown = {}
    for row in read_record(HOME / "results" / "figure8")["rows"]:
        model, _, subset = row["model"].rpartition(": ")
        shown.setdefault((row["task"], subset), {})[model] = row["balanced_accuracy"]
    every, eda, temp, both = "bvp+eda+temp", "eda", "temp", "eda+temp"
    for text, task, subset in (
        ("conductance alone ({} to {})", "anxiety", eda), ("by all three ({} to {})", "anxiety", every),
        ("temperature alone ({} to {})", "anxiety", temp), ("conductance and temperature ({} to {})", "stress", both),
    ):  # fmt: skip
        own = shown[task, subset].values()
        assert text.format(f"{min(own):.2f}", f"{max(own):.2f}") in page
    pulse = [shown["stress", every][model] - own for model, own in shown["stress", both].items()]
    assert f"changes that by {min(pulse):.2f} to {max(pulse):.2f}" in page
    emotion = [value for (task, _), own in shown.items() if task == "emotion" for value in own.values()]
    assert f"none of the subsets ({min(emotion):.2f} to {max(emotion):.2f})" in page


def test_no_weight_of_the_alignment_is_clearly_better_than_that_of_the_tables():
    record = json.loads((tuning.FOLDER / "gamma.json").read_text())
    assert record["seeds"] == list(tuning.SEEDS["gamma"])
    assert [(row["model"], row["gamma"]) for row in record["rows"]] == [
        (model, gamma) for model, weights in tuning.GAMMAS.items() for gamma in weights
    ]
    assert record["chosen"] == tuning.chosen_of("gamma", record["rows"])
    means = {(row["model"], row["gamma"]): row["mean"] for row in record["rows"]}
    page = " ".join((HOME / "README.md").read_text().split())
    assert len(record["differences"]) == len(means) - len(tuning.GAMMAS)
    for what, (value, error) in record["differences"].items():
        model, _, pair = what.partition(": ")
        used, other = map(float, pair.split(" - "))
        assert used == runs.MODELS[model]["gamma"]
        assert value == pytest.approx(means[model, used] - means[model, other], abs=2e-4)
        assert value > -error
        assert f"{abs(value):.3f} ± {error:.3f}" in page
    for row in record["rows"]:
        if row["model"] == "generative (CAM)":
            assert row["anxiety"] == row["emotion"] == 0.5


def test_differences_of_weights_are_paired_over_simulations():
    own = {("latent (CAM)", 0.03): [0.5, 0.7], ("latent (CAM)", 0.1): [0.4, 0.5]}
    assert tuning.differences_of(own) == {"latent (CAM): 0.03 - 0.1": [0.15, 0.05]}


def test_the_page_shows_the_clock_as_its_record_has_it():
    record = read_record(HOME / "results" / "clock")
    page = (HOME / "README.md").read_text()
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
    rows = [{"model": row["model"]} | {k: row[k] for n in names for k in (n, f"{n}_se")} for row in record["rows"]]
    assert format_table(rows) in page
    for what, (value, error) in record["extra"]["differences"].items():
        assert f"{what}: {value:+.3f} ± {error:.3f} (paired SE)" in page
    assert record["extra"]["configuration"] == clock.SETTINGS


def test_the_page_says_how_long_many_people_take_as_the_record_has_it():
    root = Path(zoo.models.m3sense.__file__).parents[3]
    record = json.loads((root / "benchmarks" / "records" / "m3sense_people.json").read_text())
    (jobs,) = (table for name, table in record.items() if name.startswith("seconds of the jobs"))
    seconds = sum(row["all"] for row in jobs.values())
    page = " ".join((HOME / "README.md").read_text().split())
    assert f"takes {seconds / 60:.0f} minutes of processor time, about {seconds / 120:.0f} minutes of two" in page
    assert jobs[stress.CROSSED]["all"] / seconds == pytest.approx(2 / 3, abs=0.03)
    assert seconds / 120 < 60, "minutes"
    assert f"160 windows took {jobs[stress.CROSSED]['seconds']:.0f} seconds of processor time" in page
    minutes = read_record(HOME / "results" / "table2")["extra"]["job_seconds"] / 60
    assert f"({minutes:.0f} minutes of one busy core, {minutes / 3:.0f} a simulation)" in page


def test_the_time_that_the_task_switch_saves_is_that_of_the_record():
    folder = Path(zoo.models.m3sense.__file__).parent
    record = json.loads((folder.parents[2] / "benchmarks" / "records" / "m3sense_switch.json").read_text())
    ratios = [row["ratio_rounds"] for name, table in record.items() if "switch" in name for row in table.values()]
    page = " ".join((folder / "README.md").read_text().split())
    assert len(ratios) == 8
    assert f"medians of {min(ratios):.2f} to {max(ratios):.2f} of the time for all tasks" in page


# ------------------------------------------------------------------ techniques of training
@pytest.fixture
def featured(few_windows):
    return m3sense.with_features(few_windows)


def test_augmented_windows_lack_modalities_but_never_all(featured):
    many = techniques.left_out(featured, 0)
    assert many.n_rows == techniques.COPIES * featured.n_rows
    blank = torch.stack([(many[name] == 0).all(1) for name in stress.RATES], 1)
    assert torch.equal(blank, torch.stack([(many[f"{name}_features"] == 0).all(1) for name in stress.RATES], 1))
    assert not blank.all(1).any()
    assert blank.float().mean() == pytest.approx(techniques.SHARE, abs=0.05)
    assert torch.equal(many["y_stress"], featured["y_stress"].repeat(techniques.COPIES))


def test_augmented_windows_are_scaled_and_shifted_and_so_are_their_features(featured, monkeypatch):
    monkeypatch.setattr(techniques, "SIZE", 0.0)
    same = techniques.changed(featured, 0)
    for name in stress.RATES:
        torch.testing.assert_close(same[f"{name}_features"], featured[f"{name}_features"].repeat(techniques.COPIES, 1))
    monkeypatch.setattr(techniques, "SIZE", 0.2)
    many, before = techniques.changed(featured, 0), featured["eda"].repeat(techniques.COPIES, 1)
    scale = many["eda"].std(1) / before.std(1)
    torch.testing.assert_close(
        many["eda"] - many["eda"].mean(1, True), scale[:, None] * (before - before.mean(1, True))
    )
    assert scale.log().std() == pytest.approx(0.2, abs=0.05)
    assert (many["eda"].mean(1) - scale * before.mean(1)).std() == pytest.approx(0.2, abs=0.05)
    sd = featured.coords["eda_feature"].tolist().index("sd")
    assert np.corrcoef((many["eda_features"] - same["eda_features"])[:, sd], scale)[0, 1] > 0.5


def test_a_pre_trained_fit_starts_from_what_unlabelled_windows_taught(featured):
    train, test = stress.without(featured, stress.people_of(featured)[:2])
    sizes = {"embedding": 4, "hidden": (4, 4), "head": 4, "a_dim": 2, "q_hidden": 4}
    model = zoo.create_model("m3sense", train, **sizes)
    settings = {"steps": 3, "lr": 0.01, "batch_size": 16}
    start = techniques.pretrained(model, techniques.Parts(train, test, featured.hide()), 0, settings)
    plain = zoo.fit(model, "paper", train, progress=False, **{**settings, "steps": 1})
    found = zoo.fit(model, "paper", train, warm_start=start, progress=False, **{**settings, "steps": 1, "lr": 1e-9})
    name = "representation.heads.0.3.weight"
    own, before, after = (each.model.state_dict()[name] for each in (plain, start, found))
    torch.testing.assert_close(after, before)
    assert (before - own).abs().mean() > 0.01, "three steps on windows without labels"


def test_techniques_are_compared_person_by_person(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)

    def run_technique(path, place, inputs, technique, seed, smoke):
        test = techniques.parts_of(path, place, smoke).test
        p = np.eye(3)[test["y_stress"].numpy()] + (0.01 if technique == techniques.PRETRAINED else rng.random((36, 3)))
        return {"p": (p / p.sum(1, keepdims=True)).tolist(), "seconds": 0.0}

    def here(run, plan, folder, n_jobs):
        return {name: run(**arguments) for name, arguments in plan.items()}

    monkeypatch.setattr(techniques, "technique_run", run_technique)
    monkeypatch.setattr(
        techniques, "run_jobs", lambda job, plan, folder, n_jobs: {k: job(**v) for k, v in plan.items()}
    )
    record = run("m3sense", "techniques", profile="smoke", out=tmp_path)
    rows = {row["model"]: row for row in record["rows"]}
    assert list(rows) == [techniques.ONE, techniques.TOGETHER, *techniques.TECHNIQUES["features"][1:]]
    assert {row["people"] for row in rows.values()} == {3}
    people = record["extra"]["balanced_accuracy"]
    one, best = (
        np.array(list(people[f"features: {name}"].values())) for name in (techniques.ONE, techniques.PRETRAINED)
    )
    assert rows[techniques.ONE]["change"] is None
    assert (best == 1).all()
    assert rows[techniques.PRETRAINED]["change"] == pytest.approx((best - one).mean())
    assert rows[techniques.PRETRAINED]["change_se"] == pytest.approx((best - one).std(ddof=1) / 3**0.5)
    assert rows[techniques.TOGETHER]["log_loss_change"] < 0, "a mean of probabilities loses less than their mean loss"


def test_a_cross_fit_by_ranks_is_compared_with_the_cross_fit_of_the_same_people():
    names = techniques.ONE, techniques.CROSSED, techniques.CROSSED_RANKS
    values = [0.5, 0.6], [0.6, 0.7, 0.8], [0.7, 0.8, 0.9]
    table = {("features", n): {str(k): np.array([v, 1.0]) for k, v in enumerate(own)}
             for n, own in zip(names, values, strict=True)}  # fmt: skip
    one, crossed, ranks = (techniques._row("features", name, table) for name in names)
    assert one["change"] is crossed["change"] is None
    assert (crossed["people"], ranks["people"]) == (3, 3)
    assert ranks["change"] == pytest.approx(0.1)


def test_the_page_says_of_techniques_what_their_records_have():
    page = (HOME / "README.md").read_text()
    text = " ".join(page.split())
    rows = {}
    for kind in ("recorded", "simulated"):
        record = read_record(HOME / "results" / "techniques" / kind)
        assert record["data"]["simulated"] == (kind == "simulated")
        assert record["extra"]["note"] == techniques.NOTE
        shown = [{name: value for name, value in row.items() if name != "source"} for row in record["rows"]]
        assert format_table(shown) in page
        rows |= {(kind, row["inputs"], row["model"]): row for row in shown}
    changes = {of: row for of, row in rows.items() if row["change"] is not None}
    assert "among fourteen comparisons" in text
    assert len(changes) == 14
    ranks, together, before = (
        ("recorded", "features", techniques.CROSSED_RANKS), ("simulated", "features", techniques.TOGETHER),
        ("simulated", "features", techniques.PRETRAINED),
    )  # fmt: skip
    assert {of for of, row in changes.items() if row["change"] > 2 * row["change_se"]} == {ranks, together, before}
    augmented = {(*kind, t) for kind in (("recorded", "features"), ("simulated", "features"))
                 for t in (techniques.CHANGED, techniques.DROPPED)}  # fmt: skip
    for of, row in changes.items():
        if of not in augmented:
            assert f"{abs(row['change']):.3f} ± {row['change_se']:.3f}" in text
    alone = rows["recorded", "features", techniques.ONE]["balanced_accuracy"]
    assert alone > max(row["balanced_accuracy"] for of, row in rows.items() if of[1] == "signals")


@pytest.mark.slow
def test_every_technique_runs(tmp_path):
    record = run("m3sense", "techniques", profile="smoke", out=tmp_path)
    assert all(np.isfinite(row["log_loss"]) for row in record["rows"])
