"""Checks of a fit: predictive checks, coverage, latent space, simulation-based calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from . import scores
from .base import ZooModel
from .batch import FRAMES, Batch
from .drawing import Draws, draw, predict, prior_predictive, quantile_name, sums_out_by_row, target_sites
from .fitting import Fit, build, isolated, run_seed
from .guides import with_support
from .traces import pair
from .training import Settings, Training

LEVELS = (50, 80, 90)


# -------------------------------------------------------------------- predictions
def metrics(fit: Fit, test: Batch, *, draws: int = 200, seed: int = 0) -> dict[str, float]:
    """Scores of the predicted targets on the rows of `test` where they are observed, in the units of the data.

    Continuous: rmse, mae, crps (of a normal with the predictive mean and sd), nll (of the predictive mixture, per
    row), cover50, cover80, cover90; several components are pooled. Discrete:
    accuracy, balanced_accuracy, macro_f1, log_loss, ece (calibration of the most probable class; `scores.reliability`
    is its table). Named ``<target>.<score>``.
    """
    levels = sorted({q / 100 for level in LEVELS for q in _bounds(level)})
    table = predict(fit, test, draws=draws, seed=seed, quantiles=tuple(levels))
    out: dict[str, float] = {}
    for target in fit.model.targets:
        seen = test.observed(target)
        if not seen.any():
            raise ValueError(f"no row of the test data has its {target!r}, so there is nothing to score")
        truth, part = test[target].cpu().numpy()[seen], table[seen]
        if f"{target}.label" in table:
            out |= _discrete_scores(target, truth, part)
        else:
            nll = -log_predictive(fit, test, target, draws=draws, seed=seed).to_numpy()
            out |= _continuous_scores(target, truth, part) | {f"{target}.nll": float(nll.mean())}
    return out


def _bounds(level: float) -> tuple[float, float]:
    return (100 - level) / 2, (100 + level) / 2


def _columns(table: pd.DataFrame, target: str, name: str) -> np.ndarray:
    """All components of one prediction of a target, row by row: ``y.mean``, or ``y[a].mean``, ``y[b].mean`` ..."""
    own = [c for c in table if c == f"{target}.{name}" or (c.startswith(f"{target}[") and c.endswith(f"].{name}"))]
    return table[own].to_numpy().ravel()


def _continuous_scores(target: str, truth: np.ndarray, part: pd.DataFrame) -> dict[str, float]:
    truth, mean = truth.reshape(-1), _columns(part, target, "mean")
    out = {"rmse": scores.rmse(truth, mean), "mae": scores.mae(truth, mean)}
    out["crps"] = scores.crps_normal(truth, mean, _columns(part, target, "sd"))
    for level in LEVELS:
        low, high = (_columns(part, target, quantile_name(q / 100)) for q in _bounds(level))
        out[f"cover{level}"] = scores.coverage(truth, low, high)
    return {f"{target}.{name}": value for name, value in out.items()}


def _discrete_scores(target: str, truth: np.ndarray, part: pd.DataFrame) -> dict[str, float]:
    probabilities = part[[c for c in part if c.startswith(f"{target}.p[")]].to_numpy()
    classes = [c[len(target) + 3 : -1] for c in part if c.startswith(f"{target}.p[")]
    truth, label = np.asarray(classes)[truth.reshape(-1).astype(int)], part[f"{target}.label"].astype(str).to_numpy()
    functions = {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_f1": scores.macro_f1,
    }
    out = {name: function(truth, label) for name, function in functions.items()}
    for name, score in (("log_loss", scores.log_loss), ("ece", scores.ece)):
        out[name] = score(truth, probabilities, classes)
    return {f"{target}.{name}": value for name, value in out.items()}


def coverage(
    fit: Fit, test: Batch, *, target: str = "y", levels: tuple[int, ...] = LEVELS, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Share of observed targets inside the central predictive intervals, and the intervals' mean width."""
    quantiles = tuple(sorted({q / 100 for level in levels for q in _bounds(level)}))
    seen = test.observed(target)
    table = predict(fit, test, draws=draws, seed=seed, quantiles=quantiles)[seen]
    if f"{target}.label" in table:
        raise ValueError(f"target: {target!r} is discrete and has no intervals; see metrics for its log loss")
    truth = test[target].cpu().numpy()[seen].reshape(-1)
    rows = []
    for level in levels:
        low, high = (_columns(table, target, quantile_name(q / 100)) for q in _bounds(level))
        rows.append(
            {
                "nominal": level / 100,
                "empirical": scores.coverage(truth, low, high),
                "width": float(np.mean(high - low)),
            }
        )
    return pd.DataFrame(rows)


