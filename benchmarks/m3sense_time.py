"""M3Sense: all tasks at once beside three single-task models, and one training step beside hand-written PyTorch.

README.md beside this file says what each number means.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plain_m3sense
import pyro
import torch
from plain_m3sense import PLAIN, UNKNOWN, PlainM3Sense, plain_epoch
from pyro.infer import SVI
from sections import Stopwatch, by_section
from timing import CLOCKS, alternate, options, report, summary
from torch import Tensor, nn

import pyrozoo as zoo
from pyrozoo.data.batch import Batch
from pyrozoo.inference.copies import build, default_dtype, isolated, without_denormals
from pyrozoo.inference.loop import Training
from pyrozoo.inference.losses import validation
from pyrozoo.inference.minibatches import sample_minibatches, steps_per_epoch
from pyrozoo.inference.settings import Settings
from pyrozoo.models.m3sense.data.batches import build as batch_of
from pyrozoo.models.m3sense.data.simulator import CLASSES
from pyrozoo.models.m3sense.entry import VARIANTS
from pyrozoo.models.m3sense.experiments.presets import PAPER_LATENTS, PAPER_SIZES, PRESETS
from pyrozoo.models.m3sense.generative import Generative
from pyrozoo.models.m3sense.guides import NoLatents
from pyrozoo.models.m3sense.local_guide import PaperGuide
from pyrozoo.models.m3sense.model import AffectModel
from pyrozoo.models.m3sense.uses.transferring import only_task

SWITCHED = "stress"  # the task that a task switch keeps
FOREVER = 10**9  # steps of a training that never ends, so that its learning rates stay
PARTS = ("inference", "switch", "training", "parameters", "steps", "denormals")
# Multitask preset -> the single-task preset that it is compared with.
PAIRS = {
    "M3Sense (Non-Attention)": "Non-Attention", "M3Sense (Keyless)": "Keyless", "M3Sense (HAMLET)": "HAMLET",
    "M3Sense (CAM)": "Keyless",
}  # fmt: skip
# As published: thousands of parameters (table 6, single-task models each), and milliseconds per batch of two windows on
# a P100 (table 7, single-task models together).
TABLE_6 = {
    "Non-Attention": 1110, "Keyless": 1113, "HAMLET": 1115, "M3Sense (Non-Attention)": 2244, "M3Sense (Keyless)": 2248,
    "M3Sense (HAMLET)": 2250, "M3Sense (CAM)": 2251,
}  # fmt: skip
TABLE_7 = {
    "Non-Attention": 426, "Keyless": 517, "HAMLET": 583, "M3Sense (Non-Attention)": 172, "M3Sense (Keyless)": 191,
    "M3Sense (HAMLET)": 212, "M3Sense (CAM)": 203,
}  # fmt: skip
SECTIONS = ("encoders", "fusion", "heads", "guide", "model", "loss", "backward", "clip", "optimiser", "loop")


class Sizes(NamedTuple):
    """Of the data, and constructor arguments of the models: of the presets, and of the steps beside the defaults."""

    samples: Mapping[str, int]
    batches: tuple[int, ...]
    network: Mapping[str, Any]
    latents: Mapping[str, Any]
    seconds: int
    bvp_rates: tuple[int, ...]
    windows: int
    batch_size: int
    arguments: Mapping[str, Any]


_SMALL = {"embedding": 6, "hidden": (6, 5), "head": 4}
_SMALL_LATENTS = {"a_dim": 3, "q_hidden": 4}
SIZES = {
    "quick": Sizes({"bvp": 1280, "eda": 80, "temp": 80}, (2, 64), PAPER_SIZES, PAPER_LATENTS, 20, (8, 16), 256, 64, {}),
    "smoke": Sizes(
        {"bvp": 20, "eda": 10, "temp": 10}, (2,), {**PAPER_SIZES, **_SMALL}, _SMALL_LATENTS, 5, (4,), 24, 12,
        {**_SMALL, **_SMALL_LATENTS},
    ),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    report(given, _tables(given))


def _tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    sizes, timed = SIZES[given.sizes], (given.rounds, given.clock)
    if given.profile:
        for variant in PLAIN:
            title = f"milliseconds per section of a step, {variant}, bvp at {sizes.bvp_rates[0]} Hz"
            yield title, profile(sizes, variant, *timed)
        return
    if "parameters" in given.parts:
        yield "parameters, millions", parameters(sizes)
    titles = {"inference": "inference of all tasks", "switch": "task switch", "training": "training of all tasks"}
    for what, times in (("inference", inference), ("switch", switch), ("training", training)):
        for batch in sizes.batches if what in given.parts else ():
            yield f"{titles[what]}, batches of {batch}", times(sizes, batch, *timed)
    if "denormals" in given.parts:
        yield f"a step of one task with denormals and without, batches of {sizes.batches[0]}", denormals(sizes, *timed)
    if "steps" in given.parts:
        different = pd.DataFrame({variant: disagreement(sizes, variant) for variant in PLAIN}).T
        yield "zoo and plain PyTorch in double precision: relative difference", different
        for rate in sizes.bvp_rates:
            yield f"a step, bvp at {rate} Hz", steps(sizes, rate, *timed)


# ------------------------------------------------------------------------------------------------------------ parts
def data(samples: Mapping[str, int], n: int, known: str = "own", dtype: torch.dtype = torch.float32) -> Batch:
    """Random windows; every task is known on all, or ("own") on those of its own data set, one set having no labels."""
    rng, datasets = np.random.default_rng(0), np.arange(n) % (len(CLASSES) + 1)
    codes = {task: np.arange(n) // (len(CLASSES) + 1) % len(names) for task, names in CLASSES.items()}
    return batch_of(
        {name: 2.0 * rng.normal(size=(n, length)) + 1.0 for name, length in samples.items()},
        np.char.add("set ", datasets.astype(str)), np.char.add("S", datasets.astype(str)),
        {
            task: (names, np.where((datasets == i) | (known == "all"), codes[task], -1))
            for i, (task, names) in enumerate(CLASSES.items())
        },
        dtype, name="random", simulated=True,
    )  # fmt: skip


def quick_samples(sizes: Sizes, rate: int) -> dict[str, int]:
    return {"bvp": rate * sizes.seconds, "eda": 4 * sizes.seconds, "temp": 4 * sizes.seconds}


def model_for(train: Batch, variant: str, **arguments: Any) -> AffectModel:
    kind = VARIANTS[variant]
    return kind(**{**kind.sizes_from(train), **arguments})


def zoo_training(model: AffectModel, train: Batch, batch_size: int, **settings: Any) -> Training:
    """A training as `pyrozoo.fit` sets it up, with the entry's own settings, on fresh copies."""
    with isolated(0):
        own, guide = build(model, PaperGuide if model.row_sites else NoLatents)
        options = Settings.resolve(own, guide, {"steps": FOREVER, "batch_size": batch_size, **settings})
        return Training(own, guide, train, None, options, 0, None)


