"""Probes of the latent space and the features: what they tell about load and style of people not in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ....criticism.latent import latent_report
from ....criticism.scores import accuracy, r2
from ....data.batch import Batch
from ....inference.fitted import Fit
from ..data.batches import check_disjoint

STAGES = ("loaded walk", "unloaded walk", "fused")


def latent_probes(fit: Fit, train: Batch, test: Batch, *, draws: int = 20, seed: int = 0) -> dict[str, Any]:
    """Predict load and style from posterior means of z by linear models, trained on some people, tested on others.

    Args:
        fit: Fit of a model with a latent z.
        train: Trials to train the linear models on, with known load and style.
        test: Trials of other people to test them on, with known load and style.
        draws: Number of posterior draws per trial for the posterior means.
        seed: Random seed for the draws.

    Returns:
        ``load_r2``, the R2 of a linear prediction of the load; ``load_rank``, Spearman's correlation between load and
        prediction (1 if loads line up in order); ``style_accuracy`` of a linear classifier; and of z in the test
        trials: ``active`` (number of active units), ``collapsed`` (1.0 or 0.0) and ``kl`` (nats per trial; NaN if the
        guide is no diagonal normal).

    Raises:
        ValueError: A load or style is unknown, or a person is in both parts.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import latent_probes, participant_folds, simulate
        >>> fit = zoo.load_reference("auxvae/simulated")
        >>> train, test = participant_folds(simulate(seed=1, n_participants=4), folds=2)[0]
        >>> found = latent_probes(fit, train, test, draws=5)
        >>> list(found)
        ['load_r2', 'load_rank', 'style_accuracy', 'active', 'collapsed', 'kl']
        >>> found["style_accuracy"] > 0.5
        True
    """
    _require_known(train, test)
    reports = [latent_report(fit, part, "z", draws=draws, seed=seed) for part in (train, test)]
    z, z_test = (report.means.to_numpy() for report in reports)
    load, load_test = (part["y"].cpu().numpy() for part in (train, test))
    style, style_test = (part["style"].cpu().numpy() for part in (train, test))
    position = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))).fit(z, load).predict(z_test)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z, style)
    table = reports[1].table
    return {
        "load_r2": r2(load_test, position), "load_rank": float(spearmanr(load_test, position).statistic),
        "style_accuracy": accuracy(style_test, classifier.predict(z_test)), "active": reports[1].active,
        "collapsed": float(reports[1].collapsed), "kl": float(table["kl"].sum(skipna=False)),
    }  # fmt: skip


def _require_known(train: Batch, test: Batch) -> None:
    check_disjoint(train, test)
    for part in (train, test):
        for target in ("y", "style"):
            if not part.observed(target).all():
                raise ValueError(f"{target}: unknown on some trials; give those where it is known (Batch.subset)")


def features(fit: Fit, batch: Batch) -> dict[str, np.ndarray]:
    """Compute features over time before and after fusion (figure 6).

    Args:
        fit: Fit whose guide fuses by cross-attention.
        batch: Trials.

    Returns:
        Features by stage: "loaded walk" (N, T', D), "unloaded walk" (N, T0', D) and "fused" (N, T', D).

    Raises:
        ValueError: The guide does not fuse by cross-attention.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import features, simulate
        >>> fit = zoo.load_reference("auxvae/simulated")
        >>> {stage: h.shape for stage, h in features(fit, simulate(seed=1, n_participants=2)).items()}
        {'loaded walk': (32, 30, 32), 'unloaded walk': (32, 30, 32), 'fused': (32, 30, 32)}
    """
    encoder = getattr(fit.guide, "encoder", None)
    if encoder is None or encoder.fusion != "cross":
        raise ValueError("fit: features before and after attention need a fit with fusion='cross'")
    data = fit.prepare(batch)
    with torch.no_grad():
        x, x_aux, participant = data["x"], data["x_aux"], data["participant"]
        walks = fit.model.standardise(x, x_aux, participant), fit.model.standardise(x_aux, x_aux)
        before, after = encoder.sequences(*walks, participant)
    return dict(zip(STAGES, (h.cpu().numpy() for h in (*before, after[0])), strict=True))


def feature_probes(fit: Fit, train: Batch, test: Batch) -> dict[str, float]:
    """R2 of a linear prediction of the load from the time-averaged features of each stage, tested on other people.

    Args:
        fit: Fit whose guide fuses by cross-attention.
        train: Trials to train the linear models on, with known load and style.
        test: Trials of other people to test them on, with known load and style.

    Returns:
        R2 by stage, see `features`.

    Raises:
        ValueError: A load or style is unknown, a person is in both parts, or the guide does not fuse by
            cross-attention.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import feature_probes, participant_folds, simulate
        >>> fit = zoo.load_reference("auxvae/simulated")
        >>> train, test = participant_folds(simulate(seed=1, n_participants=4), folds=2)[0]
        >>> list(feature_probes(fit, train, test))
        ['loaded walk', 'unloaded walk', 'fused']
    """
    _require_known(train, test)
    found: Mapping[str, np.ndarray] = features(fit, train)
    other = features(fit, test)
    load, load_test = (part["y"].cpu().numpy() for part in (train, test))
    out = {}
    for stage in STAGES:
        probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))).fit(found[stage].mean(1), load)
        out[stage] = r2(load_test, probe.predict(other[stage].mean(1)))
    return out
