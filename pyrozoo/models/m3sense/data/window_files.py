"""Windows in .npz files: a documented layout for your own windows, and that of the Stress-Predict windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....data.batch import Batch
from ....files import read_npz, replacing
from .arrays import checked, from_arrays
from .batches import SEGMENT, channels, modalities, require_classes
from .recordings import located
from .simulator import CLASSES, DEVICE_RATES


def read_windows(
    path: str | Path, *, classes: Mapping[str, Sequence[str]] | None = None, dataset: str = "own",
    segment: int = SEGMENT, dtype: torch.dtype | None = None,
) -> Batch:  # fmt: skip
    """Read windows that are already cut from one npz file of N windows, of any number of tasks.

    Its arrays: ``subject``, names of people as text or whole numbers, (N,); for every modality, under any name, its
    windows (N, samples) or (N, samples, channels), then with the names of the channels in ``channels_<modality>``. It
    may have, for every task, ``label_<task>`` (N,), names of classes, "" where unknown, or
    whole numbers, -1 where unknown; ``rates_<modality>``, samples per second, for all modalities; ``begin`` and
    ``start``, seconds from the start of the recording and its unix time, (N,), see `from_arrays`; ``standardised``,
    "subject" or "window", where the signals are standardised already (`standardise`). No object is unpickled.
    `write_windows` writes such a file.

    Args:
        path: Path of the file.
        classes: Task -> names of its classes, e.g. those of a fit. If given, the batch has these tasks and no others,
            whether the file has labels of them or not.
        dataset: Name of the data set; people of data sets of different names are different people.
        segment: Samples in a segment of the encoder; a window has at least one segment.
        dtype: Floating type; torch's default where None.

    Returns:
        Batch: Windows in the layout that `windows` returns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no npz file of these arrays, or `from_arrays` refuses them; the message names file, array and
            row.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_windows
        >>> eda = np.random.default_rng(0).normal(size=(4, 40))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "own.npz")
        ...     labels = ["calm", "stress", "calm", ""]
        ...     np.savez(path, subject=["S01", "S01", "S02", "S02"], eda=eda, rates_eda=4.0, label_stress=labels)
        ...     data = read_windows(path)
        >>> data["eda"].shape, data.observed("y_stress").tolist()
        (torch.Size([4, 40]), [True, True, True, False])
    """
    path = Path(path)
    arrays = read_npz(path, ["subject"])
    with located(str(path)):
        info: dict[str, Any] = {"name": path.name, "simulated": False}
        if "standardised" in arrays:
            info["standardised"] = str(arrays["standardised"])
            if info["standardised"] not in ("subject", "window"):
                raise ValueError(
                    f"array 'standardised': {info['standardised']!r}; give 'subject' or 'window', or leave it out "
                    "where the signals are not standardised"
                )
        rates: dict[str, float] = {}
        labels: dict[str, Any] = {}
        signals: dict[str, np.ndarray] = {}
        names: dict[str, Any] = {}
        for name, array in arrays.items():
            if name.startswith("label_"):
                labels[name.removeprefix("label_")] = array
            elif name.startswith("rates_"):
                if array.ndim or array.dtype.kind not in "fiu":
                    raise ValueError(f"array {name!r}: {array.dtype} of shape {array.shape}; give one number [Hz]")
                rates[name.removeprefix("rates_")] = float(array)
            elif name.startswith("channels_"):
                names[name.removeprefix("channels_")] = array.reshape(-1).astype(str).tolist()
            elif name not in ("subject", "standardised", "begin", "start"):
                signals[name] = array
        if rates:
            info["rates"] = rates
        if classes is not None:
            labels = {task: labels.get(task) for task in classes}
        batch, targets = checked(
            signals, arrays["subject"], labels, classes or {}, "label_{task}", dataset, segment, dtype, info,
            arrays.get("begin"), arrays.get("start"), names,
        )  # fmt: skip
        if classes is None:
            require_classes(targets)
        return batch


def write_windows(path: str | Path, data: Batch) -> None:
    """Write windows to one npz file, which `read_windows` and the command line read.

    Labels are written by name, of the tasks that have any; times where the windows have coordinates of them.

    Args:
        path: Path of the file.
        data: Windows of one data set, of any number of tasks.

    Raises:
        ValueError: The windows are of several data sets, whose people a file of windows cannot tell apart.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pyrozoo.models.m3sense import read_windows, simulate, write_windows
        >>> data = simulate("simulated stress", n_subjects=2, n_windows=6, seconds=5.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_windows(Path(folder, "stress.npz"), data)
        ...     again = read_windows(Path(folder, "stress.npz"))
        >>> bool((again["eda"] == data["eda"]).all()), again["y_stress"].tolist() == data["y_stress"].tolist()
        (True, True)
    """
    datasets = data.coords["dataset_class"][np.unique(data["dataset"].cpu().numpy())].tolist()
    if len(datasets) > 1:
        raise ValueError(f"data: they are of {datasets}; write a file for each data set")
    arrays: dict[str, Any] = {name: data[name].cpu().numpy() for name in modalities(data)}
    arrays |= {f"channels_{name}": np.array(own) for name, own in channels(data).items()}
    arrays["subject"] = np.array([name.partition("/")[2] for name in data.group_names("subject").tolist()])
    for target in data.labels:
        if not data.observed(target).any():
            continue
        names = data.coords[f"{target}_class"][data[target].cpu().numpy()]
        arrays[f"label_{target.removeprefix('y_')}"] = np.where(data.observed(target), names, "")
    arrays |= {f"rates_{name}": rate for name, rate in (data.info.get("rates") or {}).items()}
    if "standardised" in data.info:
        arrays["standardised"] = data.info["standardised"]
    if "begin" in data.row_coords:
        times = data.describe_rows()
        arrays |= {"begin": times["begin"].to_numpy(), "start": (times["unix"] - times["begin"]).to_numpy()}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_stress_predict_windows(path: str | Path) -> Batch:
    """Read Stress-Predict as windows of 20 s in one npz file: ``eda_nS, bvp_x10, temp_cC, label, subject``.

    Args:
        path: Path of the file: whole numbers in nS, tenths of the device's unit and hundredths of a degree Celsius,
            each (N, samples).

    Returns:
        Batch: Windows of task "stress" in the layout that `windows` returns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no npz file of these arrays.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pyrozoo.models.m3sense import read_stress_predict_windows
        >>> draw = np.random.default_rng(0).integers
        >>> eda, bvp, temp = draw(200, 900, (4, 80)), draw(-500, 500, (4, 1280)), draw(3000, 3300, (4, 80))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "windows.npz")
        ...     np.savez(path, eda_nS=eda, bvp_x10=bvp, temp_cC=temp, label=[0, 0, 1, 1], subject=[2, 2, 2, 2])
        ...     data = read_stress_predict_windows(path)
        >>> data.coords["subject"].tolist(), data["bvp"].shape
        (['stress_predict/S02'], torch.Size([4, 1280]))
    """
    path = Path(path)
    arrays = read_npz(path, ["eda_nS", "bvp_x10", "temp_cC", "label", "subject"], [])
    with located(str(path)):
        for key, array in arrays.items():
            if array.dtype.kind not in "iu":
                raise ValueError(f"array {key!r}: {array.dtype}; expected whole numbers")
        if arrays["subject"].ndim != 1:
            raise ValueError(f"array 'subject': shape {arrays['subject'].shape}; expected one number per window")
        units = {"bvp": ("bvp_x10", 10.0), "eda": ("eda_nS", 1000.0), "temp": ("temp_cC", 100.0)}
        return from_arrays(
            {name: arrays[key] / unit for name, (key, unit) in units.items()}, arrays["label"],
            [f"S{int(number):02d}" for number in arrays["subject"]], "stress", classes=CLASSES["stress"][:2],
            dataset="stress_predict", seconds=20.0, rates=dict(DEVICE_RATES),
        )  # fmt: skip
