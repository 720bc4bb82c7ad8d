"""Gaussian processes on the labels: predictors beside the networks of a cross-fitted fit, in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batch import Batch
from ..data.build import SEEN

MOST, SEARCHED, STEPS = 2000, 300, 100  # labels at most, labels that choose the hyperparameters, steps of that search
JITTER, CONSTANT = 1e-4, 4.0  # in variances of the target
# Logarithms from which the search starts, and about which it has normal priors of standard deviation SPREAD.
START = {
    "unit": -0.3, "smooth": -0.7, "smooth_unit": -1.0, "smooth_alike": -0.7, "alike": -0.7, "alike_rate": 0.0,
    "time": -1.0, "time_rate": 0.7, "time_trend": -2.0, "time_common": -1.5, "time_common_rate": 0.7,
    "time_common_trend": -2.0, "noise": -1.0,
}  # fmt: skip
SPREAD = 1.5
KINDS = ("squared", "absolute")  # distances in x: functions that are smooth, and those that have kinks as trees have
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # x (n, D), means (n, D), unit (n,), time (n,)


def days(time: np.ndarray) -> np.ndarray:
    """Times as numbers: dates in days, others as they are, (N,)."""
    if np.issubdtype(time.dtype, np.datetime64):
        return time.astype("datetime64[us]").astype(float) / 86_400e6
    return time.astype(float)


@dataclass(frozen=True)
class LabelProcess:
    """Two Gaussian processes of a target given inputs x, unit u and, where it is known, time t of a row.

    With standardised inputs, target and time, x_u the mean input of a unit, and delta = 1 for rows of one unit::

        y = f + noise,  cov(f, f') = 4 + unit^2 delta + sum_d linear_d^2 x_d x'_d
                                     + (smooth^2 + smooth_unit^2 delta + smooth_alike^2 A) S + alike^2 A
                                     + (time^2 delta exp(-time_rate |t - t'|) + time_trend^2 delta t t')
                                     + (the same without delta, of all units in common)
        A = exp(-1/2 alike_rate^2 |x_u - x'_u|^2 / D)
        S = exp(-1/2 sum_d rate_d^2 (x_d - x'_d)^2)                           kind "squared"
        S = exp(-sum_d rate_d |asinh(2 x_d) - asinh(2 x'_d)| / sqrt(D))       kind "absolute"

    Functions of the first kind are smooth; those of the second have kinks, as the limit of a forest of random splits
    has, and outlying inputs, whose scale asinh compresses, do not bend them. A mixed linear model, an autocorrelated
    deviation and a trend are special cases of both.

    The logarithms of the hyperparameters maximise the marginal likelihood of at most 300 labels with normal priors; at
    most 2,000 labels are conditioned on, drawn at random. A missing input counts as the mean of its unit.

    Attributes:
        names: Names of the units with a place in `means`, (M,).
        tensors: ``x`` (n, D), ``y`` (n, J), ``unit`` (n,) and, with time, ``time`` (n,) of the labels; ``means``
            (M, D); ``x_loc``, ``x_scale`` (D,), ``y_loc``, ``y_scale`` (J,), ``time_loc``, ``time_scale`` (); and
            hyperparameters ``<kind>_<name>`` (J, ...), as logarithms. Double precision, standardised.

    Example:
        >>> from pyrozoo.inference.label_process import LabelProcess
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=5, n_unlabelled=20, n_test=10)
        >>> process = LabelProcess.learn(train, "y", ("x",))
        >>> mean, sd = process.predict(test)
        >>> mean.shape, bool((sd > 0).all())  # of both kinds
        ((2, 40, 1), True)
    """

    names: np.ndarray
    inputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    @classmethod
    def learn(cls, train: Batch, target: str, inputs: tuple[str, ...], seed: int = 0) -> LabelProcess:
        """Choose hyperparameters and keep the labels.

        Args:
            train: Data with labels and groups, of which the first counts.
            target: Name of a target of numbers.
            inputs: Names of the row tensors that are inputs.
            seed: Random seed for the labels that are used, where there are more.
        """
        rng, group = np.random.default_rng(seed), train.groups[0]
        x, unit = _inputs(train, inputs), train[group].cpu()
        x_loc, x_scale = _nanmoments(x)
        x = (x - x_loc) / x_scale
        means = _unit_means(x, unit, train.sizes[group])
        rows = np.flatnonzero(train.observed(target))
        if len(rows) > MOST:
            rows = np.sort(rng.choice(rows, MOST, replace=False))
        y = train[target].detach().cpu().double()[rows].reshape(len(rows), -1)
        y_loc, y_scale = y.mean(0), y.std(0, unbiased=False)
        y_scale = torch.where(y_scale > 0, y_scale, torch.ones_like(y_scale))
        own = {
            "x": torch.where(x.isnan(), means[unit], x)[rows], "y": (y - y_loc) / y_scale, "unit": unit[rows],
            "means": means, "x_loc": x_loc, "x_scale": x_scale, "y_loc": y_loc, "y_scale": y_scale,
        }  # fmt: skip
        if train.time is not None:
            time = torch.as_tensor(days(train.time)[rows])
            own["time_loc"], own["time_scale"] = time.mean(), time.std(unbiased=False).clamp(min=1e-12)
            own["time"] = (time - own["time_loc"]) / own["time_scale"]
        process = cls(np.asarray(train.coords[group]), inputs, own)
        chosen = np.sort(rng.permutation(len(rows))[:SEARCHED])
        for kind in KINDS:
            found = [_search(kind, process._labels(chosen), own["y"][chosen, j]) for j in range(y.shape[1])]
            own |= {f"{kind}_{name}": torch.stack([part[name] for part in found]) for name in found[0]}
        return process

    @property
    def timed(self) -> bool:
        """Whether it knows the times of its labels."""
        return "time" in self.tensors

    def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, noise included, of every row and component by each kind, (2, N, J) each.

        Units that it does not know are told by their mean inputs in this batch alone.

        Raises:
            ValueError: It knows times, and the batch has none.
        """
        found = [self._of_kind(kind, self._rows(batch)) for kind in KINDS]
        mean, sd = (np.stack(values) for values in zip(*found, strict=True))
        return mean, sd

    def _of_kind(self, kind: str, new: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation by one kind, (N, J) each."""
        known, own = self._labels(slice(None)), self.tensors
        means, sds = [], []
        for j in range(own["y"].shape[1]):
            log = {name.partition("_")[2]: value[j] for name, value in own.items() if name.startswith(f"{kind}_")}
            factor = torch.linalg.cholesky(_with_noise(_covariance(kind, log, known, known), log))
            weights = torch.cholesky_solve(own["y"][:, j, None], factor)[:, 0]
            mean, variance = [], []
            for start in range(0, len(new[0]), 4096):
                part = tuple(None if t is None else t[start : start + 4096] for t in new)
                cross = _covariance(kind, log, part, known)  # type: ignore[arg-type]
                mean.append(cross @ weights)
                explained = torch.linalg.solve_triangular(factor, cross.T, upper=False).square().sum(0)
                variance.append((_variance(log, part) - explained).clamp(min=0))  # type: ignore[arg-type]
            noise = log["noise"].exp() ** 2 + JITTER
            means.append(torch.cat(mean) * own["y_scale"][j] + own["y_loc"][j])
            sds.append((torch.cat(variance) + noise).sqrt() * own["y_scale"][j])
        return torch.stack(means, -1).numpy(), torch.stack(sds, -1).numpy()

    def lag(self, batch: Batch) -> np.ndarray:
        """Time from each row to the nearest label of its unit, (N,), in days or the unit of the times.

        A row of a unit without labels is as far away as the times of all labels reach.
        """
        _, _, unit, time = self._rows(batch)
        assert time is not None
        out = np.full(batch.n_rows, float(self.tensors["time"].max() - self.tensors["time"].min()))
        for i in unit.unique().tolist():
            own, rows = self.tensors["time"][self.tensors["unit"] == i], (unit == i).numpy()
            if len(own):
                out[rows] = (time[unit == i][:, None] - own[None]).abs().amin(1).numpy()
        return out * float(self.tensors["time_scale"])

    def labelled(self, batch: Batch) -> np.ndarray:
        """Whether the unit of each row has a label, (N,)."""
        place = self._places(batch)
        return np.isin(place, self.tensors["unit"].unique().numpy())

    def _places(self, batch: Batch) -> np.ndarray:
        """Place of each row's unit among the known ones; new ones are numbered from -1 downwards, (N,)."""
        group = batch.groups[0]
        known, new = {name: i for i, name in enumerate(self.names.tolist())}, batch.coords[group].tolist()
        places = [known.get(name, -1 - i) for i, name in enumerate(new)]
        return np.array(places)[batch[group].cpu().numpy()]

    def _rows(self, batch: Batch) -> Inputs:
        """What the covariance reads of the rows of a batch."""
        if self.timed and batch.time is None:
            raise ValueError("time: the labels have times, these rows have none; give the column of the time")
        own, index = self.tensors, batch[batch.groups[0]].cpu()
        place = torch.as_tensor(self._places(batch))
        x = (_inputs(batch, self.inputs) - own["x_loc"]) / own["x_scale"]
        here = _unit_means(x, index, batch.sizes[batch.groups[0]])[index]
        means = torch.where((place < 0)[:, None], here, own["means"][place.clamp(min=0)])
        time = None
        if self.timed:
            time = (torch.as_tensor(days(batch.time)) - own["time_loc"]) / own["time_scale"]  # type: ignore[arg-type]
        return torch.where(x.isnan(), means, x), means, place, time

    def _labels(self, rows: Any) -> Inputs:
        """What the covariance reads of some labels."""
        own = self.tensors
        unit = own["unit"][rows]
        return own["x"][rows], own["means"][unit], unit, own["time"][rows] if self.timed else None


def _inputs(batch: Batch, names: tuple[str, ...]) -> Tensor:
    """Inputs side by side in double precision, (N, D), NaN where a value is missing."""
    found = []
    for name in names:
        x, seen = batch[name].detach().cpu().double(), batch.tensors.get(name + SEEN)
        found.append((x if seen is None else torch.where(seen.cpu(), x, torch.nan)).reshape(batch.n_rows, -1))
    return torch.cat(found, -1)


def _nanmoments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns, without missing values; 1 for a constant one."""
    loc = x.nanmean(0).nan_to_num()
    scale = (x - loc).square().nanmean(0).sqrt().nan_to_num()
    return loc, torch.where(scale > 1e-12 * loc.abs(), scale, torch.ones_like(scale))


def _unit_means(x: Tensor, unit: Tensor, size: int) -> Tensor:
    """Mean of each unit's inputs (M, D), without missing values; 0, the mean of all, where there is none."""
    seen = ~x.isnan()
    total = x.new_zeros(size, x.shape[1]).index_add(0, unit, torch.where(seen, x, torch.zeros_like(x)))
    return total / x.new_zeros(size, x.shape[1]).index_add(0, unit, seen.to(x)).clamp(min=1)


def _search(kind: str, rows: Inputs, y: Tensor) -> dict[str, Tensor]:
    """Logarithms of the hyperparameters of one component, from some of its labels."""
    size = rows[0].shape[1]
    each = -0.5 * math.log(max(size, 1)) - 0.7
    start = {name: torch.tensor(value, dtype=torch.double) for name, value in START.items()}
    start |= {name: torch.full((size,), each, dtype=torch.double) for name in ("linear", "rate")}
    if rows[3] is None:
        start = {name: value for name, value in start.items() if not name.startswith("time")}
    log = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimiser = torch.optim.Adam(log.values(), lr=0.1)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - 0.9 * step / STEPS)
        optimiser.zero_grad()
        with torch.enable_grad():
            factor = torch.linalg.cholesky(_with_noise(_covariance(kind, log, rows, rows), log))
            fit = 0.5 * (y @ torch.cholesky_solve(y[:, None], factor)[:, 0]) + factor.diagonal().log().sum()
            prior = sum(((log[name] - start[name]) / SPREAD).square().sum() for name in log) / 2
            (fit + prior).backward()
        optimiser.step()
    return {name: value.detach() for name, value in log.items()}


def _with_noise(covariance: Tensor, log: Mapping[str, Tensor]) -> Tensor:
    return covariance + (log["noise"].exp() ** 2 + JITTER) * torch.eye(len(covariance), dtype=covariance.dtype)


def _covariance(kind: str, log: Mapping[str, Tensor], one: Inputs, other: Inputs) -> Tensor:
    """Covariance of f in some rows (n,) and others (m,), (n, m)."""
    size = {name: value.exp() ** 2 for name, value in log.items()}
    same = (one[2][:, None] == other[2][None]).double()
    rate = log["rate"].exp()
    if kind == "absolute":
        bent, other_bent = (torch.asinh(2 * rows[0]) * rate for rows in (one, other))
        smooth = torch.exp(-torch.cdist(bent, other_bent, p=1) / math.sqrt(max(one[0].shape[1], 1)))
    else:
        smooth = torch.exp(-0.5 * _squares(one[0] * rate, other[0] * rate))
    alike = torch.exp(-0.5 * size["alike_rate"] / max(one[0].shape[1], 1) * _squares(one[1], other[1]))
    found = CONSTANT + size["unit"] * same + (one[0] * size["linear"]) @ other[0].T + size["alike"] * alike
    found = found + (size["smooth"] + size["smooth_unit"] * same + size["smooth_alike"] * alike) * smooth
    if one[3] is not None and other[3] is not None:
        apart = (one[3][:, None] - other[3][None]).abs()
        for name, where in (("time", same), ("time_common", 1.0)):
            trend = size[f"{name}_trend"] * one[3][:, None] * other[3][None]
            found = found + where * (size[name] * torch.exp(-log[f"{name}_rate"].exp() * apart) + trend)
    return found


def _variance(log: Mapping[str, Tensor], rows: Inputs) -> Tensor:
    """Variance of f in rows, the diagonal of their covariance, (n,)."""
    timed = () if rows[3] is None else ("time", "time_common")
    names = ("unit", "smooth", "smooth_unit", "smooth_alike", "alike", *timed)
    constant = CONSTANT + sum(float(log[name].exp() ** 2) for name in names)
    found = constant + (rows[0].square() * log["linear"].exp() ** 2).sum(-1)
    for name in timed:
        found = found + (rows[3] * log[f"{name}_trend"].exp()).square()  # type: ignore[operator]
    return found


def _squares(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances (n, m) of points (n, D) and (m, D)."""
    return (one.square().sum(1)[:, None] + other.square().sum(1)[None] - 2 * one @ other.T).clamp(min=0)
