"""Refinement of q(c) towards the posterior of the model itself by importance sampling."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pandas as pd
import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor
from tqdm import tqdm

from ....criticism.importance import NOISE, pareto_k
from ....data.batch import Batch, require_batch
from ....inference.copies import isolated
from ....inference.fitted import Fit, Run
from ....modeling.base import ZooModel
from ..guides import MVNGuide
from .calibration import CalibratedFit, context_draws, frozen
from .objective import by_unit, pieces, row_terms


def refine(
    fit: Fit, data: Batch | None = None, *, draws: int = 400, inner: int = 20, rounds: int = 4, seed: int = 0,
    progress: bool = True,
) -> CalibratedFit:  # fmt: skip
    """Replace each q(c_i) by a normal distribution fitted to p(c_i | data of unit i) of the model itself.

    Calibration with alpha > 0 counts labelled rows several times, which makes q(c_i) too narrow, and an inexact row
    guide shifts it. This function draws contexts from a proposal and weights them by p(c) p(rows | c) / proposal; the
    latents of each row are integrated out by `inner` importance draws. Because that estimate of the likelihood is
    unbiased, the weights stay valid and are only noisier (Tran et al. 2013, importance sampling squared). The proposal
    starts from q and adapts in rounds to the mean and covariance of the weighted draws (Cappe et al. 2004, population
    Monte Carlo), with tempered weights where a few draws would dominate; 40 % of the draws come from a wider normal and
    10 % from the prior. The posterior is that of the generative model: alpha and g_y have no influence on it.

    Args:
        fit: Calibrated fit, or any fit of SSMTL or MTL, of which the best restart is used.
        data: Training data of the fit; needed for a fit that was loaded.
        draws: Number of contexts drawn per unit and round.
        inner: Number of draws of every row's latents per context.
        rounds: Number of rounds; the weights of the last one give the result.
        seed: Random seed for all draws.
        progress: Show a progress bar.

    Returns:
        A fit with the guide "mvn" (full covariance). Its ``units`` has the columns of ``fit.units`` and: ess (effective
        number of draws), khat (Pareto k of the weights; usable below 0.7; NaN if the noise of the inner estimates alone
        has a k above 0.5, which calls for a larger `inner`), evidence (log p(data of the unit), nats) and refined
        (whether the unit's posterior was replaced).

    Raises:
        ValueError: Data other than the training data, or none; too few draws.
        TypeError: `data` is not a Batch.

    Warns:
        UserWarning: A unit's weights are not usable, and it keeps the mean and covariance of its q.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import refine, simulate
        >>> train, _ = simulate(n_units=3, n_labelled=5, n_unlabelled=0, n_test=1)
        >>> model = zoo.create_model("ssmtl", train, variant="mtl", c_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> refined = refine(fit, train, draws=200, progress=False)
        >>> refined.units.columns.tolist()
        ['ess', 'khat', 'evidence', 'refined']
        >>> bool(refined.units["refined"].all())
        True
    """
    if "c" not in fit.model.priors():
        raise ValueError(f"fit: {type(fit.model).__name__} has no context c to refine")
    data = fit.train if data is None else data
    if data is not None:
        require_batch("data", data)
    if data is None or data.sha256 != fit.data["sha256"]:
        raise ValueError(
            "refine is about the data the contexts were fitted to: pass the training data of this fit (of calibrate(): "
            "its .train, the rows that its mode used; a fit that was loaded has none)"
        )
    if draws < 25 or rounds < 1 or inner < 1:
        raise ValueError(f"draws {draws}, rounds {rounds}, inner {inner}: at least 25, 1 and 1 are needed")
    started = time.perf_counter()
    with isolated(seed), torch.no_grad():
        run, batch = fit.best, fit.prepare(data)
        model, guide = frozen(fit, batch.sizes["unit"], guide=MVNGuide)
        inner = inner if guide.local is not None else 1  # nothing to integrate out
        first = _moments(context_draws(fit, 1000).double(), torch.zeros((), device=batch["unit"].device))
        mean, cov = first
        lines = []
        for index in tqdm(range(rounds), desc=f"refine {len(mean)} units", disable=not progress, unit="round"):
            c, log_q = _propose(run.model, mean, cov, draws, widest=4.0 if index == 0 else 2.0)
            log_w = run.model.prior("c").log_prob(c.to(batch["x"])) + _log_likelihood(run, batch, c, inner) - log_q
            last = index == rounds - 1
            mean, cov = _moments(c, log_w if last else _tempered(log_w, draws / 5))
            evidence = log_w.logsumexp(0) - math.log(draws)
            total = float(evidence.sum()) / batch.sizes["row"]
            lines.append({"epoch": index, "step": index, "elbo": total, "ess": float(_ess(log_w).median())})
        noise = _log_likelihood(run, batch, mean.expand(max(25, draws // 4), *mean.shape), inner)
        units = _weights_report(fit, batch, log_w, noise, evidence)
        kept = torch.tensor(units["refined"].tolist(), device=mean.device)
        mean, cov = (
            torch.where(kept.view(-1, *[1] * (t.dim() - 1)), t, q) for t, q in zip((mean, cov), first, strict=True)
        )
        tril = torch.linalg.cholesky(cov)
        flat = tril.tril(-1) + torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1).log())
        guide.c_loc.copy_(mean)
        guide.c_tril.copy_(flat.flatten(1))
    if not kept.all():
        names = units.index[~units["refined"]].tolist()
        warnings.warn(
            f"unit(s) {names[:5]} keep the q(c) they had: their weights are not usable (khat > 0.7 or NaN)",
            stacklevel=2,
        )
    new = Run(seed, model, guide, pd.DataFrame(lines), "finished")
    settings = {"draws": draws, "inner": inner, "rounds": rounds, "seed": seed, "refined from": fit.settings}
    seconds = time.perf_counter() - started
    return CalibratedFit([new], "mvn", settings, fit.data, fit.prototype, seconds, train=data, units=units)


def _log_likelihood(run: Run, batch: Batch, c: Tensor, inner: int) -> Tensor:
    """Estimate log p(rows of unit i | c_i), (S, M), for contexts c (S, M, K), with `inner` draws of the latents."""
    out = []
    for part in pieces(c.to(batch["x"]), batch):
        total = row_terms(run, batch, part)[0].double()
        for _ in range(inner - 1):
            total = total.logaddexp(row_terms(run, batch, part)[0].double())
        out.append(by_unit(total - math.log(inner), batch))
    return torch.cat(out)


def _propose(model: ZooModel, mean: Tensor, cov: Tensor, draws: int, widest: float) -> tuple[Tensor, Tensor]:
    """Draw from a mixture of two normals around the mean and the prior: draws (S, M, K), log densities (S, M)."""
    prior = model.prior("c").expand(mean.shape[:1])
    tril = torch.linalg.cholesky(cov)
    parts = [
        (0.5, MultivariateNormal(mean, scale_tril=1.1 * tril)),
        (0.4, MultivariateNormal(mean, scale_tril=widest * tril)),
    ]
    counts = [round(share * draws) for share, _ in parts]
    counts.append(draws - sum(counts))
    components = [part for _, part in parts] + [prior]
    c = torch.cat([q.sample((n,)).double() for q, n in zip(components, counts, strict=True)])
    terms = [
        q.log_prob(c.to(model.x_loc) if q is prior else c).double() + math.log(n / draws)
        for q, n in zip(components, counts, strict=True)
    ]
    return c, torch.stack(terms).logsumexp(0)


def _moments(c: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean (M, K) and covariance (M, K, K) of draws (S, M, K)."""
    w = log_w.expand(c.shape[:-1]).softmax(0)[..., None]
    mean = (w * c).sum(0)
    centred = (c - mean) * w.sqrt()
    cov = torch.einsum("smk,sml->mkl", centred, centred)
    jitter = 1e-6 * cov.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-12
    return mean, cov + jitter[:, None, None] * torch.eye(c.shape[-1]).to(cov)


def _ess(log_w: Tensor) -> Tensor:
    """Effective number of draws, (M,), for log weights (S, M)."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def _tempered(log_w: Tensor, least: float) -> Tensor:
    """Temper each unit's log weights by the largest factor <= 1 that keeps an effective sample size of `least`."""
    low, high = torch.zeros(log_w.shape[1]).to(log_w), torch.ones(log_w.shape[1]).to(log_w)
    power = high
    for _ in range(30):
        enough = _ess(power * log_w) >= least
        low, high = torch.where(enough, power, low), torch.where(enough, high, power)
        power = torch.where(low == 1, low, (low + high) / 2)
    return low * log_w


def _weights_report(fit: Fit, batch: Batch, log_w: Tensor, noise: Tensor, evidence: Tensor) -> pd.DataFrame:
    index = pd.Index(batch.names("unit"), name="unit")
    units = fit.units.copy() if isinstance(fit, CalibratedFit) and len(fit.units) else pd.DataFrame(index=index)
    k, k_noise = (np.array([pareto_k(w) for w in weights.T]) for weights in (log_w, noise))
    units["ess"], units["khat"] = _ess(log_w).cpu().numpy(), np.where(k_noise > NOISE, np.nan, k)
    units["evidence"], units["refined"] = evidence.cpu().numpy(), units["khat"].to_numpy() <= 0.7
    return units
