"""What a latent site does: active units, KL per dimension, collapse, probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..data.batch import Batch
from ..inference.copies import isolated
from ..inference.fitted import Fit
from ..modeling.hidden import public_name
from ..posterior.many import pairs
from ..posterior.sites import is_discrete, plate_of
from ..posterior.traces import Pair
from . import scores


# -------------------------------------------------------------------- latent space
@dataclass
class LatentReport:
    """How a latent site is used; see `latent_report`.

    Attributes:
        table: One line per dimension: spread (variance over positions of the posterior mean), sd (mean posterior
            standard deviation), kl (mean KL from the prior, nats; NaN unless guide and prior are normal), active
            (spread above the threshold).
        means: Posterior means, one line per plate position, one column per dimension.
        directions: Number of directions of the latent space along which positions lie further apart than the posterior
            of one is wide: eigenvalues above 1 of the covariance of ``mean / sd``. Unlike `active` it does not depend
            on how the space is turned, and a dimension that carries a hundredth of a nat does not count.
        probes: R2 of a linear (ridge) map from the means to each known truth, in cross-validation.
    """

    table: pd.DataFrame
    means: pd.DataFrame
    probes: pd.Series
    directions: int

    @property
    def active(self) -> int:
        """Number of active dimensions."""
        return int(self.table["active"].sum())

    @property
    def collapsed(self) -> bool:
        """Whether the guide ignores the data: no dimension is active."""
        return self.active == 0


def latent_report(
    fit: Fit, data: Batch, site: str | None = None, *, draws: int = 50, seed: int = 0, threshold: float = 0.01
) -> LatentReport:
    """Active dimensions of a latent site, KL per dimension, collapse, and linear probes of the known truth.

    Probes use every entry of ``data.truth`` that lies along the site's plate and has at least two values.

    Args:
        fit: The fit; its best restart is used.
        data: Data to condition on.
        site: Name of a latent that the guide samples along a plate; by default the first along the rows, or else the
            first along another plate.
        draws: Number of draws of the guide.
        seed: Random seed for the draws.
        threshold: Variance over positions of the posterior mean above which a dimension is active, with a prior of
            variance 1. The usual 0.01 counts dimensions that hardly carry anything: ``directions`` counts what tells
            positions apart, and the KL says how much.

    Returns:
        A report with the table of the dimensions, the posterior means and the probes.

    Raises:
        KeyError: The guide samples no latent of this name.
        ValueError: The site lies outside all plates; or none was named, and the guide samples none along a plate.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> report = zoo.latent_report(fit, data, "c", draws=10)
        >>> report.table.columns.to_list()
        ['spread', 'sd', 'kl', 'active']
        >>> report.means.shape  # units, dimensions
        (71, 8)
        >>> report.active, report.collapsed
        (8, False)
        >>> 1 <= report.directions <= 8
        True
    """
    means: list[Tensor] = []
    variances: list[Tensor] = []
    divergences: list[Tensor] = []
    with isolated(seed), torch.no_grad():
        batch = fit.prepare(data)
        for drawn in pairs(fit.model, fit.guide, batch, draws, targets_only=True):
            site = _first_along_a_plate(fit, drawn) if site is None else site
            if site not in drawn.guide.nodes:
                raise KeyError(f"{site!r} is no latent of the guide; it samples {drawn.guide.stochastic_nodes}")
            # An AutoGuide puts the density on the unconstrained value, which is the value itself on the real line.
            real = _is_real(drawn.model.nodes[site]["fn"].support)
            holder = f"{site}_unconstrained" if real and f"{site}_unconstrained" in drawn.guide.nodes else site
            own = drawn.guide.nodes[holder]
            located, variance = _moments(own)
            divergence = _kl_by_dimension(own["fn"], drawn.model.nodes[site]["fn"])
            if divergence.dim() > located.dim():  # the prior depends on an enumerated site: the mean over its posterior
                weighted = drawn.shares(drawn.model.nodes[site])[..., None] * divergence
                divergence = weighted.sum(tuple(range(weighted.dim() - located.dim())))
            means.append(drawn.by_draw(own, located))
            variances.append(drawn.by_draw(own, variance))
            divergences.append(drawn.by_draw(own, divergence.expand_as(located)))
        # Law of total variance: other latents differ between draws, and a Delta has no variance of its own.
        mean_of = torch.cat(means)
        sds = (torch.cat(variances).mean(0) + mean_of.var(0)).sqrt()
        kls = torch.cat(divergences).mean(0)
    mean, sd, kl = (v.reshape(len(v), -1).cpu().numpy() for v in (mean_of.mean(0), sds, kls))
    plate = plate_of(drawn.guide.nodes[site])
    if not plate:
        raise ValueError(
            f"site: {site!r} lies along no plate, so it has no spread over positions; see draw or to_arviz"
        )
    spread = mean.var(0)
    table = pd.DataFrame({"spread": spread, "sd": sd.mean(0), "kl": kl.mean(0), "active": spread > threshold})
    names = pd.Index(batch.names(plate), name=plate)
    probes = {
        name: _probe(mean, truth)
        for name, truth in data.truth.items()
        if _along(data, name, plate, len(mean)) and len(np.unique(truth)) > 1
    }
    return LatentReport(
        table.rename_axis(site), pd.DataFrame(mean, index=names), pd.Series(probes, name="R2", dtype=float),
        _directions(mean, sd),
    )  # fmt: skip


def _directions(mean: np.ndarray, sd: np.ndarray) -> int:
    """Number of eigenvalues above 1 of the covariance of means (N, K) in posterior standard deviations, (N, K)."""
    width = np.sqrt((sd.astype(float) ** 2).mean(0))
    if not (width > 0).all():
        return int((mean.var(0) > 0).sum())  # a point has no width
    apart = (mean.astype(float) - mean.mean(0)) / width
    return int((np.linalg.svd(apart, compute_uv=False) ** 2 > len(mean)).sum())


def _first_along_a_plate(fit: Fit, drawn: Pair) -> str:
    plates = {
        name: plate_of(drawn.guide.nodes[name])
        for name, site in drawn.sites("guide")
        if name in drawn.model.nodes and public_name(name) not in fit.model.targets and not is_discrete(site)
    }
    on_rows = [name for name, plate in plates.items() if plate == fit.model.rows]
    found = on_rows + [name for name, plate in plates.items() if plate]
    if not found:
        raise ValueError("site: the guide samples no latent along a plate; see draw or to_arviz for the others")
    return found[0]


def _moments(site: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and variance of a guide's site; for a flow, which has neither in closed form, its draw and variance zero."""
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
