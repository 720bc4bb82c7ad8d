"""Sensor surveillance: flag improbable rows (a use the paper names), and inject faults to test a monitor with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ....criticism.importance import over_rows
from ....data.batch import Batch, require_batch
from ....inference.fitted import Fit
from ....modeling.hidden import OBSERVED
from ....modeling.warps import Warped
from ....posterior.traces import Pair

KINDS = ("bias", "drift", "stuck")


def inject_fault(
    batch: Batch, column: str, kind: str, size: float, *, units: Sequence[Any] | None = None, start: float = 0.75
) -> tuple[Batch, np.ndarray]:
    """Return a copy of the data in which one sensor of some units is faulty from a certain row on.

    The fault begins after the share `start` of each unit's rows, in the order of the batch::

        bias    value + size                     in all n rows from there to the unit's last one
        drift   value + size * k / n             in the k-th of these n rows, so that it grows up to size
        stuck   the last value before the fault  in the next `size` rows

    Nothing here is random; choose `units` at random yourself if needed.

    Args:
        batch: Rows of units, in the order of time within each unit.
        column: Name of an input or a target; of a target only the observed rows are counted and become faulty.
        kind: "bias", "drift" or "stuck".
        size: Size of a bias or drift, positive or negative, in the physical unit of the column; for "stuck" the number
            of faulty rows.
        units: Names of the units whose sensor fails; all by default.
        start: Share of a unit's rows before the fault, in [0, 1).

    Returns:
        The faulty data, and a mask that is True for faulty rows, shape (N,).

    Raises:
        KeyError: No such column or unit.
        ValueError: No such kind; a size or start out of range; a unit with too few rows for the fault; a column of
            whole numbers.
        TypeError: `units` is a single name.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import inject_fault
        >>> data = zoo.load_data("ssmtl", "dryer")
        >>> faulty, mask = inject_fault(data, "DryerTemp", "bias", 40.0, units=[2])
        >>> int(mask.sum())  # the last quarter of the rows of unit 2
        32
        >>> j = data.columns("x").index("DryerTemp")
        >>> round(float((faulty["x"] - data["x"])[mask, j].mean()), 3)
        40.0
    """
    site, place = _locate(batch, column)
    _check_fault(kind, size, start)
    if not batch[site].is_floating_point():
        raise ValueError(f"column {column!r} holds whole numbers, which a fault would be rounded to; give floats")
    values = batch[site].cpu().numpy().astype(float)
    able = batch.known(site)[:, place] if site in batch.labels else np.ones(batch.n_rows, bool)
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
    """Score how improbable each row is for its unit, raise alarms, and name the sensor to suspect.

    The score is minus `zoo.log_density` of the row given what the fit learned about the unit, in nats: a higher score
    is less probable. With a window it is the mean over the last `window` rows of the unit, which reacts later but finds
    small faults better if rows are independent (on consecutive rows of a transient it may not). The alarm threshold is
    the score that at most a share `false_alarms` of clean rows exceeds, found as a rank among the scores of the
    reference (split conformal prediction: exact for exchangeable rows, approximate if neighbouring rows are alike).

    The suspect is the sensor with the largest surprise: minus the log density of its standardised value given the row's
    other values, log p(others) - log p(all). It needs no further draws: p(others) is the mean of the same importance
    weights, each divided by the density p(x_d | z, c) of the sensor's value. The surprise of a large fault is
    understated, because the draws were made for the faulty row; and if two sensors depend only on each other, a broken
    relation does not tell which of them failed.

    Targets are part of the score if all rows have them; pass ``batch.hide()`` to monitor the inputs alone.

    Args:
        fit: Fit of SSMTL, SSL-VAE or ML-VAE, of which the best restart is used.
        batch: Rows to judge, in the order of time within each unit.
        reference: Clean rows for the threshold, preferably not used in training; without them there are no alarms.
        false_alarms: Largest share of clean rows above the threshold, in (0, 1).
        window: Number of rows to average over; the first ``window - 1`` rows of a unit have no score, alarm or suspect.
        draws: Number of importance draws per row.
        seed: Random seed for the draws.
        batch_size: Number of rows that are scored at a time.
        progress: Show a progress bar.

    Returns:
        One line per row with the columns ``unit``, ``score``, with a reference ``threshold`` and ``alarm``, then
        ``suspect`` (name of a column) and, for every column, ``surprise[<column>]`` in nats, averaged like the score.

    Raises:
        ValueError: The model has no density of its inputs (MTL); inputs are missing; only some rows have targets; the
            reference is too small for the rate, or has targets while the batch has none; the window is below 1.
        TypeError: `batch` or `reference` is not a Batch.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import inject_fault, monitor
        >>> fit, data = zoo.load_reference("ssmtl/dryer"), zoo.load_data("ssmtl", "dryer")
        >>> unit = data.group_names("unit")
        >>> tested, clean = (data.subset(np.flatnonzero(np.isin(unit, names))) for names in ([2], [3, 4]))
        >>> faulty, mask = inject_fault(tested, "DryerTemp", "bias", 40.0)
        >>> table = monitor(fit, faulty, reference=clean, draws=10, progress=False)
        >>> bool(table["alarm"][mask].mean() > table["alarm"][~mask].mean())
        True
        >>> table["suspect"][mask].mode().tolist()
        ['DryerTemp']
    """
    if "z" not in fit.model.row_sites:
        raise ValueError(f"monitor needs a density of the inputs, which {type(fit.model).__name__} lacks; fit SSMTL")
    if window < 1 or window != int(window):
        raise ValueError(f"window: {window}; a whole number of rows from 1 is needed")
    for name, rows in (("batch", batch), ("reference", reference)):
        if rows is not None:
            require_batch(name, rows)
            if "x_seen" in rows.tensors and not bool(rows["x_seen"].all()):
                raise ValueError(f"{name}: rows with missing inputs have scores of their own; impute them first")
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
    """Mean of `score` (N,) over the last `window` rows of each row's unit, (N,); NaN while there are fewer rows."""
    rolled = pd.Series(score).groupby(units, sort=False).rolling(window, min_periods=window).mean()
    return rolled.droplevel(0).sort_index().to_numpy()


