"""Inputs carried forward from the last label, and means of steady operation."""

import numpy as np
import pandas as pd
import pytest

from pyrozoo.models.ssmtl import carry_forward, steady_means

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
