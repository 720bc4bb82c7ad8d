"""Sensor surveillance: improbable rows are suspect (the paper names this use); and faults to test a monitor with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ....criticism.importance import over_rows
from ....data.batch import Batch
from ....inference.fitted import Fit
from ....posterior.traces import OBSERVED, Pair

KINDS = ("bias", "drift", "stuck")


def inject_fault(
    batch: Batch, column: str, kind: str, size: float, *, units: Sequence[Any] | None = None, start: float = 0.75
) -> tuple[Batch, np.ndarray]:
    """Make one sensor of some units faulty from a row on; the batch stays as it is.

    The fault begins after the share `start` of each unit's rows, in their order here::

        bias    value + size                     to the unit's last row
        drift   value + size * k / n             in the k-th of the n rows to the unit's last: it grows up to size
        stuck   the last value before the fault  in the next `size` rows

    Nothing is random: draw `units` yourself for a random choice.

    Args:
        batch: Rows of units, each unit's in the order of time.
        column: Name of an input, or of a target, of which only the observed rows count and become faulty.
        kind: "bias", "drift" or "stuck".
        size: Of a bias or drift in the unit of the column, of either sign; of a stuck sensor the number of rows.
        units: Names of the units whose sensor fails; all by default.
        start: Share of a unit's rows before the fault, in [0, 1).

    Returns:
        The faulty data, and where they are faulty: boolean, shape (N,).

    Raises:
        KeyError: No such column or unit.
        ValueError: No such kind; a size or start out of range; a unit with too few rows for the fault.
    """
    site, place = _locate(batch, column)
    _check_fault(kind, size, start)
    if not batch[site].is_floating_point():
        raise ValueError(f"column {column!r} holds whole numbers, which a fault would be rounded to; give floats")
    values = batch[site].cpu().numpy().astype(float)
    able = batch.observed(site) if site in batch.labels else np.ones(batch.n_rows, bool)
    names, mask = batch.group_names("unit"), np.zeros(batch.n_rows, bool)
    present = pd.unique(names).tolist()
    if isinstance(units, str):
        raise TypeError(f"units: {units!r} is one name; give a list of names")
    for unit in present if units is None else dict.fromkeys(units):
        if unit not in present:
            shown = f"{present[:5]}" + (" ..." if len(present) > 5 else "")
            raise KeyError(f"units: the batch has no rows of unit {unit!r}; its units are {shown}")
        rows = np.flatnonzero((names == unit) & able)
        first = int(np.ceil(start * len(rows)))
        faulty = rows[first : first + int(size)] if kind == "stuck" else rows[first:]
        if len(faulty) < (size if kind == "stuck" else 1) or (kind == "stuck" and first == 0):
            raise ValueError(
                f"unit {unit!r} has {len(rows)} rows with {column!r}, of which {first} come before the fault: too few "
                f"for {kind!r} of size {size:g}; choose another start, a smaller size, or other units"
            )
        mask[faulty] = True
        if kind == "stuck":
            values[faulty, place] = values[rows[first - 1], place]
        else:
            values[faulty, place] += size * (1.0 if kind == "bias" else np.arange(1, len(faulty) + 1) / len(faulty))
    return batch.with_tensors({site: torch.as_tensor(values).to(batch[site])}), mask


def monitor(
    fit: Fit, batch: Batch, *, reference: Batch | None = None, false_alarms: float = 0.01, window: int = 1,
    draws: int = 100, seed: int = 0, batch_size: int = 4096, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """How improbable each row is given what the fit learned about its unit, when to alarm, and which sensor to suspect.

    The score is minus `pyrozoo.log_density`: in nats, higher is more improbable; with a window, its mean
    over the last `window` rows of the unit, which is later, and finds small faults better where rows are independent
    (on consecutive rows of a transient it may not). The alarm threshold is the score that at most a share
    `false_alarms` of clean rows exceeds, as a rank among the reference's scores (split conformal prediction: exact for
    exchangeable rows, approximate where neighbouring rows are alike).

    The suspect is the sensor with the largest surprise, minus the log density of its value given the row's other
    values, log p(others) - log p(all), in standard deviations of the training data. It needs no draws of its own:
    p(others) is the mean of the same weights, each over the density p(x_d | z, c) of the sensor's value. The surprise
    of a large fault is understated, because the draws were made for the faulty row; and where two sensors are tied to
    each other alone, a broken relation does not tell which of them broke it.

    Targets count where all rows have them; ``batch.hide()`` monitors the inputs alone.

    Args:
        fit: A fit of SSMTL, SSL-VAE or ML-VAE; its best restart.
        batch: Rows to judge, each unit's in the order of time.
        reference: Clean rows, best such that the fit was not trained on, for the threshold; without it no alarm.
        false_alarms: Share of clean rows above the threshold, in (0, 1).
        window: Rows to average over; the first ``window - 1`` rows of a unit have no score, no alarm and no suspect.
        draws: Importance draws per row.
        seed: Of the draws.
        batch_size: Rows at once.
        progress: Show a progress bar.

    Returns:
        One line per row: ``unit``, ``score``, with a reference ``threshold`` and ``alarm``, ``suspect`` (a column
        name), and ``surprise[<column>]`` of every column, nats, averaged like the score.

    Raises:
        ValueError: The model has no density of its inputs (MTL); targets in some rows only; a reference that is too
            small for the rate, or has targets where the batch has none; a window below 1.
    """
    if "z" not in fit.model.row_sites:
        raise ValueError(f"monitor needs a density of the inputs, which {type(fit.model).__name__} lacks; fit SSMTL")
    if window < 1 or window != int(window):
        raise ValueError(f"window: {window}; a whole number of rows from 1 is needed")
    for name, given in (("batch", batch), ("reference", reference)):
        if given is not None and not isinstance(given, Batch):
            raise TypeError(f"{name}: {type(given).__name__}; give a Batch, of a data frame fit.batch(df)")
    targets = _has_targets(batch, "batch") and bool(fit.model.y_dim)
    if reference is not None and (_has_targets(reference, "reference") and bool(fit.model.y_dim)) != targets:
        raise ValueError("reference: rows with and without targets have scores of their own; call .hide() on both")
    options = {"draws": draws, "seed": seed, "batch_size": batch_size}
    found = _surprises(fit, batch, targets, options, "monitor" if progress else None)
    names = batch.group_names("unit")
    table = pd.DataFrame({"unit": names}, index=pd.Index(batch.names(batch.rows), name=batch.rows))
    table["score"] = trailing_mean(found.pop("score"), names, window)
    if reference is not None:
        clean = _surprises(fit, reference, targets, options, "reference" if progress else None)["score"]
        clean = trailing_mean(clean, reference.group_names("unit"), window)
        table["threshold"] = alarm_threshold(clean, false_alarms)
        table["alarm"] = table["score"] > table["threshold"]
    surprise = np.stack([trailing_mean(values, names, window) for values in found.values()], 1)
    seen = table["score"].notna().to_numpy()
    suspects = np.array(list(found), object)[np.where(seen[:, None], surprise, 0.0).argmax(1)]
    table["suspect"] = np.where(seen, suspects, None)
    return table.assign(**{f"surprise[{name}]": surprise[:, d] for d, name in enumerate(found)})


def trailing_mean(score: np.ndarray, units: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` rows of each row's unit, NaN before there are so many; score, units (N,)."""
    rolled = pd.Series(score).groupby(units, sort=False).rolling(window, min_periods=window).mean()
    return rolled.droplevel(0).sort_index().to_numpy()


