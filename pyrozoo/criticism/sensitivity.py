"""How much posterior and predictions depend on a prior: its power, scale or family is changed without a refit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor
from tqdm.auto import tqdm

from ..data.batch import Batch
from ..inference.copies import isolated
from ..inference.fitted import Fit, Run
from ..modeling.priors import fit_to_site, moved, rescaled
from ..posterior.many import pairs
from ..posterior.sites import class_support, is_discrete, moments, plates_of
from ..posterior.target_draws import target_sites
from ..posterior.traces import Pair
from .importance import pareto_k

STEP = 0.01  # step of the power, for the sensitivity index
Ratio = Callable[[dist.Distribution, Tensor], Tensor]


@dataclass
class PriorSensitivity:
    """How the posterior of a site, and the predictions, change with the prior of that site; see `prior_sensitivity`.

    Attributes:
        latents: One line per changed prior, position and component: ``prior``, ``factor`` (NaN for a prior given by
            name), the position under its plate's name, ``component``, ``base_mean`` and ``base_sd`` as fitted,
            ``mean`` and ``sd`` under the changed prior, ``shift`` of the mean in units of ``base_sd``, ``shift_se``
            its Monte Carlo standard error, ``khat``, ``reliable``.
        predictions: One line per changed prior, row and component of a target, as if no target were observed: the
            same columns with ``target``, ``shift`` and ``shift_se`` in the units of the data, and ``shift_sd``, the
            shift in predictive sds (``base_sd``). The components of a discrete target are its classes, and the means
            their probabilities.
        index: Sensitivity by position (lines) and component (columns): how fast the posterior changes with the prior's
            power, as a cumulative Jensen-Shannon distance per doubling; from 0.05 on the prior matters. The distance
            is over the range of the draws: compare values at the same number of draws, and expect an error of some
            15 % with a few hundred draws.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=3, n_labelled=4, n_unlabelled=0)
        >>> fit = zoo.fit(zoo.create_model("ssmtl", train, width=16), "paper", train, steps=20, progress=False)
        >>> found = zoo.prior_sensitivity(fit, train, "c", factors=(0.5, 2.0), draws=100, progress=False)
        >>> found.latents["prior"].unique().tolist()
        ['power 0.5', 'power 2']
        >>> found.index.shape  # units, dimensions of the context
        (3, 4)
    """

    latents: pd.DataFrame
    predictions: pd.DataFrame
    index: pd.DataFrame


@dataclass
class _Weighed:
    """S draws of the site: values (S, P, E) at P positions, and log ratios (S, P), one for each changed prior."""

    plate: str
    values: Tensor
    ratios: dict[str, Tensor]


def prior_sensitivity(
    fit: Fit,
    batch: Batch,
    site: str | None = None,
    *,
    factors: Iterable[float] = (0.5, 2.0),
    scales: Iterable[float] = (),
    priors: Mapping[str, dist.Distribution] | None = None,
    draws: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> PriorSensitivity:
    """Change the prior of a site and see how its posterior and the predictions change, by reweighting draws (no refit).

    A draw of a position gets the weight p_new(value) / p(value), Pareto-smoothed (Kallioinen, Paananen, Buerkner,
    Vehtari 2024, "Detecting and diagnosing prior and likelihood sensitivity with power-scaling", which has
    p_new = p^factor, and the index; Vehtari, Simpson, Gelman, Yao, Gabry 2024, "Pareto smoothed importance sampling").
    The prior is changed at one position at a time, the others keep theirs; a row is predicted under the weights of its
    own group. If rows have no index into the site's plate, all positions are changed at once for the predictions.

    This is the local sensitivity of the posterior. Networks and guide stay as fitted, while a refit under another prior
    would also learn other networks. Reweighted draws keep the errors of the guide q that they come from, so a guide
    that is too narrow hides sensitivity (see `khat`). If the weights' own Pareto k is large, the changed posterior lies
    where q has no draws: ``reliable`` is False, and the line must not be used.

    Args:
        fit: The fit; its best restart is used.
        batch: Data to condition on and to predict.
        site: Name of a latent that the guide samples, outside all plates or along one; by default the first with a
            prior.
        factors: Powers of the prior: below 1 weaker, above 1 stronger.
        scales: Factors on the scale of a location-scale prior: above 1 wider.
        priors: Name -> another prior of the site; a scalar distribution is broadcast to the site's event shape.
        draws: Number S of draws of the guide, at least 100.
        seed: Random seed for the draws.
        progress: Whether to show a progress bar.

    Raises:
        KeyError: No latent of this name with a prior.
        TypeError: A value of `priors` is not a distribution.
        ValueError: Nothing to change, a factor that is not positive, a prior of another shape or support, `scales` for
            a prior without a scale, too few draws, a guide that holds the site at a point, a site along several plates.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=3, n_labelled=4, n_unlabelled=0)
        >>> fit = zoo.fit(zoo.create_model("ssmtl", train, width=16), "paper", train, steps=20, progress=False)
        >>> found = zoo.prior_sensitivity(fit, train, "c", scales=[2.0], factors=[], draws=100, progress=False)
        >>> wider = found.predictions[found.predictions["prior"] == "scale 2"]
        >>> wider[["row", "component", "shift", "reliable"]].shape  # how far the prediction of each row moves
        (12, 4)
    """
    known = [name for name in fit.model.priors() if name not in fit.model.enumerated]
    site = known[0] if site is None and known else site
    if site is None or site not in known:
        raise KeyError(f"site: {site!r} is no latent with a prior that the guide samples; there are {sorted(known)}")
    changed, order = _changed(site, factors, scales, priors or {})
    if draws < 100:
        raise ValueError(f"draws: {draws} are too few to weigh; use at least 100, better 500")
    with isolated(seed), torch.no_grad(), tqdm(total=2 * draws, disable=not progress, desc="prior", unit="draw") as bar:
        data = fit.prepare(batch)
        weighed, _ = _draw(fit.best, data, site, changed, draws, bar, targets=False)
        hidden = fit.prepare(batch.hide())
        predicting, moments = _draw(fit.best, hidden, site, changed, draws, bar, targets=True)
    names = _positions(data, weighed)
    latents, index = _latents(fit, weighed, site, names, order)
    return PriorSensitivity(latents, _predictions(fit, hidden, batch, predicting, moments, order), index)


# -------------------------------------------------------------------- changed priors and draws
def _changed(
    site: str, factors: Iterable[float], scales: Iterable[float], priors: Mapping[str, dist.Distribution]
) -> tuple[dict[str, Ratio], dict[str, float]]:
    """Label -> log density under the changed prior less that under the prior; and label -> factor."""
    changed: dict[str, Ratio] = {}
    order: dict[str, float] = {}
    for kind, values, ratio in (("power", factors, _powered), ("scale", scales, _scaled)):
        for factor in map(float, values):
            if not (np.isfinite(factor) and factor > 0):
                raise ValueError(f"{kind} {factor}: a factor is a positive number")
            changed[f"{kind} {factor:g}"], order[f"{kind} {factor:g}"] = ratio(factor), factor
    for name, prior in priors.items():
        if not isinstance(prior, dist.Distribution):
            raise TypeError(f"prior {name!r}: {type(prior).__name__} is no distribution")
        if name in changed:
            raise ValueError(f"prior {name!r}: the name is taken; choose another")
        changed[name], order[name] = _replaced(site, prior), np.nan
    if not changed:
        raise ValueError("nothing to change: give factors, scales or priors")
    return changed, order


def _powered(factor: float) -> Ratio:
    return lambda fn, value: (factor - 1) * fn.log_prob(value)


def _scaled(factor: float) -> Ratio:
    return lambda fn, value: rescaled(fn, factor).log_prob(value) - fn.log_prob(value)


def _replaced(site: str, prior: dist.Distribution) -> Ratio:
    def ratio(fn: dist.Distribution, value: Tensor) -> Tensor:
        own = fit_to_site(moved(prior, lambda parameter: parameter.to(value)), site, fn)
        return own.log_prob(value) - fn.log_prob(value)

    return ratio


def _draw(
    run: Run, data: Batch, site: str, changed: Mapping[str, Ratio], draws: int, bar: tqdm, *, targets: bool
) -> tuple[_Weighed, dict[str, tuple[Tensor, Tensor]]]:
    """Draws of the site with their log ratios, and of every target the mean and mean square (S, N, C) given each."""
    values: list[Tensor] = []
    ratios: dict[str, list[Tensor]] = {}
    moments: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for drawn in pairs(run.model, run.guide, data, draws):
        value, own = _site_values(drawn, site, changed)
        values.append(value)
        for label, ratio in own.items():
            ratios.setdefault(label, []).append(ratio)
        if targets and run.model.targets:
            for target, found in target_sites(run.model, drawn).items():
                moments.setdefault(target, []).append(_target_moments(drawn, found))
        bar.update(drawn.draws)
    plates = plates_of(drawn.model.nodes[site])
    weighed = _Weighed(plates[0] if plates else "", torch.cat(values), {k: torch.cat(v) for k, v in ratios.items()})
    stacked = {t: (torch.cat([one for one, _ in m]), torch.cat([two for _, two in m])) for t, m in moments.items()}
    return weighed, stacked


def _site_values(drawn: Pair, name: str, changed: Mapping[str, Ratio]) -> tuple[Tensor, dict[str, Tensor]]:
    """Values (S, P, E) of the site in S draws, and its log ratios (S, P) by label; label "" is the prior's power 2."""
    site = drawn.model.nodes[name]
    if len(plates_of(site)) > 1:
        raise ValueError(f"site: {name!r} lies along several plates {plates_of(site)}; only one is supported")
    value, fn = site["value"], site["fn"]
    ratios = {
        label: drawn.by_draw(site, scale_and_mask(ratio(fn, value), 1.0, site["mask"]), 0)
        for label, ratio in {**changed, "": _powered(2.0)}.items()
    }
    flat = {label: ratio.double().cpu().reshape(drawn.draws, -1) for label, ratio in ratios.items()}
    return drawn.by_draw(site).double().cpu().reshape(*flat[""].shape, -1), flat


