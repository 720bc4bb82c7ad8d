import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyrozoo as zoo
from pyrozoo.data.batch import Batch


def table(**columns):
    """Five rows of two units; row 21 has no target."""
    return pd.DataFrame(
        {
            "well": ["b", "a", "b", "b", "a"],
            "u": [1.0, 2.0, 3.0, 4.0, 5.0],
            "p": [10, 20, 30, 40, 50],
            "q": [0.1, np.nan, 0.3, 0.4, 0.5],
        }
        | columns,
        index=[20, 21, 22, 23, 24],
    )


def read(df, **options):
    return Batch.from_dataframe(df, **({"unit": "well", "x": ["u", "p"], "y": "q"} | options))


def recordings():
    """Four ragged recordings of two people, with a table per person and two targets."""
    lengths = [3, 1, 4, 2]
    return Batch.from_arrays(
        rows={"k": np.array([0, 1, 2, 1]), "v": np.arange(8.0).reshape(4, 2)},
        groups={"person": ["p", "q", "p", "q"]},
        tables={"person": {"age": np.array([30.0, 40.0])}},
        frames={"s": [np.full((t, 2), float(i)) for i, t in enumerate(lengths)], "m": [np.arange(t) for t in lengths]},
        labels={"k": [True, False, True, False], "v": [True, True, False, False]},
        coords={"person": ["p", "q"], "recording": ["r0", "r1", "r2", "r3"]},
        truth={"state": np.arange(4), "skill": np.array([0.5, 0.7])},
        truth_along={"state": "recording", "skill": "person"},
        row_plate="recording",
        name="walks",
        simulated=True,
    )


# ---------------------------------------------------------------- reading a table
def test_a_table_becomes_tensors_masks_sizes_and_names():
    batch = read(table(), name="wells", source="somewhere")
    torch.testing.assert_close(batch["x"], torch.tensor([[1.0, 10], [2, 20], [3, 30], [4, 40], [5, 50]]))
    torch.testing.assert_close(batch["y"], torch.tensor([[0.1], [0.0], [0.3], [0.4], [0.5]]))
    assert batch["labelled"].tolist() == [True, False, True, True, True]
    assert batch["unit"].tolist() == [0, 1, 0, 0, 1]
    assert batch["row"].tolist() == [0, 1, 2, 3, 4]
    assert dict(batch.sizes) == {"row": 5, "unit": 2, "labelled": 4, "unlabelled": 1}
    assert {k: v.tolist() for k, v in batch.strata.items()} == {"labelled": [0, 2, 3, 4], "unlabelled": [1]}
    assert {k: list(v) for k, v in batch.coords.items()} == {
        "unit": ["b", "a"],
        "row": [20, 21, 22, 23, 24],
        "input": ["u", "p"],
        "target": ["q"],
    }
    assert batch.info["name"] == "wells"
    assert batch.info["source"] == "somewhere"
    assert batch.info["simulated"] is False
    assert batch.info["columns"] == {"unit": "well", "x": ["u", "p"], "y": ["q"]}


def test_a_batch_is_the_keyword_arguments_of_a_model():
    batch = read(table())
    received = (lambda **arguments: arguments)(**batch)
    assert set(received) == {"x", "y", "labelled", "y_labelled", "unit", "row", "sizes"}
    assert len(batch) == 7
    assert received["y_labelled"] is received["labelled"]
    assert received["sizes"] == dict(batch.sizes)
    assert "data frame: 5 of 5 rows" in repr(batch)


def test_a_batch_cannot_be_changed_in_place():
    batch = read(table())
    with pytest.raises(TypeError, match="does not support item assignment"):
        batch.tensors["x"] = torch.zeros(5, 2)
    with pytest.raises(TypeError, match="does not support item assignment"):
        batch.sizes["row"] = 1
    with pytest.raises(AttributeError):
        batch.rows = "other"


