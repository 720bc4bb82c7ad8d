"""Paired draws: each guide sample gives a draw of posterior, posterior predictive, log likelihood, log p and log q."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC
from pyro.poutine.trace_struct import Trace
from tqdm.auto import tqdm

from ..data.batch import Batch
from ..inference.aligning import holds_group
from ..inference.copies import isolated, reference_tensor, run_seed
from ..inference.fitted import Fit
from ..inference.law import StudentLaw
from ..inference.settings import plain_number, whole
from ..modeling.base import ZooModel
from .collecting import collect, of_posterior, of_prior
from .columns import component_values, components
from .draws import Draws
from .export import from_draws
from .many import no_latents, pairs
from .new_groups import ready
from .predicting import predict_with_draws
from .traces import model_trace, pair


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
    """Draw from the posterior of a fit given a batch; draw s in all groups comes from the same guide sample.

    Args:
        fit: The fit; each restart is a chain.
        batch: Data; a target that is not observed there is a latent and is drawn from the guide. Latents of groups that
            the training data lack are drawn from their prior given the global latents, see `predict`; the groups' axis
            has those of the training data first.
        draws: Number of draws S per chain.
        seed: Random seed for the draws; the same seed gives equal draws, also after saving and loading.
        sites: Public names of the latent or observed sites to keep; all by default.
        predictive: Whether to draw the observed sites anew from the model, too (posterior predictive).
        prior: Whether to draw from the prior, too (prior, prior predictive); the posterior draws stay the same.
        restarts: Whether to use every restart; False for the best one only.

    Returns:
        Groups posterior, posterior_predictive, log_likelihood (NaN where unobserved), log_prior (log density of the
        latents that have a prior, summed over event axes), sample_stats (lp: log joint density; lq: log density of the
        guide), observed_data (NaN where unobserved), constant_data (inputs, group tables and each row's position in its
        groups, as ``<group>_idx``; with `sites` only what is named, and positions), and prior groups if asked for.
        With `predictive`, a fit by `pyrozoo.cross_fitted` adds cross_fitted_predictive: draws from its law, for each
        row independently and with the same law in every chain. They are no draws of the model.
        Arrays of draws have shape (chains, S, plates..., event...). For a partly observed site ``y`` (one with an
        ``obs_mask``), the posterior holds the observed values at the observed entries.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> drawn = zoo.draw(fit, data, draws=10)
        >>> sorted(drawn.groups)[:4]
        ['constant_data', 'log_likelihood', 'log_prior', 'observed_data']
        >>> sorted(drawn.groups)[4:]
        ['posterior', 'posterior_predictive', 'sample_stats']
        >>> drawn.groups["posterior"]["c"].shape  # chains, draws, units, dimensions of the context
        (1, 10, 71, 8)
        >>> drawn.dims["c"]
        ('unit', 'context')
    """
    chains, draws = [], whole("draws", plain_number(draws), 1)
    for index, run in enumerate(fit.runs if restarts else [fit.best]):
        with isolated(run_seed(seed, index)), torch.no_grad():
            ran, data = ready(fit, batch, run)
            with torch.random.fork_rng():
                trace = model_trace(ran.model, ran.guide, data)
            with tqdm(total=draws, desc="draws", delay=5.0, leave=False) as bar:  # of long work only
                drawn = pairs(ran.model, ran.guide, data, draws)
                chains.append([of_posterior(part, trace, sites, predictive, bar) for part in drawn])
    found = collect(chains, trace, fit.model, data, sites, {"guide": fit.guide_name})
    if predictive and restarts and fit.law is not None:
        found.groups["cross_fitted_predictive"] = _from_law(fit, batch, found, draws, seed)
    if prior:
        extra = prior_predictive(fit, batch, draws=draws, seed=seed, sites=sites, restarts=restarts)
        found.groups.update({k: v for k, v in extra.groups.items() if k.startswith("prior")})
        found.dims.update(extra.dims)
    return found


def prior_predictive(
    fit: Fit | ZooModel,
    batch: Batch,
    *,
    draws: int = 500,
    seed: int = 0,
    sites: list[str] | None = None,
    restarts: bool = True,
) -> Draws:
    """Draw the latents from their priors and data from the model: what the model believes before it sees these data.

    A fit draws with the priors and networks that it learned. A model draws with its present networks: before a fit
    their weights are random, so look at the range of the simulated data, not at their shape.

    Args:
        fit: A fit (each restart is a chain) or a model.
        batch: Data that give the layout: rows, groups, group tables, lengths of recordings, inputs. It may hold groups
            that the fit has not seen: all groups have the same prior.
        draws: Number of draws per chain.
        seed: Random seed for the draws.
        sites: Public names of the sites to keep; all by default.
        restarts: Whether to use every restart of a fit; False for the best one only.

    Returns:
        Groups prior (the latents), prior_predictive (the observed sites) and observed_data (NaN where unobserved), for
        `to_arviz`.

    Example:
        Does an unfitted model reach the range of the data?

        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=10, n_unlabelled=0)
        >>> model = zoo.create_model("ssmtl", train)
        >>> drawn = zoo.prior_predictive(model, train, draws=50)
        >>> simulated = drawn.groups["prior_predictive"]["y"]
        >>> simulated.shape  # chains, draws, rows, targets
        (1, 50, 40, 1)
        >>> observed = drawn.groups["observed_data"]["y"]
        >>> bool(simulated.min() < observed.min() and simulated.max() > observed.max())
        True
    """
    models = [run.model for run in (fit.runs if restarts else [fit.best])] if isinstance(fit, Fit) else [fit]
    chains = []
    for index, model in enumerate(models):
        # A model outside a fit may keep its parameters in Pyro's global store, which must not notice this.
        with isolated(run_seed(seed, index)), torch.no_grad(), pyro.get_param_store().scope():
            data = _prior_data(fit, model, batch)
            training = model.training
            model.eval()  # draws leave no mark, e.g. on running means
            try:
                arguments = model.arguments(data)
                with torch.random.fork_rng():
                    trace = poutine.trace(model).get_trace(**arguments)
                chains.append([of_prior(part, trace, sites) for part in pairs(model, no_latents, data, draws)])
            finally:
                model.train(training)
    return collect(chains, trace, models[-1], data, sites, {"guide": "none: draws from the prior"})


def to_arviz(
    fit_or_draws: Any, batch: Any = None, *, draws: int | None = None, seed: int = 0, observed_only: bool = True,
    **options: Any,
) -> Any:  # fmt: skip
    """Make an ArviZ object of a fit, by drawing from its guide, of Pyro's MCMC, or of draws made before.

    The groups that ArviZ's checks compare (``observed_data``, ``log_likelihood``, ``posterior_predictive``,
    ``prior_predictive``) hold a target ``y`` where it was observed, since ArviZ makes NaN, or an error, of a missing
    entry. Two targets may be observed on different rows, so the axis of rows is the target's own there: ``y_row``, with
    the names of the rows. Targets whose rows are observed in part, such as padded recordings, lie along ``y_entry``,
    and a target that is observed nowhere is predicted for all rows. A single target has no axis of length one, and a
    discrete one is a whole number.

    Args:
        fit_or_draws: A fit, a `Draws`, or a ``pyro.infer.MCMC`` that was run on a model of the zoo.
        batch: Data to draw for; required for a fit, and for MCMC, which was run on them; left out for a `Draws`.
        draws: Number of draws per chain, 500 by default; a chain is one restart of the fit. Of MCMC all are taken.
        seed: Random seed for the draws.
        observed_only: Whether to leave out what was not observed. If not, NaN stands there, along the plates' axes, and
            the predictions of all rows are kept; ArviZ's checks then fail or mislead.
        **options: Further arguments of `pyrozoo.draw`.

    Returns:
        ``InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.

    Raises:
        TypeError: A fit without ``batch``, a `Draws` with ``batch`` or ``options``, MCMC of another model than a
            ZooModel or with ``draws``.
        ValueError: See `Draws.validate`; MCMC that was not run, or on other data.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> idata = zoo.to_arviz(fit, data, draws=10)
        >>> idata["posterior"]["c"].dims
        ('chain', 'draw', 'unit', 'context')
        >>> idata["posterior"]["c"].sel(unit=3).shape
        (1, 10, 8)
        >>> idata["observed_data"]["y"].dims
        ('y_row',)

        NUTS on the same model, beside a guide:

        >>> from pyro.infer import MCMC, NUTS
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=2, n_labelled=3, n_unlabelled=0)
        >>> model = zoo.create_model("ssmtl", train, c_dim=1, z_dim=1, width=4)
        >>> mcmc = MCMC(NUTS(model, max_tree_depth=2), num_samples=4, warmup_steps=2, disable_progbar=True)
        >>> mcmc.run(**train)
        >>> zoo.to_arviz(mcmc, train)["posterior"]["c"].sizes["draw"]
        4
    """
    if isinstance(fit_or_draws, Draws):
        if batch is not None or options:
            raise TypeError("these draws are already made: batch and options go with a fit")
        return from_draws(fit_or_draws, observed_only)
    if batch is None:
        raise TypeError("give the data to draw for: to_arviz(fit, batch)")
    if isinstance(fit_or_draws, MCMC):
        if draws is not None:
            raise TypeError("draws: all draws of MCMC are taken; give num_samples to MCMC")
        return from_draws(_mcmc_draws(fit_or_draws, batch, seed=seed, **options), observed_only)
    draws = 500 if draws is None else draws
    return from_draws(draw(fit_or_draws, batch, draws=draws, seed=seed, **options), observed_only)


def _mcmc_draws(
    mcmc: MCMC, batch: Batch, *, seed: int, sites: list[str] | None = None, predictive: bool = True,
    prior: bool = False,
) -> Draws:  # fmt: skip
    """Draws of all groups at the samples of MCMC; enumerated sites are drawn given each sample."""
    model = getattr(mcmc.kernel, "model", None)
    if not isinstance(model, ZooModel):
        raise TypeError(f"MCMC of a {type(model).__name__}; run it on a model of the zoo as it is: NUTS(model)")
    if not mcmc._samples:
        raise ValueError("this MCMC has no samples; call mcmc.run(**batch) first")
    if model.cut:
        warnings.warn(
            f"the posterior of {type(model).__name__} is cut: {model.cut}. MCMC evaluates the log joint, which is "
            "not: its draws are of another posterior than that of the guides",
            stacklevel=3,
        )
    samples = mcmc.get_samples(group_by_chain=True)
    chains = []
    with isolated(seed), torch.no_grad(), pyro.get_param_store().scope():
        data, training = _prior_data(model, model, batch), model.training
        model.eval()
        try:
            arguments = model.arguments(data)
            _require_same_data(poutine.trace(model).get_trace(**arguments), samples)
            for chain in range(mcmc.num_chains):
                held = [_Held({k: v[chain, s] for k, v in samples.items()}) for s in range(mcmc.num_samples)]
                trace = model_trace(model, held[-1], data)
                parts = (pair(model, guide, arguments) for guide in held)
                chains.append([of_posterior(part, trace, sites, predictive) for part in parts])
        finally:
            model.train(training)
    for one in itertools.chain.from_iterable(chains):
        del one["sample_stats"]["lq"]  # MCMC has no guide
    found = collect(chains, trace, model, data, sites, {"guide": f"none: {type(mcmc.kernel).__name__}"})
    diverging = np.zeros((mcmc.num_chains, mcmc.num_samples), dtype=bool)
    for chain, places in enumerate(mcmc.diagnostics().get("divergences", {}).values()):
        diverging[chain, list(places)] = True
    found.groups["sample_stats"]["diverging"] = diverging
    if prior:
        extra = prior_predictive(model, batch, draws=mcmc.num_chains * mcmc.num_samples, seed=seed, sites=sites)
        lead = (mcmc.num_chains, mcmc.num_samples)
        for group in (name for name in extra.groups if name.startswith("prior")):
            found.groups[group] = {n: a.reshape(*lead, *a.shape[2:]) for n, a in extra.groups[group].items()}
        found.dims.update(extra.dims)
    return found


class _Held:
    """A guide that gives the latents the values of one sample."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self.values = values

    def __call__(self, **_: Any) -> None:
        for name, value in self.values.items():
            pyro.sample(name, dist.Delta(value, event_dim=value.dim()))