def alarm_threshold(clean: np.ndarray, false_alarms: float) -> float:
    """Return the score that a new clean row exceeds with probability at most `false_alarms`, if rows are exchangeable.

    Args:
        clean: Scores of clean rows, (N,); NaN, which marks a window that is not full, is ignored.
        false_alarms: Probability of a false alarm, in (0, 1).

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
    """Name of the tensor that holds a column, "x" or "y", and the index of the column in it."""
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
    """Whether all rows have their targets; raise ValueError if only some do."""
    seen = batch.observed("y") if "y" in batch.labels else np.zeros(batch.n_rows, bool)
    if seen.any() and not batch.known("y")[seen].all():
        raise ValueError(
            f"{argument}: some rows have part of their targets, and rows with other ones have scores of their own; "
            "hide the targets with .hide()"
        )
    if seen.any() and not seen.all():
        raise ValueError(
            f"{argument}: {seen.sum()} of {len(seen)} rows have targets, and rows with and without have scores of "
            "their own; hide the targets with .hide(), or judge the two kinds of rows apart with .subset(rows)"
        )
    return bool(seen.all())


def _surprises(fit: Fit, batch: Batch, targets: bool, options: dict, desc: str | None) -> dict[str, np.ndarray]:
    """Scores of the rows, and surprises of every column, (N,) each: minus log density given the row's other values."""
    sites = {"x": fit.model.x_scale} | ({"y": fit.model.y_scale} if targets else {})

    def reduce(terms: Iterator[tuple[Pair, Tensor]]) -> Tensor:
        total: Tensor | None = None
        for drawn, log_weight in terms:
            values = [_by_component(drawn, site) for site in sites]
            without = log_weight[..., None] - torch.cat([torch.zeros_like(values[0][..., :1]), *values], -1)
            part = without.logsumexp(0)
            total = part if total is None else torch.logaddexp(total, part)
        assert total is not None  # there is at least one draw
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
    """Log p(component | z, c) of a site's value, for each of its components, (S, B, components)."""
    nodes = drawn.model.nodes
    node = nodes.get(site + OBSERVED, nodes[site])
    fn, value = node["fn"].base_dist, node["value"]
    if isinstance(fn, Warped):  # on the scale of the transform, whose Jacobian says nothing of a fault
        (warp,) = fn.transforms
        fn, value = fn.base_dist, warp.inv(value)
    return drawn.by_draw(node, fn.log_prob(value).double(), 1)
