"""One fit of old and calibrated units."""

from __future__ import annotations

import dataclasses
import hashlib

import torch

from ....data.values import to_names
from ....inference.copies import isolated
from ....inference.fitted import Fit, Run
from ....modeling.guides import declared
from ..guides import PaperGuide
from .calibration import frozen


def join(fit: Fit, calibrated: Fit) -> Fit:
    """Put the units of a fit and those calibrated from it into one fit, which predicts all of them.

    Nothing is trained: each unit keeps its q(c). To train further on the rows of all units, give the result to
    `pyrozoo.fit` as ``warm_start``, which finds the units by their names.

    Args:
        fit: Fit with the guide "paper", of which the best restart is used.
        calibrated: A fit that `calibrate` made from it. A unit of both has the context of this one.

    Returns:
        A fit with the guide "paper", of the units of `fit` and then the others; it has no training data of its own.

    Raises:
        ValueError: A guide other than "paper", or networks that differ.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import calibrate, join, simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=10, n_test=1)
        >>> new, _ = simulate(n_units=6, n_labelled=3, n_unlabelled=10, n_test=5, seed=1)
        >>> new = new.subset((new["unit"] > 3).nonzero()[:, 0])  # units 4 and 5
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> joined = join(fit, calibrate(fit, new, steps=5, progress=False))
        >>> joined.prototype.names("unit").tolist()
        [0, 1, 2, 3, 4, 5]
    """
    for name, part in (("fit", fit), ("calibrated", calibrated)):
        if not isinstance(part.guide, PaperGuide):
            raise ValueError(f"{name}: its guide is {part.guide_name!r}; only contexts of the guide 'paper' are joined")
    for which in ("model", "guide"):
        one, other = (_networks(getattr(f, which)) for f in (fit, calibrated))
        if one.keys() != other.keys() or not all(torch.equal(one[k], other[k].to(one[k])) for k in one):
            raise ValueError("calibrated: its networks are not those of the fit; give the fit it was calibrated from")
    known, new = (f.prototype.coords["unit"] for f in (fit, calibrated))
    position = {name: i for i, name in enumerate(new.tolist())}
    added = [i for name, i in position.items() if name not in set(known.tolist())]
    with isolated(fit.best.seed), torch.no_grad():
        model, guide = frozen(fit, len(known) + len(added))
        for name in guide.sparse["unit"]:
            old, calibrated_lines = getattr(fit.guide, name), getattr(calibrated.guide, name).to(getattr(guide, name))
            lines = [calibrated_lines[position[u]] if u in position else old[i] for i, u in enumerate(known.tolist())]
            getattr(guide, name).copy_(torch.stack([*lines, *calibrated_lines[added]]))
    for module in (model, guide):
        module.requires_grad_(True)
    names = to_names([*known.tolist(), *new[added].tolist()])
    prototype = fit.prototype
    sizes = {**prototype.sizes, "unit": len(names)}
    prototype = dataclasses.replace(prototype, sizes=sizes, coords={**prototype.coords, "unit": names})
    run = Run(fit.best.seed, model, guide, fit.history, fit.best.status)
    sha256 = hashlib.sha256((fit.data["sha256"] + calibrated.data["sha256"]).encode()).hexdigest()
    rows = {name: n + calibrated.sizes.get(name, 0) for name, n in fit.sizes.items()}
    data = fit.data | {"name": f"{fit.data['name']} and {calibrated.data['name']}", "sha256": sha256}
    data["sizes"] = rows | {"unit": len(names)}
    settings = fit.settings | {"joined": calibrated.settings}
    return Fit([run], "paper", settings, data, prototype, fit.seconds + calibrated.seconds)


def _networks(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model or guide without its tables per unit."""
    tables = declared(module, "sparse").get("unit", ())
    return {name: value for name, value in module.state_dict().items() if name not in tables}
