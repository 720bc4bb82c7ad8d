"""Prediction intervals that hold: conformal calibration of any fit on labels that it did not see.

A fit's own intervals are only as good as its assumptions. `conformal` widens or narrows them until they hold on labels
that were kept out of training; `cross_conformal` does so with all labels in training, at the cost of one fit per fold.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..data.batch import Batch
from ..inference.fitted import Fit
from ..modeling.base import ZooModel
from ..posterior.columns import column, columns_of, components, interval_names, is_discrete, summary, tails
from ..posterior.predicting import predict
from . import scores
from .arguments import target_of

SCORES = ("normalised", "absolute", "quantile")
BLOCK = 2**22  # entries of the largest array of interval ends, labels x rows


# -------------------------------------------------------------------- conformal prediction
@dataclass(frozen=True)
class Conformal:
    """Intervals around the predictions of one fit (split) or of one fit per fold (cross), calibrated on labels.

    Coverage is *marginal*: of many test rows, the nominal share lies inside. It holds neither unit by unit, nor given
    the inputs; `coverage` shows the spread over groups. It needs test rows that are exchangeable with the calibrating
    labels: other rows of the same groups, drawn at random. It does NOT hold for later rows of a process that drifts,
    for groups that had no label among those that calibrate, or for labels that were chosen by their inputs.

    Attributes:
        fits: The fit, or one per fold.
        target: Name of the target of the intervals; its components are calibrated one by one, not jointly.
        score: "normalised", "absolute" or "quantile", see `cross_conformal`.
        levels: Nominal coverages, each in (0, 1).
        values: Level -> scores of the n labels, shape (n, J), J the number of components.
        fold: Index of the fit that did not see the label, shape (n,).
        labels: Number of calibrating labels of each group (of the whole batch if there is no group).
        predictor: Function that predicts, with the arguments and columns of `pyrozoo.predict`.
        options: Arguments of the predictor, ``seed`` among them.
        suffixes: Level -> end of the names of its columns.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> data, test = simulate(n_units=4, n_labelled=25, n_unlabelled=0, n_test=10)
        >>> train, held_out = zoo.hold_out(data, inputs=False)
        >>> model = zoo.create_model("ssmtl", train, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=50, progress=False)
        >>> calibrated = zoo.conformal(fit, held_out, draws=50)
        >>> calibrated
        Conformal(y, normalised, levels [0.9]: 20 labels of 4 units, one fit)
        >>> [column for column in calibrated.predict(test) if "er" in column]
        ['y.lower', 'y.upper']
        >>> calibrated.coverage(test).columns.to_list()
        ['component', 'nominal', 'empirical', 'width', 'score', 'unit_sd', 'unit_p10', 'unit_min']
    """

    fits: tuple[Fit, ...]
    target: str
    score: str
    levels: tuple[float, ...]
    values: Mapping[float, np.ndarray] = field(repr=False)
    fold: np.ndarray = field(repr=False)
    labels: pd.Series = field(repr=False)
    predictor: Callable[..., pd.DataFrame] = predict
    options: Mapping[str, Any] = field(default_factory=dict)
    suffixes: Mapping[float, str] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        group = self.labels.index.name
        whose = "" if group is None else f" of {len(self.labels)} {group}s"
        fits = "one fit" if len(self.fits) == 1 else f"{len(self.fits)} fits"
        return f"Conformal({self.target}, {self.score}, levels {list(self.levels)}: {self.n} labels{whose}, {fits})"

    @property
    def n(self) -> int:
        """Number of labels that calibrate."""
        return len(self.fold)

    @property
    def quantiles(self) -> pd.DataFrame:
        """Calibrated quantiles of the scores, one line per level, one column per component."""
        ranked = {level: np.sort(values, axis=0) for level, values in self.values.items()}
        return pd.DataFrame({level: ranked[level][rank(self.n, level) - 1] for level in self.levels}).T

    def predict(self, batch: Batch) -> pd.DataFrame:
        """Predict every row, with the ends of its intervals.

        Args:
            batch: Data; its targets, if it has any, are not used.

        Returns:
            The columns of the predictor (for several fits: mean and sd of their mixture) and ``y.lower``, ``y.upper``,
            or ``y.lower80``, ``y.upper80`` ... if several levels were asked for.

        Raises:
            KeyError: A group was not in the training data, and the guide is not amortised over it.
        """
        tables = [_predicted(self.predictor, one, batch, self.score, self.levels, self.options) for one in self.fits]
        table = tables[0] if len(tables) == 1 else _mixed(tables, self.target)
        for j, name in enumerate(components(tables[0], self.target)):
            for level in self.levels:
                bases = [_base(t, name, self.score, level) for t in tables]
                ends = _ends(bases, self.values[level][:, j], self.fold, level)
                for end, values in zip(self._end_columns(name, level), ends, strict=True):
                    table[end] = values
        return table

    def _end_columns(self, name: str, level: float) -> list[str]:
        """Columns of the ends of a component's interval."""
        return [column(name, f"{side}{self.suffixes[level]}") for side in ("lower", "upper")]

    def coverage(self, test: Batch) -> pd.DataFrame:
        """Share of the test labels inside, width and interval score, and how coverage differs between groups.

        Args:
            test: Labelled data that neither the fits nor the calibration have seen.

        Returns:
            One line per component and level: ``component``, ``nominal``, ``empirical``, ``width``, ``score``
            (`pyrozoo.scores.interval_score`), and, if the data have groups, e.g. units, ``unit_sd``, ``unit_p10`` and
            ``unit_min`` of the units' coverages. With few rows per unit these differ by chance alone.

        Raises:
            ValueError: No row of the test data is labelled.
        """
        seen = _seen(test, self.target, "test")
        table = self.predict(test).iloc[seen]  # all rows: an amortised guide reads them
        truth = _truth(test, self.target, seen)
        lines = []
        for j, name in enumerate(components(table, self.target)):
            for level in self.levels:
                lower, upper = (table[end] for end in self._end_columns(name, level))
                line = {"component": name, "nominal": level, "empirical": scores.coverage(truth[:, j], lower, upper)}
                line["width"] = scores.interval_width(truth[:, j], lower, upper)
                line["score"] = scores.interval_score(truth[:, j], lower, upper, level=level)
                if test.groups:
                    group = test.groups[0]
                    names = test.group_names(group)[seen]
                    each = scores.per_group(scores.coverage, truth[:, j], (lower, upper), names)
                    line |= {f"{group}_sd": each.std(ddof=0), f"{group}_p10": each.quantile(0.1)}
                    line[f"{group}_min"] = each.min()
                lines.append(line)
        return pd.DataFrame(lines)


