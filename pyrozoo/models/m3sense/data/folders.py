"""Real folders of several data sets as one batch of windows, for the experiments' ``--data``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from ....data.batch import Batch
from .e4 import read_nurses, read_stress_predict
from .published_sets import read_kemocon, read_verbio, read_wesad
from .recordings import Recordings
from .windowing import filtered, windows

READERS: Mapping[str, Callable[..., Recordings]] = {
    "verbio": read_verbio,
    "kemocon": read_kemocon,
    "wesad": read_wesad,
    "nurses": read_nurses,
    "stress_predict": read_stress_predict,
}


@functools.lru_cache(maxsize=2)
def read_study(root: str | Path, rates: tuple[tuple[str, float], ...], seconds: float = 20.0) -> Batch:
    """Read the data sets in a folder, filter them and cut them into windows.

    Args:
        root: Folder with one folder per data set, named as in `READERS`; those that are missing are left out.
        rates: (modality, samples per second) to resample to.
        seconds: Duration of a window.

    Raises:
        FileNotFoundError: There is no such folder, or it holds none of the data sets.
        ValueError: As the readers and `windows`.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    present = [name for name in READERS if (root / name).is_dir()]
    if not present:
        raise FileNotFoundError(
            f"{root}: it holds none of the folders {list(READERS)}; name the data sets' folders like that"
        )
    recordings = Recordings()
    for name in present:
        recordings += READERS[name](root / name)
    return windows(filtered(recordings), seconds, dict(rates), resample=True)
