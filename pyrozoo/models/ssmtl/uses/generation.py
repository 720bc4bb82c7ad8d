"""What-if generation and imputation with SSMTL: draws of the unobserved entries of a row given the observed ones.

The contexts come from the fit's q(c), the row's latent state from the Markov chains of `sampling`, x and y from eq. 1.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from ....data.batch import Batch
from ....data.tables import plain_names
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ....modeling.guides import declared
from ....posterior.columns import columns_of, summary
from ....posterior.draws import Draws
from ..local_guide import RowGuide
from ..model import SSMTL
from .sampling import CHUNK, GROUPS, R_HAT, Rows, Sampler, converge

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEWEST = 10 * GROUPS  # least number of chains of a row: fewer say too little about convergence


@dataclass(frozen=True)
class Generated:
    """Draws of unobserved entries, their summary, and how well the chains that drew them mixed.

    Attributes:
        table: Summary of the draws, see `impute` and `what_if`; R-hat is near 1 where the chains have forgotten their
            starts.
        draws: ``x`` (1, S, N, Dx) and ``y`` (1, S, N, Dy) in the group ``posterior``: S draws of N rows in the units of
            the data, with observed entries at their values. The group ``observed_data`` holds the observed entries, and
            NaN elsewhere. Every draw is the last state of a chain of its own. `zoo.to_arviz` makes an ArviZ
            object of it.
        acceptance: Share of accepted proposals by kind of move.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate, what_if
        >>> train, _ = simulate(n_units=3, n_labelled=5, n_unlabelled=20, n_test=1)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> generated = what_if(fit, 0, {"choke_opening_percent": [20.0, 80.0]}, draws=50, progress=False)
        >>> generated.draws.groups["posterior"]["x"].shape
        (1, 50, 2, 2)
        >>> generated.completed()["choke_opening_percent"].tolist()
        [20.0, 80.0]
    """

    table: pd.DataFrame
    draws: Draws
    acceptance: pd.Series

    def completed(self, draw: int | None = None) -> pd.DataFrame:
        """Return the rows, (N, Dx + Dy), with unobserved entries filled in.

        Args:
            draw: Index of the draw to fill in (multiple imputation); the mean of the draws by default.
        """
        parts = []
        for site in ("x", "y"):
            values = self.draws.groups["posterior"][site][0]
            names = self.draws.coords[self.draws.dims[site][1]]
            parts.append(pd.DataFrame(values.mean(0) if draw is None else values[draw], columns=names))
        index = pd.Index(self.draws.coords["row"], name="row")
        return pd.concat(parts, axis=1).set_index(index)


def impute(
    fit: Fit,
    data: Batch | pd.DataFrame,
    missing: Any = None,
    *,
    draws: int = 200,
    seed: int = 0,
    sweeps: int = 40,
    rounds: int = 8,
    quantiles: Sequence[float] = QUANTILES,
    progress: bool = True,
) -> Generated:
    """Draw the missing entries of rows given the observed ones, from the model and the posterior of the rows' units.

    The draws carry the uncertainty of the unit's context, of z, and of the model's noise; the networks are point
    estimates, and a row does not update the posterior of its unit. y is used where it is observed and drawn where it is
    not: a row whose only unobserved entry is y gets p(y | x) of the generative model, which need not equal the soft
    sensor q(y | x, c) of `predict`.

    Args:
        fit: Fit of SSMTL, of which the best restart is used.
        data: Rows of units that the fit has a posterior for; for a fit that was trained on a data frame also a data
            frame (N rows) with NaN for missing inputs and targets. With an amortised guide units may be new: the guide
            reads their complete rows.
        missing: True for the missing inputs, boolean (N, Dx) in the order of ``fit.prototype.coords["input"]``; the
            values there are ignored. NaN in a data frame, or in the one of which a batch was read, marks further ones.
        draws: Number of draws S, each with its own context and chain.
        seed: Random seed for all draws.
        sweeps: Number of sweeps of the chains between two computations of R-hat.
        rounds: Largest number of times that `sweeps` are made, for rows whose R-hat stays above 1.1.
        quantiles: Quantiles to report.
        progress: Show a progress bar.

    Returns:
        Draws of all rows. The table has one line per entry that was drawn, indexed by row and variable, with the
        columns mean, sd, q05 ..., r_hat, in the units of the data.

    Raises:
        TypeError: The model has no p(x, y | z, c), like MTL, which has no density of x.
        ValueError: A mask of the wrong shape or type; nothing to draw; a new unit without a complete row.
        KeyError: A unit that the fit has no posterior for.

    Warns:
        UserWarning: The chains of an entry have not converged; raise `rounds`.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import impute, simulate
        >>> train, test = simulate(n_units=3, n_labelled=5, n_unlabelled=20, n_test=4)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> no_pressure = np.tile([False, True], (12, 1))
        >>> found = impute(fit, test, no_pressure, draws=50, progress=False)
        >>> found.table.shape  # 12 missing pressures
        (12, 8)
        >>> found.completed().columns.tolist()
        ['choke_opening_percent', 'pressure_bar', 'flow_m3_per_h']
    """
    _require(fit, draws, sweeps, rounds)
    data, missing = _read(fit, data, missing)
    context_data = _context_data(fit, data, missing)
    position = {name: i for i, name in enumerate(context_data.coords["unit"].tolist())}
    unit = torch.tensor([position[name] for name in data.group_names("unit").tolist()])
    n_targets = fit.model.y_dim
    known = torch.full((data.n_rows, n_targets), "y" in data.tensors)
    known = torch.as_tensor(data.known("y")) if "y" in data.labels else known
    y = data.tensors.get("y", torch.zeros(data.n_rows, n_targets))
    value = torch.cat([data["x"].cpu().double(), y.cpu().double()], -1)
    seen = torch.cat([~missing, known], -1)
    if bool(seen.all()):
        raise ValueError("missing: every input and target is observed, there is nothing to draw")
    names = data.names(data.rows)
    drawn, r_hat, acceptance = _sample(
        fit, context_data, value, seen, unit, draws, seed, sweeps, rounds, progress and "impute"
    )
    _warn(r_hat, seen, names, _variables(fit))
    entries = (~seen).nonzero().numpy()
    index = pd.MultiIndex.from_arrays(
        [names[entries[:, 0]], np.asarray(_variables(fit), dtype=object)[entries[:, 1]]], names=["row", "variable"]
    )
    columns = _summary(drawn[:, ~seen], quantiles) | {"r_hat": r_hat[~seen].numpy()}
    return Generated(pd.DataFrame(columns, index=index), _draws(fit, drawn, value, seen, names, data), acceptance)


def what_if(
    fit: Fit,
    unit: Any,
    x: Mapping[str, Any],
    *,
    draws: int = 200,
    seed: int = 0,
    sweeps: int = 40,
    rounds: int = 8,
    quantiles: Sequence[float] = QUANTILES,
    progress: bool = True,
) -> Generated:
    """Draw the other inputs and the targets of a unit at chosen values of some of its inputs.

    The draws follow conditional distributions of the rows that the model has learned. They answer what an intervention
    would do only if setting the input has the same effect as observing it (true of a choke, not of a sensor), and only
    inside the region of the training data.

    Args:
        fit: Fit of SSMTL, of which the best restart is used.
        unit: Name of a unit of the training data.
        x: Mapping from names of inputs, see ``fit.prototype.coords["input"]``, to a value or to values (P,) at P
            points; a single value holds at all points. An empty mapping draws whole rows of the unit.
        draws: Number of draws S, each with its own context and chain.
        seed: Random seed for all draws.
        sweeps: Number of sweeps of the chains between two computations of R-hat.
        rounds: Largest number of times that `sweeps` are made, for points whose R-hat stays above 1.1.
        quantiles: Quantiles to report.
        progress: Show a progress bar.

    Returns:
        Draws of all points. The table has one line per point: the chosen inputs, and ``<name>.mean``, ``.sd``,
        ``.q05`` ..., ``.r_hat`` of every other quantity, in the units of the data.

    Raises:
        TypeError: The model has no p(x, y | z, c), like MTL, which has no density of x.
        KeyError: An unknown unit or input; the message lists the known ones.
        ValueError: Values that are not finite numbers, or not one per point.

    Warns:
        UserWarning: The chains of a point have not converged; raise `rounds`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate, what_if
        >>> train, _ = simulate(n_units=3, n_labelled=5, n_unlabelled=20, n_test=1)
        >>> model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=16)
        >>> fit = zoo.fit(model, "paper", train, steps=20, progress=False)
        >>> found = what_if(fit, 0, {"choke_opening_percent": [20.0, 80.0]}, draws=50, progress=False)
        >>> found.table[["choke_opening_percent", "flow_m3_per_h.mean", "flow_m3_per_h.sd"]].shape
        (2, 3)
    """
    _require(fit, draws, sweeps, rounds)
    variables, units = _variables(fit), fit.prototype.coords["unit"].tolist()
    if unit not in units:
        raise KeyError(f"unknown unit {unit!r}; the fit has {_some(units)}")
    chosen = _points(x, variables[: fit.model.x_dim])
    n_points = len(next(iter(chosen.values()))) if chosen else 1
    value, seen = torch.zeros(n_points, len(variables), dtype=torch.float64), torch.zeros(len(variables)).bool()
    for name, values in chosen.items():
        value[:, variables.index(name)] = torch.tensor(values)
        seen[variables.index(name)] = True
    seen = seen.expand(n_points, -1)
    position = torch.full((n_points,), units.index(unit))
    drawn, r_hat, acceptance = _sample(
        fit, fit.prototype, value, seen, position, draws, seed, sweeps, rounds, progress and "what if"
    )
    points = np.arange(n_points)
    _warn(r_hat, seen, points, variables)
    columns: dict[str, Any] = dict(chosen)
    for j in (~seen[0]).nonzero()[:, 0].tolist():
        quantities = _summary(drawn[:, :, j], quantiles) | {"r_hat": r_hat[:, j].numpy()}
        columns |= columns_of(variables[j], quantities)
    table = pd.DataFrame(columns, index=pd.Index(points, name="point"))
    return Generated(table, _draws(fit, drawn, value, seen, points, fit.prototype), acceptance)


# ---------------------------------------------------------------- shared parts
def _sample(
    fit: Fit, context_data: Batch, value: Tensor, seen: Tensor, unit: Tensor, draws: int, seed: int, sweeps: int,
    rounds: int, label: str | bool,
) -> tuple[Tensor, Tensor, pd.Series]:  # fmt: skip
    """Draws (S, N, V) with observed entries at their values; R-hat (N, V), NaN for observed entries; acceptance."""
    n_chains = max(draws, FEWEST)
    value = _warp(fit.model, value, seen, back=True)
    if not bool(value.isfinite().all()):
        raise ValueError(
            "a value has no place on the scale of the model's transforms; give one inside the range of the data"
        )
    drawn, r_hat = torch.empty(draws, *value.shape, dtype=torch.float64), torch.full_like(value, torch.nan)
    incomplete = (~seen).any(1).nonzero()[:, 0]
    drawn[:] = value
    chunks = incomplete.split(max(1, CHUNK // n_chains))
    with isolated(seed), torch.no_grad():
        context_data = fit.prepare(context_data)
        local = declared(fit.guide, "local")
        sampler = Sampler(fit.model, local if isinstance(local, RowGuide) else None)
        contexts = _contexts(fit, context_data, n_chains)
        bar = tqdm(total=len(incomplete), desc=label or None, unit="row", disable=not label)
        for chunk in chunks:
            own = unit[chunk].to(contexts.device)
            rows = Rows(
                torch.where(seen[chunk], value[chunk], 0.0).to(contexts)[:, None],
                seen[chunk].to(contexts.device)[:, None],
                contexts[:, own].transpose(0, 1),
            )
            values, own_r_hat = converge(sampler, rows, own, sweeps, rounds)
            kept = torch.where(rows.seen, 0.0, values)[:, :draws].transpose(0, 1).double().cpu()
            drawn[:, chunk] = torch.where(seen[chunk], value[chunk], kept)
            r_hat[chunk] = torch.where(seen[chunk], torch.nan, own_r_hat.double().cpu())
            bar.update(len(chunk))
        bar.close()
    moves = {move: sampler.accepted[move] / sampler.tried[move] for move in sampler.tried}
    drawn = _warp(fit.model, drawn, torch.ones_like(seen))
    return drawn, r_hat, pd.Series(moves, name="acceptance", dtype=float)


def _warp(model: SSMTL, value: Tensor, where: Tensor, back: bool = False) -> Tensor:
    """Values (..., V) of x and y from the scale of the model's transforms to their units, or `back`; 0 elsewhere."""
    parts = value.split([model.x_dim, model.y_dim], -1)
    warps = [model.x_warp, model.y_warp]
    moved = [p if w is None else w.inv(p) if back else w(p) for p, w in zip(parts, warps, strict=True)]
    return torch.where(where, torch.cat(moved, -1), torch.zeros(()).to(value))


