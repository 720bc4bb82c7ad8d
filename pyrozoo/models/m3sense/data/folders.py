"""Real folders of several data sets as one batch of windows, for the experiments' ``--data``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from ....data.batch import Batch
from .e4 import read_e4_folder, read_nurses
from .kemocon import read_kemocon
from .recordings import Recordings
from .stress_predict import read_stress_predict
from .verbio import read_verbio
from .wesad import read_wesad
from .windowing import filtered, windows

READERS: Mapping[str, Callable[..., Recordings]] = {
    "verbio": read_verbio,
    "kemocon": read_kemocon,
    "wesad": read_wesad,
    "nurses": read_nurses,
    "stress_predict": read_stress_predict,
    "e4": read_e4_folder,
}


@functools.lru_cache(maxsize=2)
def read_study(root: str | Path, rates: tuple[tuple[str, float], ...], seconds: float = 20.0) -> Batch:
    """Read the data sets in a folder, filter them and cut them into windows.

    Args:
        root: Folder with one folder per data set, named as in `READERS`; those that are missing are left out.
            Exports of your own wristbands, in ``e4``, are unlabelled windows (`read_e4_folder`).
        rates: (modality, samples per second) to resample to.
        seconds: Duration of a window [s].

    Returns:
        Batch: Windows of all data sets, in the layout that `windows` returns.

    Raises:
        FileNotFoundError: There is no such folder, or it holds none of the data sets.
        ValueError: A reader refuses a file, or `windows` the recordings.

    Example:
        >>> import pickle, tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_study
        >>> noise = np.random.default_rng(0).normal(32.5, 0.1, (40 * 64, 1))
        >>> wrist = {name: noise[: 40 * rate] for name, rate in {"BVP": 64, "EDA": 4, "TEMP": 4}.items()}
        >>> content = {"subject": "S2", "signal": {"wrist": wrist}, "label": np.repeat([1, 2], 20 * 700)}
        >>> with tempfile.TemporaryDirectory() as root:
        ...     folder = Path(root, "wesad", "S2")
        ...     folder.mkdir(parents=True)
        ...     with (folder / "S2.pkl").open("wb") as file:
        ...         pickle.dump(content, file)
        ...     data = read_study(root, (("bvp", 16.0), ("eda", 4.0), ("temp", 4.0)), seconds=10.0)
        >>> data["bvp"].shape, data["y_stress"].tolist()
        (torch.Size([4, 160]), [0, 0, 1, 1])
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
