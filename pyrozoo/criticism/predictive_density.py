"""Log predictive density of observed targets: by the draws of a fit, or by its law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.batch import Batch, require_batch
from ..inference.copies import isolated
from ..inference.fitted import Fit
from ..inference.law import StudentLaw
from ..modeling.base import ZooModel
from ..modeling.hidden import of_entries
from ..posterior.columns import column, components, is_discrete, probabilities
from ..posterior.many import pairs
from ..posterior.new_groups import ready
from ..posterior.predicting import predict_with_draws, restart_seed
from ..posterior.target_draws import Predicted, observed_target, target_sites
from ..posterior.traces import Pair, frames_of
from .arguments import labelled_in, target_of
from .truths import entries_of, known_sum, rows_to_score, truth_of


def laws_of(fit: Fit, table: pd.DataFrame, target: str, restart: int | None) -> dict[str, StudentLaw]:
    """The laws by which a fit predicts the components of a target of numbers; none if the predictions are its own."""
    parts = {} if fit.law is None or restart is not None else fit.law.parts
    found = {name: parts.get(name) for name in components(table, target)}
    return {name: law for name, law in found.items() if isinstance(law, StudentLaw)}


def law_scores(laws: Mapping[str, StudentLaw], truth: np.ndarray, part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """CRPS and log density of the truth (N, J) under the laws, (N, J) each."""
    found = []
    for j, (name, law) in enumerate(laws.items()):
        error = truth[:, j] - part[column(name, "mean")].to_numpy()
        scale = law.scale_of(part[column(name, "sd")].to_numpy())
        found.append((law.crps(error, scale), law.log_density(error, scale)))
    crps, density = (np.stack(values, 1) for values in zip(*found, strict=True))
    return crps, density


def warped_law_scores(
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
    seen = rows_to_score(test, target)
    if fit.law is not None and restart is None:
        table, drawn = predict_with_draws(fit, test, draws=draws, seed=seed, quantiles=())
        table, inner = table[seen], drawn[target].inner
        laws = laws_of(fit, table, target, None)
        if laws and inner is not None:
            truths = truth_of(fit, test, target, seen)
            warped = known_sum(warped_law_scores(fit, laws, target, truths, inner, seen), truths)
            return pd.Series(warped, index=table.index, name=f"log p({target})")
        if (by_law := _log_law(fit, test, table, target, seen)) is not None:
            return pd.Series(by_law, index=table.index, name=f"log p({target})")
    terms: list[Tensor] = []
    for place, run in fit.chosen(restart):
        with isolated(restart_seed(seed, place)), torch.no_grad():
            (run, data), (_, whole) = ready(fit, test.hide(), run), ready(fit, test, run)
            truth = whole[target] if target in run.model.enumerated else observed_target(run, whole, target)
            entries = entries_of(test, target)
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
    if laws := laws_of(fit, table, target, None):
        truth = truth_of(fit, test, target, seen)
        return known_sum(law_scores(laws, truth, table)[1], truth)
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
