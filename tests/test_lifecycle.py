import contextlib
import copy
import datetime
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import autoguide
from pyro.poutine.runtime import _PYRO_STACK

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.contract.subject import Subject, guides_of
from pyrozoo.data.tables import read_table
from pyrozoo.files import reserved
from pyrozoo.models import m3sense
from pyrozoo.models.ssmtl import SSMTL
from pyrozoo.store import directory
from pyrozoo.store.tensors import load_tensors, save_tensors

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


@pytest.fixture(scope="module")
def plain():
    """A fit that no test changes."""
    return fitted()


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
def test_predictions_carry_the_index_of_the_table_also_a_repeated_one(plain, index, tmp_path):
    fit, df = plain, frame()
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
@pytest.mark.parametrize("word", ["target", "lables", "weight", "columns"])
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
        ({"rows": {"x": [1j, 2, 3]}}, "x: complex numbers; give real ones"),
        ({"rows": {"x": [1e300, 2, 3]}}, r"x: 1e\+300 is too large for torch.float32; change its unit"),
        ({"dtype": torch.int64}, "dtype: torch.int64; give a floating type of torch"),
        ({"dtype": "float64"}, "dtype: 'float64'; give a floating type of torch"),
        ({"coords": {"row": ["a"]}}, r"coords\['row'\]: shape \(1,\), expected \(3,\)"),
        ({"row_coords": {"time": np.array(["2024", "NaT", "2025"], "M8[D]")}}, "time, entry 1: the time is missing"),
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


# ---------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": 1}, "schedule: a int; give a name of .* or a function"),
        ({"warm_start": "runs/a"}, "warm_start: 'runs/a'; give a Fit"),
        ({"checkpoint": ""}, "checkpoint: ''; give a folder"),
        ({"checkpoint": 5}, "checkpoint: 5; give a folder"),
        ({"callback": 5}, "callback: 5; give a function of an epoch's line"),
        ({"seed": 1.5}, "seed: 1.5; a whole number is needed"),
        pytest.param({"device": "cuda"}, "device: 'cuda': torch finds no GPU here", marks=pytest.mark.skipif(
            torch.cuda.is_available(), reason="there is a GPU")),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_of_a_fit_are_checked_by_name_before_it(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fitted(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"c_dim": 2.5}, "c_dim: 2.5; a whole number is needed"), ({"c_dim": "2"}, "c_dim: '2'; a whole number"),
        ({"width": True}, "width: True; a whole number is needed"), ({"z_dim": 0}, "z_dim: 0; a whole number of at l"),
        ({"z_dim": np.array(2)}, r"z_dim: array\(2\); a whole number of at least 1 is needed"),
        ({"floor": float("nan")}, "floor: nan; a finite number is needed"), ({"alpha": -1}, "alpha: -1; a number of"),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_of_a_model_are_checked_by_name(given, message):
    data = zoo.Batch.from_dataframe(frame(), **COLUMNS)
    with pytest.raises((TypeError, ValueError), match=message):
        zoo.create_model("ssmtl", data, **SMALL | given)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"draws": 0}, "draws: 0; at least 1"), ({"draws": 2.5}, "draws: 2.5; a whole number"),
     ({"draws": True}, "draws: True; a whole"), ({"seed": 1.5}, "seed: 1.5; a whole"), ({"seed": -1}, "seed: -1; at")],
    ids=str,
)  # fmt: skip
def test_numbers_of_draws_are_whole_and_positive(given, message):
    fit = fitted(steps=1)
    with pytest.raises((TypeError, ValueError), match=message):
        zoo.predict(fit, fit.train, **given)
    with pytest.raises((TypeError, ValueError)):
        zoo.draw(fit, fit.train, **{"draws": 2} | given)


def test_units_of_another_type_are_told_apart_from_unknown_ones():
    fit = fitted(frame(units=(1, 2, 3, 4)), steps=1)
    with pytest.raises(KeyError, match=r"unknown unit.*: they are str where the training data have int; convert the"):
        zoo.predict(fit, frame(units="1234"), draws=2)


def test_categories_that_are_written_alike_are_refused():
    df = frame().assign(u=pd.Categorical([1, "1", 2] * 4))
    with pytest.raises(ValueError, match=r"column 'u': a category of \[1, .*\] is there twice"):
        zoo.Batch.from_dataframe(df, **COLUMNS)


