"""predict(): the targets of every row from draws of the latents."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.batch import Batch
from ..inference.copies import isolated, run_seed
from ..inference.fitted import Fit, Run
from ..inference.label_process import ByComponent, LabelProcess
from ..inference.law import StudentLaw, Temperature, joined, mixed
from ..inference.settings import plain_number, whole
from .columns import class_columns, column, columns_of, component_names, summary
from .new_groups import new_groups, ready
from .target_draws import Predicted, not_enumerated, summed_out


def predict(
    fit: Fit,
    batch: Batch | pd.DataFrame,
    *,
    draws: int = 200,
    seed: int = 0,
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95),
    restart: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Predict the targets of every row, as if none were observed.

    The restarts of a fit predict together, as a mixture in which each has the same weight. A fit by
    `pyrozoo.cross_fitted` predicts by the law that it learned on held-out labels (see `Fit.law`); the intervals of
    other fits are the model's own and may be too narrow, which is logged once: check them by `coverage`.

    In the mixture, means and standard deviations are exact given each draw of the latents that are not summed out (law
    of total variance), and so are the probabilities of classes; quantiles, and the moments of a distribution that
    states none (one that is transformed, for instance), come from the draws themselves.

    Args:
        fit: The fit. The best restart alone predicts if the model predicts by itself, e.g. by decoding.
        batch: Data, or a data frame with the columns of the training table; its targets, if it has any, are hidden from
            the guide, also those of unseen groups that an amortised guide reads.
        draws: Number of draws of the latents, per restart.
        seed: Random seed for the draws.
        quantiles: Quantiles to report, each in (0, 1).
        restart: Position in ``fit.runs`` of the one restart that predicts, without the law; None for the mixture.
        **options: Further arguments of the model's own ``predict``, for a model that has one (e.g. by decoding).

    Returns:
        One line per row: for a target of numbers, also counts, ``y.mean``, ``y.sd``, ``y.q05`` ... (``y[name].mean``
        where y has several components); for one of classes ``k.label`` and ``k.p[class]``. In the units of the data. If
        the batch has coordinates of rows, groups and coordinates of the row come first (`Batch.describe_rows`). Where a
        group of some rows was not in the training data, and the guide has no answer of its own for it, its latents are
        drawn from their prior given the global latents; the column ``<group>.new`` says for which rows.

    Raises:
        ValueError: The fit saw no label of a target, the model has no target, or there is no such restart.
        KeyError: A group was not in the training data, and another guide of the entry is amortised over it, or the
            model has parameters per group, or the guide draws its rows' latents in one with those of the groups.
        TypeError: Options for a model without a ``predict`` of its own.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(0, 9220, 40))
        >>> table = zoo.predict(fit, data, draws=50, quantiles=(0.05, 0.95))
        >>> table.shape
        (231, 4)
        >>> list(table)
        ['y.mean', 'y.sd', 'y.q05', 'y.q95']
    """
    table, drawn = predict_with_draws(
        fit, batch, draws=draws, seed=seed, quantiles=quantiles, restart=restart, **options
    )
    if quantiles and fit.law is None and any(own.kind == "real" for own in drawn.values()):
        _say_uncorrected()
    return table


@functools.cache
def _say_uncorrected() -> None:
    """Log it once in a process."""
    logging.getLogger("pyrozoo").warning(
        "predictive intervals are the model's own and not corrected on held-out labels: "
        "check them on labelled rows (pyrozoo.coverage, in the shell pyrozoo metrics), or fit with pyrozoo.cross_fitted"
    )


def predict_with_draws(
    fit: Fit, batch: Batch, *, draws: int, seed: int, quantiles: tuple[float, ...], restart: int | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, Predicted]]:  # fmt: skip
    """The table of `predict`, and what is behind it by target; a model that predicts by itself gives nothing."""
    batch, draws = fit.as_batch(batch), whole("draws", plain_number(draws), 1)
    table, samples = _predictions(fit, batch, draws, seed, quantiles, restart, options)
    if batch.row_coords and len(table) == batch.n_rows:
        described = batch.describe_rows()
        table = pd.concat([described.set_axis(table.index), table], axis=1)
    return table, samples


