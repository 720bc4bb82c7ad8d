"""The experiments end to end at their smoke size, the committed records, and the reference fit."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import pyrozoo as zoo
from pyrozoo.criticism.scores import rmse
from pyrozoo.experiments.record import PUBLISHED, format_table, read_record
from pyrozoo.experiments.running import run
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.experiments import baselines, runs, table1
from pyrozoo.models.ssmtl.experiments import tuning as tune
from pyrozoo.models.ssmtl.experiments.cross_fitted import KINDS, SMOKE
from pyrozoo.models.ssmtl.experiments.faults import auroc_table
from pyrozoo.models.ssmtl.experiments.figure11 import figure11_table
from pyrozoo.models.ssmtl.experiments.figure11b import arrived, figure11b_table, split_batches
from pyrozoo.models.ssmtl.experiments.guides import guides_table
from pyrozoo.models.ssmtl.experiments.intervals import intervals_table
from pyrozoo.models.ssmtl.experiments.runs import dryer_data
from pyrozoo.models.ssmtl.experiments.shared import summary_table
from pyrozoo.models.ssmtl.experiments.table2 import table2_data, table2_table
from pyrozoo.models.ssmtl.uses.calibration import MODES

RESULTS = Path(tune.__file__).parents[1] / "results"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, short_searches):
    out = tmp_path_factory.mktemp("dryer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_N_TREES", 5)
        return out, run("ssmtl", "dryer", profile="smoke", out=out)


def test_dryer_leaves_record_table_figures_and_a_posterior_with_the_names_of_batches_and_tags(smoke):
    out, record = smoke  # looked at by one test: two would often be on two workers, which would both run the experiment
    assert {"record.json", "table.csv", "posterior.nc"} <= {p.name for p in out.iterdir()}
    assert len(list((out / "figures").glob("*.png"))) == 7
    assert record["data"]["simulated"] is False
    assert record["rows"][0]["model"] == "SSMTL, cross-fitted"
    assert {row["model"] for row in record["rows"]} >= {"SSMTL", "MTL", "trees with unit means"}
    assert all({"cover50", "cover80", "cover90"} <= set(row) for row in record["rows"] if row["model"] == "SSMTL")
    idata = zoo.load_netcdf(out / "posterior.nc")
    assert idata["posterior"]["c"].dims == ("chain", "draw", "unit", "context")
    assert idata["posterior"].sizes["chain"] == SMOKE["restarts"]
    assert idata["posterior_predictive"]["y"].attrs["target"] == "CollectorTankLevel"


@pytest.mark.slow
def test_a_second_call_repeats_no_job(smoke):
    out, _ = smoke
    before = {p: p.stat().st_mtime_ns for p in (out / "jobs").iterdir()}
    run("ssmtl", "dryer", profile="smoke", out=out)
    assert before == {p: p.stat().st_mtime_ns for p in (out / "jobs").iterdir()}


def test_a_folder_of_other_data_is_refused(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "identity.json").write_text('{"model": "ssmtl@0", "data": "other"}')
    with pytest.raises(ValueError, match="another version"):
        run("ssmtl", "dryer", profile="smoke", out=tmp_path)


def test_table1_record_names_the_data_of_its_jobs():
    digests = [simulate(50, 5, 100, 100, seed=seed, valve_area=(3e-4, 8e-4))[0].sha256 for seed in range(3)]
    expected = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert read_record(RESULTS / "table1")["data"]["sha256"] == expected


@pytest.mark.slow
def test_table1_has_published_rows_beside_ours(tmp_path):
    record = run("ssmtl", "table1", profile="smoke", out=tmp_path)
    published = [row for row in record["rows"] if row["source"] == PUBLISHED]
    assert [row["mape"] for row in published] == [22.302, 3.671, 3.534, 3.375, 3.31]
    assert all("simulated" in row["source"] for row in record["rows"] if row not in published)


@pytest.mark.parametrize(("model", "ratio"), [("mtl", 1), ("ssmtl", 5)])
def test_the_papers_settings_end_by_validation_rows_that_do_not_train(model, ratio, monkeypatch):
    """One labelled row of each unit is kept out; a third step without a better ELBO would end this fit."""
    found = {}

    def scored(model, train, test, seed, arguments, settings, *_):
        found.update(train=train, test=test, seed=seed, **settings)
        return {}

    monkeypatch.setattr(table1, "wells_scored", scored)
    monkeypatch.setattr(table1, "PATIENCE", 3)
    table1.early_stopped_run(model, 0, ratio, 2, **table1.PAPER[model])
    rest, valid = found["train"], found["valid"]
    assert [np.bincount(part["unit"][part["labelled"]]).tolist() for part in (rest, valid)] == [[4] * 50, [1] * 50]
    assert valid.sizes["unlabelled"] == 0
    assert not set(map(tuple, rest["x"].tolist())) & set(map(tuple, valid["x"].tolist()))
    steps = {"mtl": 1, "ssmtl": 10}[model]  # of an epoch
    assert found["patience"] == -(-3 // steps)
    assert found["lr"] == 5e-4

    found.clear()
    monkeypatch.setattr(runs, "wells_scored", scored)
    table1.early_stopped_run(model, 0, ratio, 2, **table1.PAPER[model], whole=True)
    assert np.bincount(found["train"]["unit"][found["train"]["labelled"]]).tolist() == [5] * 50
    assert (found["seed"], found["steps"], "valid" in found) == (2000, 3000, False)


def test_the_profile_of_the_papers_settings_averages_its_initialisations(tmp_path, monkeypatch):
    plans = {}

    def results_of(function, plan, out, n_jobs):
        plans[function] = plan
        return {name: {"mape": [float(job.get("repeat", 0))] * 50, "wmape": [1.0] * 50, "seconds": 0.0}
                for name, job in plan.items()}  # fmt: skip

    monkeypatch.setattr(table1, "run_jobs", results_of)
    record = run("ssmtl", "table1", profile="paper", seeds=1, repeats=2, out=tmp_path)
    plan = plans[table1.early_stopped_run]
    assert {name for name in plan if name.startswith("mtl-")} == {"mtl-1-0-0", "mtl-1-0-1"}
    assert {name for name, job in plan.items() if job.get("whole")} == {"mtl_whole-1-0-0", "mtl_whole-1-0-1"}
    assert all(job["settings"]["lr"] == 5e-4 for job in plan.values() if "settings" in job)
    assert record["extra"]["initialisations"] == "2 of the paper's 20"
    assert next(row["mape"] for row in record["rows"] if row["model"] == "MTL") == 0.5


def test_unknown_profile_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of"):
        run("ssmtl", "dryer", profile="huge", out=tmp_path)


@pytest.mark.parametrize("experiment", ["dryer", "table1"])
def test_tuning_records_hold_every_configuration_and_score_no_seed_of_the_experiment(experiment):
    record = json.loads((tune.FOLDER / f"{experiment}.json").read_text())
    assert min(record["seeds"]) >= 100  # experiments use 0, 1, 2, ...
    for model, found in record["models"].items():
        assert [row["configuration"] for row in found["tried"]] == tune.SEARCH[experiment][model]
        assert found["chosen"] == min(found["tried"], key=lambda row: row["mean"])["configuration"]


def test_the_tuning_record_of_cross_fitting_follows_from_its_scores():
    record = json.loads((tune.FOLDER / "cross_fitted.json").read_text())
    scores = [{k: row[k] for k in ("rmse", "crps")} for row in record["models"]["ssmtl"]["tried"]]
    assert record == tune.record_cross_fitted(scores)


@pytest.mark.parametrize("experiment", ["dryer", "table1"])
def test_committed_results_used_the_tuned_configurations(experiment):
    record = read_record(RESULTS / experiment)
    for model, configuration in record["extra"]["configurations"].items():
        assert configuration == tune.chosen(experiment, model)
    assert record["model"] == f"ssmtl@{zoo.card('ssmtl').version}"


def test_the_record_of_the_papers_settings_used_them():
    extra = read_record(RESULTS / "table1" / "paper")["extra"]
    assert extra["configurations"] == table1.PAPER
    assert extra["initialisations"] == f"3 of the paper's {table1.INITIALISATIONS}"


def test_reference_fit_predicts_as_its_record_says():
    fit = zoo.load_reference("ssmtl/dryer")
    folder = Path(tune.__file__).parents[1] / "reference" / "dryer"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2e6
    train, test, scored = dryer_data(0)
    assert fit.data["sha256"] == train.sha256
    prediction = zoo.predict(fit, test, draws=50)["y.mean"].to_numpy()
    recorded = read_record(folder)["rows"][0]["rmse"]
    error = rmse(test["y"][:, 0].numpy()[scored], prediction[scored])
    assert np.isclose(error, recorded, rtol=0.01)  # 50 draws of the contexts here, 100 in the record


def rows_of(*folders):
    return [row for folder in folders for row in read_record(RESULTS / folder)["rows"]]


def without_source(folder):
    return [{name: value for name, value in row.items() if name != "source"} for row in rows_of(folder)]


def each_draw(folder):
    return [own for own in read_record(RESULTS / folder)["extra"]["draws"] if own["model"] == KINDS[-1]]


TABLES = {
    "cross-fitted": lambda: format_table(without_source("cross-fitted")),
    "cross-fitted, each draw": lambda: format_table(each_draw("cross-fitted")),
    "drift": lambda: format_table(without_source("drift")),
    "figure11": lambda: figure11_table(rows_of("figure11")),
    "figure11b": lambda: figure11b_table(rows_of("figure11b")),
    "table1, the paper's settings": lambda: summary_table(
        rows_of("table1/paper"), read_record(RESULTS / "table1" / "paper")["extra"]["differences"]
    ),
    "table2": lambda: table2_table(rows_of("table2"), read_record(RESULTS / "table2")["extra"]["differences"]),
    "tables, gaps": lambda: format_table(without_source("tables/dryer")),
    "tables, scales": lambda: format_table(without_source("tables/simulated")),
    "intervals": lambda: intervals_table(rows_of("intervals", "intervals/simulated")),
    "faults": lambda: auroc_table(rows_of("faults/simulated", "faults/dryer")),
    "guides": lambda: guides_table(rows_of("guides/simulated", "guides/dryer")),
}


def table_of(experiment):
    if experiment in TABLES:
        return TABLES[experiment]()
    record = read_record(RESULTS / experiment)
    return summary_table(record["rows"], record["extra"]["differences"])


@pytest.mark.parametrize("experiment", ["dryer", "table1", *TABLES])
def test_tables_in_the_readmes_are_those_of_the_committed_records(experiment):
    assert table_of(experiment) in (Path(tune.__file__).parents[1] / "README.md").read_text()


def test_every_experiment_of_the_card_has_a_committed_record():
    missing = {name for name in zoo.card("ssmtl").experiments if not list((RESULTS / name).rglob("record.json"))}
    assert missing == {"reference"}  # which is kept where it is loaded from


@pytest.mark.slow
def test_guides_has_records_of_both_kinds_of_data_and_a_figure(tmp_path):
    records = run("ssmtl", "guides", profile="smoke", out=tmp_path)
    assert {name: record["data"]["simulated"] for name, record in records.items()} == {
        "simulated": True,
        "dryer": False,
    }
    for record in records.values():
        assert {row["guide"] for row in record["rows"]} == {"paper", "delta"}
        assert {row["prior"] for row in record["rows"]} == {"normal", "mixture"}
        assert all(np.isfinite([row["rmse"], row["cover90"]]).all() for row in record["rows"])
        assert all(("elbo" in row) == (row["guide"] == "paper") for row in record["rows"])  # a point has none
    deltas = [row for row in records["simulated"]["rows"] if row["guide"] == "delta"]
    assert all(row["untold"] == 1.0 and row.get("khat_unit") is None for row in deltas)
    assert (tmp_path / "figures" / "guides.png").stat().st_size > 10_000


@pytest.mark.slow
def test_figure11_calibrates_new_units_in_every_way(tmp_path):
    record = run("ssmtl", "figure11", profile="smoke", out=tmp_path)
    ways = {(row["method"], row["mode"]) for row in record["rows"]}
    assert {("robust", mode) for mode in MODES} | {("paper", "supervised")} <= ways
    assert record["data"]["simulated"] is True
    assert (tmp_path / "figures" / "figure11.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "models"), [("table2", {"STL", "MTL", "SSMTL"}),
                                                    ("figure11b", {"SSMTL, amortized", "last value"})])  # fmt: skip
def test_the_papers_experiments_on_real_data_score_every_way(experiment, models, tmp_path):
    record = run("ssmtl", experiment, profile="smoke", out=tmp_path)
    assert models <= {row["model"] for row in record["rows"]}
    assert (tmp_path / "figures" / "figure11b.png").exists() == (experiment == "figure11b")


@pytest.mark.parametrize("protocol", ["same", "later"])
def test_more_unlabelled_rows_are_added_to_the_same_labels(protocol):
    found = [table2_data(3, ratio, protocol) for ratio in (1, 5, 20)]
    names = [set(train.names("row").tolist()) for train, _ in found]
    assert names[0] < names[1] < names[2]
    for train, test in found:
        assert (np.bincount(train["unit"][train["labelled"]]) == 5).all()
        assert not set(train.names("row").tolist()) & set(test.names("row").tolist())
        assert test.names("row").tolist() == found[0][1].names("row").tolist()
    assert (np.bincount(found[1][0]["unit"]) == 30).all()
    share = np.bincount(found[0][1]["unit"]) / np.bincount(zoo.load_data("ssmtl", "dryer")["unit"])
    assert (abs(share - 0.25) < 0.02).all()


def test_labels_of_new_batches_arrive_in_time():
    known, new = split_batches(0)
    assert (known.sizes["unit"], new.sizes["unit"]) == (51, 20)
    assert not set(known.names("unit").tolist()) & set(new.names("unit").tolist())
    for labels in (1, 8):
        now, scored, labelled = arrived(new, labels)
        for unit in range(20):
            own = (new["unit"] == unit).numpy()
            assert labelled[own].sum() == labels
            last = new.time[own & labelled].max()
            np.testing.assert_array_equal(now[own], new.time[own] <= last)
            assert new.time[own & scored["next"]].min() == new.time[own & ~now].min()
            later = scored["last quarter"]
            assert new.time[own & later].min() > last
            assert abs(later[own].mean() - 0.25) < 0.01
        assert (scored["next"] & scored["last quarter"]).any() == (labels == 8)


# ---------------------------------------------------------------- what the committed records show
def test_figure11_shows_what_the_paper_claims_where_it_does():
    found = {(r["method"], r["mode"], r["labels"]): r for r in rows_of("figure11")}
    none = found["no data", "prior mean", 1]["mape"]
    for n in (1, 3, 10):
        assert found["robust", "unsupervised", n]["mape"] < none
    for n in (1, 3):
        assert found["robust", "semi-supervised", n]["mape"] <= found["robust", "supervised", n]["mape"]


def test_conformal_intervals_hold_on_the_dryer():
    rows = {row["model"]: row for row in rows_of("intervals") if row["scored"] == "dryer, same"}
    assert rows["head"]["cover90"] < 0.6
    assert 0.85 < rows["split, head"]["cover90"] < 0.95


def test_numbers_of_the_main_readme_are_those_of_the_record():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = {(row["model"], row["scored"]): row for row in read_record(RESULTS / "dryer")["rows"]}
    for model in ("pooled trees", "MTL", "trees with unit means", "trees with unit means and offset", "SSMTL"):
        row = rows[model, "same"]
        assert f"{row['rmse']:.2f} ± {row['rmse_se']:.2f}" in readme
    for model in ("trees with unit means and offset", "SSMTL"):
        row = rows[model, "later"]
        assert f"{row['rmse']:.2f} ± {row['rmse_se']:.2f}" in readme
    for scored in ("same", "later"):
        assert f"{100 * rows['SSMTL', scored]['cover90']:.0f} %" in readme
    held = {row["model"]: row["cover90"] for row in rows_of("intervals") if row["scored"] == "dryer, same"}
    assert f"{100 * held['split, head']:.0f} % and {100 * held['cross, head']:.0f} % of the former" in readme