def _contexts(fit: Fit, data: Batch, draws: int) -> Tensor:
    """Draw contexts (S, M, K) from the guide."""
    arguments = fit.model.arguments(data.take([0]))
    with pyro.plate("context_draw", draws, dim=-1 - fit.model.max_plate_nesting):
        c = poutine.trace(fit.guide).get_trace(**arguments).nodes["c"]["value"]
    shape = (data.sizes["unit"], fit.model.c_dim)
    return (c.expand(draws, *shape) if c.shape == shape else c).reshape(draws, *shape)


def _context_data(fit: Fit, data: Batch, missing: Tensor) -> Batch:
    """The rows from which the guide infers the contexts: for units of the fit its own prototype holds them."""
    known = np.isin(data.group_names("unit"), fit.prototype.coords["unit"])
    if known.all():
        return fit.prototype
    whole = ~missing.any(1).numpy()
    without = sorted(set(data.group_names("unit")[~known]) - set(data.group_names("unit")[whole]))
    if without:
        raise ValueError(
            f"unit {without[0]!r}: it is new and none of its rows has all inputs, so that nothing is known of its "
            "context; add complete rows of it"
        )
    return data.subset(np.flatnonzero(known | whole))


def _read(fit: Fit, data: Batch | pd.DataFrame, missing: Any) -> tuple[Batch, Tensor]:
    """The rows as a batch, and a mask (N, Dx) that is True for missing inputs."""
    absent = None
    if isinstance(data, pd.DataFrame):
        columns = fit.data.get("columns")
        if columns is None:
            raise ValueError("this fit was not trained on a data frame; give a Batch and `missing`")
        data = fit.batch(data, labels=all(name in data.columns for name in columns["y"]))
    if "x_seen" in data.tensors:  # the chains read the mask, not the batch
        absent = ~data["x_seen"].cpu()
        tensors = {name: tensor for name, tensor in data.tensors.items() if name != "x_seen"}
        data = dataclasses.replace(data, tensors=tensors)
    shape = tuple(data["x"].shape)
    if shape[1] != fit.model.x_dim:
        raise ValueError(f"x: {shape[1]} inputs, but the fit has {fit.model.x_dim}")
    mask = torch.zeros(shape, dtype=torch.bool) if missing is None else torch.tensor(np.asarray(missing))
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(f"missing: {mask.dtype} of shape {tuple(mask.shape)}; give booleans of shape {shape}")
    return data, mask if absent is None else mask | absent


