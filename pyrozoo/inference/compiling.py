"""Compiled losses: the loss of a model and guide and its gradients, captured once as a graph of tensor operations.

A step of SVI spends much of its time in Python: messengers, traces, distributions. For one shape of the batch it is
always the same tensor operations, so they are recorded once (`torch.fx.experimental.proxy_tensor.make_fx`, with the
backward pass) and then replayed as they are (mode "graph") or compiled (mode "inductor"). Random draws are part of the
graph: under the same random state it gives what Pyro gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import make_fx

from .graphs import (
    capturing,
    check_shapes,
    compared,
    form_of,
    global_parameters,
    has_compiler,
    random_state_kept,
    reason_of,
    simplify,
    validation_kept,
    with_tensors,
)

MODES = ("none", "graph", "inductor", "auto")


SHAPES = 8  # shapes of the batch for which a graph is captured; with more, capturing costs more than it saves


GRAPH_FROM, INDUCTOR_FROM = 1_500, 5_000  # number of steps from which a mode pays off, see benchmarks/README.md


class CompileWarning(UserWarning):
    """Warning: a loss runs eagerly, or in a simpler mode than was requested; the message says why.

    Example:
        >>> import warnings
        >>> import pyrozoo as zoo
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(50))
        >>> model = zoo.create_model("ssmtl", data)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", zoo.CompileWarning)  # fail rather than run eagerly
        ...     fit = zoo.fit(model, "delta", data, steps=2, compile="none", progress=False)
        >>> fit.status
        'finished'
    """


@dataclass
class Captured:
    """The graph for one shape of the arguments.

    Attributes:
        run: ``(*trained parameters, *other parameters and buffers, *inputs) -> [loss, *gradients]``, with the gradients
            of those parameters on which the loss depends.
        used: Positions of those parameters.
        constant: Position -> (tensor, version) for inputs that have been the same tensor, unchanged, in every call so
            far: the graph might hold their values as constants.
        calls: Number of calls so far, including the one that captured the graph.
    """

    run: Callable[..., list[Tensor]]
    used: list[int]
    constant: dict[int, tuple[Tensor, int]]
    calls: int = 1

    def news(self, inputs: Sequence[Tensor]) -> bool:
        """Whether this call can reveal an error in the graph that earlier ones could not: new parameters or new inputs.

        Args:
            inputs: Tensors among the arguments of the call.
        """
        changed = [i for i, (old, version) in self.constant.items() if inputs[i] is not old or old._version != version]
        for i in changed:
            del self.constant[i]
        self.calls += 1
        return bool(changed) or self.calls == 2


class CompiledLoss(nn.Module):
    """A drop-in for ``elbo(model, guide)`` that runs without Pyro's overhead: the same loss, the same gradients.

    The first call with a new shape of the arguments captures a graph; later ones replay it. Tensors among the
    arguments are inputs of the graph, everything else is a constant of it (a changing number, e.g. an annealed weight,
    should be a tensor). Every graph is compared with the eager loss under the same random state: when it is captured,
    when the parameters have changed, and when the inputs are other tensors. If they differ, or if the loss cannot be
    captured, the loss runs eagerly and a `CompileWarning` says why. Without gradients (``torch.no_grad``) it always
    runs eagerly.

    What can be captured: a fixed sequence of tensor operations on parameters of the modules. A guide whose latents are
    all reparameterised; discrete latents of the model that `TraceEnum_ELBO` sums out; any number of particles. No
    branch or index that depends on a value, no NumPy, no ``pyro.param``. Pyro's validation cannot see into a graph, and
    runs only in calls that compare. Gradients of gradients are not available.

    Args:
        loss: A module whose call returns the loss: ``elbo(model, guide)``, under ``module_local_params``.
        mode: "graph": replay the operations one by one. "inductor": compile them by torch's compiler, which takes from
            ten seconds to minutes and needs a C++ compiler; on a GPU the step is one CUDA graph. Only the first shape
            is compiled; others (the ragged end of an epoch) are replayed. If compiling fails, mode "graph" is used.
        shapes: Maximum number of shapes to capture; further ones run eagerly.

    Raises:
        ValueError: Another mode.

    Example:
        >>> import pyro, torch
        >>> import pyrozoo as zoo
        >>> from pyro.infer import Trace_ELBO
        >>> data = zoo.load_data("ssmtl", "dryer").subset(range(100))
        >>> with pyro.settings.context(module_local_params=True):  # before model and guide are made
        ...     model = zoo.create_model("ssmtl", data, variant="mtl", width=16)
        ...     guide = zoo.create_guide(model, "paper")
        ...     loss = zoo.CompiledLoss(Trace_ELBO()(model, guide), mode="graph")
        ...     optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
        ...     values = []
        ...     for step in range(30):
        ...         optimizer.zero_grad()
        ...         value = loss(**data)
        ...         value.backward()
        ...         optimizer.step()
        ...         values.append(value.item())
        >>> values[-1] < values[0]
        True
    """

    def __init__(self, loss: nn.Module, mode: str = "inductor", shapes: int = SHAPES) -> None:
        super().__init__()
        if mode not in ("graph", "inductor"):
            raise ValueError(f"mode: {mode!r} is none of ['graph', 'inductor']")
        self.loss, self.mode, self.shapes, self._said = loss, mode, shapes, False
        self._forget()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss for these arguments; its backward pass gives the gradients."""
        graph, inputs = self._graph((args, kwargs)) if torch.is_grad_enabled() else (None, [])
        if graph is None:
            return self.loss(*args, **kwargs)
        return _Replay.apply(graph, *self._trained, *self._rest, *inputs)

    def __getattr__(self, name: str) -> Any:
        """Look up an attribute here, then in the loss (an ELBO's module has ``model``, ``guide``, ``elbo``)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "loss":
                raise
            return getattr(self.loss, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompiledLoss:
        """Like ``nn.Module._apply``; graphs are captured anew for the new device or type."""
        super()._apply(fn, recurse)
        self._forget()
        return self

    # ---------------------------------------------------------------- inside
    def _forget(self) -> None:
        self._graphs: dict[Any, Captured] = {}
        self._eagerly = False
        self._parts: list[nn.Module] = []

    def _graph(self, given: Any) -> tuple[Captured | None, list[Tensor]]:
        """Graph for arguments of this form, captured and compared if needed, and the tensors among the arguments.

        None instead of the graph: this call runs eagerly.
        """
        inputs: list[Tensor] = []
        if self._eagerly:
            return None, inputs
        if not self._parts and any(isinstance(p, AutoGuide) and p.prototype_trace is None for p in self.loss.modules()):
            return None, inputs  # an AutoGuide makes its parameters when it is first called
        try:
            key = (form_of(given, inputs), self._state_of_modules())
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
            self._parameters_: list[nn.Parameter] = list(named.values())
            self._requires_grad: list[bool] = [p.requires_grad for p in self._parameters_]
            trained = {n: p for n, p in named.items() if p.requires_grad}
            rest = {n: p for n, p in named.items() if not p.requires_grad} | dict(self.loss.named_buffers())
            self._names, self._trained, self._rest = [*trained, *rest], list(trained.values()), list(rest.values())
            self._parts = list(self.loss.modules())
        return tuple(self._requires_grad), tuple([part.training for part in self._parts])

    def _function(self, given: Any, used: list[int]) -> Callable[..., list[Tensor]]:
        """The loss and its gradients as a function of tensors alone; running it fills `used`."""

        def step(*tensors: Tensor) -> list[Tensor]:
            trained = tensors[: len(self._trained)]
            args, kwargs = with_tensors(given, iter(tensors[len(names) :]))
            loss = torch.func.functional_call(self.loss, dict(zip(names, tensors, strict=False)), args, kwargs)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            used[:] = [i for i, gradient in enumerate(gradients) if gradient is not None]
            return [loss.detach(), *self._outputs([gradients[i] for i in used])]

        names = self._names
        return step

    def _outputs(self, gradients: list[Tensor]) -> list[Tensor]:
        """What a graph gives beside the loss."""
        return gradients

    def _capture(self, given: Any, inputs: list[Tensor]) -> Captured | None:
        if len(self._graphs) >= self.shapes:
            if not self._said:
                self._said = True
                _warn(f"the arguments have had {self.shapes} shapes, each with its graph: others run eagerly")
            return None
        if global_parameters(self.loss):
            return self._give_up("it needs pyro.settings.set(module_local_params=True) before model and guide are made")
        if any(tensor.requires_grad for tensor in inputs):
            return self._give_up("an argument requires a gradient, and the graph has only those of the parameters")
        used: list[int] = []
        step = self._function(given, used)
        expected = self._evaluate(step, inputs)
        try:
            with capturing(), random_state_kept(inputs):
                graph = make_fx(step)(*self._copies(), *inputs)
            check_shapes(graph)
            simplify(graph)
            found = self._evaluate(partial(_run, graph), inputs)
        except Exception as error:  # whatever it is: eagerly it ran
            return self._give_up(f"it is no fixed sequence of tensor operations ({reason_of(error)})")
        if difference := compared(expected, found):
            return self._give_up(f"the graph differs from the eager loss ({difference})")
        run = self._compile(graph, inputs, expected) if self.mode == "inductor" and not self._graphs else graph
        return Captured(run, used, {i: (tensor, tensor._version) for i, tensor in enumerate(inputs)})

    def _confirm(self, graph: Captured, given: Any, inputs: list[Tensor]) -> Captured | None:
        """Compare with the eager loss again: a value that the graph took for a constant shows when it changes."""
        expected = self._evaluate(self._function(given, []), inputs)
        try:
            difference = compared(expected, self._evaluate(partial(_run, graph.run), inputs))
        except Exception as error:  # a shape of the first call's
            difference = reason_of(error)
        return self._give_up(f"the graph holds a value that has changed ({difference})") if difference else graph

    def _compile(
        self, graph: torch.fx.GraphModule, inputs: list[Tensor], expected: list[Tensor]
    ) -> Callable[..., list[Tensor]]:
        """Compile a graph; if that fails, replay it as it is."""
        on_cpu = all(p.device.type == "cpu" for p in self._trained)
        options: dict[str, str | int | bool | Callable[..., Any]]
        options = {"fallback_random": True, "triton.cudagraphs": not on_cpu}
        why = "no C++ compiler was found (set CXX)" if on_cpu and not has_compiler() else ""
        if any(node.target is torch.ops.aten.mkldnn_rnn_layer.default for node in graph.graph.nodes):
            why = "a fused recurrent layer cannot be compiled"  # it loses its workspace, after half a minute
        if not why:
            try:
                with warnings.catch_warnings(), validation_kept():
                    warnings.simplefilter("ignore")  # of the compiler's own parts
                    if on_cpu:  # spares the guards on its tensors, whose form is known
                        run = torch._inductor.compile(graph, [t.detach() for t in (*self._copies(), *inputs)], options)
                    else:
                        run = torch.compile(graph, fullgraph=True, dynamic=False, options=options)
                    why = compared(expected, self._evaluate(partial(_run, run), inputs))
            except Exception as error:  # uncompiled it ran
                why = reason_of(error)
                if " " in torch.__file__:
                    why += "; torch's compiler fails where torch is installed in a folder with a space in its name"
        if not why:
            return run
        self.mode = "graph"
        _warn(f"mode 'graph' instead of 'inductor': {why}")
        return graph

    def _evaluate(self, function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> list[Tensor]:
        """Evaluate loss and gradients; random state, parameters and buffers stay as they are."""
        with random_state_kept(inputs):
            return [tensor.detach().clone() for tensor in function(*self._copies(), *inputs)]

    def _copies(self) -> list[Tensor]:
        """Copies of the modules' tensors, because a graph may write to them."""
        trained = [tensor.detach().clone().requires_grad_() for tensor in self._trained]
        return trained + [tensor.detach().clone() for tensor in self._rest]

    def _give_up(self, why: str) -> Captured | None:
        """Run eagerly from now on; there is no graph, whatever was captured before."""
        self._eagerly = True
        self._graphs.clear()
        _warn(f"running eagerly: {why}")
        return None