def test_the_order_of_units_can_be_given_and_categories_give_it():
    by_argument = read(table(), units=["a", "b"])
    by_category = read(table(well=pd.Categorical(["b", "a", "b", "b", "a"], categories=["a", "b"])))
    for batch in (by_argument, by_category):
        assert batch.coords["unit"].tolist() == ["a", "b"]
        assert batch["unit"].tolist() == [1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("names", "units"),
    [
        (["a", 1, "a", 1, "1"], [1, "1", "a"]),
        ([("a", 1), ("b", 2), ("a", 1), ("b", 2), ("a", 1)], [("b", 2), ("a", 1)]),
        (list(pd.to_datetime(["2024-01-01", "2024-01-02"] * 2 + ["2024-01-01"])), None),
        ([True, False, True, False, True], None),
    ],
    ids=["mixed", "tuples", "dates", "booleans"],
)
def test_unit_names_keep_their_type(names, units):
    df = table(well=pd.Series(names, index=range(20, 25)))
    first_seen = list(dict.fromkeys(names))
    assert [type(n)(n) if isinstance(n, str) else n for n in read(df).group_names("unit").tolist()] == [
        n.to_pydatetime() if isinstance(n, pd.Timestamp) else n for n in names
    ]
    if units is not None:
        batch = read(df, units=units)
        assert batch.coords["unit"].tolist() == units
        assert batch["unit"].tolist() == [units.index(name) for name in names]
        assert set(first_seen) == set(units)


def test_repeated_rows_are_kept():
    df = pd.concat([table(), table()])
    batch = read(df)
    assert batch.n_rows == batch.sizes["row"] == 10
    torch.testing.assert_close(batch["x"][:5], batch["x"][5:])
    assert batch.coords["row"].tolist() == df.index.tolist()  # also labels that repeat


def test_a_table_without_targets_is_unlabelled():
    batch = read(table(), y=None)
    assert "y" not in batch.tensors
    assert not batch.labels
    assert dict(batch.sizes) == {"row": 5, "unit": 2}


def test_one_unit_only_is_allowed():
    batch = read(table(well=["a"] * 5))
    assert batch.sizes["unit"] == 1
    assert set(batch["unit"].tolist()) == {0}


def test_a_unit_without_labels_is_allowed():
    batch = read(table(q=[0.1, np.nan, 0.3, 0.4, np.nan]))
    assert batch["labelled"][batch["unit"] == 1].tolist() == [False, False]
    model = zoo.create_model("ssmtl", batch, width=4, depth=1)
    fit = zoo.fit(model, "paper", batch, steps=2, progress=False)
    assert np.isfinite(zoo.predict(fit, batch, draws=2).to_numpy()).all()


