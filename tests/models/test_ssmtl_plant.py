"""Inputs carried forward from the last label, means of steady operation, and gaps filled from like rows."""

import numpy as np
import pandas as pd
import pytest

from pyrozoo.models.ssmtl import carry_forward, fill_gaps, steady_means

WHERE = {"unit": "well", "time": "day"}


def test_a_row_has_the_last_earlier_value_of_its_own_unit_in_any_order():
    df = pd.DataFrame(
        {"well": list("abababa"), "day": [5, 1, 1, 2, 3, 3, 4], "eta": [np.nan, 0.1, 0.9, 0.2, 0.8, np.nan, np.nan]},
        index=list("tuvwxyz"),
    )
    found = carry_forward(df, ["eta"], **WHERE)
    np.testing.assert_array_equal(found["eta"], [0.8, np.nan, np.nan, 0.1, 0.9, 0.2, 0.8])
    assert found.index.equals(df.index)
    dates = df.assign(day=pd.Timestamp("2024-01-01") + pd.to_timedelta(df["day"], "D"))
    pd.testing.assert_series_equal(carry_forward(dates, ["eta"], **WHERE)["eta"], found["eta"])


def test_periods_end_where_a_column_moves_a_value_is_missing_or_the_unit_changes():
    choke = [10, 10.5, 11.2, 11.2, np.nan, 11.2, 11.2, 11.2]
    df = pd.DataFrame({"well": list("aaaaaaab"), "day": range(8), "choke": choke, "q": [1, 3, 5, np.nan, 0, 2, 4, 6.0]})
    found = steady_means(df.iloc[::-1], ["q"], tolerance={"choke": 1.0}, length=2, **WHERE)
    assert found["rows"].tolist() == [2, 2, 2]  # the last unit's only row is too short a period
    assert found["day"].tolist() == [0.5, 2.5, 5.5]
    assert found["q"].tolist() == [2.0, 5.0, 3.0]


def test_faults_of_a_table_are_named():
    df = pd.DataFrame({"well": ["a", "a", None], "day": [1, 1, 2], "eta": [0.1, 0.2, 0.3]})
    with pytest.raises(ValueError, match="row 2: column 'well' is empty"):
        carry_forward(df, ["eta"], **WHERE)
    with pytest.raises(ValueError, match="eta: unit a has two measurements at 1"):
        carry_forward(df.head(2), ["eta"], **WHERE)
    with pytest.raises(KeyError, match="no column 'gas'"):
        carry_forward(df, ["gas"], **WHERE)
    with pytest.raises(ValueError, match="give tolerances"):
        steady_means(df.head(2), ["eta"], tolerance={}, length=2, **WHERE)


# -------------------------------------------------------------------- gaps
def two_wells(n=240):
    """In each well p is another function of u; a fifth of its values is missing."""
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"well": np.repeat(["a", "b"], n // 2), "u": rng.uniform(-1, 1, n), "v": 0.0})
    df["p"] = np.where(df["well"] == "a", 10 + df["u"] ** 2, 20 - 3 * df["u"])
    return df, df.assign(p=df["p"].where(rng.random(n) > 0.2))


def test_gaps_are_filled_from_rows_of_alike_units_with_alike_inputs():
    whole, df = two_wells()
    gaps = df["p"].isna()
    found = fill_gaps(df, ["u", "v", "p"], unit="well")
    pd.testing.assert_frame_equal(found[~gaps], whole[~gaps])
    assert (found["p"] - whole["p"])[gaps].abs().max() < 0.5  # unit means err by up to 3, the column's mean by 8
    shuffled = df.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(fill_gaps(shuffled, ["u", "v", "p"], unit="well").sort_index(), found, rtol=1e-9)


def test_new_rows_are_filled_from_the_training_table():
    _, df = two_wells()
    new = pd.DataFrame(
        {"well": ["b", "a", "c"], "u": [0.5, 0.5, 0.5], "v": 0.0, "p": [np.nan, np.nan, 20.0]}, index=[7, 8, 9]
    )
    found = fill_gaps(new, ["u", "v", "p"], unit="well", like=df)["p"]
    assert abs(found[7] - 18.5) < 0.3, "the well's mean is that of the training table"
    assert abs(found[8] - 10.25) < 0.3
    assert found[9] == 20.0


def test_tables_whose_gaps_cannot_be_filled_are_refused():
    df = pd.DataFrame({"well": ["a", "b"], "u": [1.0, np.nan], "p": [np.nan, np.nan], "s": ["x", "y"]})
    with pytest.raises(ValueError, match="column 'p': it has no value to fill its gaps from"):
        fill_gaps(df, ["u", "p"], unit="well")
    with pytest.raises(TypeError, match=r"column 's' holds .*, no numbers"):
        fill_gaps(df, ["s"], unit="well")
    with pytest.raises(ValueError, match="column 'u', row 0: an infinite value"):
        fill_gaps(df.assign(u=[np.inf, 1.0]), ["u"], unit="well")
    with pytest.raises(ValueError, match="row 1: column 'well' is empty"):
        fill_gaps(df.assign(well=["a", None]), ["u"], unit="well")
