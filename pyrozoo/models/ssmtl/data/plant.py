"""Tables of a plant before they are fitted: inputs known only with a label, means of steady operation (6.2), gaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ....data.neighbours import MOST, fill_from_neighbours


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


def fill_gaps(
    df: pd.DataFrame, columns: Sequence[str], *, unit: str, like: pd.DataFrame | None = None
) -> pd.DataFrame:  # fmt: skip
    """Fill gaps in inputs with the mean of the five rows that are most alike, weighted by 1 / distance.

    Rows are alike by their other inputs and by the mean inputs of their units, each column in its standard deviations.
    SSMTL itself integrates gaps out; where rows are many and alike, filled ones predict better (see the entry's page).
    A filled value counts as measured from then on: the model's own intervals do not know of it, those that
    `pyrozoo.cross_fitted` learns on held-out labels do.

    Args:
        df: The table, one line per row in any order; NaN in `columns` where there was no measurement.
        columns: Columns to fill, and to tell likeness by; numbers.
        unit: Column with the unit of a row.
        like: The table in which to look for rows that are alike, such as the training table for one to predict; by
            default `df`. Units that it has take their mean inputs from there. Of more than 10,000 rows these are drawn
            at random, the same ones in every call.

    Returns:
        A copy in the same order, without NaN in `columns`.

    Raises:
        KeyError: A column is not in a table.
        TypeError: A column does not hold numbers.
        ValueError: A row has no unit, a column has no value at all, or a value is infinite.

    Example:
        >>> import pandas as pd
        >>> from pyrozoo.models.ssmtl import fill_gaps
        >>> df = pd.DataFrame({"well": list("aaabbb"), "u": [1.0, 1, 2, 1, 1, 2], "p": [3.0, 3, 4, 7, None, 8]})
        >>> fill_gaps(df, ["u", "p"], unit="well")["p"].round(1).tolist()
        [3.0, 3.0, 4.0, 7.0, 7.0, 8.0]
    """
    columns = list(columns)
    known = _inputs(df if like is None else like, columns, unit)
    loc, scale = known.mean(), known.std(ddof=0)
    for column in columns:
        if np.isnan(loc[column]):
            raise ValueError(f"column {column!r}: it has no value to fill its gaps from; leave it out")
    scale = scale.where(scale > 0, 1.0)
    known = (known - loc) / scale
    known_units = (df if like is None else like)[unit].to_numpy()
    rows = known if like is None else (_inputs(df, columns, unit) - loc) / scale
    means = known.groupby(known_units).mean()
    own = means if like is None else means.combine_first(rows.groupby(df[unit].to_numpy()).mean())
    drawn = np.random.default_rng(0).permutation(len(known))[:MOST]
    among = np.hstack([known.to_numpy()[drawn], means.loc[known_units[drawn]].to_numpy()])
    x = np.hstack([rows.to_numpy(), own.loc[df[unit].to_numpy()].to_numpy()])
    filled = fill_from_neighbours(x, among)[:, : len(columns)] * scale.to_numpy() + loc.to_numpy()
    out = df.copy()
    for j, column in enumerate(columns):
        out[column] = df[column].astype(float).where(df[column].notna(), filled[:, j])
    return out


def _inputs(df: pd.DataFrame, columns: Sequence[str], unit: str) -> pd.DataFrame:
    """Columns of numbers as floats, NaN where a value is missing; refuses others."""
    _require(df, [*columns, unit], [unit])
    for column in columns:
        if not pd.api.types.is_numeric_dtype(df[column]):
            raise TypeError(f"column {column!r} holds {df[column].dtype}, no numbers; leave it out")
    out = df[columns].astype(float)
    infinite = np.isinf(out.to_numpy())
    if infinite.any():
        i, j = np.argwhere(infinite)[0]
        raise ValueError(f"column {columns[j]!r}, row {df.index[i]!r}: an infinite value; correct it")
    return out


def _require(df: pd.DataFrame, columns: Sequence[str], complete: Sequence[str]) -> None:
    for column in columns:
        if column not in df:
            raise KeyError(f"no column {column!r}; there are {list(df)}")
    for column in complete:
        if df[column].isna().any():
            row = df.index[df[column].isna().to_numpy().argmax()]
            raise ValueError(f"row {row!r}: column {column!r} is empty; fill it or leave the row out")
