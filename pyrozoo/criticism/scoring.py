"""Scores of predictions: metrics, coverage, log predictive density, models side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from scipy.stats import kstest
from torch import Tensor

from ..data.batch import Batch, require_batch
from ..data.build import SEEN
from ..inference.copies import isolated
from ..inference.fitted import Fit
from ..inference.law import StudentLaw
from ..modeling.base import ZooModel
from ..modeling.hidden import of_entries
from ..posterior.columns import (
    classes,
    column,
    component_values,
    components,
    interval_names,
    is_discrete,
    probabilities,
    tails,
)
from ..posterior.drawing import prior_predictive
from ..posterior.many import pairs
from ..posterior.new_groups import ready
from ..posterior.predicting import Predicted, names_in, observed_target, predict_with_draws, restart_seed, target_sites
from ..posterior.traces import Pair, frames_of
from . import scores
from .arguments import labelled_in, target_of

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
    rows = {target: seen for target in fit.model.targets if (seen := _rows_with(test, target)).any()}
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
    laws, nll = _laws(fit, table, target, restart), np.full(len(seen), np.nan)
    truths = _truth(fit, test, target, np.ones(len(seen), bool))  # traces the model: once, not for every group
    if not laws:
        nll[seen] = -log_predictive(fit, test, target, draws=draws, seed=seed, restart=restart).to_numpy()

    def scores_of(kept: np.ndarray) -> dict[str, float]:
        truth = truths[kept]
        found = _number_scores(truth, table[kept], target, drawn, kept, seed)
        if not laws:
            return found | {"nll": float(nll[kept].mean())}
        if drawn is not None and drawn.inner is not None:
            density = _warped_law_scores(fit, laws, target, truth, drawn.inner, kept)
            return found | {"nll": -float(_known_sum(density, truth).mean())}
        crps, density = _law_scores(laws, truth, table[kept])
        return found | {
            "crps": float(crps[~np.isnan(truth)].mean()),
            "nll": -float(_known_sum(density, truth).mean()),
        }

    return scores_of


def _rows_with(test: Batch, target: str) -> np.ndarray:
    """Where a target is observed, (N,); nowhere in data that do not hold it."""
    return test.observed(target) if target in test.labels else np.zeros(test.n_rows, bool)


def _either(targets: list[str]) -> str:
    return " or ".join(map(repr, targets))


def _rows_to_score(test: Batch, target: str) -> np.ndarray:
    """Where a target is observed, (N,)."""
    seen = _rows_with(test, target)
    if not seen.any():
        raise ValueError(f"no row of the test data has its {target!r}, so there is nothing to score")
    return seen


def _laws(fit: Fit, table: pd.DataFrame, target: str, restart: int | None) -> dict[str, StudentLaw]:
    """The laws by which a fit predicts the components of a target of numbers; none if the predictions are its own."""
    parts = {} if fit.law is None or restart is not None else fit.law.parts
    found = {name: parts.get(name) for name in components(table, target)}
    return {name: law for name, law in found.items() if isinstance(law, StudentLaw)}


def _law_scores(laws: Mapping[str, StudentLaw], truth: np.ndarray, part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """CRPS and log density of the truth (N, J) under the laws, (N, J) each."""
    found = []
    for j, (name, law) in enumerate(laws.items()):
        error = truth[:, j] - part[column(name, "mean")].to_numpy()
        scale = law.scale_of(part[column(name, "sd")].to_numpy())
        found.append((law.crps(error, scale), law.log_density(error, scale)))
    crps, density = (np.stack(values, 1) for values in zip(*found, strict=True))
    return crps, density


def _warped_law_scores(
    fit: Fit, laws: Mapping[str, StudentLaw], target: str, truth: np.ndarray, by_law: Predicted, seen: np.ndarray
) -> np.ndarray:
    """Log density of the truth (n, J) in its own units under laws on the scale of the model's transform, (n, J)."""
    units = torch.as_tensor(truth)
    warp = fit.model.warp(target)
    scale = warp.inv(units)
    out = -warp.log_abs_det_jacobian(scale, units).numpy()
    mean, sd = by_law.exact[0].numpy()[seen], (by_law.exact[1] - by_law.exact[0] ** 2).clamp(min=0).sqrt().numpy()[seen]
    for j, law in enumerate(laws.values()):
        out[:, j] += law.log_density(scale[:, j].numpy() - mean[:, j], law.scale_of(sd[:, j]))
    return out


