"""The generative variant with a domain: which task's situation a window belongs to, also where no label tells."""

from __future__ import annotations

import pandas as pd
import torch

from ....data.batch import Batch
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ....posterior.many import pairs, row_blocks
from ..generative import DomainGenerative


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
            total = torch.zeros(())
            for drawn in pairs(model, fit.guide, block, draws):
                log_p = [drawn.log_conditional("domain", torch.tensor(k)) for k in range(len(model.tasks))]
                total = total + torch.stack(log_p, -1).exp().sum(0)
            found.append((total / draws).cpu())
    index = pd.Index(data.names(data.rows), name=data.rows)
    return pd.DataFrame(torch.cat(found).numpy(), index=index, columns=pd.Index(model.tasks, name="domain"))
