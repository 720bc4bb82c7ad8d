"""The reader of WESAD (stress), in the form in which it is published."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import pickles
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
    runs,
    single,
    wanted,
)
from .simulator import CLASSES, DEVICE_RATES

_WESAD_LABEL_HZ = 700.0
_WESAD_CLASSES = dict(zip((1, 2, 3), CLASSES["stress"], strict=True))


def read_wesad(root: str | Path, *, modalities: Sequence[str] = MODALITIES) -> Recordings:
    """Read WESAD: the wrist's signals and the labels of ``S2/S2.pkl`` ...; code in a pickle is not run.

    Labels are given at 700 Hz: 1 baseline, 2 stress, 3 amusement are the classes; 0 (transient), 4 (meditation) and 5
    to 7 are no class, so these stretches are unlabelled.

    Args:
        root: A folder that holds the folders of people, at any depth.
        modalities: Modalities to read, some of "bvp", "eda", "temp".

    Returns:
        Recordings: One recording per person, of task "stress".

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no person; a pickle holds something else or code; rates and lengths do not match.

    Example:
        >>> import pickle, tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_wesad
        >>> wrist = {name: np.full((10 * rate, 1), 32.5) for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items()}
        >>> content = {"subject": "S2", "signal": {"wrist": wrist}, "label": np.repeat([1, 2], 5 * 700)}
        >>> with tempfile.TemporaryDirectory() as root:
        ...     Path(root, "S2").mkdir()
        ...     with Path(root, "S2", "S2.pkl").open("wb") as file:
        ...         pickle.dump(content, file)
        ...     recordings = read_wesad(root)
        >>> recordings[0].name, recordings[0].labels
        ('wesad/S2', ((0.0, 5.0, 'baseline'), (5.0, 10.0, 'stress')))
    """
    root, modalities = folder_of(root), wanted(modalities, MODALITIES)
    people: dict[str, Path] = {}
    for path in find(root, "S*.pkl"):
        if re.fullmatch(r"S\d+", path.stem):
            people[path.stem] = single([*([people[path.stem]] if path.stem in people else []), path], path.name)
    if not people:
        raise ValueError(f"{root}: no S2/S2.pkl ... is in it; give the folder of the unpacked WESAD.zip")
    names = sorted(people, key=lambda name: int(name[1:]))  # S10 after S9
    return Recordings(_wesad_person(people[name], name, modalities) for name in names)


def _wesad_person(path: Path, subject: str, modalities: Sequence[str]) -> Recording:
    content = pickles.load(path)
    with located(str(path)):
        wrist, labels = _entry(content, "signal", "wrist"), np.asarray(_entry(content, "label"))
        if str(_entry(content, "subject")) != subject:
            raise ValueError(f"'subject' is {content['subject']!r}, but the file is {path.name}; rename the wrong one")
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise ValueError(f"'label': {labels.dtype} of shape {labels.shape}; expected whole numbers, one row")
        odd = (labels < 0) | (labels > 7)
        if odd.any():
            raise ValueError(f"'label', sample {int(odd.argmax())}: {labels[odd.argmax()]}; labels are 0 to 7")
        seconds, signals = len(labels) / _WESAD_LABEL_HZ, {}
        notes: dict[str, int] = {}
        for name in modalities:
            signal = np.asarray(_entry(wrist, name.upper()))
            if signal.dtype.kind not in "fiu" or signal.ndim not in (1, 2) or signal.size != len(signal):
                raise ValueError(f"{name}: {signal.dtype} of shape {signal.shape}; expected one column of samples")
            if not len(signal):
                raise MissingDataError(f"{name}: the channel is empty; leave the modality or the person out")
            signal, own = cleaned(name, signal.reshape(-1).astype(float), first_row=0)
            if abs(len(signal) / DEVICE_RATES[name] - seconds) > 2:
                raise ValueError(
                    f"{name}: {len(signal)} samples are {len(signal) / DEVICE_RATES[name]:.1f} s at "
                    f"{DEVICE_RATES[name]:g} Hz, but the labels last {seconds:.1f} s at {_WESAD_LABEL_HZ:g} Hz; the "
                    "rates do not match"
                )
            signals[name] = signal
            added(notes, own)
        stretches = tuple(
            (first / _WESAD_LABEL_HZ, stop / _WESAD_LABEL_HZ, _WESAD_CLASSES[label])
            for first, stop, label in runs(labels)
            if label in _WESAD_CLASSES
        )
        rates = {name: DEVICE_RATES[name] for name in signals}
        return Recording(subject, signals, rates, "stress", CLASSES["stress"], stretches, 0.0, "wesad", notes)


def _entry(content: Any, *keys: str) -> Any:
    """Look up an entry of nested dictionaries; MissingDataError if a key is not there."""
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            held = list(content) if isinstance(content, Mapping) else type(content).__name__
            raise MissingDataError(f"there is no entry {key!r}, only {held}")
        content = content[key]
    return content


def minutes_seconds(word: str) -> float:
    """Parse a time written as minutes.seconds with trailing zeros left out: "50.3" is 50:30, "7.08" is 7:08.

    Returns:
        The time in seconds.

    Raises:
        ValueError: The word is no such time, as "7.65" with its 65 seconds.
    """
    match = re.fullmatch(r"(\d+)(?:\.(\d{1,2}))?", str(word).strip())
    seconds = int((match[2] or "").ljust(2, "0")) if match else 60
    if match is None or seconds >= 60:
        raise ValueError(f"{word!r} is no time in minutes.seconds, such as 50.3 for 50:30")
    return 60.0 * int(match[1]) + seconds


def read_wesad_protocol(path: str | Path) -> list[tuple[str, float, float]]:
    r"""Read the conditions of a person from ``S2_quest.csv``: (name, from, to) in seconds, in their order.

    Times count from the start of the chest device, not of the wrist device: they are not times in an E4 export, and
    `read_wesad` takes its labels from elsewhere.

    Args:
        path: Path of the file, whose times are written as minutes.seconds: 7.08 is 7 minutes and 8 seconds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lacks a row, or a time is not in minutes.seconds; the message names file, row and column.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pyrozoo.models.m3sense import read_wesad_protocol
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "S2_quest.csv")
        ...     lines = ["# ORDER;Base;TSST", "# START;7.08;39.55", "# END;26.32;50.3"]
        ...     _ = path.write_text("\n".join(lines))
        ...     conditions = read_wesad_protocol(path)
        >>> conditions
        [('Base', 428.0, 1592.0), ('TSST', 2395.0, 3030.0)]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    with located(str(path)):
        rows: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            name, *cells = (cell.strip() for cell in line.split(";"))
            rows.setdefault(name, [cell for cell in cells if cell])
        for name in ("# ORDER", "# START", "# END"):
            if name not in rows:
                raise ValueError(f"there is no row {name!r}")
            if len(rows[name]) < len(rows["# ORDER"]):
                raise ValueError(f"row {name!r}: {len(rows[name])} times for {len(rows['# ORDER'])} conditions")
        times = {}
        for name in ("# START", "# END"):
            with located(f"row {name!r}"):
                times[name] = [minutes_seconds(word) for word in rows[name]]
        return list(zip(rows["# ORDER"], times["# START"], times["# END"], strict=False))