def conformal(fitted: Fit, held_out: Batch, **options: Any) -> Conformal:
    """Calibrate a fit's intervals on labels that it did not see: split conformal prediction.

    With n labels that are exchangeable with a test row, the interval at level p covers it with a probability of at
    least p and, without ties, at most p + 1 / (n + 1), whatever the model (Vovk, Gammerman and Shafer 2005). That is
    an average over calibration sets too: the coverage of one set of n labels has a standard deviation of about
    sqrt(p (1 - p) / n). See `Conformal` for what is not promised. If groups have equally many labels but different
    numbers of rows, the average is over groups rather than rows.

    Args:
        fitted: The fit; its restarts predict together.
        held_out: Rows with labels that the fit has not seen, e.g. from `hold_out`; unlabelled rows are not used.
            Labels that were used for early stopping or tuning count as seen: with them intervals come out too narrow.
        **options: Further arguments of `cross_conformal`, e.g. ``level`` and ``score``.

    Raises:
        ValueError: See `cross_conformal`.
        KeyError: A group of the held-out rows was not in the training data.

    Example:
        Half of the labels that the fit has not seen calibrate, the others test:

        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import draw_labels
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> seen = draw_labels(data, 5, seed=0)  # the labels that the fit was trained on
        >>> calibrating, test = data.subset(np.flatnonzero(~seen)[::40]).split(0.5)
        >>> own = zoo.coverage(fit, test, levels=(90,), draws=50)
        >>> bool(own["empirical"].item() < 0.6)  # the fit's own intervals are too narrow
        True
        >>> calibrated = zoo.conformal(fit, calibrating, level=0.9, draws=50)
        >>> bool(calibrated.coverage(test)["empirical"].item() > 0.8)
        True
    """
    return cross_conformal([(fitted, held_out)], **options)


