"""Readers of classifier scores in ``.npz`` and ``.csv`` files, which run no code from a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....data.batch import Batch
from ....files import naming, read_npz
from ..process.segments import runs
from .protocols import NON_EVENT
from .recordings import recordings


def read(
    path: str | Path, *, labels: Sequence[str] | None = None, rate: float | None = None, non_event: bool | None = None
) -> Batch:
    """Read recordings from an ``.npz`` or ``.csv`` file; no code in it is run.

    The frames of a recording are consecutive rows, in order of time.

    * npz: ``score`` (N, K) of all frames, NaN in all columns of a missing one; ``recording`` (N,), the name of each
      frame's recording; optionally ``label`` (N,), whole numbers 0..K-1, or -1 in frames without a label; ``labels``
      (K,), their names; ``rate``, frames per second; ``non_event``, False where every label is a step (`recordings`),
      which ``label`` then numbers from 1.
    * csv: one line for each frame, with the columns ``recording``; optionally ``label``, the name or number of the
      label, or empty where there is none; optionally ``frame``, which must increase within a recording and is not used
      otherwise; and every other column holds the scores of the label that is its header, non-event first, all of them
      empty in a missing frame.

    Args:
        path: Path of the file.
        labels: Names of the K labels, non-event first. If the file has names, too, give the same ones, in the order
            that the data should have (that of the training data, for instance). By default those of the file, and if it
            has none, ``"non-event"``, ``"step 1"``, ...
        rate: Frames per second, for a file that has no rate. Without any, 1 is assumed, and ``info`` has
            ``rate_assumed=True``: order and labels are right then, but times are in frames.
        non_event: Whether the first label is the non-event, see `recordings`; by default what the file says, or True.

    Returns:
        Batch: Recordings in the layout that `recordings` makes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A field is missing or wrong; the message names the file, the field, the row and the remedy.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pandas as pd
        >>> from pyrozoo.models.medication import read
        >>> frames = {"recording": ["r0", "r0", "r1"], "non-event": [0.9, 0.2, 0.7], "shake": [0.1, 0.8, 0.3]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "scores.csv")
        ...     pd.DataFrame(frames).to_csv(path, index=False)
        ...     data = read(path, rate=5.0)
        >>> data.n_rows, data["lengths"].tolist(), data.columns("score")
        (2, [2, 1], ['non-event', 'shake'])
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".csv", ".npz"):
        raise ValueError(f"{path}: a file {path.suffix or 'without ending'}; give one of ['.csv', '.npz']")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    arrays = (
        read_npz(path, ["score", "recording"], ["label", "labels", "rate", "non_event"]) if ending == ".npz" else None
    )
    with naming(str(path)):
        fields = _csv_fields(path, non_event is False) if arrays is None else _npz_fields(**arrays)
        if non_event is not None and fields.setdefault("non_event", non_event) != non_event:
            raise ValueError(f"field 'non_event': {not non_event}, but the argument says {non_event}")
        # Positions in arrays count from 0, lines of a table from 1.
        return _from_fields(fields, labels, rate, path, first_row=int(ending == ".csv"))


# ------------------------------------------------------------------ inside: both kinds
def _from_fields(
    fields: Mapping[str, Any], labels: Sequence[str] | None, rate: float | None, path: Path, first_row: int
) -> Batch:
    """Cut the frames of a file into recordings."""
    score, label, named = fields["score"], fields.get("label"), fields.get("labels")
    non_event = fields.get("non_event", True)
    first = 0 if non_event else 1
    if labels is not None and named is not None:
        order = _order(named, list(labels))
        score, place = score[:, order], np.argsort(order)
        label = None if label is None else np.where(label >= 0, place[np.maximum(label - first, 0)] + first, -1)
    if labels is None:
        steps = [f"step {k}" for k in range(1, score.shape[1] + first)]
        labels = named or ([NON_EVENT, *steps] if non_event else steps)
    names, start, stop = _cut(fields["recording"], first_row)
    pieces: list[np.ndarray | None] = [None] * len(names)
    if label is not None:
        pieces = [label[a:b] for a, b in zip(start, stop, strict=True)]
    known = fields.get("rate")
    if rate is not None and known is not None and rate != known:
        raise ValueError(f"field 'rate': {known:g}, but the argument rate says {rate:g}; leave the wrong one out")
    rate = known if rate is None else rate
    assumed: dict[str, Any] = {"rate_assumed": True} if rate is None else {}
    return recordings(
        [score[a:b] for a, b in zip(start, stop, strict=True)], pieces,
        labels=labels, rate=1.0 if rate is None else rate, names=names, non_event=non_event,
        name=path.stem, simulated=False, source=path.name, info=assumed,
    )  # fmt: skip


