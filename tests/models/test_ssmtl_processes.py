"""The tuning record of the processes on labels: that it follows from its tables, and how a table is scored."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyrozoo.criticism.rivals import Rival
from pyrozoo.inference import covariances
from pyrozoo.models.ssmtl.experiments import processes

PAGE = Path(processes.FOLDER).parent / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one table: four units on lines of their own, and a unit whose only row is its last."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("tables")
    unit, day = np.repeat(np.arange(4), 12), np.tile(np.arange(12), 4)
    table = pd.DataFrame({"well": unit, "day": day, "u": rng.normal(size=48)})
    table["q"] = 3 * table.well + table.u * (1 + table.well) + 0.1 * rng.normal(size=48)
    table.loc[48] = [9, 11, 0.0, 0.0]
    table.sample(frac=1, random_state=0).to_csv(path / "wells.csv", index=False)
    return path


def mean_and_clock(train, test, target):
    return {name: Rival("", np.full(test.n_rows, float(train[target].mean())), None) for name in ("mean", "clock")}


def test_the_record_holds_every_table_and_its_summary_follows():
    record = json.loads((processes.FOLDER / "processes.json").read_text())
    wanted = {(name, "random") for name in processes.TABLES}
    wanted |= {(name, "last") for name, (*_, time) in processes.TABLES.items() if time is not None}
    assert {(row["table"], row["scored"]) for row in record["tables"]} == wanted
    assert record["seed"] == processes.SEED
    assert record["summary"] == processes.summary(record["tables"])
    assert [own["draw"] for own in record["dryer"]] == list(processes.DRYER)


def test_the_page_quotes_the_record():
    record = json.loads((processes.FOLDER / "processes.json").read_text())
    page = " ".join(PAGE.read_text().split())
    for row in record["summary"]:
        if row["kind"] == "both":
            assert f"{row['ratio']:.2f} times" in page
            assert f"{100 * row['cover90']:.0f} % of the" in page


def test_later_rows_are_the_last_of_every_unit_and_units_without_a_training_row_are_left_out(folder, monkeypatch):
    monkeypatch.setitem(processes.TABLES, "wells", ("wells.csv", "well", ("u",), "q", "day"))
    train, test = processes.of_table(folder, "wells", "last")
    assert train.time.max() == 8
    assert test.time.min() == 9
    assert sorted(set(test.group_names("unit").tolist())) == [0, 1, 2, 3]
    train, test = processes.of_table(folder, "wells", "random")
    assert train.n_rows == 49 - 49 // 4


def test_the_page_says_of_the_dryer_what_the_record_has_with_and_without_time():
    dryer = json.loads((processes.FOLDER / "processes.json").read_text())["dryer"]
    page = " ".join(PAGE.read_text().split())
    for scored in ("later rows", "held-out labels"):
        timed, timeless = ([own[scored][name]["rmse"] for own in dryer] for name in processes.MIXTURES[-2:])
        assert f"{np.mean(timeless):.1f} where those that read it have {np.mean(timed):.1f}" in page


def test_processes_without_time_are_told_none(folder, monkeypatch):
    monkeypatch.setitem(processes.TABLES, "wells", ("wells.csv", "well", ("u",), "q", "day"))
    train, _ = processes.of_table(folder, "wells", "last")
    alone = processes.without_time(train)
    assert alone.time is None
    assert alone["y"].equal(train["y"])


def test_scores_of_a_table_stand_beside_the_best_simple_method(folder, monkeypatch):
    monkeypatch.setitem(processes.TABLES, "wells", ("wells.csv", "well", ("u",), "q", "day"))
    monkeypatch.setattr(covariances, "STEPS", 20)

    monkeypatch.setattr(processes, "simple_methods", mean_and_clock)
    row = processes.scores(folder, "wells", "random")
    assert list(row["rivals"]) == ["mean"]  # the clock alone is none that predicts from the inputs
    assert row["both"]["rmse"] < 0.5 * row["rivals"]["mean"]
    found = {own["kind"]: own for own in processes.summary([row])}
    assert set(found) == {*covariances.KINDS, "both"}
    assert found["both"]["ratio"] == pytest.approx(row["both"]["rmse"] / row["rivals"]["mean"])


def test_errors_are_those_of_a_fold_or_of_the_rows_to_predict(folder, monkeypatch):
    monkeypatch.setitem(processes.TABLES, "wells", ("wells.csv", "well", ("u",), "q", "day"))
    monkeypatch.setattr(covariances, "STEPS", 20)
    monkeypatch.setattr(processes, "simple_methods", mean_and_clock)
    fit = processes.fit
    monkeypatch.setattr(processes, "fit", lambda *data, **settings: fit(*data, **settings | {"steps": 2}))
    new, fold = (processes.errors_of_table(str(folder), "wells", k, 5, 800) for k in (None, 1))
    assert set(new) == set(fold) == {"networks", *covariances.KINDS, "mean"}
    assert {len(errors) for errors in new.values()} == {11}  # of 12; one row is the only one of its unit
    assert {len(errors) for errors in fold.values()} == {8}
    assert np.std(new["squared"]) < 0.5 * np.std(new["mean"])
