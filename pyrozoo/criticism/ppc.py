"""Predictive checks: does data drawn from the model look like the data?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    The statistics of every component of an observed site are mean, sd, minimum, maximum, and lag-1 sd (sd of the
    differences between successive rows, which a model of exchangeable rows misses). ``p`` is the share of replicated
    data sets with a larger statistic, ties counted half: near 0 or 1 is a misfit. The frames of recordings of unequal
    lengths are joined into one component, "all". Classes with names have the share of each, and the share of "changes"
    from row to row.

    Args:
        fits: A fit, or several by name; models too if `against` is "prior".
        data: The observed data.
        draws: Number of replicated data sets.
        seed: Random seed for the draws.
        against: "posterior" for data drawn given the posterior of the latents; "prior" for data drawn given their
            priors (`prior_predictive`), where a p near 0 or 1 says that the priors put the data at an edge.
        sites: Names of the observed sites to check; all by default (a long signal has a line for each of its numbers).

    Returns:
        One line per model, site, component and statistic: ``model``, ``site``, ``component``, ``statistic``,
        ``observed``, ``replicated`` (mean over the replications) and ``p``.

    Raises:
        ValueError: An unknown `against`, or a model without a fit if `against` is "posterior".

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> table = zoo.ppc(fit, data, draws=50, sites=["y"])
        >>> table["statistic"].to_list()
        ['mean', 'sd', 'min', 'max', 'lag-1 sd']
        >>> float(table.set_index("statistic").loc["min", "p"])  # all replications have tank levels below the least, 0
        0.0
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
            names = data.coords.get(f"{site}_class")
            lines = _check_site(drawn, site, against) if names is None else _check_classes(drawn, site, against, names)
            rows += [{"model": name, "site": site, **line} for line in lines]
    return pd.DataFrame(rows)


def _check_site(drawn: Draws, site: str, against: str) -> list[dict[str, Any]]:
    statistics: dict[str, Callable[..., Any]] = {
        "mean": np.mean, "sd": np.std, "min": np.min, "max": np.max,
        "lag-1 sd": lambda values, axis: np.std(np.diff(values, axis=axis), axis=axis),
    }  # fmt: skip
    observed, replicated = drawn.groups["observed_data"][site], drawn.groups[f"{against}_predictive"][site][0]
    finite = np.isfinite(observed).reshape(len(observed) if observed.ndim else 1, -1)
    named = len(drawn.coords.get(drawn.dims[site][-1], ())) == finite.shape[1] if drawn.dims[site] else False
    ragged = not named and bool((finite.any(1) & ~finite.all(1)).any())  # rows seen in part are padded recordings
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


def _check_classes(drawn: Draws, site: str, against: str, names: np.ndarray) -> list[dict[str, Any]]:
    """Share of each class, and of successive values that differ; of rows, or of the frames of recordings end to end."""
    observed = drawn.groups["observed_data"][site]
    replicated = drawn.groups[f"{against}_predictive"][site][0]
    seen = np.isfinite(observed).ravel()
    observed, replicated = observed.ravel()[seen], replicated.reshape(len(replicated), -1)[:, seen]
    statistics = [(str(name), "share", observed == k, replicated == k) for k, name in enumerate(names)]
    if len(observed) > 2:
        statistics.append(("all", "changes", np.diff(observed) != 0, np.diff(replicated, axis=1) != 0))
    lines = []
    for component, statistic, own, others in statistics:
        value, values = own.mean(), others.mean(1)
        p = float((values > value).mean() + 0.5 * (values == value).mean())
        lines.append(
            {"component": component, "statistic": statistic, "observed": value, "replicated": values.mean(), "p": p}
        )
    return lines