def alarm_threshold(clean: np.ndarray, false_alarms: float) -> float:
    """The score that a further clean row exceeds with probability at most `false_alarms`, if rows are exchangeable.

    Args:
        clean: Scores of clean rows; NaN, where a window was not full, is left out.
        false_alarms: In (0, 1).

    Raises:
        ValueError: A rate out of range, or too few scores for it.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms: {false_alarms} is not a share in (0, 1)")
    scores = np.sort(clean[~np.isnan(clean)])
    rank = int(np.ceil((len(scores) + 1) * (1 - false_alarms)))
    if rank > len(scores):
        raise ValueError(
            f"reference: {len(scores)} scored rows (with a full window) cannot show a rate of {false_alarms:g}; give "
            f"at least {int(np.ceil(1 / false_alarms)) - 1}, or a higher false_alarms"
        )
    return float(scores[rank - 1])


def _locate(batch: Batch, column: str) -> tuple[str, int]:
    """The tensor that holds a column, and its place there."""
    known: list[str] = []
    for site in ("x", "y"):
        if site in batch.tensors:
            names = batch.columns(site)
            if column in names:
                return site, names.index(column)
            known += names
    raise KeyError(f"column: {column!r} is no column of the batch; it has {known}")


def _check_fault(kind: str, size: float, start: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} is none of {list(KINDS)}")
    if not np.isfinite(size):
        raise ValueError(f"size: {size} is not finite")
    if kind == "stuck" and (size < 1 or size != int(size)):
        raise ValueError(f"size: {size}; of a stuck sensor it is the number of rows, a whole number from 1")
    if not 0 <= start < 1:
        raise ValueError(f"start: {start} is not a share in [0, 1)")


def _has_targets(batch: Batch, argument: str) -> bool:
    """Whether all rows have their targets; an error where only some do."""
    seen = batch.observed("y") if "y" in batch.labels else np.zeros(batch.n_rows, bool)
    if seen.any() and not seen.all():
        raise ValueError(
            f"{argument}: {seen.sum()} of {len(seen)} rows have targets, and rows with and without have scores of "
            "their own; hide the targets with .hide(), or judge the two kinds of rows apart with .subset(rows)"
        )
    return bool(seen.all())


def _surprises(fit: Fit, batch: Batch, targets: bool, options: dict, desc: str | None) -> dict[str, np.ndarray]:
    """Minus log density of every row as ``score``, and of every value given the row's others, standardised."""
    sites = {"x": fit.model.x_scale} | ({"y": fit.model.y_scale} if targets else {})

    def reduce(terms: Iterator[tuple[Pair, Tensor]]) -> Tensor:
        total: Tensor | None = None
        for drawn, log_weight in terms:
            values = [_by_component(drawn, site) for site in sites]
            without = log_weight[:, None] - torch.cat([torch.zeros_like(values[0][:, :1]), *values], 1)
            total = without if total is None else torch.logaddexp(total, without)
        return total

    total = over_rows(fit, batch, reduce, desc=desc, **options).cpu().numpy()
    found = {"score": np.log(options["draws"]) - total[:, 0]}
    place = 0
    for site, scale in sites.items():
        for name, unit in zip(batch.columns(site), scale.double().cpu().numpy(), strict=True):
            place += 1
            found[name] = total[:, place] - total[:, 0] - np.log(unit)
    return found


def _by_component(drawn: Pair, site: str) -> Tensor:
    """Log p(value of each component | z, c) of a site, shape (B, components)."""
    nodes = drawn.model.nodes
    node = nodes.get(site + OBSERVED, nodes[site])
    return node["fn"].base_dist.log_prob(node["value"]).double()
