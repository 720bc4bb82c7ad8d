"""The predictive law of a cross-fitted fit: how far its predictions err on labels that a fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import special


@dataclass(frozen=True)
class StudentLaw:
    """Predictive distribution of one component of a continuous target, from the predictions of R restarts.

    ::

        y ~ m + sqrt(a^2 s^2 + c^2 + (g^2 + 1/R) v) t_nu

    with the mean m of the restarts' means, the mean s^2 of their variances, and the variance v between their means
    (over R - 1; 0 for one restart).

    Attributes:
        a: Factor of the model's own standard deviation s.
        c: Standard deviation that is the same in every row, in the units of the target.
        g: Error that all restarts have in common, in standard deviations between them; None if only one fit had not
            seen a label, so that it could not be learned and v is left out.
        nu: Degrees of freedom, above 2.
    """

    a: float
    c: float
    g: float | None
    nu: float

    def __post_init__(self) -> None:
        values = asdict(self)
        numbers = [v for name, v in values.items() if not (name == "g" and v is None)]
        if not all(isinstance(v, float) and math.isfinite(v) and v >= 0 for v in numbers) or not self.nu > 2:
            raise ValueError(f"a predictive law of {values}: a, c and g are numbers of at least 0, and nu is above 2")

    def scale(self, own: np.ndarray, between: np.ndarray, restarts: int) -> np.ndarray:
        """Scale of the t distribution.

        Args:
            own: Mean variance of the restarts, s^2, shape (N,).
            between: Variance between their means, v, shape (N,).
            restarts: Number R of restarts.
        """
        share = 0.0 if self.g is None else self.g**2 + 1 / restarts
        return np.sqrt(self.a**2 * own + self.c**2 + share * between)

    def sd(self, scale: np.ndarray) -> np.ndarray:
        """Standard deviation of the distribution with a scale, shape (N,)."""
        return scale * math.sqrt(self.nu / (self.nu - 2))

    def scale_of(self, sd: np.ndarray) -> np.ndarray:
        """Scale of the distribution with a standard deviation, shape (N,)."""
        return sd * math.sqrt((self.nu - 2) / self.nu)

    def quantile(self, q: Any) -> np.ndarray:
        """Quantiles of the distribution with mean 0 and scale 1, of the shape of `q`."""
        return special.stdtrit(self.nu, q)

    def unit_draws(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Random draws with mean 0 and standard deviation 1."""
        return rng.standard_t(self.nu, shape) * math.sqrt((self.nu - 2) / self.nu)

    def log_density(self, error: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Log density of errors y - m, in nats, shape (N,)."""
        return log_density(error, scale, self.nu)

    def crps(self, error: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Continuous ranked probability score of errors y - m, in the units of the target, shape (N,).

        The closed form of Jordan, Krueger and Lerch (2019, appendix A).
        """
        z, nu = error / scale, self.nu
        density, below = np.exp(log_density(z, np.ones(()), nu)), special.stdtr(nu, z)
        spread = 2 * math.sqrt(nu) / (nu - 1) * special.beta(0.5, nu - 0.5) / special.beta(0.5, nu / 2) ** 2
        return scale * (z * (2 * below - 1) + 2 * density * (nu + z**2) / (nu - 1) - spread)


def log_density(error: np.ndarray, scale: np.ndarray, nu: float) -> np.ndarray:
    """Log density of scale t_nu at `error`, in nats; SciPy's own checks its arguments at ten times the cost."""
    constant = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2) - 0.5 * math.log(nu * math.pi)
    return constant - (nu + 1) / 2 * np.log1p((error / scale) ** 2 / nu) - np.log(scale)


@dataclass(frozen=True)
class Temperature:
    """Predictive distribution of a discrete target: the restarts' mean probabilities p, as p^(1/t) / sum p^(1/t).

    Attributes:
        t: Temperature; above 1 where the probabilities were too extreme.
    """

    t: float

    def __post_init__(self) -> None:
        if not (isinstance(self.t, float) and math.isfinite(self.t) and self.t > 0):
            raise ValueError(f"a temperature of {self.t!r}: it is a positive number")

    def probabilities(self, p: np.ndarray) -> np.ndarray:
        """Corrected probabilities, (N, K), from those of the classes, (N, K)."""
        return special.softmax(np.log(np.maximum(p, np.finfo(float).tiny)) / self.t, axis=1)


@dataclass(frozen=True)
class PredictiveLaw:
    """What `pyrozoo.cross_fitted` learned from held-out labels; part of a `Fit`, which it corrects.

    Attributes:
        parts: Component of a continuous target (``y``, ``y[a]``) or discrete target -> its law.
        facts: How it was learned: ``folds``, ``repeats``, ``by``, and ``labels``, their number.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> model = zoo.create_model("ssmtl", train, width=8)
        >>> few = {"folds": 2, "repeats": 1, "restarts": 1, "steps": 2, "progress": False}
        >>> law = zoo.cross_fitted(model, "paper", train, **few).law
        >>> type(law).__name__, law.facts["labels"], law.parts["y"].nu > 2
        ('PredictiveLaw', 20, True)
    """

    parts: Mapping[str, StudentLaw | Temperature]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = [f"{name}: {part}" for name, part in self.parts.items()]
        return f"PredictiveLaw({'; '.join(lines)}; {dict(self.facts)})"

    def as_json(self) -> dict[str, Any]:
        """The law as JSON holds it."""
        return {"parts": {name: asdict(part) for name, part in self.parts.items()}, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, record: Any) -> PredictiveLaw:
        """Read what `as_json` wrote.

        Raises:
            ValueError: It is no such record.
        """
        try:
            parts = {
                str(name): Temperature(**part) if "t" in part else StudentLaw(**part)
                for name, part in record["parts"].items()
            }
            return cls(parts, dict(record["facts"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"'law' of its record is no predictive law ({error}); save the run again") from None
