"""The reader of K-EmoCon (emotion), in the form in which it is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .recordings import (
    MODALITIES,
    MissingDataError,
    Recording,
    Recordings,
    added,
    cleaned,
    find,
    folder_of,
    located,
    on_grids,
    read_columns,
    single,
    wanted,
)
from .simulator import CLASSES, DEVICE_RATES

# Two people of K-EmoCon wore two devices; this is the one whose signals belong to them.
_KEMOCON_DEVICES = ("A013E1", "A01A3A")
_KEMOCON_RATERS = {
    "self": "self_annotations", "partner": "partner_annotations", "external": "aggregated_external_annotations"
}  # fmt: skip
_KEMOCON_STEP_S = 5.0


def read_kemocon(root: str | Path, *, rater: str = "self", modalities: Sequence[str] = MODALITIES) -> Recordings:
    """Read K-EmoCon: debates of pairs, with ratings of arousal and valence, 1 to 5, for every 5 s.

    A label is "high valence and arousal" where both are above 2, else "other". Ratings are aligned at their end with
    the debate's end. The archives may be unpacked with or without ``raw/``. People who lack a signal are left out, see
    ``skipped`` (11 of 32 lack one); a recording with gaps of a second or more becomes several.

    Args:
        root: The folder of the unpacked archives.
        rater: Source of the ratings: "self", "partner" or "external" (the aggregate of five).
        modalities: Modalities to read, some of "bvp", "eda", "temp".

    Returns:
        Recordings: One recording or more per person, of task "emotion".

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no subjects.csv or no signals, or a file is wrong.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import pandas as pd
        >>> from pyrozoo.models.m3sense import read_kemocon
        >>> begin = 1_600_000_000_000  # unix milliseconds
        >>> with tempfile.TemporaryDirectory() as root:
        ...     signals, ratings = Path(root, "e4_data", "1"), Path(root, "emotion_annotations", "self_annotations")
        ...     signals.mkdir(parents=True)
        ...     ratings.mkdir(parents=True)
        ...     debate = pd.DataFrame({"pid": [1], "startTime": [begin], "endTime": [begin + 10_000]})
        ...     debate.to_csv(Path(root, "subjects.csv"), index=False)
        ...     for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items():
        ...         times = begin + np.arange(10 * rate) * 1000 / rate
        ...         table = pd.DataFrame({"timestamp": times, "value": 32.5, "device_serial": "A01"})
        ...         table.to_csv(signals / f"E4_{name}.csv", index=False)
        ...     rated = pd.DataFrame({"seconds": [5, 10], "arousal": [1, 4], "valence": [3, 3]})
        ...     rated.to_csv(ratings / "P1.self.csv", index=False)
        ...     recordings = read_kemocon(root)
        >>> recordings[0].name, [rating for _, _, rating in recordings[0].labels]
        ('kemocon/1', ['other', 'high valence and arousal'])
    """
    root, modalities = folder_of(root), wanted(modalities, MODALITIES)
    if rater not in _KEMOCON_RATERS:
        raise ValueError(f"rater: {rater!r} is none of {list(_KEMOCON_RATERS)}")
    listing = find(root, "subjects.csv")
    if not listing:
        raise ValueError(f"{root}: there is no metadata/subjects.csv, which holds the times of debates; unpack it, too")
    path = single(listing, "subjects.csv")
    table = read_columns(path, ("pid", "startTime", "endTime"), text=("pid",))
    out = Recordings()
    for pid, start, end in table.itertuples(index=False):
        with located(f"{path}, pid {pid}"):
            if not 0 < start < end:
                raise ValueError(f"startTime {start}, endTime {end}; expected unix milliseconds, in this order")
        try:
            out += _kemocon_person(root, pid, (start / 1000, end / 1000), rater, modalities)
        except MissingDataError as error:
            out.skip("a file is missing or empty", f"kemocon/{pid}: {error}")
    if not out:
        reason = next(iter(out.skipped.values()), ["subjects.csv is empty"])[0]
        raise ValueError(f"{root}: nobody has all of {list(modalities)}; {reason}")
    return out


def _kemocon_person(
    root: Path, pid: str, debate: tuple[float, float], rater: str, modalities: Sequence[str]
) -> Recordings:
    series: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: dict[str, int] = {}
    for name in modalities:
        file = f"E4_{name.upper()}.csv"
        files = [path for path in find(root, file) if path.parent.name == pid]
        if not files:
            raise MissingDataError(f"there is no e4_data/{pid}/{file}")
        path = single(files, f"{pid}/{file}")
        table = read_columns(path, ("timestamp", "value", "device_serial"), text=("device_serial",))
        with located(str(path)):
            own, left_out = _one_device(table)
            known = own[["timestamp", "value"]].notna().all(axis=1)
            if known.sum() < 2:
                raise MissingDataError("the channel is empty; leave the person out")
            signal, replaced = cleaned(name, own["value"][known].to_numpy(), first_row=2)
            series[name] = (own["timestamp"][known].to_numpy() / 1000, signal)
        counts = {"of another device": left_out, "without value": int((~known).sum())}
        added(notes, {f"{name}: samples {what}, left out": n for what, n in counts.items() if n} | replaced)
    files = [path for path in find(root, f"P{pid}.{rater}.csv") if path.parent.name == _KEMOCON_RATERS[rater]]
    if not files:
        raise MissingDataError(f"there is no {_KEMOCON_RATERS[rater]}/P{pid}.{rater}.csv")
    stretches, unknown = _ratings(single(files, files[0].name), debate[1])
    added(notes, {"labels: ratings without a value, left out": unknown} if unknown else {})
    rates = {name: DEVICE_RATES[name] for name in modalities}
    with located(f"{root}, pid {pid}"):
        pieces, gaps = on_grids(series, rates)
    out = Recordings()
    for k, (start, signals) in enumerate(pieces):
        seconds = min(len(signal) / rates[name] for name, signal in signals.items())
        labels = _within(stretches, start, seconds)
        # Notes concern the person: only the first piece has them, so that nothing is counted twice.
        own = {**notes, **gaps} if k == 0 else {}
        out.append(Recording(pid, signals, rates, "emotion", CLASSES["emotion"], labels, start, "kemocon", own))
    return out


def _one_device(table: Any) -> tuple[Any, int]:
    """Keep the rows of one device, and count those of another."""
    serials = list(dict.fromkeys(table["device_serial"]))
    if len(serials) < 2:
        return table, 0
    chosen = [serial for serial in serials if serial in _KEMOCON_DEVICES]
    if len(chosen) != 1:
        raise ValueError(f"samples of devices {serials}, of which it is not known whose are the person's; keep one")
    own = table["device_serial"] == chosen[0]
    return table[own], int((~own).sum())


def _ratings(path: Path, end: float) -> tuple[list[tuple[float, float, str]], int]:
    """Read stretches (from, to [unix s], class) from a file of ratings, the last ending at `end`; count empty ones."""
    table = read_columns(path, ("seconds", "arousal", "valence"), missing=("x",))
    with located(str(path)):
        if table.empty:
            raise MissingDataError("the file is empty; leave the person out")
        seconds, ratings = table["seconds"].to_numpy(), table[["arousal", "valence"]].to_numpy()
        if np.isnan(seconds).any() or (np.diff(seconds) < _KEMOCON_STEP_S).any():
            raise ValueError(f"column 'seconds': expected times in order, {_KEMOCON_STEP_S:g} s apart")
        odd = ~np.isnan(ratings) & ((ratings < 1) | (ratings > 5))
        if odd.any():
            row, column = np.argwhere(odd)[0]
            name = ("arousal", "valence")[column]
            raise ValueError(f"column {name!r}, line {row + 2}: {ratings[row, column]:g}; ratings are 1 to 5")
    known = ~np.isnan(ratings).any(axis=1)
    classes = (ratings > 2).all(axis=1).astype(int)
    stops = end - (seconds[-1] - seconds)
    return [
        (stop - _KEMOCON_STEP_S, stop, CLASSES["emotion"][label])
        for stop, label, given in zip(stops.tolist(), classes.tolist(), known, strict=True)
        if given
    ], int((~known).sum())


def _within(
    stretches: Sequence[tuple[float, float, str]], start: float, seconds: float
) -> tuple[tuple[float, float, str], ...]:
    """Convert stretches in unix time to seconds from `start`, clipped to the recording."""
    clipped = ((max(a - start, 0.0), min(b - start, seconds), name) for a, b, name in stretches)
    return tuple(stretch for stretch in clipped if stretch[0] < stretch[1])
