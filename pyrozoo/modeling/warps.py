"""Distributions of quantities that are normal on another scale: logarithms, logits, Yeo-Johnson."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform
from torch.nn.functional import softplus

NAMES = ("log", "logit", "yeo-johnson")
NODES, WEIGHTS = (torch.as_tensor(values) for values in np.polynomial.hermite_e.hermegauss(48))
POWERS = (0.0, 2.0)  # in which Yeo-Johnson's transform has the whole line as its range


class Columnwise(Transform):
    """From the scale on which columns are normal, (..., D), to their own units: per column exp, sigmoid, or another.

    Args:
        specs: One per column: None for no change, "log", "logit", or ("yeo-johnson", power).
    """

    bijective = True
    sign = 1
    domain = constraints.real

    def __init__(self, specs: Sequence[Any]) -> None:
        super().__init__()
        self.specs = tuple(tuple(spec) if isinstance(spec, list) else spec for spec in specs)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """Where all columns lie; with columns of several kinds, or of one, the whole line."""
        kinds = {"log": constraints.positive, "logit": constraints.unit_interval}
        return kinds.get(str(self.specs[0]), constraints.real) if len(set(self.specs)) == 1 else constraints.real

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columnwise) and self.specs == other.specs

    def __hash__(self) -> int:
        return hash(self.specs)

    def _call(self, x: Tensor) -> Tensor:
        return self._by_column(lambda spec, x: _KINDS[_kind(spec)][0](x, _power(spec)), x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._by_column(lambda spec, y: _KINDS[_kind(spec)][1](y, _power(spec)), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log derivative of the units by the scale, entry by entry, (..., D)."""
        return self._by_column(lambda spec, x, y: _KINDS[_kind(spec)][2](x, y, _power(spec)), x, y)

    def _by_column(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        if len(set(self.specs)) == 1:
            return function(self.specs[0], *tensors)
        return torch.stack([function(spec, *(t[..., j] for t in tensors)) for j, spec in enumerate(self.specs)], -1)


class Warped(dist.TransformedDistribution):
    """A normal distribution on another scale; mean and variance by Gauss-Hermite quadrature with 48 nodes.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyrozoo.modeling.warps import Columnwise, Warped
        >>> flow = Warped(dist.Normal(torch.zeros(1), 0.5), [Columnwise(["log"])])
        >>> torch.allclose(flow.mean, dist.LogNormal(torch.zeros(1), 0.5).mean)
        True
    """

    @property
    def mean(self) -> Tensor:
        """Mean in the units of the quantity."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """Variance in the units of the quantity."""
        return (self._moment(2) - self._moment(1) ** 2).clamp(min=0)

    def _moment(self, power: int) -> Tensor:
        base = self.base_dist
        nodes, weights = NODES.to(base.loc), (WEIGHTS / WEIGHTS.sum()).to(base.loc)
        shape = (-1, *[1] * base.loc.dim())
        values = base.loc + base.scale * nodes.reshape(shape)
        for transform in self.transforms:
            values = transform(values)
        return (weights.reshape(shape) * values**power).sum(0)


def unwarped(fn: Any) -> Any:
    """The normal distribution behind a warped one, inside masks and event dimensions; None if there is none."""
    while not isinstance(fn, Warped):
        if not hasattr(fn, "base_dist"):
            return None
        fn = fn.base_dist
    return fn.base_dist


def specs_of(what: str, given: Any, columns: Sequence[Any], size: int) -> list[Any] | None:
    """One spec per column from what a user gives: a name for all, one per column, or column -> name; None for none.

    Raises:
        KeyError, ValueError: A column or name that does not exist, or another number of them.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        if unknown := [name for name in given if name not in list(columns)]:
            raise KeyError(f"{what}: {unknown[0]!r} is none of the columns {list(columns)}")
        specs = [given.get(name) for name in columns]
    else:
        specs = [given] * size if isinstance(given, str) or _is_power(given) else list(given)
    if len(specs) != size:
        raise ValueError(f"{what}: {len(specs)} transforms for {size} columns")
    for spec in specs:
        if spec is not None and spec not in NAMES and not _is_power(spec):
            raise ValueError(f"{what}: {spec!r} is none of {list(NAMES)}")
    return None if all(spec is None for spec in specs) else specs


def with_powers(specs: Sequence[Any], values: Tensor) -> list[Any]:
    """The specs with the power of each "yeo-johnson" by maximum likelihood, between 0 and 2, from `values` (N, D).

    Values that are not known are NaN.
    """
    from scipy.stats import yeojohnson_normmax  # which takes half a second to import

    out = []
    for j, spec in enumerate(specs):
        if spec == "yeo-johnson":
            column = values[:, j][~values[:, j].isnan()].double().cpu().numpy()
            power = float(yeojohnson_normmax(column)) if len(column) > 1 else 1.0
            spec = ["yeo-johnson", round(min(max(power, POWERS[0]), POWERS[1]), 6)]
        out.append(spec)
    return out


def transform_of(what: str, specs: Sequence[Any] | None) -> Columnwise | None:
    """The transform of the columns, None for none.

    Raises:
        ValueError: A Yeo-Johnson without its power.
    """
    if specs is None:
        return None
    if "yeo-johnson" in specs:
        raise ValueError(f'{what}: yeo-johnson needs its power, ("yeo-johnson", 0.5); create_model learns it from data')
    return Columnwise(specs)


def outside(transform: Columnwise, values: Tensor) -> Tensor:
    """Where values (N, D) have no place on the scale, (N, D)."""
    low = torch.tensor([0.0 if spec in ("log", "logit") else -torch.inf for spec in transform.specs]).to(values)
    high = torch.tensor([1.0 if spec == "logit" else torch.inf for spec in transform.specs]).to(values)
    return (values <= low) | (values >= high)


def _is_power(spec: Any) -> bool:
    if not isinstance(spec, list | tuple) or len(spec) != 2 or spec[0] != "yeo-johnson":
        return False
    return isinstance(spec[1], int | float) and POWERS[0] <= spec[1] <= POWERS[1]


def _kind(spec: Any) -> Any:
    return spec[0] if isinstance(spec, tuple) else spec


def _power(spec: Any) -> float:
    return float(spec[1]) if isinstance(spec, tuple) else 1.0


def _sigmoid(x: Tensor, _: float) -> Tensor:
    eps = torch.finfo(x.dtype)
    return x.sigmoid().clamp(eps.tiny, 1.0 - eps.eps)


def _to_yeo_johnson(y: Tensor, power: float) -> Tensor:
    """psi(y) of Yeo and Johnson (2000)."""
    above, below = y.clamp(min=0).log1p(), (-y).clamp(min=0).log1p()
    above = above if power == 0 else torch.expm1(power * above) / power
    below = below if power == 2 else torch.expm1((2 - power) * below) / (2 - power)
    return above - below


def _from_yeo_johnson(x: Tensor, power: float) -> Tensor:
    above, below = x.clamp(min=0), (-x).clamp(min=0)
    above = above if power == 0 else torch.log1p(power * above) / power
    below = below if power == 2 else torch.log1p((2 - power) * below) / (2 - power)
    return torch.expm1(above) - torch.expm1(below)


# Kind -> to units, to the scale, and log derivative of the former.
_KINDS: dict[Any, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]] = {
    None: (lambda x, _: x, lambda y, _: y, lambda x, y, _: torch.zeros_like(x)),
    "log": (lambda x, _: x.exp(), lambda y, _: y.log(), lambda x, y, _: x),
    "logit": (_sigmoid, lambda y, _: y.logit(), lambda x, y, _: -softplus(-x) - softplus(x)),
    "yeo-johnson": (
        _from_yeo_johnson,
        _to_yeo_johnson,
        lambda x, y, power: -y.sign() * (power - 1) * y.abs().log1p(),
    ),
}
