"""What the latent space and the features say about load and style, on people who were not in training."""

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
    """Probes of posterior means of z, learned on the training people and scored on the others.

    Args:
        fit: A fit with a latent z.
        train: Trials whose load and style are known.
        test: Trials of other people.
        draws: Draws for the posterior means.
        seed: Of the draws.

    Returns:
        load_r2: share of the load's variance along one linear direction of z; load_rank: Spearman's correlation of the
        load with the position along it (1: loads line up in order); style_accuracy: of a linear classifier of z; active
        (units), collapsed, kl [nats per trial; NaN of a guide that is no diagonal normal].

    Raises:
        ValueError: A load or style is unknown, or a person is in both parts.
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
    """Features over time before and after fusion (figure 6), by stage: (N, T', D) each, unloaded ones (N, T0', D).

    Raises:
        ValueError: The guide does not fuse by cross-attention.
    """
    encoder = getattr(fit.guide, "encoder", None)
    if encoder is None or encoder.fusion != "cross":
        raise ValueError("fit: features before and after attention need a fit with fusion='cross'")
    data = fit.prepare(batch)
    with torch.no_grad():
        walks = (fit.model.standardise(data[name]) for name in ("x", "x_aux"))
        before, after = encoder.sequences(*walks, data["participant"])
    return dict(zip(STAGES, (h.cpu().numpy() for h in (*before, after[0])), strict=True))


def feature_probes(fit: Fit, train: Batch, test: Batch) -> dict[str, float]:
    """Share of the load's variance that a linear map of the time-averaged features tells on other people, by stage.

    Raises:
        ValueError: As of `latent_probes` and `features`.
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