def test_no_labels_at_all_can_be_fitted_but_predict_refuses():
    batch = read(table(q=[np.nan] * 5))
    assert batch.sizes["labelled"] == 0
    model = zoo.create_model("ssmtl", batch, width=4, depth=1)
    fit = zoo.fit(model, "paper", batch, steps=2, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()
    with pytest.raises(ValueError, match=r"no row of the training data was labelled with 'y'.*add labels"):
        zoo.predict(fit, batch)


@pytest.mark.parametrize(("column", "name"), [("p", "x, column 'p'"), ("q", "y, column 'q'")])
def test_a_constant_column_is_an_error_when_the_model_is_made(column, name):
    batch = read(table(**{column: [7.0] * 5}))
    with pytest.raises(ValueError, match=rf"{name}: the training values are all 7; leave a constant column out"):
        zoo.create_model("ssmtl", batch)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"u": [1, np.inf, 3, 4, 5]}, {}, ValueError, r"column 'u', row 21: inf is not finite; replace it by NaN"),
        ({"q": [1, 2, -np.inf, 4, 5]}, {}, ValueError, r"column 'q', row 22: -inf is not finite; replace it by NaN"),
        ({"u": [1, 2, 3, 1e300, 5]}, {}, ValueError, r"column 'u', row 23: 1e\+300 is too large; change its unit"),
        (
            {"u": list("12x45")},
            {},
            TypeError,
            r"column 'u' holds .*first at row 22 with 'x'; convert it with pandas.to_num",
        ),
        ({"q": list("12345")}, {}, TypeError, r"column 'q' holds .*convert it with pandas.to_numeric"),
        ({"q": [True, False] * 2 + [True]}, {}, TypeError, r"column 'q' holds bool values"),
        ({"u": [1j, 2, 3, 4, 5]}, {}, TypeError, r"column 'u' holds complex128 values.*such as its .abs\(\)"),
        ({"u": pd.to_datetime(["2024"] * 5)}, {}, TypeError, r"column 'u' holds datetime64.*dt.total_seconds\(\)"),
        ({"u": pd.to_timedelta(range(5), "h")}, {}, TypeError, r"column 'u' holds timedelta64.*dt.total_seconds\(\)"),
        (
            {"u": ["1", "2,5", "3", "4", "5"]},
            {},
            TypeError,
            r"row 21 with '2,5'; convert it .* if '2,5' has a decimal comma \(in the shell --decimal ,\), or",
        ),
        ({"u": 2**60 + np.arange(5)}, {}, ValueError, r"column 'u': double precision keeps 1 of 5 distinct whole num"),
        ({}, {"unit": "unit"}, KeyError, r"column 'unit' is not in the table; its columns are \['well', 'u', 'p', 'q'"),
        ({}, {"x": ["u", "P"]}, KeyError, r"column 'P' is not in the table"),
        ({}, {"y": "target"}, KeyError, r"column 'target' is not in the table"),
        ({}, {"x": ["u", "u"]}, ValueError, r"column 'u' is used or present twice"),
        ({}, {"x": ["u", "q"]}, ValueError, r"column 'q' is used or present twice"),
        ({}, {"x": [["u"]]}, TypeError, r"column \['u'\]: a list is no name"),
        ({}, {"x": []}, ValueError, r"x: name at least one input column"),
        ({}, {"x": {"u", "p"}}, TypeError, r"x: a set has no order; give a list of columns"),
        ({}, {"unit": ["well"]}, TypeError, r"unit: a list; give the name of the one column that holds it"),
        ({"well": ["b", "a", None, "b", "a"]}, {}, ValueError, r"column 'well', row 22: the unit is missing; name it"),
        ({"well": [[1]] * 5}, {}, TypeError, r"unit: its names cannot be compared.*use strings or numbers"),
        ({}, {"units": ["a", "b", "c"]}, ValueError, r"unit 'c' has no rows; drop it from the list of units"),
        ({}, {"units": ["a", "b", "a"]}, ValueError, r"unit 'a' is given twice in the list of units"),
        ({}, {"units": ["a"]}, ValueError, r"unit, row 0: 'b' is not among the given units"),
    ],
)
def test_a_malformed_table_raises_one_error_that_names_the_place(change, options, error, message):
    with pytest.raises(error, match=message):
        read(table(**change), **options)


def test_a_category_without_rows_is_no_unit():
    batch = read(table(well=pd.Categorical(["b", "a", "b", "b", "a"], categories=["a", "b", "c"])))
    assert batch.coords["unit"].tolist() == ["a", "b"]
    assert batch["unit"].tolist() == [1, 0, 1, 1, 0]


def test_a_table_without_rows_is_an_error():
    with pytest.raises(ValueError, match="the table has no rows"):
        read(table().iloc[:0])


TWO_LEVELS = table().set_axis(pd.MultiIndex.from_product([["h"], list("abcd")]), axis=1)


@pytest.mark.parametrize("wrong", [{"well": ["a"], "u": [1.0]}, TWO_LEVELS])
def test_what_is_no_plain_table_is_an_error(wrong):
    with pytest.raises(TypeError, match="give a pandas data frame with one level of columns"):
        read(wrong)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_frames_of_other_libraries_are_refused_with_the_way_to_convert_them(library):
    module = pytest.importorskip(library)
    columns = table().to_dict("list")
    own = module.DataFrame(columns) if library == "polars" else module.table(columns)
    message = rf"a {library} \w+, which .to_pandas\(\) converts; give a"
    with pytest.raises(TypeError, match=f"the table: {message} pandas data frame"):
        read(own)
    batch = read(table())
    fit = zoo.fit(zoo.create_model("ssmtl", batch), "paper", batch, steps=1, progress=False)
    with pytest.raises(TypeError, match=f"batch: {message} Batch or a data frame"):
        zoo.predict(fit, own)
    with pytest.raises(TypeError, match=f"train: {message} Batch"):
        zoo.fit(fit.model, "paper", own)
    if library == "polars":
        with pytest.raises(TypeError, match=r"a polars LazyFrame, which .collect\(\).to_pandas\(\) converts"):
            read(own.lazy())
    else:  # a data frame of pandas whose columns are those of pyarrow
        arrow = own.to_pandas(types_mapper=pd.ArrowDtype)
        assert read(arrow).sha256 == batch.sha256
        assert read(arrow).names("unit").tolist() == batch.names("unit").tolist()


