"""One training step and one prediction of AuxVAE: the zoo, Pyro's SVI and hand-written PyTorch.

README.md beside this file says what each number means.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyro
import torch
from plain_auxvae import PlainAuxVAE, plain_epoch
from pyro import poutine
from pyro.infer import SVI
from sections import Stopwatch, by_section
from timing import CLOCKS, alternate, options, report, summary
from torch import Tensor, nn

from pyrozoo.data.batch import Batch
from pyrozoo.inference.copies import build, default_dtype, isolated
from pyrozoo.inference.fit import fit
from pyrozoo.inference.fitted import Fit
from pyrozoo.inference.loop import Training
from pyrozoo.inference.losses import validation
from pyrozoo.inference.minibatches import sample_minibatches, steps_per_epoch
from pyrozoo.inference.settings import Settings
from pyrozoo.models.auxvae.local_guide import PaperGuide
from pyrozoo.models.auxvae.model import AuxVAE
from pyrozoo.posterior.predicting import predict

FOREVER = 10**9  # steps of a training that never ends, so that its learning rates stay
KNOWN = {"all": "style known", "none": "style hidden", "some": "style mixed"}
DRAWS = 200
SECTIONS = ("guide's encoder", "aux streams", "decoder", "heads", "guide", "model", "loss", "backward", "clip",
            "optimiser", "loop")  # fmt: skip


class Sizes(NamedTuple):
    """Of the data, and constructor arguments of the model other than its defaults."""

    steps: int
    channels: int
    people: int
    trials: int
    batch_size: int
    predicted: int
    arguments: dict[str, Any]


SIZES = {
    "quick": Sizes(120, 72, 22, 352, 64, 80, {}),
    "smoke": Sizes(24, 5, 3, 28, 14, 6, {"z_dim": 3, "channels": (6, 5), "d_model": 4, "heads": 2, "width": 6}),
}


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    report(given, _tables(given))


def _tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    sizes = SIZES[given.sizes]
    if given.profile:
        for known in ("all", "none"):
            table = profile(sizes, known, given.rounds, given.clock)
            yield f"milliseconds per section of a step, {KNOWN[known]}", table
        return
    different = pd.DataFrame({KNOWN[known]: disagreement(sizes, known) for known in KNOWN}).T
    yield "zoo and plain PyTorch in double precision: relative difference", different
    yield "a step", steps(sizes, given.rounds, given.clock)
    yield f"prediction, {sizes.predicted} trials", predictions(sizes, given.rounds, given.clock)


# ------------------------------------------------------------------------------------------------------------ parts
def data(sizes: Sizes, known: str, y_known: float = 1.0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random trials; the style is known on all, none or every other one, the load on a share of them."""
    rng, n = np.random.default_rng(0), sizes.trials
    style_known = {"all": np.ones(n, bool), "none": np.zeros(n, bool), "some": np.arange(n) % 2 == 0}[known]
    walks, unloaded = (rng.normal(size=(k, sizes.steps, sizes.channels)) for k in (n, sizes.people))
    people = np.array([f"P{i}" for i in range(sizes.people)])
    return Batch.from_arrays(
        rows={"x": 2.0 * walks + 1.0, "y": rng.uniform(5, 50, n), "style": rng.integers(4, size=n)},
        groups={"participant": people[np.arange(n) % sizes.people]},
        tables={"participant": {"x_aux": 2.0 * unloaded + 1.0}}, dims={"x": ("time", "channel")},
        labels={"y": np.linspace(0, 1, n) <= y_known, "style": style_known},
        coords={"participant": people, "style_class": np.array(["right", "left", "side", "front"])},
        dtype=dtype, name="random", simulated=True,
    )  # fmt: skip


def model_for(train: Batch, sizes: Sizes) -> AuxVAE:
    return AuxVAE(**AuxVAE.sizes_from(train), fusion="cross", **sizes.arguments)


def zoo_training(train: Batch, sizes: Sizes, **settings: Any) -> Training:
    """A training as `pyrozoo.fit` sets it up, with the entry's own settings, on fresh copies."""
    model, given = model_for(train, sizes), {"steps": FOREVER, "batch_size": sizes.batch_size, **settings}
    with isolated(0):
        own, guide = build(model, PaperGuide)
        return Training(own, guide, train, None, Settings.resolve(own, guide, given), 0, None)


