"""Compiled SVI steps beside eager Pyro, hand-written PyTorch, NumPyro's compiled step and the matrix products alone.

README.md beside this file says what each number means.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import auxvae_step
import m3sense_time
import pandas as pd
import pyro
import torch
import torch._inductor.config
import vae
import variants
from pyro.infer import SVI, Trace_ELBO
from sections import Stopwatch, by_section
from timing import CLOCKS, alternate, options, report, summary
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from vae import Product, floor

import pyrozoo.inference.compiling
import pyrozoo.inference.loop
from pyrozoo.data.batch import Batch
from pyrozoo.inference.compiling import CompiledLoss, CompiledStep
from pyrozoo.inference.copies import isolated
from pyrozoo.inference.loop import Training
from pyrozoo.inference.losses import validation
from pyrozoo.inference.minibatches import steps_per_epoch
from pyrozoo.models.ssmtl.guides import PaperGuide

MODES = ("none", "graph", "inductor")
PARTS = ("ssmtl", "auxvae", "m3sense", "vae", *(("gpu",) if torch.cuda.is_available() else ()))
ROWS = {"quick": 500, "smoke": 20}
WIDTH = {"quick": 200, "smoke": 8}
VAE = {"quick": vae.TUTORIAL, "smoke": vae.Sizes(8, 12, 6, 3)}
UNITS = {"quick": 50, "smoke": 2}
STEPS = 20  # per round and variant
SECTIONS = ("minibatch", "graph", "around it", "networks", "loss", "backward", "optimiser", "loop")

Variants = dict[str, Callable[[], Any]]


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    # Costs of compiling are those of a first time.
    with torch._inductor.config.patch(force_disable_caches=True):
        report(given, _tables(given))


def _tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    if given.profile:
        table = profile(given.sizes, given.rounds, given.clock)
        yield "ssmtl: milliseconds per section of a step, mode inductor and plain PyTorch", table
        return
    if "ssmtl" in given.parts:
        yield "ssmtl: zoo, plain PyTorch and NumPyro in double precision", disagreement(given.sizes)
    makers = {"ssmtl": ssmtl, "auxvae": auxvae, "m3sense": m3sense, "vae": plain_vae, "gpu": on_device}
    for part in given.parts:
        with pyro.get_param_store().scope():
            compared, steps = makers[part](given.sizes)
            yield f"{part}: first steps", costs(compared, steps, CLOCKS[given.clock])
            seconds = alternate(compared, given.rounds, given.clock)
            for name, number in steps.items():
                seconds[name] /= number
        table = summary(seconds, "plain PyTorch")
        eager = next(name for name in ("Pyro ELBO, eager", "zoo, none") if name in compared)
        yield f"{part}: a step", table.assign(**{f"to {eager}": table["min_ms"] / table["min_ms"][eager]})


# ------------------------------------------------------------------------------------------------------------ parts
def ssmtl(size: str) -> tuple[Variants, dict[str, int]]:
    """500 rows, three networks of 200 x 2, one particle."""
    rows = ROWS[size]
    train = variants.data(rows, UNITS[size])
    model, batch = variants.model_for(train, WIDTH[size]), variants.first_minibatch(train, rows)
    trainings = {mode: variants.zoo_training(model, train, rows, compile=mode) for mode in MODES}
    plain, plain_one = variants.plain_variant(trainings["none"], rows, 1)
    layers = [layer for layer in plain.modules() if isinstance(layer, nn.Linear)]
    first = {id(net[0]) for net in (plain.g_y,)}  # its inputs are data and contexts
    products = [Product(rows, layer.in_features, layer.out_features, id(layer) in first) for layer in layers]
    out: Variants = {f"zoo, {mode}": training._one_epoch for mode, training in trainings.items()}
    out["Pyro ELBO, eager"] = _repeat(_step(_pyro_ssmtl(train, size), (), batch))
    for mode in MODES[1:]:
        out[f"CompiledLoss, {mode}"] = _repeat(_step(CompiledLoss(_pyro_ssmtl(train, size), mode), (), batch))
    out["Pyro SVI.step"] = _repeat(variants.svi_step(model, batch, 1), checked=True)
    out["plain PyTorch"] = _repeat(plain_one)
    try:
        import numpyro_ssmtl
    except ImportError:
        print("NumPyro is left out: pip install -c constraints.txt -e '.[bench]'")
    else:
        numpyro = numpyro_ssmtl.numpyro_variant(trainings["none"], rows, 1)[1]
        looped = numpyro_ssmtl.numpyro_variant(trainings["none"], rows, 1)[0]
        out |= {"NumPyro, jitted step": _repeat(numpyro), "NumPyro, 20 steps in one scan": lambda: looped.steps(STEPS)}
    out["matrix products alone"] = _repeat(floor(products))
    return out, dict.fromkeys(out, STEPS)


def _pyro_ssmtl(train: Batch, size: str) -> nn.Module:
    with isolated(0):
        model = variants.model_for(train, WIDTH[size])
        return Trace_ELBO()(model, PaperGuide(model))


def auxvae(size: str) -> tuple[Variants, dict[str, int]]:
    """64 trials of 22 people, styles known on some; the unloaded walks of those that are there have changing shapes."""
    sizes = auxvae_step.SIZES[size]
    train = auxvae_step.data(sizes, "some")
    trainings = {mode: auxvae_step.zoo_training(train, sizes, compile=mode) for mode in MODES}
    plain_epoch = auxvae_step.plain_variant(trainings["none"], "some")[1]
    return _epochs(trainings, auxvae_step.svi_epoch(train, sizes), plain_epoch)


def m3sense(size: str) -> tuple[Variants, dict[str, int]]:
    """64 windows of three signals, bvp at 8 Hz."""
    sizes = m3sense_time.SIZES[size]
    rate = sizes.bvp_rates[0]
    trainings = {mode: m3sense_time.step_training(sizes, "m3sense", rate, settings={"compile": mode}) for mode in MODES}
    own = trainings["none"]
    return _epochs(trainings, m3sense_time.svi_epoch(own, sizes.arguments), m3sense_time.plain_variant(own)[1])


def plain_vae(size: str) -> tuple[Variants, dict[str, int]]:
    """A VAE of binary images, 784-400-50, 256 images, as in Pyro's examples: no part of the zoo but `CompiledLoss`."""
    model, guide, args = vae.pyro_vae(VAE[size])
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    out = {"Pyro ELBO, eager": _repeat(_step(_pyro_vae(size), args), local=True)}
    for mode in MODES[1:]:
        out[f"CompiledLoss, {mode}"] = _repeat(_step(CompiledLoss(_pyro_vae(size), mode), args), local=True)
    out |= {
        "Pyro SVI.step": _repeat(lambda: svi.step(*args), True),
        "plain PyTorch": _repeat(vae.plain_step(VAE[size])),
        "matrix products alone": _repeat(floor(vae.products(VAE[size]))),
    }
    return out, dict.fromkeys(out, STEPS)


