"""Compiled losses: the loss of a model and guide and its gradients, captured once as a graph of tensor operations.

A step of SVI spends much of its time in Python: messengers, traces, distributions. For one shape of the batch it is
always the same tensor operations, so they are recorded once (`torch.fx.experimental.proxy_tensor.make_fx`, with the
backward pass) and then replayed as they are (mode "graph") or compiled (mode "inductor"). Random draws are part of the
graph: under the same random state it gives what Pyro gives.
"""

from __future__ import annotations

import contextlib
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import torch
from pyro.infer import trace_elbo, trace_mean_field_elbo, traceenum_elbo, util
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import make_fx

from .base import LocalParams
from .losses import validation

MODES = ("none", "graph", "inductor", "auto")
SHAPES = 8  # shapes of the batch for which a graph is captured; with more, capturing costs more than it saves
GRAPH_FROM, INDUCTOR_FROM = 1_500, 5_000  # steps from which on a mode pays, see benchmarks/README.md
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class CompileWarning(UserWarning):
    """A loss runs eagerly, or in a simpler mode than was asked for; the message says why."""


class NotCapturable(RuntimeError):
    """The loss is no fixed sequence of tensor operations."""


@dataclass
class Captured:
    """The graph of one shape of the arguments.

    Attributes:
        run: ``(*trained parameters, *other parameters and buffers, *inputs) -> [loss, *gradients]``, with the gradients
            of those parameters that the loss depends on.
        used: Positions of those parameters.
        constant: Inputs that have been the same tensor, unchanged, in every call so far, by their position, with their
            version: the graph might hold a value of theirs as a constant.
        calls: Number of calls so far, the one that captured it included.
    """

    run: Callable[..., list[Tensor]]
    used: list[int]
    constant: dict[int, tuple[Tensor, int]]
    calls: int = 1

    def news(self, inputs: Sequence[Tensor]) -> bool:
        """Whether this call tells more about the graph than those before: other parameters, or other inputs."""
        changed = [i for i, (old, version) in self.constant.items() if inputs[i] is not old or old._version != version]
        for i in changed:
            del self.constant[i]
        self.calls += 1
        return bool(changed) or self.calls == 2


