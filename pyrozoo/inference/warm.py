"""Starting a fit from another one: groups, columns and tables are matched by name."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide, AutoGuideList
from torch import Tensor, nn

from ..data.batch import Batch
from ..modeling.base import ZooModel
from .aligning import holds_group
from .fitted import Fit
from .losses import materialise


def check_tables(guide: nn.Module, data: Batch) -> None:
    """Refuse a guide whose tables (its ``sparse``) have another number of lines than the data have groups."""
    for group, names in getattr(guide, "sparse", {}).items():
        for name in names:
            lines = len(getattr(guide, name))
            if group in data.sizes and lines != data.sizes[group]:
                raise ValueError(
                    f"{group}: the model was made for {lines} {group}s, and the data have {data.sizes[group]}; make it "
                    "from these data: create_model(NAME, data)"
                )


def warm_start(model: ZooModel, guide: nn.Module, source: Fit, few: Batch, train: Batch) -> None:
    """Give a fresh model and guide the weights of the best restart of `source`.

    Lines of a table per group go to the groups of the same name; groups that `source` does not know keep their fresh
    initial values.

    Args:
        model: The fresh model.
        guide: The fresh guide.
        source: The earlier fit.
        few: Rows for a first run of model and guide.
        train: The training data, whose groups and columns are compared with those of `source`.

    Raises:
        ValueError: Other columns, standardisation, parameters or shapes, or a guide whose parameters cannot be told
            apart by group although the groups differ; the message names it.
    """
    source.check_columns(train, model)
    materialise(model, guide, few)
    moved = {group: places for group in train.groups if (places := _places(source, train, group)) is not None}
    for part, own, other in (("model", model, source.model), ("guide", guide, source.guide)):
        mine, given = own.state_dict(), other.state_dict()
        names = sorted(mine.keys() ^ given.keys())
        if names:
            raise ValueError(
                f"warm_start: the {part} of that fit ({type(other).__name__}) has other parameters than this one "
                f"({type(own).__name__}): {names[:5]}; give the same kind of {part}"
            )
        state = dict(given)
        for group, places in moved.items():
            for name, axis in _tables(part, own, group, source.prototype.sizes[group]).items():
                state[name] = _matched(mine[name], given[name], axis, places)
        wrong = [name for name, value in state.items() if value.shape != mine[name].shape]
        if wrong:
            name = wrong[0]
            raise ValueError(
                f"warm_start: {part}.{name} has shape {tuple(mine[name].shape)} here and {tuple(given[name].shape)} in "
                f"that fit; {_difference(model, source.model)}"
            )
        own.load_state_dict(state)


def _places(source: Fit, train: Batch, group: str) -> list[int] | None:
    """Position of each group of `train` in `source`, -1 for a new one; None if all are the same, or do not matter."""
    if not holds_group(source.model, group) or group not in source.prototype.coords:
        return None
    known = source.prototype.coords[group].tolist()
    own = train.coords[group].tolist()
    position = {name: i for i, name in enumerate(known)}
    return None if own == known else [position.get(name, -1) for name in own]


def _tables(where: str, module: nn.Module, group: str, size: int) -> dict[str, int]:
    """Entries of the state that have one line per member of a group -> the axis of these lines.

    A module that declares ``sparse`` is taken at its word; an AutoGuide knows the plates of its sites. Parameters of
    torch's own layers are weights of networks, which have no lines per group.

    Args:
        where: Name of the module, for the message.
        module: The module.
        group: The group.
        size: Number of its members in the earlier fit.

    Raises:
        ValueError: A parameter might be such a table, and nothing says whether it is.
    """
    declared = getattr(module, "sparse", {})
    if group in declared:
        return dict.fromkeys(declared[group], 0)
    if isinstance(module, AutoGuide) and not isinstance(module, AutoGuideList):
        return _auto_tables(module, group)
    for name, value in () if type(module).__module__.startswith("torch.nn") else module.named_parameters(recurse=False):
        if size > 1 and value.dim() and len(value) == size:
            raise ValueError(
                f"warm_start: {where}.{name} has {size} lines, as many as that fit had {group}s, and may be a table of "
                f"them; say so by sparse = {{{group!r}: ({name!r},)}} in its class (no table: an empty tuple), or give "
                f"the same {group}s in the same order"
            )
    parts = {name: _tables(f"{where}.{name}", part, group, size) for name, part in module.named_children()}
    return {f"{part}.{name}": axis for part, found in parts.items() for name, axis in found.items()}


def _auto_tables(auto: AutoGuide, group: str) -> dict[str, int]:
    """Parameters of an AutoGuide along a group's plate -> their axis of that plate."""
    trace = auto.prototype_trace
    along = {}
    for site, node in trace.iter_stochastic_nodes():
        for frame in node["cond_indep_stack"]:
            if frame.name == group:
                along[site] = len(node["fn"].batch_shape) + frame.dim  # from the left, also of unconstrained values
    if not along:
        return {}
    names = {name: name.rsplit(".", 1)[-1].removesuffix("_unconstrained") for name, _ in auto.named_parameters()}
    if not set(names.values()) <= {site for site, _ in trace.iter_stochastic_nodes()}:
        raise ValueError(
            f"warm_start: {type(auto).__name__} has one joint table over the {group}s, which cannot be matched by "
            f"name; give the same {group}s in the same order (units=[...]), or take a guide with parameters per {group}"
        )
    return {name: along[site] for name, site in names.items() if site in along}


def _matched(mine: Tensor, given: Tensor, axis: int, places: list[int]) -> Tensor:
    """The fresh table with the lines of known groups from the given one; if shapes differ elsewhere, the given one."""
    own, other = mine.movedim(axis, 0).clone(), given.movedim(axis, 0)
    if own.shape[1:] != other.shape[1:]:
        return given
    index = torch.tensor(places, device=other.device)
    known = index >= 0
    own[known.to(own.device)] = other[index[known]].to(own)
    return own.movedim(0, axis)


def _difference(own: ZooModel, other: ZooModel) -> str:
    """Words for the constructor arguments in which two models differ."""

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else value

    names = sorted(own.config.keys() | other.config.keys())
    short = {name: (plain(own.config.get(name)), plain(other.config.get(name))) for name in names}
    differ = [
        f"{name}={b} there and {a} here" for name, (a, b) in short.items()
        if isinstance(a, int | float | str) and isinstance(b, int | float | str) and a != b
    ]  # fmt: skip
    return f"give the model the same arguments: {', '.join(differ)}" if differ else "give the model the same arguments"
