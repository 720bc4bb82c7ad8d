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
from ..model import Generative


class DomainGenerative(Generative):
    """As `Generative`, with a domain d per window: one for every task, whose situation the window belongs to.

    For windows n and tasks T::

        d_n  ~ Categorical(rho), among the tasks that the window has a label of; summed out where it has none
        y_nT ~ Categorical(pi_T), summed out where it is not known
        a_nT ~ N(m_T[y_nT] + delta_T[d_n], I_A)
        f_n  ~ N(dec(a_n1, ..., a_nT), diag s^2)

    Places of classes can shift between the data sets that the tasks come from, and p(d | x) says whose data a window
    without labels resembles (`domain_probabilities`). Labels are predicted with d summed out. Only differences of
    delta between domains mean something: m_T takes up what they share. From some starts two domains are not told apart;
    fit with restarts, of which the best by ELBO predicts. Not in the paper.

    The prior of a_T may be given as a callable of (y, d), index tensors of one shape (..., B).

    Raises:
        ValueError: Of one task alone there is nothing to tell apart.
    """

    def _networks(self) -> None:
        if len(self.tasks) < 2:
            raise ValueError(f"tasks: {list(self.tasks)} make one domain; take variant 'generative', or another task")
        super()._networks()
        self.enumerated = ("domain", *self.targets)
        self.domain_logits = nn.Parameter(torch.zeros(len(self.tasks)))
        # Apart from the start, as the places are: from zero, fits ended where latents say nothing of the domain.
        self.shifts = nn.Parameter(torch.randn(len(self.tasks), len(self.tasks), self.a_dim))  # task, domain

    def _place(self, i: int, y: Tensor, d: Tensor) -> dist.Distribution:
        """p(a_T | y_T, d) of task i."""
        return dist.Normal(self.places[i][y] + self.shifts[i][d], 1.0).to_event(1)

    def shared_parents(self, f: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Sample the domain d; every task that the window has no label of is ruled out where it has one of another."""
        known = torch.stack([self.known(task, batch, f[None])[1] for task in self.tasks])  # (T, B)
        d = pyro.sample("domain", dist.Categorical(logits=self.domain_logits), infer={"enumerate": "parallel"})
        labelled_here = known[d, torch.arange(known.shape[1], device=d.device)]
        pyro.factor("domain_label", torch.where(known.any(0) & ~labelled_here, -math.inf, 0.0).to(f))
        return (d,)


def domain_probabilities(fit: Fit, data: Batch, *, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """p(d | x) of every window as if it had no label: the task whose situation it belongs to.

    Exact given each draw of the latents from q, the classes summed out; the mean over draws.

    Args:
        fit: A fit of variant "generative-domain"; its best restart.
        data: N windows.
        draws: Draws of the latents.
        seed: Of the draws.

    Returns:
        (N, D), a column per task; every row sums to 1.

    Raises:
        TypeError: The fit is of a variant without domains.
    """
    model = fit.model
    if not isinstance(model, DomainGenerative):
        raise TypeError(f"fit: {type(model).__name__} has no domains; fit variant 'generative-domain'")
    found = []
    with isolated(seed), torch.no_grad():
        for block in row_blocks(fit.prepare(data.hide())):
            arguments, total = model.arguments(block), 0.0
            for n in chunks(draws, block):
                drawn = pair(model, fit.guide, arguments, copies=n)
                log_p = [drawn.log_conditional("domain", torch.tensor(k)) for k in range(len(model.tasks))]
                total = total + torch.stack(log_p, -1).exp().sum(0)
            found.append((total / draws).cpu())
    index = pd.Index(data.names(data.rows), name=data.rows)
    return pd.DataFrame(torch.cat(found).numpy(), index=index, columns=pd.Index(model.tasks, name="domain"))