class CompiledStep(CompiledLoss):
    """All of a step but the optimiser's part as one graph, without autograd: loss, gradients, their norm, clipping.

    Args:
        loss: As of `CompiledLoss`.
        mode: As of `CompiledLoss`.
        clip: Maximum norm of the gradient; None for no clipping.
    """

    def __init__(self, loss: nn.Module, mode: str, clip: float | None) -> None:
        super().__init__(loss, mode)
        self.clip = clip

    def forward(self, *args: Any) -> Tensor:
        """The loss for these arguments, run eagerly."""
        return self.loss(*args)

    def gradients(self, *args: Any) -> tuple[Tensor, Tensor] | None:
        """Give the parameters their gradients.

        Returns:
            The loss and the norm of the gradient before clipping; None, and no gradients, where it must run eagerly.
        """
        graph, inputs = self._graph((args, {}))
        if graph is None:
            return None
        for parameter in self._trained:
            parameter.grad = None  # also because the next run of a CUDA graph overwrites its memory
        loss, norm, *gradients = _run(graph.run, *self._trained, *self._rest, *inputs)
        for i, gradient in zip(graph.used, gradients, strict=True):
            self._trained[i].grad = gradient
        return loss, norm

    def _outputs(self, gradients: list[Tensor]) -> list[Tensor]:
        norm, factor = norm_and_factor(gradients, self.clip)
        return [norm, *(gradients if factor is None else [gradient * factor for gradient in gradients])]