def test_a_unit_that_is_the_index_is_told_to_become_a_column():
    with pytest.raises(KeyError, match=r"column 'well' is not in the table.*; .reset_index\(\) makes the index"):
        read(table().set_index("well"))


def test_whole_numbers_beyond_double_precision_that_are_far_apart_are_read():
    numbers = [2**53 + 1, 3, 2**60 + 1, 7, 11]
    assert read(table(u=numbers), dtype=torch.float64)["x"][:, 0].tolist() == [float(n) for n in numbers]


# ---------------------------------------------------------------- any table
NAMES = st.one_of(
    st.lists(st.text(max_size=3), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(-5, 2**40), min_size=1, max_size=4, unique=True),
    st.lists(st.one_of(st.text(max_size=2), st.integers(2, 9)), min_size=1, max_size=4, unique=True),
    st.lists(st.datetimes(), min_size=1, max_size=3, unique=True).map(lambda names: [pd.Timestamp(n) for n in names]),
    st.lists(st.tuples(st.text(max_size=1), st.integers(0, 3)), min_size=1, max_size=3, unique=True),
)
FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)
INDICES = [
    lambda n: pd.RangeIndex(n),
    lambda n: pd.Index([f"r{i}" for i in range(n)]),
    lambda n: pd.Index([0] * n),
    lambda n: pd.date_range("2024-01-01", periods=n, freq="h"),
    lambda n: pd.period_range("2024-01", periods=n, freq="M"),
    lambda n: pd.MultiIndex.from_arrays([range(n), ["z"] * n]),
    lambda n: pd.Index(np.arange(n)[::-1] / 2),
    lambda n: pd.Index([None, *range(n - 1)], dtype=object),
]
QUIET = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def tables(draw):
    names = draw(NAMES)
    n = draw(st.integers(1, 8))
    which = draw(st.lists(st.integers(0, len(names) - 1), min_size=n, max_size=n))
    units = pd.Series([names[i] for i in which])
    numbers = st.lists(FINITE, min_size=n, max_size=n)
    whole = st.lists(st.integers(-9, 9), min_size=n, max_size=n)
    maybe = st.lists(st.one_of(st.none(), FINITE), min_size=n, max_size=n)
    df = pd.DataFrame(
        {
            "unit": units,
            "u": draw(numbers),
            "p": np.array(draw(whole), draw(st.sampled_from(["i2", "f4"]))),
            "q": np.array(draw(maybe), float),
        }
    )
    if draw(st.booleans()):
        df = df.iloc[[*range(n), draw(st.integers(0, n - 1))]]
    df.index = draw(st.sampled_from(INDICES))(len(df))
    return df


def comparable(names):
    return [pd.Timestamp(n) if isinstance(n, np.datetime64) else n for n in names]


def assert_same_rows(batch, df):
    """The batch holds exactly the rows of the table, in its order."""
    n = len(df)
    assert batch.n_rows == batch.sizes["row"] == n
    np.testing.assert_array_equal(batch["x"].numpy(), df[["u", "p"]].to_numpy(float))
    observed = df["q"].notna().to_numpy()
    np.testing.assert_array_equal(batch["labelled"].numpy(), observed)
    np.testing.assert_array_equal(batch["y"].numpy()[:, 0], df["q"].fillna(0.0).to_numpy())
    assert comparable(batch.group_names("unit")) == df["unit"].tolist()
    assert batch.sizes["unit"] == len(batch.coords["unit"]) == df["unit"].nunique()
    assert (batch.sizes["labelled"], batch.sizes["unlabelled"]) == (observed.sum(), n - observed.sum())
    np.testing.assert_array_equal(batch.strata["labelled"].numpy(), np.flatnonzero(observed))
    assert batch["row"].tolist() == list(range(n))
    assert pd.Index(batch.coords["row"]).equals(df.index)


