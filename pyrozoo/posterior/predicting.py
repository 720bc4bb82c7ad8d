"""predict(): the targets of every row from draws of the latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ..data.batch import Batch
from ..inference.copies import isolated
from ..inference.fitted import Fit, Run
from .columns import class_columns, columns_of, component_names, summary
from .traces import (
    AT_ONCE,
    UNOBSERVED,
    Pair,
    chunks,
    enumerated_values,
    frames_of,
    is_discrete,
    is_enumerated,
    pair,
    predictive_trace,
    row_blocks,
    unmasked,
)


def predict(
    fit: Fit,
    batch: Batch | pd.DataFrame,
    *,
    draws: int = 200,
    seed: int = 0,
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95),
    **options: Any,
) -> pd.DataFrame:
    """Predict the targets of every row, as if none were observed.

    The intervals are the model's own and may be too narrow: check them by `coverage` before you use them. Means and
    standard deviations are exact given each draw of the latents that are not summed out (law of total variance), and so
    are the probabilities of a discrete target; quantiles come from the draws themselves.

    Args:
        fit: The fit; its best restart predicts.
        batch: Data, or a data frame with the columns of the training table; its targets, if it has any, are hidden from
            the guide, also those of unseen groups that an amortised guide reads.
        draws: Number of draws of the latents.
        seed: Random seed for the draws.
        quantiles: Quantiles to report, each in (0, 1).
        **options: Further arguments of the model's own ``predict``, for a model that has one (e.g. by decoding).

    Returns:
        One line per row: for a continuous target ``y.mean``, ``y.sd``, ``y.q05`` ... (``y[name].mean`` where y has
        several components); for a discrete one ``k.label`` and ``k.p[class]``. In the units of the data. If
        the batch has coordinates of rows, groups and coordinates of the row come first (`Batch.describe_rows`).

    Raises:
        ValueError: The fit saw no label of a target, or the model has no target.
        KeyError: A group was not in the training data, and the guide is not amortised over it.
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
    return predict_with_draws(fit, batch, draws=draws, seed=seed, quantiles=quantiles, **options)[0]