# ---------------------------------------------------------------- what could not be saved is found before the training
@pytest.mark.parametrize(
    "names",
    [
        pd.date_range("2024-01-01", periods=4, tz="Europe/Oslo"),
        pd.period_range("2024-01", periods=4, freq="M"),
        pd.Index([datetime.date(2024, 1, i) for i in range(1, 5)], dtype=object),
        pd.to_timedelta(range(4), "h"),
    ],
    ids=["zone", "period", "date", "duration"],
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


def test_a_checkpoint_that_another_fit_is_using_is_refused(tmp_path):
    with reserved(tmp_path / "c"), pytest.raises(BlockingIOError, match=r"c is in use by another fit; wait"):
        fitted(checkpoint=tmp_path / "c", resume=True)
    refused = []

    def second(row):
        with pytest.raises(BlockingIOError) as caught:
            fitted(checkpoint=tmp_path / "c", resume=True)
        refused.append(caught.value)

    found = fitted(checkpoint=tmp_path / "c", callback=second)
    assert len(refused) == len(found.history) == 5
    assert fitted(checkpoint=tmp_path / "c", resume=True).history.equals(found.history)


def test_a_damaged_checkpoint_is_one_line_that_names_it(tmp_path):
    options = {"checkpoint": tmp_path, "resume": True}
    fitted(**options)
    path = tmp_path / "run-0.safetensors"
    tensors, header = load_tensors(path)
    of_none = {"optimizer/0/1J/step": torch.ones(())}
    for name, value in {"rng/torch": tensors["rng/torch"] * 0, "rng/minibatches": None, **of_none}.items():
        damaged = {k: v for k, v in (tensors | {name: value}).items() if v is not None}
        save_tensors(path, damaged, header)
        with pytest.raises(ValueError, match=r"run-0.safetensors: it is damaged \(.*\); delete it, or"):
            fitted(**options)


# ---------------------------------------------------------------- copies, processes, threads
def guides_of_every_entry():
    """(Entry, variant, guide); by default one with an AutoGuide and two without, and one class of AutoGuides."""
    for name in zoo.list_models():
        card = zoo.card(name)
        for guide in card.guides:
            variant = next(v for v in card.variants if guide in guides_of(card, v))
            quick = (name, guide) in {("ssmtl", "paper"), ("ssmtl", "amortized"), ("ssmtl", "normal")}
            yield pytest.param(
                name, variant, guide, marks=[] if quick else [pytest.mark.slow], id=f"{name}/{variant} x {guide}"
            )
    for kind in (
        autoguide.AutoMultivariateNormal, autoguide.AutoDelta, autoguide.AutoDiagonalNormal, autoguide.AutoStructured,
        autoguide.AutoLowRankMultivariateNormal, autoguide.AutoIAFNormal, autoguide.AutoGaussian,
    ):  # fmt: skip
        marks = [] if kind is autoguide.AutoMultivariateNormal else [pytest.mark.slow]
        yield pytest.param("ssmtl", "ssmtl", kind, marks=marks, id=kind.__name__)


@pytest.mark.parametrize(("name", "variant", "guide"), list(guides_of_every_entry()))
def test_copies_of_a_fit_predict_alike(name, variant, guide):
    subject = Subject(name, variant, guide)
    data, model = subject.data(), subject.model()
    fit = zoo.fit(model, guide, data, steps=2, progress=False)
    new = data.hide()
    want = zoo.predict(fit, new, draws=2)
    twins = [copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))]
    twins.append(pickle.loads(pickle.dumps(twins[1])))
    for twin in (*twins, fit):  # the fit is as it was, too
        assert zoo.predict(twin, new, draws=2).equals(want)
    warm = [zoo.fit(f.model, guide, data, steps=1, warm_start=f, progress=False).history for f in (fit, twins[1])]
    assert warm[0].equals(warm[1])
    batch = pickle.loads(pickle.dumps(data))
    assert batch.sha256 == data.sha256
    with pytest.raises(TypeError):
        batch.sizes["row"] = 3
    again = zoo.fit(copy.deepcopy(fit.model), guide, batch, steps=2, progress=False)
    assert again.history.equals(fit.history)


def in_threads(function, times, threads=4):
    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(function, i) for i in range(times)]]


