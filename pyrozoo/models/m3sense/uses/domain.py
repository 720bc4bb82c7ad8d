"""The generative variant with a domain: which task's situation a window belongs to, also where no label tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ....data.batch import Batch
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ....posterior.traces import chunks, pair, row_blocks
from ..generative import Generative


class DomainGenerative(Generative):
    """`Generative` with a domain d per window: the task in whose situation the window was recorded.

    For windows n and tasks T::

        d_n  ~ Categorical(rho), restricted to the tasks that the window has a label of; summed out if it has none
        y_nT ~ Categorical(pi_T), summed out where it is not known
        a_nT ~ N(m_T[y_nT] + delta_T[d_n], I_A)
        f_n  ~ N(dec(a_n1, ..., a_nT), diag s^2)

    Places of classes can shift between the data sets of the tasks, and p(d | x) shows which task's data a window
    without labels resembles (`domain_probabilities`). Labels are predicted with d summed out. Only differences of delta
    between domains have a meaning: m_T absorbs their common part. From some starts two domains are not separated; fit
    with restarts, of which the best by ELBO predicts. Not in the paper.

    The prior of a_T may be given as a callable of (y, d), index tensors of one shape (..., B). Arguments of
    `AffectModel` and `LatentModel`.

    Raises:
        ValueError: There is one task only, hence one domain.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate_all
        >>> windows = simulate_all(n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 16})
        >>> sizes = {"embedding": 8, "lstm_layers": 1, "hidden": (8, 8), "head": 8, "a_dim": 2, "q_hidden": 8}
        >>> model = zoo.create_model("m3sense", windows, variant="generative-domain", **sizes)
        >>> tuple(model.shifts.shape)  # delta: task, domain, dimensions of the latent
        (3, 3, 2)
    """

    def _networks(self) -> None:
        if len(self.tasks) < 2:
            raise ValueError(f"tasks: {list(self.tasks)} make one domain; take variant 'generative', or another task")
        super()._networks()
        self.enumerated = ("domain", *self.targets)
        self.domain_logits = nn.Parameter(torch.zeros(len(self.tasks)))
        # Random start, like the places: fits that started at zero ended where latents do not depend on the domain.
        self.shifts = nn.Parameter(torch.randn(len(self.tasks), len(self.tasks), self.a_dim))  # task, domain

    def _place(self, i: int, y: Tensor, *parents: Tensor) -> dist.Distribution:
        """The distribution p(a_T | y_T, d) of task i."""
        (d,) = parents
        return dist.Normal(self.places[i][y] + self.shifts[i][d], 1.0).to_event(1)

    def shared_parents(self, f: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Sample the domain d; where a window is labelled, only the tasks that it has labels of are possible."""
        known = torch.stack([self.known(task, batch, f[None])[1] for task in self.tasks])  # (T, B)
        d = pyro.sample("domain", dist.Categorical(logits=self.domain_logits), infer={"enumerate": "parallel"})
        labelled_here = known[d, torch.arange(known.shape[1], device=d.device)]
        pyro.factor("domain_label", torch.where(known.any(0) & ~labelled_here, -math.inf, 0.0).to(f))
        return (d,)


def domain_probabilities(fit: Fit, data: Batch, *, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Estimate p(d | x) of every window from its signals alone: the task whose situation it belongs to.

    Given a draw of the latents from q, p(d | latents) is exact, with the classes summed out; it is averaged over draws.

    Args:
        fit: A fit of variant "generative-domain", of which the best restart is used.
        data: N windows, whose labels are not used.
        draws: Number of draws of the latents.
        seed: Random seed for the draws.

    Returns:
        Table (N, D), one column per task; every row sums to 1.

    Raises:
        TypeError: The fit is of a variant without domains.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import domain_probabilities, simulate_all
        >>> windows = simulate_all(n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 16})
        >>> sizes = {"embedding": 8, "lstm_layers": 1, "hidden": (8, 8), "head": 8, "a_dim": 2, "q_hidden": 8}
        >>> model = zoo.create_model("m3sense", windows, variant="generative-domain", **sizes)
        >>> fit = zoo.fit(model, "paper", windows, steps=5, progress=False)
        >>> p = domain_probabilities(fit, windows, draws=20)
        >>> p.columns.tolist(), bool(p.sum(axis=1).sub(1).abs().max() < 1e-5)
        (['anxiety', 'emotion', 'stress'], True)
    """
    model = fit.model
    if not isinstance(model, DomainGenerative):
        raise TypeError(f"fit: {type(model).__name__} has no domains; fit variant 'generative-domain'")
    found = []
    with isolated(seed), torch.no_grad():
        for block in row_blocks(fit.prepare(data.hide())):
            arguments, total = model.arguments(block), torch.zeros(())
            for n in chunks(draws, block):
                drawn = pair(model, fit.guide, arguments, copies=n)
                log_p = [drawn.log_conditional("domain", torch.tensor(k)) for k in range(len(model.tasks))]
                total = total + torch.stack(log_p, -1).exp().sum(0)
            found.append((total / draws).cpu())
    index = pd.Index(data.names(data.rows), name=data.rows)
    return pd.DataFrame(torch.cat(found).numpy(), index=index, columns=pd.Index(model.tasks, name="domain"))