@QUIET
@given(df=tables(), data=st.data())
def test_any_table_is_kept_row_by_row(df, data):
    batch = Batch.from_dataframe(df, unit="unit", x=["u", "p"], y="q", dtype=torch.float64)
    assert_same_rows(batch, df)
    assert comparable(batch.coords["unit"]) == df["unit"].drop_duplicates().tolist()

    rows = data.draw(st.lists(st.integers(0, len(df) - 1), min_size=1, max_size=5))
    part = batch.subset(rows)
    assert_same_rows(part, df.iloc[rows])
    assert list(part.coords["row"]) == list(batch.coords["row"][rows])

    mini = batch.take(rows)
    np.testing.assert_array_equal(mini["x"].numpy(), df[["u", "p"]].to_numpy(float)[rows])
    assert mini["row"].tolist() == rows
    assert mini.sizes == batch.sizes
    assert mini.n_rows == len(rows)
    assert_same_rows(mini.subset(range(len(rows))), df.iloc[rows])


BAD_CELLS = {"u": [np.inf, "text", 1j, 1e300], "q": [np.inf, "text", 1j, -1e300], "unit": [None, np.nan]}


@QUIET
@given(df=tables(), data=st.data())
def test_a_malformed_cell_always_raises_an_error_that_names_its_column(df, data):
    column = data.draw(st.sampled_from(sorted(BAD_CELLS)))
    place = data.draw(st.integers(0, len(df) - 1))
    cells = df[column].tolist()
    cells[place] = data.draw(st.sampled_from(BAD_CELLS[column]))
    broken = df.assign(**{column: pd.Series(cells, index=df.index)})
    with pytest.raises((TypeError, ValueError), match=rf"column '{column}'"):
        Batch.from_dataframe(broken, unit="unit", x=["u", "p"], y="q")


def test_a_malformed_cell_is_named_before_the_precision_of_another_column():
    df = pd.DataFrame({"unit": [0, 0], "u": [0.0, 1.6e-74], "q": [1.0, np.inf]})
    with pytest.raises(ValueError, match="column 'q', row 1: inf is not finite"):
        Batch.from_dataframe(df, unit="unit", x="u", y="q")


@QUIET
@given(
    df=tables(),
    unit=st.sampled_from(["unit", "u", "none", 3, None]),
    x=st.lists(st.sampled_from(["u", "p", "q", "unit", "none", 0]), max_size=3),
    y=st.sampled_from(["q", "p", None, "none", ["q", "p"], []]),
)
def test_any_choice_of_columns_works_or_raises_an_error_that_names_one(df, unit, x, y):
    used = [unit, *x, *([] if y is None else [y] if isinstance(y, str) else y)]
    if x and set(used) <= set(df.columns) and len(set(used)) == len(used) and "unit" not in used[1:]:
        try:
            batch = Batch.from_dataframe(df, unit=unit, x=x, y=y)
        except ValueError as error:  # q may have gaps
            message = str(error)
            gaps = "q" in used and df["q"].isna().any()
            if not gaps or re.search("column 'q', row|targets .* are missing", message) is None:
                raise
        else:
            assert batch.n_rows == len(df)
            assert batch["x"].shape == (len(df), len(x))
    else:
        with pytest.raises((KeyError, TypeError, ValueError), match=r"column|row"):
            Batch.from_dataframe(df, unit=unit, x=x, y=y)