def _points(x: Mapping[str, Any], inputs: list[str]) -> dict[str, np.ndarray]:
    """The chosen values, each as an array of the same length (P,)."""
    if not isinstance(x, Mapping):
        raise TypeError(f"x: {type(x).__name__}; give a mapping from the names of inputs to their values")
    chosen = {}
    for name, values in x.items():
        if name not in inputs:
            raise KeyError(f"unknown input {name!r}; the fit has {inputs}")
        try:
            array = np.asarray(values, dtype=float)
        except (TypeError, ValueError):
            array = np.array([])  # refused below, with the name
        if array.ndim > 1 or array.size == 0 or not np.isfinite(array).all():
            raise ValueError(f"x[{name!r}]: give a finite number, or a list of them, one per point")
        chosen[name] = array
    lengths = {name: len(array) for name, array in chosen.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"x: different numbers of points, {lengths}; give one value per point, or a single one")
    n_points = next(iter(lengths.values()), 1)
    return {name: np.broadcast_to(array, n_points) for name, array in chosen.items()}


def _require(fit: Fit, draws: int, sweeps: int, rounds: int) -> None:
    if not isinstance(fit.model, SSMTL):
        raise TypeError(
            f"what_if and impute draw from SSMTL's p(x, y | z, c), not from {type(fit.model).__name__}; fit variant "
            "'ssmtl'"
        )
    for name, number, least in (("draws", draws, 1), ("sweeps", sweeps, 4), ("rounds", rounds, 1)):
        if number < least:
            raise ValueError(f"{name}: {number}; at least {least} is needed")