def _order(named: list[str], labels: list[str]) -> list[int]:
    """Find the positions of the requested names `labels` among the file's names `named`."""
    if sorted(named) != sorted(labels):
        missing, surplus = [n for n in labels if n not in named], [n for n in named if n not in labels]
        raise ValueError(
            f"the labels of the file are {named}, those asked for {labels}: the file lacks {missing} and has {surplus} "
            "beside; give the names of the file, in any order"
        )
    return [named.index(name) for name in labels]


def _cut(recording: np.ndarray, first_row: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Find name, start and end of each recording."""
    value, start, stop = runs(recording)
    names = [str(name) for name in value]
    seen: set[str] = set()
    for name, row in zip(names, start + first_row, strict=True):
        if not name.strip():
            raise ValueError(f"field 'recording', row {row}: the name is missing; name the recording of every frame")
        if name in seen:
            raise ValueError(
                f"field 'recording', row {row}: {name!r} goes on after another recording; put the frames of each "
                "recording together, in the order of time"
            )
        seen.add(name)
    return names, start, stop


# ------------------------------------------------------------------ inside: npz
def _npz_fields(
    score: np.ndarray, recording: np.ndarray, label: np.ndarray | None = None, labels: np.ndarray | None = None,
    rate: np.ndarray | None = None, non_event: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Check types and lengths of the arrays of an npz file, and return them as fields."""
    if score.ndim != 2 or score.dtype.kind not in "fiu":
        raise ValueError(f"field 'score': {score.dtype} of shape {score.shape}; give numbers, shape (N, K)")
    if recording.shape != (len(score),) or recording.dtype.kind not in "USiu":
        raise ValueError(
            f"field 'recording': {recording.dtype} of shape {recording.shape}; give the name of each of {len(score)} "
            "frames' recording as text or a whole number"
        )
    out: dict[str, Any] = {"score": score, "recording": recording.astype(str)}
    if non_event is not None:
        if non_event.size != 1 or non_event.item() not in (0, 1):
            raise ValueError(f"field 'non_event': {non_event.tolist()}; give True or False")
        out["non_event"] = bool(non_event.item())
    if label is not None:
        first = int(not out.get("non_event", True))
        out["label"] = _whole_numbers(label, len(score), first, score.shape[1] + first)
    if labels is not None:
        if labels.shape != (score.shape[1],) or labels.dtype.kind not in "US":
            raise ValueError(f"field 'labels': shape {labels.shape}; give the names of the {score.shape[1]} scores")
        out["labels"] = labels.astype(str).tolist()
    if rate is not None:
        if rate.size != 1 or rate.dtype.kind not in "fiu" or not 0 < rate.item() < np.inf:
            raise ValueError(f"field 'rate': {rate.tolist()}; give one positive number of frames per second")
        out["rate"] = float(rate.item())
    return out


def _whole_numbers(label: np.ndarray, n_frames: int, first: int, stop: int) -> np.ndarray:
    if label.shape != (n_frames,) or label.dtype.kind not in "iu":
        raise ValueError(
            f"field 'label': {label.dtype} of shape {label.shape}; give a whole number for each of {n_frames} frames"
        )
    wrong = (label != -1) & ((label < first) | (label >= stop))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"field 'label', row {row}: {label[row]} is none of {first}..{stop - 1}; give the number of a label, or -1 "
            "where there is none"
        )
    return label.astype(np.int64)