def plain_copy(model: AuxVAE, guide: PaperGuide, n_rows: int, known: str) -> PlainAuxVAE:
    """The hand-written model with the sizes, weights and running means of the zoo's."""
    plain = PlainAuxVAE(
        model.encoder_sizes, model.n_steps, model.n_styles, model.z_dim, model.classifier[0].out_features, model.floor,
        model.beta, n_rows, float(model.x_scale.log().sum()), float(model.y_loc), float(model.y_scale), known,
    ).to(model.x_scale)  # fmt: skip
    for own, zoo in _pairs(plain, model, guide):
        own.load_state_dict(zoo.state_dict())
    with torch.no_grad():
        plain.x_log_sd.copy_(model.x_log_sd)
    return plain


def plain_data(model: AuxVAE, train: Batch) -> dict[str, Tensor]:
    """Standardised walks and loads, and the rest as it is."""
    x, x_aux = ((train[name] - model.x_loc) / model.x_scale for name in ("x", "x_aux"))
    rest = {name: train[name] for name in ("participant", "labelled", "style", "style_labelled")}
    return {"x": x, "x_aux": x_aux, "y": (train["y"] - model.y_loc) / model.y_scale, **rest}


def disagreement(sizes: Sizes, known: str) -> dict[str, float]:
    """Largest relative difference between the zoo's and the hand-written loss, and between their gradients.

    In double precision and evaluation mode, on all trials, with loads known on four of five, with the same weights,
    and with the same noise: with the same seed, since z is all that either draws. The difference of a gradient is
    relative to the parameter's largest entry.
    """
    with default_dtype(torch.float64):
        train = data(sizes, known, 0.8, torch.float64)
        loss = zoo_training(train, sizes).loss.eval()
        with isolated(2), torch.no_grad():
            for parameter in loss.parameters():  # away from initial values, some of which are 0
                parameter += 0.1 * torch.randn_like(parameter)
        plain = plain_copy(loss.model, loss.guide, train.n_rows, known).eval()
        with isolated(1):
            zoo_loss = loss(train)
        with isolated(1):
            plain_loss = plain(**plain_data(loss.model, train))
    zoo_loss.backward()
    plain_loss.backward()
    pairs = [(plain.x_log_sd, loss.model.x_log_sd)]
    for own, zoo in _pairs(plain, loss.model, loss.guide):
        pairs += zip(own.parameters(), zoo.parameters(), strict=True)
    gradients = [float((own.grad - zoo.grad).abs().max() / zoo.grad.abs().max()) for own, zoo in pairs]
    return {"loss": abs(float(plain_loss.detach() / zoo_loss.detach()) - 1), "gradients": max(gradients)}


def _pairs(plain: PlainAuxVAE, model: AuxVAE, guide: PaperGuide) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The networks of the hand-written model, each with the zoo's."""
    yield from ((plain.encoder, guide.encoder), (plain.q_z, guide.head))
    for name in ("aux", "decoder", "classifier", "load_head"):
        yield getattr(plain, name), getattr(model, name)


# ------------------------------------------------------------------------------------------------------------ steps
def plain_variant(training: Training, known: str) -> tuple[PlainAuxVAE, Callable[[], None]]:
    model, train = training.loss.model, training.train
    plain = plain_copy(model, training.loss.guide, train.n_rows, known)
    return plain, plain_epoch(plain, plain_data(model, train), training.options.batch_size)


def svi_epoch(train: Batch, sizes: Sizes) -> Callable[[], None]:
    """Pyro's ``SVI.step`` on the zoo's model and guide, as Pyro comes, on minibatches of one epoch, drawn before."""
    batches = list(sample_minibatches(train, sizes.batch_size, torch.Generator().manual_seed(0)))
    model = model_for(train, sizes)
    guide = PaperGuide(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 2e-3, "weight_decay": 1e-4}), model.elbo())

    def epoch() -> None:
        with validation(True):
            for batch in batches:
                svi.step(**batch)

    return epoch