# ---------------------------------------------------------------- from arrays
def test_ragged_recordings_are_flat_with_lengths():
    batch = recordings()
    assert batch["lengths"].tolist() == [3, 1, 4, 2]
    assert batch["s"].shape == (10, 2)
    assert batch["s"][:, 0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert dict(batch.along) == {
        **dict.fromkeys(["k_labelled", "v_labelled", "k", "v", "lengths", "person", "recording", "state"], "recording"),
        **dict.fromkeys(["s", "m"], "frame"),
        **dict.fromkeys(["age", "skill"], "person"),
    }
    strata = dict.fromkeys(["k_labelled", "unk_labelled", "v_labelled", "unv_labelled"], 2)
    assert dict(batch.sizes) == {"recording": 4, "person": 2} | strata


def test_taking_recordings_takes_their_frames():
    part = recordings().take([2, 1])
    assert part["lengths"].tolist() == [4, 1]
    assert part["s"][:, 0].tolist() == [2, 2, 2, 2, 1]
    assert part["m"].tolist() == [0, 1, 2, 3, 0]
    assert part["age"].tolist() == [30.0, 40.0]
    assert part["recording"].tolist() == [2, 1]
    assert part.sizes == recordings().sizes
    assert not part.strata


def test_a_subset_keeps_only_its_groups_tables_frames_and_truth():
    part = recordings().subset([3, 1])
    assert part["s"][:, 0].tolist() == [3, 3, 1]
    assert part["person"].tolist() == [0, 0]
    assert part["age"].tolist() == [40.0]
    assert part.coords["person"].tolist() == ["q"]
    assert part.coords["recording"].tolist() == ["r3", "r1"]
    assert part.truth["state"].tolist() == [3, 1]
    assert part.truth["skill"].tolist() == [0.7]
    strata = {"k_labelled": 0, "unk_labelled": 2, "v_labelled": 1, "unv_labelled": 1}
    assert dict(part.sizes) == {"recording": 2, "person": 1} | strata
    assert part.strata["v_labelled"].tolist() == [1]


def test_a_subset_of_a_minibatch_keeps_the_names_and_truth_of_its_rows():
    part = recordings().take([3, 2]).subset([1])
    assert part.coords["recording"].tolist() == ["r2"]
    assert part.truth["state"].tolist() == [2]
    assert part["s"][:, 0].tolist() == [2, 2, 2, 2]
    assert part["recording"].tolist() == [0]


def test_values_are_zero_where_a_target_is_not_observed():
    batch = recordings()
    assert batch["k"].tolist() == [0, 0, 2, 0]
    assert batch["v"].tolist() == [[0.0, 1.0], [2.0, 3.0], [0.0, 0.0], [0.0, 0.0]]
    missing = Batch.from_arrays(rows={"y": np.array([1.0, np.nan])}, labels={"y": [True, False]})
    assert missing["y"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rows": {"x": np.zeros((0, 1))}}, ValueError, "rows: there are no rows"),
        ({"rows": {"x": np.zeros(3), "z": np.zeros(2)}}, ValueError, "z: 2 entries, expected 3"),
        ({"rows": {"x": np.array([0, np.nan])}}, ValueError, "x, entry 1: not finite"),
        ({"rows": {"x": np.array(["a", "b"])}}, TypeError, "x: not an array of numbers"),
        ({"rows": {"x": np.zeros(2)}, "labels": {"x": [True]}}, ValueError, r"labels\['x'\]: shape \(1,\)"),
        ({"rows": {"x": np.zeros(2)}, "groups": {"g": ["a"]}}, ValueError, "g: 1 entries, expected 2"),
        (
            {"rows": {"x": np.zeros(2)}, "groups": {"g": ["a", "b"]}, "tables": {"g": {"t": [1.0]}}},
            ValueError,
            "t: 1 entries, expected 2",
        ),
        ({"rows": {"x": np.zeros(2)}, "frames": {"s": [np.zeros(1)]}}, ValueError, "s: 1 recordings, expected 2"),
        (
            {"rows": {"x": np.zeros(1)}, "frames": {"s": [np.zeros(2)], "t": [np.zeros(3)]}},
            ValueError,
            "t, recording 0: its length differs",
        ),
        ({"rows": {"x": np.zeros(1)}, "frames": {"s": [np.array([0, np.inf])]}}, ValueError, "s, entry 1: not finite"),
    ],
)
def test_malformed_arrays_raise_an_error_that_names_them(arguments, error, message):
    with pytest.raises(error, match=message):
        Batch.from_arrays(**arguments)


# ---------------------------------------------------------------- parts
def test_a_weight_travels_with_a_minibatch():
    part = read(table()).take([0, 4], weight=torch.tensor([0.5, 2.0]))
    assert dict(**part)["weight"].tolist() == [0.5, 2.0]
    assert part.take([1])["weight"].tolist() == [2.0]


@pytest.mark.parametrize("rows", [np.arange(5) > 2, [True] * 5, [0.5, 1.0], torch.ones(5, dtype=torch.bool)])
@pytest.mark.parametrize("method", ["take", "subset"])
def test_a_mask_is_not_mistaken_for_positions(method, rows):
    with pytest.raises(TypeError, match=r"give positions, e\.g\. numpy\.flatnonzero"):
        getattr(read(table()), method)(rows)


def test_a_data_set_needs_a_row():
    with pytest.raises(ValueError, match="at least one row"):
        read(table()).subset([])


