"""Clauses about inference: the ArviZ object, plain Pyro on the same objects, calibration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import MCMC, NUTS, SVI, Predictive
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from ..criticism.sbc import rank_p_value, sbc
from ..data.batch import Batch
from ..inference.copies import default_dtype, isolated
from ..inference.fitted import Run
from ..modeling.base import ZooModel
from ..modeling.guides import auto, outer_sites, with_support
from ..modeling.registry import create_guide
from ..posterior.drawing import draw, to_arviz
from ..posterior.draws import Draws
from ..posterior.observed import CHECKED
from ..posterior.sites import where_observed
from .densities import latents, log_densities, require
from .describing import trace_of
from .fits import N_DRAWS, short_fit
from .subject import Skipped, Subject

DRAWN = 1e-10  # relative, double precision: the same terms, summed in another order


# -------------------------------------------------------------------- C13
def arviz_object(subject: Subject) -> None:
    """C13: groups, dims and coords are those of card and data; log likelihood and lp belong to their draw."""
    with default_dtype(torch.float64):
        train = subject.data()
        found = short_fit(subject, train, restarts=2)
        drawn = draw(found, train, draws=N_DRAWS, prior=True)
        idata = to_arviz(drawn, observed_only=False)
        _check_groups(subject, idata, drawn, found.model, train)
        _check_observed(to_arviz(drawn), idata, drawn)
        for chain, run in enumerate(found.runs):
            with isolated(0), torch.no_grad():
                _check_draws(run, found.prepare(train, run), idata, chain)


def _check_groups(subject: Subject, idata: Any, drawn: Draws, model: ZooModel, batch: Batch) -> None:
    sites = subject.sites
    of = lambda *kinds: {name for name, site in sites.items() if site.kind in kinds}  # noqa: E731
    trace = trace_of(model, model, batch)
    missing = {name for name in of("partly observed") if f"{name}_unobserved" in trace.nodes}
    unknown, data = of("latent", "enumerated", "deterministic"), of("observed", "partly observed")
    groups = {
        "posterior": unknown | missing, "posterior_predictive": data, "log_likelihood": data, "observed_data": data,
        "prior": unknown, "prior_predictive": data, "sample_stats": {"lp", "lq"},
    }  # fmt: skip
    for group, names in groups.items():
        if not names:
            continue
        require(group in idata, f"the ArviZ object has no group {group}")
        dataset = idata[group]
        require(set(dataset.data_vars) == names, f"{group} holds {sorted(dataset.data_vars)}, expected {sorted(names)}")
        for name in names:
            site = sites.get(name)
            dims = () if site is None else site.plates if group == "log_likelihood" else site.plates + site.dims
            expected = dims if group == "observed_data" else ("chain", "draw", *dims)
            found = drawn.axes(group, name)
            require(found == expected, f"{group}/{name} has dims {found}, expected {expected}")
        for dim in set(dataset.coords) & set(batch.coords):
            same = np.array_equal(dataset.coords[dim].values, batch.coords[dim])
            require(same, f"{group}: coordinate {dim!r} differs from the data's")


def _check_observed(idata: Any, full: Any, drawn: Draws) -> None:
    """Compare the targets at their observed entries, as ArviZ gets them, with the entries that have a value."""
    for group in CHECKED:
        for name in idata[group].data_vars if group in idata else ():
            array = np.array(idata[group][name].values, dtype=float)
            require(not np.isnan(array).any(), f"{group}/{name} has entries that were not observed")
            if group in ("observed_data", "log_likelihood"):
                every = np.array(full[group][name].values, dtype=float)
                lead = () if group == "observed_data" else every.shape[:2]
                kept = every[~np.isnan(every)].reshape(*lead, -1)
                require(np.array_equal(kept, array.reshape(*lead, -1)), f"{group}/{name} is not what was observed")


def _check_draws(run: Run, batch: Batch, idata: Any, chain: int) -> None:
    held = idata["posterior"].data_vars if "posterior" in idata else {}
    posterior = {name: np.array(v.values[chain]) for name, v in held.items()}
    for s in range(N_DRAWS):
        values = _values(run.model, batch, {name: v[s] for name, v in posterior.items()})
        terms = _log_likelihood(run.model, batch, values) if "log_likelihood" in idata else {}
        for name, term in terms.items():
            said = idata["log_likelihood"][name].values[chain, s]
            same = np.allclose(said, term.numpy(), rtol=DRAWN, atol=DRAWN, equal_nan=True)
            require(same, f"log_likelihood/{name} of draw {s} is not that of the posterior draw of the same index")
        for key, value in (("lp", _log_joint(run.model, batch, values)), ("lq", _log_guide(run, batch, values))):
            said = float(idata["sample_stats"][key].values[chain, s])
            same = math.isclose(said, value, rel_tol=DRAWN)
            require(same, f"{key} of draw {s} is {said:.12g}; of the posterior draw of that index {value:.12g}")


def _values(model: ZooModel, batch: Batch, posterior: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Values of the latents in the model's shapes, without enumerated ones."""
    out = {}
    for name, site in latents(model, batch).items():
        value = posterior[name.removesuffix("_unobserved") if name not in posterior else name]
        out[name] = torch.as_tensor(value).reshape(site["value"].shape)
    return out


