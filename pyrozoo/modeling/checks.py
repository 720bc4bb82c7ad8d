"""Checks of a model against its data before a fit: sizes, shapes of the observed sites, enumerated sites."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..data.batch import Batch
from ..data.build import mask_alias
from ..data.values import SEEN, first_missing
from .base import ZooModel
from .causes import fault
from .enumeration import frames_of, require_enumerable
from .hidden import public_name, without_mask


def require_sizes(model: ZooModel, data: Batch) -> None:
    """Refuse a model that was made for other sizes than the data have: a size of 1 would be broadcast without a word.

    Compared are the whole numbers that `ZooModel.sizes_from` reads from the data, and those in its dictionaries.

    Raises:
        ValueError: A size contradicts the data.
    """
    for name, what, own, known in _contradictions(model, data):
        if not (own > known and name in model.at_least):
            raise ValueError(
                f"{what}: the model was made for {own}, but the data have {known}; make the model of these data "
                f"(create_model reads {name} from them), or give the data that it was made for"
            )


def require_lengths(model: ZooModel, data: Batch, trained: Batch) -> None:
    """Refuse rows of another length than those of the training data, where the model was made for that length.

    A model that loops over its own number of steps would leave out the further ones of longer rows without a word.

    Raises:
        ValueError: A number that `ZooModel.sizes_from` reads from the data is another one, as the shape of a row is.
    """
    changed = {
        pair
        for name, tensor in data.tensors.items()
        if data.along[name] == data.rows and name in trained.tensors
        for pair in zip(trained[name].shape[1:], tensor.shape[1:], strict=False)
        if pair[0] != pair[1]
    }
    for _, what, own, known in _contradictions(model, data) if changed else ():
        if (own, known) in changed:
            raise ValueError(
                f"{what}: the model was made for {own}, but the data have {known}; give rows of the shape that it was "
                "trained on (longer ones cut, shorter ones filled up in the same way), or fit a model to such rows"
            )


def _contradictions(model: ZooModel, data: Batch) -> Iterator[tuple[str, str, int, int]]:
    """Name of each size that the data contradict, what it is called, the number of the model and that of the data."""
    try:
        found = type(model).sizes_from(data)
    except (ValueError, KeyError):  # data from which no model can be made, e.g. with a constant column
        return
    parameters = inspect.signature(type(model)).parameters
    for name, size in found.items():
        given = model.config.get(name, parameters[name].default if name in parameters else inspect.Parameter.empty)
        for key, own, known in _numbers(given, size):
            if own != known:
                yield name, name if key is None else f"{name}[{key!r}]", own, known


def require_complete(model: ZooModel, data: Batch) -> None:
    """Refuse missing values of inputs that the model would take for zeros.

    Raises:
        ValueError: A value is missing, and the model takes no mask of it; the message names column and row.
    """
    taken = inspect.signature(model.forward).parameters
    for name in [name.removesuffix(SEEN) for name in data.tensors if name.endswith(SEEN) and name not in taken]:
        if name in data.labels:
            _require_whole_rows(model, data, name)
            continue
        if data.along.get(name) == data.rows and (missing := first_missing(data, name)):
            raise ValueError(
                f"{missing}, and {type(model).__name__} takes complete inputs; impute it, drop the row, or fit a model "
                f"that takes {name + SEEN}"
            )


def _require_whole_rows(model: ZooModel, data: Batch, target: str) -> None:
    """Refuse rows with part of a target that the model takes as a whole."""
    known = data.known(target)
    partial = known.any(1) & ~known.all(1)
    if target in model.targets and partial.any():
        row = data.names(data.rows)[[int(partial.argmax())]].tolist()[0]
        raise ValueError(
            f"row {row!r}: some of the targets {data.columns(target)} are missing and some are not, and "
            f"{type(model).__name__} takes all or none of them; drop the row, fit a model that takes {target + SEEN}, "
            "or make each a target of its own by Batch.from_columns(targets={name: column, ...})"
        )


def _numbers(given: Any, found: Any) -> list[tuple[Any, int, int]]:
    """Key, number of the model and number of the data, for a whole number or a dictionary of them."""
    if isinstance(given, Mapping) and isinstance(found, Mapping):
        pairs = [(key, given[key], found[key]) for key in given if key in found]
    else:
        pairs = [(None, given, found)]
    return [pair for pair in pairs if all(type(number) is int for number in pair[1:])]


def require_structure(model: ZooModel, few: Batch, train: Batch) -> None:
    """Refuse a model whose sites do not fit the data, or cannot be summed out; it runs once, with latents from priors.

    Args:
        model: The model.
        few: A few rows of the training data.
        train: The training data, of which only the numbers of hidden rows are read.

    Raises:
        ValueError: An observed site's event has another shape than its data; targets are hidden in some rows, and the
            model takes their place holders for data; rows depend on one another, or have no plate; the model subsamples
            a plate by itself; or an enumerated site cannot be summed out within each row.
    """
    with _looking(model):
        arguments = model.arguments(few)
        trace = poutine.trace(model).get_trace(**arguments)
        _require_shapes(trace)
        _require_plates(model, few, trace)
        one = None
        with contextlib.suppress(RuntimeError, IndexError, ValueError):  # some models need two rows
            one = poutine.trace(model).get_trace(**model.arguments(few.take([0])))
        if one is not None:
            _require_rows(model, trace, one)
        hidden = [target for target, mask in train.labels.items() if train.sizes.get(f"un{mask}")]
        if hidden:
            _require_masks(model, hidden, poutine.trace(model).get_trace(**model.arguments(few.hide())))
        if model.enumerated:
            _require_marked(model, trace)
            require_enumerable(model, _enumerated(model, trace).get_trace(**arguments))


def forgotten_latents(model: ZooModel, guide: Any, few: Batch) -> list[str]:
    """Latents that a guide does not sample: Pyro would draw them from their priors, with a warning at most.

    Args:
        model: The model.
        guide: A copy of the guide, which is run once.
        few: A few rows of the training data.
    """
    with _looking(model, guide):
        arguments = model.arguments(few)
        sampled = set(poutine.trace(guide).get_trace(**arguments).nodes)
        trace = poutine.trace(model).get_trace(**arguments)
    latents = {name for name, site in trace.iter_stochastic_nodes() if not site_is_subsample(site)}
    return sorted(latents - sampled - set(model.enumerated))


def fault_at_once(model: ZooModel, guide: Any, few: Batch) -> str:
    """Say which density with all values of the enumerated sites at once is not that of each alone; empty if none is.

    Args:
        model: The model.
        guide: The guide, or a copy of it.
        few: A few rows of the training data.
    """
    with _looking(model, guide):
        return fault(model, guide, few)


@contextlib.contextmanager
def _looking(*modules: Any) -> Iterator[None]:
    """Run modules in evaluation mode without gradients and validation, under random numbers that nobody misses."""
    training = {part: part.training for module in modules for part in module.modules()}
    names = ("validate_distributions_pyro", "validate_distributions_torch", "validate_poutine", "validate_infer")
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(), pyro.settings.context(**dict.fromkeys(names, False)):
            yield
    finally:
        for part, mode in training.items():
            part.training = mode


def _enumerated(model: ZooModel, trace: poutine.Trace) -> Any:
    """The model's trace with its enumerated sites in parallel, given the other latents (which a guide draws once)."""
    latents = {
        name: site["value"]
        for name, site in trace.iter_stochastic_nodes()
        if not site_is_subsample(site) and site["infer"].get("enumerate") != "parallel"
    }
    given = poutine.condition(model, data=latents)
    return poutine.trace(poutine.enum(given, first_available_dim=-1 - model.max_plate_nesting))


