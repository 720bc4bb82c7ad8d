"""The predictive part of a fit as a program of its own, which runs without Pyro and without this package."""

from __future__ import annotations

import importlib.util
import json
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....files import replacing
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ..generative import DomainGenerative, Generative
from ..guides import DeltaGuide
from ..local_guide import SD_FLOOR, PaperGuide
from ..model import AffectModel, LatentM3Sense

FACTS = "m3sense.json"  # what a program says of itself
_MOST = 1 << 20  # windows in one call


class Program(NamedTuple):
    """What `to_program` wrote.

    Attributes:
        path: Path of the file.
        bytes: Its size.
        milliseconds: Time of one window alone, on this computer [ms].
        inputs: Modality, or ``<modality>_features``, -> its shape for one window, (samples,), (samples, channels) or
            (features,), in the order of the arguments.
        classes: Task -> names of its classes, in the order of the results.

    Example:
        >>> from pathlib import Path
        >>> from pyrozoo.models.m3sense import Program
        >>> program = Program(Path("watch.pt2"), 860_353, 4.0, {"eda": (80,)}, {"stress": ["calm", "stress"]})
        >>> f"{program.bytes / 1e6:.1f} MB, reads {list(program.inputs)}"
        "0.9 MB, reads ['eda']"
    """

    path: Path
    bytes: int
    milliseconds: float
    inputs: dict[str, tuple[int, ...]]
    classes: dict[str, list[str]]