def on_device(size: str, device: str = "cuda") -> tuple[Variants, dict[str, int]]:
    """As `ssmtl`, on a GPU, where a step is bound by launching its kernels: compiled, it is one CUDA graph."""
    rows = ROWS[size]
    train = variants.data(rows, UNITS[size])
    batch = variants.first_minibatch(train, rows).to(device=device)
    training = variants.zoo_training(variants.model_for(train, WIDTH[size]), train, rows)
    plain = variants.plain_copy(training).to(device)
    given = {name: values[batch["row"].cpu()].to(device) for name, values in variants.plain_data(training).items()}
    out = {"Pyro ELBO, eager": _repeat(_step(_pyro_ssmtl(train, size).to(device), (), batch))}
    for mode in MODES[1:]:
        loss = CompiledLoss(_pyro_ssmtl(train, size).to(device), mode)
        out[f"CompiledLoss, {mode}"] = _repeat(_step(loss, (), batch))
    out["plain PyTorch"] = _repeat(_step(plain, (), {**given, "n": rows // 2, "particles": 1}))
    return out, dict.fromkeys(out, STEPS)


def _pyro_vae(size: str) -> nn.Module:
    with pyro.settings.context(module_local_params=True):
        return Trace_ELBO()(*vae.pyro_vae(VAE[size])[:2])


def _epochs(
    trainings: Mapping[str, Training], svi_epoch: Callable[[], None], plain_epoch: Callable[[], None]
) -> tuple[Variants, dict[str, int]]:
    """Variants that go through the data once in every round."""
    training = trainings["none"]
    size = training.options.batch_size
    out: Variants = {f"zoo, {mode}": own._one_epoch for mode, own in trainings.items()}
    out |= {"Pyro SVI.step": svi_epoch, "plain PyTorch": plain_epoch}
    steps = dict.fromkeys(out, steps_per_epoch(training.train, size))
    products = _products_of(training, training.train.take(torch.arange(size)))
    return {**out, "matrix products alone": products}, {**steps, "matrix products alone": 1}


def _step(loss: nn.Module, args: Sequence[Any], batch: Mapping[str, Any] | None = None) -> Callable[[], None]:
    optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(*args, **(batch or {})).backward()
        optimizer.step()

    return step


def _repeat(step: Callable[[], Any], checked: bool = False, local: bool = False) -> Callable[[], None]:
    """`STEPS` steps, with Pyro's validation or without, under local parameters or not (`SVI` cannot)."""

    def steps() -> None:
        with validation(checked), pyro.settings.context(module_local_params=local):
            for _ in range(STEPS):
                step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()

    return steps


def _products_of(training: Training, batch: Mapping[str, Any]) -> Callable[[], None]:
    """As much multiplication as the convolutions, LSTMs and products of a step have, as one kind of large product."""
    before = torch.backends.mkldnn.set_flags(False)  # only then the counter sees into an LSTM
    try:
        with isolated(0), FlopCounterMode(display=False) as counter:
            training.loss(batch).backward()
    finally:
        torch.backends.mkldnn.set_flags(*before)
    side = 256
    left, right, out = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
    number = max(1, round(counter.get_total_flops() / (2 * side**3)))

    def multiply() -> None:
        for _ in range(number):
            torch.mm(left, right, out=out)

    return multiply


# ------------------------------------------------------------------------------------------------------------ tables
def costs(compared: Variants, steps: Mapping[str, int], now: Callable[[], float]) -> pd.DataFrame:
    """Seconds that capturing and compiling cost beyond the steps, and the number of steps that repay them."""
    lines: dict[str, dict[str, float]] = {}
    best: dict[str, float] = {}
    for name in [name for name in compared if name.startswith(("zoo", "CompiledLoss", "Pyro ELBO"))]:
        times = []
        for _ in range(4):
            started = now()
            compared[name]()
            times.append(now() - started)
        best[name] = min(times[2:]) / steps[name]
        lines[name] = {"seconds": sum(times[:2]) - 2 * min(times[2:]), "step_ms": best[name] * 1e3}
        eager = best["zoo, none" if name.startswith("zoo") else "Pyro ELBO, eager"]
        saved = eager - best[name]
        lines[name]["repaid_after_steps"] = lines[name]["seconds"] / saved if saved > 0 else float("nan")
    return pd.DataFrame(lines).T


def disagreement(size: str) -> pd.DataFrame:
    """Relative differences of loss and gradients to the zoo's, on the same weights and noise."""
    given = (ROWS[size], 1, UNITS[size], WIDTH[size])
    lines = {"plain PyTorch": variants.disagreement(*given)}
    try:
        import numpyro_ssmtl
    except ImportError:
        return pd.DataFrame(lines).T
    return pd.DataFrame({**lines, "NumPyro": numpyro_ssmtl.disagreement_numpyro(*given)}).T


def profile(size: str, rounds: int, clock: str) -> pd.DataFrame:
    """Where a compiled step's time goes, beside the hand-written step's.

    `graph`, the compiled operations, which take the rows and end with the norm of the gradient; `around it`, finding
    the graph of the arguments and handing its gradients to the parameters.
    """
    rows = ROWS[size]
    train, watch = variants.data(rows, UNITS[size]), Stopwatch(CLOCKS[clock])
    training = variants.zoo_training(variants.model_for(train, WIDTH[size]), train, rows, compile="inductor")
    plain, plain_one = variants.plain_variant(training, rows, 1)
    for _ in range(2):
        training._one_epoch()
    watched = [
        (pyrozoo.inference.compiling, "_run", "graph"), (CompiledStep, "gradients", "around it"),
        (plain, "forward", "loss"), (torch.Tensor, "backward", "backward"),
    ]  # fmt: skip
    watched += [(net, "forward", "networks") for net in plain.modules() if isinstance(net, nn.Sequential)]
    epochs = {"zoo": training._one_epoch, "plain": _repeat(plain_one)}
    drawn = watch.items("minibatch", pyrozoo.inference.loop.sample_rows)
    with mock.patch.object(pyrozoo.inference.loop, "sample_rows", drawn):
        return by_section(watch, epochs, watched, SECTIONS, rounds, STEPS)


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, "20 steps or one epoch per variant")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", choices=ROWS, default="quick")
    return parser


if __name__ == "__main__":
    main()
