"""The paper's generative models: SSMTL (eq. 1, 2), the baseline MTL (appendix A) and their relatives (figure 5)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ...modeling.hidden import OBSERVED, UNOBSERVED, of_entries
from .context_model import ContextModel
from .local_guide import RowGuide
from .nets import GaussianMLP, mlp


class SSMTL(ContextModel):
    """Semi-supervised multi-task soft sensor.

    Generative process, for units i = 1..M and rows j = 1..N_i of unit i::

        c_i  ~ N(0_K, I_K)                                                            (eq. 1)
        z_ij ~ N(0_D, I_D)                                                            (eq. 1)
        x_ij ~ N(mu_x(z_ij, c_i), diag sigma_x(z_ij, c_i)^2)                          (eq. 1)
        y_ij ~ N(mu_y(z_ij, c_i), diag sigma_y(z_ij, c_i)^2), seen on labelled rows   (eq. 1)

    with one network for (mu_x, mu_y, sigma_x, sigma_y). All rows stand in one table of N = sum of N_i rows; ``unit``
    (N,) holds the index of each row's unit.

    Shapes: x (B, Dx), y (B, Dy), unit (B,), labelled (B,), row (B,), weight (B,); B rows of N in a minibatch. A
    minibatch that holds only the U units of its rows has unit_ids (U,) and unit_weight (U,). Where rows have part of
    their targets, y_seen (B, Dy) says which; the others are latent.

    Differences from the paper: the covariance is diagonal (the paper does not say), standard deviations have a floor.

    Reference: "A deep latent variable model for semi-supervised multi-unit soft sensing in industrial processes",
    eq. 1 and 2; see also `ContextModel` for the common arguments.

    Args:
        z_dim: D, dimension of a row's latent state.
        alpha: Weight of the labelled rows' log q(y | x, c) in the objective (eq. 20); the guides use it.
        dropout: Share of the hidden units of the head q(y | x, c) that each training step leaves out, in [0, 1).
        priors: Distributions by site name, "c" and "z", that replace the standard normal priors.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=3, n_labelled=5, n_unlabelled=20, n_test=4)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> zoo.predict(fit, test)[["y.mean", "y.sd"]].shape
        (12, 2)
    """

    row_sites = ("z", "y_unobserved")

    def __init__(
        self, x_dim: int, y_dim: int = 1, n_units: int = 1, c_dim: int = 4, z_dim: int = 5, width: int = 200,
        depth: int = 2, floor: float = 0.02, alpha: float = 1.0, x_loc: Any = None, x_scale: Any = None,
        y_loc: Any = None, y_scale: Any = None, priors: Mapping[str, Any] | None = None, dropout: float = 0.0,
        gaps: float = 0.0, x_transform: Any = None, y_transform: Any = None,
    ) -> None:  # fmt: skip
        own = gaps, x_transform, y_transform
        super().__init__(x_dim, y_dim, n_units, c_dim, width, depth, floor, x_loc, x_scale, y_loc, y_scale, *own)
        for name, value, kind, least in (("z_dim", z_dim, numbers.Integral, 1), ("alpha", alpha, numbers.Real, 0)):
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < math.inf:
                what = "a whole number" if kind is numbers.Integral else "a number"
                raise ValueError(f"{name}: {value!r}; {what} of at least {least} is needed")
        self.z_dim, self.alpha, self.dropout = z_dim, alpha, checked_dropout(dropout)
        self.decoder = GaussianMLP(z_dim + c_dim, x_dim + y_dim, width, depth, floor)
        self.set_priors(priors)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"c": self.standard_normal(self.c_dim), "z": self.standard_normal(self.z_dim)}

    def decode(self, z: Tensor, c: Tensor) -> tuple[dist.Distribution, dist.Distribution]:
        """p(x | z, c) and p(y | z, c), in the units of the data (eq. 1)."""
        (x_loc, y_loc), (x_scale, y_scale) = (t.split([self.x_dim, self.y_dim], -1) for t in self.decoder(z, c))
        return self.x_given(x_loc, x_scale), self.y_given(y_loc, y_scale)

    def forward(
        self, x: Tensor, unit: Tensor, sizes: Mapping[str, int], y: Tensor | None = None,
        labelled: Tensor | None = None, row: Tensor | None = None, weight: Tensor | None = None,
        unit_ids: Tensor | None = None, unit_weight: Tensor | None = None,
        x_seen: Tensor | None = None, y_seen: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        y, labelled = self.targets_of(x, y, labelled, y_seen)
        with self.plate("unit", sizes=sizes, unit_ids=unit_ids), self.weighted(unit_weight):
            c = pyro.sample("c", self.prior("c"))  # eq. 1
        with self.plate("row", sizes=sizes, row=row), self.weighted(weight):
            z = pyro.sample("z", self.prior("z"))  # eq. 1
            p_x, p_y = self.decode(z, c[..., unit, :])
            pyro.sample("x", of_entries(p_x, x_seen), obs=self.filled(x, x_seen))  # eq. 1
            if y_seen is None:
                pyro.sample("y", p_y, obs=y, obs_mask=labelled)  # eq. 1
            else:
                observe_entries("y", p_y, y, labelled)

    def local_guide(self) -> nn.Module:
        return RowGuide(self)


class MTL(ContextModel):
    """Multi-task baseline: the discriminative relative of SSMTL, on labelled rows only (appendix A, figure 6).

    Generative process::

        c_i  ~ N(0_K, I_K)
        y_ij ~ N(f(x_ij, c_i), sigma^2)        labelled rows; one sigma for all units

    Shapes and arguments are those of `SSMTL`. The objective uses labelled rows only, so that minibatches hold no
    others.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=3, n_labelled=5, n_unlabelled=0, n_test=4)
        >>> model = zoo.create_model("ssmtl", train, variant="mtl", c_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> zoo.predict(fit, test)[["y.mean", "y.sd"]].shape
        (12, 2)
    """

    fit_defaults = {**ContextModel.fit_defaults, "batch_size": {"labelled": 500, "unlabelled": 0}}

    def __init__(
        self, x_dim: int, y_dim: int = 1, n_units: int = 1, c_dim: int = 4, width: int = 200, depth: int = 2,
        floor: float = 0.02, x_loc: Any = None, x_scale: Any = None, y_loc: Any = None, y_scale: Any = None,
        priors: Mapping[str, Any] | None = None, x_transform: Any = None, y_transform: Any = None,
    ) -> None:  # fmt: skip
        own = 0.0, x_transform, y_transform
        super().__init__(x_dim, y_dim, n_units, c_dim, width, depth, floor, x_loc, x_scale, y_loc, y_scale, *own)
        self.f = mlp(x_dim + c_dim, y_dim, width, depth)
        self.log_sigma = nn.Parameter(torch.full((y_dim,), -1.0))
        self.set_priors(priors)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"c": self.standard_normal(self.c_dim)}

    def forward(
        self, x: Tensor, unit: Tensor, sizes: Mapping[str, int], y: Tensor | None = None,
        labelled: Tensor | None = None, row: Tensor | None = None, weight: Tensor | None = None,
        unit_ids: Tensor | None = None, unit_weight: Tensor | None = None, y_seen: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        y, labelled = self.targets_of(x, y, labelled, y_seen)
        with self.plate("unit", sizes=sizes, unit_ids=unit_ids), self.weighted(unit_weight):
            c = pyro.sample("c", self.prior("c"))
        with self.plate("row", sizes=sizes, row=row), self.weighted(weight):
            p_y = self.predict_y(x, c[..., unit, :])
            with poutine.mask(mask=labelled if y_seen is None else True):
                pyro.sample("y", of_entries(p_y, y_seen), obs=y)

    def predict_y(self, x: Tensor, c: Tensor) -> dist.Distribution:
        """p(y | x, c), in the units of the data."""
        x = self.standardise_x(x).expand((*c.shape[:-1], self.x_dim))
        return self.y_given(self.f(torch.cat([x, c], -1)), self.floor + self.log_sigma.exp())


class SSLVAE(ContextModel):
    """Semi-supervised VAE without contexts, x <- z -> y: all rows are of one unit (section 3.2, figure 5).

    Generative process, for rows j = 1..N::

        z_j ~ N(0_D, I_D)
        x_j ~ N(mu_x(z_j), diag sigma_x(z_j)^2)
        y_j ~ N(mu_y(z_j), diag sigma_y(z_j)^2)        seen on labelled rows

    Shapes and arguments are those of `SSMTL`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=1, n_labelled=5, n_unlabelled=20, n_test=4)
        >>> model = zoo.create_model("ssmtl", train, variant="ssl-vae", z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> zoo.predict(fit, test)[["y.mean", "y.sd"]].shape
        (4, 2)
    """

    plate_dims = {"row": -1}
    dims = {k: v for k, v in ContextModel.dims.items() if k != "c"}
    row_sites = ("z", "y_unobserved")

    def __init__(
        self, x_dim: int, y_dim: int = 1, z_dim: int = 5, width: int = 200, depth: int = 2, floor: float = 0.02,
        alpha: float = 1.0, x_loc: Any = None, x_scale: Any = None, y_loc: Any = None, y_scale: Any = None,
        priors: Mapping[str, Any] | None = None, dropout: float = 0.0, gaps: float = 0.0,
        x_transform: Any = None, y_transform: Any = None,
    ) -> None:  # fmt: skip
        own = gaps, x_transform, y_transform
        super().__init__(x_dim, y_dim, 0, 0, width, depth, floor, x_loc, x_scale, y_loc, y_scale, *own)
        self.z_dim, self.alpha, self.dropout = z_dim, alpha, checked_dropout(dropout)
        self.decoder = GaussianMLP(z_dim, x_dim + y_dim, width, depth, floor)
        self.set_priors(priors)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"z": self.standard_normal(self.z_dim)}

    def forward(
        self, x: Tensor, sizes: Mapping[str, int], y: Tensor | None = None, labelled: Tensor | None = None,
        row: Tensor | None = None, weight: Tensor | None = None, x_seen: Tensor | None = None,
        y_seen: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        y, labelled = self.targets_of(x, y, labelled, y_seen)
        with self.plate("row", sizes=sizes, row=row), self.weighted(weight):
            z = pyro.sample("z", self.prior("z"))
            (x_loc, y_loc), (x_scale, y_scale) = (t.split([self.x_dim, self.y_dim], -1) for t in self.decoder(z))
            p_x = self.x_given(x_loc, x_scale)
            pyro.sample("x", of_entries(p_x, x_seen), obs=self.filled(x, x_seen))
            p_y = self.y_given(y_loc, y_scale)
            if y_seen is None:
                pyro.sample("y", p_y, obs=y, obs_mask=labelled)
            else:
                observe_entries("y", p_y, y, labelled)

    def local_guide(self) -> nn.Module:
        return RowGuide(self)


class MLVAE(ContextModel):
    """Multi-level VAE of the inputs alone, c -> x <- z: no target, labels are not used (section 3.2, figure 5).

    Generative process, for units i = 1..M and rows j = 1..N_i of unit i::

        c_i  ~ N(0_K, I_K)
        z_ij ~ N(0_D, I_D)
        x_ij ~ N(mu_x(z_ij, c_i), diag sigma_x(z_ij, c_i)^2)

    Shapes and arguments are those of `SSMTL`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=3, n_labelled=0, n_unlabelled=20, n_test=4)
        >>> model = zoo.create_model("ssmtl", train, variant="ml-vae", c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> zoo.draw(fit, train, draws=10).groups["posterior"]["c"].shape  # chains, draws, units, K
        (1, 10, 3, 2)
    """

    dims = {k: v for k, v in ContextModel.dims.items() if k != "y"}
    row_sites = ("z",)
    targets = ()

    def __init__(
        self, x_dim: int, n_units: int = 1, c_dim: int = 4, z_dim: int = 5, width: int = 200, depth: int = 2,
        floor: float = 0.02, x_loc: Any = None, x_scale: Any = None, priors: Mapping[str, Any] | None = None,
        gaps: float = 0.0, x_transform: Any = None,
    ) -> None:  # fmt: skip
        own = gaps, x_transform
        super().__init__(x_dim, 0, n_units, c_dim, width, depth, floor, x_loc, x_scale, None, None, *own)
        self.z_dim = z_dim
        self.decoder = GaussianMLP(z_dim + c_dim, x_dim, width, depth, floor)
        self.set_priors(priors)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"c": self.standard_normal(self.c_dim), "z": self.standard_normal(self.z_dim)}

    def forward(
        self, x: Tensor, unit: Tensor, sizes: Mapping[str, int], row: Tensor | None = None,
        weight: Tensor | None = None, unit_ids: Tensor | None = None, unit_weight: Tensor | None = None,
        x_seen: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        with self.plate("unit", sizes=sizes, unit_ids=unit_ids), self.weighted(unit_weight):
            c = pyro.sample("c", self.prior("c"))
        with self.plate("row", sizes=sizes, row=row), self.weighted(weight):
            z = pyro.sample("z", self.prior("z"))
            p_x = self.x_given(*self.decoder(z, c[..., unit, :]))
            pyro.sample("x", of_entries(p_x, x_seen), obs=self.filled(x, x_seen))

    def local_guide(self) -> nn.Module:
        return RowGuide(self)


def observe_entries(site: str, p_y: dist.Distribution, y: Tensor, known: Tensor) -> None:
    """Sample y, observed at the entries `known`, (B, Dy), and latent elsewhere, by the sites of Pyro's ``obs_mask``.

    That one is for whole rows.
    """
    observed = pyro.sample(site + OBSERVED, of_entries(p_y, known), obs=y)
    hidden = pyro.sample(site + UNOBSERVED, of_entries(p_y, ~known))
    pyro.deterministic(site, torch.where(known, observed, hidden), event_dim=1)


def checked_dropout(share: float) -> float:
    """Return a share in [0, 1); anything else is a ValueError."""
    if not 0 <= share < 1:
        raise ValueError(f"dropout: {share}; give a share of at least 0 and below 1, such as 0.1")
    return share
