"""Reading tables and the columns of a data frame, with errors that name the file, column, row and remedy."""

from __future__ import annotations

import csv
import functools
import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..files import naming, require_plain

_MISSING = ("", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null", "None")


def first(index: pd.Index, where: np.ndarray) -> Any:
    """Name of the first row where `where` is True, as Python prints it."""
    return index[[int(where.argmax())]].tolist()[0]


def plain_names(names: np.ndarray) -> np.ndarray:
    """Names as ArviZ, netCDF and JSON hold them: numbers, times or text, each of them once.

    Names of other kinds (several kinds together, dates, periods, times with a zone, tuples) become their text. Names
    that are repeated become positions.
    """
    if names.dtype.kind == "O" and not all(isinstance(name, str) for name in names):
        names = np.array([str(name) for name in names], dtype=object)
    return names if pd.Index(names, tupleize_cols=False).is_unique else np.arange(len(names))


def described(given: Any) -> str:
    """The type of what was given in place of a table or a batch, and how a frame of another library is converted."""
    kind = type(given)
    for method in (".to_pandas()", ".collect().to_pandas()"):
        if hasattr(given, method[1:].partition("(")[0]):
            return f"{kind.__module__.partition('.')[0]} {kind.__name__}, which {method} converts"
    return kind.__name__


def check_columns(df: pd.DataFrame, used: list[str]) -> None:
    """Check that every column is there once and that the table has rows.

    Args:
        df: The table.
        used: Names of the columns that are read.

    Raises:
        TypeError: Not a data frame with one level of columns, or something that is no name of a column.
        KeyError: A column is not in the table.
        ValueError: A column is used or present twice, or there are no rows.
    """
    if not isinstance(df, pd.DataFrame) or df.columns.nlevels > 1:
        what = "several levels of columns" if isinstance(df, pd.DataFrame) else f"a {described(df)}"
        raise TypeError(f"the table: {what}; give a pandas data frame with one level of columns")
    for column in used:
        if not isinstance(column, Hashable):
            raise TypeError(f"column {column!r}: a {type(column).__name__} is no name of a column")
        if column not in df.columns:
            remedy = "; .reset_index() makes the index a column" if column in df.index.names else ""
            raise KeyError(f"column {column!r} is not in the table; its columns are {list(df.columns)}{remedy}")
        if used.count(column) > 1 or (df.columns == column).sum() > 1:
            raise ValueError(f"column {column!r} is used or present twice; each group, input and target needs its own")
    if df.empty:
        raise ValueError("the table has no rows; give at least one")


def parse_times(file: str, table: pd.DataFrame, column: str) -> pd.Series:
    """Times that were read as text: numbers if all are, else dates and times of ISO 8601, those with a zone in UTC.

    Raises:
        ValueError: A time is neither, or is missing; the message names the file and the row.
    """
    text = table[column]
    numbers = pd.to_numeric(text, errors="coerce")
    if numbers.notna().all():
        return numbers
    with naming(file):
        times = pd.to_datetime(text, errors="coerce", format="ISO8601", utc=True)
        if times.isna().any():
            row = first(table.index, times.isna().to_numpy())
            raise ValueError(
                f"column {column!r}, row {row!r}: {text[row]!r} is no time; write numbers, or dates such as "
                "2024-05-01 or 2024-05-01T13:30:00"
            )
    return times


def numeric(df: pd.DataFrame, columns: list[str], largest: float) -> np.ndarray:
    """Read columns as floating-point numbers, NaN where a value is missing.

    Args:
        df: The table, N rows.
        columns: Names of the D columns.
        largest: Largest magnitude that is accepted.

    Returns:
        Values, shape (N, D).

    Raises:
        TypeError: A column does not hold real numbers; the message names column, row and remedy.
        ValueError: A value is infinite or too large; the message names column, row and remedy.
    """
    out = np.empty((len(df), len(columns)))
    for j, column in enumerate(columns):
        series = df[column]
        types = pd.api.types
        if not types.is_numeric_dtype(series) or types.is_bool_dtype(series) or types.is_complex_dtype(series):
            text = (pd.to_numeric(series.astype(str), errors="coerce").isna() & series.notna()).to_numpy()
            example = series.iloc[int(text.argmax())] if text.any() else None
            where = f", first at row {first(series.index, text)!r} with {example!r}" if text.any() else ""
            raise TypeError(
                f"column {column!r} holds {series.dtype} values{where}; convert it {_conversion(series, example)}"
            )
        values = series.to_numpy(dtype=float, na_value=np.nan)
        require_exact(column, series, values)
        bad = np.isinf(values)
        if bad.any():
            row, value = first(series.index, bad), values[bad.argmax()]
            raise ValueError(
                f"column {column!r}, row {row!r}: {value} is not finite; replace it by NaN, in a file by an empty "
                "cell, if unknown"
            )
        large = np.abs(values) > largest
        if large.any():
            row, value = first(series.index, large), values[large.argmax()]
            raise ValueError(f"column {column!r}, row {row!r}: {value} is too large; change its unit of measure")
        out[:, j] = values
    return out


def _conversion(series: pd.Series, example: Any) -> str:
    """How a column becomes one of numbers, given one of its values that is none."""
    types = pd.api.types
    if types.is_bool_dtype(series):
        return "by .astype(int)"
    if types.is_complex_dtype(series):
        return "to real numbers, such as its .abs()"
    if types.is_datetime64_any_dtype(series):
        return "to seconds, by (column - column.min()).dt.total_seconds()"
    if types.is_timedelta64_dtype(series):
        return "to seconds, by .dt.total_seconds()"
    if isinstance(example, str) and re.fullmatch(r"\s*[+-]?[\d.,]*,[\d.,]*\s*", example):
        return (
            f"with pandas.to_numeric, after .str.replace(',', '.') if {example!r} has a decimal comma (in the shell "
            "--decimal ,), or .str.replace(',', '') if it has commas between thousands"
        )
    return (
        "with pandas.to_numeric (in a file correct the cell, or leave it empty if it is unknown), or, if it is an "
        "input that holds categories, by .astype('category'), --category in the shell"
    )


def require_exact(column: Any, series: pd.Series, values: np.ndarray) -> None:
    """Refuse whole numbers beyond 2^53 that are close to each other, so that double precision cannot tell them apart.

    Args:
        column: Name of the column, for the message.
        series: The column, (N,).
        values: Its values in double precision, (N,), NaN where they are missing.

    Raises:
        ValueError: Rounding moves a value by more than a thousandth of their standard deviation.
    """
    if not pd.api.types.is_integer_dtype(series) or not (np.abs(values) > 2**53).any():
        return
    exact = [int(value) for value in series.dropna()]
    moved = max(abs(int(float(value)) - value) for value in exact)
    spread = float(np.std([float(value - exact[0]) for value in exact]))
    if moved > 1e-3 * spread:
        raise ValueError(
            f"column {column!r}: double precision keeps {len({float(value) for value in exact})} of "
            f"{len(set(exact))} distinct whole numbers, such as {exact[0]}; subtract the smallest one"
        )


def indicators(
    df: pd.DataFrame, columns: list[str], levels: Mapping[str, Sequence[Any]]
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Add a column of 0 and 1 for every category of the inputs that hold categories, NaN where that is missing.

    A column ``stage`` with the categories a and b becomes ``stage=a`` and ``stage=b``; one of True and False stays one
    column of its own name.

    Args:
        df: The table, N rows.
        columns: Names of the inputs.
        levels: Input -> its categories; those of a categorical or boolean column are found in the table.

    Returns:
        The table with these columns, and input -> {name of the new column -> its category}, of these inputs alone.

    Raises:
        KeyError: `levels` names no input.
        TypeError: A category is neither text nor a number nor True or False.
        ValueError: A value that is none of the categories, with its row; a category or a name of a column that is there
            twice.
    """
    if unknown := [column for column in levels if column not in columns]:
        raise KeyError(f"levels: {unknown[0]!r} is none of the inputs {columns}")
    found: dict[str, dict[str, Any]] = {}
    new: dict[str, np.ndarray] = {}
    for column in columns:
        series = df[column]
        boolean = pd.api.types.is_bool_dtype(series) and not isinstance(series.dtype, pd.CategoricalDtype)
        if column in levels:
            own = [v.item() if isinstance(v, np.generic) else v for v in levels[column]]
        elif boolean:
            own = [True]
        elif isinstance(series.dtype, pd.CategoricalDtype):
            own = series.cat.remove_unused_categories().cat.categories.tolist()
        else:
            continue
        if wrong := [v for v in own if not isinstance(v, str | int | float)]:
            raise TypeError(f"column {column!r}: the category {wrong[0]!r} is neither text nor a number; make it text")
        if len({str(level) for level in own}) < len(own):
            raise ValueError(f"column {column!r}: a category of {own} is there twice")
        known = [*own, False] if own == [True] else own
        values = series.astype(object)
        bad = (~values.isin(known) & series.notna()).to_numpy()
        if bad.any():
            row = first(series.index, bad)
            raise ValueError(
                f"column {column!r}, row {row!r}: {values.iloc[int(bad.argmax())]!r} is none of its categories "
                f"{known}; correct it, or leave it empty if it is unknown"
            )
        names = {column: True} if own == [True] else {f"{column}={level}": level for level in own}
        found[column] = names
        for name, level in names.items():
            new[name] = np.where(series.isna(), np.nan, (values == level).to_numpy(dtype=float, na_value=np.nan))
    if not found:
        return df, {}
    kept = df.drop(columns=[column for column, names in found.items() if column in names])
    for name, values in new.items():
        if name in kept.columns:
            raise ValueError(f"column {name!r}: a category of another column would have this name; rename it")
        kept[name] = values
    return kept, found


def _separator(file: str, wanted: Sequence[str]) -> str:
    """The separator with which the first line of a file has all wanted columns; a comma if none or several do."""
    with open(file, encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
    try:
        fits = [s for s in ",;\t|" if set(wanted) <= set(next(csv.reader([header.rstrip("\r\n")], delimiter=s), []))]
    except csv.Error as error:
        raise ValueError(f"the first line is no header of a table ({error})") from error
    return fits[0] if len(fits) == 1 else ","


_WITH_COMMA = r"\s*[+-]?\d*(,\d+)?([eE][+-]?\d+)?\s*"


def _has_decimal_commas(table: pd.DataFrame, numeric: Sequence[str]) -> bool:
    """Whether the columns of numbers hold text such as "1,5", and none such as "1.5"; columns of words do not count.

    Raises:
        ValueError: Every comma may stand between thousands as well: there are always three digits behind it.
    """
    text = [table[c].dropna().astype(str) for c in numeric if not pd.api.types.is_numeric_dtype(table[c])]
    text = [own for own in text if own.str.fullmatch(_WITH_COMMA).any()]
    values = pd.concat(text) if text else pd.Series(dtype=str)
    if not len(values) or not values.str.fullmatch(_WITH_COMMA).all():
        return False
    values = values[values.str.contains(",")]
    if values.str.fullmatch(r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*").all():
        raise ValueError(
            f"{values.iloc[0]!r} may have a decimal comma or one between thousands; say which is the decimal mark "
            "(--decimal , or decimal=','), or write the thousands without commas"
        )
    return True


def _require_whole_rows(file: str, sep: str) -> None:
    """Refuse a row with fewer cells than the header, as a file has that was cut, which pandas fills up with NaN.

    Raises:
        ValueError: With the first such line.
    """
    with open(file, encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, delimiter=sep)
        width = len(next(rows))
        for row in rows:
            if row and any(row) and len(row) < width:
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} of the {width} cells of the header; write the row in full "
                    "(an unknown value is an empty cell), or delete it"
                )


def _long_row(file: str, sep: str | None) -> str:
    """The first line with more cells than the header, and what to do about it; empty if there is none."""
    with open(file, encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, delimiter=sep or ",")
        try:
            width = len(next(rows))
            long, cells = next((rows.line_num, len(row)) for row in rows if len(row) > width)
        except (csv.Error, StopIteration):
            return ""
    return (
        f"line {long} has {cells} cells and the header {width} where {sep or ','!r} separates them; correct the line, "
        "put numbers with a decimal comma in quotes, or name another separator by --sep or sep="
    )


_OTHER_FORMATS = {
    b"PAR1": ("a Parquet file", "pandas.read_parquet(file).to_csv(other, index=False)"),
    b"PK\x03\x04": ("a zip file or a spreadsheet", "pandas.read_excel(file).to_csv(other, index=False)"),
    b"\x1f\x8b": ("compressed", "gunzip"),
}


def _require_text(file: str) -> None:
    """Refuse a file that begins as those of other formats do.

    Raises:
        ValueError: With the format, and how to write it as CSV.
    """
    with open(file, "rb") as stream:
        begin = stream.read(4096)
    for magic, (kind, remedy) in _OTHER_FORMATS.items():
        if begin.startswith(magic):
            raise ValueError(f"no CSV file but {kind}; write it as one, by {remedy}")
    if b"\0" in begin:
        raise ValueError("no UTF-8 text (it holds zero bytes, as UTF-16 does); save it as UTF-8")


def require_no_missing_words(file: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse categories that columns of numbers, and other programs, read as a missing value.

    Names of groups may be such words, as ``NA`` is of Namibia: there an empty cell is an error, and none is mistaken.

    Args:
        file: Path of the file, for the message.
        table: What `read_table` read.
        columns: Columns of categories, empty where one is missing.

    Raises:
        ValueError: With the column and the row.
    """
    for column in columns:
        words = table[column].isin([word for word in _MISSING if word]).to_numpy()
        if words.any():
            row = int(words.argmax())
            word = table[column].iloc[row]
            raise ValueError(
                f"{file}: column {column!r}, row {row} (from 0, below the header): {word!r} may be a category or a "
                "missing value; leave the cell empty if it is missing, or write the category otherwise"
            )


def read_table(
    file: str, groups: Sequence[str], numeric: Sequence[str], sep: str | None = None, decimal: str | None = None
) -> pd.DataFrame:
    """Read a CSV file: the columns of numbers with NaN where one is missing, all others as written (``007`` stays so).

    Args:
        file: Path of the file.
        groups: Columns that name the groups of each row, e.g. its unit.
        numeric: Columns that hold numbers.
        sep: Separator of columns; None guesses it from the header, where one of , ; tab | gives all these columns.
        decimal: Decimal mark; None takes a comma where the columns are separated otherwise and all numbers have it.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is empty, not UTF-8 text or not a table, has a row with fewer cells than the header, or it lacks
            a column or has it twice. The message names the file. Or ``sep`` and ``decimal`` are equal.
    """
    require_plain(Path(file))
    if sep is not None and sep == decimal:
        raise ValueError(f"sep and decimal are both {sep!r}: columns that end where numbers go on cannot be told apart")
    with naming(file), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        try:
            _require_text(file)
            sep = _separator(file, [*groups, *numeric]) if sep is None else sep
            first = pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False, sep=sep)
            columns = pd.read_csv(file, nrows=0, index_col=False, sep=sep).columns
            read = functools.partial(
                pd.read_csv, file, sep=sep, dtype={column: str for column in columns if column not in numeric},
                keep_default_na=False, na_values=dict.fromkeys(numeric, _MISSING), index_col=False, low_memory=False,
            )  # fmt: skip
            table = read(decimal=decimal or ".")
            known = [column for column in numeric if column in table]
            if decimal is None and sep != "," and _has_decimal_commas(table, known):
                table = read(decimal=",")
        except UnicodeDecodeError as error:
            raise ValueError(f"no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
        except pd.errors.EmptyDataError:
            raise ValueError("the file is empty; give a table with a header and at least one row") from None
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            why = _long_row(file, sep) or error
            raise ValueError(f"no table with a header and equally many columns in every row ({why})") from error
        header = first.iloc[0].tolist()
        for column in (*groups, *numeric):
            if header.count(column) != 1:
                fault = "appears twice in" if column in header else "is not in"
                raise KeyError(f"column {column!r} {fault} the header; its columns are {header}")
        if len(table.columns) and table.iloc[:, -1].isna().any():  # an empty cell, or a row that ends before it
            _require_whole_rows(file, sep)
    for column in groups:
        table[column] = table[column].mask(table[column].str.strip() == "")
    return table
