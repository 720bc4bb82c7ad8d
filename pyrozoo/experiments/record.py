"""Result records: the results of a reproduction, with all facts needed to reproduce them.

A record is `record.json`, with `table.csv` beside it for a spreadsheet. A row of its table is a flat dict: the key
`model`, then settings and metrics; `<metric>_se` is the standard error of `<metric>`. The `source` of a row tells our
own results, by the kind of their data, from published numbers.
"""

import csv
import io
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..files import atomic_write_json, atomic_write_text, jsonable, read_json_object

OURS_REAL = "ours (real data)"
OURS_SIMULATED = "ours (simulated data)"
OURS_SEMI_SYNTHETIC = "ours (semi-synthetic data)"
PUBLISHED = "published (own data)"

_LIBRARIES = ("pyro-ppl", "torch", "numpy", "pandas", "arviz", "scikit-learn")
_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "experiment": str,
    "profile": str,
    "data": dict,
    "seeds": list,
    "library_versions": dict,
    "threads": dict,
    "wall_time_s": (int, float),
    "rows": list,
    "extra": dict,
}
_DATA_TYPES = {"name": str, "sha256": str, "simulated": bool}


def write_record(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str,
    version: str,
    experiment: str,
    profile: str,
    data: Mapping[str, Any],
    seeds: Sequence[int],
    wall_time_s: float,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `record.json` and `table.csv`, each atomically.

    Args:
        out: Folder of the record; made if missing.
        rows: Rows of the table. A row without `source` is our own result on `data`; a published one has
            `source=PUBLISHED`.
        model: Name of the entry.
        version: Version of the entry.
        experiment: Name of the experiment.
        profile: Name of the profile, such as "quick".
        data: `name`, `sha256` (64 hexadecimal digits) and `simulated` (a bool) of the data; also
            `semi_synthetic=True` if real measurements were combined into data sets that were not recorded as such.
        seeds: All seeds.
        wall_time_s: Wall time, in seconds.
        extra: Further facts to keep, such as the configuration.

    Returns:
        The record as written. Numbers that are not finite are None in it, null in JSON and empty in the CSV.

    Raises:
        TypeError: A value has no JSON form.
        ValueError: There are no rows; a row has no model, is not flat or has a wrong source; or `data` is malformed.

    Example:
        >>> import pathlib, tempfile
        >>> import pyrozoo as zoo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     record = zoo.write_record(
        ...         pathlib.Path(folder),
        ...         [{"model": "ssmtl", "rmse": 4.81, "rmse_se": 0.12}],
        ...         model="ssmtl",
        ...         version="1",
        ...         experiment="dryer",
        ...         profile="quick",
        ...         data={"name": "dryer", "sha256": "0" * 64, "simulated": False},
        ...         seeds=[0, 1, 2],
        ...         wall_time_s=60.0,
        ...     )
        ...     written = sorted(path.name for path in pathlib.Path(folder).iterdir())
        >>> written
        ['record.json', 'table.csv']
        >>> record["rows"][0]["source"]
        'ours (real data)'
    """
    import torch  # here, because the command line imports this module and must answer quickly

    _check_data(data)
    record = jsonable(
        {
            "model": f"{model}@{version}",
            "experiment": experiment,
            "profile": profile,
            "data": data,
            "seeds": list(seeds),
            "library_versions": _library_versions(),
            "threads": {"cpu_count": os.cpu_count(), "torch": torch.get_num_threads()},
            "wall_time_s": wall_time_s,
            "rows": [_complete_row(row, index, _source(data)) for index, row in enumerate(rows)],
            "extra": extra or {},
        },
        "record",
    )
    _check_record(record)
    # The record is written last: if it exists, so does the table.
    atomic_write_text(Path(out) / "table.csv", _to_csv(record["rows"]))
    atomic_write_json(Path(out) / "record.json", record)
    return record


def read_record(path: Path) -> dict[str, Any]:
    """Read and check a record.

    Args:
        path: File `record.json`, or the folder that holds it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, or is not a record; the message says what is wrong and what to do.

    Example:
        >>> import pathlib, tempfile
        >>> import pyrozoo as zoo
        >>> about = {"model": "ssmtl", "version": "1", "experiment": "dryer", "profile": "quick", "seeds": [0]}
        >>> data = {"name": "dryer", "sha256": "0" * 64, "simulated": False}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = pathlib.Path(folder)
        ...     _ = zoo.write_record(out, [{"model": "ssmtl", "rmse": 4.81}], data=data, wall_time_s=60.0, **about)
        ...     record = zoo.read_record(out)
        >>> record["model"], record["rows"][0]["rmse"]
        ('ssmtl@1', 4.81)
    """
    path = Path(path)
    if path.is_dir():
        path = path / "record.json"
    record = read_json_object(path, "a result record")
    try:
        _check_record(record)
    except ValueError as error:
        raise ValueError(f"{path} is not a result record: {error}; make it again with `pyrozoo reproduce`") from error
    return record


def mean_se(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Return the mean of independent repeats and its standard error (n − 1 in the variance).

    The standard error of a single value is None. A value that is missing (None) or not finite is not left out: then the
    result is (nan, None).

    Raises:
        ValueError: There are no values, or they are not in one dimension.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"the mean needs a list of one or more values; got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        return math.nan, None
    if array.size == 1:
        return float(array[0]), None
    return float(array.mean()), float(array.std(ddof=1) / math.sqrt(array.size))


def paired_difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Return the mean of a − b over paired repeats (same seed, same split) and its standard error; see `mean_se`.

    Raises:
        ValueError: The lengths differ, or there are no values.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"paired values must have the same length; got shapes {first.shape} and {second.shape}")
    return mean_se(first - second)


def paired_ratio(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Return the ratio of the means of a and b over paired repeats, and its standard error by the delta method.

    Raises:
        ValueError: The lengths differ, or there are no values.
    """
    value = mean_se(a)[0] / mean_se(b)[0]
    _, error = paired_difference(a, [value * other for other in b])
    return value, None if error is None else error / abs(mean_se(b)[0])


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as an aligned plain-text table for the terminal.

    A metric and its standard error share a column, as "4.81 ± 0.12". Text is aligned to the left, numbers to the right.
    """
    columns = _columns(rows)
    shown = [column for column in columns if not (column.endswith("_se") and column.removesuffix("_se") in columns)]
    lines = [shown] + [[_cell(row.get(column), row.get(f"{column}_se")) for column in shown] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(shown))]
    is_text = [any(isinstance(row.get(column), str) for row in rows) for column in shown]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any, standard_error: Any = None) -> str:
    """Format one value; a mean gets as many decimals as its standard error, which is shown with two digits."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int) and standard_error is None:
        return str(value)
    if standard_error is None or not math.isfinite(standard_error) or standard_error <= 0:
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(standard_error)))
    return f"{value:.{decimals}f} ± {standard_error:.{decimals}f}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all keys of the rows: model and source first, the others in the order of their first appearance."""
    keys = {key: None for row in rows for key in row}
    first = [key for key in ("model", "source") if key in keys]
    return first + [key for key in keys if key not in first]