def _truth(fit: Fit, test: Batch, target: str, seen: np.ndarray) -> np.ndarray:
    """What the model observes of a target of numbers on the rows `seen`, (n, J); NaN in components that a row lacks."""
    value = observed_target(*ready(fit, test), target).double().cpu().numpy()[seen].reshape(seen.sum(), -1)
    entries = _entries(test, target)
    if np.isnan(value[test.observed(target)[seen]]).any():
        raise ValueError(f"target: the model observes values of {target!r} that are no numbers (NaN)")
    return value if entries is None else np.where(entries[seen], value, np.nan)


def _known_sum(density: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Sum over the components that each row has, (n,), of log densities (n, J) of the truth, NaN where unknown."""
    return np.where(np.isnan(truth), 0.0, density).sum(1)


def _entries(test: Batch, target: str) -> np.ndarray | None:
    """Which components (N, J) rows have of a target that some have in part; None where rows have all or none."""
    return test.known(target) if target + SEEN in test.tensors else None


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
    seen = _rows_to_score(test, target)
    table = table[seen]
    if is_discrete(table, target):
        raise ValueError(f"target: {target!r} is discrete and has no intervals; see metrics for its log loss")
    truth = _truth(fit, test, target, seen).ravel()
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
    seen = _rows_to_score(test, target)
    truth, values = _truth(fit, test, target, seen), own.movedim(0, -1).numpy()[seen]
    columns = {}
    for j, name in enumerate(names_in(fit, target, truth.shape[1])):
        known = ~np.isnan(truth[:, j])
        columns[name] = np.full(len(truth), np.nan)
        if known.any():
            columns[name][known] = scores.pit(truth[known, j], values[known, j], seed + j)
    return pd.DataFrame(columns, index=pd.Index(test.names(test.rows), name=test.rows)[seen])


def log_predictive(
    fit: Fit, test: Batch, target: str | None = None, *, draws: int = 200, seed: int = 0, restart: int | None = None
) -> pd.Series:
    """Log predictive density of each observed target given its row's inputs, in nats.

    ::

        log 1/(R S) sum_r sum_s p_r(y | x, latents_rs),   latents_rs ~ q_r(latents | x),   R restarts

    The targets themselves are hidden from the guide. An enumerated target has its exact probability given each draw.
    For a fit by `pyrozoo.cross_fitted` it is the density of its law, under which components are independent. Of a row
    that has some components of the target, it is the density of these.

    Args:
        fit: The fit; its restarts predict together, see `predict`.
        test: Labelled data that the fit has not seen.
        target: Name of the target; by default the model's first with a label in the data.
        draws: Number S of draws of the latents, per restart.
        seed: Random seed for the draws.
        restart: Position of the one restart that predicts; None for the mixture of all.

    Returns:
        One value per row where the target is observed, indexed by row name.

    Raises:
        ValueError: The model does not predict the target, or states no density of it; no row of `test` has its target.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import draw_labels
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> seen = draw_labels(data, 5, seed=0)  # the labels that the fit was trained on
        >>> test = data.subset(np.flatnonzero(~seen)[::40])
        >>> density = zoo.log_predictive(fit, test, "y", draws=50)
        >>> density.name, density.shape
        ('log p(y)', (222,))
    """
    require_batch("test", test)
    target = target_of(fit.model, target, labelled_in(test))
    if target not in fit.model.targets:
        raise ValueError(f"target: {target!r} is not predicted by this model; its targets are {fit.model.targets}")
    if hasattr(fit.model, "predict"):
        raise ValueError(
            f"target: {type(fit.model).__name__} predicts {target!r} by itself and states no density of it row by row; "
            "use metrics, or log_density for whole rows (compare: target=None)"
        )
    seen = _rows_to_score(test, target)
    if fit.law is not None and restart is None:
        table, drawn = predict_with_draws(fit, test, draws=draws, seed=seed, quantiles=())
        table, inner = table[seen], drawn[target].inner
        laws = _laws(fit, table, target, None)
        if laws and inner is not None:
            truths = _truth(fit, test, target, seen)
            warped = _known_sum(_warped_law_scores(fit, laws, target, truths, inner, seen), truths)
            return pd.Series(warped, index=table.index, name=f"log p({target})")
        if (by_law := _log_law(fit, test, table, target, seen)) is not None:
            return pd.Series(by_law, index=table.index, name=f"log p({target})")
    terms: list[Tensor] = []
    for place, run in fit.chosen(restart):
        with isolated(restart_seed(seed, place)), torch.no_grad():
            (run, data), (_, whole) = ready(fit, test.hide(), run), ready(fit, test, run)
            truth = whole[target] if target in run.model.enumerated else observed_target(run, whole, target)
            entries = _entries(test, target)
            asked: dict[str, Any] = {"targets_only": True, "hidden": run.model.targets} if run.model.enumerated else {}
            terms += [
                _log_target(part, run.model, target, truth, entries)
                for part in pairs(run.model, run.guide, data, draws, **asked)
            ]
    if terms[0].dim() != 2:
        raise ValueError(
            f"target: {target!r} has no one density per {test.rows}, because it lies along further plates; see "
            "log_density for whole rows"
        )
    values = torch.cat(terms).double()
    density = values.logsumexp(0) - np.log(len(values))
    index = pd.Index(test.names(test.rows), name=test.rows)
    return pd.Series(density.cpu().numpy(), index=index, name=f"log p({target})")[seen]


def _log_law(fit: Fit, test: Batch, table: pd.DataFrame, target: str, seen: np.ndarray) -> np.ndarray | None:
    """Log density (n,) of the truth in the rows `seen` under the fit's law; None if it has none for this target."""
    if laws := _laws(fit, table, target, None):
        truth = _truth(fit, test, target, seen)
        return _known_sum(_law_scores(laws, truth, table)[1], truth)
    if is_discrete(table, target) and fit.law is not None and target in fit.law.parts:
        codes = test[target].cpu().numpy()[seen].reshape(-1).astype(int)
        return np.log(np.maximum(probabilities(table, target)[np.arange(len(table)), codes], np.finfo(float).tiny))
    return None


def _log_target(part: Pair, model: ZooModel, target: str, truth: Tensor, entries: np.ndarray | None) -> Tensor:
    """Log density (draws, N) of a target's true values given the latents, rows' enumerated latents summed out.

    With `entries`, (N, J), that of the components that each row has.
    """
    if target in model.enumerated:
        return part.log_conditional(target, truth)
    site = part.target(target) if model.enumerated else target_sites(model, part)[target]
    known = None if entries is None else _in_shape(torch.as_tensor(entries).to(truth.device), site, model.rows)
    density = of_entries(site["fn"], known).log_prob(_in_shape(truth, site, model.rows))
    return part.log_given(site, density) if model.enumerated else part.by_draw(site, density, 0)


def _in_shape(truth: Tensor, site: Mapping[str, Any], rows: str) -> Tensor:
    """Values (N, ...) along the row plate of a site and in its event shape, which broadcasting would not give."""
    dim = next((dim for dim, plate in frames_of(site).items() if plate == rows), -1)
    return truth.reshape(len(truth), *(1,) * (-1 - dim), *site["fn"].event_shape)


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
