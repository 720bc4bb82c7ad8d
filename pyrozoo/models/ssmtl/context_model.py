"""What SSMTL and its relatives share: sizes, standardisation and transforms, missing inputs, the contexts c."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import numbers
import warnings
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...data.batch import Batch
from ...modeling.base import ZooModel
from ...modeling.warps import Columnwise, Warped, outside, specs_of, transform_of, with_powers
from .nets import by_entry, fill_targets

GAPS = 0.05  # share of the inputs that training hides where the data have gaps
MANY = 200  # parameters per label from which a fit says that they are many
WHOLE, CHUNK = 2**18, 2**16  # up to WHOLE rows a table is read at once, a larger one in chunks of CHUNK rows


class ContextModel(ZooModel):
    """Base class of SSMTL and its relatives: their sizes, standardisation, and the prior of the contexts c.

    Args:
        x_dim: Dx, number of inputs.
        y_dim: Dy, number of targets; 0 for a model without targets.
        n_units: M, number of units in the training data (the guides size their parameters by it).
        c_dim: K, dimension of a unit's context; 0 for a model without contexts.
        width, depth: Number of units of a hidden layer, and number of hidden layers, in every network. For data with
            few labels `pyrozoo.create_model` takes smaller ones and a larger floor, ``data_defaults``.
        floor: Smallest standard deviation of a predicted x or y, in standard deviations of the training data.
        gaps: For inputs of which some are missing: share of the others that each training step hides, too, so that the
            networks learn rows with any gap. Missing and hidden inputs leave the likelihood (they are integrated out,
            exactly, since x is independent given z and c), and the guides read them as 0 beside a mask. 0 is for a
            model of complete inputs, whose networks take no mask.
        x_loc, x_scale, y_loc, y_scale: Location and scale of each input (Dx numbers) and target (Dy numbers), in the
            units of the data: networks see (x - x_loc) / x_scale, while the sites x and y keep the units of the data.
        x_transform, y_transform: Transform of each column before it is standardised, which makes its distribution given
            z and c a normal one on that scale: "log" (of positive numbers), "logit" (of shares between 0 and 1),
            ("yeo-johnson", power), or None. `create_model` also takes one for all columns, or column -> transform, and
            "yeo-johnson" alone, whose power it learns from the data. Sites, densities and predictions stay in the units
            of the data.

    Raises:
        TypeError: The depth or the floor is no number.
        ValueError: A size, the depth, the floor or the share of gaps is out of range; an unknown transform.
    """

    dropout = 0.0  # of models without a head that is trained on few labels
    plate_dims = {"unit": -1, "row": -1}
    sparse = {"unit": ()}  # no table per unit: contexts are latent, and only guides have parameters for them
    process_inputs = ("x",)
    data_defaults = {"width": 64, "floor": 0.1}
    dims = {"c": ("context",), "z": ("latent",), "x": ("input",), "y": ("target",)}
    fit_defaults = {
        "steps": 1000,
        "lr": 2e-3,
        "lr_groups": {"guide.c_*": 1e-2, "guide.auto.*": 1e-2, "model.prior_modules.*": 1e-2},
        "schedule": "linear",
        "batch_size": {"labelled": 250, "unlabelled": 250},
    }

    def __init__(
        self, x_dim: int, y_dim: int, n_units: int, c_dim: int, width: int, depth: int, floor: float,
        x_loc: Any, x_scale: Any, y_loc: Any, y_scale: Any, gaps: float = 0.0, x_transform: Any = None,
        y_transform: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        given = inspect.signature(type(self)).parameters
        for name, size in (("x_dim", x_dim), ("y_dim", y_dim), ("n_units", n_units), ("c_dim", c_dim),
                           ("width", width)):  # fmt: skip
            if isinstance(size, bool) or not isinstance(size, numbers.Integral):
                raise TypeError(f"{name}: {size!r}; a whole number is needed")
            if size < 1 and name in given:
                raise ValueError(f"{name}: {size}; at least 1 is needed")
        for name, number in (("depth", depth), ("floor", floor)):
            if not isinstance(number, numbers.Real):
                raise TypeError(f"{name}: {number!r}; a number is needed")
            if not math.isfinite(number):
                raise ValueError(f"{name}: {number}; a finite number is needed")
        if depth < 0 or floor < 0:
            raise ValueError(f"depth {depth} and floor {floor} must not be negative")
        if not 0 <= gaps < 1:
            raise ValueError(f"gaps: {gaps}; give a share of at least 0 and below 1, such as {GAPS}")
        self.gaps = gaps
        self.x_warp = transform_of("x_transform", specs_of("x_transform", x_transform, (), x_dim))
        self.y_warp = transform_of("y_transform", specs_of("y_transform", y_transform, (), y_dim))
        self._normals: dict[tuple, dist.Distribution] = {}
        self.x_dim, self.y_dim, self.n_units, self.c_dim = x_dim, y_dim, n_units, c_dim
        self.width, self.depth, self.floor = width, depth, floor
        self.set_standardisation("x", x_loc, x_scale, x_dim)
        self.set_standardisation("y", y_loc, y_scale, y_dim)

    @classmethod
    def sizes_from(cls, data: Batch, x_transform: Any = None, y_transform: Any = None) -> dict[str, Any]:
        """Constructor arguments for `data`: Dx, Dy, M, gaps, and the standardisation of x and y where they are known.

        Args:
            data: The training data.
            x_transform: Transform of the inputs as `create_model` takes it; what is returned has one per column.
            y_transform: Transform of the targets, likewise.

        Raises:
            KeyError: A transform of a column that is not there.
            ValueError: A column is constant, so that it carries no information and has no scale, or it has no value; a
                value that its transform does not take; an unknown transform.
        """
        y = data.tensors.get("y")
        labelled = data.tensors.get("y_seen", data.tensors.get("labelled"))
        sizes = {"x_dim": data["x"].shape[1], "y_dim": 1 if y is None else y.shape[1], "n_units": data.sizes["unit"]}
        x_seen = data.tensors.get("x_seen")
        sizes["gaps"] = 0.0 if x_seen is None or bool(x_seen.all()) else GAPS
        found: list[tuple[str, Tensor, Tensor | None, Any]] = [("x", data["x"], x_seen, x_transform)]
        if y is not None and (labelled is None or bool(labelled.any())):
            found.append(("y", y, labelled, y_transform))
        for name, values, where, given in found:
            specs = specs_of(f"{name}_transform", given, data.columns(name), values.shape[1])
            if specs is not None:
                known = values if where is None else _nan_elsewhere(values, where)
                specs = with_powers(specs, known)
                warp = Columnwise(specs)
                _require_inside(name, warp, known, data)
                values, where = warp.inv(known), ~known.isnan()
                sizes[f"{name}_transform"] = specs
            sizes |= _standardisation(name, values, data.coords.get("input" if name == "x" else "target"), where)
        return {name: size for name, size in sizes.items() if name in inspect.signature(cls).parameters}

    def check_values(self, data: Batch) -> None:
        """Refuse inputs and labels that their transform does not take."""
        for name, warp, mask in (("x", self.x_warp, ""), ("y", self.y_warp, data.labels.get("y", ""))):
            if warp is not None and name in data.tensors:
                values, where = data[name], data.tensors.get(f"{name}_seen", data.tensors.get(mask))
                _require_inside(name, warp, values if where is None else _nan_elsewhere(values, where), data)

    def warp(self, target: str) -> Columnwise | None:
        """The transform of y, if there is one."""
        return self.y_warp if target == "y" else None

    def check(self, data: Batch) -> None:
        """Warn of units without a label among others that have some: nothing says how their target differs.

        Parameters that outnumber the labels by far are logged, once in a process.
        """
        super().check(data)
        if not (self.targets and "y" in data.labels):
            return
        parameters, labels = sum(p.numel() for p in self.parameters()), int(data[data.labels["y"]].sum())
        if labels and parameters > MANY * labels:
            _say_many(type(self).__name__)
        if not self.c_dim:
            return
        labelled = data["unit"][data[data.labels["y"]]]
        count = torch.bincount(labelled, minlength=data.sizes["unit"])
        without = data.coords["unit"][(count == 0).cpu().numpy()].tolist()
        if 0 < len(without) < data.sizes["unit"]:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            warnings.warn(
                f"unit {without[0]!r}{more} without a label: the target of such a unit is a guess from its inputs, and "
                "the model's own intervals of it are too narrow; label some of its rows, or fit by zoo.cross_fitted, "
                'whose intervals of such units are as wide as units differ (with process=False only by="unit")',
                stacklevel=3,
            )

    def arguments(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of model and guide; while the networks train, a share `gaps` of the inputs is hidden from both.

        Raises:
            ValueError: Inputs are missing, and the model was made for complete ones.
        """
        out = super().arguments(batch)
        seen = out.get("x_seen")
        if not self.gaps:
            if seen is not None and not bool(seen.all()):
                raise ValueError(
                    "x: some inputs are missing, and the model was made for complete ones; create_model makes it for "
                    f"gaps where its data have some, or by gaps={GAPS}"
                )
            out.pop("x_seen", None)
        elif self.training and next(self.parameters()).requires_grad:
            kept = torch.rand_like(out["x"]) >= self.gaps
            out["x_seen"] = kept if seen is None else kept & seen
        return out

    def inputs(self, x: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """What networks read of x (..., Dx): it is standardised; with `gaps`, 0 where not `seen`, and beside a mask."""
        x = self.standardise_x(self.filled(x, seen))
        if not self.gaps:
            return [x]
        mask = torch.ones_like(x) if seen is None else seen.to(x)
        return [x * mask, mask]

    @property
    def inputs_dim(self) -> int:
        """Number of numbers that networks read of x, see `inputs`."""
        return self.x_dim * (2 if self.gaps else 1)

    def standard_normal(self, size: int) -> dist.Distribution:
        """N(0, I) of `size` dimensions, on the model's device."""
        key = size, self.x_loc.device, self.x_loc.dtype
        if key not in self._normals:  # making it costs a twentieth of a small step, in every step
            self._normals[key] = dist.Normal(self.x_loc.new_zeros(size), 1.0).to_event(1)
        return self._normals[key]

    def x_given(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """Distribution of x, in the units of the data, from a standardised location and scale, (..., Dx) each."""
        normal = dist.Normal(self.x_loc + self.x_scale * loc, self.x_scale * scale)
        return (normal if self.x_warp is None else Warped(normal, [self.x_warp])).to_event(1)

    def y_given(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """Distribution of y, in the units of the data, from a standardised location and scale, (..., Dy) each."""
        normal = dist.Normal(self.y_loc + self.y_scale * loc, self.y_scale * scale)
        return (normal if self.y_warp is None else Warped(normal, [self.y_warp])).to_event(1)

    def standardise_x(self, x: Tensor) -> Tensor:
        """Standardise x (..., Dx) for the networks: (x - x_loc) / x_scale, on the scale of its transform."""
        return ((x if self.x_warp is None else self.x_warp.inv(x)) - self.x_loc) / self.x_scale

    def standardise_y(self, y: Tensor) -> Tensor:
        """Standardise y (..., Dy) for the networks: (y - y_loc) / y_scale, on the scale of its transform."""
        return ((y if self.y_warp is None else self.y_warp.inv(y)) - self.y_loc) / self.y_scale

    def filled(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Inputs (..., Dx) with a value inside their support where not `seen`, for which a batch holds 0."""
        return x if self.x_warp is None or seen is None else torch.where(seen, x, self.x_warp(self.x_loc))

    def targets_of(
        self, x: Tensor, y: Tensor | None, labelled: Tensor | None, seen: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Targets (B, Dy), inside their support where unknown, and where they are observed, (B,).

        Where rows have part of their targets, `seen` says which, and where they are observed is told by entry, (B, Dy).
        """
        y, labelled = fill_targets(x, y, labelled, self.y_dim)
        where = labelled if seen is None else seen
        return y if self.y_warp is None else torch.where(by_entry(where), y, self.y_warp(self.y_loc)), where


@functools.cache
def _say_many(model: str) -> None:
    logging.getLogger("pyrozoo").warning(
        "%s has more than %d parameters for each label: smaller networks (width, depth) may predict better, which "
        "pyrozoo.tune finds out", model, MANY,
    )  # fmt: skip


def _nan_elsewhere(values: Tensor, where: Tensor) -> Tensor:
    """Values (N, D), NaN where not `where`, (N,) or (N, D)."""
    return torch.where(where if where.dim() > 1 else where[:, None], values, torch.nan)


def _require_inside(name: str, warp: Columnwise, values: Tensor, data: Batch) -> None:
    """Refuse values (N, D), NaN where unknown, that have no logarithm or logit."""
    bad = outside(warp, values)
    if bool(bad.any()):
        row, j = bad.nonzero()[0].tolist()
        kind = warp.specs[j]
        takes = "positive numbers" if kind == "log" else "numbers between 0 and 1"
        raise ValueError(
            f"column {data.columns(name)[j]!r}, row {data.names(data.rows)[[row]].tolist()[0]!r}: "
            f"{float(values[row, j]):g} has no {kind}, which takes {takes}; choose yeo-johnson or none, or correct it"
        )


def _standardisation(name: str, values: Tensor, columns: Any, where: Tensor | None = None) -> dict[str, list[float]]:
    """Arguments ``<name>_loc`` and ``<name>_scale`` of `values` (N, D) where `where`, (N,) or (N, D)."""
    loc, scale = _moments(values, where)
    constant = ~(scale > 1e-12 * loc.abs().clamp(min=1e-300))
    if bool(constant.any()):
        j = int(constant.nonzero()[0, 0])
        label = j if columns is None else columns[j]
        what = "it has no value in the training data" if loc[j].isnan() else f"the training values are all {loc[j]:g}"
        raise ValueError(f"{name}, column {label!r}: {what}; leave a constant column out")
    return {f"{name}_loc": loc.tolist(), f"{name}_scale": scale.tolist()}


def _moments(values: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in double precision, (D,) each; large tables are read twice, in chunks."""
    by_entry = where is not None and where.dim() > 1

    def chunk(start: int, size: int = CHUNK) -> Tensor:
        part = values[start : start + size]
        if by_entry:
            return torch.where(where[start : start + size], part.double(), torch.nan)  # type: ignore[index]
        return (part if where is None else part[where[start : start + size]]).double()

    if len(values) <= WHOLE and not by_entry:
        whole = chunk(0, WHOLE)
        return whole.mean(0), whole.std(0, unbiased=False)
    starts = range(0, len(values), CHUNK)
    n, total, squares = values.new_zeros(3, *values.shape[1:], dtype=torch.double)
    for start in starts:  # added in place: small results between large pieces would keep their memory apart
        part = chunk(start)
        n.add_((~part.isnan()).sum(0)), total.add_(part.nansum(0))
    for start in starts:
        squares.add_((chunk(start) - total / n).square().nansum(0))
    return total / n, (squares / n).sqrt()
