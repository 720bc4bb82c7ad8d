"""Tables of a plant before they are fitted: inputs known only with a label, and averages of steady operation (6.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def carry_forward(df: pd.DataFrame, columns: Sequence[str], *, unit: str, time: str) -> pd.DataFrame:
    """Replace inputs that are measured only with a label by their last earlier value in the unit (section 6.2).

    The paper's eta, the fractions of oil and gas, come from the measurement that gives the label, and are unknown where
    the model predicts: every row, labelled or not, has the value "from the previous available flow measurement".

    Args:
        df: The table, one line per row in any order; NaN in `columns` where there was no measurement.
        columns: Numeric columns to carry forward, each by itself.
        unit: Column with the unit of a row.
        time: Column with its time, numbers or datetimes. Rows of a unit at the same time do not see each other.

    Returns:
        A copy in the same order, with the last value before the row's time, in the unit of the column; NaN in the rows
        of a unit up to its first measurement, which SSMTL integrates out.

    Raises:
        KeyError: A column is not in the table.
        ValueError: A row has no unit or no time, or two measurements of a unit have the same time.

    Example:
        >>> import pandas as pd
        >>> from pyrozoo.models.ssmtl import carry_forward
        >>> df = pd.DataFrame({"well": "a", "day": [1, 2, 3, 4], "oil": [0.6, None, 0.5, None]})
        >>> carry_forward(df, ["oil"], unit="well", time="day")["oil"].tolist()
        [nan, 0.6, 0.6, 0.5]
    """
    _require(df, [*columns, unit, time], [unit, time])
    out = df.copy()
    order = np.lexsort((np.arange(len(df)), df[time].to_numpy()))
    for column in columns:
        ordered = df.iloc[order][[unit, time, column]].reset_index(drop=True)
        known = ordered.dropna(subset=[column])
        twice = known[known.duplicated([unit, time])]
        if len(twice):
            line = twice.iloc[0]
            raise ValueError(f"{column}: unit {line[unit]} has two measurements at {line[time]}; keep one")
        found = pd.merge_asof(ordered[[unit, time]], known, on=time, by=unit, allow_exact_matches=False)
        values = np.empty(len(df))
        values[order] = found[column].to_numpy(float)
        out[column] = values
    return out


def steady_means(
    df: pd.DataFrame, columns: Sequence[str], *, unit: str, time: str, tolerance: dict[str, float], length: int
) -> pd.DataFrame:
    """Average each period of steady operation to one row; other rows are left out (section 6.2).

    A period is a run of at least `length` consecutive rows of a unit in which the lowest and the highest value of every
    column of `tolerance` differ by no more than its tolerance. A row that would break this begins the next run. The
    paper detects its periods by the method of an article that it cites; this is a plain rule in its place.

    Args:
        df: The table, one line per row in any order.
        columns: Numeric columns to average; NaN are left out of a mean, which is NaN where there is no value.
        unit: Column with the unit of a row.
        time: Column with its time, numbers or datetimes.
        tolerance: Column -> largest range within a period, in the unit of the column. A NaN there ends a period.
        length: Smallest number of rows of a period.

    Returns:
        One line per period, by unit and time: the unit, the mean time, the means, and ``rows``, the number of rows.

    Raises:
        KeyError: A column is not in the table.
        ValueError: A row has no unit or no time; no tolerance, a negative one, or a length below 1.

    Example:
        >>> import pandas as pd
        >>> from pyrozoo.models.ssmtl import steady_means
        >>> choke, pressure = [20, 20, 21, 50, 80, 80.0], [1, 2, 3, 9, 5, 7.0]
        >>> df = pd.DataFrame({"well": "a", "hour": range(6), "choke": choke, "p": pressure})
        >>> steady_means(df, ["choke", "p"], unit="well", time="hour", tolerance={"choke": 1.0}, length=2)
          well  hour      choke    p  rows
        0    a   1.0  20.333333  2.0     3
        1    a   4.5  80.000000  6.0     2
    """
    _require(df, [*columns, *tolerance, unit, time], [unit, time])
    if not tolerance or min(tolerance.values()) < 0 or length < 1:
        raise ValueError(
            f"tolerance {tolerance}, length {length}: give tolerances of at least 0 and a length of at least 1"
        )
    ordered = df.sort_values([unit, time], kind="stable").reset_index(drop=True)
    values, limits = ordered[list(tolerance)].to_numpy(float), np.array(list(tolerance.values()))
    names = ordered[unit].tolist()
    periods, start, low, high = np.full(len(ordered), -1), 0, np.empty(0), np.empty(0)
    for i, row in enumerate(values):
        low, high = (np.minimum(low, row), np.maximum(high, row)) if i > start else (row, row)
        if i > start and (names[i] != names[start] or not (high - low <= limits).all()):
            start, low, high = i, row, row
        periods[i] = start if not np.isnan(row).any() else -1
    numbers = pd.Series(periods).map(pd.Series(periods).value_counts())
    kept = ordered[(periods >= 0) & (numbers.to_numpy() >= length)]
    groups = kept.groupby(periods[kept.index])
    out = groups[[*columns]].mean()
    out.insert(0, unit, groups[unit].first())
    out.insert(1, time, groups[time].mean())
    return out.assign(rows=groups.size()).reset_index(drop=True)


def _require(df: pd.DataFrame, columns: Sequence[str], complete: Sequence[str]) -> None:
    for column in columns:
        if column not in df:
            raise KeyError(f"no column {column!r}; there are {list(df)}")
    for column in complete:
        if df[column].isna().any():
            row = df.index[df[column].isna().to_numpy().argmax()]
            raise ValueError(f"row {row!r}: column {column!r} is empty; fill it or leave the row out")
