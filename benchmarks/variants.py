"""The steps that are compared, on the same data, networks and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pyro
import torch
from plain_ssmtl import PlainSSMTL, plain_minibatches, plain_optimizer, plain_step
from pyro.infer import SVI
from timing import alternate, summary
from torch import Tensor, nn

from pyrozoo.data.batch import Batch
from pyrozoo.inference.copies import build, default_dtype, isolated
from pyrozoo.inference.loop import Training
from pyrozoo.inference.losses import validation
from pyrozoo.inference.minibatches import sample_minibatches
from pyrozoo.inference.settings import Settings
from pyrozoo.models.ssmtl.data.simulator import PRESETS, simulate
from pyrozoo.models.ssmtl.guides import PaperGuide
from pyrozoo.models.ssmtl.model import SSMTL

STEPS = 20  # per round and variant: an epoch of the data below
FOREVER = 10**9  # steps of a training that never ends, so that its learning rates stay


def data(rows: int, units: int = 50, dtype: torch.dtype = torch.float32) -> Batch:
    """Units with as many labelled rows in all as a minibatch of `rows` has, and `STEPS` times as many unlabelled."""
    each, left = divmod(rows // 2, units)
    if rows % 2 or left or not each:
        raise ValueError(f"rows: {rows} is not an even multiple of the {units} units")
    return simulate(units, each, STEPS * each, 1, seed=100, dtype=dtype, **PRESETS["same-valve"])[0]


def model_for(train: Batch, width: int = 200) -> SSMTL:
    """SSMTL for these data, of the paper's size where `width` is not given."""
    return SSMTL(**SSMTL.sizes_from(train), width=width)


def zoo_training(model: SSMTL, train: Batch, rows: int, particles: int = 1, **settings: Any) -> Training:
    """A training as `pyrozoo.fit` sets it up, on fresh copies; half of the `rows` of a minibatch are labelled."""
    given = {"steps": FOREVER, "particles": particles, "batch_size": _halves(rows), **settings}
    with isolated(0):
        own, guide = build(model, PaperGuide)
        return Training(own, guide, train, None, Settings.resolve(own, guide, given), 0, None)


def first_minibatch(train: Batch, rows: int) -> Batch:
    """The minibatch of the variants that draw none."""
    return next(sample_minibatches(train, _halves(rows), torch.Generator().manual_seed(0)))


def bare_step(training: Training, batch: Batch) -> Callable[[], None]:
    """The zoo's loss as a torch module, with fused Adam; nothing else of the training loop."""
    loss = training.loss
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        value = loss(batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def svi_step(model: SSMTL, batch: Batch, particles: int) -> Callable[[], Any]:
    """Pyro's ``SVI.step`` on the zoo's model and guide, as Pyro comes: validation on, parameters in its store."""
    guide = PaperGuide(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), model.elbo(particles))
    return lambda: svi.step(**batch)


def plain_copy(training: Training) -> PlainSSMTL:
    """The hand-written model with the sizes and the weights of the zoo's."""
    model = training.loss.model
    names = ("x_dim", "y_dim", "c_dim", "z_dim", "width", "depth", "floor", "alpha")
    plain = PlainSSMTL(
        **{name: getattr(model, name) for name in names}, sizes=training.train.sizes,
        log_x_scale=float(model.x_scale.log().sum()), log_y_scale=float(model.y_scale.log().sum()),
    ).to(model.x_scale)  # fmt: skip
    with torch.no_grad():
        for own, zoo in _pairs(plain, training):
            own.copy_(zoo)
    return plain


def plain_data(training: Training) -> dict[str, Tensor]:
    """Standardised inputs and targets of the training data, and the unit of each row."""
    model, train = training.loss.model, training.train
    x, y = (train["x"] - model.x_loc) / model.x_scale, (train["y"] - model.y_loc) / model.y_scale
    return {"x": x, "y": y, "unit": train["unit"]}