def predict_with_draws(
    fit: Fit, batch: Batch, *, draws: int, seed: int, quantiles: tuple[float, ...], **options: Any
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """The table of `predict`, and the draws of each continuous target behind it, (S, N, J).

    A model that predicts by itself gives no draws.
    """
    batch = fit.as_batch(batch)
    table, samples = _predicted(fit, batch, draws, seed, quantiles, options)
    if batch.row_coords and len(table) == batch.n_rows:
        described = batch.describe_rows()
        table = pd.concat([described.set_axis(table.index), table], axis=1)
    return table, samples


def _predicted(
    fit: Fit, batch: Batch, draws: int, seed: int, quantiles: tuple[float, ...], options: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Return the columns of the targets, and the draws behind them."""
    if not fit.model.targets:
        raise ValueError(f"{type(fit.model).__name__} has no target to predict")
    if hasattr(fit.model, "predict"):
        with isolated(seed), torch.no_grad():
            return fit.model.predict(fit.guide, fit.prepare(batch.hide()), draws=draws, **options), {}
    if options:
        raise TypeError(f"{type(fit.model).__name__} takes no {sorted(options)} to predict")
    for target in fit.model.targets:
        labelled = fit.prototype.sizes.get(fit.prototype.labels.get(target, ""), 0)
        if not labelled and target not in fit.model.enumerated:
            raise ValueError(
                f"no row of the training data was labelled with {target!r}, so it cannot be predicted; add labels"
            )
    with isolated(seed), torch.no_grad():
        data = fit.prepare(batch.hide())
        drawn = (_summed_out if fit.model.enumerated else _one_by_one)(fit.best, data, draws)
    index = pd.Index(batch.names(batch.rows), name=batch.rows)
    columns: dict[str, np.ndarray] = {}
    samples = {t: values.reshape(*values.shape[:2], -1) for t, (values, _) in drawn.items() if values is not None}
    for target, (_, exact) in drawn.items():
        if target in samples:
            columns |= _continuous(target, samples[target], exact, fit, quantiles)
        else:
            columns |= _classes(target, exact, fit)
    return pd.DataFrame(columns, index=index), samples


Predicted = dict[str, tuple[Tensor | None, Tensor]]


def _one_by_one(run: Run, data: Batch, draws: int) -> Predicted:
    """Values (S, N, ...) of each continuous target with its first and second moments (2, N, ...), means over draws.

    For a discrete target: None, and the probability of each value, (N, K).
    """
    samples: dict[str, list[Tensor]] = {}
    exact: dict[str, list[Tensor]] = {}
    arguments = run.model.arguments(data)
    for _ in range(draws):
        for target, site in target_sites(run, arguments).items():
            if is_discrete(site):
                exact.setdefault(target, []).append(_shares(site))
            else:
                samples.setdefault(target, []).append(site["value"])
                exact.setdefault(target, []).append(_moments(site["fn"], site["value"].shape))
    means = {target: torch.stack(values).double().mean(0).cpu() for target, values in exact.items()}
    stacked = {target: torch.stack(values).double().cpu() for target, values in samples.items()}
    return {target: (stacked.get(target), mean) for target, mean in means.items()}


def _shares(site: Mapping[str, Any]) -> Tensor:
    """Probability of each value of a discrete site, (N, K)."""
    support = site["fn"].enumerate_support(expand=False).reshape(-1)
    return torch.stack([site["fn"].log_prob(value).double() for value in support], -1).softmax(-1)


def _summed_out(run: Run, data: Batch, draws: int) -> Predicted:
    """Like `_one_by_one`, but with many draws at once and the enumerated sites summed out in each."""
    model, blocks = run.model, []
    for block in row_blocks(data):
        arguments = model.arguments(block)
        parts: list[Predicted] = []
        # Without the costly sites a draw is small, and every part pays for the guide's networks once more.
        for n in chunks(draws, block, 5 * AT_ONCE if model.targets_alone else None):
            drawn = pair(model, run.guide, arguments, copies=n, targets_only=True, hidden=model.targets)
            parts.append({target: _given(drawn, target) for target in model.targets})
        blocks.append(parts)
    out: Predicted = {}
    for target in model.targets:
        found = [[part[target] for part in parts] for parts in blocks]
        sums = [cast(Tensor, sum(e for _, e in parts)) for parts in found]
        exact = torch.cat([total / draws for total in sums], 0 if found[0][0][0] is None else 1)
        whole = None
        if found[0][0][0] is not None:
            whole = torch.cat([torch.cat([v for v, _ in parts if v is not None]) for parts in found], 1)
        out[target] = whole, exact
    return out


def _given(drawn: Pair, target: str) -> tuple[Tensor | None, Tensor]:
    """Values of a target, one per draw, (S, N, ...), and the sum over draws of its moments; see `_one_by_one`."""
    site = drawn.target(target)
    fn, event = site["fn"], site["fn"].event_dim
    if is_enumerated(site):
        support = fn.enumerate_support(expand=False).reshape(-1)
        shares = torch.stack([drawn.log_conditional(target, value) for value in support], -1).softmax(-1)
        return None, shares.sum(0).cpu()
    values, weights = fn.sample() if site["is_observed"] else site["value"], drawn.shares(site)
    shape = torch.broadcast_shapes(weights.shape, values.shape[: values.dim() - event])
    tail = values.shape[values.dim() - event :]
    plates = [shape[dim] for dim in sorted(frames_of(site))]

    def flat(tensor: Tensor, shape: tuple[int, ...], tail: tuple[int, ...] = ()) -> Tensor:
        """Merge the enumeration dimensions into one, and leave out those of other plates: (E, S, N, ...)."""
        return tensor.expand(*shape, *tail).reshape(-1, *plates, *tail)

    probability = flat(weights, shape)
    spread = probability.reshape(*probability.shape, *(1,) * event)
    if is_discrete(site):
        shares = _shares(site)
        return None, (probability[..., None] * flat(shares, shape, shares.shape[-1:])).sum((0, 1)).cpu()
    which = torch.distributions.Categorical(probability.movedim(0, -1)).sample()
    choices = flat(values, shape, tail)
    index = which.reshape(1, *which.shape, *(1,) * event).expand(1, *choices.shape[1:])
    moments = torch.stack([flat(m, shape, tail) for m in _moments(fn, (*shape, *tail))])
    return choices.gather(0, index)[0].double().cpu(), (spread * moments).sum((1, 2)).double().cpu()


def _moments(fn: Any, shape: tuple[int, ...]) -> Tensor:
    return torch.stack([fn.mean.expand(shape), (fn.variance + fn.mean**2).expand(shape)])


def _continuous(target: str, stacked: Tensor, moments: Tensor, fit: Fit, quantiles: tuple) -> dict[str, np.ndarray]:
    moments = moments.reshape(*moments.shape[:2], -1)
    mean, sd = moments[0], (moments[1] - moments[0] ** 2).clamp(min=0).sqrt()
    levels = torch.quantile(stacked, torch.tensor(quantiles, dtype=stacked.dtype), dim=0)
    out: dict[str, np.ndarray] = {}
    for j, name in enumerate(names_in(fit, target, mean.shape[1])):
        found = {q: level[:, j].numpy() for q, level in zip(quantiles, levels, strict=True)}
        out |= columns_of(name, summary(mean[:, j].numpy(), sd[:, j].numpy(), found))
    return out


def names_in(fit: Fit, target: str, size: int) -> list[str]:
    """Names of the components of a target in tables of a fit's predictions."""
    dims = fit.model.dims.get(target, ())
    return component_names(target, size, fit.prototype.coords.get(dims[0]) if dims else None)


def _classes(target: str, probabilities: Tensor, fit: Fit) -> dict[str, np.ndarray]:
    """Columns of a discrete target from the probabilities of its classes, (N, K)."""
    classes = fit.prototype.coords.get(f"{target}_class", np.arange(probabilities.shape[-1]))
    return class_columns(target, classes, probabilities.numpy().argmax(-1), probabilities.numpy())


def target_sites(run: Run, data: Mapping[str, Any], guide_trace: Trace | None = None) -> dict[str, dict]:
    """One draw of the target sites, unmasked: the guide's if it samples them all, else the model's given the guide.

    Args:
        run: The restart.
        data: Data from `Fit.prepare`, or the model's arguments made from them.
        guide_trace: Trace of one draw of the guide; a new draw by default.
    """
    arguments = run.model.arguments(data)
    if guide_trace is None:
        guide_trace = poutine.trace(run.guide).get_trace(**arguments)
    names = {t: t + UNOBSERVED if t + UNOBSERVED in guide_trace.nodes else t for t in run.model.targets}
    if all(name in guide_trace.nodes for name in names.values()):
        return {target: unmasked(guide_trace.nodes[name]) for target, name in names.items()}
    enumerated = enumerated_values(run.model, guide_trace, arguments)
    alone = {**arguments, **run.model.targets_alone}
    nodes = predictive_trace(run.model, guide_trace, alone, enumerated).nodes | guide_trace.nodes
    return {target: unmasked(nodes[name]) for target, name in names.items()}