def cross_conformal(
    folds: Sequence[tuple[Fit, Batch]], *, target: str | None = None, level: float | Sequence[float] = 0.9,
    score: str = "normalised", predictor: Callable[..., pd.DataFrame] = predict, seed: int = 0, **options: Any,
) -> Conformal:  # fmt: skip
    """Calibrate on every label: one fit per fold, each scored on the labels it did not see (CV+).

    Every label trains all fits but one and calibrates that one, so that the quantile rests on all n labels; the
    prediction is the mean over the fits. Coverage is at least 1 - 2 (1 - p), less about sqrt(2 / n), and is near p if
    the fits agree (Barber, Candes, Ramdas and Tibshirani 2021, theorem 4; for other scores than absolute
    residuals Gupta, Kuchibhotla and Ramdas 2022).

    Score of a label y, with the prediction's mean m, standard deviation s and quantiles a, b at the level:

    - "absolute": ``|y - m|``, intervals of equal width;
    - "normalised": ``|y - m| / s``, wide where the model is unsure (Lei et al. 2018, section 5.2);
    - "quantile": ``max(a - y, y - b)``, CQR (Romano, Patterson and Candes 2019); if it would make the lower end exceed
      the upper one, both become their mean, an interval of width 0.

    Args:
        folds: Pairs of a fit and labelled rows that it has not seen, e.g. from `fit_folds`.
        target: Name of a continuous target; by default the model's first in the data.
        level: Nominal coverage in (0, 1), or several.
        score: "normalised", "absolute" or "quantile".
        predictor: `pyrozoo.predict`, `pyrozoo.predict_by_importance`, or a function with their arguments and columns.
        seed: Random seed for the predictions.
        **options: Further arguments of the predictor, e.g. ``draws``.

    Warns if the labels come from fewer members of a group that may be new at prediction, such as the participants of
    `auxvae`, than a quantile at the level takes: their labels are not exchangeable with those of other members.

    Raises:
        ValueError: Too few labels for the level; labels most of which were in training (for a fit that was loaded, only
            the training data as a whole are recognised); a discrete target; a wrong level, score or target; a
            predicted standard deviation of 0.
        KeyError: A group of the held-out rows was not in the training data.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=5, n_unlabelled=20, n_test=10)
        >>> model = zoo.create_model("ssmtl", train, width=16)
        >>> folds = zoo.fit_folds(model, "paper", train, 2, steps=10, progress=False)
        >>> calibrated = zoo.cross_conformal(folds, level=(0.5, 0.8), draws=20)
        >>> calibrated
        Conformal(y, normalised, levels [0.5, 0.8]: 20 labels of 4 units, 2 fits)
        >>> calibrated.predict(test).columns.to_list()
        ['y.mean', 'y.sd', 'y.lower50', 'y.upper50', 'y.lower80', 'y.upper80']
    """
    several = not isinstance(level, numbers.Real)
    levels = tuple(float(p) for p in np.atleast_1d(level))
    suffixes = {p: f"{100 * p:g}" if several else "" for p in levels}
    options = {"seed": seed, **options}
    if not folds:
        raise ValueError("folds: there is none; see fit_folds")
    if target is None:
        target = _first_continuous(*folds[0], predictor, options)
    parts = []
    for fitted, held_out in folds:
        _check(fitted, held_out, target, levels, score)
        parts.append(held_out.subset(_seen(held_out, target, "held_out")))
    fold = np.repeat(np.arange(len(parts)), [part.n_rows for part in parts])
    for p in levels:
        rank(len(fold), p)
    fits = tuple(fitted for fitted, _ in folds)
    origin = _origin(parts)
    _warn_of_few_members(fits[0].model, origin, levels)
    values = [_scored(predictor, fitted, held_out, target, score, levels, options) for fitted, held_out in folds]
    joined = {p: np.concatenate([value[p] for value in values]) for p in levels}
    return Conformal(fits, target, score, levels, joined, fold, origin, predictor, options, suffixes)