def plain_variant(training: Training, rows: int, particles: int) -> tuple[PlainSSMTL, Callable[[], None]]:
    """The hand-written model, and its step on minibatches like the zoo's."""
    plain, strata = plain_copy(training), training.train.strata
    minibatches = plain_minibatches(
        **plain_data(training), labelled=strata["labelled"], unlabelled=strata["unlabelled"], each=rows // 2
    )
    return plain, plain_step(plain, plain_optimizer(plain), minibatches, particles)


def disagreement(rows: int, particles: int, units: int = 50, width: int = 200) -> dict[str, float]:
    """Largest relative difference between the zoo's and the hand-written loss, and between their gradients.

    In double precision, on one minibatch, with the same weights, and with the same noise: with the same seed, since
    both draw c, y and z in this order. The difference of a gradient is relative to the parameter's largest entry.
    """
    with default_dtype(torch.float64):
        train = data(rows, units, torch.float64)
        training = zoo_training(model_for(train, width), train, rows, particles)
        plain, batch = plain_copy(training), first_minibatch(train, rows)
        taken = {name: values[batch["row"]] for name, values in plain_data(training).items()}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            zoo_loss = training.loss(batch)
            torch.manual_seed(1)
            plain_loss = plain(**taken, n=rows // 2, particles=particles)
    zoo_loss.backward()
    plain_loss.backward()
    gradients = [
        float((own.grad - zoo.grad).abs().max() / zoo.grad.abs().max()) for own, zoo in _pairs(plain, training)
    ]
    return {"loss": abs(float(plain_loss.detach() / zoo_loss.detach()) - 1), "gradients": max(gradients)}


def flops(plain: PlainSSMTL, rows: int, particles: int) -> int:
    """Matrix multiplications of one step: 2 per multiply-add forward, and twice as many backward."""
    weights = sum(layer.weight.numel() for layer in plain.modules() if isinstance(layer, nn.Linear))
    return 6 * weights * rows * particles


def matmul(rows: int, width: int) -> Callable[[], Any]:
    """One (rows, width) x (width, width) product, the shape of the hidden layers."""
    left, right, out = torch.randn(rows, width), torch.randn(width, width), torch.empty(rows, width)
    return lambda: torch.mm(left, right, out=out)


def compare(
    rows: int, particles: int, rounds: int, clock: str = "wall", units: int = 50, width: int = 200
) -> pd.DataFrame:
    """Time all variants at one size: milliseconds per step, and ratios to the hand-written step."""
    train = data(rows, units)
    batch, model = first_minibatch(train, rows), model_for(train, width)
    training, bare = (zoo_training(model, train, rows, particles) for _ in range(2))
    plain, plain_one = plain_variant(training, rows, particles)
    with pyro.get_param_store().scope():
        variants = {
            "zoo": training._one_epoch,
            "zoo ELBO + fused Adam": _repeat(bare_step(bare, batch), checked=False),
            "Pyro SVI.step": _repeat(svi_step(model, batch, particles)),
            "plain PyTorch": _repeat(plain_one),
            "matmul floor": _repeat(matmul(rows * particles, width)),
        }
        seconds = alternate(variants, rounds, clock) / STEPS
    seconds["matmul floor"] *= flops(plain, rows, particles) / (2 * rows * particles * width**2)
    return summary(seconds, "plain PyTorch")


def _halves(rows: int) -> dict[str, int]:
    return {"labelled": rows // 2, "unlabelled": rows // 2}


def _repeat(step: Callable[[], Any], checked: bool = True) -> Callable[[], None]:
    """`STEPS` steps; unchecked: without Pyro's validation, as in a fit after its first epoch."""

    def steps() -> None:
        with validation(checked):
            for _ in range(STEPS):
                step()

    return steps


def _pairs(plain: PlainSSMTL, training: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """The parameters of the hand-written model, each with the zoo's."""
    model, guide = training.loss.model, training.loss.guide
    modules = ((plain.g_y, guide.local.g_y), (plain.g_z, guide.local.g_z), (plain.decoder, model.decoder))
    for own, zoo in modules:
        yield from zip(own.parameters(), zoo.parameters(), strict=True)
    yield from ((plain.c_loc, guide.c_loc), (plain.c_log_scale, guide.c_log_scale))