def _log_likelihood(model: ZooModel, batch: Batch, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Log density of the observed sites per position; enumerated sites are summed out value by value."""
    trace, arguments = trace_of(model, model, batch), model.arguments(batch)
    supports = [trace.nodes[name]["fn"].enumerate_support(expand=False).reshape(-1) for name in model.enumerated]
    joint: list[dict[str, Tensor]] = []
    weight: list[Tensor] = []
    for chosen in itertools.product(*supports):
        fixed = {n: torch.full_like(trace.nodes[n]["value"], v) for n, v in zip(model.enumerated, chosen, strict=True)}
        conditioned = poutine.condition(model, data={**values, **fixed})
        data, weights = _terms(poutine.trace(conditioned).get_trace(**arguments), values, model.enumerated)
        weight.append(sum(weights.values(), torch.zeros(())))
        joint.append(data)
    out = {}
    for name in joint[0]:
        together = torch.stack([w + terms[name] for w, terms in zip(weight, joint, strict=True)])
        value = together.logsumexp(0) - torch.stack(weight).expand(together.shape).logsumexp(0)
        out[name.removesuffix("_observed")] = where_observed(trace.nodes[name], value, density=True)[0]
    return out


def _terms(trace: Trace, values: Mapping[str, Tensor], enumerated: tuple[str, ...]) -> tuple[dict, dict]:
    """Log densities of the data, and log weights of the values of enumerated sites.

    A factor counts as a weight, because it can rule out values.
    """
    data, weights = {}, {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("_deterministic") or name in values:
            continue
        term = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
        if name in enumerated:
            weights[name] = term
        elif not site["infer"].get("is_auxiliary"):
            data[name] = term
        elif enumerated:
            weights[name] = term
    return data, weights


def _log_joint(model: ZooModel, batch: Batch, values: Mapping[str, Tensor]) -> float:
    def nothing(**_: Any) -> None:
        """Guide of a model whose latents are all given."""

    conditioned = poutine.condition(model, data=dict(values))
    return -float(model.elbo().loss(conditioned, nothing, **model.arguments(batch)))


def _log_guide(run: Run, batch: Batch, values: Mapping[str, Tensor]) -> float:
    """Log density of the guide at the latents; factors belong to its objective, not to its density."""
    drawn = trace_of(run.guide, run.model, batch)
    fixed, sites = Trace(), latents(run.model, batch)
    autos: list[Any] = [part for part in run.guide.modules() if isinstance(part, AutoContinuous)]
    for part in autos:
        joint = f"_{part._pyro_name}_latent"
        if joint in drawn.nodes:  # one site for all latents of an AutoGuide, from which it computes their values
            names = [name for name, _ in part.prototype_trace.iter_stochastic_nodes()]
            own = [biject_to(sites.pop(name)["fn"].support).inv(values[name]).flatten() for name in names]
            fixed.add_node(joint, **{**drawn.nodes[joint], "value": torch.cat(own)})
    for name, site in sites.items():
        value, inner = values[name], f"{name}_unconstrained"
        if inner in drawn.nodes:  # an AutoGuide's site, which it transforms to the latent's value
            name, value = inner, biject_to(site["fn"].support).inv(value)
        fixed.add_node(name, type="sample", is_observed=False, value=value, infer=drawn.nodes[name]["infer"])
    trace = trace_of(poutine.replay(run.guide, trace=fixed), run.model, batch)
    terms = log_densities(trace)
    return sum(term for name, term in terms.items() if not trace.nodes[name]["is_observed"])


# -------------------------------------------------------------------- C15
def plain_pyro(subject: Subject) -> None:
    """C15: SVI, AutoNormal, Predictive and NUTS run on model and guide without any call to the zoo."""
    torch.manual_seed(0)
    for guide in [subject.guide, AutoNormal] if subject.leads else [subject.guide]:
        with pyro.get_param_store().scope():
            model = subject.model()
            if not isinstance(guide, str) and (
                not outer_sites(model) or (model.row_sites and model.local_guide() is None)
            ):
                continue
            module = create_guide(model, guide if isinstance(guide, str) else auto(guide))
            batch = with_support(module, subject.data())
            svi = SVI(model, module, pyro.optim.Adam({"lr": 1e-3}), model.elbo())
            losses = [svi.step(**batch) for _ in range(2)]
            require(all(map(math.isfinite, losses)), f"SVI(...).step(**batch) with {guide} gives {losses}")
            samples = Predictive(model, guide=module, num_samples=2)(**batch)
            missing = {name for name in latents(model, batch) if name not in samples}
            require(not missing, f"Predictive gives no {sorted(missing)}")
    if subject.leads:
        _check_mcmc(subject)


def _check_mcmc(subject: Subject) -> None:
    with pyro.get_param_store().scope():
        model, batch = subject.model(), subject.data()
        sites = latents(model, batch)
        if model.enumerated or any(site["fn"].support.is_discrete for site in sites.values()):
            return
        mcmc = MCMC(NUTS(model, max_tree_depth=2), num_samples=2, warmup_steps=2, disable_progbar=True)
        mcmc.run(**batch)
        drawn = mcmc.get_samples()
        require(set(drawn) == set(sites), f"NUTS samples {sorted(drawn)}, the latents are {sorted(sites)}")
        require(all(torch.isfinite(v).all() for v in drawn.values()), "NUTS gives non-finite values")


# -------------------------------------------------------------------- C17
def calibrated(subject: Subject) -> None:
    """C17: ranks of true latents among guide draws are uniform, with parameters fixed at those that made the data."""
    named = [site for site in subject.card.calibrated if site in subject.sites]
    exact = getattr(subject.parts, "RANKS", {}).get(subject.variant)
    if not named and exact is None:
        raise Skipped("the card names nothing to calibrate")
    for what, found in (exact(0) if exact else {}).items():
        p = rank_p_value(found, 99)
        require(p > 1e-3, f"{what}: ranks of {len(found)} true values are not uniform (p = {p:.2g})")
    own = getattr(subject.parts, "CALIBRATION", {}).get(subject.variant, {})
    with isolated(0):
        model = subject.model(**own.get("arguments", {}))
    draws = 99
    for site in named:
        settings = {"simulations": 20, "draws": draws, "seed": 0, "steps": 1000, "lr": 1e-2, **own.get("settings", {})}
        ranks = sbc(model, subject.guide, subject.data(), site, **settings)
        p = rank_p_value(ranks["rank"], draws)
        # One site in a thousand fails by chance; the seed is fixed, so a pass stays a pass.
        require(p > 1e-3, f"{site}: ranks of {len(ranks)} true values are not uniform (p = {p:.2g})")
