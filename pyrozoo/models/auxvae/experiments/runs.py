"""One run of an experiment as a job: plain arguments in, plain numbers out."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ....criticism.latent import latent_report
from ....criticism.scores import accuracy, coverage, crps_samples, mae
from ....data.batch import Batch
from ....experiments.running import defaults_of
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....modeling import registry
from ....posterior.columns import column, interval_names, tails
from ....posterior.predicting import predict_with_draws
from ..data.batches import participant_folds
from ..data.simulator import simulate
from ..gait_model import FIXED_SCALES, GaitModel
from ..model import whole_training

# The rows of table 2, each a configuration of the one model; the last is not in the paper.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "1: no x_aux, no style": {"variant": "load-only", "fusion": "none"},
    "2: no x_aux, style": {"variant": "auxvae", "fusion": "none"},
    "3: concatenation, style": {"variant": "auxvae", "fusion": "concat"},
    "4: cross-attention, no style": {"variant": "load-only", "fusion": "cross"},
    "5: cross-attention, style": {"variant": "auxvae", "fusion": "cross"},
    "6: difference from cross-attention, style": {
        "variant": "auxvae", "fusion": "cross", "attention_residual": "difference",
    },
}  # fmt: skip
ENCODERS = {"LSTM": "lstm", "TCN": "tcn", "Transformer": "transformer", "Informer": "informer", "TimesNet": "timesnet"}
BASELINES: Mapping[str, Mapping[str, Any]] = {
    **{f"{name}, x_aux and style": {"variant": "sequence", "encoder": e} for name, e in ENCODERS.items()},
    **{name: {"variant": "sequence-load-only", "encoder": e, "use_aux": False} for name, e in ENCODERS.items()},
}
# A walker compared with himself: the defaults, by name.
DEPARTURE: Mapping[str, Any] = {"fusion": "departure", "channels": (16, 12), "d_model": 16}
DEPARTURES: Mapping[str, Mapping[str, Any]] = {
    "departure, style": {"variant": "auxvae", **DEPARTURE},
    "departure, no style": {"variant": "load-only", **DEPARTURE},
}
# The same with features that are learned.
LEARNED: Mapping[str, Mapping[str, Any]] = {
    "learned departure, style": {"variant": "auxvae", **DEPARTURE, "fusion": "learned-departure"}
}
MODELS = {**SETTINGS, **DEPARTURES, **LEARNED, **BASELINES}


def step_decay(progress: float) -> float:
    """Return the factor of the paper's learning rate: 0.1 after every fifth of training (every 100 of 500 epochs)."""
    return 0.1 ** int(min(progress, 1 - 1e-9) * 5)


# The paper's sizes and loss, which profile "paper" fits. The text gives no unit of the absolute error of the load:
# PAPER_LOSS takes standard deviations of the training loads, PAPER_LOSS_LB lb, in which its tables are.
PAPER_SIZES: Mapping[str, Any] = {"z_dim": 128, "channels": (256, 128), "d_model": 64, "heads": 4, "segments": 16}
PAPER_LOSS: Mapping[str, Any] = {"x_likelihood": "mse", "y_likelihood": "mae", "recon_weight": None, "beta": 1.0}
PAPER_LOSS_LB: Mapping[str, Any] = {**PAPER_LOSS, "y_likelihood": "mae_lb"}
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "data": {"n_participants": 4, "n_steps": 40, "duration_s": 5.0}, "folds": 2,
        "sizes": {"z_dim": 3, "channels": (6, 5), "d_model": 4, "heads": 2, "segments": 2},
        "encoder": {"encoder_width": 8}, "settings": {"epochs": 2},
    },
    "quick": {"data": {"n_steps": 120, "duration_s": 10.0}, "folds": 5,
              "sizes": {"channels": (48, 32), "d_model": 32}, "encoder": {}, "settings": {}},
    "paper": {
        "data": {"n_steps": 800, "duration_s": 20.0}, "folds": 22, "sizes": {**PAPER_SIZES, **PAPER_LOSS_LB},
        "encoder": {"encoder_width": 64, "y_likelihood": "mae_lb"},
        "settings": {"epochs": 500, "batch_size": 128, "lr": 1e-3, "schedule": step_decay},
        "latent": {"anneal": whole_training},
    },
}  # fmt: skip


