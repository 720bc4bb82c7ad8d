"""loo(): leave-one-out cross-validation from one fit, with the latents of the row that is left out integrated out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.batch import Batch
from ..inference.copies import isolated
from ..inference.fitted import Fit, Run
from ..posterior.many import chunks, pairs, within
from ..posterior.sites import plates_of
from ..posterior.traces import pair
from .importance import BAD, is_point, log_weights, row_weights, shapes, training_data
from .sensitivity import smoothed


@dataclass(frozen=True)
class Loo:
    """Result of `pyrozoo.loo`.

    Attributes:
        elpd_loo: Sum over the rows of the log density of each given all others, in nats.
        se: Standard error of `elpd_loo` over rows.
        p_loo: Effective number of parameters: how much more probable the rows are if the fit has seen them.
        rows: One line per row: ``elpd``; ``k``, the Pareto k of the weights that leave the row out, above 0.7 not to be
            trusted; ``k_latents``, that of the weights that integrate out the row's own latents, -inf if that is exact.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=10, n_unlabelled=0)
        >>> fit = zoo.fit(zoo.create_model("ssmtl", train, width=16), "paper", train, steps=20, progress=False)
        >>> found = zoo.loo(fit, draws=50)
        >>> found.rows.columns.to_list(), len(found.rows)
        (['elpd', 'k', 'k_latents'], 40)
        >>> bool(abs(found.rows["elpd"].sum() - found.elpd_loo) < 1e-9)
        True
    """

    elpd_loo: float
    se: float
    p_loo: float
    rows: pd.DataFrame

    def __repr__(self) -> str:
        bad = int((self.rows[["k", "k_latents"]] > BAD).any(axis=1).sum())
        trust = f"; {bad} of {len(self.rows)} not to be trusted (k > {BAD})" if bad else ""
        return (
            f"Loo(elpd_loo {self.elpd_loo:.2f}, se {self.se:.2f}, p_loo {self.p_loo:.2f}; {len(self.rows)} rows{trust})"
        )


def loo(
    fit: Fit, data: Batch | None = None, *, draws: int = 400, inner: int = 20, seed: int = 0, progress: bool = False
) -> Loo:
    """Leave-one-out cross-validation by Pareto-smoothed importance sampling (Vehtari, Gelman and Gabry 2017), for rows.

    ::

        elpd_i = log sum_s w_is p(row i | globals_s),   w_is ~ 1 / p(row i | globals_s),   globals_s ~ q

    A row is all its observed values together, given the latents outside the rows. Latents of the row itself must not be
    among what is conditioned on: the guide drew them knowing the row, which leaving it out does not undo. Enumerated
    ones are summed out; others are integrated out by `inner` importance draws from the guide.

    ``az.loo`` on the object of `to_arviz` does the same where nothing is to be integrated out: no latent that the guide
    samples lies along the rows, and one site is observed, in every row. If there are latents of rows, it means nothing.

    The draws of the guide stand for the posterior: see ``khat(per="global")`` or the k of the groups. A row that is the
    only one of its group decides the group's latents, and has a large k; then leave out whole groups by `fit_folds`.

    Args:
        fit: The fit; its best restart is used.
        data: The training data; needed for a fit that was loaded, which does not hold them.
        draws: Number of draws S of the latents outside the rows, at least 25.
        inner: Number of draws of the rows' own latents for each of these.
        seed: Random seed for the draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: Data other than the training data, or none; too few draws; a guide whose draws are all equal.

    Example:
        >>> import numpy as np
        >>> import pyro, pyro.distributions as dist
        >>> import pyrozoo as zoo
        >>> from pyro.infer.autoguide import AutoNormal
        >>> class Level(zoo.ZooModel):
        ...     def __init__(self, priors=None):
        ...         super().__init__()
        ...         self.set_priors(priors)
        ...     def priors(self):
        ...         return {"m": dist.Normal(0.0, 1.0)}
        ...     def forward(self, y, **batch):
        ...         m = pyro.sample("m", self.prior("m"))
        ...         with self.plate("row", **batch):
        ...             pyro.sample("y", dist.Normal(m, 1.0), obs=y)
        >>> data = zoo.Batch.from_arrays(rows={"y": np.random.default_rng(0).normal(size=50)})
        >>> found = zoo.loo(zoo.fit(Level(), AutoNormal, data, steps=300, lr=0.02, progress=False))
        >>> 0.5 < found.p_loo < 1.5  # one parameter
        True
    """
    data = training_data(fit, data, "leaving out a row of the training data needs them")
    if draws < 25:
        raise ValueError(f"draws: {draws} weights have no tail to smooth; use at least 25, better 400")
    if inner < 1:
        raise ValueError(f"inner: {inner}; at least 1 is needed")
    with isolated(seed), torch.no_grad():
        batch = fit.prepare(data)
        if is_point(fit.best, batch):
            raise ValueError(
                "fit: all draws of its guide are equal, so that no row can be left out of them; use a guide with a "
                "spread, e.g. AutoNormal"
            )
        exact = not _samples_rows(fit.best, batch)
        density = _densities(fit.best, batch, draws, None if exact else inner, progress)
        k_latents = -np.inf if exact else shapes(row_weights(fit.best, batch, max(draws, 200)), np.arange(data.n_rows))
    weights, k = smoothed(-density)
    elpd = (weights.log() + density).logsumexp(0).numpy()
    seen = density.logsumexp(0).numpy() - np.log(draws)
    rows = pd.DataFrame(
        {"elpd": elpd, "k": k, "k_latents": k_latents}, index=pd.Index(data.names(data.rows), name=data.rows)
    )
    return Loo(float(elpd.sum()), float(np.sqrt(len(elpd)) * elpd.std()), float((seen - elpd).sum()), rows)


def _samples_rows(run: Run, batch: Batch) -> bool:
    drawn = pair(run.model, run.guide, batch)
    return any(run.model.rows in plates_of(site) for _, site in drawn.sites("guide"))


def _densities(run: Run, batch: Batch, draws: int, inner: int | None, progress: bool) -> Tensor:
    """Log density (S, N) of each row given each draw of what is outside the rows; in double precision."""
    rows, out = run.model.rows, []
    with tqdm(total=draws, desc="leave one out", disable=not progress, unit="draw") as bar:
        if inner is None:
            for part in pairs(run.model, run.guide, batch, draws):
                out.append(part.by_plate("model")[rows].double().cpu())
                bar.update(part.draws)
            return torch.cat(out)
        at_once = max(1, chunks(draws * inner, batch)[0] // inner) * batch.n_rows
        for outer in pairs(run.model, run.guide, batch, draws, at_once=at_once):
            parts = within(outer, run.model, run.guide, batch, inner, {rows})
            terms = torch.cat([log_weights(part)[rows] for part in parts]).double().cpu()
            out.append(terms.reshape(outer.draws, inner, -1).logsumexp(1) - np.log(inner))
            bar.update(outer.draws)
    return torch.cat(out)
