"""Gaussian processes on the labels: predictors beside the networks of a cross-fitted fit, in closed form."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..data import neighbours
from ..data.batch import Batch
from ..data.values import SEEN
from ..modeling.base import ZooModel
from .covariances import JITTER, KINDS, START, Inputs, covariance_of, pairs_of, search, variance_of, with_noise

MOST, SEARCHED = 2000, 300  # labels at most, labels that choose the hyperparameters
LEVELLING = 0.25  # of the span of the labels' times: how soon trends level off beyond them
FLOOR = 0.01  # least probability of a class, before they are normalised
PAIRS = 2**24  # numbers about pairs of rows that are held at once
Features = Mapping[str, Tensor]  # kind of features -> (N, D_k), NaN where a value is missing


def days(time: np.ndarray) -> np.ndarray:
    """Times as numbers: dates in days, others as they are, (N,)."""
    if np.issubdtype(time.dtype, np.datetime64):
        return time.astype("datetime64[us]").astype(float) / 86_400e6
    return time.astype(float)


@dataclass(frozen=True)
class LabelProcess:
    """Two Gaussian processes of a target given features x, unit u and, where it is known, time t of a row.

    With standardised features, target and time, x_u the mean features of a unit, delta = 1 for rows of one unit, and
    k the kind of feature d, whose features share their scales::

        y = f + noise,  cov(f, f') = 4 + unit^2 delta + sum_d linear_k^2 x_d x'_d
                                     + (smooth^2 + smooth_unit^2 delta + smooth_alike^2 A) S + alike^2 A
                                     + (time^2 delta exp(-time_rate |t - t'|) + time_trend^2 delta l l')
                                     + (the same without delta, of all units in common)
        A = exp(-1/2 alike_rate^2 |x_u - x'_u|^2 / D)
        S = exp(-1/2 sum_d rate_k^2 (x_d - x'_d)^2)                           kind "squared"
        S = exp(-sum_d rate_k |asinh(2 x_d) - asinh(2 x'_d)| / sqrt(D))       kind "absolute"
        l = t within the labels' times, their end +- tau (1 - exp(-d / tau)) at d beyond it, tau a quarter of their span

    Functions of the first kind are smooth; those of the second have kinks, as the limit of a forest of random splits
    has, and outlying features, whose scale asinh compresses, do not bend them. A mixed linear model, an autocorrelated
    deviation and a trend are special cases of both. Beyond the labels' times a trend levels off, as damped trends of
    exponential smoothing do (Gardner & McKenzie, "Forecasting trends in time series", Management Science 31, 1985): a
    straight line goes far astray where few times told it. For units that are open, as new people are, there is no A: a
    row is told by its own features alone, and predicted as one of a new unit.

    A target with a transform (`ZooModel.warp`) is learned and predicted on the scale of the transform.

    Of a target of classes the components are 1 for the class of a row and 0 for the others, which share their
    hyperparameters, so that their means sum to 1 (least-squares classification); means below 0.01 are raised to it.

    The logarithms of the hyperparameters maximise the marginal likelihood of at most 300 labels with normal priors; at
    most 2,000 labels are conditioned on, drawn at random. A missing feature is filled from the five rows that are most
    alike in the others and in the mean features of their units, of at most 10,000 training rows drawn at random; for
    units that are open, and where no training row had a gap, it counts as the mean of its unit.

    Attributes:
        names: Names of the units with a place in `means`, (M,).
        sizes: Numbers D_k of features of each kind.
        tensors: ``x`` (n, D), ``y`` (n, J), ``unit`` (n,) and, with time, ``time`` (n,) of the labels; ``means``
            (M, D); ``x_loc``, ``x_scale`` (D,), ``y_loc``, ``y_scale`` (J,), ``time_loc``, ``time_scale``, ``tau`` ();
            where features are missing ``rows`` (R, 2 D), features and means of training rows; and hyperparameters
            ``<kind>_<name>`` (J, ...), of classes (1, ...), as logarithms. Double precision, standardised.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.inference.label_process import LabelProcess
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=5, n_unlabelled=20, n_test=10)
        >>> model = zoo.create_model("ssmtl", train)
        >>> process = LabelProcess.learn(model, train, "y")
        >>> mean, sd = process.predict(model, test)
        >>> mean.shape, bool((sd > 0).all())  # of both kinds
        ((2, 40, 1), True)
    """

    names: np.ndarray
    sizes: tuple[int, ...]
    tensors: Mapping[str, Tensor]

    @classmethod
    def learn(
        cls, model: ZooModel, train: Batch, target: str, seed: int = 0, classes: int = 0, component: int | None = None
    ) -> LabelProcess:  # fmt: skip
        """Choose hyperparameters and keep the labels.

        Args:
            model: The model, for its `process_features`, `open_groups` and `warp`.
            train: Data with labels and groups, of which the first counts.
            target: Name of a target of numbers, or of classes.
            seed: Random seed for the labels that are used, where there are more.
            classes: Number of classes of the target; 0 for one of numbers.
            component: The one component of the target that counts, on the rows that have it; None for all, on rows that
                have all of them.

        Raises:
            ValueError: No row has a label.
        """
        rng, group = np.random.default_rng(seed), train.groups[0]
        features, open_units = model.process_features(train.hide()), group in model.open_groups
        x, unit = _side_by_side(features), train[group].cpu()
        x_loc, x_scale = _nanmoments(x)
        x = (x - x_loc) / x_scale
        means = _unit_means(x, unit, train.sizes[group])
        labelled = train.observed(target) if component is None else train.known(target)[:, component]
        rows = np.flatnonzero(labelled)
        if not len(rows):
            what = target if component is None else train.columns(target)[component]
            raise ValueError(f"target: no row has a label of {what!r}; leave it out, or use process=False")
        if len(rows) > MOST:
            rows = np.sort(rng.choice(rows, MOST, replace=False))
        y = train[target].detach().cpu()[rows]
        if classes:
            y = functional.one_hot(y.long(), classes).double()
        else:
            warp = model.warp(target)
            y = (y.double() if warp is None else warp.inv(y.double())).reshape(len(rows), -1)
            y = y if component is None else y[:, [component]]
        y_loc, y_scale = y.mean(0), y.std(0, unbiased=False)
        y_scale = torch.where(y_scale > 0, y_scale, torch.ones_like(y_scale))
        known: dict[str, Tensor] = {}
        if not open_units and bool(x.isnan().any()):
            drawn = np.random.default_rng([seed, 1]).permutation(len(x))[: neighbours.MOST]
            known["rows"] = torch.cat([x, means[unit]], 1)[drawn]
        own = known | {
            "x": _filled(x[rows], means[unit[rows]], known.get("rows")), "y": (y - y_loc) / y_scale, "unit": unit[rows],
            "means": means, "x_loc": x_loc, "x_scale": x_scale, "y_loc": y_loc, "y_scale": y_scale,
        }  # fmt: skip
        if train.time is not None:
            time = torch.as_tensor(days(train.time)[rows])
            own["time_loc"], own["time_scale"] = time.mean(), time.std(unbiased=False).clamp(min=1e-12)
            own["time"] = (time - own["time_loc"]) / own["time_scale"]
            own["tau"] = (LEVELLING * (own["time"].max() - own["time"].min())).clamp(min=1e-12)
        process = cls(np.asarray(train.coords[group]), tuple(part.shape[1] for part in features.values()), own)
        chosen = np.sort(rng.permutation(len(rows))[:SEARCHED])
        labels = process._labels(chosen)
        left_out = {name for name in START if "alike" in name and open_units}
        left_out |= {name for name in START if "time" in name and not process.timed}
        for kind in KINDS:
            pairs = pairs_of(kind, process.sizes, labels, labels, with_means=not open_units)
            columns = own["y"][chosen].split(y.shape[1] if classes else 1, 1)
            found = [search(pairs, len(process.sizes), left_out, part) for part in columns]
            own |= {f"{kind}_{name}": torch.stack([part[name] for part in found]) for name in found[0]}
        return process

    @property
    def timed(self) -> bool:
        """Whether it knows the times of its labels."""
        return "time" in self.tensors

    @property
    def open_units(self) -> bool:
        """Whether rows are told without what is known of their units' features."""
        return f"{KINDS[0]}_alike" not in self.tensors

    @property
    def classes(self) -> int:
        """Number of classes of the target; 0 for one of numbers."""
        n = self.tensors["y"].shape[1]
        return n if len(self.tensors[f"{KINDS[0]}_noise"]) < n else 0

    def probabilities(self, model: ZooModel, batch: Batch) -> np.ndarray:
        """Probabilities of the classes of every row by each kind, (2, N, C); arguments and errors as `predict`."""
        rows, own = self._rows(batch, self._features(model, batch)), self.tensors
        found = []
        for kind, weights in self._class_weights.items():
            parts = self._covariances(kind, self._logs(kind), rows, self._labels(slice(None)))
            mean = torch.cat([part[0] @ weights for part in parts]) * own["y_scale"] + own["y_loc"]
            found.append(functional.normalize(mean.clamp(min=FLOOR), p=1.0, dim=1))
        return torch.stack(found).numpy()

    @functools.cached_property
    def _class_weights(self) -> dict[str, Tensor]:
        """Weights of the labels in the means of the classes by kind, (n, C); kept, for streams that ask row by row."""
        out, known = {}, self._labels(slice(None))
        for kind in KINDS:
            logs = self._logs(kind)
            covariance = torch.cat([part[0] for part in self._covariances(kind, logs, known, known)])
            factor = torch.linalg.cholesky(with_noise(covariance, logs[0]))
            out[kind] = torch.cholesky_solve(self.tensors["y"], factor)
        return out

    def predict(self, model: ZooModel, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, noise included, of every row and component by each kind, (2, N, J) each.

        Units that it does not know are told by their mean features in this batch alone, if at all.

        Args:
            model: The model of which it learned.
            batch: Rows; their targets are not read.

        Raises:
            ValueError: Other numbers of features, or it knows times, and the batch has none.
        """
        rows = self._rows(batch, self._features(model, batch))
        mean, sd = (np.stack(values) for values in zip(*(self._of_kind(kind, rows) for kind in KINDS), strict=True))
        return mean, sd

    def _features(self, model: ZooModel, batch: Batch) -> Features:
        """What the model computes of rows."""
        features = model.process_features(batch.hide())
        if (sizes := tuple(part.shape[1] for part in features.values())) != self.sizes:
            raise ValueError(f"features of the process: {sizes} by kind, where its labels have {self.sizes}")
        return features

    def _logs(self, kind: str) -> list[dict[str, Tensor]]:
        """Hyperparameters of one kind, one set per component, or of all classes."""
        own = {name.partition("_")[2]: value for name, value in self.tensors.items() if name.startswith(f"{kind}_")}
        return [{name: value[j] for name, value in own.items()} for j in range(len(own["noise"]))]

    def _of_kind(self, kind: str, new: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation by one kind, (N, J) each."""
        known, own, logs = self._labels(slice(None)), self.tensors, self._logs(kind)
        covariances = torch.cat(list(self._covariances(kind, logs, known, known)), 1)
        factors = [torch.linalg.cholesky(with_noise(*both)) for both in zip(covariances, logs, strict=True)]
        columns = own["y"].split(own["y"].shape[1] // len(logs), 1)
        weights = [torch.cholesky_solve(*both) for both in zip(columns, factors, strict=True)]
        mean, explained = [], []
        for part in self._covariances(kind, logs, new, known):
            mean.append(torch.cat([cross @ one for cross, one in zip(part, weights, strict=True)], -1))
            solved = [torch.linalg.solve_triangular(f, c.T, upper=False) for f, c in zip(factors, part, strict=True)]
            explained.append(torch.stack([half.square().sum(0) for half in solved], -1))
        prior = torch.stack([variance_of(log, self.sizes, new) for log in logs], -1)
        noise = torch.stack([log["noise"].exp() ** 2 + JITTER for log in logs])
        sds = ((prior - torch.cat(explained)).clamp(min=0) + noise).sqrt() * own["y_scale"]
        return (torch.cat(mean) * own["y_scale"] + own["y_loc"]).numpy(), sds.numpy()

    def _covariances(
        self, kind: str, logs: Sequence[Mapping[str, Tensor]], rows: Inputs, known: Inputs
    ) -> Iterator[Tensor]:
        """Covariances of rows with labels, component by component, some rows at a time: (J, part of N, n) each."""
        step = max(1, PAIRS // (2 * len(self.sizes) * len(known[0])))
        for start in range(0, len(rows[0]), step):
            part = tuple(None if t is None else t[start : start + step] for t in rows)
            pairs = pairs_of(kind, self.sizes, part, known, with_means=not self.open_units)  # type: ignore[arg-type]
            yield torch.stack([covariance_of(log, pairs) for log in logs])

    def lag(self, batch: Batch) -> np.ndarray:
        """Time from each row to the nearest label of its unit, (N,), in days or the unit of the times.

        A row of a unit without labels is as far away as the times of all labels reach.
        """
        unit, time = torch.as_tensor(self._places(batch)), self._times(batch)
        assert time is not None
        out = np.full(batch.n_rows, float(self.tensors["time"].max() - self.tensors["time"].min()))
        for i in unit.unique().tolist():
            own, rows = self.tensors["time"][self.tensors["unit"] == i], (unit == i).numpy()
            if len(own):
                out[rows] = (time[unit == i][:, None] - own[None]).abs().amin(1).numpy()
        return out * float(self.tensors["time_scale"])

    def known(self, batch: Batch) -> np.ndarray:
        """Whether the unit of each row has a label, (N,); open units count as if they had."""
        if self.open_units:
            return np.ones(batch.n_rows, dtype=bool)
        return np.isin(self._places(batch), self.tensors["unit"].unique().numpy())

    def _places(self, batch: Batch) -> np.ndarray:
        """Place of each row's unit among the known ones; new ones are numbered from -1 downwards, (N,)."""
        group, names = batch.groups[0], () if self.open_units else self.names.tolist()
        known, new = {name: i for i, name in enumerate(names)}, batch.coords[group].tolist()
        places = [known.get(name, -1 - i) for i, name in enumerate(new)]
        return np.array(places)[batch[group].cpu().numpy()]

    def _times(self, batch: Batch) -> Tensor | None:
        """Standardised times of rows, (N,); None if it knows none."""
        if not self.timed:
            return None
        if batch.time is None:
            raise ValueError("time: the labels have times, these rows have none; give the column of the time")
        return (torch.as_tensor(days(batch.time)) - self.tensors["time_loc"]) / self.tensors["time_scale"]

    def _rows(self, batch: Batch, features: Features) -> Inputs:
        """What the covariance reads of the rows of a batch."""
        own, index, time = self.tensors, batch[batch.groups[0]].cpu(), self._times(batch)
        place = torch.as_tensor(self._places(batch))
        x = (_side_by_side(features) - own["x_loc"]) / own["x_scale"]
        here = _unit_means(x, index, batch.sizes[batch.groups[0]])[index]
        means = torch.where((place < 0)[:, None], here, own["means"][place.clamp(min=0)])
        return _filled(x, means, own.get("rows")), means, place, self._and_trend(time)

    def _and_trend(self, time: Tensor | None) -> Tensor | None:
        """Times t beside l, what trends read of them, (N, 2)."""
        if time is None:
            return None
        if (tau := self.tensors.get("tau")) is None:  # learned before trends levelled off
            return torch.stack([time, time], 1)
        within = time.clamp(*self.tensors["time"].aminmax())
        beyond = time - within
        return torch.stack([time, within - tau * beyond.sign() * torch.expm1(-beyond.abs() / tau)], 1)

    def _labels(self, rows: Any) -> Inputs:
        """What the covariance reads of some labels."""
        own = self.tensors
        unit = own["unit"][rows]
        return own["x"][rows], own["means"][unit], unit, self._and_trend(own["time"][rows] if self.timed else None)


@dataclass(frozen=True)
class ByComponent:
    """Processes of a target whose components are missing one by one, each on the rows that have its own.

    Attributes:
        parts: A process per component, J in all.
    """

    parts: tuple[LabelProcess, ...]

    classes = 0
    open_units = False  # no model with open groups takes rows that have part of their components

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of features of each kind."""
        return self.parts[0].sizes

    @property
    def timed(self) -> bool:
        """Whether they know the times of their labels."""
        return self.parts[0].timed

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of all processes, ``<component>/<name>``."""
        return {f"{j}/{name}": tensor for j, part in enumerate(self.parts) for name, tensor in part.tensors.items()}

    def predict(self, model: ZooModel, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, (2, N, J) each; arguments and errors as `LabelProcess.predict`."""
        found = [part.predict(model, batch) for part in self.parts]
        mean, sd = (np.concatenate(own, -1) for own in zip(*found, strict=True))
        return mean, sd

    def known(self, batch: Batch) -> np.ndarray:
        """Whether the unit of each row has a label of each component, (N, J)."""
        return np.stack([part.known(batch) for part in self.parts], -1)

    def lag(self, batch: Batch) -> np.ndarray:
        """Time from each row to the nearest label of each component in its unit, (N, J)."""
        return np.stack([part.lag(batch) for part in self.parts], -1)


def learn_process(
    model: ZooModel, train: Batch, target: str, seed: int = 0, classes: int = 0
) -> LabelProcess | ByComponent:  # fmt: skip
    """The process of a target; one for each of its components where these are missing one by one.

    Args:
        model: As `LabelProcess.learn`, whose errors it raises, and so are the others.
        train: Data with labels and groups.
        target: Name of a target.
        seed: Random seed for the labels that are used.
        classes: Number of classes of the target; 0 for one of numbers.
    """
    if target + SEEN not in train.tensors:
        return LabelProcess.learn(model, train, target, seed, classes)
    return ByComponent(
        tuple(LabelProcess.learn(model, train, target, seed, component=j) for j in range(train[target].shape[1]))
    )


def _side_by_side(features: Features) -> Tensor:
    """Features of all kinds in double precision, (N, D)."""
    return torch.cat([part.detach().cpu().double() for part in features.values()], -1)


def _filled(x: Tensor, means: Tensor, among: Tensor | None) -> Tensor:
    """Features (N, D) without gaps: from the most alike of some rows (R, 2 D), if any, or else the unit's means."""
    if among is None:
        return torch.where(x.isnan(), means, x)
    whole = neighbours.fill_from_neighbours(torch.cat([x, means], 1).numpy(), among.numpy())
    return torch.as_tensor(whole[:, : x.shape[1]])


def _nanmoments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns, without missing values; 1 for a constant one."""
    loc = x.nanmean(0).nan_to_num()
    scale = (x - loc).square().nanmean(0).sqrt().nan_to_num()
    return loc, torch.where(scale > 1e-12 * loc.abs(), scale, torch.ones_like(scale))


def _unit_means(x: Tensor, unit: Tensor, size: int) -> Tensor:
    """Mean of each unit's features (M, D), without missing values; 0, the mean of all, where there is none."""
    seen = ~x.isnan()
    total = x.new_zeros(size, x.shape[1]).index_add(0, unit, torch.where(seen, x, torch.zeros_like(x)))
    return total / x.new_zeros(size, x.shape[1]).index_add(0, unit, seen.to(x)).clamp(min=1)
