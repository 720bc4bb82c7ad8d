"""Learning a predictive law from predictions of labels that the fits had not seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

from ..inference.law import StudentLaw, Temperature, joined, log_density, mixed, rounded

# Centres and standard deviations of weak normal priors of log a, log(c / error), log g, log(nu - LEAST), log(h root of
# the mean time / error), log b; and of the log odds of w and u.
PRIORS = ((0.0, 2.0), (0.0, 2.0), (-0.5, 1.0), (1.5, 1.5), (-1.0, 2.0), (0.0, 1.0))
SHARES = ((0.0, 2.0), (0.0, 2.0))
LEAST = 2.1  # degrees of freedom from which the variance is tame
STARTS = tuple((a, c, -0.5, 1.5, -1.0, 0.0) for a in (0.0, -2.0) for c in (-0.5, -2.0))
STEPS = (0.1, 0.2, 0.3, 0.4)  # widths of rounding that are tried, in shares of the least distance between levels
MEMBER_LEVEL = 0.9  # of the interval that is calibrated on whole members of a group


def learn_student(
    truth: Any, means: Any, sds: Any, process: tuple[Any, Any] | None = None, lag: Any = None, known: Any = True,
    levels: Sequence[float] = (),
) -> StudentLaw:  # fmt: skip
    """Law of a continuous component from the predictions of its labels by fits that had not seen them.

    Of label i, with value y, predicted by K fits with means m_k and standard deviations s_k::

        y_i ~ mean_k m_ik + sqrt(a^2 mean_k s_ik^2 + c^2 + (g^2 + 1/K) var_k m_ik + h^2 d_i) t_nu

    beside a process as `StudentLaw` says. The shares w and u are those with the least squared error (stacking), since a
    likelihood of heavy tails forgives the predictor that errs by much: they minimise::

        n / 2 log(mean_i (y_i - m_i)^2)  -  log priors

    Where the target takes few levels, the mean is rounded to them with the width that has the least absolute error, if
    that is less than without. Given these the others maximise the sum of the log densities and of the log priors. The
    priors are weak (log a, log of c over the root mean square error, log odds of w and u: N(0, 2^2); log g: N(-0.5, 1);
    log(nu - 2.1): N(1.5, 1.5^2); log of h over that error at the mean d: N(-1, 2^2); log b: N(0, 1)) and keep
    parameters finite where labels are few. b, of labels whose unit had no other, is 1 where there are no such labels,
    and is a where there are no others.

    Args:
        truth: Values of the n labels, shape (n,).
        means: Their predicted means, shape (K, n): K fits per label. With K = 1 there is no variance between fits, and
            the law has no g.
        sds: Their predicted standard deviations, shape (K, n).
        process: Means and standard deviations (K, n, 2) of the process by kind, over whose K the mean is taken.
        lag: Time from each label to the nearest one that was seen, (n,) or (K, n); None where no time is known.
        known: Whether another label of its unit was seen, (n,) or (K, n); elsewhere the process predicts alone.
        levels: The values that the target takes, ascending, if they are few.

    Raises:
        ValueError: Fewer than ten labels, or a number that is not finite.
    """
    truth, means, sds = (np.asarray(v, dtype=float) for v in (truth, means, sds))
    if truth.size < 10:
        raise ValueError(f"{truth.size} held-out labels are too few to learn a predictive law from; give at least 10")
    beside = None if process is None else [np.asarray(v, dtype=float) for v in process]
    if not all(np.isfinite(v).all() for v in (truth, means, sds, *(beside or ()))):
        raise ValueError("a held-out label or its prediction is not finite: has a fit diverged? try a smaller lr")
    fits = len(means)
    mean, own = means.mean(0), (sds**2).mean(0) + np.zeros_like(truth)
    between = means.var(0, ddof=1) if fits > 1 else np.zeros_like(truth)
    p, r2 = (mean[None], own[None]) if beside is None else (beside[0].mean(0).T, (beside[1] ** 2).mean(0).T)
    alone = (~np.asarray(known, dtype=bool)).reshape(-1, truth.size if np.ndim(known) else 1).any(0)
    # The unit of every length is the smallest of the predictors' errors, so that a bad one does not blur the start.
    errors = [float(np.sqrt(np.mean((truth - found) ** 2))) for found in (mean, *p)]
    unit = max(min(errors), 1e-9 * float(np.abs(truth).max()), 1e-150)
    error, offset = (truth - mean) / unit, (p - mean) / unit
    own, r2, between = own / unit**2, r2 / unit**2, between / unit**2
    apart = None if lag is None else np.asarray(lag, dtype=float).reshape(-1, truth.size).mean(0)
    typical = 1.0 if apart is None else max(float(apart.mean()), 1e-150)

    def together(w: float, u: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        process = mixed(u, *zip(offset, r2, strict=True))
        return joined(np.where(alone, 1.0, w), np.zeros(()), own, between, process)

    def of_shares(odds: np.ndarray) -> float:
        squares = np.square(error - together(*special.expit(odds))[0])
        return _penalty(odds, SHARES) + truth.size / 2 * math.log(max(float(squares.mean()), 1e-300))

    w, u = (0.0, 0.0) if beside is None else special.expit(_least(of_shares, ((0.0, 0.0),))).tolist()
    m, s2, v = (np.zeros(truth.size), own, between) if beside is None else together(w, u)
    step = _step(truth, mean + unit * m, levels)
    if step is not None:
        near, s2 = rounded(mean + unit * m, unit**2 * s2, levels, step)
        m, s2 = (near - mean) / unit, s2 / unit**2

    both = bool(alone.any() and not alone.all())  # labels from which a is learned, and such from which b is
    size = len(PRIORS) - (not both)

    def loss(parameters: np.ndarray) -> float:
        a, c, g, excess, h, *b = np.exp(np.clip(parameters, -30, 30))
        factor = np.where(alone, b[0], a) if both else a
        of_time = 0.0 if apart is None else h**2 * apart / typical
        scale = np.sqrt(factor**2 * s2 + c**2 + (g**2 + 1 / fits) * v + of_time)
        return _penalty(parameters, PRIORS[:size]) - float(log_density(error - m, scale, LEAST + excess).sum())

    a, c, g, excess, h, *rest = np.exp(_least(loss, [start[:size] for start in STARTS])).tolist()
    b = rest[0] if both else a if alone.all() else 1.0
    of_time = None if apart is None else h * unit / math.sqrt(typical)
    rounding: dict[str, Any] = {} if step is None else {"levels": tuple(map(float, levels)), "step": step}
    return StudentLaw(a, c * unit, g if fits > 1 else None, LEAST + excess, w, u, of_time, b=b, **rounding)


def _step(truth: np.ndarray, mean: np.ndarray, levels: Sequence[float]) -> float | None:
    """Width with which rounding means to levels has the least absolute error; None where not rounding has less."""
    if len(levels) < 2:
        return None
    widths = [float(share * np.diff(levels).min()) for share in STEPS]
    errors = [float(np.abs(truth - rounded(mean, np.ones_like(mean), levels, width)[0]).mean()) for width in widths]
    best = int(np.argmin(errors))
    return widths[best] if errors[best] < np.abs(truth - mean).mean() else None


def _penalty(parameters: np.ndarray, priors: Sequence[tuple[float, float]]) -> float:
    return sum(((x - centre) / sd) ** 2 / 2 for x, (centre, sd) in zip(parameters, priors, strict=True))


def _least(loss: Callable[[np.ndarray], float], starts: Sequence[tuple[float, ...]]) -> np.ndarray:
    """Parameters with the least loss that a search from one of the starts finds."""
    found = [optimize.minimize(loss, np.array(start), method="L-BFGS-B") for start in starts]
    return min(found, key=lambda result: result.fun).x


def learn_temperature(
    truth: Any, probabilities: Any, process: Any = None, member: Sequence[Any] | None = None
) -> Temperature:
    """Law of a discrete target, which maximises the likelihood of labels that the fits had not seen.

    The priors are weak: log t ~ N(0, 1) and, beside a process, log odds of w and u ~ N(0, 2^2). Labels of one member of
    a group err together: where whole members were held out, each counts as one label, by the mean of its log
    probabilities, so that a few members who are told without error do not make the law sure of all others.

    Args:
        truth: Codes of the n labels, shape (n,).
        probabilities: Mean of the K fits' probabilities of the classes, shape (n, classes).
        process: Probabilities by the two kinds of the process, shape (2, n, classes).
        member: Name of the member of each label, n, where whole members were held out.

    Raises:
        ValueError: Fewer than ten labels.
    """
    truth, p = np.asarray(truth, dtype=int), np.asarray(probabilities, dtype=float)
    beside = None if process is None else np.asarray(process, dtype=float)
    if truth.size < 10:
        raise ValueError(f"{truth.size} held-out labels are too few to learn a temperature from; give at least 10")

    weight = np.ones(truth.size)
    if member is not None:
        _, place, count = np.unique(np.asarray(member), return_inverse=True, return_counts=True)
        weight = 1 / count[place]

    def of(parameters: np.ndarray) -> Temperature:
        log_t, *odds = np.clip(parameters, -30, 30).tolist()
        return Temperature(math.exp(log_t), *special.expit(odds).tolist())

    def loss(parameters: np.ndarray) -> float:
        found = of(parameters).probabilities(p, beside)[np.arange(len(truth)), truth]
        priors = ((0.0, 1.0), *(SHARES if beside is not None else ()))
        return _penalty(parameters, priors) - float(weight @ np.log(np.maximum(found, 1e-300)))

    return of(_least(loss, ((0.0,) if beside is None else (0.0, 0.0, 0.0),)))


def held_out_scores(
    law: StudentLaw, truth: Any, means: Any, sds: Any, process: tuple[Any, Any] | None = None, lag: Any = None,
    known: Any = True,
) -> dict[str, float]:  # fmt: skip
    """Mean CRPS and log density of held-out labels under the law that was learned from them, as `learn_student`."""
    error, scale = _errors(law, truth, means, sds, process, lag, known)
    return {"crps": float(law.crps(error, scale).mean()), "log_score": float(law.log_density(error, scale).mean())}


def _errors(
    law: StudentLaw, truth: Any, means: Any, sds: Any, process: tuple[Any, Any] | None, lag: Any, known: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the mean and scales of the law, (n,) each."""
    truth, means, sds = (np.asarray(v, dtype=float) for v in (truth, means, sds))
    mean, own = means.mean(0), (sds**2).mean(0) + np.zeros_like(truth)
    between = means.var(0, ddof=1) if len(means) > 1 else np.zeros_like(truth)
    seen: Any = True
    if process is not None:
        p, r = (np.asarray(v, dtype=float) for v in process)
        seen = np.atleast_1d(np.asarray(known, dtype=bool).reshape(-1, truth.size if np.ndim(known) else 1).all(0))
        both = mixed(law.u, *zip(p.mean(0).T, (r**2).mean(0).T, strict=True))
        mean, own, between = joined(np.where(seen, law.w, 1.0), mean, own, between, both)
    apart = 0.0 if lag is None else np.asarray(lag, dtype=float).reshape(-1, truth.size).mean(0)
    mean, own = law.rounded(mean, own)
    return truth - mean, law.scale(own, between, len(means), apart, seen)