def _variables(fit: Fit) -> list[str]:
    """Names of the inputs and targets, (Dx + Dy)."""
    return fit.prototype.columns("x", fit.model.x_dim) + fit.prototype.columns("y", fit.model.y_dim)


def _summary(values: Tensor, quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """Mean, sd and quantiles of draws (S, E)."""
    drawn = values.numpy()
    levels = dict(zip(quantiles, np.quantile(drawn, quantiles, axis=0), strict=True))
    return summary(drawn.mean(0), drawn.std(0, ddof=1 if len(drawn) > 1 else 0), levels)


def _draws(fit: Fit, drawn: Tensor, value: Tensor, seen: Tensor, names: np.ndarray, data: Batch) -> Draws:
    sizes, variables = [fit.model.x_dim, fit.model.y_dim], _variables(fit)
    x, y = drawn[None].split(sizes, -1)
    seen_x, seen_y = torch.where(seen, value, torch.nan).split(sizes, -1)
    return Draws(
        {
            "posterior": {"x": x.numpy(), "y": y.numpy()},
            "observed_data": {"x": seen_x.numpy(), "y": seen_y.numpy()},
        },
        {"x": ("row", "input"), "y": ("row", "target")},
        {"row": plain_names(names), "input": np.array(variables[: sizes[0]]),
         "target": np.array(variables[sizes[0] :])},
        {"guide": fit.guide_name, "data": str(data.info.get("name", "")),
         "simulated": str(bool(data.info.get("simulated")))},
    )  # fmt: skip


def _warn(r_hat: Tensor, seen: Tensor, names: np.ndarray, variables: list[str]) -> None:
    bad = (~seen) & ~(r_hat <= R_HAT)
    if bool(bad.any()):
        row, j = divmod(int(torch.where(bad, r_hat, -torch.inf).argmax()), seen.shape[1])
        warnings.warn(
            f"{int(bad.sum())} of {int((~seen).sum())} entries have not converged; the worst is {variables[j]!r} of "
            f"row {names[[row]].tolist()[0]!r}, R-hat {float(r_hat[row, j]):.2f}; raise rounds or sweeps",
            stacklevel=3,
        )


def _some(names: list) -> str:
    return f"{names}" if len(names) <= 10 else f"{str(names[:10])[:-1]}, ...] ({len(names)} in all)"
