import contextlib
import datetime
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.models import m3sense
from pyrozoo.store import directory

SMALL = {"c_dim": 2, "z_dim": 2, "width": 6, "depth": 1}
COLUMNS = {"unit": "well", "x": ["u", "v"], "y": "q"}


def frame(units=("a", "b", "c", "d"), n=3, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(rng.normal(size=(n * len(units), 2)), columns=["u", "v"])
    df = df.assign(well=np.repeat(list(units), n), q=df["u"] + rng.normal(size=len(df)))
    return df.assign(q=df["q"].where(np.arange(len(df)) % 3 > 0))


def fitted(df=None, guide="paper", **options):
    data = zoo.Batch.from_dataframe(frame() if df is None else df, **COLUMNS)
    return zoo.fit(zoo.create_model("ssmtl", data, **SMALL), guide, data, **{"steps": 5, "progress": False} | options)


# ---------------------------------------------------------------- the rows of a table keep their index
@pytest.mark.parametrize(
    "index",
    [
        [*range(6), *range(6)],
        list("aabbccddeeff"),
        pd.MultiIndex.from_product([range(6), list("yz")]),
        pd.date_range("2024-01-01", periods=12, freq="h", tz="Europe/Oslo"),
        pd.period_range("2024-01", periods=12, freq="M"),
        pd.CategoricalIndex(list("aabbccddeeff")),
    ],
    ids=["concat", "text", "two levels", "zone", "period", "categories"],
)
def test_predictions_carry_the_index_of_the_table_also_a_repeated_one(index, tmp_path):
    fit, df = fitted(), frame()
    want = zoo.predict(fit, fit.batch(df), draws=5)["y.mean"].to_numpy()
    df.index = index
    df["p"] = zoo.predict(fit, fit.batch(df), draws=5)["y.mean"]
    np.testing.assert_array_equal(df["p"].to_numpy(), want)
    for labels in (True, False):
        batch = fit.batch(df, labels=labels)
        assert zoo.predict(fit, batch, draws=2).index.equals(df.index)
        assert zoo.predict(fit, batch.subset([3, 7]), draws=2).index.equals(df.index[[3, 7]])
    idata = zoo.to_arviz(fit, fit.batch(df), draws=2)
    zoo.save_netcdf(idata, tmp_path / "draws.nc")
    rows = zoo.load_netcdf(tmp_path / "draws.nc")["posterior"]["z"]["row"].to_index()
    assert rows.is_unique
    assert len(rows) == 12


# ---------------------------------------------------------------- a loss that is not finite
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_last_good_state_is_finite_also_with_one_step_per_epoch(steps, tmp_path):
    df = frame(n=8)
    data = zoo.Batch.from_dataframe(df, **COLUMNS)
    for resume in (False, True):
        with pytest.raises(zoo.NonFiniteLoss, match=r"the checkpoint holds it, too") as caught:
            fitted(df, steps=steps, lr=1e4, lr_groups=None, checkpoint=tmp_path / "c", resume=resume)
        kept = caught.value.fit
        assert np.isfinite(zoo.predict(kept, data, draws=3).to_numpy()).all()
        assert kept.status == "failed"
    went_on = fitted(df, steps=steps, lr=1e-3, lr_groups=None, checkpoint=tmp_path / "c", resume=True)
    assert went_on.status == "finished"
    assert went_on.history["step"].tolist() == list(range(1, steps + 1))
    assert np.isfinite(zoo.predict(went_on, data, draws=3).to_numpy()).all()


# ---------------------------------------------------------------- precision
def test_numbers_that_32_bits_cannot_tell_apart_are_refused_by_column():
    df = frame(n=12)
    seconds = 1.7e9 + 10.0 * np.arange(48)
    message = r"column 'u' loses precision as float32: .* and 5 of 48 distinct ones remain; subtract a constant"
    with pytest.raises(ValueError, match=message):
        fitted(df.assign(u=seconds))
    with pytest.raises(ValueError, match="column 'q' loses precision as float32"):
        fitted(df.assign(q=pd.Series(seconds).where(df["q"].notna())))
    with pytest.raises(ValueError, match="x, column 1 loses precision as float32"):
        zoo.Batch.from_arrays(rows={"x": np.stack([df["u"], seconds], -1)})
    with pytest.warns(UserWarning, match="column 'u' loses precision"):
        fitted(df.assign(u=1.7e9 + 1800.0 * np.arange(48)))
    double = zoo.Batch.from_dataframe(df.assign(u=seconds), **COLUMNS, dtype=torch.float64)
    assert len(double["x"][:, 0].unique()) == 48
    with pytest.raises(ValueError, match="x, column 0 loses precision as float32"):
        zoo.fit(zoo.create_model("ssmtl", double, **SMALL), "paper", double, steps=1, progress=False)
    moved = fitted(df.assign(u=seconds - seconds[0]))
    assert len(moved.train["x"][:, 0].unique()) == 48


# ---------------------------------------------------------------- builders refuse what they do not know
@pytest.mark.parametrize("word", ["target", "lables", "weight", "columns", "standardised"])
def test_an_unknown_keyword_of_a_builder_is_refused_by_name(word, tmp_path):
    df, given = frame(), {"unit": "well", "x": ["u", "v"]}
    for function, build in {
        "from_dataframe": lambda: zoo.Batch.from_dataframe(df, **given, **{word: "q"}),
        "write_rows": lambda: zoo.write_rows(tmp_path / "rows", df, **given, **{word: "q"}),
        "from_arrays": lambda: zoo.Batch.from_arrays(rows={"x": df[["u"]]}, **{word: "q"}),
    }.items():
        with pytest.raises(TypeError, match=rf"{function}\(\) has no argument '{word}'.*give others as info="):
            build()
    with pytest.raises(TypeError, match=f"has no argument '{word}'"):
        m3sense.from_arrays({"eda": np.ones((4, 40))}, [0, 1, 0, 1], [1, 1, 2, 2], "stress", **{word: "q"})
    assert not (tmp_path / "rows").exists()


def test_provenance_of_any_name_is_kept():
    facts = {"name": "north", "source": "log", "info": {"operator": "Ann", "target": "flow"}}
    batch = zoo.Batch.from_dataframe(frame(), **COLUMNS, **facts)
    assert {k: batch.info[k] for k in ("name", "source", "operator", "target")} == {
        "name": "north", "source": "log", "operator": "Ann", "target": "flow",
    }  # fmt: skip


ROWS = {"x": np.ones((3, 1)), "y": np.ones(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"y": ["False", "True", "True"]}}, r"labels\['y'\]: <U5 values, such as .*give True or False"),
        ({"labels": {"y": [np.nan, 1.0, 0.0]}}, r"labels\['y'\]: it holds .*nan.*; give True or False"),
        ({"labels": {"y": [0, 1, 2]}}, r"labels\['y'\]: it holds .*2.*; give True or False"),
        ({"labels": {"y": [True, None, False]}}, r"labels\['y'\]: object values"),
        ({"labels": {"y": np.ma.array([True, False, True], mask=[0, 1, 0])}}, r"labels\['y'\]: .*hidden"),
        ({"labels": {"y": [True]}}, r"labels\['y'\]: shape \(1,\), expected \(3,\)"),
        ({"labels": ["y"]}, "labels: a list; give a mapping"),
        ({"coords": 5}, "coords: a int; give a mapping"),
        ({"rows": 5}, "rows: a int; give a mapping"),
        ({"rows": {}}, "rows: there are no arrays"),
        ({"rows": {"x": []}}, "there are no rows"),
        ({"rows": {"x": 5.0}}, "x: a float without a length"),
        ({"rows": {"x": np.ma.array([1.0, 2.0], mask=[0, 1])}}, "x: entries of a masked array are hidden"),
        ({"rows": {"x": torch.eye(3).to_sparse()}}, "x: a sparse Tensor; make it dense"),
        ({"rows": ROWS | {"w": 5.0}}, "w: 1 entries, expected 3"),
    ],
    ids=str,
)
def test_arrays_that_are_no_masks_or_tables_are_refused_by_name(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        zoo.Batch.from_arrays(**{"rows": ROWS} | change)


@pytest.mark.parametrize("mask", [[True, False, True], [1, 0, 1], pd.Series([True, False, True], dtype=object)])
def test_masks_of_true_and_false_or_1_and_0_are_read(mask):
    batch = zoo.Batch.from_arrays(rows=ROWS, labels={"y": mask})
    assert batch["labelled"].tolist() == [True, False, True]
    assert batch["y"].tolist() == [1.0, 0.0, 1.0]


# ---------------------------------------------------------------- what could not be saved is found before the training
@pytest.mark.parametrize(
    "names",
    [
        pd.date_range("2024-01-01", periods=4, tz="Europe/Oslo"),
        pd.period_range("2024-01", periods=4, freq="M"),
        pd.Index([datetime.date(2024, 1, i) for i in range(1, 5)], dtype=object),
    ],
    ids=["zone", "period", "date"],
)
def test_units_that_cannot_be_saved_are_refused_before_the_fit_by_their_column(names, tmp_path):
    df = frame().assign(well=lambda df: names.repeat(3))
    with pytest.raises(ValueError, match=r"column 'well', .*: JSON cannot hold a .*; use text or numbers"):
        fitted(df)
    fit = fitted(df.assign(well=df["well"].astype(str)))
    assert zoo.load(fit.save(tmp_path / "run")).prototype.sizes["unit"] == 4


def test_mixed_units_are_text_in_arviz(tmp_path):
    fit = fitted(frame(["a", 1, 2.5, "d"]))
    idata = zoo.to_arviz(fit, fit.train, draws=2)
    zoo.save_netcdf(idata, tmp_path / "draws.nc")
    assert zoo.load_netcdf(tmp_path / "draws.nc")["posterior"]["unit"].values.tolist() == ["a", "1", "2.5", "d"]


def test_a_folder_that_cannot_be_made_is_found_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    rows = []
    with pytest.raises(NotADirectoryError, match=r"file/c cannot be made: .*file is a file; choose another folder"):
        fitted(checkpoint=tmp_path / "file" / "c", callback=rows.append)
    assert rows == []


# ---------------------------------------------------------------- replacing a run
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_run_is_whole_under_its_name_whenever_overwriting_is_interrupted(exchange, after, tmp_path, monkeypatch):
    old, new = fitted(steps=2), fitted(steps=3)
    old.save(tmp_path / "run")
    if not exchange:
        monkeypatch.setattr(directory, "_exchanged", lambda one, other: False)
    real, done = os.replace, []

    def interrupted(one, other):
        real(one, other)
        done.append(other)
        if len(done) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        new.save(tmp_path / "run", overwrite=True)
    monkeypatch.setattr(os, "replace", real)
    assert (tmp_path / "run" / "run.json").exists()
    assert int(zoo.load(tmp_path / "run").history["step"].max()) in (2, 3)
    new.save(tmp_path / "run", overwrite=True)
    assert int(zoo.load(tmp_path / "run").history["step"].max()) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


KILLED = """
import os, signal, sys
import pyrozoo as zoo
from pyrozoo.store import directory
fit = zoo.load(sys.argv[1])
directory._exchanged = lambda one, other: False
real = os.replace
def killed(one, other):
    real(one, other)
    if str(other).endswith("-old"):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = killed
fit.save(sys.argv[1], overwrite=True)
"""


def test_a_kill_between_two_renames_loses_nothing_and_the_next_save_cleans_up(tmp_path):
    fitted().save(tmp_path / "run")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run")], check=False)
    assert not (tmp_path / "run").exists()
    fit = zoo.load(tmp_path / "run")
    assert fit.status == "finished"
    fit.save(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