def _predictions(
    fit: Fit, batch: Batch, draws: int, seed: int, quantiles: tuple[float, ...], restart: int | None,
    options: Mapping[str, Any],
) -> tuple[pd.DataFrame, dict[str, Predicted]]:  # fmt: skip
    """Return the columns of the targets, and the draws behind them."""
    if not fit.model.targets:
        raise ValueError(f"{type(fit.model).__name__} has no target to predict")
    if hasattr(fit.model, "predict"):
        run = fit.best if restart is None else fit.chosen(restart)[0][1]
        with isolated(seed), torch.no_grad():
            return run.model.predict(run.guide, fit.prepare(batch.hide(), run), draws=draws, **options), {}
    if options:
        raise TypeError(f"{type(fit.model).__name__} takes no {sorted(options)} to predict")
    for target in fit.model.targets:
        labelled = fit.prototype.sizes.get(fit.prototype.labels.get(target, ""), 0)
        if not labelled and target not in fit.model.enumerated:
            raise ValueError(
                f"no row of the training data was labelled with {target!r}, so it cannot be predicted; add labels"
            )
    parts = [_of_restart(fit, batch, seed, place, run, draws) for place, run in fit.chosen(restart)]
    drawn, law = _mixed(parts), {} if fit.law is None or restart is not None else fit.law.parts
    index = pd.Index(batch.names(batch.rows), name=batch.rows)
    columns: dict[str, np.ndarray] = {}
    for target, own in drawn.items():
        if own.values is None:
            of_classes = cast(Temperature | None, law.get(target))
            process = cast(LabelProcess | None, _process_of(fit, target))  # classes have no components
            columns |= _classes(target, own.exact, fit, of_classes, process, batch)
        elif laws := [law[name] for name in names_in(fit, target, own.exact.shape[-1]) if name in law]:
            moments_of = [part[target].by_law.exact for part in parts]
            beside = _beside(fit, batch, target)
            of = target, moments_of, fit, cast(list[StudentLaw], laws)
            found, drawn[target] = _by_law(*of, beside, quantiles, draws)
            if (warp := fit.model.warp(target)) is not None:
                found, drawn[target] = _in_units(warp, drawn[target], found)
            columns |= found
        else:
            columns |= _numbers(target, own, fit, quantiles)
    for group, names in new_groups(fit, batch).items():
        columns[column(group, "new")] = np.array([name in set(names) for name in batch.group_names(group).tolist()])
    return pd.DataFrame(columns, index=index), drawn


def restart_seed(seed: int, place: int) -> int:
    """Random seed for the predictions of the restart at a position: `seed` itself for the first."""
    return run_seed(seed, place) if place else seed


def _of_restart(fit: Fit, batch: Batch, seed: int, place: int, run: Run, draws: int) -> dict[str, Predicted]:
    """What one restart predicts; the same whether it predicts alone or in a mixture."""
    with isolated(restart_seed(seed, place)), torch.no_grad():
        run, data = ready(fit, batch.hide(), run)
        return (summed_out if run.model.enumerated else not_enumerated)(run, data, draws)


def _mixed(parts: list[dict[str, Predicted]]) -> dict[str, Predicted]:
    """The equal mixture of several restarts' predictions: all draws together, and the mean of moments or shares."""
    if len(parts) == 1:
        return dict(parts[0])
    out: dict[str, Predicted] = {}
    for target, first in parts[0].items():
        values = None if first.values is None else torch.cat([cast(Tensor, part[target].values) for part in parts])
        exact = torch.stack([part[target].exact for part in parts]).mean(0)
        out[target] = Predicted(values, exact, first.kind)
    return out


def _numbers(target: str, own: Predicted, fit: Fit, quantiles: tuple) -> dict[str, np.ndarray]:
    assert own.values is not None
    mean, sd = own.exact[0], (own.exact[1] - own.exact[0] ** 2).clamp(min=0).sqrt()
    between = "nearest" if own.kind == "counts" else "linear"  # a quantile of counts is a count
    grid = torch.tensor(quantiles, dtype=own.values.dtype)
    levels = torch.quantile(own.values, grid, dim=0, interpolation=between)
    out: dict[str, np.ndarray] = {}
    for j, name in enumerate(names_in(fit, target, mean.shape[1])):
        found = {q: level[:, j].numpy() for q, level in zip(quantiles, levels, strict=True)}
        out |= columns_of(name, summary(mean[:, j].numpy(), sd[:, j].numpy(), found))
    return out


@dataclass(frozen=True)
class Beside:
    """What the process of a law says of rows: means (2, N, J), variances (2, N, J), time to the nearest label (N, J).

    `known` (N, J) says whether the unit of a row has labels of a component, or may be without them.
    """

    mean: np.ndarray
    variance: np.ndarray
    known: np.ndarray
    lag: np.ndarray


def _beside(fit: Fit, batch: Batch, target: str) -> Beside | None:
    """What the law's process says of the rows, if there is one, and it is of this target."""
    if (process := _process_of(fit, target)) is None:
        return None
    mean, sd = process.predict(fit.model, batch)
    lag = process.lag(batch) if process.timed else np.zeros(batch.n_rows)
    by_component = (
        np.broadcast_to(own.reshape(batch.n_rows, -1), mean.shape[1:]) for own in (process.known(batch), lag)
    )
    return Beside(mean, sd**2, *by_component)