def for_new_members(
    law: StudentLaw, truth: Any, means: Any, sds: Any, member: Sequence[Any], process: tuple[Any, Any] | None = None,
    lag: Any = None, known: Any = True,
) -> StudentLaw:  # fmt: skip
    """The law with its scale set by whole members of a group, for members that no fit has seen.

    Labels of one member err together, so that members count, not labels: the central 90 % interval holds
    ``0.9 (1 + 1/M)`` of the labels of the M members that were held out, each member with the same weight. So many are
    needed for 90 % of the labels of a new member, in the mean over draws of M + 1 members alike (Dunn, Wasserman and
    Ramdas 2023, section 4.1); of fewer than nine members, all labels. For that either all scales are multiplied by one
    factor, or c^2 grows by one number, whichever has the lower CRPS of the same labels: where the law is sure of most
    labels and wrong of a few such, no factor leaves the others their width.

    Args:
        law: What `learn_student` found from the same labels.
        truth: Values of the n labels, shape (n,).
        means: Their predicted means, shape (K, n).
        sds: Their predicted standard deviations, shape (K, n).
        member: Name of the member of each label, n.
        process: Its means and standard deviations, as in `learn_student`.
        lag: Time from each label to the nearest one that was seen.
        known: Whether another label of its unit was seen.
    """
    error, scale = _errors(law, truth, means, sds, process, lag, known)
    fits, needed = len(means), np.abs(error) / law.quantile((1 + MEMBER_LEVEL) / 2)
    _, place, count = np.unique(np.asarray(member), return_inverse=True, return_counts=True)
    weight = 1 / count[place] / len(count)
    wanted = min(1.0, MEMBER_LEVEL * (1 + 1 / len(count)))

    def bound(score: np.ndarray) -> float:
        order = np.argsort(score)
        return float(score[order][min(int(np.searchsorted(np.cumsum(weight[order]), wanted - 1e-9)), len(order) - 1)])

    factor, more = bound(needed / scale), bound(needed**2 - scale**2)
    if not factor > 0:
        return law
    c = math.sqrt(max(0.0, law.c**2 + more))
    wider = np.sqrt(np.maximum(scale**2 - law.c**2, 0.0) + c**2)
    if wider.min() > 0 and weight @ law.crps(error, wider) < weight @ law.crps(error, factor * scale):
        return dataclasses.replace(law, c=c)
    # g counts the fits' variance beyond the 1/R that every mixture has.
    g = None if law.g is None else math.sqrt(max(0.0, factor**2 * (law.g**2 + 1 / fits) - 1 / fits))
    h = None if law.h is None else factor * law.h
    return dataclasses.replace(law, a=factor * law.a, b=factor * law.b, c=factor * law.c, g=g, h=h)