def test_split_by_rows_is_a_partition_fixed_by_its_seed():
    batch = read(pd.concat([table()] * 8, ignore_index=True))
    train, test = batch.split(0.25, seed=3)
    assert (train.n_rows, test.n_rows) == (30, 10)
    assert sorted([*train.coords["row"], *test.coords["row"]]) == list(range(40))
    assert batch.split(0.25, seed=3)[1].sha256 == test.sha256
    assert batch.split(0.25, seed=4)[1].coords["row"].tolist() != test.coords["row"].tolist()


def test_split_by_last_takes_the_end_of_each_unit():
    train, test = read(table()).split(0.5, by="last")
    assert train.coords["row"].tolist() == [20, 21, 22]
    assert test.coords["row"].tolist() == [23, 24]


def test_split_by_group_takes_whole_groups():
    train, test = read(table()).split(0.5, by="unit", seed=0)
    assert set(train.coords["unit"]).isdisjoint(test.coords["unit"])
    assert train.n_rows + test.n_rows == 5


@pytest.mark.parametrize(("options", "message"), [({"test": 1.0}, "test: 1.0"), ({"by": "day"}, "by: 'day' is none")])
def test_split_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        read(table()).split(**options)


# ---------------------------------------------------------------- labels
def test_relabel_only_takes_labels_away_and_updates_strata():
    batch = read(table()).relabel([True, True, False, False, True])
    assert batch.observed().tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(batch["y"][:, 0].numpy(), np.float32([0.1, 0, 0, 0, 0.5]))
    assert (batch.sizes["labelled"], batch.sizes["unlabelled"]) == (2, 3)
    assert batch.strata["labelled"].tolist() == [0, 4]


def test_relabel_checks_target_and_shape():
    batch = read(table())
    with pytest.raises(KeyError, match=r"'z' is no target of this batch; targets: \['y'\]"):
        batch.relabel([True] * 5, "z")
    with pytest.raises(ValueError, match=r"observed: shape \(2,\), expected \(5,\)"):
        batch.relabel([True, False])


def test_hide_leaves_no_trace_of_any_target():
    hidden = recordings().hide()
    assert not hidden["k_labelled"].any()
    assert not hidden["v_labelled"].any()
    assert not hidden["k"].any()
    assert not hidden["v"].any()
    assert hidden.sizes["k_labelled"] == hidden.sizes["v_labelled"] == 0
    assert recordings()["k_labelled"].any()


def labelled_frames():
    """Three ragged recordings, the last one without labels, and a target along their frames."""
    return Batch.from_arrays(
        rows={},
        frames={"z": [np.array([1, 2]), np.array([3, 1, 2]), np.array([9])], "s": [np.ones((t, 2)) for t in (2, 3, 1)]},
        labels={"z": [True, True, False]},
        row_plate="recording",
    )


def test_relabel_hides_all_frames_of_a_recording():
    batch = labelled_frames()
    assert batch["z"].tolist() == [1, 2, 3, 1, 2, 0]  # the last recording has no labels
    fewer = batch.relabel([False, True, True], "z")
    assert fewer["z"].tolist() == [0, 0, 3, 1, 2, 0]
    assert fewer["labelled"].tolist() == [False, True, False]
    assert (fewer.sizes["labelled"], fewer.sizes["unlabelled"]) == (1, 2)
    assert fewer["s"].tolist() == batch["s"].tolist()
    hidden = batch.hide()
    assert not hidden["z"].any()
    assert not hidden["labelled"].any()
    assert batch["z"].tolist() == [1, 2, 3, 1, 2, 0]


def test_observed_has_one_entry_for_each_frame_of_a_target_along_frames():
    batch = labelled_frames()
    assert batch.observed("z").tolist() == [True] * 5 + [False]
    assert batch.relabel([True, False, True], "z").observed("z").tolist() == [True] * 2 + [False] * 4
    assert batch.take([2, 1]).observed("z").tolist() == [False] + [True] * 3
    assert not batch.hide().observed("z").any()


# ---------------------------------------------------------------- groups
def test_align_moves_rows_to_the_places_of_other_names():
    batch = recordings().align("person", ["z", "q", "p"])
    assert batch["person"].tolist() == [2, 1, 2, 1]
    assert batch.sizes["person"] == 3
    assert batch.group_names("person").tolist() == ["p", "q", "p", "q"]
    assert "age" not in batch.tensors
    assert "skill" not in batch.truth


