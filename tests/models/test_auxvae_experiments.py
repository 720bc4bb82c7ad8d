"""auxvae: every experiment runs in its smoke profile, and says what it should."""

import ast
import dataclasses
import functools
import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from auxvae_small import SIZES, trials

import pyrozoo as zoo
from pyrozoo.criticism.latent import _directions
from pyrozoo.experiments.record import PUBLISHED, paired_ratio, read_record
from pyrozoo.experiments.running import run
from pyrozoo.models import auxvae
from pyrozoo.models.auxvae.experiments import report, runs
from pyrozoo.models.auxvae.experiments.departure import (
    KINDS,
    SHOWN,
    calibrated,
    compared_text,
    departure_text,
    personalised,
)
from pyrozoo.models.auxvae.experiments.learned import LEARNING
from pyrozoo.models.auxvae.experiments.people import CROSSED, crossed
from pyrozoo.models.auxvae.experiments.published import TABLE_1, TABLE_2, TABLE_3
from pyrozoo.models.auxvae.experiments.tables import table_text
from pyrozoo.models.auxvae.uses.latent import STAGES, feature_probes, features, latent_probes
from pyrozoo.models.auxvae.uses.personal import PersonEffect


def test_a_ratio_of_paired_errors_has_the_error_of_the_delta_method():
    rng = np.random.default_rng(0)
    b = rng.normal(10, 1, (4000, 20))
    a = 0.7 * b + rng.normal(0, 0.5, b.shape)
    found = np.array([paired_ratio(x, y) for x, y in zip(a[:1000], b[:1000], strict=True)])
    assert found[:, 0].mean() == pytest.approx(0.7, abs=0.002)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.05)
    assert paired_ratio([2.0], [4.0]) == (0.5, None)
    with pytest.raises(ValueError, match="length"):
        paired_ratio([1.0, 2.0], [1.0])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Folder and record of an experiment in its smoke profile, run once."""

    @functools.cache
    def made(name):
        out = tmp_path_factory.mktemp(name)
        return out, run("auxvae", name, profile="smoke", out=out)

    return made


# One table and one figure by default, the others in the slow tests.
@pytest.mark.parametrize(
    "name", [pytest.param("table1", marks=pytest.mark.slow), "table2", pytest.param("table3", marks=pytest.mark.slow)]
)
def test_the_tables_put_published_rows_beside_ours_and_go_on_where_they_stopped(name, smoke, capsys):
    out, record = smoke(name)
    ours = [row for row in record["rows"] if row["source"] != PUBLISHED]
    published = {"table1": TABLE_1, "table2": TABLE_2, "table3": TABLE_3}[name]
    assert [r["mae"] for r in record["rows"] if r["source"] == PUBLISHED] == [r["mae"] for r in published]
    assert {row["source"] for row in ours} == {"ours (simulated data)"}
    assert all(np.isfinite(row["mae"]) and row["mae_se"] is not None for row in ours)
    by_fold = record["extra"]["mae by fold"]
    assert all(row["mae"] == pytest.approx(np.mean(by_fold[row["model"]]), abs=1e-4) for row in ours)
    assert {len(errors) for errors in by_fold.values()} == {len(record["extra"]["folds"])}
    joint = {row["model"] for row in ours if row.get("accuracy") is not None}
    assert joint == {row["model"] for row in ours if name != "table3" and "no style" not in row["model"]}
    job = next((out / "jobs").glob("*.json"))
    before = job.stat().st_mtime_ns
    assert run("auxvae", name, profile="smoke", out=out)["rows"] == record["rows"]
    assert job.stat().st_mtime_ns == before
    assert "(published, own data)" in capsys.readouterr().out


def test_table_2_holds_the_ratio_that_says_whether_auxiliary_gait_helps(smoke):
    _, record = smoke("table2")
    value, error = record["extra"]["ratios"]["MAE of 3: concatenation, style / 2: no x_aux, style"]
    rows = {row["model"]: row["mae"] for row in record["rows"] if row["source"] != PUBLISHED}
    assert value == pytest.approx(rows["3: concatenation, style"] / rows["2: no x_aux, style"])
    assert error > 0


@pytest.mark.parametrize("name", ["figure5", pytest.param("figure6", marks=pytest.mark.slow)])
def test_the_figures_are_drawn_with_the_numbers_behind_them(name, smoke):
    out, record = smoke(name)
    assert (out / "figures" / f"{name}.png").stat().st_size > 10_000
    assert {"load_r2", "load_rank", "style_accuracy", "active", "collapsed", "kl"} <= set(record["rows"][0])
    assert (out / "fits" / "joint-0" / "run.json").exists() or any((out / "fits" / "joint-0").iterdir())


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_tables_in_the_page_are_those_of_the_committed_records(name):
    folder = Path(auxvae.__file__).parent
    record = read_record(folder / "results" / name)
    assert table_text(record["rows"], record["extra"]) in (folder / "README.md").read_text()
    assert record["model"] == f"auxvae@{zoo.card('auxvae').version}"
    rows = [row["model"] for row in record["rows"] if row["source"] != PUBLISHED]
    recorded, present = record["extra"]["configuration"], runs.configuration(rows, "quick")
    assert recorded.keys() == present.keys()
    for row in rows:
        then, now = settings_in(recorded[row]), settings_in(present[row])
        assert then.items() <= now.items()
        # Arguments that came later, at values that leave the density as it was (or the version would be another).
        later = {name: now[name] for name in now.keys() - then.keys()}
        own = {"own_scale": False, "noise": 0.7, "staircase": None, "y_levels": (), "reference": 0}
        assert later in ({"crop": 0.5}, {**own, "crop": 0.5}, {"own_scale": False})


def settings_in(text):
    """The arguments and settings of a row, from their description in a record."""
    text = text.replace("pyrozoo.inference.settings.Adam", "torch.optim.adam.Adam")  # the same steps
    arguments, settings = ast.literal_eval(f"[{text.split(' ', 1)[1].replace('] [', '], [')}]")
    return {**dict(arguments), **dict(settings)}


def same_configuration(record, row):
    """Whether a record was made by the present arguments and settings of its row; `crop` came later, for another."""
    recorded, present = record["extra"]["configuration"], runs.configuration([row], "quick")
    assert recorded.keys() == present.keys()
    then, now = settings_in(recorded[row]), settings_in(present[row])
    return {"crop": 0.5, **then} == now


def test_the_departure_table_in_the_page_is_that_of_the_committed_record():
    folder = Path(auxvae.__file__).parent
    record = read_record(folder / "results" / "departure")
    assert departure_text(record["rows"], record["extra"]) in (folder / "README.md").read_text()
    assert record["model"] == f"auxvae@{zoo.card('auxvae').version}"
    assert same_configuration(record, "departure, style")
    by_fold = record["extra"]["mae by fold"]
    assert all(row["mae"] == pytest.approx(np.mean(by_fold[row["model"]]), abs=1e-4) for row in record["rows"])


def test_what_the_page_says_of_the_learned_departure_is_in_its_records():
    folder = Path(auxvae.__file__).parent
    record, page = read_record(folder / "results" / "learned"), (folder / "README.md").read_text()
    assert compared_text(record["rows"], record["extra"]) in page
    assert same_configuration(record, LEARNING)
    text, by_fold = " ".join(page.split()), record["extra"]["mae by fold"]
    assert all(row["mae"] == pytest.approx(np.mean(by_fold[row["model"]]), abs=1e-4) for row in record["rows"])
    less, more = record["extra"]["differences"].values()
    assert f"the network errs by {-less[0]:.2f} ± {less[1]:.2f} lb less than the ridge regression" in text
    assert f"and by {more[0]:.2f} ± {more[1]:.2f} more than that line rounded" in text
    tried = {row["model"]: row["mae"] for row in read_record(folder / "results" / "learned-tuning")["rows"]}
    pair = [tried[f"learned departure{end}"] for end in ("", ", no staircase")]
    assert "it errs by {:.2f} ± 0.79 lb with it, by {:.2f} ± 0.66 without".format(*pair) in text


def test_the_table_of_people_in_the_page_is_that_of_the_committed_record():
    folder = Path(auxvae.__file__).parent
    record, page = read_record(folder / "results" / "people"), (folder / "README.md").read_text()
    assert compared_text(record["rows"], record["extra"], (*SHOWN, "share")).split("\n\n")[0] in page
    assert same_configuration(record, "departure, style")
    squares, text = "phases and squares", " ".join(page.split())
    for what, sign, words in (
        (f"nonlinear: MAE of {{}} - extra trees on departures, {squares}, rounded", -1, "is {} below that of the best"),
        (f"coordination: MAE of {{}} - extra trees on departures, {squares}, rounded", -1, "3.12 lb, {} ("),
        ("nonlinear: MAE of {} - extra trees on departures", -1, "not rounded it is {} and"),
        (f"coordination: MAE of {{}} - extra trees on departures, {squares}", -1, "and {}."),
        ("linear: MAE of {} - ridge on departures", -1, "errs by {} lb more"),
        (f"linear: MAE of {{}} - ridge on departures, {squares}, rounded", -1, f"by {{}} more with {squares}"),
        ("linear: MAE of {} - ridge on departures, rounded", -1, "and {} without"),
        (f"linear: MAE of {{}} - extra trees on departures, {squares}, rounded", 1, "by {} less with"),
        ("linear: MAE of {} - extra trees on departures, rounded", 1, "and {} less without"),
    ):
        value, error = record["extra"]["differences"][what.format(CROSSED)]
        assert sign * value > 0
        assert words.format(f"{abs(value):.2f} ± {error:.2f}") in text, words
    rows = {row["model"]: row for row in record["rows"]}
    mine = [rows[f"{gait}: {CROSSED}"] for gait in KINDS]
    held = [
        "{:.0f} %, {:.0f} % and {:.0f} %".format(*(100 * row[f"cover90{end}"] for row in mine)) for end in ("", "_min")
    ]
    assert "intervals hold {} of the loads of new people, in the worst of 25 folds {},".format(*held) in text
    assert "at mean widths of {:.1f}, {:.1f} and {:.1f} lb".format(*(row["width90"] for row in mine)) in text


def test_auxiliary_gait_helps_in_the_committed_record():
    record = read_record(Path(auxvae.__file__).parent / "results" / "table2")
    value, _ = record["extra"]["ratios"]["MAE of 3: concatenation, style / 2: no x_aux, style"]
    assert value < 0.95
    rows = {row["model"]: row for row in record["rows"] if row["source"] != PUBLISHED}
    assert rows["5: cross-attention, style"]["accuracy"] > 0.9
    assert 0.85 < rows["5: cross-attention, style"]["cover90"] < 0.95


def test_the_reference_fit_predicts_as_its_record_says():
    fit = zoo.load_reference("auxvae/simulated")
    folder = Path(auxvae.__file__).parent / "reference" / "simulated"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2e6
    _, test = runs.fold_of(0, 0, "quick")
    recorded = read_record(folder)["rows"][0]
    found = runs.scored(fit, test)
    assert found["mae"] == pytest.approx(recorded["mae"], rel=0.01)
    assert found["accuracy"] == pytest.approx(recorded["accuracy"], abs=0.02)


def test_the_ridge_experiment_shows_the_ordering_without_a_network(smoke):
    _, record = smoke("ridge")
    errors = {row["model"]: row["mae"] for row in record["rows"]}
    assert errors["ridge: mean"] == 12.5
    assert errors["ridge: difference"] < errors["ridge: none"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["departure", "people", "process", "beyond", "presets", "tuning", "losses", "learned",
                                  "learned-tuning"])  # fmt: skip
def test_the_other_experiments_run_and_hold_every_error(name, tmp_path):
    record = run("auxvae", name, profile="smoke", out=tmp_path)
    assert record["model"] == f"auxvae@{zoo.card('auxvae').version}"
    if name in ("departure", "people", "learned"):
        by_fold = record["extra"]["mae by fold"]
        assert {row["model"]: row["mae"] for row in record["rows"]} == pytest.approx(
            {model: np.mean(errors) for model, errors in by_fold.items()}, abs=1e-3
        )


def folds_of_trials(rng, offset_sd=4.0, people=5):
    """Three folds of people with an offset of their own, whose spread is three times the rest."""
    out = []
    for k in range(3):
        truth = np.tile([10.0, 20.0, 30.0, 50.0], 4 * people)
        person = np.repeat([f"{k}-{p}" for p in range(people)], 16)
        mean = truth - np.repeat(offset_sd * rng.normal(size=people), 16) + rng.normal(0, 1.3, len(truth))
        trials = {"truth": truth, "mean": mean, "sd": np.full(len(truth), 2.0), "person": person}
        out.append({"mae": 1.0, "trials": {name: values.tolist() for name, values in trials.items()}})
    return out


def test_a_fold_is_calibrated_on_the_people_of_the_others_only():
    folds = folds_of_trials(np.random.default_rng(0))
    first = calibrated(folds)
    errors = [np.abs(np.subtract(one["trials"]["truth"], one["trials"]["mean"])) / 2.0 for one in folds]
    q = np.sort(np.concatenate(errors[1:]))[int(np.ceil(161 * 0.9)) - 1]
    assert first[0]["width90"] == pytest.approx(4 * q)
    assert first[0]["cover90"] == np.mean(errors[0] <= q)
    folds[0]["trials"]["mean"] = [100.0] * 80
    assert calibrated(folds)[0]["width90"] == pytest.approx(first[0]["width90"])


def test_a_fold_is_predicted_by_the_fits_that_had_not_seen_it_and_no_other():
    rng, folds = np.random.default_rng(3), range(4)
    pairs = {}
    for pair in itertools.combinations(folds, 2):
        trials = [one["trials"] for one in folds_of_trials(rng)[:2]]
        for number, one in zip(pair, trials, strict=True):
            one["person"] = [name.replace(name[0], str(number), 1) for name in one["person"]]
            one["style"] = np.eye(4)[np.tile([0, 1, 2, 3], len(one["truth"]) // 4)].tolist()
        pairs[pair] = trials
    style = np.tile([0, 1, 2, 3], 20)
    found = crossed(pairs, 0, style)
    means = np.mean([pairs[0, k][0]["mean"] for k in (1, 2, 3)], 0)
    truth = np.asarray(pairs[0, 1][0]["truth"])
    assert found["mae"] < 0.9 * np.abs(means - truth).mean(), "rounded to the loads"
    assert found["accuracy"] == 1.0
    assert found["cover50"] <= found["cover80"] <= found["cover90"]
    pairs[2, 3] = [{**one, "mean": [99.0] * 80} for one in pairs[2, 3]]
    assert crossed(pairs, 0, style) == found
    pairs[0, 1] = [pairs[0, 1][0], {**pairs[0, 1][1], "mean": [99.0] * 80}]  # the width is learned there
    assert crossed(pairs, 0, style)["width90"] > 2 * found["width90"]
    exact = {"process_mean": np.stack([truth, truth], 1).tolist(), "process_sd": np.ones((80, 2)).tolist()}
    for trials in pairs.values():
        for one in trials:
            one |= {"process_mean": np.stack([one["truth"]] * 2, 1), "process_sd": exact["process_sd"]}
    right = crossed(pairs, 0, style, exact)
    assert right["share"] > 0.9
    assert right["mae"] < 0.1


def test_own_trials_take_off_what_is_a_persons_own():
    rng = np.random.default_rng(1)
    found = [one for seed in range(4) for one in personalised(folds_of_trials(rng), seed)]
    by_number = {n: np.mean([one[n] for one in found]) for n in (0, 1, 2, 4)}
    assert by_number[0] > 1.8 * by_number[1] > 1.8 * by_number[4]
    assert by_number[4] == pytest.approx(1.3 * np.sqrt(2 / np.pi), rel=0.2)


def test_an_effect_of_people_is_learned_as_it_was_made():
    trials = [one["trials"] for one in folds_of_trials(np.random.default_rng(2), people=40)]
    effect = PersonEffect.learn(
        *(np.concatenate([one[name] for one in trials]) for name in ("truth", "mean", "person"))
    )
    assert effect.offset_sd == pytest.approx(4.0, rel=0.15)
    assert effect.sd == pytest.approx(1.3, rel=0.1)
    assert effect.slope_sd < 0.05
    mean, sd = effect.corrected(np.array([20.0]), np.zeros(0), np.zeros(0))
    assert mean.tolist() == [20.0]
    assert sd[0] == pytest.approx(np.hypot(effect.offset_sd, effect.sd), rel=0.1)
    with pytest.raises(ValueError, match="at least two"):
        PersonEffect.learn(np.ones(3), np.ones(3), np.zeros(3))


def test_results_of_other_settings_are_not_mixed_in(smoke, monkeypatch):
    out, _ = smoke("figure5")
    monkeypatch.setitem(runs.PROFILES["smoke"]["settings"], "epochs", 3)
    with pytest.raises(ValueError, match="other settings; choose another folder"):
        run("auxvae", "figure5", profile="smoke", out=out)


def test_results_of_other_data_are_not_mixed_in(smoke):
    out, _ = smoke("ridge")
    with pytest.raises(ValueError, match="choose another folder"):
        run("auxvae", "ridge", profile="smoke", seeds=2, out=out)


def test_no_fold_tests_a_person_it_was_trained_on():
    for fold in range(2):
        train, test = runs.fold_of(0, fold, "smoke")
        assert not set(train.coords["participant"]) & set(test.coords["participant"])


def test_the_papers_profile_has_the_papers_sizes_and_every_configuration_of_its_loss():
    variant, arguments = runs.arguments_of("5: cross-attention, style", "paper", runs.PAPER_LOSS)
    data = auxvae.simulate(n_participants=1, n_steps=800, duration_s=10.0)
    model = zoo.create_model("auxvae", data, variant=variant, **arguments)
    guide = zoo.create_guide(model, "paper")
    total = sum(p.numel() for p in (*model.parameters(), *guide.parameters()))
    assert total == pytest.approx(2.88e6, rel=0.03)
    assert (model.z_dim, model.y_likelihood, model.beta) == (128, "mae", 1.0)
    assert runs.arguments_of("5: cross-attention, style", "paper")[1]["y_likelihood"] == "mae_lb"
    assert [runs.settings_of("5: cross-attention, style", "paper")["anneal"](p) for p in (0.0, 0.5, 1.0)] == [0, 0.5, 1]
    assert model.recon_weight == pytest.approx(1 / (800 * 72))


def fitted(variant="auxvae", **arguments):
    data = trials(n=16, people=4, known="observed", dtype=torch.float32)
    model = zoo.create_model("auxvae", data, variant=variant, **{**SIZES, **arguments})
    return zoo.fit(model, "paper", data, epochs=2, batch_size=8, progress=False), data


def others(data):
    """The same trials by people of other names."""
    return dataclasses.replace(data, coords={**data.coords, "participant": np.array(["O0", "O1", "O2", "O3"])})


def known(data):
    return data.subset(np.flatnonzero(data.observed("y")))


def test_probes_read_load_and_style_that_are_there():
    fit, data = fitted()
    data = known(data)
    found = latent_probes(fit, data, others(data), draws=2)
    assert set(found) == {"load_r2", "load_rank", "style_accuracy", "active", "collapsed", "kl"}
    assert found["collapsed"] in (0.0, 1.0)
    shapes = {stage: h.shape for stage, h in features(fit, data).items()}
    assert shapes == dict.fromkeys(STAGES, (13, 6, 4))
    assert set(feature_probes(fit, data, others(data))) == set(STAGES)
    with pytest.raises(ValueError, match="in training and test data"):
        latent_probes(fit, data, data)
    with pytest.raises(ValueError, match="style: unknown on some trials"):
        feature_probes(fit, data, others(data.relabel(np.arange(13) > 2, "style")))


def test_features_around_attention_need_attention():
    fit, data = fitted(fusion="concat")
    with pytest.raises(ValueError, match="fusion='cross'"):
        features(fit, data)


def test_figures_say_what_they_show():
    fit, data = fitted()
    figure = report.latent_figure({"joint": fit}, data.subset(np.arange(40 % 16 + 8)), data)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["joint: z by carrying style (simulated gait)", "joint: z by load (simulated gait)"]
    assert "load [lb]" in {ax.get_ylabel() for ax in figure.axes}
    figure = report.feature_figure(fit, data, style=int(data["style"][0]))
    assert [ax.get_title() for ax in figure.axes] == list(STAGES)


def test_the_command_line_fits_and_predicts_trials_in_files(tmp_path):
    from pyrozoo.cli import main

    walks = auxvae.simulate(n_participants=2, n_steps=120, duration_s=3.0)
    channels, n = [0, 20, 57], 8
    signal = [*walks["x_aux"][..., channels].numpy(), *walks["x"][::4][..., channels].numpy()]
    people = walks.coords["participant"]
    styles = [auxvae.STYLES[k] for k in walks["style"][::4].tolist()]
    given = {
        "signal": np.concatenate(signal), "length": np.full(2 + n, 120), "rate_hz": np.array(40.0),
        "participant": np.array([*people, *walks.group_names("participant")[::4]]),
        "style": np.array(["", "", *styles]), "load_lb": np.array([0.0, 0.0, *np.linspace(10, 50, n)]),
        "channels": np.array(["t6_acc_x", "t6_acc_y", "t6_gyro_x"]),
    }  # fmt: skip
    np.savez(tmp_path / "walks.npz", **given)
    out, table = tmp_path / "run", tmp_path / "loads.csv"
    small = [part for name in ("width", "z_dim") for part in ("--set", f"{name}=4")]
    words = ["--set", "fusion=concat", "--set", "y_likelihood=normal"]
    assert main(["fit", "auxvae", "--data", str(tmp_path / "walks.npz"), *small, *words, "--steps", "4",
                 "--no-cross-fit", "--out", str(out)]) == 0  # fmt: skip
    assert json.loads(next(out.glob("*.json")).read_text())
    given["load_lb"] = np.where(given["load_lb"] > 0, np.nan, 0.0)
    given["style"] = np.full(2 + n, "")
    np.savez(tmp_path / "new.npz", **given)
    assert main(["predict", str(out), "--data", str(tmp_path / "new.npz"), "--out", str(table)]) == 0
    header, *lines = table.read_text().splitlines()
    assert header.startswith("row,participant,y.mean,y.sd,y.q05")
    assert len(lines) == n


@pytest.mark.usefixtures("short_searches")
@pytest.mark.filterwarnings("default:participant")
def test_the_command_line_cross_fits_by_people(tmp_path, monkeypatch, capsys):
    from pyrozoo.cli import main

    monkeypatch.setattr("pyrozoo.inference.covariances.STEPS", 2)
    walks = auxvae.simulate(n_participants=6, n_steps=120, duration_s=3.0)
    channels, people, kept = [0, 20, 57], walks.coords["participant"], slice(None, None, 2)
    signal = [*walks["x_aux"][..., channels].numpy(), *walks["x"][kept][..., channels].numpy()]
    n = len(signal) - len(people)
    np.savez(
        tmp_path / "walks.npz", signal=np.concatenate(signal), length=np.full(n + 6, 120), rate_hz=np.array(40.0),
        participant=np.array([*people, *walks.group_names("participant")[kept]]),
        style=np.array([""] * 6 + [auxvae.STYLES[k] for k in walks["style"][kept].tolist()]),
        load_lb=np.array([0.0] * 6 + walks["y"][kept].tolist()),
        channels=np.array(["t6_acc_x", "t6_acc_y", "t6_gyro_x"]),
    )  # fmt: skip
    small = [part for name in ("width", "z_dim") for part in ("--set", f"{name}=4")]
    command = ["fit", "auxvae", "--data", str(tmp_path / "walks.npz"), *small, "--steps", "2", "--out"]
    assert main([*command, str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "intervals corrected on 48 labels" in said.out
    assert "participant: the law is learned from only 6" in said.err
    fit = zoo.load(tmp_path / "run")
    assert (len(fit.runs), fit.law.facts["by"], fit.law.process.open_units) == (5, "participant", True)
    new = tmp_path / "new.csv"
    assert main(["predict", str(tmp_path / "run"), "--data", str(tmp_path / "walks.npz"), "--out", str(new)]) == 0
    assert len(pd.read_csv(new)) == 48
    assert main([*command, str(tmp_path / "plain"), "--no-cross-fit"]) == 0
    assert zoo.load(tmp_path / "plain").law is None


def test_predictions_of_a_folder_are_listed_by_file_and_line(tmp_path, capsys):
    from pyrozoo.cli import main

    walks = auxvae.simulate(n_participants=2, n_steps=120, duration_s=3.0)
    kept = np.r_[0:2, 16:18]
    signal = [*walks["x_aux"][..., [0, 20]].numpy(), *walks["x"][kept][..., [0, 20]].numpy()]
    order = [3, 0, 2, 1, 5, 4]  # unloaded walks lie among the others
    table = pd.DataFrame({
        "file": [f"w{k}.csv" for k in range(6)], "participant": ["P01", "P02", "P01", "P01", "P02", "P02"],
        "style": ["", "", "sling", "box", "sling", "box"], "load_lb": [0, 0, 10, 20, 30, 10], "rate_hz": 40.0,
    }).iloc[order]  # fmt: skip
    table.to_csv(tmp_path / "trials.csv", index=False)
    for k, one in enumerate(signal):
        pd.DataFrame(one, columns=["t6_acc_x", "t6_gyro_x"]).to_csv(tmp_path / f"w{k}.csv", index=False)
    small = [part for name in ("width", "z_dim") for part in ("--set", f"{name}=4")]
    command = ["fit", "auxvae", "--data", str(tmp_path), *small, "--set", "fusion=departure", "--steps", "4",
               "--no-cross-fit", "--out", str(tmp_path / "run"), "--styles"]  # fmt: skip
    assert main([*command, "box, box"]) == 2
    assert main([*command, "right hand,box"]) == 2
    assert "style 'sling' is none of ['right hand', 'box']" in capsys.readouterr().err
    assert main([*command, "right hand,sling,box"]) == 0
    assert main(["predict", str(tmp_path / "run"), "--data", str(tmp_path), "--out", str(tmp_path / "loads.csv")]) == 0
    found = pd.read_csv(tmp_path / "loads.csv")
    assert found[["file", "line", "participant"]].to_numpy().tolist() == [
        ["w3.csv", 2, "P01"], ["w2.csv", 4, "P01"], ["w5.csv", 6, "P02"], ["w4.csv", 7, "P02"]
    ]  # fmt: skip
    assert set(found["style.label"]) <= {"right hand", "sling", "box"}
    assert [name for name in found if name.startswith("style.p")] == [
        "style.p[right hand]", "style.p[sling]", "style.p[box]"
    ]  # fmt: skip


def test_intervals_calibrated_on_few_people_are_warned_of():
    fit, data = fitted()
    with pytest.warns(UserWarning, match="participant: labels of only 4 calibrate.* on at least 9"):
        zoo.conformal(fit, known(others(data)), level=0.9, draws=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.conformal(fit, known(others(data)), level=0.6, draws=5)


def test_a_dimension_counts_as_active_above_the_threshold():
    fit, data = fitted()
    table = zoo.latent_report(fit, data, "z", draws=2).table
    limit = float(table["spread"].median())
    report = zoo.latent_report(fit, data, "z", draws=2, threshold=limit)
    assert report.active == (table["spread"] > limit).sum()


def test_directions_count_what_tells_positions_apart_however_the_space_is_turned():
    rng = np.random.default_rng(0)
    sd = np.full((500, 6), 0.5)
    mean = rng.normal(size=(500, 6)) * [2.0, 1.0, 0.3, 0.3, 0.1, 0.1]  # all above the usual threshold of activity
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert _directions(mean, sd) == _directions(mean @ turn, sd) == 2
    assert _directions(mean, np.zeros((500, 6))) == 6  # points
    assert _directions(np.zeros((500, 6)), np.zeros((500, 6))) == 0


def test_the_process_by_itself_in_the_page_is_that_of_the_record():
    folder, errors = Path(auxvae.__file__).parent, {}
    for row in read_record(folder / "results" / "process")["rows"]:
        simulator, _, model = row["model"].partition(": ")
        errors.setdefault(simulator, {})[model] = row["mae"], row["mae_se"]
    page = (folder / "README.md").read_text()
    assert len(errors) == 8
    for simulator, found in errors.items():
        simple = [(name, value) for name, value in found.items() if not name.startswith("process")]
        cells = [min(value for name, value in simple if ("rounded" in name) == rounded) for rounded in (False, True)]
        cells += [found[f"process, scales by {scales}, rounded"] for scales in ("kind", "kind and sensor")]
        assert f"| {' | '.join([simulator, *(f'{mean:.2f} ± {se:.2f}' for mean, se in cells)])} |" in page
