"""compare_guides(): guides of one model side by side, each on the same networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..data.batch import Batch
from ..inference.copies import guide_label
from ..inference.fit import fit
from ..inference.fitted import Fit
from ..inference.loop import whole_fits
from ..modeling.base import ZooModel
from ..modeling.guides import declared, outer_sites
from ..modeling.registry import create_guide
from ..posterior.drawing import draw
from ..posterior.draws import Draws
from ..posterior.export import from_draws
from .importance import BAD, khat
from .scoring import metrics

SCORES = ("crps", "cover90", "log_loss", "ece")  # of the predictions, by those that a target has


@dataclass(frozen=True, repr=False)
class GuideComparison:
    """Result of `pyrozoo.compare_guides`, which `pyrozoo.plots.guides` draws.

    Attributes:
        table: One line per guide, in the order given. ``elbo``: E[log p - log q], in nats per row, and ``elbo_se``, its
            standard error over the draws; NaN for a point, whose number is no ELBO. ``khat``: the median of Pareto k,
            and ``bad``, the share above 0.7; NaN where k cannot be told. ``<target>.crps`` and ``.cover90`` of targets
            of numbers, ``.log_loss`` and ``.ece`` of classes, on the test rows. ``seconds`` of the guide's training.
            ``note``: why a number is missing.
        fits: Name -> fit.
        idata: Name -> ArviZ object of the latents that the guides are compared on.
        khat: Name -> Pareto k by position, of the guides that have one.
        networks: The fit that lent its networks; None for a model without.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=10, n_unlabelled=0)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, width=8, alpha=0.0)
        >>> found = zoo.compare_guides(model, {"paper": "paper"}, train, test, draws=25, steps=5, progress=False)
        >>> found.fits["paper"].guide_name, found.khat["paper"].index.name
        ('paper (own)', 'unit')
    """

    table: pd.DataFrame
    fits: dict[str, Fit]
    idata: dict[str, Any]
    khat: dict[str, pd.Series]
    networks: Fit | None

    def __repr__(self) -> str:
        return self.table.round(3).to_string()


@whole_fits()
def compare_guides(
    model: ZooModel, guides: Mapping[str, Any], data: Batch, test: Batch | None = None, *, networks: Fit | None = None,
    khat_options: Mapping[str, Any] | None = None, draws: int = 200, seed: int = 0, progress: bool = True,
    **settings: Any,
) -> GuideComparison:  # fmt: skip
    """Fit several guides on the same networks and compare ELBO, Pareto k, predictions and seconds.

    Latents of two ordinary fits cannot be laid over each other, and their ELBOs rank no guides: each fit has networks
    of its own. Here the networks are those of one fit and stay fixed, in the model and, where a guide has the same
    network for the rows' latents, there, too: only the guides differ, and a higher ELBO is closer to the one posterior.

    Networks that were trained with one guide can suit it. Lend those of the guide that you trust most, or compare
    twice.

    Args:
        model: The model.
        guides: Name -> guide: a name of the entry, an AutoGuide class or a factory, as for `pyrozoo.fit`.
        data: The training data.
        test: Labelled rows that were not trained on, to score the predictions; by default a quarter of the rows of
            `data`, drawn at random, which then do not train.
        networks: A fit of the model to `data` that lends its networks; by default a fit of the first guide with the
            same settings. A model without networks needs none.
        khat_options: Options of `pyrozoo.khat`; ``per`` is by default the group along which all latents outside the
            rows lie, and else that of `khat`.
        draws: Number of draws of the latents, for each number and picture.
        seed: Random seed.
        progress: Whether to show progress bars.
        **settings: Settings of all fits, as for `pyrozoo.fit`.

    Returns:
        The table, the fits, and what `pyrozoo.plots.guides` draws.

    Raises:
        ValueError: No guide; networks of another model; networks without test rows, which they might have seen; a
            target that no test row has.
        TypeError: A guide that is a module: its parameters would be shared by all comparisons.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=10, n_unlabelled=0)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, width=8, alpha=0.0)
        >>> guides = {"paper": "paper", "auto": AutoNormal, "point": "delta"}
        >>> found = zoo.compare_guides(model, guides, train, test, draws=25, steps=5, progress=False)
        >>> found.table.columns[:4].to_list(), found.table.columns[4:].to_list()
        (['elbo', 'elbo_se', 'khat', 'bad'], ['y.crps', 'y.cover90', 'seconds', 'note'])
        >>> found.table["note"]["point"]
        'c: a point, without ELBO and k'
        >>> zoo.plots.guides(found, "c", coords={"unit": [0, 1]}).get_suptitle()
        'guides on the same networks'
    """
    _require(guides, test, networks)
    if test is None:
        data, test = data.split(by=data.rows, seed=seed)
    for target in model.targets:
        if not test.observed(target).any():
            raise ValueError(f"test: no row has its {target!r}, so that predictions have no score; give such rows")
    common = {"seed": seed, "progress": progress, **settings}
    if networks is None and (any(p.requires_grad for p in model.parameters()) or model.local_guide() is not None):
        networks = fit(model, next(iter(guides.values())), data, **common)
    fits, objects, ks, lines = {}, {}, {}, {}
    for name, guide in guides.items():
        fits[name] = own = fit(model, guide if networks is None else _on(networks, guide), data, **common)
        if networks is not None:  # running means move in training
            _lend(own.model, networks.model)
        drawn = draw(own, data, draws=draws, seed=seed, sites=_compared(own.model), predictive=False, restarts=False)
        objects[name] = from_draws(drawn)
        scored, notes = _elbo(drawn, data), _points(drawn)
        if notes:
            scored = dict.fromkeys(scored, np.nan)
        else:
            try:
                options = {"per": _group_of(drawn, own.model, data), "seed": seed} | dict(khat_options or {})
                ks[name] = khat(own, data, **options)
            except ValueError as error:  # a joint guide has no k of each group
                notes.append(f"no k: {error}")
        told = ks[name].dropna() if name in ks else pd.Series(dtype=float)
        scored |= {"khat": told.median(), "bad": (told > BAD).mean()}
        found = metrics(own, test, draws=draws, seed=seed)
        scored |= {key: value for key, value in found.items() if key.rpartition(".")[2] in SCORES}
        lines[name] = scored | {"seconds": own.seconds, "note": "; ".join(notes)}
    return GuideComparison(pd.DataFrame.from_dict(lines, orient="index"), fits, objects, ks, networks)


def _require(guides: Mapping[str, Any], test: Batch | None, networks: Fit | None) -> None:
    if not guides:
        raise ValueError("guides: there is none to compare")
    for name, guide in guides.items():
        if isinstance(guide, nn.Module):
            raise TypeError(f"guides: {name!r} is a module; give the name, the class or a factory model -> guide")
    if networks is not None and test is None:
        raise ValueError("test: give rows that the networks have not seen; a part of the data would not be such")


def _on(networks: Fit, guide: Any) -> Callable[[ZooModel], nn.Module]:
    """A factory of the guide, on a model with these networks, which stay fixed."""

    def factory(model: ZooModel) -> nn.Module:
        made = create_guide(model, guide)
        _lend(model, networks.model)
        own, lent = (declared(each, "local") for each in (made, networks.guide))
        if own is not None and lent is not None and type(own) is type(lent):
            _lend(own, lent)
        return made

    label = guide_label(guide).removesuffix(" (own)")
    factory.__name__ = factory.__qualname__ = label
    return factory


def _lend(own: nn.Module, lent: nn.Module) -> None:
    try:
        own.load_state_dict(lent.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"networks: those of another model or other data ({reason})") from None
    own.requires_grad_(False)


def _compared(model: ZooModel) -> list[str]:
    """The latents that guides are compared on: those outside the rows, or the rows' where there are no others."""
    return outer_sites(model) or [site for site in model.priors() if site not in model.enumerated]


def _group_of(drawn: Draws, model: ZooModel, data: Batch) -> str | None:
    """The group along which all latents outside the rows lie; None if there is no such one."""
    first = {next(iter(drawn.dims.get(site, ())), "") for site in outer_sites(model)}
    return first.pop() if len(first) == 1 and first <= set(data.groups) else None


def _elbo(drawn: Draws, data: Batch) -> dict[str, float]:
    stats = drawn.groups["sample_stats"]
    each = (stats["lp"] - stats["lq"]).ravel() / data.n_rows
    return {"elbo": float(each.mean()), "elbo_se": float(each.std(ddof=1) / np.sqrt(each.size))}


def _points(drawn: Draws) -> list[str]:
    """Latents of which all draws are equal, in words."""
    fixed = [name for name, values in drawn.groups["posterior"].items() if np.ptp(values, axis=(0, 1)).max() == 0]
    return [f"{', '.join(fixed)}: a point, without ELBO and k"] if fixed else []
