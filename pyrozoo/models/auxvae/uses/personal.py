"""Predictions for a person of whom a few trials with known loads are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from ....data.batch import Batch
from ....inference.fitted import Fit
from ....posterior.predicting import predict


@dataclass(frozen=True)
class PersonEffect:
    """How far the errors of one person hang together: a normal offset and slope of each person, and a rest.

    ::

        y_n - m_n = a_p + b_p (m_n - centre) + e_n
        a_p ~ N(0, offset_sd^2),   b_p ~ N(0, slope_sd^2),   e_n ~ N(0, sd^2)

    for trial n of person p with the prediction m_n of a fit that has not seen the person. It is an effect on the
    predicted load, beside the model: the fit is not changed.

    Attributes:
        centre: Mean of the predicted loads [lb].
        offset_sd: Standard deviation over people of the offset [lb].
        slope_sd: Standard deviation over people of the slope.
        sd: Standard deviation of the rest [lb].

    Example:
        >>> import numpy as np
        >>> from pyrozoo.models.auxvae import PersonEffect
        >>> effect = PersonEffect(centre=25.0, offset_sd=3.0, slope_sd=0.0, sd=3.0)
        >>> mean, sd = effect.corrected(np.array([20.0, 30.0]), own=np.array([25.0]), loads=np.array([31.0]))
        >>> mean.round(1).tolist()  # half of the 6 lb that the own trial was off
        [23.0, 33.0]
    """

    centre: float
    offset_sd: float
    slope_sd: float
    sd: float

    @classmethod
    def learn(cls, truth: np.ndarray, mean: np.ndarray, person: np.ndarray) -> PersonEffect:
        """Learn the effect by maximum likelihood from predictions for people whom the fits had not seen.

        Args:
            truth: Loads [lb], (N,).
            mean: Predicted loads [lb], (N,).
            person: Label of each trial's person, (N,).

        Raises:
            ValueError: Fewer than two people, or nobody with two trials.
        """
        names, place = np.unique(np.asarray(person), return_inverse=True)
        if len(names) < 2 or np.bincount(place).max() < 2:
            raise ValueError("person: an effect of people is learned from at least two, one of them with two trials")
        rest, centre = np.asarray(truth, float) - mean, float(np.mean(mean))
        parts = [(rest[place == p], _design(np.asarray(mean)[place == p], centre)) for p in range(len(names))]

        def loss(logs: np.ndarray) -> float:
            a, b, s = np.exp(2 * logs)
            total = 0.0
            for error, design in parts:
                cov = (design * [a, b]) @ design.T + s * np.eye(len(error))
                total += np.linalg.slogdet(cov)[1] + error @ np.linalg.solve(cov, error)
            return total

        scale = max(float(rest.std()), 1e-3)
        bounds = [(np.log(1e-3 * scale), np.log(10 * scale)), (np.log(1e-3), np.log(3.0)), (np.log(0.05 * scale), None)]
        found = minimize(loss, np.log([0.5 * scale, 0.1, scale]), bounds=bounds, method="L-BFGS-B").x
        return cls(centre, *(float(v) for v in np.exp(found)))

    def corrected(self, mean: np.ndarray, own: np.ndarray, loads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predictions for one person, given that person's own trials.

        Args:
            mean: Predicted loads of new trials [lb], (N,).
            own: Predicted loads of the own trials [lb], (n,); n may be 0.
            loads: Known loads of the own trials [lb], (n,).

        Returns:
            Mean and standard deviation of the loads of the new trials [lb], (N,) each.
        """
        spread = np.array([self.offset_sd, self.slope_sd])
        design, new = (_design(np.asarray(part, float), self.centre) * spread for part in (own, mean))
        cov = np.linalg.inv(np.eye(2) + design.T @ design / self.sd**2)
        effect = cov @ design.T @ (np.asarray(loads, float) - own) / self.sd**2
        return mean + new @ effect, np.sqrt(((new @ cov) * new).sum(1) + self.sd**2)


def learn_person_effect(pairs: Sequence[tuple[Fit, Batch]], *, draws: int = 200, seed: int = 0) -> PersonEffect:
    """Learn how far errors of one person hang together, from fits and the people they had not seen.

    Args:
        pairs: Fits with the trials of other people, from `fit_people_folds`.
        draws: Number of draws of the predictions.
        seed: Random seed for the predictions.

    Raises:
        ValueError: See `PersonEffect.learn`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import fit_people_folds, learn_person_effect, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> model = zoo.create_model("auxvae", walks, z_dim=2, fusion="departure", channels=(4, 3), d_model=4)
        >>> pairs = fit_people_folds(model, "paper", walks, 2, epochs=2, progress=False)
        >>> effect = learn_person_effect(pairs, draws=10)
        >>> effect.sd > 0
        True
    """
    truth, mean, person = [], [], []
    for k, (fit, others) in enumerate(pairs):
        known = others.subset(np.flatnonzero(others.observed("y")))
        truth.append(known["y"].cpu().numpy())
        mean.append(predict(fit, known, draws=draws, seed=seed)["y.mean"].to_numpy())
        person.append(np.array([f"{k}:{name}" for name in known.group_names("participant")]))
    return PersonEffect.learn(*(np.concatenate(part) for part in (truth, mean, person)))


def personalise(
    fit: Fit, effect: PersonEffect, own: Batch, new: Batch, *, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Predict trials of people of whom some trials with known loads are at hand.

    Args:
        fit: Fit that has not seen these people.
        effect: What `learn_person_effect` learned from others.
        own: Trials with known loads of the same people; people without any keep their prediction.
        new: Trials to predict.
        draws: Number of draws of the predictions.
        seed: Random seed for the predictions.

    Returns:
        One line per trial of `new`: ``participant``, ``own`` (number of own trials that count), ``y.mean`` and ``y.sd``
        [lb], where ``y.sd`` is that of the effect and its rest.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import PersonEffect, personalise, simulate
        >>> fit = zoo.load_reference("auxvae/simulated")
        >>> walks = simulate(seed=1, n_participants=1)
        >>> effect = PersonEffect(centre=27.5, offset_sd=4.0, slope_sd=0.1, sd=6.0)
        >>> personalise(fit, effect, walks.subset([0, 7]), walks.subset([3, 9]), draws=10)["own"].tolist()
        [2, 2]
    """
    known = own.subset(np.flatnonzero(own.observed("y")))
    given, table = (predict(fit, part, draws=draws, seed=seed)["y.mean"] for part in (known, new))
    loads, whose, who = known["y"].cpu().numpy(), known.group_names("participant"), new.group_names("participant")
    out = pd.DataFrame({"participant": who, "own": 0, "y.mean": table, "y.sd": 0.0}, index=table.index)
    for name in np.unique(who):
        mine, rows = whose == name, who == name
        mean, sd = effect.corrected(table.to_numpy()[rows], given.to_numpy()[mine], loads[mine])
        out.loc[rows, ["own", "y.mean", "y.sd"]] = np.stack([np.full(rows.sum(), mine.sum()), mean, sd], 1)
    return out.astype({"own": int})


def _design(mean: np.ndarray, centre: float) -> np.ndarray:
    return np.stack([np.ones(len(mean)), mean - centre], 1)