# ----------------------------------------------------------------------------------- three tasks beside single tasks
def preset(name: str, train: Batch, sizes: Sizes, task: str | None = None) -> AffectModel:
    """A model of the paper's tables, of all tasks or of one."""
    given = {**PRESETS[name], **sizes.network}
    if given["variant"] == "m3sense":
        given |= sizes.latents
    return model_for(train, **given, **({} if task is None else {"tasks": {task: len(CLASSES[task])}}))


def presets(sizes: Sizes, n: int) -> dict[str, list[Training]]:
    """Trainings by preset, one for all tasks or one per task, on the same n windows, which are one minibatch."""
    train = data(sizes.samples, n, "all")
    tasks = {name: [None] for name in PAIRS} | {name: list(CLASSES) for name in PAIRS.values()}
    return {name: [zoo_training(preset(name, train, sizes, t), train, n) for t in of] for name, of in tasks.items()}


def logits(model: AffectModel, batch: Batch) -> list[Tensor]:
    """Logits of all tasks of a model."""
    h = model.encode(**batch)
    return [classifier(h[i]) for i, classifier in enumerate(model.classifiers)]


def inference(sizes: Sizes, n: int, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds for the logits of all tasks of n windows, in evaluation mode and without gradients."""
    found = presets(sizes, n)
    for model in (each.loss.model for trainings in found.values() for each in trainings):
        model.eval()

    def run(trainings: list[Training]) -> Callable[[], Any]:
        return lambda: [logits(each.loss.model, each.train) for each in trainings]

    with torch.no_grad():
        return _pairs(alternate({name: run(trainings) for name, trainings in found.items()}, rounds, clock))


def switch(sizes: Sizes, n: int, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds for the logits of n windows: all tasks, one kept by `only_task`, and a model of one task."""
    lines = {}
    for name, single in PAIRS.items():
        train = data(sizes.samples, n, "all")
        arguments = PRESETS[name] | sizes.network | sizes.latents
        model = zoo.create_model("m3sense", train, **arguments)
        fit = zoo.fit(model, "paper", train, steps=1, progress=False)
        models = {
            "all": fit.model, "one": only_task(fit, SWITCHED).model, "single": preset(single, train, sizes, SWITCHED),
        }  # fmt: skip
        for model in models.values():
            model.eval()
        with torch.no_grad():
            runs = {which: functools.partial(logits, model, train) for which, model in models.items()}
            table = summary(alternate(runs, rounds, clock), "all")
        lines[name] = {
            "all_ms": table["min_ms"]["all"], "one_ms": table["min_ms"]["one"], "ratio": table["ratio"]["one"],
            "ratio_rounds": table["ratio_rounds"]["one"], "single-task model": table["ratio"]["single"],
        }  # fmt: skip
    return pd.DataFrame(lines).T


def training(sizes: Sizes, n: int, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds for a step of every model on the same n windows, labelled for all tasks."""

    def run(trainings: list[Training]) -> Callable[[], Any]:
        return lambda: [each._one_epoch() for each in trainings]

    variants = {name: run(trainings) for name, trainings in presets(sizes, n).items()}
    return _pairs(alternate(variants, rounds, clock))


def denormals(sizes: Sizes, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds for a step of a single-task model with denormal numbers and, as in `pyrozoo.fit`, without.

    ``difference``: of the weights after all rounds, relative to the largest entry of each parameter.
    """
    n, lines = sizes.batches[0], {}
    train = data(sizes.samples, n, "all")
    for name in ("Non-Attention", "Keyless"):
        kept, flushed = (zoo_training(preset(name, train, sizes, SWITCHED), train, n) for _ in range(2))
        compared = {"kept": kept._one_epoch, "flushed": without_denormals()(flushed._one_epoch)}
        table = summary(alternate({way: _seeded(step) for way, step in compared.items()}, rounds, clock), "kept")
        pairs = zip(kept.loss.state_dict().values(), flushed.loss.state_dict().values(), strict=True)
        lines[name] = {
            "kept_ms": table["min_ms"]["kept"], "flushed_ms": table["min_ms"]["flushed"],
            "ratio": table["ratio"]["flushed"], "ratio_rounds": table["ratio_rounds"]["flushed"],
            "difference": max(float((own - other).abs().max() / (own.abs().max() + 1e-30)) for own, other in pairs),
        }  # fmt: skip
    return pd.DataFrame(lines).T


def _seeded(step: Callable[[], Any]) -> Callable[[], Any]:
    """The same step, each time with the next seed, so that two trainings that alternate draw alike."""
    seeds = itertools.count()

    def seeded() -> Any:
        with isolated(next(seeds)):
            return step()

    return seeded


def _pairs(seconds: pd.DataFrame) -> pd.DataFrame:
    """The models of all tasks beside three of one task, and the published ratio."""
    lines = {}
    for several, single in PAIRS.items():
        table = summary(seconds[[single, several]], single)
        lines[several] = {
            "singles_ms": table["min_ms"][single], "ms": table["min_ms"][several], "ratio": table["ratio"][several],
            "ratio_rounds": table["ratio_rounds"][several], "published": TABLE_7[several] / TABLE_7[single],
        }  # fmt: skip
    return pd.DataFrame(lines).T


def parameters(sizes: Sizes) -> pd.DataFrame:
    """Millions of parameters, guide included, beside those published."""
    count = {
        name: sum(p.numel() for each in trainings for p in each.loss.parameters()) / 1e6
        for name, trainings in presets(sizes, 2).items()
    }
    lines = {}
    for several, single in PAIRS.items():
        lines[several] = {
            "single": count[single] / len(CLASSES), "singles": count[single], "multitask": count[several],
            "ratio": count[several] / count[single], "published single": TABLE_6[single] / 1e3,
            "published multitask": TABLE_6[several] / 1e3, "published ratio": TABLE_6[several] / (3 * TABLE_6[single]),
        }  # fmt: skip
    return pd.DataFrame(lines).T


# ------------------------------------------------------------------------------------------------------------ steps
def plain_copy(own: Training) -> PlainM3Sense:
    """The hand-written model with the networks and weights of the zoo's."""
    model, guide, variant = own.loss.model, own.loss.guide, own.loss.model.entry[1]
    networks = {name: getattr(model, name) for name in ("representation", *PLAIN[variant].uses)}
    return PLAIN[variant](
        copy.deepcopy({**networks, "posteriors": guide.networks}), model.gamma, own.train.sizes["window"]
    )


def plain_data(own: Training) -> dict[str, Any]:
    """Standardised signals, labels and summaries, as `PlainM3Sense` takes them."""
    model, train = own.loss.model, own.train
    signals = {
        name: (train[name] - model.signal_loc[i]) / model.signal_scale[i] for i, name in enumerate(model.modalities)
    }
    labels = tuple(train[y].where(train[mask], UNKNOWN) for y, mask in train.labels.items())
    return {"signals": signals, "labels": labels, "summaries": Generative.summaries(model, train)}


def plain_variant(own: Training) -> tuple[PlainM3Sense, Callable[[], None]]:
    plain = plain_copy(own)
    return plain, plain_epoch(plain, **plain_data(own), batch_size=own.options.batch_size)


def step_training(
    sizes: Sizes, variant: str, rate: int, dtype: torch.dtype = torch.float32,
    settings: Mapping[str, Any] | None = None, **more: Any,
) -> Training:  # fmt: skip
    train = data(quick_samples(sizes, rate), sizes.windows, "own", dtype)
    model = model_for(train, variant, **{**sizes.arguments, **more})
    model.entry = ("m3sense", variant)
    return zoo_training(model, train, sizes.batch_size, **(settings or {}))


def disagreement(sizes: Sizes, variant: str) -> dict[str, float]:
    """Largest relative difference of loss, gradients, and weights after an epoch, between zoo and hand-written model.

    In double precision, with the same weights, and with the same noise: with the same seed, since a_T is all that
    either draws. Loss and gradients: in evaluation mode, on all windows; a gradient's difference is relative to the
    parameter's largest entry. Weights: without dropout, since the zoo's "m3sense" draws a_T, too, and the hand-written
    one does not; the difference is relative to the largest change of the parameter. Left out are those before a batch
    norm, whose gradients in training are rounding noise alone, which Adam enlarges.
    """
    with default_dtype(torch.float64):
        own = step_training(sizes, variant, sizes.bvp_rates[0], torch.float64, dropout=0.0, lstm_dropout=0.0)
        loss = own.loss.eval()
        with isolated(2), torch.no_grad():
            for parameter in loss.parameters():  # away from initial values, some of which are 0
                parameter += 0.1 * torch.randn_like(parameter)
        plain, epoch = plain_variant(own)
        plain.eval()
        with isolated(1):
            zoo_loss = loss(own.train)
        with isolated(1):
            plain_loss = plain(**plain_data(own))
        zoo_loss.backward()
        plain_loss.backward()
        twins, before = _twins(plain, own), [p.detach().clone() for p in plain.parameters()]
        gradients = [_relative(p.grad, zoo.grad, zoo.grad) for p, zoo in twins]
        with isolated(1):
            own._one_epoch()
        with isolated(1):
            epoch()
    sizes_of = [float(p.grad.abs().max()) for p, _ in twins]
    weights = [
        _relative(p, zoo, zoo - old)
        for (p, zoo), old, size in zip(twins, before, sizes_of, strict=True)
        if size > 1e-8 * max(sizes_of)
    ]
    difference = abs(float(plain_loss.detach() / zoo_loss.detach()) - 1)
    return {"loss": difference, "gradients": max(gradients), "weights": max(weights)}


def _relative(own: Tensor, zoo: Tensor, scale: Tensor) -> float:
    return float((own - zoo).detach().abs().max() / scale.detach().abs().max())


def _twins(plain: PlainM3Sense, own: Training) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """The parameters of the hand-written model, each with the zoo's."""
    zoo = {name.removeprefix("model."): p for name, p in own.loss.named_parameters()}
    zoo = {name.replace("guide.networks", "posteriors"): p for name, p in zoo.items()}
    mine = dict(plain.named_parameters())
    if set(mine) != set(zoo):
        raise ValueError(f"parameters of one side only: {sorted(set(mine) ^ set(zoo))}")
    return [(p, zoo[name]) for name, p in mine.items()]


def svi_epoch(own: Training, arguments: Mapping[str, Any]) -> Callable[[], None]:
    """Pyro's ``SVI.step`` on the zoo's model and guide, as Pyro comes, on minibatches of one epoch, drawn before.

    Model and guide each compute the representation.
    """
    batches = list(sample_minibatches(own.train, own.options.batch_size, torch.Generator().manual_seed(0)))
    store = pyro.get_param_store()
    with store.scope() as state:
        model = model_for(own.train, own.loss.model.entry[1], **arguments)
        guide = PaperGuide(model)
        optimizer = pyro.optim.Adam({"lr": 1e-3, "weight_decay": 1e-4})
        svi = SVI(model, guide, optimizer, model.elbo())

    def epoch() -> None:
        with store.scope(state), validation(True):
            for batch in batches:
                svi.step(**batch)

    return epoch


def steps(sizes: Sizes, rate: int, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds per step, the mean over an epoch, and ratios to the hand-written step of the same variant."""
    runs: dict[str, dict[str, Callable[[], Any]]] = {}
    for variant in PLAIN:
        own = step_training(sizes, variant, rate)
        runs[variant] = {
            f"zoo, {variant}": own._one_epoch,
            f"Pyro SVI.step, {variant}": svi_epoch(own, sizes.arguments),
            f"plain PyTorch, {variant}": plain_variant(own)[1],
        }
        n_steps = steps_per_epoch(own.train, sizes.batch_size)
    every = {name: run for variants in runs.values() for name, run in variants.items()}
    seconds = alternate(every, rounds, clock) / n_steps
    return pd.concat(
        [summary(seconds[list(variants)], f"plain PyTorch, {variant}") for variant, variants in runs.items()]
    )


# ---------------------------------------------------------------------------------------------------------- profile
def profile(sizes: Sizes, variant: str, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds per step and section (minimum over the rounds); "beyond" is the zoo less the hand-written step."""
    watch, own = Stopwatch(CLOCKS[clock]), step_training(sizes, variant, sizes.bvp_rates[0])
    plain, plain_one = plain_variant(own)
    epochs = {"zoo": own._one_epoch, "plain": plain_one}
    n_steps = steps_per_epoch(own.train, sizes.batch_size)
    return by_section(watch, epochs, _watched(own, plain), SECTIONS, rounds, n_steps)


def _watched(own: Training, plain: PlainM3Sense) -> list[tuple[Any, str, str]]:
    model, guide = own.loss.model, own.loss.guide
    functions: list[tuple[Any, str, str]] = [
        (model, "forward", "model"), (model, "encode", "model"), (guide, "forward", "guide"),
        (own.loss, "forward", "loss"), (plain, "forward", "loss"), (torch.Tensor, "backward", "backward"),
        (own, "_clip", "clip"), (plain_m3sense, "clip", "clip"),
    ]  # fmt: skip
    for side, posteriors in ((model, guide.networks), (plain, plain.posteriors)):
        functions += [(encoder, "forward", "encoders") for encoder in side.representation.encoders.values()]
        functions += [(side.representation, "forward", "fusion"), (side.representation.fusion, "forward", "fusion")]
        heads = [*side.representation.heads, *posteriors, *getattr(side, "classifiers", [])]
        heads += [side.decoder] if hasattr(side, "decoder") else []
        functions += [(head, "forward", "heads") for head in heads]
    return functions


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, "one call or one epoch per variant")
    parser.add_argument("--sizes", choices=list(SIZES), default="quick", help="of data and networks (default: quick)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    return parser


if __name__ == "__main__":
    main()