def _require_same_data(trace: Trace, samples: Mapping[str, torch.Tensor]) -> None:
    for name, value in samples.items():
        site = trace.nodes.get(name)
        if site is None or site["value"].shape != value.shape[2:]:
            raise ValueError(
                f"batch: MCMC drew {name!r} with the shape {tuple(value.shape[2:])}, which is not that of these data; "
                "give the data that it was run on"
            )


def _prior_data(fit: Fit | ZooModel, model: ZooModel, batch: Batch) -> Batch:
    """The batch on the model's device, prepared by `Fit.prepare` (as in `draw`) if the fit knows all its groups."""
    known = isinstance(fit, Fit) and all(
        set(batch.coords[group].tolist()) <= set(fit.prototype.coords[group].tolist())
        for group in batch.groups
        if holds_group(model, group)
    )
    if known:
        return fit.prepare(batch)
    tensor = reference_tensor(model)
    return batch if tensor is None else batch.to(device=tensor.device, dtype=tensor.dtype)


def _from_law(fit: Fit, batch: Batch, found: Draws, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Draws (chains, S, N, ...) of those of the found targets that have a law."""
    assert fit.law is not None
    table, values = predict_with_draws(fit, batch, draws=draws, seed=seed, quantiles=())
    rng, out = np.random.default_rng(seed), {}
    for target in values:
        laws = [law for name in components(table, target) if isinstance(law := fit.law.parts.get(name), StudentLaw)]
        if not laws or target not in found.groups.get("observed_data", {}):
            continue
        shape = found.groups["observed_data"][target].shape
        mean, sd = (component_values(table, target, quantity) for quantity in ("mean", "sd"))
        if (by_law := values[target].inner) is not None:
            first, second = by_law.exact.numpy()
            mean, sd = first, np.sqrt(np.maximum(second - first**2, 0))
        noise = np.stack([law.unit_draws(rng, (len(fit.runs), draws, len(table))) for law in laws], -1)
        drawn = mean + sd * noise
        if by_law is not None:
            drawn = fit.model.warp(target)(torch.as_tensor(drawn)).numpy()
        out[target] = drawn.reshape(len(fit.runs), draws, *shape)
    return out