def test_align_names_unknown_groups():
    with pytest.raises(KeyError, match=r"unknown person\(s\) \['q'\]"):
        recordings().align("person", ["p", "z"])


def test_support_holds_each_units_rows_labelled_ones_first():
    batch = read(table(q=[np.nan, 0.2, np.nan, 0.4, 0.5])).with_support(2)
    assert batch["support_x"].shape == (2, 2, 2)
    assert batch["support_mask"].tolist() == [[True, True], [True, True]]
    assert batch["support_labelled"].tolist() == [[True, False], [True, True]]
    assert batch["support_y"][0, 0].item() == pytest.approx(0.4)
    assert {tuple(row) for row in batch["support_x"][1].tolist()} == {(2.0, 20.0), (5.0, 50.0)}
    torch.testing.assert_close(batch.with_support(2)["support_x"], batch["support_x"])


def test_support_is_padded_with_zeros_that_the_mask_excludes():
    batch = read(table()).with_support(9)
    assert batch["support_mask"].tolist() == [[True, True, True], [True, True, False]]
    assert not batch["support_x"][1, 2].any()
    assert not batch["support_labelled"][1, 2]
    for unit in range(2):
        inside = batch["support_x"][unit][batch["support_mask"][unit]]
        assert sorted(inside.tolist()) == sorted(batch["x"][batch["unit"] == unit].tolist())


def test_tables_must_have_one_entry_per_group():
    batch = read(table())
    assert batch.with_tables("unit", {"depth": torch.tensor([1.0, 2.0])}).take([0])["depth"].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="depth: 3 entries for 2 units"):
        batch.with_tables("unit", {"depth": torch.zeros(3)})


# ---------------------------------------------------------------- type and identity
def test_to_changes_floating_tensors_only():
    batch = read(table()).to(dtype=torch.float64)
    assert batch["x"].dtype == batch["y"].dtype == torch.float64
    assert batch["unit"].dtype == torch.int64
    assert batch["labelled"].dtype == torch.bool


def test_the_type_of_a_table_can_be_chosen():
    assert read(table(), dtype=torch.float64)["x"].dtype == torch.float64
    assert read(table())["x"].dtype == torch.get_default_dtype()


def test_sha256_is_that_of_the_data():
    batch = read(table())
    assert batch.sha256 == read(table(), name="other").sha256
    others = [
        read(table(u=[1.0, 2.0, 3.0, 4.0, 5.5])),
        read(table(q=[0.1, np.nan, 0.3, 0.4, np.nan])),
        read(table(), units=["a", "b"]),
        read(table(), dtype=torch.float64),
        batch.subset([0, 1, 2, 3]),
        batch.take([1, 0, 2, 3, 4]),
    ]
    assert len({batch.sha256, *(other.sha256 for other in others)}) == 7


@pytest.mark.parametrize("name", ["row", "sizes", "weight", "h", "lengths", "labelled", "y_labelled", "unit"])
def test_names_that_batch_needs_itself_are_refused(name):
    with pytest.raises(ValueError, match="is taken by Batch"):
        Batch.from_arrays(
            rows={"y": [1.0, 2.0], name: [0, 1]}, groups={"unit": ["a", "b"]}, labels={"y": [True, False]}
        )


def test_names_of_masks_do_not_depend_on_the_order_of_the_targets():
    seen = {"y": np.array([True, False]), "k": np.array([False, True])}
    for order in (("y", "k"), ("k", "y")):
        batch = Batch.from_arrays(
            rows={"k": [0, 1], "y": [0.5, 0.7]}, labels={target: seen[target] for target in order}
        )
        assert dict(batch.labels) == {"y": "labelled", "k": "k_labelled"}
        assert batch["labelled"].tolist() == batch["y_labelled"].tolist() == [True, False]
        assert batch["k_labelled"].tolist() == [False, True]
    only = Batch.from_arrays(rows={"k": [0, 1], "y": [0.5, 0.7]}, labels={"k": seen["k"]})
    assert only["labelled"].tolist() == only["k_labelled"].tolist() == [False, True]
    assert "y_labelled" not in only


def test_a_row_without_a_group_is_refused():
    with pytest.raises(ValueError, match=r"unit, row 1: the unit is missing"):
        Batch.from_arrays(rows={"x": [1.0, 2.0]}, groups={"unit": np.array(["a", None], dtype=object)})
