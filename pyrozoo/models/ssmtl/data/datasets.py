"""Data sets of ssmtl by name: simulated units, and a real industrial batch dryer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import pandas as pd

from ....data.batch import Batch
from ....data.folders import data_path
from .drifting import simulate_drift
from .simulator import PRESETS, simulate


def dryer(*, clock: bool = False, time: bool = False) -> Batch:
    """Load the industrial batch dryer: 71 batches of 89 to 201 rows, 9,220 rows in all, real measurements.

    Unit = batch; x (N, 9) = the process tags, y (N, 1) = ``CollectorTankLevel``, the level of the tank that collects
    the evaporated solvent; every row is labelled. Rows stay in the order of the file: by batch, then by time. The
    source states no units of measure. See ``data/dryer/README.md`` for provenance and for what to beware of: rows are
    consecutive samples of a transient process, not independent ones of a steady state.

    Args:
        clock: Whether ``ClockTime``, the number of samples since the start of the batch, is added as a tenth input.
        time: Whether it is the time of each row (`Batch.time`), which no network sees.

    Raises:
        FileNotFoundError: The package's data files are missing.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import dryer
        >>> data = dryer()
        >>> data.sizes["unit"], data["x"].shape, data.columns("y")
        (71, torch.Size([9220, 9]), ['CollectorTankLevel'])
    """
    df = pd.read_csv(data_path("dryer/dryer.csv"))
    unit, target = "batch_id", "CollectorTankLevel"
    inputs = [column for column in df.columns if column not in (unit, target, "ClockTime")]
    return Batch.from_dataframe(
        df,
        unit=unit,
        x=[*inputs, "ClockTime"] if clock else inputs,
        y=target,
        time="ClockTime" if time else None,
        name="dryer-clock" if clock else "dryer",
        simulated=False,
        source="Python package process-improve 2.2.0",
        licence="MIT (of the package)",
        reference="S. Garcia-Munoz, Batch process improvement using latent variable methods, PhD thesis, "
        "McMaster University, 2004",
    )


def draw_labels(batch: Batch, per_unit: int, seed: int) -> np.ndarray:
    """Choose `per_unit` labelled rows of each unit at random; pass the result to ``batch.relabel``.

    With the same seed, a smaller `per_unit` chooses a subset of the rows that a larger one chooses.

    Args:
        batch: Data with the group ``unit`` and the target ``y``.
        per_unit: Number of rows to choose in each unit.
        seed: Random seed for the choice.

    Returns:
        True for the chosen rows: boolean, shape (N,).

    Raises:
        ValueError: `per_unit` is negative, or a unit has fewer labelled rows; the message names the unit.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import draw_labels
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> few = data.relabel(draw_labels(data, per_unit=5, seed=0))
        >>> few.sizes["labelled"], few.sizes["unlabelled"]
        (355, 8865)
    """
    if per_unit < 0:
        raise ValueError(f"per_unit: {per_unit} is negative")
    unit, observed = batch["unit"].cpu().numpy(), batch.observed("y")
    available = np.bincount(unit[observed], minlength=batch.sizes["unit"])
    if (available < per_unit).any():
        short = int((available < per_unit).argmax())
        unit_name = batch.coords["unit"][short]
        raise ValueError(f"unit {unit_name} has {available[short]} labelled rows, fewer than per_unit = {per_unit}")
    priority = np.where(observed, np.random.default_rng(seed).random(len(unit)), np.inf)
    order = np.lexsort((priority, unit))
    place = pd.Series(unit[order]).groupby(unit[order]).cumcount().to_numpy()
    chosen = np.zeros(len(unit), bool)
    chosen[order[place < per_unit]] = True
    return chosen


DATASETS: Mapping[str, Callable[..., Batch | tuple[Batch, Batch]]] = MappingProxyType(
    {
        "simulated": partial(simulate, **PRESETS["same-valve"]),
        "simulated-any-valve": partial(simulate, name="simulated-any-valve", **PRESETS["any-valve"]),
        "simulated-drift": simulate_drift,
        "dryer": dryer,
    }
)
