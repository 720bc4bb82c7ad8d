"""Learning a predictive law by maximum likelihood, from predictions of labels that the fits had not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize

from ..inference.law import StudentLaw, Temperature, log_density

# Centres and standard deviations of weak normal priors of log a, log(c / error), log g and log(nu - LEAST).
PRIORS = ((0.0, 2.0), (0.0, 2.0), (-0.5, 1.0), (1.5, 1.5))
LEAST = 2.1  # degrees of freedom from which the variance is tame
STARTS = tuple((a, c, -0.5, 1.5) for a in (0.0, -2.0) for c in (-0.5, -2.0))


def learn_student(truth: Any, means: Any, sds: Any) -> StudentLaw:
    """Law of a continuous component from the predictions of its labels by fits that had not seen them.

    Of label i, with value y, predicted by K fits with means m_k and standard deviations s_k::

        y_i ~ mean_k m_ik + sqrt(a^2 mean_k s_ik^2 + c^2 + (g^2 + 1/K) var_k m_ik) t_nu

    The parameters maximise the sum of the log densities and of weak priors (log a, log of c over the root mean square
    error: N(0, 2^2); log g: N(-0.5, 1); log(nu - 2.1): N(1.5, 1.5^2)), which keep them finite where labels are few.

    Args:
        truth: Values of the n labels, shape (n,).
        means: Their predicted means, shape (K, n): K fits per label. With K = 1 there is no variance between fits, and
            the law has no g.
        sds: Their predicted standard deviations, shape (K, n).

    Raises:
        ValueError: Fewer than ten labels, or a number that is not finite.
    """
    truth, means, sds = (np.asarray(v, dtype=float) for v in (truth, means, sds))
    if truth.size < 10:
        raise ValueError(f"{truth.size} held-out labels are too few to learn a predictive law from; give at least 10")
    if not all(np.isfinite(v).all() for v in (truth, means, sds)):
        raise ValueError("a held-out label or its prediction is not finite: has a fit diverged? try a smaller lr")
    fits = len(means)
    error, own = truth - means.mean(0), (sds**2).mean(0)
    between = means.var(0, ddof=1) if fits > 1 else np.zeros_like(error)
    unit = max(float(np.sqrt(np.mean(error**2))), 1e-9 * float(np.abs(truth).max()), 1e-150)
    error, own, between = error / unit, own / unit**2, between / unit**2

    def loss(p: np.ndarray) -> float:
        a, c, g, excess = np.exp(np.clip(p, -30, 30))
        scale = np.sqrt(a**2 * own + c**2 + (g**2 + 1 / fits) * between)
        penalty = sum(((value - centre) / sd) ** 2 / 2 for value, (centre, sd) in zip(p, PRIORS, strict=True))
        return penalty - float(log_density(error, scale, LEAST + excess).sum())

    found = [optimize.minimize(loss, np.array(start), method="L-BFGS-B") for start in STARTS]
    a, c, g, excess = np.exp(min(found, key=lambda result: result.fun).x).tolist()
    return StudentLaw(a, c * unit, g if fits > 1 else None, LEAST + excess)


def learn_temperature(truth: Any, probabilities: Any) -> Temperature:
    """Temperature of a discrete target, which maximises the likelihood of labels that the fits had not seen.

    Args:
        truth: Codes of the n labels, shape (n,).
        probabilities: Mean of the K fits' probabilities of the classes, shape (n, classes).

    Raises:
        ValueError: Fewer than ten labels.
    """
    truth, p = np.asarray(truth, dtype=int), np.asarray(probabilities, dtype=float)
    if truth.size < 10:
        raise ValueError(f"{truth.size} held-out labels are too few to learn a temperature from; give at least 10")

    def loss(log_t: float) -> float:
        shares = Temperature(math.exp(log_t)).probabilities(p)[np.arange(len(truth)), truth]
        return float(log_t**2 / 2 - np.log(np.maximum(shares, 1e-300)).sum())  # a weak prior, log t ~ N(0, 1)

    return Temperature(math.exp(optimize.minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def learn_parts(predicted: Sequence[Mapping[str, Any]]) -> dict[str, StudentLaw | Temperature]:
    """Laws of a target from the predictions of held-out labels, one mapping per fit.

    Args:
        predicted: Per fit: ``rows``, names of its n held-out labels; ``truth``, component or discrete target -> values
            (n,); and ``mean`` and ``sd``, component -> numbers (n,), or ``p``, discrete target -> probabilities (n, K).
            A label may be predicted by several fits; as many predictions of each label count as all labels have.
    """
    places: dict[Any, list[tuple[int, int]]] = {}
    for k, part in enumerate(predicted):
        for i, row in enumerate(part["rows"]):
            places.setdefault(row, []).append((k, i))
    count = min(map(len, places.values()))
    held = list(places.values())

    def gathered(quantity: str, name: str) -> np.ndarray:
        """Values (count, n, ...) of the labels, by the first fits that had not seen each."""
        columns = [np.asarray(part[quantity][name], dtype=float) for part in predicted]
        return np.stack([np.stack([columns[k][i] for k, i in (own[c] for own in held)]) for c in range(count)])

    out: dict[str, StudentLaw | Temperature] = {}
    for name in predicted[0]["truth"]:
        truth = gathered("truth", name)[0]
        if name in predicted[0].get("p", {}):
            out[name] = learn_temperature(truth, gathered("p", name).mean(0))
        else:
            out[name] = learn_student(truth, gathered("mean", name), gathered("sd", name))
    return out