def log_predictive(fit: Fit, test: Batch, target: str = "y", *, draws: int = 200, seed: int = 0) -> pd.Series:
    """Log predictive density of each observed target given its row's inputs: log of the mean over draws; nats.

    The targets themselves are hidden from the guide. An enumerated target has its exact probability given each draw.
    """
    if target not in fit.model.targets:
        raise ValueError(f"target: {target!r} is not predicted by this model; its targets are {fit.model.targets}")
    if hasattr(fit.model, "predict"):
        raise ValueError(
            f"target: {type(fit.model).__name__} predicts {target!r} by itself and states no density of it row by row; "
            "use metrics, or log_density for whole rows (compare: target=None)"
        )
    seen = test.observed(target)
    if not seen.any():
        raise ValueError(f"no row of the test data has its {target!r}, so there is nothing to score")
    with isolated(seed), torch.no_grad():
        data, truth = fit.prepare(test.hide()), fit.prepare(test)[target]
        arguments = fit.model.arguments(data)
        sums_out = sums_out_by_row(fit.best, arguments)
        terms = [_log_target(fit, arguments, target, truth, sums_out) for _ in range(draws)]
        density = torch.stack(terms).double().logsumexp(0) - np.log(draws)
    index = pd.Index(test.names(test.rows), name=test.rows)
    return pd.Series(density.cpu().numpy(), index=index, name=f"log p({target})")[seen]


def _log_target(fit: Fit, arguments: Mapping[str, Any], target: str, truth: Tensor, sums_out: bool) -> Tensor:
    """Log density of a target's true values given one draw of the latents, enumerated ones of the rows summed out."""
    if not sums_out:
        return target_sites(fit.best, arguments)[target]["fn"].log_prob(truth)
    drawn = pair(fit.model, fit.guide, arguments, targets_only=True)
    if target in fit.model.enumerated:
        return drawn.log_conditional(target, truth)
    return drawn.sum_out(drawn.log_weights() + drawn.target(target)["fn"].log_prob(truth))