class _Replay(torch.autograd.Function):
    """The loss from a graph, whose gradients the graph has computed already."""

    @staticmethod
    def forward(ctx: Any, graph: Captured, *tensors: Tensor) -> Tensor:
        loss, *gradients = _run(graph.run, *tensors)
        if loss.is_cuda:  # the next run of a CUDA graph overwrites its memory
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


def norm_and_factor(gradients: Sequence[Tensor], clip: float | None) -> tuple[Tensor, Tensor | None]:
    """Norm of the gradient, and the factor that clips it to `clip`: None without clipping, 1 if it is not finite.

    Of a sparse gradient only its values count.
    """
    norm = nn.utils.get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])
    if clip is None:
        return norm, None
    return norm, torch.where(norm.isfinite(), (clip / (norm + 1e-6)).clamp(max=1.0), 1.0)


def _run(graph: Callable[..., list[Tensor]], *tensors: Tensor) -> list[Tensor]:
    """Run a graph without autograd, but not under ``no_grad``, where a fused LSTM keeps nothing for its gradient."""
    with torch.enable_grad():
        return graph(*[tensor.detach() for tensor in tensors])


def mode_for(asked: str, steps: int) -> str:
    """Choose the compile mode from the total (not remaining) number of steps, so that a resumed fit uses the same mode.

    Args:
        asked: Mode of the settings; only "auto" leaves a choice.
        steps: Number of steps of the whole fit.
    """
    if asked != "auto":
        return asked
    return "inductor" if steps >= INDUCTOR_FROM else "graph" if steps >= GRAPH_FROM else "none"


def _warn(message: str) -> None:
    warnings.warn(f"compile: {message}", CompileWarning, stacklevel=2)
