"""Prediction through the generative model, for guides that have a predictive head of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from tqdm.auto import tqdm

from ..data.batch import Batch
from ..inference.copies import isolated
from ..inference.fitted import Fit, Run
from ..modeling.hidden import UNOBSERVED
from ..posterior.columns import columns_of, summary
from ..posterior.many import chunks
from ..posterior.predicting import names_in
from ..posterior.traces import outside, pair
from .arguments import target_of
from .importance import pareto_k

ROWS = 8192  # rows x particles of one pass, to bound the memory


class _Widened(Messenger):
    """Samples a normal site from an equal mixture of normals with the same mean and wider scales."""

    def __init__(self, site: str, factors: Sequence[float]) -> None:
        super().__init__()
        self.site, self.factors = site, factors

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] != self.site or msg["is_observed"]:
            return
        fn = msg["fn"]
        base, event = getattr(fn, "base_dist", fn), fn.event_dim
        if not isinstance(base, torch.distributions.Normal):
            raise ValueError(f"site {self.site!r} of the guide is no normal distribution; widen=(1,) leaves it alone")
        factors = base.scale.new_tensor(self.factors).reshape(-1, *(1,) * event)
        loc, scale = base.loc.unsqueeze(-1 - event), base.scale.unsqueeze(-1 - event) * factors
        mix = dist.Categorical(logits=scale.new_zeros(*fn.batch_shape, len(self.factors)))
        msg["fn"] = dist.MixtureSameFamily(mix, dist.Normal(loc, scale).to_event(event))


def predict_by_importance(
    fitted: Fit, batch: Batch, *, target: str | None = None, draws: int = 20, particles: int = 60,
    widen: Sequence[float] = (1.0, 3.0, 10.0), seed: int = 0,
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95), progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Predict through the generative model, with the guide's predictive head only as a proposal.

    `pyrozoo.predict` draws y from the guide if it has a head q(y | x, c). This function draws from the model's own
    predictive distribution given each draw of the latents outside the rows (in SSMTL the contexts)::

        p(y | x, c) = int p(y | z, c) p(x | z, c) p(z) dz / p(x | c)

    by self-normalised importance sampling: rows' latents and y from the guide, the head replaced by an equal mixture
    of itself and wider ones (a defensive proposal, Owen and Zhou 2000), with weights p / q. It costs
    ``draws x particles`` passes through all networks.

    Use held-out labels to see whether it is better: it replaces an overconfident head by a decoder that may be wrong
    in other ways; if the head is accurate, the intervals only become wider.

    Args:
        fitted: The fit; its best restart predicts. Its guide must draw the targets.
        batch: Data; its targets are hidden.
        target: Name of the target to predict; by default the first that the guide draws.
        draws: Number of draws of the latents outside the rows.
        particles: Number of importance draws of a row's latents and target for each of these draws.
        widen: Factors of the head's standard deviation in the proposal; (1,) if the head is not a normal distribution.
        seed: Random seed for the draws.
        quantiles: Quantiles to report, each in (0, 1).
        progress: Whether to show a progress bar.

    Returns:
        The columns of `pyrozoo.predict`, and ``y.ess``, the effective number of the ``draws x particles`` weighted
        draws, and ``y.khat``, the Pareto k of the row's weights: above 0.7 the proposal has almost no draws where the
        model predicts, and the row's prediction is not the model's.

    Raises:
        ValueError: The guide does not draw the target, so that `pyrozoo.predict` is already the model's prediction; or
            its head is not normal and `widen` is not (1,).
        KeyError: A group was not in the training data, and the guide is not amortised over it.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> table = zoo.predict_by_importance(fit, data, draws=5, particles=20, quantiles=(0.05, 0.95))
        >>> table.columns.to_list()
        ['y.mean', 'y.sd', 'y.q05', 'y.q95', 'y.ess', 'y.khat']
        >>> own = zoo.predict(fit, data, draws=50)
        >>> bool(table["y.sd"].mean() > own["y.sd"].mean())  # the head alone is surer
        True
    """
    with isolated(seed), torch.no_grad():
        data, run = fitted.prepare(batch.hide()), fitted.best
        few = run.model.arguments(data.take([0]))
        drawn = poutine.trace(run.guide).get_trace(**few).nodes
        target = target_of(run.model, target, lambda name: name + UNOBSERVED in drawn)
        site = target + UNOBSERVED
        if site not in drawn:
            raise ValueError(
                f"target: the guide draws no {target!r}; pyrozoo.predict is the model's own prediction here"
            )
        proposal = run.guide if tuple(widen) == (1,) else _Widened(site, widen)(run.guide)
        parts = []
        with tqdm(total=draws * data.n_rows, desc="importance", disable=not progress, unit="draw") as bar:
            for rows in torch.arange(data.n_rows).split(ROWS // 4):
                values, logs = _weighted_draws(run, proposal, data.take(rows), site, draws, particles, bar)
                shares = (logs - logs.logsumexp(1, keepdim=True)).exp().flatten(0, 1) / draws
                columns = _weighted_columns(fitted, target, values, shares, quantiles)
                ess = (1 / (shares**2).sum(0)).numpy()
                shapes = np.array([pareto_k(shares[:, i].log()) for i in range(shares.shape[1])])
                parts.append(pd.DataFrame(columns | columns_of(target, {"ess": ess, "khat": shapes})))
    return pd.concat(parts).set_axis(pd.Index(batch.names(batch.rows), name=batch.rows))


def _weighted_draws(
    run: Run, proposal: Any, part: Batch, site: str, draws: int, particles: int, bar: tqdm
) -> tuple[Tensor, Tensor]:
    """Draws of the target (draws x particles, N, J) and their log weights (draws, particles, N)."""
    plate, arguments = run.model.rows, run.model.arguments(part)
    blocks = [part.take(np.tile(np.arange(part.n_rows), n)) for n in chunks(particles, part, ROWS)]
    values, weights = [], []
    for _ in range(draws):
        fixed = outside(poutine.trace(run.guide).get_trace(**arguments), {plate})
        fixed.remove_node(plate)  # the rows' positions: a block repeats them
        for block in blocks:
            drawn = pair(run.model, proposal, block, fixed)
            value = drawn.guide.nodes[site]["value"].double().cpu()
            values.append(value.reshape(-1, part.n_rows, *value.shape[1:]))
            weight = drawn.by_plate("model")[plate] - drawn.by_plate("guide")[plate]
            weights.append(weight.double().cpu().reshape(-1, part.n_rows))
        bar.update(part.n_rows)
    return torch.cat(values).flatten(2), torch.cat(weights).reshape(draws, particles, -1)


def _weighted_columns(
    fitted: Fit, target: str, values: Tensor, shares: Tensor, quantiles: tuple[float, ...]
) -> dict[str, np.ndarray]:
    """Columns of a `predict` table from draws (S, N, J) with shares (S, N) that sum to one over S."""
    out: dict[str, np.ndarray] = {}
    for j, name in enumerate(names_in(fitted, target, values.shape[2])):
        drawn = values[:, :, j]
        mean = (shares * drawn).sum(0)
        sd = (shares * (drawn - mean) ** 2).sum(0).sqrt()
        ordered, order = drawn.sort(0)
        reached = shares.gather(0, order).cumsum(0)
        first = {q: (reached < q).sum(0).clamp(max=len(ordered) - 1) for q in quantiles}
        levels = {q: ordered.gather(0, place[None])[0].numpy() for q, place in first.items()}
        out |= columns_of(name, summary(mean.numpy(), sd.numpy(), levels))
    return out
