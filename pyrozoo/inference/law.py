"""The predictive law of a cross-fitted fit: how far its predictions err on labels that a fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import scipy  # whose `special`, a fifth of a second, is imported where it is first used
from torch import Tensor

from .label_process import ByComponent, LabelProcess


@dataclass(frozen=True)
class StudentLaw:
    """Predictive distribution of one component of a continuous target, from the predictions of R restarts.

    ::

        y ~ m + sqrt(a^2 s^2 + c^2 + (g^2 + 1/R) v + h^2 d) t_nu

    with the mean m of the restarts' means, the mean s^2 of their variances, the variance v between their means (over
    R - 1; 0 for one restart), and the time d to the nearest label of the row's unit. Beside a `LabelProcess`, whose two
    kinds have means p and p' and variances r^2 and r'^2, and the share w, the second kind u of it, the moments of the
    mixture take the place of m, s^2 and v::

        p := (1 - u) p + u p',   r^2 := (1 - u) r^2 + u r'^2 + u (1 - u) (p - p')^2
        m := (1 - w) m + w p,    s^2 := (1 - w) s^2 + w r^2 + w (1 - w) (m - p)^2,    v := (1 - w)^2 v

    Of a target that takes few values, the levels v_k, m is rounded to them, sharply or less so, and s^2 is how far it
    may be from the right one, by a posterior q of the level::

        m' = sum_k p_k v_k,    p_k proportional to N(m; v_k, step^2)
        s^2 := sum_k q_k (v_k - m')^2,    q_k proportional to N(m; v_k, s^2),    m := m'

    In units without a label the process predicts alone, w = 1, and b takes the place of a, since the errors of labelled
    units do not say how far units differ; unless units are open (`LabelProcess.open_units`).

    Attributes:
        a: Factor of the predictors' own standard deviation s.
        c: Standard deviation that is the same in every row, in the units of the target.
        g: Error that all restarts have in common, in standard deviations between them; None if only one fit had not
            seen a label, so that it could not be learned and v is left out.
        nu: Degrees of freedom, above 2.
        w: Share of the process, in [0, 1].
        u: Share of its second kind in it, in [0, 1].
        h: Standard deviation that grows with the root of the time to the nearest label, in the units of the target;
            None if no time is known.
        levels: Values to which m is rounded, ascending; none where it is not.
        step: Width of the rounding, in the units of the target.
        b: Factor of the process's standard deviation in units without a label; 1 unless labels of such units were held
            out.
    """

    a: float
    c: float
    g: float | None
    nu: float
    w: float = 0.0
    u: float = 0.0
    h: float | None = None
    levels: tuple[float, ...] = ()
    step: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        values = asdict(self)
        numbers = [v for name, v in values.items() if name != "levels" and not (name in ("g", "h") and v is None)]
        whole = all(isinstance(v, float) and math.isfinite(v) for v in (*numbers, *self.levels))
        if not whole or min(numbers) < 0 or not self.step > 0 or not self.nu > 2 or max(self.w, self.u) > 1:
            raise ValueError(
                f"a predictive law of {values}: a, b, c, g, h, w, u are at least 0, nu is above 2, w and u at most 1, "
                "step above 0"
            )

    def rounded(self, mean: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means between the levels and variances s^2, (N,) each, from the predictors'; as they are without levels."""
        return rounded(mean, own, self.levels, self.step) if self.levels else (mean, own)

    def scale(
        self, own: np.ndarray, between: np.ndarray, restarts: int, lag: np.ndarray | float = 0.0, known: Any = True
    ) -> np.ndarray:
        """Scale of the t distribution.

        Args:
            own: Variance of the predictors, s^2, shape (N,).
            between: Variance between the restarts' means, v, shape (N,).
            restarts: Number R of restarts.
            lag: Time to the nearest label, d, shape (N,).
            known: Whether the unit has a label, shape (N,).
        """
        factor = np.where(known, self.a, self.b)
        share = 0.0 if self.g is None else self.g**2 + 1 / restarts
        return np.sqrt(factor**2 * own + self.c**2 + share * between + (self.h or 0.0) ** 2 * lag)

    def sd(self, scale: np.ndarray) -> np.ndarray:
        """Standard deviation of the distribution with a scale, shape (N,)."""
        return scale * math.sqrt(self.nu / (self.nu - 2))

    def scale_of(self, sd: np.ndarray) -> np.ndarray:
        """Scale of the distribution with a standard deviation, shape (N,)."""
        return sd * math.sqrt((self.nu - 2) / self.nu)

    def quantile(self, q: Any) -> np.ndarray:
        """Quantiles of the distribution with mean 0 and scale 1, of the shape of `q`."""
        return scipy.special.stdtrit(self.nu, q)

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
        density, below = np.exp(log_density(z, np.ones(()), nu)), scipy.special.stdtr(nu, z)
        spread = 2 * math.sqrt(nu) / (nu - 1) * scipy.special.beta(0.5, nu - 0.5) / scipy.special.beta(0.5, nu / 2) ** 2
        return scale * (z * (2 * below - 1) + 2 * density * (nu + z**2) / (nu - 1) - spread)


def joined(
    w: Any, mean: np.ndarray, own: np.ndarray, between: np.ndarray, process: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """m, s^2 and v of restarts beside a process, of whose mean and variance `w` is the share, see `StudentLaw`."""
    return *mixed(w, (mean, own), process), (1 - w) ** 2 * between


def mixed(share: Any, one: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a mixture of two distributions, given by theirs; the second has `share`."""
    (mean, variance), (second, its_variance) = one, other
    between = share * (1 - share) * (mean - second) ** 2
    return (1 - share) * mean + share * second, (1 - share) * variance + share * its_variance + between


def rounded(mean: np.ndarray, own: np.ndarray, levels: Any, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances (N,) rounded to levels (L,) with a width `step`, see `StudentLaw`."""
    values = np.asarray(levels, dtype=float)
    apart = (mean[:, None] - values) ** 2
    near = scipy.special.softmax(-0.5 * apart / step**2, axis=1) @ values
    posterior = scipy.special.softmax(-0.5 * apart / np.maximum(own, 1e-12 * step**2)[:, None], axis=1)
    return near, (posterior * (values - near[:, None]) ** 2).sum(1)


def log_density(error: np.ndarray, scale: np.ndarray, nu: float) -> np.ndarray:
    """Log density of scale t_nu at `error`, in nats; SciPy's own checks its arguments at ten times the cost."""
    constant = scipy.special.gammaln((nu + 1) / 2) - scipy.special.gammaln(nu / 2) - 0.5 * math.log(nu * math.pi)
    return constant - (nu + 1) / 2 * np.log1p((error / scale) ** 2 / nu) - np.log(scale)


@dataclass(frozen=True)
class Temperature:
    """Predictive distribution of a discrete target, from the mean p of the restarts' probabilities.

    ::

        p^(1/t) / sum p^(1/t)

    Beside a `LabelProcess`, whose two kinds have the probabilities q and q', and the share w, the second kind u of it,
    the mixture takes the place of p::

        p := (1 - w) p + w ((1 - u) q + u q')

    Attributes:
        t: Temperature; above 1 where the probabilities were too extreme.
        w: Share of the process, in [0, 1].
        u: Share of its second kind in it, in [0, 1].
    """

    t: float
    w: float = 0.0
    u: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.t, float) and math.isfinite(self.t) and self.t > 0):
            raise ValueError(f"a temperature of {self.t!r}: it is a positive number")
        if not all(isinstance(share, float) and 0 <= share <= 1 for share in (self.w, self.u)):
            raise ValueError(f"shares of {self.w!r} and {self.u!r}: w and u are from 0 to 1")

    def probabilities(self, p: np.ndarray, process: np.ndarray | None = None) -> np.ndarray:
        """Corrected probabilities, (N, K).

        Args:
            p: Mean of the restarts' probabilities, (N, K).
            process: Probabilities by the two kinds of the process, (2, N, K).
        """
        if process is not None:
            p = (1 - self.w) * p + self.w * ((1 - self.u) * process[0] + self.u * process[1])
        return scipy.special.softmax(np.log(np.maximum(p, np.finfo(float).tiny)) / self.t, axis=1)


@dataclass(frozen=True)
class PredictiveLaw:
    """What `pyrozoo.cross_fitted` learned from held-out labels; part of a `Fit`, which it corrects.

    Attributes:
        parts: Component of a continuous target (``y``, ``y[a]``) or discrete target -> its law.
        facts: How it was learned: ``folds``, ``repeats``, ``by``, ``labels``, their number, and ``scores``, the mean
            CRPS and log density of the held-out labels under the law, by component.
        process: The Gaussian process on the labels that predicts beside the restarts, if there is one; one for each
            component of a target whose components are missing one by one.

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
    process: LabelProcess | ByComponent | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        lines = [f"{name}: {part}" for name, part in self.parts.items()]
        return f"PredictiveLaw({'; '.join(lines)}; {dict(self.facts)})"

    def as_json(self) -> dict[str, Any]:
        """The law as JSON holds it, without the numbers of the process."""
        own = {"parts": {name: asdict(part) for name, part in self.parts.items()}, "facts": dict(self.facts)}
        if self.process is None:
            return own
        several = {"components": len(self.process.parts)} if isinstance(self.process, ByComponent) else {}
        return own | {"process": list(self.process.sizes)} | several

    @classmethod
    def from_json(
        cls, record: Any, tensors: Mapping[str, Tensor] | None = None, names: np.ndarray | None = None
    ) -> PredictiveLaw:
        """Read what `as_json` wrote.

        Args:
            record: What it wrote.
            tensors: Tensors of the process.
            names: Names of its units, (M,).

        Raises:
            ValueError: It is no such record.
        """
        try:
            parts = {
                str(name): Temperature(**part)
                if "t" in part
                else StudentLaw(**{**part, "levels": tuple(part.get("levels", ()))})
                for name, part in record["parts"].items()
            }
            process: LabelProcess | ByComponent | None = None
            if "process" in record:
                own, sizes, units = dict(tensors or {}), record["process"], np.asarray(names)
                if not all(isinstance(size, int) for size in sizes):  # runs of before had names, and a scale per column
                    sizes = [1] * own["x"].shape[1]
                of = [
                    {k.removeprefix(f"{j}/"): v for k, v in own.items() if k.startswith(f"{j}/")}
                    for j in range(record.get("components", 0))
                ]
                several = tuple(LabelProcess(units, tuple(sizes), part) for part in of)
                process = ByComponent(several) if several else LabelProcess(units, tuple(sizes), own)
            return cls(parts, dict(record["facts"]), process)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"'law' of its record is no predictive law ({error}); save the run again") from None
