"""Predictions while samples arrive: one interface for every model that can predict online."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from ..data.batch import Batch
from ..inference.copies import isolated
from ..inference.fitted import Fit
from .predicting import predict


class Stream(Protocol):
    """Predictions while samples arrive, in memory that does not grow with their number.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("medication/watch")
        >>> live = zoo.stream(fit, lag=1.0)
        >>> isinstance(live.push(np.full((5, 7), 0.1)), pd.DataFrame)
        True
    """

    def push(self, samples: Any) -> pd.DataFrame:
        """Take new samples, and return the predictions that are settled now: the columns of `predict`.

        Args:
            samples: Samples of one unit in the order of time; what a sample is, the entry's page says.
        """
        ...

    def finish(self) -> pd.DataFrame:
        """Return the predictions of the samples that are still waiting for later ones, and take no more."""
        ...


@dataclass(frozen=True)
class Window:
    """How a stretch of samples becomes a row, for models whose rows are windows of a recording.

    Attributes:
        length: Number of samples of a window.
        step: Number of samples from one window to the next.
        channels: Names of the channels of a sample.
        row: Function from a window (length, channels) to a batch of that one row.
        rate: Samples per second; predictions then have the time at which each window ends. None if it is unknown.
    """

    length: int
    step: int
    channels: tuple[str, ...]
    row: Callable[[np.ndarray], Batch]
    rate: float | None = None

    def __post_init__(self) -> None:
        for name, size in (("length", self.length), ("step", self.step)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(f"{name}: {size}; a whole number of samples, at least 1, is needed")


class SlidingWindows:
    """Predictions for the windows of a recording, each as soon as its last sample is there; see `stream`.

    A window is predicted alone, with the same seed each time: its line is that of `predict` for the batch of this one
    row. At most one window of samples is kept.
    """

    def __init__(self, fit: Fit, window: Window, seed: int, draws: int) -> None:
        self.fit, self.window, self.seed, self.draws = fit, window, seed, draws
        self.kept = np.empty((0, len(window.channels)))
        self.seen = 0  # samples so far
        self.finished = False

    def push(self, samples: Any) -> pd.DataFrame:
        """Take samples (n, channels), or one (channels,), and predict the windows that end among them.

        Returns:
            A line per window with the columns of `predict`; the index is the number of its last sample, from 0. Where
            the rate of the samples is known, ``begin`` and ``end`` come first [s since the first sample].

        Raises:
            ValueError: Another number of channels, a value that is not finite, or the stream is finished.
        """
        if self.finished:
            raise ValueError("samples: the stream is finished; begin another by zoo.stream")
        new = np.atleast_2d(np.asarray(samples, dtype=float))
        if new.ndim != 2 or new.shape[1] != len(self.window.channels):
            raise ValueError(
                f"samples: shape {np.shape(samples)}; give (samples, {len(self.window.channels)} channels)"
            )
        wrong = np.argwhere(~np.isfinite(new))
        if len(wrong):
            at, channel = wrong[0]
            name = self.window.channels[channel]
            raise ValueError(f"samples, {at} of these: channel {name!r} is {new[at, channel]}; interpolate it")
        tables = []
        for sample in range(self.seen, self.seen + len(new)):
            if sample + 1 >= self.window.length and (sample + 1 - self.window.length) % self.window.step == 0:
                last = sample + 1 - self.seen
                held = np.concatenate([self.kept, new[:last]])[-self.window.length :]
                table = predict(self.fit, self.window.row(held), seed=self.seed, draws=self.draws)
                table = table.set_axis(pd.Index([sample], name="sample"))
                if self.window.rate is not None:
                    table.insert(0, "begin", (sample + 1 - self.window.length) / self.window.rate)
                    table.insert(1, "end", (sample + 1) / self.window.rate)
                tables.append(table)
        self.seen += len(new)
        self.kept = np.concatenate([self.kept, new])[-self.window.length :]
        return pd.concat(tables) if tables else pd.DataFrame(index=pd.Index([], dtype=int, name="sample"))

    def finish(self) -> pd.DataFrame:
        """Take no more samples; a window that is not full is not predicted."""
        self.finished = True
        return pd.DataFrame(index=pd.Index([], dtype=int, name="sample"))


def stream(fit: Fit, *, seed: int = 0, **options: Any) -> Stream:
    """Predict while samples arrive.

    A model offers this by a method ``stream(guide, data, **options)`` that returns a `Stream`; `data` is a batch of one
    row in the layout of the fit, whose values mean nothing. A model whose rows are windows of a recording offers it by
    a method ``window(data, **options)`` that returns a `Window`; then ``draws`` (200) is an option, too.

    Args:
        fit: The fitted model.
        seed: Random seed for posterior draws.
        **options: Options of the model's own method, e.g. ``lag`` of the medication entry.

    Raises:
        TypeError: The model does not predict online.

    Example:
        >>> import numpy as np
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models import medication
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = medication.watch_sessions(fold=0)
        >>> live = zoo.stream(fit, lag=2.0)
        >>> settled = [live.push(frame) for frame in test["score"][:60].numpy()]  # frame by frame
        >>> sum(map(len, settled)), len(live.finish())
        (58, 2)
    """
    if hasattr(fit.model, "window"):
        draws = options.pop("draws", 200)
        return SlidingWindows(fit, fit.model.window(fit.prototype, **options), seed, draws)
    if not hasattr(fit.model, "stream"):
        raise TypeError(f"{type(fit.model).__name__} does not predict online; predict whole recordings or tables")
    with isolated(seed), torch.no_grad():
        return fit.model.stream(fit.guide, fit.prepare(fit.prototype), **options)
