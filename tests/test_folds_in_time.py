"""Labels that are held out in time, and the time of every row."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyrozoo as zoo
from pyrozoo import Batch


def records(n=(6, 5), labelled=None, time=True):
    """Two units of n rows each, whose rows come in the reverse order of time, one unit after the other."""
    units = np.repeat(["a", "b"], n)
    days = np.concatenate([np.arange(size)[::-1] for size in n])
    table = pd.DataFrame({"unit": units, "u": np.arange(len(units)) * 1.0, "day": pd.Timestamp("2020-01-01")})
    table["day"] += pd.to_timedelta(days, unit="D")
    table["q"] = np.where(np.ones(len(units), bool) if labelled is None else labelled, days, np.nan)
    return Batch.from_dataframe(table, unit="unit", x=["u"], y="q", time="day" if time else None)


def days(batch):
    """Days of the labelled rows by unit; they are the values of the target."""
    seen = batch.observed("y")
    return {str(u): sorted(batch["y"][seen & (batch.group_names("unit") == u), 0].int().tolist()) for u in "ab"}


# ---------------------------------------------------------------- time
def test_time_follows_its_rows():
    data = records()
    part = data.subset([7, 2, 0]).subset([2, 0])
    assert part.time.tolist() == data.time[[0, 7]].tolist()
    assert data.take([3]).time.tolist() == [data.time[3]]
    assert data.hide().time.tolist() == data.time.tolist()
    assert data.sha256 == records(time=False).sha256, "no model sees the time"
    assert "time" not in data
    assert records(time=False).time is None


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (["2020-01-01", "later"], TypeError, "column 't': .* give numbers, or times by pandas.to_datetime"),
        ([1.0, np.nan], ValueError, "column 't', row 11: the time is missing"),
        (pd.to_datetime(["2020-01-01", None]), ValueError, "column 't', row 11: the time is missing"),
        ([1.0, np.inf], ValueError, "column 't', row 11: the time is missing"),
    ],
)
def test_times_that_are_none_are_refused(values, error, message):
    table = pd.DataFrame({"unit": ["a", "a"], "u": [1.0, 2.0], "t": values}, index=[10, 11])
    with pytest.raises(error, match=message):
        Batch.from_dataframe(table, unit="unit", x=["u"], time="t")


def test_time_with_a_zone_is_that_of_utc_and_may_be_an_input():
    stamps = pd.to_datetime(["2020-01-01 12:00", "2020-01-02 12:00"]).tz_localize("Europe/Oslo")
    table = pd.DataFrame({"unit": ["a", "a"], "u": [1.0, 2.0], "t": stamps})
    assert Batch.from_dataframe(table, unit="unit", x=["u"], time="t").time[0] == np.datetime64("2020-01-01T11:00")
    assert Batch.from_dataframe(table, unit="unit", x=["u"], time="u").time.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="is used or present twice"):
        Batch.from_dataframe(table, unit="unit", x=["u"], time="unit")


def test_predictions_plots_and_runs_carry_the_time(tmp_path):
    data = records((8, 8))
    model = zoo.create_model("ssmtl", data, width=4, c_dim=1, z_dim=1)
    fit = zoo.load(zoo.fit(model, "paper", data, steps=2, progress=False).save(tmp_path / "run"))
    frame = pd.DataFrame({"unit": ["b", "a"], "u": [1.0, 2.0], "day": pd.to_datetime(["2021-01-01", "2021-01-02"])})
    table = zoo.predict(fit, frame, draws=2)
    assert table["time"].tolist() == frame["day"].tolist()
    with pytest.raises(KeyError, match="column 'day' is not in the table"):
        zoo.predict(fit, frame.drop(columns="day"))
    figure = zoo.plots.unit_lines(zoo.predict(fit, data, draws=2), data)
    assert figure._supxlabel.get_text() == "time"
    idata = zoo.to_arviz(fit, data, draws=2)
    assert idata["posterior_predictive"]["time"].dims == ("row",)
    zoo.save_netcdf(idata, tmp_path / "posterior.nc")
    again = zoo.load_netcdf(tmp_path / "posterior.nc")
    assert again["posterior_predictive"]["time"].to_numpy()[0] == data.time[0]


# ---------------------------------------------------------------- splits and folds
def test_split_by_last_follows_the_time_and_may_keep_the_inputs():
    train, test = records().split(0.4, by="last")
    assert (days(train), days(test)) == ({"a": [0, 1, 2, 3], "b": [0, 1, 2]}, {"a": [4, 5], "b": [3, 4]})
    kept, same = records().split(0.4, by="last", inputs=True)
    assert (days(kept), kept.n_rows, same.sha256) == (days(train), 11, test.sha256)
    assert torch.equal(kept["x"], records()["x"])


def test_rows_are_split_at_random_by_default_whatever_they_are_called():
    scans = zoo.Batch.from_arrays(row_plate="scan", rows={"x": np.arange(8.0)[:, None]}, simulated=True)
    train, test = scans.split(0.25, seed=1)
    assert sorted([*train["x"][:, 0].tolist(), *test["x"][:, 0].tolist()]) == list(range(8))
    assert test.n_rows == 2
    assert test.sha256 == scans.split(0.25, by="scan", seed=1)[1].sha256


def test_without_a_time_the_order_of_the_rows_counts():
    train, _ = records(time=False).split(0.4, by="last")
    assert days(train) == {"a": [2, 3, 4, 5], "b": [2, 3, 4]}


def test_hold_out_last_takes_the_last_labels_of_every_unit():
    train, held_out = zoo.hold_out(records(), 5, by="last")
    assert (days(train), days(held_out)) == ({"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3]}, {"a": [5], "b": [4]})
    assert train.n_rows == 11
    assert zoo.hold_out(records(), 5, by="last", inputs=False)[0].n_rows == 9


def test_blocks_follow_one_another():
    pairs = zoo.fold_data(records(), 3, by="block")
    assert [days(held_out) for _, held_out in pairs] == [
        {"a": [0, 1], "b": [0, 1]}, {"a": [2, 3], "b": [2, 3]}, {"a": [4, 5], "b": [4]},
    ]  # fmt: skip
    assert days(pairs[1][0]) == {"a": [0, 1, 4, 5], "b": [0, 1, 4]}


def test_rolling_origin_trains_on_what_came_before():
    labelled = np.ones(11, bool)
    labelled[0] = False  # the last day of unit a
    for inputs, rows in ((True, [11, 11]), (False, [4, 8])):
        pairs = zoo.fold_data(records(labelled=labelled), 2, by="last", inputs=inputs)
        assert [days(train)["a"] for train, _ in pairs] == [[0, 1], [0, 1, 2, 3]]
        for train, held_out in pairs:
            assert all(max(days(train)[u]) < min(days(held_out)[u]) for u in "ab")
        assert [train.n_rows for train, _ in pairs] == rows


def test_a_unit_with_one_label_always_trains_in_rolling_origins():
    labelled = np.ones(11, bool)
    labelled[7:] = False  # unit b keeps its last day
    for train, held_out in zoo.fold_data(records(labelled=labelled), 3, by="last"):
        assert (days(train)["b"], days(held_out)["b"]) == ([4], [])


def test_whole_groups_can_be_held_out():
    pairs = zoo.fold_data(records(), 2, by="unit", inputs=False)
    assert sorted(len(days(held_out)["a"]) for _, held_out in pairs) == [0, 6]
    assert all(set(train.names("unit")).isdisjoint(held_out.names("unit")) for train, held_out in pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 3, "by": "unit"}, "folds: 3; there are labels of 2 units only"),
        ({"folds": 2, "by": "first"}, "by: 'first' is none of"),
        ({"folds": 7, "by": "block"}, "has no label; take fewer folds"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.fold_data(records(), **options)


def test_folds_in_time_reach_fits_and_conformal_intervals():
    data = records((10, 10))
    model = zoo.create_model("ssmtl", data, width=4, c_dim=1, z_dim=1)
    folds = zoo.fit_folds(model, "paper", data, 2, by="last", steps=1, progress=False)
    assert all(max(days(fit.train)["a"]) < min(days(held_out)["a"]) for fit, held_out in folds)
    assert zoo.cross_conformal(folds, level=0.5, draws=2).n == sum(held_out.n_rows for _, held_out in folds)
