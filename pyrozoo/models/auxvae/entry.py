"""The parts of the entry that the registry reads: variants, guides, data sets, experiments and checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...data.batch import Batch
from ...inference.fitted import Fit
from ...posterior.predicting import predict
from .baselines.model import SequenceNet, SequenceNetLoadOnly
from .data import readers
from .data.batches import to_batch
from .data.datasets import DATASETS
from .data.simulator import simulate
from .guides import GUIDES
from .model import AuxVAE, LoadOnly, StyleInGuide

VARIANTS = {
    "auxvae": AuxVAE,
    "load-only": LoadOnly,
    "style-in-guide": StyleInGuide,
    "sequence": SequenceNet,
    "sequence-load-only": SequenceNetLoadOnly,
}
_FOLDER = f"{__package__}.experiments"
EXPERIMENTS = {
    "table1": f"{_FOLDER}.tables:table1_experiment",
    "table2": f"{_FOLDER}.tables:table2_experiment",
    "table3": f"{_FOLDER}.tables:table3_experiment",
    "figure5": f"{_FOLDER}.figures:figure5_experiment",
    "figure6": f"{_FOLDER}.figures:figure6_experiment",
    "ridge": f"{_FOLDER}.ridge:ridge_experiment",
    "presets": f"{_FOLDER}.presets:presets_experiment",
    "departure": f"{_FOLDER}.departure:departure_experiment",
    "learned": f"{_FOLDER}.learned:learned_experiment",
    "learned-tuning": f"{_FOLDER}.choices:learned_tuning_experiment",
    "people": f"{_FOLDER}.people:people_experiment",
    "process": f"{_FOLDER}.process:process_experiment",
    "beyond": f"{_FOLDER}.beyond:beyond_experiment",
    "tuning": f"{_FOLDER}.choices:tuning_experiment",
    "losses": f"{_FOLDER}.choices:losses_experiment",
    "reference": f"{_FOLDER}.figures:reference_experiment",
}
# How `pyrozoo fit` cross-fits: for new people, by fits that leave people out and predict together.
CROSS_FITS: dict[str, Any] = {"by": "participant", "inputs": False, "restarts": 0, "repeats": 1}


def tiny(seed: int = 0) -> tuple[Batch, dict[str, Any]]:
    """Simulate a few trials of four channels, some without style and some without load; the contract runs on them."""
    walks = simulate(seed, n_participants=3, n_steps=24, duration_s=3.0)
    rows, channels = np.arange(0, walks.n_rows, 3), [0, 20, 57, 71]
    place = np.arange(len(rows))
    style, load = (walks[name].numpy()[rows] for name in ("style", "y"))
    data = to_batch(
        x=walks["x"][rows][..., channels].numpy(), x_aux=walks["x_aux"][..., channels].numpy(),
        y=np.where(place % 5 == 4, np.nan, load), style=np.where(place % 2 == 1, -1, style),
        participant=walks.group_names("participant")[rows], participants=walks.coords["participant"],
        channels=walks.coords["channel"][channels], styles=walks.coords["style_class"], name="tiny", simulated=True,
    )  # fmt: skip
    sizes = {"z_dim": 2, "channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2, "width": 4,
             "fusion": "cross"}  # fmt: skip
    return data, {**sizes, "recon_weight": 1.0, "beta": 1.0, "encoder_width": 4, "encoder_depth": 1}


def recovery(seed: int) -> dict[str, float]:
    """Fit the default model to simulated gait of four fifths of the people, and score it on the others.

    Args:
        seed: Random seed for the data, the split and the fit.

    Returns:
        ``mae``, the mean absolute error of the load [lb], and ``accuracy`` of the style.
    """
    from .experiments.runs import table_run

    found = table_run("5: cross-attention, style", seed, 0, "quick")
    return {name: found[name] for name in ("mae", "accuracy")}


def read(
    path: str, rate: float | None = None, like: Batch | None = None, styles: tuple[str, ...] | None = None
) -> Batch:
    """Read trials for the command line.

    Args:
        path: Folder or npz file, see `readers.read`.
        rate: Must be None: files of trials state their own rate.
        like: Training data, whose number of steps and styles are used at prediction.
        styles: Names of the carrying styles, see `readers.read`.

    Raises:
        ValueError: A rate is given.
    """
    if rate is not None:
        raise ValueError("--rate: files of trials name their own rate; leave it out")
    if like is None:
        return readers.read(path, styles=styles)
    return readers.read(path, n_steps=like["x"].shape[1], styles=tuple(like.coords["style_class"]))


def tables(found: Fit, batch: Batch) -> dict[str, pd.DataFrame]:
    """Tables that the command line writes: load and style of every trial, by its file and line where it has them."""
    table = predict(found, batch)
    if "participant" not in table:
        table.insert(0, "participant", batch.group_names("participant"))
    return {"": table.reset_index()}


def features(batch: Batch) -> pd.DataFrame:
    """Summaries of every trial's departure from the walker's unloaded walk, (N, F), for simple methods."""
    from .experiments.probe import departures

    channels = batch.coords.get("channel", range(batch["x"].shape[2]))
    names = [f"{what} of {channel}" for what in ("mean", "log sd", "log step") for channel in channels]
    return pd.DataFrame(departures(batch)["summaries"], columns=names)


__all__ = [
    "CROSS_FITS", "DATASETS", "EXPERIMENTS", "GUIDES", "VARIANTS", "features", "read", "recovery", "tables", "tiny",
]  # fmt: skip
