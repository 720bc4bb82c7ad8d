"""Readers of recorded trials: a folder with one CSV file per walk, or one npz file; neither can run code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....data.batch import Batch
from ....data.tables import read_table
from ....files import naming, read_npz
from .batches import to_batch
from .simulator import STYLES, resample

N_STEPS = 120
FACTORS = {"acc_unit": {"g": 1.0, "m/s2": 1 / 9.80665}, "gyro_unit": {"deg/s": 1.0, "rad/s": 180 / np.pi}}
NUMBERS = ("load_lb", "rate_hz")
_ARRAYS = ("signal", "length", "participant", "style", "load_lb", "channels", "rate_hz")


@dataclass
class _Trial:
    """One walk as read from a file; an unknown load is NaN, an unknown style "", the load of an unloaded walk 0."""

    where: str
    participant: str
    style: str
    load: float
    rate: float
    channels: list[str]
    signal: np.ndarray
    line: int = 0  # of trials.csv


def read(path: str | Path, *, n_steps: int = N_STEPS, styles: Sequence[str] | None = None) -> Batch:
    """Read recorded trials from a folder or an npz file.

    * A folder holds ``trials.csv`` and a CSV file per walk, with a header of channel names and a line per sample.
      ``trials.csv`` has a line per walk with the columns ``file`` (name of the walk's file in the folder),
      ``participant``, ``style`` (one of `styles`; empty if unknown or for the unloaded walk), ``load_lb`` (0 for the
      unloaded walk, empty if unknown), ``rate_hz``, and optionally ``acc_unit`` ("g" or "m/s2") and ``gyro_unit``
      ("deg/s" or "rad/s").
    * An npz file holds ``signal`` (F, S), the samples of all walks one after the other; ``length`` (n,), the number of
      samples of each walk; ``participant``, ``style`` and ``load_lb`` (n,) as above, with NaN for an unknown load;
      ``channels`` (S,); ``rate_hz``, a number; optionally ``acc_unit`` and ``gyro_unit``.

    Every participant has at least one unloaded walk; several become one, see `spliced`. All walks have the same
    channels and rate. Channels with "acc"
    in their name are accelerations, those with "gyro" angular velocities; units other than g and deg/s are converted.
    Walks are resampled to `n_steps` whatever their duration.

    Args:
        path: Folder or npz file.
        n_steps: T, number of steps after resampling.
        styles: Names of the carrying styles, in the order of their indices. None takes the paper's four, `STYLES`, or
            if none of them is in the table the names there, in alphabetical order.

    Returns:
        The loaded walks as rows, x (N, T, S), and the unloaded walks as x_aux (M, T, S), see `to_batch`. The trials of
        a folder are described by ``file`` and ``line`` of ``trials.csv`` (`Batch.row_coords`); so are predictions.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The content is wrong; the message names the file, the walk, the field and the remedy.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import read
        >>> rng = np.random.default_rng(0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(
        ...         f"{folder}/walks.npz", signal=rng.normal(size=(800, 2)), length=[200] * 4, rate_hz=80.0,
        ...         participant=["A", "A", "B", "B"], style=["", "right hand", "", "anterior"],
        ...         load_lb=[0.0, 10.0, 0.0, 20.0], channels=["t6_acc_x", "t6_gyro_x"],
        ...     )
        ...     data = read(f"{folder}/walks.npz", n_steps=100)
        >>> data["x"].shape, data["x_aux"].shape, data["y"].tolist()
        (torch.Size([2, 100, 2]), torch.Size([2, 100, 2]), [10.0, 20.0])
    """
    path = Path(path)
    if path.is_dir():
        trials = _read_folder(path)
    elif path.suffix.lower() == ".npz" and path.is_file():
        trials = _read_npz(path)
    else:
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder")
        raise ValueError(f"{path}: neither a folder with trials.csv nor an .npz file")
    if styles is not None and (len(set(styles)) < len(styles) or not all(styles)):
        raise ValueError(f"styles: {list(styles)}; give each name once")
    with naming(str(path)):
        styles = _styles(trials) if styles is None else tuple(styles)
        for trial in trials:
            _check(trial, trials[0], n_steps, styles)
        own, loaded = _unloaded(trials), [trial for trial in trials if trial.load != 0]
        missing = [participant for participant in own if not any(participant == t.participant for t in loaded)]
        if missing:
            raise ValueError(f"participant {missing[0]!r} has only an unloaded walk; add a loaded one or leave it out")
        named: dict[str, Any] = {}
        if path.is_dir():
            described = {"file": [trial.where for trial in loaded], "line": [trial.line for trial in loaded]}
            named = {"row_coords": described}
        return to_batch(
            x=np.stack([resample(trial.signal, n_steps) for trial in loaded]),
            y=np.array([trial.load for trial in loaded]),
            style=np.array([styles.index(t.style) if t.style else -1 for t in loaded]),
            participant=[trial.participant for trial in loaded],
            x_aux=np.stack([resample(spliced([t.signal for t in walks]), n_steps) for walks in own.values()]),
            participants=list(own), channels=trials[0].channels, styles=styles, name=path.name, simulated=False,
            **named,
        )  # fmt: skip


def spliced(walks: Sequence[np.ndarray]) -> np.ndarray:
    """Join several walks of a person to one of the length of the shortest, to which each gives an equal part.

    Each part begins where its walk goes on most as the walk before it ended: at the offset at which the samples before
    it, over an eighth of the part, differ least from those at the end of the part before, both from their walk's mean.

    Args:
        walks: Walks, (T_i, S) each.

    Returns:
        The joined walk, (min T_i, S); a single walk is returned as it is.

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.auxvae.data.readers import spliced
        >>> time = np.arange(200) / 10
        >>> joined = spliced([np.sin(time)[:, None], np.sin(time + 1)[:, None]])
        >>> bool(np.abs(np.diff(joined[:, 0])).max() < 0.12)  # no jump: steps of a sine are at most 0.1
        True
    """
    if len(walks) == 1:
        return walks[0]
    length = min(len(walk) for walk in walks)
    part = length // len(walks)
    before = max(1, part // 8)
    scale = np.concatenate(walks).std(0) + 1e-12
    out, last = walks[0][: part + length % len(walks)], walks[0]
    for walk in walks[1:]:
        starts = range(before, len(walk) - part + 1) if len(walk) - part > before else [len(walk) - part]
        tail, centred = (out[-before:] - last.mean(0)) / scale, (walk - walk.mean(0)) / scale
        costs = [np.square(centred[max(0, k - before) : k] - tail[-min(k, before) :]).sum() for k in starts]
        start = starts[int(np.argmin(costs))]
        out, last = np.concatenate([out, walk[start : start + part]]), walk
    return out


def _styles(trials: Sequence[_Trial]) -> tuple[str, ...]:
    """The paper's styles, or the names in the table where it has others only."""
    found = sorted({trial.style for trial in trials if trial.style})
    return STYLES if not found or set(found) & set(STYLES) else tuple(found)


# -------------------------------------------------------------------- checks
def _check(trial: _Trial, first: _Trial, n_steps: int, styles: Sequence[str]) -> None:
    """Raise ValueError if a walk is invalid, or differs from the first in channels or rate."""
    if not trial.participant:
        raise ValueError(f"{trial.where}: the participant is missing; name it")
    nameless = [i for i, name in enumerate(trial.channels) if not name.strip() or name == "nan"]
    if nameless:
        raise ValueError(f"{trial.where}: channel {nameless[0]} has no name; name every channel")
    if len(set(trial.channels)) < len(trial.channels):
        twice = next(name for name in trial.channels if trial.channels.count(name) > 1)
        raise ValueError(f"{trial.where}: channel {twice!r} appears twice; names must differ")
    if len(trial.signal) == 0:
        raise ValueError(f"{trial.where}: there are no samples; leave the walk out")
    if trial.channels != first.channels:
        raise ValueError(f"{trial.where}: {_different(trial.channels, first.channels)}")
    if trial.load < 0 or trial.load == np.inf:
        raise ValueError(
            f"{trial.where}: load_lb is {trial.load:g}; give a number of at least 0, which marks the unloaded walk, or "
            "nothing where it is unknown"
        )
    if not 0 < trial.rate < np.inf:
        raise ValueError(f"{trial.where}: rate_hz is {trial.rate:g}; give the samples per second")
    if trial.rate != first.rate:
        raise ValueError(
            f"{trial.where}: rate_hz is {trial.rate:g} where that of {first.where} is {first.rate:g}; record or "
            "resample all walks at one rate"
        )
    if trial.style and trial.style not in styles:
        raise ValueError(f"{trial.where}: style {trial.style!r} is none of {list(styles)}; correct it or give styles=")
    if trial.load == 0 and trial.style:
        raise ValueError(f"{trial.where}: the unloaded walk (load_lb 0) has style {trial.style!r}; leave that empty")
    if len(trial.signal) < n_steps:
        raise ValueError(
            f"{trial.where}: {len(trial.signal)} samples, fewer than the {n_steps} steps asked for; choose a smaller "
            "n_steps or leave the walk out"
        )
    gaps = ~np.isfinite(trial.signal)
    if gaps.any():
        sample, channel = np.argwhere(gaps)[0]
        raise ValueError(
            f"{trial.where}: channel {trial.channels[channel]!r} has a gap at sample {sample} ({gaps.any(1).sum()} "
            "samples in all are not finite); interpolate it or leave the walk out"
        )


def _different(channels: list[str], expected: list[str]) -> str:
    if len(channels) != len(expected):
        return f"{len(channels)} channels where the first walk has {len(expected)}; all walks need the same"
    at = next(i for i, pair in enumerate(zip(channels, expected, strict=True)) if pair[0] != pair[1])
    return (
        f"channel {at} is {channels[at]!r} where the first walk has {expected[at]!r}; all walks need the same channels "
        "in the same order"
    )


def _unloaded(trials: Sequence[_Trial]) -> dict[str, list[_Trial]]:
    """The unloaded walks of each participant, by participant, in the order of their first walks."""
    out: dict[str, list[_Trial]] = {}
    for participant in dict.fromkeys(trial.participant for trial in trials):
        own = [trial for trial in trials if trial.participant == participant and trial.load == 0]
        if not own:
            raise ValueError(
                f"participant {participant!r} has no unloaded walk (load_lb 0), which the model compares the others "
                "with; add one or leave the participant out"
            )
        out[participant] = own
    return out


def _converted(signal: np.ndarray, channels: Sequence[str], units: Mapping[str, str], where: str) -> np.ndarray:
    """Convert the signal, (F, S), to g and deg/s."""
    for field, kind in (("acc_unit", "acc"), ("gyro_unit", "gyro")):
        unit = units.get(field) or next(iter(FACTORS[field]))
        if unit not in FACTORS[field]:
            raise ValueError(f"{where}: {field} {unit!r} is none of {list(FACTORS[field])}")
        own = [kind in name.lower() for name in channels]
        if FACTORS[field][unit] != 1 and not any(own):
            raise ValueError(f"{where}: {field} is {unit!r}, but no channel has {kind!r} in its name; rename them")
        signal = signal * np.where(own, FACTORS[field][unit], 1.0)
    return signal


# -------------------------------------------------------------------- the two forms
def _read_folder(folder: Path) -> list[_Trial]:
    listing = folder / "trials.csv"
    if not listing.is_file():
        raise FileNotFoundError(f"{listing}: there is no such file; it lists the walks, see pyrozoo.models.auxvae.read")
    table = read_table(str(listing), ["participant"], NUMBERS)
    with naming(str(listing)):
        absent = [column for column in ("file", "style") if column not in table]
        if absent:
            raise ValueError(f"column {absent[0]!r} is not in the header; its columns are {list(table.columns)}")
        for column in ("file", "style"):
            if list(table.columns).count(column) > 1 or f"{column}.1" in table:
                raise ValueError(f"column {column!r} appears twice in the header")
        numbers = {column: _numeric(table[column], column) for column in NUMBERS}
        words = pd.read_csv(listing, dtype=str, keep_default_na=False, usecols=["file", "style"])  # 001 stays so
        if table.empty:
            raise ValueError("there are no walks; give a line for each")
        odd = [name for name in table if "unit" in name and name not in FACTORS]
        if odd:
            raise ValueError(f"column {odd[0]!r} is not known; units are in {list(FACTORS)}")
        twice = words["file"].str.strip().duplicated()
        if twice.any():
            row = int(twice.to_numpy().argmax())
            raise ValueError(f"line {row + 2}: file {words['file'][row]!r} is listed twice; a file holds one walk")
    trials = []
    for row, line in enumerate(table.to_dict("records")):
        name = words["file"][row].strip()
        with naming(f"{listing}, line {row + 2}"):
            file = folder / name
            beside = Path(name).name == name and file.resolve().parent == folder.resolve()
            if not beside or not file.is_file():
                raise ValueError(f"file {name!r} is not beside trials.csv; give the plain name of a file there")
        units = {field: _text(line.get(field)) for field in FACTORS}
        channels, signal = _read_walk(file)
        with naming(str(folder)):
            signal = _converted(signal, channels, units, name)
        trials.append(
            _Trial(
                name, _text(line["participant"]), words["style"][row].strip(), numbers["load_lb"][row],
                numbers["rate_hz"][row], channels, signal, row + 2,
            )
        )  # fmt: skip
    return trials


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value).strip()


def _numeric(column: pd.Series, name: str) -> np.ndarray:
    values = pd.to_numeric(column.astype(str) if column.dtype == bool else column, errors="coerce")
    wrong = values.isna() & column.notna()
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise ValueError(f"column {name!r}, line {row + 2}: {column.iloc[row]!r} is not a number")
    return values.to_numpy(float)


def _read_walk(file: Path) -> tuple[list[str], np.ndarray]:
    with naming(str(file)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
                header = pd.read_csv(file, header=None, nrows=1, dtype=str).iloc[0].tolist()
                table = pd.read_csv(file, index_col=False)
        except (pd.errors.EmptyDataError, pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
            raise ValueError(f"no table with a header of channel names and equally long rows ({error})") from None
        channels = [str(name).strip() for name in header]
        words = [name for name in table if len(table) and not pd.api.types.is_numeric_dtype(table[name])]
        if words:
            raise ValueError(f"channel {words[0]!r} does not hold numbers throughout")
        return channels, table.to_numpy(float)


def _read_npz(path: Path) -> list[_Trial]:
    arrays = read_npz(path, _ARRAYS)
    with naming(str(path)):
        signal, length = arrays["signal"], arrays["length"]
        if signal.ndim != 2 or not np.issubdtype(signal.dtype, np.number) or np.iscomplexobj(signal):
            raise ValueError(f"array 'signal': {signal.dtype} of shape {signal.shape}; give (samples, channels)")
        if length.ndim != 1 or not np.issubdtype(length.dtype, np.integer) or (length < 1).any():
            raise ValueError(f"array 'length': {length.dtype} of shape {length.shape}; give whole numbers, one a walk")
        if length.sum() != len(signal) or len(length) == 0:
            raise ValueError(f"array 'length': the walks add up to {length.sum()} samples, 'signal' has {len(signal)}")
        for name in ("participant", "style", "channels"):
            if arrays[name].dtype.kind not in "Uiu":
                raise ValueError(f"array {name!r}: {arrays[name].dtype} values; give text")
        channels = [str(name).strip() for name in np.atleast_1d(arrays["channels"])]
        if len(channels) != signal.shape[1]:
            raise ValueError(f"array 'channels': {len(channels)} names for {signal.shape[1]} columns of 'signal'")
        for name in ("participant", "style", "load_lb"):
            if arrays[name].shape != length.shape:
                raise ValueError(f"array {name!r}: shape {arrays[name].shape}, expected {length.shape}, one per walk")
        for name in NUMBERS:
            if arrays[name].dtype.kind not in "fiu" or arrays[name].shape not in ((), length.shape):
                raise ValueError(f"array {name!r}: shape {arrays[name].shape} of {arrays[name].dtype}; give numbers")
        rate = np.broadcast_to(arrays["rate_hz"].astype(float), length.shape)
        units = {field: str(arrays[field]) for field in FACTORS if field in arrays}
        parts = np.split(_converted(signal.astype(float), channels, units, "signal"), np.cumsum(length)[:-1])
        return [
            _Trial(
                f"walk {i}", str(arrays["participant"][i]).strip(), str(arrays["style"][i]).strip(),
                float(arrays["load_lb"][i]), float(rate[i]), channels, part,
            )
            for i, part in enumerate(parts)
        ]  # fmt: skip