# ------------------------------------------------------------------ inside: csv
def _csv_fields(path: Path, steps_only: bool = False) -> dict[str, Any]:
    """Read the fields of a csv file. Rows count from 1, without the line of headers."""
    table = _csv_table(path)
    if "recording" not in table:
        raise ValueError(f"column 'recording' is missing; the file has {list(table.columns)}")
    named = [column for column in table.columns if column not in ("recording", "label", "frame")]
    if len(named) < 2:
        raise ValueError(f"{len(named)} columns of scores {named}; give one for non-event and one for each step")
    if table.empty:
        raise ValueError("there are no frames; give at least one row")
    missing = table[named].isna().all(axis=1)
    present = table[~missing]
    score = np.full((len(table), len(named)), np.nan)
    remedy = "give a score between 0 and 1 (or leave all scores of a missing frame empty)"
    score[~missing.to_numpy()] = np.column_stack([_numbers(present, column, remedy) for column in named])
    recording = table["recording"].fillna("").to_numpy(dtype=str)
    if "frame" in table:
        _check_frame(_numbers(table, "frame", "number the frames"), recording)
    out: dict[str, Any] = {"score": score, "recording": recording, "labels": named}
    if "label" in table:
        out["label"] = _label_cells(table["label"], named, int(steps_only))
    return out


def _csv_table(path: Path) -> pd.DataFrame:
    # Only an empty cell is missing: "NA" may be the name of a recording or of a label.
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
    try:
        with warnings.catch_warnings():
            # pandas cuts rows that are longer than the line of headers, with a warning only.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            header = pd.read_csv(path, header=None, nrows=1, **options).iloc[0].fillna("").str.strip().tolist()
            table = pd.read_csv(path, header=None, skiprows=1, names=range(len(header)), index_col=False, **options)
    except pd.errors.EmptyDataError:
        raise ValueError("it is empty; give a line of headers and one line for each frame") from None
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8; save it as a csv file in that encoding") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise ValueError(f"a row has more cells than there are headers ({str(error).strip()})") from None
    double = [name for name in header if header.count(name) > 1 or not name]
    if double:
        raise ValueError(f"the header {double[0]!r} is empty or there twice; give each column a name of its own")
    table.columns, table.index = pd.Index(header), pd.RangeIndex(1, len(table) + 1)
    return table


def _numbers(table: pd.DataFrame, column: str, remedy: str) -> np.ndarray:
    values = pd.to_numeric(table[column], errors="coerce")
    missing = values.isna()
    if missing.any():
        row = missing.idxmax()
        cell = table[column][row]
        what = "is empty" if pd.isna(cell) else f"holds {cell!r}, which is no number"
        raise ValueError(f"column {column!r}, row {row}: the cell {what}; {remedy}")
    return values.to_numpy(dtype=float)


def _check_frame(frame: np.ndarray, recording: np.ndarray) -> None:
    back = (recording[1:] == recording[:-1]) & (frame[1:] <= frame[:-1])
    if back.any():
        t = int(back.argmax()) + 1
        raise ValueError(
            f"column 'frame', row {t + 1}: frame {frame[t]:g} of recording {str(recording[t])!r} follows frame "
            f"{frame[t - 1]:g}; put the frames of a recording in the order of time, each once"
        )


def _label_cells(cells: pd.Series, named: list[str], first: int) -> np.ndarray:
    """Convert the labels of the frames, names or numbers from `first` on, to numbers; -1 where the cell is empty."""
    place = {name: k for k, name in enumerate(named, first)}
    codes = {}
    for cell in cells.dropna().unique():
        name = cell.strip()
        number = pd.to_numeric(name, errors="coerce")
        codes[cell] = place.get(name, int(number) if number in place.values() else None)
        if codes[cell] is None:
            raise ValueError(
                f"column 'label', row {(cells == cell).idxmax()}: {cell!r} is neither one of the labels {named} nor "
                f"one of their numbers {first}..{len(named) - 1 + first}"
            )
    return cells.map(codes).fillna(-1).to_numpy(dtype=np.int64)