@pytest.mark.parametrize("calls", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_threads_that_predict_and_fit_at_the_same_time_take_turns(calls):
    fit = fitted()
    want = [zoo.predict(fit, fit.train, draws=3, seed=i) for i in range(4)]
    state, settings, stack = torch.get_rng_state(), pyro.settings.get(), list(_PYRO_STACK)
    found = in_threads(lambda i: zoo.predict(fit, fit.train, draws=3, seed=i % 4), 4 * calls)
    assert all(table.equals(want[i % 4]) for i, table in enumerate(found))
    options = {"steps": 2, "progress": False}
    fits = in_threads(lambda i: zoo.fit(fit.model, "paper", fit.train, seed=i % 2, **options), 2 * calls)
    first = [zoo.fit(fit.model, "paper", fit.train, seed=i, **options).history for i in range(2)]
    assert all(found.history.equals(first[i % 2]) for i, found in enumerate(fits))
    assert torch.equal(torch.get_rng_state(), state)
    assert pyro.settings.get() == settings
    assert list(_PYRO_STACK) == stack
    assert dict(pyro.get_param_store()) == {}
    again = in_threads(lambda i: fitted(steps=2, seed=i % 2), calls)  # with a model of its own in each thread
    assert all(found.history.equals(first[i % 2]) for i, found in enumerate(again))


# ---------------------------------------------------------------- what is given, and what is said
def test_unused_categories_are_ignored():
    df = frame().assign(well=lambda df: df["well"].astype("category"))
    fit = fitted(df[df["well"] != "c"])
    assert fit.prototype.names("unit").tolist() == ["a", "b", "d"]
    assert len(zoo.predict(fit, df[df["well"] == "b"], draws=2)) == 3


def test_whole_numbers_name_columns_like_text():
    df = frame()[["well", "u", "v", "q"]].set_axis(range(4), axis=1)
    one, many = (zoo.Batch.from_dataframe(df, unit=0, x=[1, 2], y=y) for y in (3, [3]))
    assert one.sha256 == many.sha256


def test_a_data_frame_is_predicted_and_a_fit_says_what_to_make_of_one():
    fit, df = fitted(), frame()
    assert zoo.predict(fit, df, draws=3).equals(zoo.predict(fit, fit.batch(df), draws=3))
    with pytest.raises(TypeError, match=r"train: a DataFrame; give a Batch, .*zoo.Batch.from_dataframe\(df, unit="):
        zoo.fit(fit.model, "paper", df)
    with pytest.raises(TypeError, match="batch: a list; give a Batch or a data frame"):
        zoo.predict(fit, [1])
    with pytest.raises(TypeError, match=r"SSMTL has no argument 'cdim'; its arguments are \['x_dim', .*'c_dim'"):
        zoo.create_model("ssmtl", fit.train, cdim=4)


def test_a_fit_is_printed_in_a_few_lines():
    lines = repr(fitted(restarts=7)).splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("Fit of SSMTL with the guide 'paper' to data frame: 12 rows, 4 units")


def test_a_fit_of_another_version_names_it_and_the_command_that_fits_again(tmp_path, monkeypatch):
    path = fitted().save(tmp_path / "run")
    monkeypatch.setattr(SSMTL, "version", "99")
    command = "pyrozoo fit ssmtl --data 'data frame' --unit well --x u --x v --y q --variant ssmtl --guide paper"
    with pytest.raises(ValueError, match=f"pyrozoo that wrote it, {zoo.__version__} .*fit again: {command} --seed 0"):
        zoo.load(path)


def test_labels_without_a_class_0_and_missing_names():
    x, who = {"eda": np.random.default_rng(0).normal(size=(8, 80))}, [1] * 4 + [2] * 4
    batch = m3sense.from_arrays(x, pd.Series(["a", None, "b", np.nan] * 2), who, "stress")
    assert batch.observed("y_stress").tolist() == [True, False] * 4
    with pytest.raises(ValueError, match="labels: no window has class 0, and classes are numbered from 0"):
        m3sense.from_arrays(x, [1, 2] * 4, who, "stress")
    with pytest.raises(ValueError, match="eda: its windows differ in length"):
        m3sense.from_arrays({"eda": [np.ones(80 + i) for i in range(8)]}, [0, 1] * 4, who, "stress")


# ---------------------------------------------------------------- tables in other dialects
@pytest.mark.parametrize("dialect", [(";", ","), ("\t", "."), ("|", ","), (";", "."), (",", ".")])
@pytest.mark.parametrize("given", [True, False])
def test_tables_with_other_separators_and_decimal_marks_are_read(dialect, given, tmp_path):
    sep, decimal = dialect
    df = frame().assign(id=[f"00{i}" for i in range(12)])
    df.to_csv(tmp_path / "d.csv", sep=sep, decimal=decimal, index=False)
    found = read_table(tmp_path / "d.csv", ["well"], ["u", "v", "q"], *(dialect if given else ()))
    pd.testing.assert_frame_equal(found, df, check_dtype=False, rtol=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"well;u\na;1,234\nb;2,000\n", r"'1,234' may have a decimal comma or one between thousands; .*decimal=','"),
        ("well,u\na,1\n".encode("utf-16"), "d.csv: no UTF-8 text .*zero bytes, as UTF-16 does.*; save it as UTF-8"),
        (b"PAR1" + bytes(20), r"no CSV file but a Parquet file; write it as one, by pandas.read_parquet\(file\)"),
        (b"PK\x03\x04" + bytes(20), "no CSV file but a zip file or a spreadsheet; write it as one"),
        (b"\x1f\x8b" + bytes(20), "no CSV file but compressed; write it as one, by gunzip"),
    ],
    ids=["thousands", "UTF-16", "Parquet", "spreadsheet", "compressed"],
)
def test_what_cannot_be_read_without_a_guess_is_refused_with_the_remedy(content, message, tmp_path):
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "d.csv", ["well"], ["u"])