def _to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _source(data: Mapping[str, Any]) -> str:
    if data.get("semi_synthetic"):
        return OURS_SEMI_SYNTHETIC
    return OURS_SIMULATED if data["simulated"] else OURS_REAL


def _complete_row(row: Mapping[str, Any], index: int, ours: str) -> dict[str, Any]:
    """Return the row with its source, after checking that our own result claims no other data than the record's."""
    complete = {"model": None, "source": ours, **row}
    if complete["source"] not in (ours, PUBLISHED):
        raise ValueError(
            f"row {index} has the source {complete['source']!r}; with these data it is {ours!r} or {PUBLISHED!r}"
        )
    return complete


def show_versions() -> None:
    """Print the versions of Python, pyrozoo and what it stands on, as a report of a problem needs them.

    Example:
        >>> import pyrozoo as zoo
        >>> zoo.show_versions()  # doctest: +ELLIPSIS
        python ...
        pyrozoo ...
    """
    for name, version in {**_library_versions(), "system": platform.platform()}.items():
        print(name, version or "not installed")


def _library_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version(), "pyrozoo": __version__}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = None
    return versions


def _check_data(data: Mapping[str, Any]) -> None:
    for key, expected in _DATA_TYPES.items():
        if not isinstance(data.get(key), expected):
            raise ValueError(f"data[{key!r}] must be a {expected.__name__}, not {data.get(key)!r}")
    if len(data["sha256"]) != 64 or not set(data["sha256"]) <= set("0123456789abcdef"):
        raise ValueError(f"data['sha256'] must be 64 hexadecimal digits, not {data['sha256']!r}")


def _check_record(record: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first error, unless this is a record."""
    for field, expected in _FIELD_TYPES.items():
        if field not in record:
            raise ValueError(f"it has no {field!r}")
        if not isinstance(record[field], expected):
            raise ValueError(f"its {field!r} is {record[field]!r}")
    name, _, version = record["model"].partition("@")
    if not name or not version:
        raise ValueError(f"its model {record['model']!r} is not of the form name@version")
    _check_data(record["data"])
    if not record["rows"]:
        raise ValueError("it has no rows")
    for index, row in enumerate(record["rows"]):
        _check_row(row, index)


def _check_row(row: Any, index: int) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("model"), str) or not row["model"]:
        raise ValueError(f"row {index} has no model")
    if row.get("source") not in (OURS_REAL, OURS_SIMULATED, OURS_SEMI_SYNTHETIC, PUBLISHED):
        raise ValueError(f"row {index} has the source {row.get('source')!r}")
    for key, value in row.items():
        if isinstance(value, dict | list):
            raise ValueError(f"row {index} is not flat: {key!r} is {value!r}")