class Predictive(nn.Module):
    """Class probabilities of windows as plain torch: one tensor per input in, one (N, classes) per task out.

    Args:
        fit: Fit of a model of this entry; its best restart predicts.
        draws: Number of draws of the latents, which are part of the program.
        seed: Random seed for the draws.
    """

    loc: Tensor
    scale: Tensor
    noise: Tensor

    def __init__(self, fit: Fit, draws: int, seed: int) -> None:
        super().__init__()
        model, guide = cast(Any, fit.model), cast(Any, fit.guide)
        self.names, self.modalities = tuple(model.representation.encoders), model.modalities
        self.representation = model.representation
        self.register_buffer("loc", model.signal_loc.detach().clone())
        self.register_buffer("scale", model.signal_scale.detach().clone())
        self.latent = isinstance(model, LatentM3Sense | Generative)
        self.places = isinstance(model, Generative)
        if self.places:
            self.m, self.pi = cast(Any, model.places), cast(Any, model.class_logits)
        else:
            self.heads = cast(Any, model.classifiers)
        if self.latent:
            self.posteriors, self.point = cast(Any, guide.networks), isinstance(guide, DeltaGuide)
            with isolated(seed):
                noise = torch.randn(1 if self.point else draws, len(model.tasks), 1, model.a_dim)
            self.register_buffer("noise", noise.to(self.loc))

    def forward(self, *signals: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of every task, (N, C) each, from the inputs in the order of the model's encoders."""
        given = dict(zip(self.names, signals, strict=True))
        for i, name in enumerate(self.modalities):
            if name in given:
                given[name] = (given[name] - self.loc[i]) / self.scale[i]
        h = self.representation(given)
        return tuple(self._task(i, h[i]) for i in range(h.shape[0]))

    def _task(self, i: int, h: Tensor) -> Tensor:
        """Probabilities (N, C) of task i from its representation, (N, F)."""
        if not self.latent:
            return self.heads[i](h).softmax(-1)
        out = self.posteriors[i](h)
        if self.point:
            a = out[None]
        else:
            loc, raw = out.chunk(2, -1)
            a = loc + (SD_FLOOR + functional.softplus(raw)) * self.noise[:, i]
        if not self.places:
            return self.heads[i](a).softmax(-1).mean(0)
        logits = self.pi[i] - 0.5 * (a[..., None, :] - self.m[i]).square().sum(-1)  # of pi N(a; m, I)
        return logits.softmax(-1).mean(0)


def to_program(fit: Fit, path: str | Path, *, draws: int = 200, seed: int = 0) -> Program:
    """Write the predictive part of a fit as a program that runs without Pyro and without this package.

    A ``.pt2`` file is run by ``torch.export.load(path).module()``, an ``.onnx`` file by ONNX Runtime. A call takes a
    tensor per modality, (windows, samples) or (windows, samples, channels), or of its handcrafted features where the
    model reads these, in the order of ``inputs``, of any number of windows, standardised as those in training; it
    returns the probabilities of each task, (windows, classes). They are those of `predict` up to rounding where nothing
    is random (variants "m3sense" and "unaligned", guide "delta"); elsewhere the draws of the latents are fixed numbers
    in the program, and the difference is of two sets of draws. Inputs, classes, rates and standardisation are in the
    extra file ``m3sense.json`` of a ``.pt2`` file, and in the metadata of an ``.onnx`` file under ``m3sense.json``; in
    that file inputs are named as in ``inputs``, and results by task.

    Args:
        fit: Fit of a variant other than "generative-domain", with the guide "paper", "delta" or "none", by
            `pyrozoo.fit`; its best restart alone is written.
        path: Path of the file, whose ending is .pt2 or .onnx.
        draws: Number of draws of the latents.
        seed: Random seed for the draws.

    Returns:
        Program: Where it is, its size, its time for one window, and what goes in and comes out.

    Raises:
        ValueError: Another model or guide, a fit by `pyrozoo.cross_fitted`, a prior that decides the prediction, or
            another ending of the path.
        ImportError: ONNX Runtime and what torch needs to write its files are not installed (with .onnx).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pyrozoo as zoo, torch
        >>> from pyrozoo.models import m3sense
        >>> data = m3sense.simulate("simulated stress", n_subjects=2, n_windows=4, seconds=5.0)
        >>> sizes = {"embedding": 4, "lstm_layers": 1, "hidden": (4, 4), "head": 4}
        >>> one = {"tasks": {"stress": 3}, "modalities": ["eda"]}
        >>> model = zoo.create_model("m3sense", data, variant="unaligned", **one, **sizes)
        >>> fit = zoo.fit(model, "none", data, steps=2, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     program = m3sense.to_program(fit, Path(folder, "watch.pt2"))
        ...     run = torch.export.load(program.path).module()
        >>> program.inputs, program.classes
        ({'eda': (20,)}, {'stress': ['baseline', 'stress', 'amusement']})
        >>> (p,) = run(data["eda"])
        >>> bool(torch.allclose(p[:, 1].double(), torch.tensor(zoo.predict(fit, data)["y_stress.p[stress]"].values)))
        True
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"path: {path} ends on {path.suffix!r}; write a .pt2 (torch.export) or an .onnx file")
    _require_known(fit)
    model = cast(AffectModel, fit.model)
    inputs = {name: tuple(fit.prototype[name].shape[1:]) for name in model.representation.encoders}
    classes = {task: [str(c) for c in fit.prototype.coords[f"y_{task}_class"]] for task in model.tasks}
    facts = {
        "inputs": inputs, "classes": classes, "rates": dict(fit.prototype.info.get("rates") or {}),
        "standardised": fit.prototype.info.get("standardised"),
    }  # fmt: skip
    module = Predictive(fit, draws, seed).eval()
    example = tuple(module.loc.new_zeros(4, *shape) for shape in inputs.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes")  # an LSTM's views of its own weights
        warnings.filterwarnings("ignore", ".*treespec", FutureWarning)  # torch, of its own export to ONNX
        any_number = {0: torch.export.Dim("window", min=1, max=_MOST)}
        program = torch.export.export(module, example, dynamic_shapes={"signals": (any_number,) * len(example)})
        window = tuple(part[:1] for part in example)
        if path.suffix == ".pt2":
            with replacing(path) as temporary, open(temporary, "wb") as file:
                torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})
            seconds = _seconds(program.module(), *window)
        else:
            seconds = _seconds(_write_onnx(program, path, facts), *window)
    return Program(path, path.stat().st_size, 1000 * seconds, inputs, classes)


def _require_known(fit: Fit) -> None:
    """Raise ValueError for a fit whose predictions are no such program."""
    model, guide = fit.model, fit.guide
    if fit.law is not None:
        raise ValueError(
            "fit: it was cross-fitted, and predicts by several networks and a law, for which a program has no place; "
            "fit by pyrozoo.fit (on the command line: --no-cross-fit)"
        )
    if not isinstance(model, AffectModel) or isinstance(model, DomainGenerative):
        raise ValueError(f"fit: {type(model).__name__} cannot be written; variants other than 'generative-domain' can")
    latent = isinstance(model, LatentM3Sense | Generative)
    if latent and type(guide) not in (PaperGuide, DeltaGuide):
        raise ValueError(f"fit: the guide {fit.guide_name!r} cannot be written; fit with 'paper' or 'delta'")
    if isinstance(model, Generative) and (model.config or {}).get("priors"):
        raise ValueError("fit: its priors decide the prediction, and are not those of the entry; fit without them")


def _write_onnx(program: Any, path: Path, facts: dict[str, Any]) -> Any:
    """Write a program for ONNX Runtime, and return a function that runs the file on tensors."""
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ImportError(f"{path}: {', '.join(lacking)} not installed; pip install onnx onnxscript onnxruntime")
    from onnxruntime import InferenceSession

    found: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    for values, names in ((found.model.graph.inputs, facts["inputs"]), (found.model.graph.outputs, facts["classes"])):
        for value, name in zip(values, names, strict=True):
            value.name = name
    found.model.metadata_props[FACTS] = json.dumps(facts)
    with replacing(path) as temporary:
        found.save(str(temporary))
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda *parts: session.run(None, dict(zip(facts["inputs"], (p.cpu().numpy() for p in parts), strict=True)))


def _seconds(run: Any, *window: Tensor, rounds: int = 5) -> float:
    """Return the shortest time of a call after a first one."""
    taken = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        run(*window)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
