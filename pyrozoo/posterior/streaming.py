"""Predictions while samples arrive: one interface for every model that can predict online."""

from __future__ import annotations

from typing import Any, Protocol

import pandas as pd
import torch

from ..inference.copies import isolated
from ..inference.fitted import Fit


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


def stream(fit: Fit, *, seed: int = 0, **options: Any) -> Stream:
    """Predict while samples arrive.

    A model offers this by a method ``stream(guide, data, **options)`` that returns a `Stream`; `data` is a batch of one
    row in the layout of the fit, whose values mean nothing.

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
        (50, 10)
    """
    if not hasattr(fit.model, "stream"):
        raise TypeError(f"{type(fit.model).__name__} does not predict online; predict whole recordings or tables")
    with isolated(seed), torch.no_grad():
        return fit.model.stream(fit.guide, fit.prepare(fit.prototype), **options)
