"""Paired draws: posterior, posterior predictive, log likelihood, log p and log q, all from the same guide sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import infer_discrete
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .arviz_bridge import Draws
from .base import ZooModel
from .batch import Batch
from .fitting import Fit, Run, isolated

OBSERVED, UNOBSERVED = "_observed", "_unobserved"


@dataclass
class Pair:
    """A guide trace and the model replayed on it.

    Attributes:
        guide, model: The traces; enumerated sites of the model hold all their values, along dimensions left of the
            plates'.
    """

    guide: Trace
    model: Trace
    nesting: int

    def sites(self, part: str) -> Iterator[tuple[str, dict]]:
        """Sample sites of "guide" or "model" that carry a density: no plates, no deterministic sites.

        A factor is part of the model's density (it may rule out classes of labelled rows), of the guide only part of
        its objective. Auxiliary latents of a guide (an AutoGuide's unconstrained values) carry its density.
        """
        for name, site in getattr(self, part).nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("_deterministic"):
                continue
            if part == "guide" and site["is_observed"]:
                continue
            yield name, site

    def log_density(self, site: Mapping[str, Any]) -> Tensor:
        """Pointwise log density of a site: masked (`unscaled_log_prob` is not), without the subsampling scale."""
        return scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])

    def sum_out(self, log_density: Tensor) -> Tensor:
        """Log-sum-exp over enumeration dimensions, i.e. all those left of the plates'."""
        while log_density.dim() > self.nesting:
            log_density = log_density.logsumexp(0)
        return log_density

    def by_plate(self, part: str) -> dict[str, Tensor]:
        """Summed log densities of "guide" or "model" per plate (``""``: outside all), one entry per plate position.

        Enumerated latents are summed out; they must lie along the rows, where the marginal factorises.
        """
        total: dict[str, Tensor] = {}
        for _, site in self.sites(part):
            plate, term = _plate(site), self.log_density(site)
            term = term if plate else term.sum()
            total[plate] = total[plate] + term if plate in total else term
        return {plate: self.sum_out(term) if plate else term for plate, term in total.items()}

    def log_likelihood(self) -> dict[str, Tensor]:
        """Log density of every observed site per position, given the guide's latents, enumerated ones summed out.

        Factors that weigh the values of enumerated sites count as known: on a row whose class is labelled, it is the
        density given that class.
        """
        sites = [(name, site, self.log_density(site)) for name, site in self.sites("model")]
        weights = [d for _, s, d in sites if _is_enumerated(s) or (_is_factor(s) and d.dim() > self.nesting)]
        total = self.sum_out(sum(weights, torch.zeros(())))
        return {
            name: self.sum_out(sum(weights, density)) - total
            for name, site, density in sites
            if site["is_observed"] and not _is_factor(site)
        }


def pair(model: ZooModel, guide: Any, batch: Mapping[str, Any], fixed: Trace | None = None) -> Pair:
    """Draw once from the guide and replay the model on it, enumerating what the model enumerates.

    Args:
        model: The model.
        guide: The guide.
        batch: Data.
        fixed: Guide trace whose values are kept (e.g. of the globals), where it has them.
    """
    arguments = model.arguments(batch)
    source = guide if fixed is None else poutine.replay(guide, trace=fixed)
    guide_trace = poutine.trace(source).get_trace(**arguments)
    replayed = poutine.replay(model, trace=guide_trace)
    if model.enumerated:
        replayed = poutine.enum(replayed, first_available_dim=-1 - model.max_plate_nesting)
    return Pair(guide_trace, poutine.trace(replayed).get_trace(**arguments), model.max_plate_nesting)


def draw(
    fit: Fit,
    batch: Batch,
    *,
    draws: int = 500,
    seed: int = 0,
    sites: list[str] | None = None,
    predictive: bool = True,
    prior: bool = False,
    restarts: bool = True,
) -> Draws:
    """Draw from the fit given a batch; draw s of every group comes from the same guide sample.

    Args:
        fit: The fit; each restart is a chain.
        batch: Data; a target that is not observed there is a latent and is drawn from the guide.
        draws: Draws per chain.
        seed: Of the draws; the same seed gives equal draws, also after saving and loading.
        sites: Latent or observed sites to keep, by their public names; all by default.
        predictive: Also draw the observed sites anew from the model (posterior predictive).
        prior: Also draw from the prior (prior, prior predictive).
        restarts: Use every restart, or only the best.

    Returns:
        Groups posterior, posterior_predictive, log_likelihood (NaN where unobserved), sample_stats (lp: log joint
        density; lq: log density of the guide), observed_data (NaN where unobserved), and prior groups if asked for.
        Of an obs_mask site ``y`` the posterior holds the observed values where there are any.
    """
    chains = []
    for index, run in enumerate(fit.runs if restarts else [fit.best]):
        with isolated(int(np.random.SeedSequence([seed, index]).generate_state(1)[0])), torch.no_grad():
            data = fit.prepare(batch, run)
            chains.append([_one_draw(run, data, sites, predictive, prior) for _ in range(draws)])
    groups: dict[str, dict[str, np.ndarray]] = {}
    for group, variables in chains[0][0].items():
        groups[group] = {v: np.stack([np.stack([d[group][v] for d in chain]) for chain in chains]) for v in variables}
    with isolated(seed), torch.no_grad():
        trace = _model_trace(fit.best, data)
    groups["observed_data"] = {
        _public(name): _where_observed(site, _squeezed(site["value"], site)).cpu().numpy()
        for name, site in trace.nodes.items()
        if _is_data(site) and _wanted(name, sites)
    }
    dims = {_public(name): (*_plates(site), *_event_dims(fit.model, name, site)) for name, site in _named_sites(trace)}
    used = {d for v in dims.values() for d in v}
    coords = {k: v for k, v in data.coords.items() if k in used}
    if data.rows in coords:
        coords[data.rows] = data.names(data.rows)
    attrs = {
        "guide": fit.guide_name,
        "data": str(batch.info.get("name", "")),
        "simulated": str(bool(batch.info.get("simulated"))),
    }
    kept = {k: v for k, v in groups.items() if v}
    variables = {v for group in kept.values() for v in group}
    dims |= {"lp": (), "lq": ()}
    return Draws(kept, {k: v for k, v in dims.items() if k in variables}, coords, attrs)


def _one_draw(run: Run, data: Batch, sites: list[str] | None, predictive: bool, prior: bool) -> dict[str, dict]:
    model, arguments = run.model, run.model.arguments(data)
    drawn = pair(model, run.guide, data)
    enumerated = _enumerated_values(model, drawn.guide, arguments)
    out: dict[str, dict[str, np.ndarray]] = {"posterior": {}, "log_likelihood": {}, "sample_stats": {}}
    for name, site in _named_sites(drawn.model):
        if name in enumerated and _wanted(name, sites):
            out["posterior"][name] = enumerated[name].cpu().numpy()
        elif not _is_data(site) and not _hidden(name, drawn.model) and _wanted(name, sites):
            out["posterior"][name] = _squeezed(site["value"], site).cpu().numpy()
    for name, value in drawn.log_likelihood().items():
        if _wanted(name, sites):
            site = drawn.model.nodes[name]
            out["log_likelihood"][_public(name)] = (
                _where_observed(site, _squeezed(value, site, density=True)).cpu().numpy()
            )
    for key, part in (("lp", "model"), ("lq", "guide")):
        total = sum(term.sum() for term in drawn.by_plate(part).values())
        out["sample_stats"][key] = np.asarray(float(total))
    if predictive:
        out["posterior_predictive"] = _values(_predictive_trace(model, drawn.guide, arguments, enumerated), sites, True)
    if prior:
        trace = poutine.trace(poutine.uncondition(model)).get_trace(**arguments)
        out["prior"], out["prior_predictive"] = _values(trace, sites, False), _values(trace, sites, True)
    return out


def predict(
    fit: Fit,
    batch: Batch,
    *,
    draws: int = 200,
    seed: int = 0,
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> pd.DataFrame:
    """Predict the targets of every row, as if none were observed.

    Intervals are the model's own and may be too narrow: look at `coverage` before you use them. Means and standard
    deviations are exact given each draw of the other latents (law of total variance); quantiles
    and class probabilities come from the draws themselves.

    Args:
        fit: The fit; its best restart predicts.
        batch: Data; its targets, where it has any, are hidden from the guide, also those of unseen groups that an
            amortised guide reads.
        draws: Draws of the latents.
        seed: Of the draws.
        quantiles: Quantiles to report.

    Returns:
        One line per row: for a continuous target ``y.mean``, ``y.sd``, ``y.q05`` ... (``y[name].mean`` where y has
        several components); for a discrete one ``k.label`` and ``k.p[class]``. In the units of the data.

    Raises:
        ValueError: The fit saw no label of a target.
    """
    for target in fit.model.targets:
        labelled = fit.prototype.sizes.get(fit.prototype.labels.get(target, ""), 0)
        if not labelled and target not in fit.model.enumerated:
            raise ValueError(
                f"no row of the training data was labelled with {target!r}, so it cannot be predicted; add labels"
            )
    with isolated(seed), torch.no_grad():
        data = fit.prepare(batch.hide())
        samples: dict[str, list[Tensor]] = {}
        moments: dict[str, list[Tensor]] = {}
        for _ in range(draws):
            for target, site in target_sites(fit.best, data).items():
                samples.setdefault(target, []).append(site["value"])
                if not _is_discrete(site):
                    mean, variance = site["fn"].mean, site["fn"].variance
                    moments.setdefault(target, []).append(
                        torch.stack([mean, variance + mean**2]).expand(2, *site["value"].shape)
                    )
    index = pd.Index(batch.names(batch.rows), name=batch.rows)
    columns: dict[str, np.ndarray] = {}
    for target, drawn in samples.items():
        stacked = torch.stack(drawn).double().cpu()
        if target in moments:
            columns |= _continuous(target, stacked, torch.stack(moments[target]).double().mean(0).cpu(), fit, quantiles)
        else:
            columns |= _discrete(target, stacked, fit)
    return pd.DataFrame(columns, index=index)


def _continuous(target: str, stacked: Tensor, moments: Tensor, fit: Fit, quantiles: tuple) -> dict[str, np.ndarray]:
    stacked, moments = (t.reshape(*t.shape[:2], -1) for t in (stacked, moments))
    mean, sd = moments[0], (moments[1] - moments[0] ** 2).clamp(min=0).sqrt()
    levels = torch.quantile(stacked, torch.tensor(quantiles, dtype=stacked.dtype), dim=0)
    dims = fit.model.dims.get(target, ())
    names = fit.prototype.coords.get(dims[0], np.arange(mean.shape[1])) if dims else [""]
    out = {}
    for j in range(mean.shape[1]):
        prefix = target if mean.shape[1] == 1 else f"{target}[{names[j]}]"
        out[f"{prefix}.mean"], out[f"{prefix}.sd"] = mean[:, j].numpy(), sd[:, j].numpy()
        for q, level in zip(quantiles, levels, strict=True):
            out[f"{prefix}.q{round(100 * q):02d}"] = level[:, j].numpy()
    return out


def _discrete(target: str, stacked: Tensor, fit: Fit) -> dict[str, np.ndarray]:
    classes = fit.prototype.coords.get(f"{target}_class")
    n = len(classes) if classes is not None else int(stacked.max()) + 1
    classes = np.arange(n) if classes is None else classes
    probabilities = torch.stack([(stacked == k).double().mean(0) for k in range(n)], -1).numpy()
    return {f"{target}.label": classes[probabilities.argmax(-1)]} | {
        f"{target}.p[{name}]": probabilities[:, k] for k, name in enumerate(classes)
    }


def target_sites(run: Run, data: Batch) -> dict[str, dict]:
    """One draw of the target sites: from the guide where it samples them, else from the model given the guide."""
    arguments = run.model.arguments(data)
    guide_trace = poutine.trace(run.guide).get_trace(**arguments)
    names = {t: t + UNOBSERVED if t + UNOBSERVED in guide_trace.nodes else t for t in run.model.targets}
    if all(name in guide_trace.nodes for name in names.values()):
        return {target: guide_trace.nodes[name] for target, name in names.items()}
    enumerated = _enumerated_values(run.model, guide_trace, arguments)
    nodes = _predictive_trace(run.model, guide_trace, arguments, enumerated).nodes | guide_trace.nodes
    return {target: nodes[name] for target, name in names.items()}


def _enumerated_values(model: ZooModel, guide_trace: Trace, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Enumerated sites drawn from their conditional given the guide's latents and the data."""
    if not model.enumerated:
        return {}
    replayed = poutine.replay(model, trace=guide_trace)
    sampled = infer_discrete(replayed, first_available_dim=-1 - model.max_plate_nesting, temperature=1)
    nodes = poutine.trace(sampled).get_trace(**arguments).nodes
    return {name: nodes[name]["value"] for name in model.enumerated}


def _predictive_trace(
    model: ZooModel, guide_trace: Trace, arguments: Mapping[str, Any], enumerated: dict[str, Tensor]
) -> Trace:
    """The model given the latents of one draw, observed sites drawn anew."""
    free = poutine.condition(poutine.uncondition(model), data=enumerated)
    return poutine.trace(poutine.replay(free, trace=guide_trace)).get_trace(**arguments)


def _model_trace(run: Run, data: Batch) -> Trace:
    arguments = run.model.arguments(data)
    guide_trace = poutine.trace(run.guide).get_trace(**arguments)
    enumerated = _enumerated_values(run.model, guide_trace, arguments)
    substituted = poutine.condition(run.model, data=enumerated)
    trace = poutine.trace(poutine.replay(substituted, trace=guide_trace)).get_trace(**arguments)
    for name in enumerated:
        trace.nodes[name]["is_observed"] = False
    return trace


def _named_sites(trace: Trace) -> Iterator[tuple[str, dict]]:
    """Sites a user knows by name, deterministic ones included; plates and factors left out."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("is_auxiliary"):
            yield name, site


def _values(trace: Trace, sites: list[str] | None, observed: bool) -> dict[str, np.ndarray]:
    out = {}
    for name, site in _named_sites(trace):
        was_data = bool(site["infer"].get("was_observed")) and not site["infer"].get("_deterministic")
        is_target = site["infer"].get("_deterministic") and name + OBSERVED in trace.nodes
        if _wanted(name, sites) and not _hidden(name, trace) and bool(was_data or is_target) is observed:
            out[name] = _squeezed(site["value"], site).cpu().numpy()
    return out


def _is_data(site: Mapping[str, Any]) -> bool:
    if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("is_auxiliary"):
        return False
    return site["is_observed"] and not site["infer"].get("_deterministic")


def _is_factor(site: Mapping[str, Any]) -> bool:
    return site["is_observed"] and bool(site["infer"].get("is_auxiliary"))


def _is_enumerated(site: Mapping[str, Any]) -> bool:
    return site["infer"].get("_enumerate_dim") is not None


def _is_discrete(site: Mapping[str, Any]) -> bool:
    return not site["value"].is_floating_point() or site["fn"].support.is_discrete


def _public(name: str) -> str:
    """The paper's name of a site: obs_mask splits ``y`` into ``y_observed`` and ``y_unobserved``."""
    return name.removesuffix(OBSERVED).removesuffix(UNOBSERVED)


def _hidden(name: str, trace: Trace) -> bool:
    """Halves of an obs_mask site: the site itself, which joins them, is shown instead."""
    return name != _public(name) and _public(name) in trace.nodes


def _wanted(name: str, sites: list[str] | None) -> bool:
    return sites is None or _public(name) in sites


def _frames(site: Mapping[str, Any]) -> dict[int, str]:
    return {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


def _plate(site: Mapping[str, Any]) -> str:
    """Name of the innermost plate of a site, "" outside all."""
    frames = _frames(site)
    return frames[max(frames)] if frames else ""


def _plates(site: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for _, name in sorted(_frames(site).items()))


def _squeezed(value: Tensor, site: Mapping[str, Any], density: bool = False) -> Tensor:
    """Drop the singleton dimensions that no plate of the site occupies; never a plate of size one."""
    frames, event = _frames(site), site["fn"].event_dim
    n = (
        value.dim()
        if density
        else (-min(frames, default=0) if site["infer"].get("_deterministic") else value.dim() - event)
    )
    keep = [i for i in range(n) if i - n in frames]
    return value.reshape([value.shape[i] for i in keep] + list(value.shape[n:]))


def _event_dims(model: ZooModel, name: str, site: Mapping[str, Any]) -> tuple[str, ...]:
    n = _squeezed(site["value"], site).dim() - len(_frames(site))
    named = tuple(model.dims.get(_public(name), ()))
    return named if len(named) == n else tuple(f"{_public(name)}_dim_{i}" for i in range(n))


def _where_observed(site: Mapping[str, Any], value: Tensor) -> Tensor:
    """NaN where a mask says that nothing was observed."""
    mask = site["mask"]
    if mask is None or not value.is_floating_point():
        return value
    mask = torch.as_tensor(mask)
    return torch.where(mask.reshape(mask.shape + (1,) * (value.dim() - mask.dim())), value, torch.nan)