@pytest.mark.parametrize(("decimal", "values"), [(None, [0.125, 2.0]), (",", [1.234, 2.0])])
def test_three_digits_behind_a_comma_are_decimals_where_that_is_sure_or_said(decimal, values, tmp_path):
    first = f"{values[0]:.3f}".replace(".", ",")
    (tmp_path / "d.csv").write_text(f"well;u\na;{first}\nb;2,000\n")
    assert read_table(tmp_path / "d.csv", ["well"], ["u"], decimal=decimal)["u"].tolist() == values


@pytest.mark.parametrize(
    ("text", "line"), [("well,u,q\na,1,2\nb,3\n", 3), ('well,u,q\n"a\nb",1,2\n\nb,3,\nc,4', 6)], ids=["cut", "quoted"]
)
def test_a_row_that_ends_early_is_no_row_without_a_label(tmp_path, text, line):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"d.csv: line {line} has 2 of the 3 cells of the header"):
        read_table(tmp_path / "d.csv", ["well"], ["u", "q"])
    (tmp_path / "d.csv").write_text("well,u,q\na,1,2\nb,3,\n\n")
    assert read_table(tmp_path / "d.csv", ["well"], ["u", "q"])["q"].isna().tolist() == [False, True]


def test_one_mark_cannot_separate_columns_and_decimals(tmp_path):
    with pytest.raises(ValueError, match="sep and decimal are both ','"):
        read_table(tmp_path / "d.csv", ["well"], ["u"], sep=",", decimal=",")


def test_a_column_of_words_does_not_hide_decimal_commas_of_the_others(tmp_path):
    (tmp_path / "d.csv").write_text("well;u;soil\na;1,5;clay\nb;2,25;sand\n")
    table = read_table(tmp_path / "d.csv", ["well"], ["u", "soil"])
    assert table["u"].tolist() == [1.5, 2.25]
    assert table["soil"].tolist() == ["clay", "sand"]


def test_the_command_line_reads_tables_in_other_dialects(tmp_path, capsys):
    frame().to_csv(tmp_path / "d.csv", sep=";", decimal=",", index=False)
    fit = [
        "fit",
        "ssmtl",
        "--unit",
        "well",
        "--x",
        "u,v",
        "--y",
        "q",
        "--steps",
        "2",
        "--set",
        "width=6",
        "--no-cross-fit",
    ]
    for i, more in enumerate(([], ["--sep", ";", "--decimal", ","])):
        data = ["--data", str(tmp_path / "d.csv"), *more]
        assert main([*fit, *data, "--out", str(tmp_path / f"run{i}")]) == 0
        assert main(["predict", str(tmp_path / "run0"), *data, "--out", str(tmp_path / f"p{i}.csv")]) == 0
    assert (tmp_path / "p0.csv").read_text() == (tmp_path / "p1.csv").read_text()
    want = zoo.Batch.from_dataframe(frame(), **COLUMNS)
    assert zoo.load(tmp_path / "run0").data["sha256"] == want.sha256
    assert main([*fit, "--data", str(tmp_path / "d.csv"), "--sep", "ab", "--out", str(tmp_path / "r")]) == 2
    assert "'ab' is no separator" in capsys.readouterr().err