def _warn_of_few_members(model: ZooModel, labels: pd.Series, levels: Sequence[float]) -> None:
    """Warn if labels of few members of a group calibrate intervals for members that are new to the model."""
    group, needed = labels.index.name, max(_ceil(level / (1 - level)) for level in levels)
    if group in model.open_groups and len(labels) < needed:
        warnings.warn(
            f"{group}: labels of only {len(labels)} calibrate, and those of one {group} resemble one another, so the "
            f"coverage for another may be far from nominal; calibrate on at least {needed}, e.g. by cross_conformal "
            "with fits that leave out some each",
            stacklevel=4,
        )


def rank(n: int, level: float) -> int:
    """Rank, from 1, of the one of n sorted scores that bounds a new one with probability `level`: ceil((n + 1) level).

    Raises:
        ValueError: There are too few scores; the message says how many are needed.
    """
    k = _ceil((n + 1) * level)
    if k > n:
        raise ValueError(
            f"{n} labels are too few to calibrate at level {level:g}, which takes {_ceil(level / (1 - level))}; "
            "hold out more, or lower the level"
        )
    return k


def _ceil(value: float) -> int:
    """Round up, ignoring floating-point error: 20 x 0.55 gives 11, not 12."""
    return math.ceil(round(value, 9))


def _check(fitted: Fit, held_out: Batch, target: str, levels: tuple[float, ...], score: str) -> None:
    model = fitted.model
    if not levels or not all(0 < p < 1 for p in levels):
        raise ValueError(f"level: {list(levels)}; give nominal coverages between 0 and 1, such as 0.9")
    if score not in SCORES:
        raise ValueError(f"score: {score!r} is none of {list(SCORES)}")
    if target not in model.targets:
        raise ValueError(f"target: {target!r} is none of the model's targets {list(model.targets)}")
    if not _is_floating(fitted, held_out, target):
        raise ValueError(f"target: {target!r} is discrete, and has no intervals")
    _seen(held_out, target, "held_out")
    if fitted.train is None:
        seen_before = held_out.sha256 == fitted.data["sha256"]
    else:
        rows = _contents(held_out, target)
        seen_before = len(rows & _contents(fitted.train, target)) > len(rows) / 2  # equal rows may come by chance
    if seen_before:
        raise ValueError(
            "held_out: its labels were in training, where the fit is at its best; keep labels out of training, e.g. "
            "by hold_out(...)"
        )


def _first_continuous(fitted: Fit, held_out: Batch, predictor: Callable[..., pd.DataFrame], options: Mapping) -> str:
    floating = [t for t in fitted.model.targets if t in held_out.labels and _is_floating(fitted, held_out, t)]
    if len(floating) > 1:  # among them may be a discrete one, whose data came as floats
        table = predictor(fitted, held_out.subset([0]), **options)
        floating = [t for t in floating if not is_discrete(table, t)]
    return target_of(fitted.model, None, floating.__contains__)


def _is_floating(fitted: Fit, held_out: Batch, target: str) -> bool:
    return target not in fitted.model.enumerated and held_out[target].is_floating_point()


def _contents(batch: Batch, target: str) -> set[tuple]:
    """Group names and values of the labelled rows, as a set, so that their order does not matter."""
    seen = np.flatnonzero(batch.observed(target))
    groups = [batch.group_names(group)[seen] for group in batch.groups]
    skip = {batch.rows, "weight", *batch.groups, *batch.labels.values()}
    held = [name for name in sorted(batch.tensors) if batch.along[name] == batch.rows and name not in skip]
    values = [batch[name].detach().cpu().double().reshape(batch.n_rows, -1).numpy()[seen] for name in held]
    joined = np.concatenate(values, axis=1)
    return {(*(names[i] for names in groups), joined[i].tobytes()) for i in range(len(seen))}


def _seen(batch: Batch, target: str, what: str) -> np.ndarray:
    seen = np.flatnonzero(batch.observed(target))
    if not len(seen):
        raise ValueError(f"{what}: no row has its {target!r}; give rows with labels")
    if not batch.known(target)[seen].all():
        raise ValueError(
            f"{what}: some rows have part of {target!r} only; give rows with all of it, or use pyrozoo.cross_fitted, "
            "which learns intervals of each component"
        )
    return seen