def arguments_of(model: str, profile: str, loss: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """Return the variant and constructor arguments of a row of the tables."""
    own = dict(MODELS[model])
    variant, sizes = own.pop("variant"), PROFILES[profile]["encoder" if model in BASELINES else "sizes"]
    extra = {} if model in BASELINES else dict(loss or {})
    return variant, {**sizes, **own, **extra}


def settings_of(model: str, profile: str) -> dict[str, Any]:
    """Return the settings of the fit of a row of the tables."""
    return {**PROFILES[profile]["settings"], **({} if model in BASELINES else PROFILES[profile].get("latent", {}))}


def configuration(models: Iterable[str], profile: str) -> dict[str, str]:
    """Describe each row's model and settings of the fit in words, as part of an experiment's identity."""
    out = {}
    for model in models:
        variant, arguments = arguments_of(model, profile)
        family = registry.entry("auxvae").parts.VARIANTS[variant]
        settings = {**family.fit_defaults, **settings_of(model, profile)}
        plain = {k: getattr(v, "__name__", None) or repr(v).replace("<class ", "") for k, v in settings.items()}
        out[model] = f"{variant} {sorted({**defaults_of(family), **arguments}.items())} {sorted(plain.items())}"
    return out


@functools.lru_cache(maxsize=6)
def data_of(seed: int, profile: str, gait: str = "linear") -> Batch:
    """Return the simulated trials of one seed, with loads of one kind of effect (`GAITS`)."""
    return simulate(seed=seed, gait=gait, **PROFILES[profile]["data"])


def fold_of(seed: int, fold: int, profile: str, gait: str = "linear") -> tuple[Batch, Batch]:
    """Return the training and test trials of one fold; no participant is in both."""
    return _folds_of(seed, profile, gait)[fold]


@functools.lru_cache(maxsize=6)
def _folds_of(seed: int, profile: str, gait: str) -> list[tuple[Batch, Batch]]:
    return participant_folds(data_of(seed, profile, gait), PROFILES[profile]["folds"], seed=seed)


def fitted(
    model: str, train: Batch, profile: str, seed: int = 0, guide: str | None = None,
    loss: Mapping[str, Any] | None = None, **settings: Any,
) -> Fit:  # fmt: skip
    """Fit a row of the tables to data, on a GPU where there is one."""
    own, usual = made(model, train, profile, loss)
    guide = guide or ("none" if model in BASELINES else "paper")
    return fit(own, guide, train, seed=seed, progress=False, **{**usual, **settings})


def made(
    model: str, train: Batch, profile: str, loss: Mapping[str, Any] | None = None
) -> tuple[GaitModel, dict[str, Any]]:
    """Make the model of a row of the tables for data, and return the settings of its fit."""
    variant, arguments = arguments_of(model, profile, loss)
    device = "cuda" if torch.cuda.is_available() else None
    own = registry.create_model("auxvae", train, variant=variant, **arguments)
    return own, {**settings_of(model, profile), "device": device}


def table_run(
    model: str, seed: int, fold: int, profile: str, guide: str | None = None,
    loss: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None, save: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit one row of a table to the training people of one fold and score the others.

    Args:
        model: Row of the table, a key of `MODELS`.
        seed: Random seed of the simulated data.
        fold: Index of the fold of participants that is left out.
        profile: Key of `PROFILES`.
        guide: Name of the guide; None takes the row's.
        loss: Further constructor arguments of the model, e.g. `PAPER_LOSS`.
        settings: Further settings of the fit.
        save: Folder for the fit; None does not save it.

    Returns:
        mae [lb], accuracy of the style where it is predicted, cover50, cover80, cover90, width90 [lb], crps [lb],
        active (units of z), kl [nats per trial], seconds.
    """
    started = time.perf_counter()
    train, test = fold_of(seed, fold, profile)
    found = fitted(model, train, profile, seed, guide, loss, **(settings or {}))
    seconds = round(time.perf_counter() - started, 2)
    if save is not None:
        found.save(Path(save), overwrite=True)
    return scored(found, test, seed) | {"seconds": seconds}


def scored(found: Fit, test: Batch, seed: int = 0, draws: int = 200, latent: bool = True) -> dict[str, Any]:
    """Score a fit on trials of other people; see `table_run`. `latent`: with active units and KL of z."""
    levels = (0.5, 0.8, 0.9)
    quantiles = tuple(sorted(q for level in levels for q in tails(level)))
    table, drawn = predict_with_draws(found, test, draws=draws, seed=seed, quantiles=quantiles)
    truth = test["y"].cpu().numpy().astype(float)
    out: dict[str, Any] = {"mae": mae(truth, table["y.mean"].to_numpy())}
    if "style.label" in table:
        names = test.coords["style_class"][test["style"].cpu().numpy()]
        out["accuracy"] = accuracy(names, table["style.label"].to_numpy())
    if found.model.y_likelihood not in FIXED_SCALES:
        for level in levels:
            bounds = [table[column("y", end)].to_numpy() for end in interval_names(level)]
            out[f"cover{round(100 * level)}"] = coverage(truth, *bounds)
        values = drawn["y"].values
        assert values is not None  # loads are numbers
        out["crps"] = crps_samples(truth, values[..., 0].T.cpu().numpy())
        out["width90"] = float((table["y.q95"] - table["y.q05"]).mean())
    if latent and "z" in found.model.row_sites:
        report = latent_report(found, test, "z", draws=5, seed=seed)
        out |= {"active": report.active, "kl": float(report.table["kl"].sum(skipna=False))}
    return out