class CompiledLoss(nn.Module):
    """A drop-in for ``elbo(model, guide)`` that runs without Pyro's overhead: the same loss, the same gradients.

    ::

        pyro.settings.set(module_local_params=True)  # before model and guide are made
        loss = CompiledLoss(Trace_ELBO()(model, guide))
        optimizer = torch.optim.Adam(loss.parameters(), fused=True)
        for batch in batches:
            optimizer.zero_grad()
            loss(**batch).backward()
            optimizer.step()

    The first call with a new shape of the arguments captures a graph; later ones replay it. Tensors among the
    arguments are inputs of the graph, everything else is a constant of it (a changing number, e.g. an annealed weight,
    should be a tensor). Every graph is compared with the eager loss under the same random state: when it is captured,
    when the parameters have changed, and when the inputs are other tensors. On a difference, or where it cannot be
    captured, the loss runs eagerly and a `CompileWarning` says why. Without gradients (``torch.no_grad``) it always
    runs eagerly.

    What can be captured: a fixed sequence of tensor operations on parameters of the modules. A guide whose latents are
    all reparameterised; discrete latents of the model that `TraceEnum_ELBO` sums out; any number of particles. No
    branch or index that depends on a value, no NumPy, no ``pyro.param``. Pyro's validation cannot see into a graph;
    a call that compares runs it. Gradients of gradients are not available.

    Args:
        loss: A module whose call returns the loss: ``elbo(model, guide)``, under ``module_local_params``.
        mode: "graph": replay the operations one by one. "inductor": compile them by `torch.compile`, which takes from
            ten seconds to minutes and needs a C++ compiler; on a GPU the step is one CUDA graph. Only the first shape
            is compiled, others (the ragged end of an epoch) are replayed. Where compiling fails: "graph".
        shapes: Number of shapes to capture; further ones run eagerly.
    """

    def __init__(self, loss: nn.Module, mode: str = "inductor", shapes: int = SHAPES) -> None:
        super().__init__()
        if mode not in ("graph", "inductor"):
            raise ValueError(f"mode: {mode!r} is none of ['graph', 'inductor']")
        self.loss, self.mode, self.shapes, self._said = loss, mode, shapes, False
        self._forget()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of these arguments, whose backward pass gives the gradients."""
        if self._eagerly or not torch.is_grad_enabled():
            return self.loss(*args, **kwargs)
        if not self._parts and any(isinstance(p, AutoGuide) and p.prototype_trace is None for p in self.loss.modules()):
            return self.loss(*args, **kwargs)  # an AutoGuide makes its parameters when it is first called
        graph, inputs = self._graph((args, kwargs))
        if graph is None:
            return self.loss(*args, **kwargs)
        return _Replay.apply(graph, *self._trained, *self._rest, *inputs)

    def __getattr__(self, name: str) -> Any:
        """Look up attributes of the loss, too (an ELBO's module has ``model``, ``guide``, ``elbo``)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "loss":
                raise
            return getattr(self.loss, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompiledLoss:
        """Move as every module does; what was captured for another device or type is captured anew."""
        super()._apply(fn, recurse)
        self._forget()
        return self

    # ---------------------------------------------------------------- inside
    def _forget(self) -> None:
        self._graphs: dict[Any, Captured] = {}
        self._eagerly = False
        self._parts: list[nn.Module] = []

    def _graph(self, given: Any) -> tuple[Captured | None, list[Tensor]]:
        """The graph of arguments of this form, captured and compared where that is due, and their tensors."""
        inputs: list[Tensor] = []
        try:
            key = (_form(given, inputs), self._state_of_modules())
        except TypeError as error:
            return self._give_up(f"an argument is neither a tensor nor a constant ({error})"), inputs
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._capture(given, inputs)
            if graph is not None:
                self._graphs[key] = graph
        elif graph.news(inputs):
            graph = self._confirm(graph, given, inputs)
        return graph, inputs

    def _state_of_modules(self) -> tuple:
        """What the operations depend on beside the arguments: every part's mode, and which parameters are trained."""
        if not self._parts or [p.requires_grad for p in self._parameters_] != self._requires_grad:
            named = dict(self.loss.named_parameters())
            self._parameters_ = list(named.values())
            self._requires_grad = [p.requires_grad for p in self._parameters_]
            trained = {n: p for n, p in named.items() if p.requires_grad}
            rest = {n: p for n, p in named.items() if not p.requires_grad} | dict(self.loss.named_buffers())
            self._names, self._trained, self._rest = [*trained, *rest], list(trained.values()), list(rest.values())
            self._parts = list(self.loss.modules())
        return tuple(self._requires_grad), tuple([part.training for part in self._parts])

    def _function(self, given: Any, used: list[int]) -> Callable[..., list[Tensor]]:
        """The loss and its gradients as a function of tensors alone; `used` is filled when it runs."""

        def step(*tensors: Tensor) -> list[Tensor]:
            trained = tensors[: len(self._trained)]
            args, kwargs = _with_tensors(given, iter(tensors[len(names) :]))
            loss = torch.func.functional_call(self.loss, dict(zip(names, tensors, strict=False)), args, kwargs)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            used[:] = [i for i, gradient in enumerate(gradients) if gradient is not None]
            return [loss.detach(), *(gradients[i] for i in used)]

        names = self._names
        return step

    def _capture(self, given: Any, inputs: list[Tensor]) -> Captured | None:
        if len(self._graphs) >= self.shapes:
            if not self._said:
                self._said = True
                _warn(f"the arguments have had {self.shapes} shapes, each with its graph: others run eagerly")
            return None
        if _global_parameters(self.loss):
            return self._give_up("it needs pyro.settings.set(module_local_params=True) before model and guide are made")
        if any(tensor.requires_grad for tensor in inputs):
            return self._give_up("an argument requires a gradient, and the graph has only those of the parameters")
        used: list[int] = []
        step = self._function(given, used)
        expected = self._evaluate(step, inputs)
        try:
            with _capturing(), _random_state(inputs):
                graph = make_fx(step)(*self._copies(), *inputs)
            _check_shapes(graph)
            _simplify(graph)
            found = self._evaluate(partial(_run, graph), inputs)
        except Exception as error:  # whatever it is: eagerly it ran
            return self._give_up(f"it is no fixed sequence of tensor operations ({_reason(error)})")
        if difference := _difference(expected, found):
            return self._give_up(f"the graph differs from the eager loss ({difference})")
        run = self._compile(graph, inputs, expected) if self.mode == "inductor" and not self._graphs else graph
        return Captured(run, used, {i: (tensor, tensor._version) for i, tensor in enumerate(inputs)})

    def _confirm(self, graph: Captured, given: Any, inputs: list[Tensor]) -> Captured | None:
        """Compare again: a value that the graph took for a constant shows when it changes."""
        expected = self._evaluate(self._function(given, []), inputs)
        try:
            difference = _difference(expected, self._evaluate(partial(_run, graph.run), inputs))
        except Exception as error:  # a shape of the first call's
            difference = _reason(error)
        return self._give_up(f"the graph holds a value that has changed ({difference})") if difference else graph

    def _compile(
        self, graph: torch.fx.GraphModule, inputs: list[Tensor], expected: list[Tensor]
    ) -> Callable[..., list[Tensor]]:
        """Compile a graph; where that cannot be done, replay it as it is."""
        on_cpu = all(p.device.type == "cpu" for p in self._trained)
        options = {"fallback_random": True, "triton.cudagraphs": not on_cpu}
        why = "no C++ compiler was found (set CXX)" if on_cpu and not _has_compiler() else ""
        if any(node.target is torch.ops.aten.mkldnn_rnn_layer.default for node in graph.graph.nodes):
            why = "a fused recurrent layer cannot be compiled"  # its workspace is lost, after half a minute
        if not why:
            try:
                with warnings.catch_warnings(), _validation_kept():
                    warnings.simplefilter("ignore")  # of the compiler's own parts
                    run = torch.compile(graph, fullgraph=True, dynamic=False, options=options)
                    why = _difference(expected, self._evaluate(partial(_run, run), inputs))
            except Exception as error:  # uncompiled it ran
                why = _reason(error)
                if " " in torch.__file__:
                    why += "; torch's compiler fails where torch is installed in a folder with a space in its name"
        if not why:
            return run
        self.mode = "graph"
        _warn(f"mode 'graph' instead of 'inductor': {why}")
        return graph

    def _evaluate(self, function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> list[Tensor]:
        """Loss and gradients; random state, parameters and buffers stay as they are."""
        with _random_state(inputs):
            return [tensor.detach().clone() for tensor in function(*self._copies(), *inputs)]

    def _copies(self) -> list[Tensor]:
        """The modules' tensors, which a graph may write to."""
        trained = [tensor.detach().clone().requires_grad_() for tensor in self._trained]
        return trained + [tensor.detach().clone() for tensor in self._rest]

    def _give_up(self, why: str) -> None:
        self._eagerly = True
        self._graphs.clear()
        _warn(f"running eagerly: {why}")


class _Replay(torch.autograd.Function):
    """The loss from a graph, whose gradients the graph has computed already."""

    @staticmethod
    def forward(ctx: Any, graph: Captured, *tensors: Tensor) -> Tensor:
        loss, *gradients = _run(graph.run, *tensors)
        if loss.is_cuda:  # the memory of a CUDA graph is written to by its next run
            loss, gradients = loss.clone(), [gradient.clone() for gradient in gradients]
        ctx.gradients, ctx.used, ctx.n = gradients, graph.used, len(tensors)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        out: list[Tensor | None] = [None] * ctx.n
        as_they_are = not upstream.is_cuda and upstream.item() == 1.0
        gradients = ctx.gradients if as_they_are else torch._foreach_mul(ctx.gradients, upstream)
        for i, gradient in zip(ctx.used, gradients, strict=True):
            out[i] = gradient
        return (None, *out)


def _run(graph: Callable[..., list[Tensor]], *tensors: Tensor) -> list[Tensor]:
    """Run a graph: without autograd, but not under ``no_grad``, where a fused LSTM keeps nothing for its gradient."""
    with torch.enable_grad():
        return graph(*[tensor.detach() for tensor in tensors])


def mode_for(asked: str, steps: int) -> str:
    """The mode of a fit of so many steps; of the whole fit, so that a resumed one goes on in the same mode."""
    if asked != "auto":
        return asked
    return "inductor" if steps >= INDUCTOR_FROM else "graph" if steps >= GRAPH_FROM else "none"


def _form(value: Any, tensors: list[Tensor]) -> Any:
    """What a graph depends on of an argument: the form of its tensors, which are collected, and all else by value.

    Raises:
        TypeError: Something is neither a tensor nor hashable.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.dtype, value.device, value.requires_grad, value.is_contiguous()
    if isinstance(value, Mapping):
        return tuple([(name, _form(part, tensors)) for name, part in value.items()])
    if type(value) in (list, tuple):
        return type(value), *[_form(part, tensors) for part in value]
    hash(value)  # raises where it is no constant
    return type(value), value


def _with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same argument with these in place of its tensors, and dictionaries as mappings."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return {name: _with_tensors(part, tensors) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_tensors(part, tensors) for part in value)
    return value


@contextlib.contextmanager
def _random_state(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Leave the random state as it was."""
    devices = {tensor.device.index for tensor in inputs if tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield


def _validation_kept() -> contextlib.AbstractContextManager:
    """Leave the validation of arguments as it is: torch's compiler turns it off in the whole process."""
    names = ("validate_distributions_pyro", "validate_distributions_torch")
    return pyro.settings.context(**{name: pyro.settings.get(name) for name in names})


@contextlib.contextmanager
def _capturing() -> Iterator[None]:
    """Let Pyro's ELBOs be recorded: their values stay tensors, and nothing branches on them."""
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
    """`torch_item` without leaving the graph."""
    return x.detach() if isinstance(x, Tensor) else x


def _expectation(self: util.Dice, costs: Mapping[Any, Sequence[Tensor]]) -> Any:
    """`Dice.compute_expectation` where no draw of the guide has a probability factor: the sum of the costs.

    Pyro's own branches on whether probabilities are zero. Here there are none, all guide sites being reparameterised.
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


def _check_shapes(graph: torch.fx.GraphModule) -> None:
    """Refuse operations whose results have shapes that depend on values: those of the first call would stay."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
            continue
        indices = [i.meta["val"].dtype for i in node.args[1] if i is not None] if _indexes(node) else [torch.bool]
        if torch.bool in indices:
            raise NotCapturable(f"{node.target} gives shapes that depend on values; torch.where does not")


def _indexes(node: torch.fx.Node) -> bool:
    return node.target is torch.ops.aten.index.Tensor


def _simplify(graph: torch.fx.GraphModule) -> None:
    """Compute equal things once, and leave out what does nothing: replayed, every operation costs microseconds."""
    from torch._functorch.compile_utils import fx_graph_cse  # here: some 500 modules that an eager fit does without

    same = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten.detach.default)
    for node in list(graph.graph.nodes):
        if node.target in same and node.args[0].meta["val"].shape == node.meta["val"].shape:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph = fx_graph_cse(graph.graph)
    graph.recompile()


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> str:
    """Words on the first value that differs by more than rounding; empty where none does.

    By more than 1e-10 in double and 1e-5 in single precision, relative to the largest entry of each tensor; of a
    gradient that is zero but for rounding, by more than that of the largest one.
    A loss that is not finite is left to those who train.
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


def _global_parameters(module: nn.Module) -> bool:
    """Whether a part looks its parameters up in Pyro's global store, where a graph's inputs would not reach it."""
    if isinstance(module, LocalParams):
        return not module._local_params
    if isinstance(module, PyroModule):
        return not pyro.settings.get("module_local_params")
    return any(map(_global_parameters, module.children()))


def _has_compiler() -> bool:
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return False
    return True


def _reason(error: Exception) -> str:
    """One line on why a loss could not be captured or compiled, and where in the model or guide that was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    if "_local_scalar_dense" in text:
        text = "the value of a tensor is read: .item(), bool(), a branch or an index"
    library = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if library not in Path(f.filename).parents]
    own = [frame for frame in frames if frame.filename != __file__]
    where = f", {Path(own[-1].filename).name} line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {text}{where}"


def _warn(message: str) -> None:
    warnings.warn(f"compile: {message}", CompileWarning, stacklevel=2)