def learn_parts(
    predicted: Sequence[Mapping[str, Any]], scores: dict[str, dict[str, float]] | None = None,
    levels: Sequence[float] = (),
) -> dict[str, StudentLaw | Temperature]:  # fmt: skip
    """Laws of a target from the predictions of held-out labels, one mapping per fit.

    Args:
        predicted: Per fit: ``rows``, names of its n held-out labels; ``truth``, component or discrete target -> values
            (n,), NaN where the row lacks the component; and ``mean`` and ``sd``, component -> numbers (n,), or ``p``,
            discrete target -> probabilities (n, K). With a process also ``process_mean``, ``process_sd`` (n, 2),
            ``known`` (n,) and, with time, ``lag`` (n,), both of the rows or by component, or for classes ``process_p``,
            discrete target -> probabilities (n, 2, K). A label may be predicted by several fits; as many predictions of
            each label count as all labels have. ``member``, names (n,), where whole members of a group were held out:
            see `for_new_members` and `learn_temperature`.
        scores: Where to put the mean scores of the labels under each law.
        levels: The values that a continuous target takes, if they are few.
    """
    places: dict[Any, list[tuple[int, int]]] = {}
    for k, part in enumerate(predicted):
        for i, row in enumerate(part["rows"]):
            places.setdefault(row, []).append((k, i))
    count = min(map(len, places.values()))
    held = list(places.values())

    def gathered(quantity: str, name: str) -> np.ndarray:
        """Values (count, n, ...) of the labels, by the first fits that had not seen each."""
        own = [part[quantity] for part in predicted]
        columns = [np.asarray(v[name] if isinstance(v, Mapping) else v, dtype=float) for v in own]
        return np.stack([np.stack([columns[k][i] for k, i in (own[c] for own in held)]) for c in range(count)])

    of_groups = all("member" in part for part in predicted)
    out: dict[str, StudentLaw | Temperature] = {}
    for name in predicted[0]["truth"]:
        truth = gathered("truth", name)[0]
        has = ~np.isnan(truth)  # components that a row lacks are no labels
        truth, rows = truth[has], [at for at, own in zip(held, has, strict=True) if own]
        members = [predicted[k]["member"][i] for (k, i), *_ in rows] if of_groups else None
        if name in predicted[0].get("p", {}):
            kinds = gathered("process_p", name).mean(0)[has].swapaxes(0, 1) if "process_p" in predicted[0] else None
            out[name] = learn_temperature(truth, gathered("p", name).mean(0)[has], kinds, members)
        else:
            beside: dict[str, Any] = {}
            if "process_mean" in predicted[0]:
                means, sds = (gathered(f"process_{what}", name)[:, has] for what in ("mean", "sd"))
                beside = {"process": (means, sds), "known": gathered("known", name)[:, has]}
            if "lag" in predicted[0]:
                beside["lag"] = gathered("lag", name)[:, has]
            of = truth, gathered("mean", name)[:, has], gathered("sd", name)[:, has]
            law = learn_student(*of, **beside, levels=levels)
            if members is not None:
                law = for_new_members(law, *of, members, **beside)
            out[name] = law
            if scores is not None:
                scores[name] = held_out_scores(law, *of, **beside)
    return out