def _require_marked(model: ZooModel, trace: poutine.Trace) -> None:
    """Require that the sites of `enumerated` are marked for enumeration, and are numbers."""
    for name, site in trace.iter_stochastic_nodes():
        if name in model.enumerated and site["infer"].get("enumerate") != "parallel":
            raise ValueError(
                f"{name}: it is listed in `enumerated`, but not marked in the model, so that Pyro would draw it from "
                'its prior; add infer={"enumerate": "parallel"} to its pyro.sample'
            )
        if name in model.enumerated and site["fn"].event_dim:
            raise ValueError(
                f"{name}: a value of {type(without_mask(site['fn'])).__name__} is a vector, and an enumerated site is "
                "one number per position; use Categorical, and Vindex(values)[..., state] where it is read"
            )


def _require_plates(model: ZooModel, few: Batch, trace: poutine.Trace) -> None:
    """Require a row plate, and plates at the batch's positions."""
    plates = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and site_is_subsample(site)}
    if model.rows not in plates:
        raise ValueError(
            f"{type(model).__name__}: it opens no plate {model.rows!r}, so that no {model.rows} has a density of its "
            f"own; put what is observed into `with self.plate({model.rows!r}, ...)`. Rows that depend on one another, "
            "as in a Gaussian process, are one row together: a curve or a recording"
        )
    for name, site in plates.items():
        given = few.get(name if name == model.rows else f"{name}_ids")
        held = torch.as_tensor(site["value"])
        if (given is None and len(held) < site["fn"].size) or (given is not None and not torch.equal(held, given)):
            raise ValueError(
                f"plate {name!r}: the model chooses its positions by itself; open it by self.plate({name!r}, ...): the "
                "batch holds the positions of a minibatch, whose rows `batch_size` takes"
            )


def _require_rows(model: ZooModel, trace: poutine.Trace, one: poutine.Trace) -> None:
    """Require that no site outside all plates has the size of the rows, from a trace of a few of them, and of one."""
    for name, site in trace.nodes.items():
        plain = site["type"] == "sample" and not site_is_subsample(site) and name in one.nodes
        if not plain or site["infer"].get("is_auxiliary") or frames_of(site):
            continue
        if isinstance(site["value"], Tensor) and site["value"].shape != one.nodes[name]["value"].shape:
            raise ValueError(
                f"{name}: its size is that of the {model.rows}s, but it lies outside their plate: {model.rows}s that "
                f"depend on one another, as in a Gaussian process, are one {model.rows} together (a curve, a "
                "recording), or they share latents of a fixed size (weights of basis functions, inducing points)"
            )


def _require_masks(model: ZooModel, hidden: list[str], trace: poutine.Trace) -> None:
    """Require that an observed site along the rows says nothing of rows whose target is hidden, which are all here."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or not site["is_observed"] or public_name(name) not in hidden:
            continue
        if site["infer"].get("_deterministic") or model.rows not in frames_of(site).values():
            continue
        density = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
        if bool((density != 0).any()):
            raise ValueError(
                f"{name}: it is hidden in some rows, and the model takes their place holders for data; give its "
                f"distribution the mask, .mask({mask_alias(public_name(name))}), or leave these rows out"
            )


def _require_shapes(trace: poutine.Trace) -> None:
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or not site["is_observed"] or not isinstance(site["value"], Tensor):
            continue
        event, value = tuple(getattr(site["fn"], "event_shape", ())), tuple(site["value"].shape)
        own = value[len(value) - len(event) :]
        if own != event and 1 in (*own, *event):
            raise ValueError(
                f"{name}: its data have the shape {own} per position, and its distribution {event}, which Pyro would "
                "broadcast; make the model of these data"
            )
