"""Where the time of a step goes, section by section, in the zoo and in the hand-written step."""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import pandas as pd
import torch
import variants
from timing import CLOCKS
from torch import nn
from variants import STEPS, data, model_for, plain_variant, zoo_training

import pyrozoo.inference.loop
from pyrozoo.inference.loop import Training
from pyrozoo.inference.settings import Adam, AdamW

OPTIMISER = [
    (torch.optim.Adam, "step", "optimiser"), (torch.optim.Adam, "zero_grad", "optimiser"),
    (Adam, "step", "optimiser"), (Adam, "zero_grad", "optimiser"),
    (AdamW, "step", "optimiser"), (AdamW, "zero_grad", "optimiser"),
]  # fmt: skip
SECTIONS = ("minibatch", "networks", "model", "guide", "loss", "backward", "clip", "optimiser", "loop")


class Stopwatch:
    """Time in named sections; while one is open within another, only the inner one is charged."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def calls(self, name: str, function: Callable) -> Callable:
        """The same function, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.section(name):
                return function(*args, **kwargs)

        return timed

    def items(self, name: str, generator: Callable[..., Iterator]) -> Callable[..., Iterator]:
        """The same generator function, timed at every item."""

        def timed(*args: Any, **kwargs: Any) -> Iterator:
            iterator = generator(*args, **kwargs)
            while True:
                with self.section(name):
                    item = next(iterator, None)
                if item is None:
                    return
                yield item

        return timed

    def _charge(self) -> None:
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def by_section(
    watch: Stopwatch, epochs: Mapping[str, Callable[[], Any]], functions: Iterable[tuple[Any, str, str]],
    sections: Sequence[str], rounds: int, n_steps: int,
) -> pd.DataFrame:  # fmt: skip
    """Milliseconds per step and section (minimum over the rounds); "beyond" is the zoo less the hand-written step.

    Args:
        watch: Sections that it opens by itself count, too.
        epochs: "zoo" and "plain", each `n_steps` steps.
        functions: Owner, attribute and section of what is watched, beside the optimiser.
        sections: All of them; "loop" is what is in no other.
        rounds: Counted after a first one.
        n_steps: In an epoch.
    """
    lines: dict[str, list] = {name: [] for name in epochs}
    with contextlib.ExitStack() as stack:
        for owner, attribute, section in (*functions, *OPTIMISER):
            timed = watch.calls(section, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, timed))
        for _ in range(rounds + 1):
            for name, epoch in epochs.items():
                watch.seconds.clear()
                with watch.section("loop"):
                    epoch()
                lines[name].append(dict(watch.seconds))
    columns = {name: pd.DataFrame(own[1:]).reindex(columns=list(sections)).min() for name, own in lines.items()}
    table = pd.DataFrame(columns).fillna(0.0) * 1e3 / n_steps
    table["beyond"] = table["zoo"] - table["plain"]
    table.loc["sum"] = table.sum()
    return table


def profile(
    rows: int, particles: int, rounds: int, clock: str = "wall", units: int = 50, width: int = 200
) -> pd.DataFrame:
    """Milliseconds per step and section (minimum over the rounds); "beyond" is the zoo less the hand-written step.

    The watch itself costs some microseconds per section. Sections: `networks`, the forward pass of the three; `model`
    and `guide`, the rest of their functions with Pyro's sample statements; `loss`, the rest of the forward pass (in
    the zoo, traces and their log densities); `loop`, what the training loop does besides.
    """
    train, watch = data(rows, units), Stopwatch(CLOCKS[clock])
    training = zoo_training(model_for(train, width), train, rows, particles)
    with mock.patch.object(variants, "plain_minibatches", watch.items("minibatch", variants.plain_minibatches)):
        plain, plain_one = plain_variant(training, rows, particles)

    def plain_epoch() -> None:
        for _ in range(STEPS):
            plain_one()

    epochs, minibatches = {"zoo": training._one_epoch, "plain": plain_epoch}, pyrozoo.inference.loop.sample_minibatches
    with mock.patch.object(pyrozoo.inference.loop, "sample_minibatches", watch.items("minibatch", minibatches)):
        return by_section(watch, epochs, _watched(training, plain), SECTIONS, rounds, STEPS)


def _watched(training: Training, plain: nn.Module) -> list[tuple[Any, str, str]]:
    model, guide = training.loss.model, training.loss.guide
    networks = [part for whole in (model, guide, plain) for part in whole.modules() if isinstance(part, nn.Sequential)]
    return [
        *((network, "forward", "networks") for network in networks),
        (model, "forward", "model"), (guide, "forward", "guide"), (guide.local, "forward", "guide"),
        (training.loss, "forward", "loss"), (plain, "forward", "loss"), (torch.Tensor, "backward", "backward"),
        (training, "_clip", "clip"),
    ]  # fmt: skip