def _by_law(
    target: str, moments_of: list[Tensor], fit: Fit, laws: list[StudentLaw], beside: Beside | None, quantiles: tuple,
    draws: int,
) -> tuple[dict[str, np.ndarray], Predicted]:  # fmt: skip
    """Columns of a target of numbers from its laws and the restarts' moments (2, N, J), and quantiles as its draws.

    The quantiles, at (s + 1/2) / S, stand for S draws wherever each row is looked at by itself.
    """
    first, second = torch.stack(moments_of, 1).numpy()  # (R, N, J) each
    mean, own = first.mean(0), np.maximum(second - first**2, 0).mean(0)
    between = first.var(0, ddof=1) if len(first) > 1 else np.zeros_like(mean)
    grid = (np.arange(draws) + 0.5) / draws
    out: dict[str, np.ndarray] = {}
    values, moments_by_law = np.empty((draws, *mean.shape)), np.empty((2, *mean.shape))
    for j, (name, law) in enumerate(zip(names_in(fit, target, mean.shape[1]), laws, strict=True)):
        if beside is not None:
            w = np.where(beside.known[:, j], law.w, 1.0)
            process = mixed(law.u, *zip(beside.mean[..., j], beside.variance[..., j], strict=True))
            mean[:, j], own[:, j], between[:, j] = joined(w, mean[:, j], own[:, j], between[:, j], process)
        mean[:, j], own[:, j] = law.rounded(mean[:, j], own[:, j])
        lag, known = (0.0, True) if beside is None else (beside.lag[:, j], beside.known[:, j])
        scale = law.scale(own[:, j], between[:, j], len(first), lag, known)
        found = {q: mean[:, j] + scale * law.quantile(q) for q in quantiles}
        out |= columns_of(name, summary(mean[:, j], law.sd(scale), found))
        values[..., j] = mean[:, j] + scale * law.quantile(grid)[:, None]
        moments_by_law[..., j] = mean[:, j], mean[:, j] ** 2 + law.sd(scale) ** 2
    return out, Predicted(torch.as_tensor(values), torch.as_tensor(moments_by_law), "real")


def _in_units(
    warp: Any, by_law: Predicted, columns: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], Predicted]:  # fmt: skip
    """The columns and quantiles of a law in the units of the target, from those on the scale on which it adds.

    A t distribution has no mean in most units; mean and sd are those of the quantiles that stand for its draws.
    """
    assert by_law.values is not None
    values = warp(by_law.values)
    found = {"mean": values.mean(0).numpy(), "sd": values.std(0).numpy()}
    out: dict[str, np.ndarray] = {}
    quantities = dict.fromkeys(name.rpartition(".")[2] for name in columns)
    for quantity in quantities:
        own = [name for name in columns if name.rpartition(".")[2] == quantity]
        if quantity not in found:
            found[quantity] = warp(torch.as_tensor(np.stack([columns[name] for name in own], -1))).numpy()
        out |= {name: found[quantity][:, j] for j, name in enumerate(own)}
    exact = torch.stack([values.mean(0), (values**2).mean(0)])
    return {name: out[name] for name in columns}, Predicted(values, exact, "other", by_law)


def names_in(fit: Fit, target: str, size: int) -> list[str]:
    """Names of the components of a target in tables of a fit's predictions."""
    dims = fit.model.dims.get(target, ())
    labels = {**fit.prototype.coords, **fit.model.coords}.get(dims[0]) if len(dims) == 1 else None
    return component_names(target, size, list(labels) if labels is not None and len(labels) == size else None)


def _process_of(fit: Fit, target: str) -> LabelProcess | ByComponent | None:
    """The process of the fit's law, if there is one, and it is of this target."""
    return fit.law.process if fit.law is not None and fit.law.facts["target"] == target else None


def _classes(
    target: str, probabilities: Tensor, fit: Fit, law: Temperature | None, process: LabelProcess | None, batch: Batch
) -> dict[str, np.ndarray]:
    """Columns of a discrete target from the probabilities of its classes, (N, K), by its law, if there is one."""
    classes = fit.prototype.coords.get(f"{target}_class", np.arange(probabilities.shape[-1]))
    shares = probabilities.numpy()
    if law is not None:
        shares = law.probabilities(shares, None if process is None else process.probabilities(fit.model, batch))
    return class_columns(target, classes, fit.model.decide(target, shares), shares)
