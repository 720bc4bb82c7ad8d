"""Predictive checks: does data drawn from the model look like the data?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..data.batch import Batch
from ..inference.fitted import Fit
from ..modeling.base import ZooModel
from ..posterior.drawing import draw, prior_predictive
from ..posterior.draws import Draws


def ppc(
    fits: Fit | ZooModel | Mapping[str, Fit | ZooModel], data: Batch, *, draws: int = 200, seed: int = 0,
    against: str = "posterior", sites: list[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Predictive checks: does data drawn from the model look like the data, in these statistics?

    For every observed site and component: mean, sd, minimum, maximum, and lag-one difference (sd of successive rows'
    differences: what a model of exchangeable rows misses). ``p`` is the share of replications with a larger statistic,
    ties by half: near 0 or 1 is a misfit. Frames of ragged recordings are one component, "all", end to end.

    Args:
        fits: A fit, or several by name; models too where `against` is "prior".
        data: The data to resemble.
        draws: Replications.
        seed: Of the draws.
        against: "posterior", data drawn given the posterior of the latents; or "prior", given their priors
            (`prior_predictive`), where a p near 0 or 1 says that the priors put the data at an edge.
        sites: Observed sites to check; all by default (a long signal has a line for each of its numbers).
    """
    if against not in ("posterior", "prior"):
        raise ValueError(f"against: {against!r} is neither 'posterior' nor 'prior'")
    fits = fits if isinstance(fits, Mapping) else {"fit": fits}
    rows = []
    for name, fit in fits.items():
        if against == "posterior" and not isinstance(fit, Fit):
            raise ValueError(f"{name!r} is a model without a fit, which has no posterior; use against='prior'")
        function = draw if against == "posterior" else prior_predictive
        drawn = function(fit, data, draws=draws, seed=seed, sites=sites, restarts=False)
        for site in drawn.groups.get("observed_data", {}):
            rows += [{"model": name, "site": site, **line} for line in _check_site(drawn, site, against)]
    return pd.DataFrame(rows)


def _check_site(drawn: Draws, site: str, against: str) -> list[dict[str, Any]]:
    statistics = {
        "mean": np.mean, "sd": np.std, "min": np.min, "max": np.max,
        "lag-1 sd": lambda values, axis: np.std(np.diff(values, axis=axis), axis=axis),
    }  # fmt: skip
    observed, replicated = drawn.groups["observed_data"][site], drawn.groups[f"{against}_predictive"][site][0]
    finite = np.isfinite(observed).reshape(len(observed) if observed.ndim else 1, -1)
    ragged = bool((finite.any(1) & ~finite.all(1)).any())  # rows observed in part are padded recordings
    width = 1 if ragged else finite.shape[1]
    observed, replicated = observed.reshape(-1, width), replicated.reshape(len(replicated), -1, width)
    labels = drawn.coords.get(drawn.dims[site][-1], np.arange(width)) if drawn.dims[site] else np.arange(width)
    lines = []
    for j in range(width):
        seen = np.isfinite(observed[:, j])
        if not seen.any():
            continue
        for label, statistic in statistics.items():
            if label == "lag-1 sd" and seen.sum() < 3:
                continue  # one difference has no spread
            value, values = statistic(observed[seen, j], axis=0), statistic(replicated[:, seen, j], axis=1)
            component = "all" if ragged else labels[j] if width == len(labels) else j
            lines.append(
                {"component": component, "statistic": label, "observed": value, "replicated": values.mean(),
                 "p": float((values > value).mean() + 0.5 * (values == value).mean())}
            )  # fmt: skip
    return lines
