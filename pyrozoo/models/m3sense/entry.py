"""Parts of the entry that the registry, the contract and the command line read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...data.batch import Batch
from ...files import naming
from ...inference.fitted import Fit
from ...posterior.predicting import predict
from .data.batches import channels, features_of, modalities
from .data.features import scale_of, with_features
from .data.simulator import simulate_all
from .data.window_files import read_windows
from .generative import DomainGenerative, Generative
from .guides import GUIDES
from .model import LatentM3Sense, M3Sense, Unaligned

VARIANTS = {
    "m3sense": M3Sense, "latent": LatentM3Sense, "generative": Generative, "generative-domain": DomainGenerative,
    "unaligned": Unaligned,
}  # fmt: skip
DATASETS = {"simulated": simulate_all}
# How `pyrozoo fit` cross-fits: for new people, by fits that leave people out and predict together.
CROSS_FITS: dict[str, Any] = {"by": "subject", "inputs": False, "restarts": 0, "repeats": 1}
_FOLDER = f"{__package__}.experiments"
EXPERIMENTS = {
    "table2": f"{_FOLDER}.tables:table2_experiment",
    "table4": f"{_FOLDER}.tables:table4_experiment",
    "table5": f"{_FOLDER}.tables:table5_experiment",
    "table6": f"{_FOLDER}.sizes:table6_experiment",
    "table7": f"{_FOLDER}.sizes:table7_experiment",
    "figure7": f"{_FOLDER}.figure7:figure7_experiment",
    "figure8": f"{_FOLDER}.tables:figure8_experiment",
    "stress-predict": f"{_FOLDER}.stress:stress_predict_experiment",
    "clock": f"{_FOLDER}.clock:clock_experiment",
    "techniques": f"{_FOLDER}.techniques:techniques_experiment",
    "alignment": f"{_FOLDER}.alignment:alignment_experiment",
    "calibration": f"{_FOLDER}.alignment:calibration_experiment",
    "reference": f"{_FOLDER}.reference:reference_experiment",
}


def tiny(seed: int = 0) -> tuple[Batch, dict[str, Any]]:
    """Simulate small windows of all five sets, on which the contract runs; returns them and model arguments."""
    windows = simulate_all(seed, n_subjects=1, n_windows=4, seconds=5.0, rates={"bvp": 8, "eda": 4, "temp": 4})
    sizes = {"embedding": 16, "lstm_layers": 1, "hidden": (24, 16), "head": 8, "a_dim": 2, "q_hidden": 16, "gamma": 1.0}
    return windows.subset(np.arange(windows.n_rows)), sizes


def read(path: str, rate: float | None = None, like: Batch | None = None) -> Batch:
    """Read windows for the command line by `read_windows`; at prediction, with the classes of the training data.

    Handcrafted features are added, which the networks read then. Signals are not standardised here: the file says
    whether they are, and at prediction they must be standardised as the training data are.

    Args:
        path: Path of an npz file of windows.
        rate: None: a file of windows names its own rates.
        like: At prediction, a row of the training data.

    Raises:
        ValueError: A rate was given; the path is a folder; there are no labels to learn from; at prediction, the
            windows differ from the training data in modalities, samples, rates or standardisation.
    """
    if rate is not None:
        raise ValueError("--rate: a file of windows names its own rates, rates_<modality>; leave it out")
    if Path(path).is_dir():
        raise ValueError(
            f"{path}: a folder, whose kind of recordings is not guessed; read it in Python, by read_e4, read_wesad, "
            "read_kemocon, read_verbio, read_nurses or read_stress_predict of pyrozoo.models.m3sense, and cut it by "
            "windows; or give an npz file of windows"
        )
    if like is None:
        batch = read_windows(path)
        if not batch.labels:
            raise ValueError(f"{path}: there is no array label_<task>, so there is nothing to learn; add one")
        return with_features(batch)
    tasks = [target.removeprefix("y_") for target in like.labels]
    batch = read_windows(path, classes={task: tuple(like.coords[f"y_{task}_class"].tolist()) for task in tasks})
    with naming(path):
        _require_alike(batch, like)
    return with_features(batch, scale_of(like)) if features_of(like) else batch


def _require_alike(batch: Batch, like: Batch) -> None:
    """Raise ValueError if windows differ from the training data in modalities, samples, rates or standardisation."""
    for name in modalities(like):
        if name not in modalities(batch):
            raise ValueError(f"there is no array {name!r}, only {modalities(batch)}; the fit needs {modalities(like)}")
        mine, others = batch[name].shape[1], like[name].shape[1]
        if mine != others:
            raise ValueError(f"array {name!r}: {mine} samples in a window, but {others} in training; cut windows alike")
        mine, others = (channels(data).get(name, ["one"]) for data in (batch, like))
        if mine != others:
            raise ValueError(f"array {name!r}: its channels are {mine}, but {others} in training; give the same")
        mine, others = (data.info.get("rates", {}).get(name) for data in (batch, like))
        if mine is not None and others is not None and mine != others:
            raise ValueError(f"array 'rates_{name}': {mine:g} Hz, but {others:g} Hz in training; resample the windows")
    mine, others = (data.info.get("standardised") for data in (batch, like))
    if mine != others:
        said = {None: "are not standardised", "subject": "are standardised by person"}
        mine, others = (said.get(by, f"are standardised by {by}") for by in (mine, others))
        raise ValueError(
            f"array 'standardised': the signals {mine}, but those of the training data {others}; treat both alike "
            "(pyrozoo.models.m3sense.standardise) and say so in the file"
        )


def recovery(seed: int) -> dict[str, float]:
    """Recovery on simulated signals: labels from the latents, scored on the half of the people who were left out.

    Returns:
        Balanced accuracy of ``anxiety`` and ``stress``; emotion can hardly be told from these signals (`simulator`).
    """
    from .experiments.runs import TASKS, deep_run

    found = deep_run("latent (CAM)", TASKS, seed, "quick")
    return {task: found[f"{task}.balanced_accuracy"] for task in ("anxiety", "stress")}


def tables(found: Fit, batch: Batch) -> dict[str, pd.DataFrame]:
    """Tables that the command line writes: per window the person, its times, and labels and probabilities by task."""
    table = predict(found, batch)
    table = table.drop(columns="subject", errors="ignore")
    people = batch.group_names("subject")
    if len(batch.coords["dataset_class"]) == 1:
        people = np.array([name.partition("/")[2] for name in people.tolist()])  # as the file calls them
    table.insert(0, "subject", people)
    return {"": table.reset_index()}


def features(batch: Batch) -> pd.DataFrame:
    """Handcrafted summaries of the signals of every window, (N, F), for simple methods."""
    from .experiments.baselines import handcrafted

    values, names = handcrafted(batch)
    return pd.DataFrame(values, columns=names)


__all__ = [
    "CROSS_FITS", "DATASETS", "EXPERIMENTS", "GUIDES", "VARIANTS", "features", "read", "recovery", "tables", "tiny"
]  # fmt: skip
