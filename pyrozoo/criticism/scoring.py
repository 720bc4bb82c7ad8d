"""Scores of predictions: metrics, coverage, probability integral transforms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from scipy.stats import kstest

from ..data.batch import Batch, require_batch
from ..inference.fitted import Fit
from ..posterior.columns import (
    classes,
    column,
    component_values,
    interval_names,
    is_discrete,
    probabilities,
    tails,
)
from ..posterior.predicting import names_in, predict_with_draws
from ..posterior.target_draws import Predicted
from . import scores
from .arguments import labelled_in, target_of
from .predictive_density import law_scores, laws_of, log_predictive, warped_law_scores
from .truths import known_sum, rows_to_score, rows_with, truth_of

LEVELS = (50, 80, 90)


# -------------------------------------------------------------------- predictions
@overload
def metrics(
    fit: Fit, test: Batch, *, by: None = None, draws: int = 200, seed: int = 0, restart: int | None = None
) -> dict[str, float]: ...


@overload
def metrics(
    fit: Fit, test: Batch, *, by: str, draws: int = 200, seed: int = 0, restart: int | None = None
) -> pd.DataFrame: ...


def metrics(
    fit: Fit, test: Batch, *, by: str | None = None, draws: int = 200, seed: int = 0, restart: int | None = None
) -> dict[str, float] | pd.DataFrame:
    """Scores of the predictions on the rows of `test` whose targets are observed, in the units of the data.

    Of a target with several components that some rows have in part, the components that a row has are scored.

    Numbers: rmse, mae, r2 (share of the variance that is explained), mape (percent of each truth), crps_draws (CRPS of
    the predictive draws, which varies with the seed), nll (of the predictive mixture, nats per row), cover50, cover80,
    cover90; several components are pooled, and r2 is the mean of theirs. On the whole real line also crps (of a normal
    with the predictive mean and sd); for counts, whose intervals cover more than they say, also pit_ks (distance of the
    randomised PIT from a uniform distribution, from 0 to 1, see `pit`). Classes: accuracy, balanced_accuracy, macro_f1,
    log_loss, brier, ece (calibration of the most probable class, see `scores.reliability`). With a fit by
    `pyrozoo.cross_fitted`, crps and nll are those of its law, exactly.

    A score that is not defined on the rows is left out: mape where a truth is 0, r2 where there are fewer than two
    rows or the truths are all the same.

    The truth is what the model observes of the target, where its site holds something else than the batch, e.g. a
    logarithm.

    Args:
        fit: The fit; its restarts predict together, see `predict`.
        test: Labelled data that the fit has not seen; their targets are hidden from the guide.
        by: Name of a group of `test`, e.g. "unit", for the scores of each; None for all rows together.
        draws: Number of draws of the latents, per restart.
        seed: Random seed for the draws.
        restart: Position of the one restart that predicts; None for the mixture of all.

    Returns:
        Value of each score, by ``<target>.<score>``. With `by`, a table with one line per group that has rows, and
        beside the scores ``<target>.rows``, the number of rows that are scored; a score that is not defined on the rows
        of a group is NaN. A target without labels in `test` is left out, and the log of pyrozoo says so.

    Raises:
        ValueError: No row of `test` has any of the model's targets, or `by` is no group of `test`.
        TypeError: `test` is no Batch.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import draw_labels
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> seen = draw_labels(data, 5, seed=0)  # the labels that the fit was trained on
        >>> test = data.subset(np.flatnonzero(~seen)[::40])
        >>> list(zoo.metrics(fit, test, draws=50))  # no mape, as some levels are 0
        ['y.rmse', 'y.mae', 'y.r2', 'y.crps', 'y.crps_draws', 'y.cover50', 'y.cover80', 'y.cover90', 'y.nll']
        >>> int(zoo.metrics(fit, test, by="unit", draws=50)["y.rows"].sum()) == test.n_rows
        True
    """
    require_batch("test", test)
    rows = {target: seen for target in fit.model.targets if (seen := rows_with(test, target)).any()}
    without = [target for target in fit.model.targets if target not in rows]
    if without and not rows:
        raise ValueError(f"no row of the test data has its {_either(without)}, so there is nothing to score")
    table, drawn = predict_with_draws(fit, test, draws=draws, seed=seed, quantiles=_quantiles(LEVELS), restart=restart)
    if without:
        logging.getLogger("pyrozoo").warning(
            "metrics: no row of the test data has its %s, so it has no scores", _either(without)
        )
    members = {None: torch.ones_like(test[test.rows], dtype=torch.bool)} if by is None else _members(test, by)
    out: dict[Any, dict[str, float]] = {group: {} for group in members}
    for target, seen in rows.items():
        score = _scorer(fit, test, target, table, drawn.get(target), seen, draws, seed, restart)
        for group, own in members.items():
            kept = seen & test.per_entry(target, own).cpu().numpy()
            found = score(kept) if kept.any() else {}
            found = found if by is None else {"rows": int(kept.sum()), **found}
            out[group] |= {f"{target}.{name}": value for name, value in found.items()}
    return out[None] if by is None else pd.DataFrame(list(out.values()), pd.Index(list(out), name=by))


def _members(test: Batch, by: str) -> dict[Any, torch.Tensor]:
    """Which rows (N,) are of each group that has rows."""
    if by not in test.groups:
        raise ValueError(f"by: {by!r} is no group of the test data, which have {list(test.groups)}")
    names, position = test.names(by), test[by]
    return {names[i]: position == i for i in position.unique().tolist()}


def _scorer(
    fit: Fit, test: Batch, target: str, table: pd.DataFrame, drawn: Predicted | None, seen: np.ndarray, draws: int,
    seed: int, restart: int | None,
) -> Callable[[np.ndarray], dict[str, float]]:  # fmt: skip
    """A function of a choice (N,) among the rows whose target is seen, which returns their scores."""
    if is_discrete(table, target):
        truth = test[target].cpu().numpy()
        return lambda kept: _discrete_scores(truth[kept], table[kept], target)
    laws, nll = laws_of(fit, table, target, restart), np.full(len(seen), np.nan)
    truths = truth_of(fit, test, target, np.ones(len(seen), bool))  # traces the model: once, not for every group
    if not laws:
        nll[seen] = -log_predictive(fit, test, target, draws=draws, seed=seed, restart=restart).to_numpy()

    def scores_of(kept: np.ndarray) -> dict[str, float]:
        truth = truths[kept]
        found = _number_scores(truth, table[kept], target, drawn, kept, seed)
        if not laws:
            return found | {"nll": float(nll[kept].mean())}
        if drawn is not None and drawn.inner is not None:
            density = warped_law_scores(fit, laws, target, truth, drawn.inner, kept)
            return found | {"nll": -float(known_sum(density, truth).mean())}
        crps, density = law_scores(laws, truth, table[kept])
        return found | {
            "crps": float(crps[~np.isnan(truth)].mean()),
            "nll": -float(known_sum(density, truth).mean()),
        }

    return scores_of


def _either(targets: list[str]) -> str:
    return " or ".join(map(repr, targets))


def _quantiles(levels: Iterable[float]) -> tuple[float, ...]:
    """Quantiles at the ends of the central intervals of levels in percent."""
    return tuple(sorted({q for level in levels for q in tails(level / 100)}))


def _ends(table: pd.DataFrame, target: str, level: float) -> list[np.ndarray]:
    """Ends of the central intervals of a level in percent, with all components in one column."""
    return [component_values(table, target, end).ravel() for end in interval_names(level / 100)]


def _number_scores(
    truth: np.ndarray, part: pd.DataFrame, target: str, drawn: Predicted | None, seen: np.ndarray, seed: int
) -> dict[str, float]:
    """Scores from the truth (n, J), the table of the n predictions, and the draws of all rows behind it."""
    columns, means = truth.reshape(len(part), -1).T, component_values(part, target, "mean").reshape(len(part), -1).T
    truth, mean = truth.reshape(-1), means.T.ravel()
    known = ~np.isnan(truth)
    truth, mean = truth[known], mean[known]
    of_columns = [(own[~np.isnan(own)], guess[~np.isnan(own)]) for own, guess in zip(columns, means, strict=True)]
    of_columns = [(own, guess) for own, guess in of_columns if len(own)]
    out = {"rmse": scores.rmse(truth, mean), "mae": scores.mae(truth, mean)}
    if all(np.ptp(own) > 0 for own, _ in of_columns):
        out["r2"] = float(np.mean([scores.r2(own, guess) for own, guess in of_columns]))
    if (truth != 0).all():
        out["mape"] = scores.mape(truth, mean)
    kind = "real" if drawn is None else drawn.kind
    if kind == "real":
        out["crps"] = scores.crps_normal(truth, mean, component_values(part, target, "sd").ravel()[known])
    if drawn is not None and drawn.values is not None:
        values = drawn.values.movedim(0, -1).numpy()[seen].reshape(len(known), -1)[known]
        out["crps_draws"] = scores.crps_samples(truth, values)
        if kind == "counts":
            out["pit_ks"] = float(kstest(scores.pit(truth, values, seed), "uniform").statistic)
    for level in LEVELS:
        out[f"cover{level}"] = scores.coverage(truth, *(end[known] for end in _ends(part, target, level)))
    return out


def _discrete_scores(truth: np.ndarray, part: pd.DataFrame, target: str) -> dict[str, float]:
    names, label = classes(part, target), part[column(target, "label")].astype(str).to_numpy()
    truth = np.asarray(names)[truth.reshape(-1).astype(int)]
    functions = {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_f1": scores.macro_f1,
    }
    out = {name: function(truth, label) for name, function in functions.items()}
    for name, score in (("log_loss", scores.log_loss), ("brier", scores.brier), ("ece", scores.ece)):
        out[name] = score(truth, probabilities(part, target), names)
    return out


def coverage(
    fit: Fit,
    test: Batch,
    *,
    target: str | None = None,
    levels: tuple[int, ...] = LEVELS,
    draws: int = 200,
    seed: int = 0,
    restart: int | None = None,
) -> pd.DataFrame:
    """Share of observed targets inside the central predictive intervals, and the intervals' mean width.

    Args:
        fit: The fit; its restarts predict together, see `predict`.
        test: Labelled data that the fit has not seen; their targets are hidden from the guide.
        target: Name of a continuous target; by default the model's first with a label in the data. Several
            components are pooled.
        levels: Nominal coverages, in percent.
        draws: Number of draws of the latents, per restart.
        seed: Random seed for the draws.
        restart: Position of the one restart that predicts; None for the mixture of all.

    Returns:
        One line per level: ``nominal`` and ``empirical`` coverage, both in [0, 1], and ``width``, in the unit of the
        target.

    Raises:
        ValueError: The target is discrete.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import draw_labels
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> seen = draw_labels(data, 5, seed=0)  # the labels that the fit was trained on
        >>> test = data.subset(np.flatnonzero(~seen)[::40])
        >>> table = zoo.coverage(fit, test, levels=(50, 90), draws=50)
        >>> table.columns.to_list()
        ['nominal', 'empirical', 'width']
        >>> bool((table["empirical"] < table["nominal"]).all())  # too narrow: calibrate them by zoo.conformal
        True
    """
    require_batch("test", test)
    table = predict_with_draws(fit, test, draws=draws, seed=seed, quantiles=_quantiles(levels), restart=restart)[0]
    labelled = labelled_in(test)
    target = target_of(fit.model, target, lambda name: labelled(name) and not is_discrete(table, name))
    seen = rows_to_score(test, target)
    table = table[seen]
    if is_discrete(table, target):
        raise ValueError(f"target: {target!r} is discrete and has no intervals; see metrics for its log loss")
    truth = truth_of(fit, test, target, seen).ravel()
    known = ~np.isnan(truth)
    truth, rows = truth[known], []
    for level in levels:
        low, high = (end[known] for end in _ends(table, target, level))
        rows.append(
            {
                "nominal": level / 100,
                "empirical": scores.coverage(truth, low, high),
                "width": float(np.mean(high - low)),
            }
        )
    return pd.DataFrame(rows)


def pit(fit: Fit, test: Batch, target: str | None = None, *, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Probability integral transform of observed targets of numbers: uniform on [0, 1] if predictions are calibrated.

    The share of predictive draws below the truth; ties, the rule for counts, are split at random (the randomised PIT of
    Czado, Gneiting and Held 2009), so that counts are uniform, too. A U shape says that the predictions are too sure, a
    hump that they are too unsure.

    Args:
        fit: The fit; its restarts predict together, see `predict`.
        test: Labelled data that the fit has not seen; their targets are hidden from the guide.
        target: Name of a target of numbers; by default the model's first with a label in the data.
        draws: Number of draws of the latents.
        seed: Random seed for the draws, and for ties.

    Returns:
        One line per row where the target is observed and one column per component, named as in `predict`; NaN where a
        row lacks the component.

    Raises:
        ValueError: The target is one of classes, or the model predicts it by itself without draws.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import draw_labels
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> seen = draw_labels(data, 5, seed=0)  # the labels that the fit was trained on
        >>> u = zoo.pit(fit, data.subset(np.flatnonzero(~seen)[::40]), draws=50)["y"]
        >>> bool(((u < 0.1) | (u > 0.9)).mean() > 0.2)  # too sure: see the coverage
        True
    """
    require_batch("test", test)
    drawn, labelled = predict_with_draws(fit, test, draws=draws, seed=seed, quantiles=(0.5,))[1], labelled_in(test)
    target = target_of(fit.model, target, lambda name: labelled(name) and drawn[name].values is not None)
    own = drawn[target].values if target in drawn else None
    if own is None:
        raise ValueError(f"target: {target!r} has no draws of numbers; see `scores.reliability` for classes")
    seen = rows_to_score(test, target)
    truth, values = truth_of(fit, test, target, seen), own.movedim(0, -1).numpy()[seen]
    columns = {}
    for j, name in enumerate(names_in(fit, target, truth.shape[1])):
        known = ~np.isnan(truth[:, j])
        columns[name] = np.full(len(truth), np.nan)
        if known.any():
            columns[name][known] = scores.pit(truth[known, j], values[known, j], seed + j)
    return pd.DataFrame(columns, index=pd.Index(test.names(test.rows), name=test.rows)[seen])