def compare(
    fits: Mapping[str, Fit], test: Batch, target: str | None = "y", *, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Models side by side on held-out log predictive density, best first.

    Args:
        fits: Name -> fit.
        test: Held-out rows.
        target: The target to predict; None for whole rows, i.e. all their observed values together
            (`pyrozoo.importance.log_density`). Whole rows can be compared only between models of the same values: one
            of x and y and one of x alone have densities of different things. Where only the targets differ,
            ``test.hide()`` restricts the comparison to the rest.
        draws: Draws per fit.
        seed: Of the draws.

    Returns:
        Columns elpd (sum over rows, nats), se, difference from the best, and se_difference (paired over rows).

    Raises:
        ValueError: A target that a model does not predict; with None, models of different observed values.
    """
    if not fits:
        raise ValueError("fits: there is none to compare")
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


# -------------------------------------------------------------------- latent space
@dataclass
class LatentReport:
    """What a latent site does.

    Attributes:
        table: One line per dimension: spread (variance over positions of the posterior mean), sd (mean posterior
            standard deviation), kl (mean KL from the prior, nats; NaN unless guide and prior are normal), active
            (spread > 0.01).
        means: Posterior means, one line per plate position.
        probes: Share of variance of each truth that a linear map of the means explains in cross-validation.
    """

    table: pd.DataFrame
    means: pd.DataFrame
    probes: pd.Series

    @property
    def active(self) -> int:
        """Number of active dimensions."""
        return int(self.table["active"].sum())

    @property
    def collapsed(self) -> bool:
        """Whether the guide ignores the data: no dimension is active."""
        return self.active == 0


def latent_report(fit: Fit, data: Batch, site: str = "z", *, draws: int = 50, seed: int = 0) -> LatentReport:
    """Active units, KL per dimension, collapse, and linear probes of what is known about the truth.

    Probes use every entry of ``data.truth`` that lies along the site's plate.
    """
    means: list[Tensor] = []
    variances: list[Tensor] = []
    divergences: list[Tensor] = []
    with isolated(seed), torch.no_grad():
        batch = fit.prepare(data)
        for _ in range(draws):
            drawn = pair(fit.model, fit.guide, batch, targets_only=True)
            if site not in drawn.guide.nodes:
                raise KeyError(f"{site!r} is no latent of the guide; it samples {drawn.guide.stochastic_nodes}")
            # An AutoGuide puts the density on the unconstrained value, which is the value itself on the real line.
            real = _is_real(drawn.model.nodes[site]["fn"].support)
            holder = f"{site}_unconstrained" if real and f"{site}_unconstrained" in drawn.guide.nodes else site
            mean, variance = _moments(drawn.guide.nodes[holder])
            means.append(mean)
            variances.append(variance)
            divergence = _kl_by_dimension(drawn.guide.nodes[holder]["fn"], drawn.model.nodes[site]["fn"])
            if divergence.dim() > mean.dim():  # the prior depends on an enumerated site: the mean over its posterior
                divergence = (drawn.log_weights().exp()[..., None] * divergence).sum(0)
            divergences.append(divergence.expand_as(mean))
        # Law of total variance: other latents differ between draws, and a Delta has no variance of its own.
        sds = (torch.stack(variances).mean(0) + torch.stack(means).var(0)).sqrt()
        kls = torch.stack(divergences).mean(0)
    mean, sd, kl = (v.reshape(len(v), -1).cpu().numpy() for v in (torch.stack(means).mean(0), sds, kls))
    plate = next((f.name for f in drawn.guide.nodes[site]["cond_indep_stack"] if f.vectorized), None)
    if plate is None:
        raise ValueError(
            f"site: {site!r} lies along no plate, so it has no spread over positions; see draw or to_arviz"
        )
    spread = mean.var(0)
    table = pd.DataFrame({"spread": spread, "sd": sd.mean(0), "kl": kl.mean(0), "active": spread > 0.01})
    names = pd.Index(batch.names(plate), name=plate)
    probes = {name: _probe(mean, truth) for name, truth in data.truth.items() if _along(data, name, plate, len(mean))}
    return LatentReport(
        table.rename_axis(site), pd.DataFrame(mean, index=names), pd.Series(probes, name="R2", dtype=float)
    )


def _moments(site: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and variance of a guide's site; of a flow, which states neither, its draw, which has none of its own."""
    try:
        return site["fn"].mean.detach(), site["fn"].variance.detach()
    except NotImplementedError:
        return site["value"], torch.zeros_like(site["value"])


def _is_real(support: constraints.Constraint) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def _along(data: Batch, name: str, plate: str, size: int) -> bool:
    return data.along.get(name) == plate and len(data.truth[name]) == size and data.truth[name].ndim == 1


def _kl_by_dimension(q: Any, p: Any) -> Tensor:
    bases = []
    for fn in (q, p):
        while isinstance(fn, torch.distributions.Independent):
            fn = fn.base_dist
        bases.append(fn)
    if not all(isinstance(base, dist.Normal) for base in bases):
        return torch.tensor(torch.nan)
    return torch.distributions.kl_divergence(*bases)


def _probe(means: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(min(5, len(truth)), shuffle=True, random_state=0)
    return scores.r2(truth, cross_val_predict(RidgeCV(np.logspace(-3, 3, 7)), means, truth, cv=folds))


# -------------------------------------------------------------------- simulation-based calibration
def sbc(
    model: ZooModel, guide: Any, layout: Batch, site: str, *, simulations: int = 20, draws: int = 99, seed: int = 0,
    **settings: Any,
) -> pd.DataFrame:  # fmt: skip
    """Ranks of true latents among guide draws, over data simulated from the model itself: uniform if calibrated.

    The model's parameters stay as they are; each simulation draws the latents from the prior and data from the
    model, in the layout of a batch (its rows, groups, and which labels are seen), and fits only the guide.

    Args:
        model: The model with its parameters.
        guide: As for `fit`.
        layout: A batch whose observed tensors are replaced by simulated ones.
        site: Latent to rank.
        simulations: Data sets.
        draws: Draws to rank among; ranks are 0..draws.
        seed: Of everything.
        **settings: Of each fit.

    Returns:
        One line per simulation and component of the site: simulation, component, rank.
    """
    options = Settings.resolve(model, guide, settings).for_data(layout)
    rows = []
    for index in range(simulations):
        own_seed = run_seed(seed, index)
        with isolated(own_seed):
            own, own_guide = build(model, guide)
            own.load_state_dict(model.state_dict())
            own.requires_grad_(False)
            with torch.no_grad():
                batch, truth = _simulate(own, layout, site)
            batch = with_support(own_guide, batch)
            if hasattr(own_guide, "solve"):
                own_guide.solve(batch)
            else:
                Training(own, own_guide, batch, None, options, own_seed, None).run(
                    resume=False, progress=None, callback=None
                )
            with torch.no_grad():
                traces = [poutine.trace(own_guide).get_trace(**own.arguments(batch)) for _ in range(draws)]
            values = torch.stack([trace.nodes[site]["value"] for trace in traces])
            ranks = (values < truth).sum(0).reshape(-1).tolist()
            rows += [{"simulation": index, "component": j, "rank": rank} for j, rank in enumerate(ranks)]
    return pd.DataFrame(rows)


def _simulate(model: ZooModel, layout: Batch, site: str) -> tuple[Batch, Tensor]:
    trace = poutine.trace(poutine.uncondition(model)).get_trace(**model.arguments(layout))
    tensors = dict(layout.tensors)
    for name in tensors:
        if name in trace.nodes and trace.nodes[name]["type"] == "sample" and name not in model.plate_dims:
            value = trace.nodes[name]["value"].detach()
            if layout.along[name] == FRAMES:  # the model pads recordings, a batch lays them end to end
                lengths = layout["lengths"]
                value = value[torch.arange(value.shape[1], device=value.device) < lengths[:, None]]
            tensors[name] = value
    return layout.with_tensors(tensors), trace.nodes[site]["value"].detach()


def rank_p_value(ranks: Any, draws: int, bins: int = 10) -> float:
    """P value of a chi-squared test that ranks in 0..draws are uniform."""
    from scipy.stats import chisquare

    counts, _ = np.histogram(np.asarray(ranks), bins=np.linspace(0, draws + 1, bins + 1))
    return float(chisquare(counts).pvalue)
