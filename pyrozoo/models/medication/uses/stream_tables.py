"""Tables of the steps that `decode_folder` found, a table and a record per decoded file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....files import read_json_object, sha256_file
from ..decoding import Decoded

# The function that writes the records, as they name it; records of earlier runs must stay readable.
_WRITER = "pyrozoo.models.medication.uses.streaming:decode_file"
_TIMES = ("start_s", "stop_s", "duration_s", "gap_s")


def read_segments(out: str | Path) -> Iterator[pd.DataFrame]:
    """Read the steps that `decode_folder` found, file by file, so that only one table is in memory.

    ``pandas.concat(read_segments(out))`` is the table of all files, if it fits into memory.

    Args:
        out: Folder of the results; finished ones are read, while others may still be computed.

    Yields:
        A table per file, in the order of the results' names, one line per performed step: column ``file``, the path of
        the decoded file below its folder; the columns of `segment_table`; and ``p_performed``, the posterior
        probability that this step was performed at all in the recording.

    Raises:
        FileNotFoundError: There is no such folder, or a table is missing.
        ValueError: A file is no result of `decode_folder`, or was truncated or edited.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import decode_folder, read_segments, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> names = np.repeat(["left", "right"], test["lengths"])
        >>> with tempfile.TemporaryDirectory() as root:
        ...     run, folder, out = (Path(root, name) for name in ("run", "new", "out"))
        ...     _ = zoo.save(fit, run)
        ...     folder.mkdir()
        ...     np.savez(folder / "monday.npz", score=test["score"], recording=names, rate=test.info["rate"])
        ...     _ = decode_folder(run, folder, out, draws=10, n_jobs=1, progress=False)
        ...     tables = list(read_segments(out))
        >>> tables[0][["file", "recording", "label"]].iloc[0].tolist()
        ['monday.npz', 'left', 'abduction']
    """
    return (_segments(table, record) for table, record in _tables(Path(out)))


def read_performed(out: str | Path) -> Iterator[pd.DataFrame]:
    """Read the probabilities that steps were performed, including steps that were not found, file by file.

    Args:
        out: Folder of the results; finished ones are read, while others may still be computed.

    Yields:
        A table per file: index (``file``, ``recording``), a line for each recording; a column for each step, the
        posterior probability that it was performed at all.

    Raises:
        FileNotFoundError: There is no such folder, or a table is missing.
        ValueError: A file is no result of `decode_folder`, or was truncated or edited.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import decode_folder, read_performed, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> names = np.repeat(["left", "right"], test["lengths"])
        >>> with tempfile.TemporaryDirectory() as root:
        ...     run, folder, out = (Path(root, name) for name in ("run", "new", "out"))
        ...     _ = zoo.save(fit, run)
        ...     folder.mkdir()
        ...     np.savez(folder / "monday.npz", score=test["score"], recording=names, rate=test.info["rate"])
        ...     _ = decode_folder(run, folder, out, draws=10, n_jobs=1, progress=False)
        ...     tables = list(read_performed(out))
        >>> tables[0].index.tolist(), bool((tables[0] > 0.99).all(axis=None))
        ([('monday.npz', 'left'), ('monday.npz', 'right')], True)
    """
    return (_performed(table, record) for table, record in _tables(Path(out)))


def to_text(decoded: Decoded) -> str:
    """Write the table of a file as text: by recording, its segments, and a line without times for every absent step."""
    segments = decoded.segments()
    steps = decoded.performed.columns.tolist()
    every = pd.MultiIndex.from_product([decoded.performed.index, steps], names=["recording", "label"])
    probability = pd.Series(decoded.performed.to_numpy().ravel(), index=every)
    own = pd.MultiIndex.from_frame(segments[["recording", "label"]])
    absent = every.difference(own, sort=False).to_frame(index=False)
    table = pd.concat([segments, absent]) if len(absent) else segments
    place = {name: i for i, name in enumerate(decoded.performed.index)}
    table = table.iloc[np.argsort(table["recording"].map(place).to_numpy(), kind="stable")]
    both = pd.MultiIndex.from_frame(table[["recording", "label"]])
    table = table.assign(p_performed=probability.reindex(both).to_numpy())
    return table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")


def record_of(path: Path) -> dict[str, Any]:
    """Read the record of a finished file; ValueError if it is not one of `decode_folder`."""
    remedy = "delete it or choose another folder"
    try:
        record = read_json_object(path, "a result of decode_folder")
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None
    if record.get("function") != _WRITER:
        raise ValueError(f"{path} is not a result of decode_folder; {remedy}")
    return record


def _tables(out: Path) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Iterate over table and record of each finished file."""
    if not out.is_dir():
        raise FileNotFoundError(f"{out}: there is no such folder of results")
    return _each(sorted(out.glob("*.json")))


def _each(paths: Iterable[Path]) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    for path in paths:
        record, file = record_of(path), path.with_suffix(".csv")
        if sha256_file(file) != record["result"]["table_sha256"]:
            raise ValueError(f"{file}: changed since it was written; delete {path} and decode the folder again")
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        for name in (*_TIMES, "p_performed"):
            # Python parses the numbers: not every version of pandas reads back the number that was written.
            table[name] = np.array([float(cell or "nan") for cell in table[name]])
        yield table, record


def _segments(table: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    own = table[table["start_s"].notna()].reset_index(drop=True)
    own.insert(0, "file", pd.Series([record["arguments"]["name"]] * len(own), dtype=own["recording"].dtype))
    return own.assign(previous=own["previous"].where(own["gap_s"].notna(), None))


def _performed(table: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    once = table.drop_duplicates(["recording", "label"])
    wide = once.pivot(index="recording", columns="label", values="p_performed")
    wide = wide.reindex(index=once["recording"].unique(), columns=record["result"]["steps"])
    names = [[record["arguments"]["name"]] * len(wide), wide.index]
    return pd.DataFrame(
        wide.to_numpy(), index=pd.MultiIndex.from_arrays(names, names=["file", "recording"]), columns=list(wide.columns)
    )
