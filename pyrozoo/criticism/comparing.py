"""Models side by side on held-out data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..data.batch import Batch, require_batch
from ..inference.fitted import Fit
from ..posterior.drawing import prior_predictive
from .arguments import labelled_in, target_of
from .predictive_density import log_predictive


def compare(
    fits: Mapping[str, Fit], test: Batch, target: str | None = "", *, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Models side by side on held-out log predictive density, best first.

    Args:
        fits: Name -> fit.
        test: Held-out rows.
        target: Name of the target to predict, by default the first that all models predict; None for whole rows, i.e.
            all their observed values together (`pyrozoo.log_density`). Whole rows can be compared only between models
            of the same values: a model of x and y and a model of x alone have densities of different things. If only
            the targets differ, ``test.hide()`` restricts the comparison to the rest.
        draws: Number of draws per fit.
        seed: Random seed for the draws.

    Returns:
        One line per fit: elpd (sum over rows, nats), se, difference from the best, and se_difference (paired over
        rows).

    Raises:
        ValueError: No fit; a target that a model does not predict; with None, models of different observed values.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=10, n_unlabelled=0, n_test=20)
        >>> model = zoo.create_model("ssmtl", train, width=16)
        >>> fits = {
        ...     "2 steps": zoo.fit(model, "paper", train, steps=2, progress=False),
        ...     "60 steps": zoo.fit(model, "paper", train, steps=60, progress=False),
        ... }
        >>> table = zoo.compare(fits, test, draws=50)
        >>> table.columns.to_list()
        ['elpd', 'se', 'difference', 'se_difference']
        >>> table.index[0]  # the fit that predicts y best
        '60 steps'
    """
    require_batch("test", test)
    if not fits:
        raise ValueError("fits: there is none to compare")
    if target == "":
        shared = set(filter(labelled_in(test), test.labels)).intersection(*(fit.model.targets for fit in fits.values()))
        target = target_of(next(iter(fits.values())).model, None, shared.__contains__)
    if target is None:
        from .importance import log_density

        _same_values(fits, test)
        pointwise = {name: log_density(fit, test, draws=draws, seed=seed).to_numpy() for name, fit in fits.items()}
    else:
        pointwise = {
            name: log_predictive(fit, test, target, draws=draws, seed=seed).to_numpy() for name, fit in fits.items()
        }
    best = max(pointwise, key=lambda name: pointwise[name].sum())

    def error(values: np.ndarray) -> float:
        return float(np.sqrt(len(values)) * values.std(ddof=1)) if len(values) > 1 else float("nan")

    rows = {
        name: {
            "elpd": values.sum(),
            "se": error(values),
            "difference": (values - pointwise[best]).sum(),
            "se_difference": error(values - pointwise[best]),
        }
        for name, values in pointwise.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("elpd", ascending=False)


def _same_values(fits: Mapping[str, Fit], test: Batch) -> None:
    """Require that all models give a density to the same values of the rows."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, fit in fits.items():
        data = prior_predictive(fit, test, draws=1, restarts=False).groups.get("observed_data", {})
        found[name] = {site: v for site, v in data.items() if np.isfinite(v).any()}
        for site in fit.model.enumerated:  # seen labels enter as a factor, not as an observed site
            if site in test.labels and test.observed(site).any():
                found[name][site] = np.where(test.observed(site), 0.0, np.nan)
    first = next(iter(found))
    for name, values in found.items():
        if values.keys() != found[first].keys():
            raise ValueError(
                f"target=None: {first!r} explains {sorted(found[first])} and {name!r} {sorted(values)}, and densities "
                "of different values cannot be compared; give a target that both predict, or hide what only one "
                "explains (test.hide())"
            )
        for site, value in values.items():
            other = found[first][site]
            if value.shape != other.shape or not np.array_equal(np.isnan(value), np.isnan(other)):
                raise ValueError(f"target=None: {first!r} and {name!r} observe {site!r} at different places")