def steps(sizes: Sizes, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds per step, the mean over an epoch, and ratios to the hand-written step with known styles."""
    trainings = {known: zoo_training(data(sizes, known), sizes) for known in KNOWN}
    with pyro.get_param_store().scope():
        variants: dict[str, Callable[[], Any]] = {
            f"zoo, {KNOWN[known]}": training._one_epoch for known, training in trainings.items()
        }
        variants["Pyro SVI.step, style known"] = svi_epoch(trainings["all"].train, sizes)
        for known, training in trainings.items():
            variants[f"plain PyTorch, {KNOWN[known]}"] = plain_variant(training, known)[1]
        seconds = alternate(variants, rounds, clock) / steps_per_epoch(trainings["all"].train, sizes.batch_size)
    table = summary(seconds, "plain PyTorch, style known")
    # The zoo beside the hand-written step of the same kind, and its steps with and without styles beside each other.
    best = seconds.min()
    own = {f"zoo, {name}": best[f"zoo, {name}"] / best[f"plain PyTorch, {name}"] for name in KNOWN.values()}
    known = {f"zoo, {name}": best[f"zoo, {name}"] / best["zoo, style known"] for name in KNOWN.values()}
    return table.assign(to_own_plain=pd.Series(own), to_zoo_known=pd.Series(known))


# ------------------------------------------------------------------------------------------------------- prediction
def predictor(sizes: Sizes) -> tuple[Fit, Batch, PlainAuxVAE, dict[str, Tensor]]:
    """A fit of one epoch, the trials to predict, and the same by hand."""
    train = data(sizes, "all")
    found = fit(
        model_for(train, sizes), PaperGuide, train, epochs=1, batch_size=sizes.batch_size, seed=0, progress=False
    )
    new = train.take(torch.arange(sizes.predicted))
    plain = plain_copy(found.model, found.guide, train.n_rows, "all").eval()
    own = plain_data(found.model, new)
    return found, new, plain, {name: own[name] for name in ("x", "x_aux", "participant")}


def predictions(sizes: Sizes, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds for all trials, ratios to the hand-written prediction of as many draws, and trials per second."""
    found, new, plain, own = predictor(sizes)
    hidden = found.prepare(new.hide())

    @torch.no_grad()
    def once() -> None:
        drawn = poutine.trace(found.guide).get_trace(**hidden)
        poutine.replay(found.model, trace=drawn)(**hidden, targets_only=True)

    with validation(False):
        variants = {
            f"zoo.predict, {DRAWS} draws": lambda: predict(found, new, draws=DRAWS),
            f"plain PyTorch, {DRAWS} draws": lambda: plain.predict(**own, draws=DRAWS),
            "guide, then model, one draw": once,
            "plain PyTorch, z at its mean": lambda: plain.predict(**own, draws=None),
        }
        seconds = alternate(variants, rounds, clock)
    table = summary(seconds, f"plain PyTorch, {DRAWS} draws")
    return table.assign(trials_per_s=sizes.predicted / seconds.min())


# ---------------------------------------------------------------------------------------------------------- profile
def profile(sizes: Sizes, known: str, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds per step and section (minimum over the rounds); "beyond" is the zoo less the hand-written step."""
    watch, training = Stopwatch(CLOCKS[clock]), zoo_training(data(sizes, known), sizes)
    plain, plain_one = plain_variant(training, known)
    epochs = {"zoo": training._one_epoch, "plain": plain_one}
    n_steps = steps_per_epoch(training.train, sizes.batch_size)
    return by_section(watch, epochs, _watched(training, plain), SECTIONS, rounds, n_steps)


def _watched(training: Training, plain: PlainAuxVAE) -> list[tuple[Any, str, str]]:
    model, guide = training.loss.model, training.loss.guide
    functions: list[tuple[Any, str, str]] = [
        (model, "forward", "model"), (guide, "forward", "guide"), (training.loss, "forward", "loss"),
        (plain, "forward", "loss"), (guide.head, "forward", "heads"), (plain.q_z, "forward", "heads"),
        (torch.Tensor, "backward", "backward"), (training, "_clip", "clip"),
    ]  # fmt: skip
    for own in (model, plain):
        functions += [(own.aux, "forward", "aux streams"), (own.decoder, "forward", "decoder"),
                      (own.classifier, "forward", "heads"), (own.load_head, "forward", "heads")]  # fmt: skip
    for own in (guide, plain):
        functions += [(own.encoder, "forward", "guide's encoder"), (own.encoder.aux, "forward", "aux streams")]
    return functions


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, "one epoch per variant")
    parser.add_argument("--sizes", choices=list(SIZES), default="quick", help="of data and networks (default: quick)")
    return parser


if __name__ == "__main__":
    main()
