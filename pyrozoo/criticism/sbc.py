"""Simulation-based calibration of a guide, the model's parameters fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from torch import Tensor

from ..data.batch import Batch
from ..data.build import FRAMES
from ..inference.copies import build, isolated, run_seed
from ..inference.loop import Training
from ..inference.settings import Settings
from ..modeling.base import ZooModel
from ..modeling.guides import declared, with_support
from ..posterior.many import pairs
from ..posterior.sites import squeezed


# -------------------------------------------------------------------- simulation-based calibration
def sbc(
    model: ZooModel, guide: Any, layout: Batch, site: str, *, simulations: int = 20, draws: int = 99, seed: int = 0,
    **settings: Any,
) -> pd.DataFrame:  # fmt: skip
    """Ranks of true latents among guide draws, over data simulated from the model itself: uniform if calibrated.

    The model's parameters are kept. Each simulation draws the latents from the prior and data from the model, in the
    layout of a batch (its rows, groups, and which labels are seen), and fits only the guide.

    Args:
        model: The model with its parameters.
        guide: Name of a guide, AutoGuide class or factory, as in `fit`.
        layout: Batch whose observed tensors are replaced by simulated ones.
        site: Name of the latent to rank.
        simulations: Number of simulated data sets.
        draws: Number of draws to rank among; ranks are 0..draws.
        seed: Random seed for the simulations, the fits and the draws.
        **settings: Settings of each fit, e.g. ``steps``; see `fit`.

    Returns:
        One line per simulation and component of the site: simulation, component, rank.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> layout, _ = simulate(n_units=4, n_labelled=10, n_unlabelled=0)
        >>> model = zoo.create_model("ssmtl", layout, width=16)
        >>> ranks = zoo.sbc(model, "paper", layout, "c", simulations=2, draws=19, steps=20)
        >>> ranks.shape  # 2 simulations of 4 units with 4 dimensions each
        (32, 3)
        >>> ranks.columns.to_list()
        ['simulation', 'component', 'rank']
    """
    options = Settings.resolve(model, guide, settings).for_data(layout)
    rows = []
    for index in range(simulations):
        own_seed = run_seed(seed, index)
        with isolated(own_seed):
            own, own_guide = build(model, guide)
            own.load_state_dict(model.state_dict())
            own.requires_grad_(False)
            with torch.no_grad():
                batch, truth = _data_and_latent(own, layout, site)
            batch = with_support(own_guide, batch)
            if solve := declared(own_guide, "solve"):
                solve(batch)
            else:
                Training(own, own_guide, batch, None, options, own_seed, None).run(
                    resume=False, progress=None, callback=None
                )
            own.eval(), own_guide.eval()
            with torch.no_grad():
                drawn = list(pairs(own, own_guide, batch, draws))
            values = torch.cat([part.by_draw(part.guide.nodes[site]) for part in drawn])
            ranks = (values < truth).sum(0).reshape(-1).tolist()
            rows += [{"simulation": index, "component": j, "rank": rank} for j, rank in enumerate(ranks)]
    return pd.DataFrame(rows)


def _data_and_latent(model: ZooModel, layout: Batch, site: str) -> tuple[Batch, Tensor]:
    """Draw data in this layout from the model, and return them with the latent that they came from."""
    trace = poutine.trace(poutine.uncondition(model)).get_trace(**model.arguments(layout))
    tensors = dict(layout.tensors)
    for name in tensors:
        if name in trace.nodes and trace.nodes[name]["type"] == "sample" and name not in model.plate_dims:
            value = trace.nodes[name]["value"].detach()
            if layout.along[name] == FRAMES:  # the model pads recordings, a batch lays them end to end
                lengths = layout["lengths"]
                value = value[torch.arange(value.shape[1], device=value.device) < lengths[:, None]]
            tensors[name] = value
    return layout.with_tensors(tensors), squeezed(trace.nodes[site]["value"].detach(), trace.nodes[site])


def rank_p_value(ranks: Any, draws: int, bins: int = 10) -> float:
    """P value of a chi-squared test that ranks in 0..draws are uniform.

    Args:
        ranks: Ranks, e.g. the column ``rank`` of `sbc`.
        draws: Largest possible rank.
        bins: Number of bins of equal width.
    """
    from scipy.stats import chisquare

    counts, _ = np.histogram(np.asarray(ranks), bins=np.linspace(0, draws + 1, bins + 1))
    return float(chisquare(counts).pvalue)