def _truth(batch: Batch, target: str, rows: np.ndarray) -> np.ndarray:
    return batch[target].detach().cpu().double().numpy()[rows].reshape(len(rows), -1)


def _origin(parts: list[Batch]) -> pd.Series:
    """Number of labels by group, or in all if there is no group."""
    if not parts[0].groups:
        return pd.Series([sum(part.n_rows for part in parts)], index=["all"], name="labels")
    group = parts[0].groups[0]
    names = np.concatenate([part.group_names(group) for part in parts])
    return pd.Series(names, name=group).value_counts(sort=False).rename("labels")


def _predicted(
    predictor: Callable[..., pd.DataFrame], fitted: Fit, batch: Batch, score: str, levels: tuple[float, ...],
    options: Mapping[str, Any],
) -> pd.DataFrame:  # fmt: skip
    if score != "quantile":
        return predictor(fitted, batch, **options)
    needed = {q for p in levels for q in tails(p)} | set(options.get("quantiles", ()))
    return predictor(fitted, batch, **{**options, "quantiles": tuple(sorted(needed))})


def _base(table: pd.DataFrame, name: str, score: str, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of an uncalibrated interval, and how far a score of 1 moves them; each (N,)."""
    mean = table[column(name, "mean")].to_numpy()
    if score == "quantile":
        low, high = (table[column(name, end)].to_numpy() for end in interval_names(level))
        return low, high, np.ones_like(mean)
    unit = table[column(name, "sd")].to_numpy() if score == "normalised" else np.ones_like(mean)
    if not (unit > 0).all():
        row = table.index[int((~(unit > 0)).argmax())]
        raise ValueError(f"{name}, row {row!r}: its predicted sd is not positive; use another score than 'normalised'")
    return mean, mean, unit


def _scored(
    predictor: Callable[..., pd.DataFrame], fitted: Fit, held_out: Batch, target: str, score: str,
    levels: tuple[float, ...], options: Mapping[str, Any],
) -> dict[float, np.ndarray]:  # fmt: skip
    """Scores of labelled rows at each level, shapes (n, J)."""
    seen = _seen(held_out, target, "held_out")
    table = _predicted(predictor, fitted, held_out, score, levels, options).iloc[seen]
    if is_discrete(table, target):
        raise ValueError(f"target: {target!r} is discrete, and has no intervals")
    truth = _truth(held_out, target, seen)
    out = {}
    for level in levels:
        columns = []
        for j, name in enumerate(components(table, target)):
            low, high, unit = _base(table, name, score, level)
            columns.append(np.maximum(low - truth[:, j], truth[:, j] - high) / unit)
        out[level] = np.stack(columns, axis=1)
    return out


def _ends(
    bases: list[tuple[np.ndarray, np.ndarray, np.ndarray]], values: np.ndarray, fold: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals (N,): order statistics over labels of the ends that each label's fit and score give.

    With one fit, the fit's ends moved by the quantile of the scores.
    """
    low, high, unit = (np.stack(parts) for parts in zip(*bases, strict=True))
    n, k, n_rows = len(values), rank(len(values), level), low.shape[1]
    lower, upper = np.empty(n_rows), np.empty(n_rows)
    step = max(1, BLOCK // n)
    for start in range(0, n_rows, step):
        rows = slice(start, start + step)
        moved = values[:, None] * unit[fold, rows]
        lower[rows] = np.partition(low[fold, rows] - moved, n - k, axis=0)[n - k]
        upper[rows] = np.partition(high[fold, rows] + moved, k - 1, axis=0)[k - 1]
    crossed = lower > upper
    middle = (lower + upper) / 2
    return np.where(crossed, middle, lower), np.where(crossed, middle, upper)


def _mixed(tables: list[pd.DataFrame], target: str) -> pd.DataFrame:
    """Mean, and standard deviation of the mixture, of several fits' predictions."""
    columns: dict[str, np.ndarray] = {}
    for name in components(tables[0], target):
        means, sds = (np.stack([table[column(name, what)] for table in tables]) for what in ("mean", "sd"))
        columns |= columns_of(name, summary(means.mean(0), np.sqrt(means.var(0) + (sds**2).mean(0)), {}))
    return pd.DataFrame(columns, index=tables[0].index)
