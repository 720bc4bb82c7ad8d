"""New data in the terms of the training data: positions of groups, tables, support rows; refused where they differ."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ..data.batch import Batch
from ..data.values import SEEN
from ..modeling import registry
from ..modeling.base import ZooModel
from ..modeling.checks import require_complete, require_lengths
from ..modeling.guides import declared, with_support
from .copies import reference_tensor


def aligned(batch: Batch, prototype: Batch, model: ZooModel, guide: nn.Module, guide_name: str) -> Batch:
    """The batch in the layout of the training data; see `Fit.prepare`, which this is for the restart with that guide.

    Args:
        batch: The batch.
        prototype: The prototype of the fit.
        model: The fitted model.
        guide: Its guide.
        guide_name: Name of the guide, for messages.
    """
    check_columns(batch, prototype, model)
    require_complete(model, batch)
    model.check_values(batch)
    _require_like(batch, prototype)
    require_lengths(model, batch, prototype)
    amortized = declared(guide, "amortized")
    for group in batch.groups:
        if not holds_group(model, group):
            continue
        known = prototype.coords[group]
        position = {name: i for i, name in enumerate(known.tolist())}
        new = [name for name in batch.coords[group].tolist() if name not in position]
        tables = {k: v for k, v in prototype.tensors.items() if prototype.along[k] == group}
        if not new:
            batch = batch.align(group, known).with_tables(group, tables)
        elif group in amortized:
            batch = with_support(guide, batch)
            places = [position.get(name, -1) for name in batch.coords[group].tolist()]
            own, trained = _with_masks(batch.tensors, tables), _with_masks(tables, batch.tensors)
            support = {k: v for k, v in trained.items() if k.startswith("support_") and k in own}
            batch = batch.with_tables(group, {k: _merged(own[k], v, places) for k, v in support.items()})
        else:
            others = amortised_elsewhere(model, group)
            adapts = model.entry is not None and hasattr(registry.entry(model.entry[0]).parts, "calibrate")
            remedy = f"fit with a guide that is amortised over {group}s ({str(others)[1:-1]} in this zoo), or "
            if {str(name) for name in new} <= {str(name) for name in position}:
                kinds = type(new[0]).__name__, type(next(iter(position))).__name__
                raise KeyError(
                    f"unknown {group}(s) {new[:5]}: they are {kinds[0]} where the training data have {kinds[1]}; "
                    f"convert the column, such as by .astype({kinds[1]})"
                )
            raise KeyError(
                f"unknown {group}(s) {new[:5]}: the guide {guide_name!r} has a posterior only for the "
                f"{len(known)} {group}s it was trained on; {remedy if others else ''}include them in the training "
                f"data{', or adapt the fit to them (pyrozoo calibrate RUN)' if adapts else ''}"
            )
    tensor = reference_tensor(model)
    return batch if tensor is None else batch.to(device=tensor.device, dtype=tensor.dtype)


def check_columns(batch: Batch, prototype: Batch, model: ZooModel) -> None:
    """Refuse a batch with other names, classes or standardisation than the prototype, see `Fit.check_columns`."""
    checked = {dim for dims in prototype.dims.values() for dim in dims}
    checked |= {f"{target}_class" for target in model.targets}
    for dim in checked & set(batch.coords):
        own, known = batch.coords[dim].tolist(), prototype.coords.get(dim, np.array([])).tolist()
        if own and known and own != known:
            raise ValueError(
                f"{dim}: the batch has {own} where the fit was trained on {known}; give the same "
                f"{'classes' if dim.endswith('_class') else 'columns'} in the same order"
            )
    own, known = (data.info.get("standardised") for data in (batch, prototype))
    if own != known:
        raise ValueError(
            f"standardised: the batch is standardised by {own} where the fit was trained on data standardised by "
            f"{known}; treat both alike"
        )


def holds_group(model: ZooModel, group: str) -> bool:
    """Whether the model has latents or parameters per group, so that positions must be those of the training data.

    True if it has the group's plate, or if `forward` takes the group's index and the group is not open.
    """
    taken = group in inspect.signature(model.forward).parameters
    return group in model.plate_dims or (taken and group not in model.open_groups)


def amortised_elsewhere(model: ZooModel, group: str) -> list[str]:
    """Names of the guides of the model's entry that are amortised over a group."""
    if model.entry is None:
        return []
    found = getattr(registry.entry(model.entry[0]).parts, "GUIDES", {})
    return [name for name, guide in found.items() if group in declared(guide, "amortized")]


def _require_like(batch: Batch, known: Batch) -> None:
    """Refuse a tensor whose entries would be broadcast to those of the training data; others fail by themselves."""
    for name in sorted(batch.tensors.keys() & known.tensors.keys()):
        if name.startswith("support_"):  # padded to the largest group of each
            continue
        own, other = batch.tensors[name].shape[1:], known.tensors[name].shape[1:]
        sizes = set(zip(own, other, strict=True)) if len(own) == len(other) else {(1, len(other))}
        if any(a != b and 1 in (a, b) for a, b in sizes):
            raise ValueError(
                f"{name}: the batch has entries of shape {tuple(own)} where the fit was trained on {tuple(other)}; "
                "give the same columns"
            )


def _with_masks(tables: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tables of support rows with the masks of missing values that only the `other` ones have: nothing is missing."""
    masks = [k for k in other if k.startswith("support_") and k.endswith(SEEN) and k not in tables]
    complete = {k: tables.get(k.removesuffix(SEEN)) for k in masks}
    return {**tables, **{k: torch.ones_like(v, dtype=torch.bool) for k, v in complete.items() if v is not None}}


def _merged(own: torch.Tensor, known: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Support rows of new data's groups, shape (M, S, ...), with those of known groups taken from `known`.

    Args:
        own: Support rows of the new data, shape (M, S1, ...).
        known: Support rows of the training data, shape (K, S2, ...).
        places: Position of each of the M groups in `known`, -1 for a new group.
    """
    out = own.new_zeros(len(own), max(own.shape[1], known.shape[1]), *own.shape[2:])
    out[:, : own.shape[1]] = own
    for i, place in enumerate(places):
        if place >= 0:
            out[i] = 0
            out[i, : known.shape[1]] = known[place]
    return out
