"""Capturing the loss of a model and guide as a graph of tensor operations, and checking the graph."""

from __future__ import annotations

import contextlib
import math
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import torch
from pyro.infer import trace_elbo, trace_mean_field_elbo, traceenum_elbo, util
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..modeling.base import LocalParams
from .losses import validation

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class NotCapturable(RuntimeError):
    """Error: the loss is not a fixed sequence of tensor operations."""


def form_of(value: Any, tensors: list[Tensor]) -> Any:
    """Key of an argument on which a graph depends: the form of each tensor, and everything else by value.

    Args:
        value: The argument.
        tensors: List to which the argument's tensors are appended.

    Raises:
        TypeError: A part is neither a tensor nor hashable.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    if isinstance(value, Mapping):
        return tuple([(name, form_of(part, tensors)) for name, part in value.items()])
    if type(value) in (list, tuple):
        return type(value), *[form_of(part, tensors) for part in value]
    hash(value)  # raises where it is no constant
    return type(value), value


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same argument with its tensors replaced, in order, and mappings as dictionaries."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return {name: with_tensors(part, tensors) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(with_tensors(part, tensors) for part in value)
    return value


@contextlib.contextmanager
def random_state_kept(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Restore the random state of CPU and GPUs on exit."""
    devices = {tensor.device.index for tensor in inputs if tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield


def validation_kept() -> contextlib.AbstractContextManager:
    """Restore the validation settings on exit: torch's compiler turns validation off in the whole process."""
    names = ("validate_distributions_pyro", "validate_distributions_torch")
    return pyro.settings.context(**{name: pyro.settings.get(name) for name in names})


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """Allow Pyro's ELBOs to be captured: their values stay tensors, and nothing branches on them."""
    replaced = {"torch_item": _value, "warn_if_nan": lambda *args, **kwargs: None}
    with contextlib.ExitStack() as stack:
        stack.enter_context(validation(False))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        for module in (trace_elbo, trace_mean_field_elbo, traceenum_elbo, util):
            for name, replacement in replaced.items():
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, replacement))
        stack.enter_context(mock.patch.object(util.Dice, "compute_expectation", _expectation))
        yield


def _value(x: Any) -> Any:
    """Like Pyro's `torch_item`, but stays in the graph."""
    return x.detach() if isinstance(x, Tensor) else x


def _expectation(self: util.Dice, costs: Mapping[Any, Sequence[Tensor]]) -> Any:
    """`Dice.compute_expectation` where no draw of the guide has a probability factor: the sum of the costs.

    Pyro's own version branches on whether probabilities are zero. There are none here, because all guide sites are
    reparameterised.
    """
    total: Any = 0.0
    for ordinal, terms in costs.items():
        factors = self._get_log_factors(ordinal)
        if any(isinstance(factor, Tensor) for factor in factors):
            raise NotCapturable("the guide has a site that is not reparameterised or is enumerated")
        scale = math.exp(sum(factors))
        for term in terms:
            total = total + scale * term.sum()
    return total


def check_shapes(graph: torch.fx.GraphModule) -> None:
    """Refuse operations whose output shapes depend on values: the graph would keep those of the first call."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
            continue
        indexes = node.target is torch.ops.aten.index.Tensor
        indices = [i.meta["val"].dtype for i in node.args[1] if i is not None] if indexes else [torch.bool]
        if torch.bool in indices:
            raise NotCapturable(f"{node.target} gives shapes that depend on values; torch.where does not")


def simplify(graph: torch.fx.GraphModule) -> None:
    """Compute equal terms once, and drop operations without effect: when replayed, each costs microseconds."""
    from torch._functorch.compile_utils import fx_graph_cse  # here: some 500 modules that an eager fit does without

    same = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten.detach.default)
    for node in list(graph.graph.nodes):
        if node.target in same and node.args[0].meta["val"].shape == node.meta["val"].shape:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph = fx_graph_cse(graph.graph)
    graph.recompile()


def compared(expected: Sequence[Tensor], found: Sequence[Tensor]) -> str:
    """Describe the first value that differs by more than rounding; empty if none does.

    The tolerance is 1e-10 in double and 1e-5 in single precision, relative to the largest entry of each tensor; for
    gradients it also allows rounding errors of the size of those of the largest gradient, because a gradient may be
    zero except for rounding. A loss that is not finite is not compared: training reports it.
    """
    tolerance = TOLERANCE.get(expected[0].dtype, 1e-5)
    if not bool(expected[0].isfinite()):
        return ""
    if any(tensor.is_sparse for tensor in (*expected, *found)):
        return "a sparse gradient"
    largest = max((float(t.abs().max()) for t in expected[1:] if t.numel()), default=0.0)
    for i, (own, other) in enumerate(zip(expected, found, strict=True)):
        if own.shape != other.shape:
            return f"shape {tuple(other.shape)}, not {tuple(own.shape)}"
        if not own.numel():
            continue
        floor = 0.0 if i == 0 else 100 * torch.finfo(own.dtype).eps * largest
        error = float((own - other).abs().max())
        if not error <= tolerance * float(own.abs().max()) + floor:
            what = "the loss" if i == 0 else "a gradient"
            return f"{what} by {error:.1e} of {float(own.abs().max()):.1e}"
    return ""


def global_parameters(module: nn.Module) -> bool:
    """Whether a part keeps its parameters in Pyro's global store, which a graph's inputs would not reach."""
    if isinstance(module, LocalParams):
        return not module._local_params
    if isinstance(module, PyroModule):
        return not pyro.settings.get("module_local_params")
    return any(map(global_parameters, module.children()))


def has_compiler() -> bool:
    """Whether torch finds a C++ compiler."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return False
    return True


def reason_of(error: Exception) -> str:
    """One line on why a loss could not be captured or compiled, and where in the model or guide that happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    if "_local_scalar_dense" in text:
        text = "the value of a tensor is read: .item(), bool(), a branch or an index"
    library = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if library not in Path(f.filename).parents]
    own = [frame for frame in frames if frame.filename != __file__]
    where = f", {Path(own[-1].filename).name} line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {text}{where}"