def _target_moments(drawn: Pair, site: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and mean square (S, N, C) of a target given the latents; for classes, their indicators."""
    value, support = site["value"], class_support(site)
    if support is not None:
        hot = torch.nn.functional.one_hot(value.long(), len(support)).double()
        mean = second = drawn.by_draw(site, hot, site["fn"].event_dim + 1)
    else:
        if is_discrete(site):  # counts
            first, square = value.double(), value.double() ** 2
        else:
            first, square = moments(site["fn"], value, value.shape).double()
        mean, second = drawn.by_draw(site, first), drawn.by_draw(site, square)
    return mean.cpu().reshape(*mean.shape[:2], -1), second.cpu().reshape(*second.shape[:2], -1)


# -------------------------------------------------------------------- weights
def smoothed(log_ratios: Tensor) -> tuple[Tensor, np.ndarray]:
    """Pareto-smoothed weights of draws, and the shape k of their tail.

    The largest weights are replaced by the expected order statistics of the generalised Pareto distribution that fits
    them, cut at the largest raw weight (Vehtari et al. 2024).

    Args:
        log_ratios: Log importance ratios of S draws at P positions, shape (S, P).

    Returns:
        Weights of the same shape that sum to one over the draws, and k, shape (P,); -inf if there is no tail.
    """
    columns = [_smoothed_column(column) for column in log_ratios.double().cpu().T]
    return torch.stack([weights for weights, _ in columns], 1), np.array([k for _, k in columns])


def _smoothed_column(log_ratios: Tensor) -> tuple[Tensor, float]:
    weights = (log_ratios - log_ratios.max()).exp()
    k = pareto_k(log_ratios)
    if np.isfinite(k):
        n_tail = min(len(weights) // 5, int(3 * len(weights) ** 0.5))
        order = weights.argsort()
        tail, cut = order[-n_tail:], weights[order[-n_tail - 1]]
        _, sigma = fit_generalized_pareto(weights[tail] - cut)
        p = (torch.arange(n_tail, dtype=torch.double) + 0.5) / n_tail
        excess = -sigma * torch.log1p(-p) if abs(k) < 1e-12 else sigma / k * torch.expm1(-k * torch.log1p(-p))
        weights = weights.index_put((tail,), (cut + excess).clamp(max=1.0))
    return weights / weights.sum(), k


def cjs_distance(values: Tensor, weights: Tensor) -> Tensor:
    """Cumulative Jensen-Shannon distance between draws and the same draws weighed, in [0, 1].

    ::

        sqrt((CJS(P, Q) + CJS(Q, P)) / integral(P + Q)),
        CJS(P, Q) = integral(P log2(2 P / (P + Q))) + 1 / (2 ln 2) integral(Q - P),

    with the two empirical distribution functions P and Q over the range of the draws; the larger of this value and the
    same for the negated values (Kallioinen et al. 2024; Nguyen and Vreeken 2015).

    Args:
        values: Draws of L quantities, shape (S, L).
        weights: Weights of the draws, which sum to one over the draws, shape (S, L).

    Returns:
        Distances, shape (L,).
    """
    order = values.argsort(0)
    widths, sorted_weights = values.gather(0, order).diff(dim=0), weights.gather(0, order)
    n = len(values)
    forward = torch.arange(1, n, dtype=values.dtype)[:, None] / n, sorted_weights.cumsum(0)[:-1]
    return torch.maximum(_cjs(*forward, widths), _cjs(1 - forward[0], 1 - forward[1], widths))


def _cjs(p: Tensor, q: Tensor, widths: Tensor) -> Tensor:
    q = q.clamp(0, 1)
    middle = (p + q) / 2
    # The two integrals of Q - P cancel in the sum of both directions.
    both = torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)
    total = (both * widths).sum(0) / np.log(2)
    return (total.clamp(min=0) / ((p + q) * widths).sum(0)).sqrt()


def _sensitivity(weighed: _Weighed) -> np.ndarray:
    """Distance per doubling of the prior's power, a central difference at power one; shape (P, E)."""
    values = weighed.values.flatten(1)
    total = torch.zeros(values.shape[1], dtype=values.dtype)
    for power in (1 / (1 + STEP), 1 + STEP):  # close enough to one for weights without a tail to smooth
        weights = ((power - 1) * weighed.ratios[""]).softmax(0)
        total += cjs_distance(values, weights[:, :, None].expand(weighed.values.shape).flatten(1))
    return (total / (2 * np.log2(1 + STEP))).reshape(weighed.values.shape[1:]).numpy()


# -------------------------------------------------------------------- tables
def _latents(fit: Fit, weighed: _Weighed, site: str, names: pd.Index, order: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    base, spread = weighed.values.mean(0), weighed.values.std(0, unbiased=False)
    if not (spread > 0).any():
        raise ValueError(f"site: the guide holds {site!r} at a point, which no weights can move; use another guide")
    components = _components(fit, site, base.shape[1])
    parts = []
    for label, factor in order.items():
        weights, khat = smoothed(weighed.ratios[label])
        mean = (weights[:, :, None] * weighed.values).sum(0)
        sd = (weights[:, :, None] * (weighed.values - mean) ** 2).sum(0).sqrt()
        shift, error = _shift(weights[:, :, None], weighed.values, spread)
        columns = {
            "base_mean": base, "base_sd": spread, "mean": mean, "sd": sd, "shift": shift, "shift_se": error,
        }  # fmt: skip
        parts.append(_table({"prior": label, "factor": factor}, names, components, columns, khat, len(weights)))
    index = pd.DataFrame(_sensitivity(weighed), index=names, columns=pd.Index(components, name=site))
    return pd.concat(parts, ignore_index=True), index


def _predictions(
    fit: Fit, data: Batch, batch: Batch, weighed: _Weighed, moments: Mapping[str, tuple[Tensor, Tensor]], order: dict
) -> pd.DataFrame:
    rows = pd.Index(batch.names(batch.rows), name=batch.rows)
    place = _place_of_rows(data, weighed.plate)
    parts = [pd.DataFrame()]
    for label, factor in order.items():
        ratio = weighed.ratios[label]
        together = ratio.sum(1, keepdim=True)
        weights, khat = smoothed(together if place is None else ratio)
        at = torch.zeros(len(rows), dtype=torch.long) if place is None else place
        for target, (mean, second) in moments.items():
            base, base_sd = mean.mean(0), (second.mean(0) - mean.mean(0) ** 2).clamp(min=0).sqrt()
            own = weights[:, at, None]
            new = (own * mean).sum(0)
            sd = ((own * second).sum(0) - new**2).clamp(min=0).sqrt()
            shift, error = _shift(own, mean)
            columns = {
                "base_mean": base, "base_sd": base_sd, "mean": new, "sd": sd,
                "shift": shift, "shift_se": error, "shift_sd": shift / base_sd,
            }  # fmt: skip
            components = _components(fit, target, base.shape[1])
            heads = {"prior": label, "factor": factor, "target": target}
            parts.append(_table(heads, rows, components, columns, khat[at.numpy()], len(weights)))
    return pd.concat(parts, ignore_index=True)


def _shift(weights: Tensor, values: Tensor, spread: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted minus plain mean over S draws, and its standard error by the delta method; (S, P, E) to (P, E).

    Both are in units of `spread`, the draws' own standard deviation (P, E), if it is given.
    """
    base, mean = values.mean(0), (weights * values).sum(0)
    shift, centred = mean - base, values - base
    influence = weights * (values - mean) - centred / len(values)
    if spread is not None:
        shift = shift / spread
        influence = influence / spread - shift * ((centred / spread) ** 2 - 1) / (2 * len(values))
    return shift, influence.square().sum(0).sqrt()


def _table(
    heads: dict[str, Any], names: pd.Index, components: list, columns: dict[str, Tensor], khat: np.ndarray, draws: int
) -> pd.DataFrame:
    """One line per position and component; `columns` have shape (P, E), `khat` (P,)."""
    width = len(components)
    limit = min(0.7, 1 - 1 / np.log10(draws))  # Vehtari et al. 2024: S draws support no more
    return pd.DataFrame(
        {
            **heads,
            names.name: np.repeat(names.to_numpy(), width),
            "component": np.tile(np.asarray(components), len(names)),
            **{name: value.numpy().ravel() for name, value in columns.items()},
            "khat": np.repeat(khat, width),
            "reliable": np.repeat(khat <= limit, width),
        }
    )


def _positions(data: Batch, weighed: _Weighed) -> pd.Index:
    if not weighed.plate:
        return pd.Index(["all"], name="position")
    known = weighed.plate in data.sizes
    return pd.Index(data.names(weighed.plate) if known else range(weighed.values.shape[1]), name=weighed.plate)


def _place_of_rows(data: Batch, plate: str) -> Tensor | None:
    """Position of each row along the site's plate; None where rows have no index into it."""
    if not plate:
        return torch.zeros(data.n_rows, dtype=torch.long)
    if plate == data.rows:
        return torch.arange(data.n_rows)
    return data[plate].cpu() if plate in data.groups else None


def _components(fit: Fit, name: str, width: int) -> list:
    """Names of a site's components, or of a discrete target's classes; numbers if they have no names."""
    for dim in (*fit.model.dims.get(name, ()), f"{name}_class"):
        if len(names := fit.prototype.coords.get(dim, ())) == width:
            return list(names)
    return list(range(width))
