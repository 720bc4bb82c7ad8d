"""Decoding of recordings with a fit."""

from __future__ import annotations

import numpy as np
import torch

from ....data.batch import Batch
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ..decoding import Decoded, decode_with
from ..process.process import Process


def plug_in(fit: Fit, batch: Batch, draws: int = 200, seed: int = 0) -> tuple[Process, float]:
    """Compute the process at the posterior means of its parameters, and the mean power.

    Args:
        fit: A fit of a model of this entry.
        batch: Recordings of the fit's labels and rate; their content is not used.
        draws: Number of posterior draws over which the means are taken.
        seed: Random seed for the draws.

    Returns:
        The process, for the functions of `decode`, and the exponent of the scores.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import plug_in, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> process, power = plug_in(fit, test, draws=10)
        >>> type(process).__name__, process.n_labels, 0.5 < power < 1.5
        ('SemiMarkovProcess', 7, True)
    """
    with isolated(seed), torch.no_grad():
        parameters, power = fit.model.mean_parameters(fit.guide, fit.prepare(batch), draws)
        return fit.model.process(parameters), power


def decode_recordings(
    fit: Fit, batch: Batch, decoder: str | None = None, *, draws: int = 200, average: int = 0, seed: int = 0,
    known: bool = False,
) -> Decoded:  # fmt: skip
    """Decode recordings with a fit.

    Args:
        fit: A fit of a model of this entry.
        batch: Recordings; labels, where there are any, are used only if `known`.
        decoder: A name in `decode.DECODERS`; the model's default where None.
        draws: Number of posterior draws for the means of the parameters, which the decoders use.
        average: Number of posterior draws over which marginals and step probabilities are averaged instead of computed
            at the means, for the decoders "marginal" and "mea"; 0 for the means. Every draw costs a decoding; it
            matters most where few recordings were labelled.
        seed: Random seed for the draws.
        known: Whether the labels that `batch` has are held fixed, so that only the frames without one are decoded.

    Raises:
        ValueError: The decoder does not suit the model.
        decode.NoPossiblePath: The process cannot generate any label sequence for a recording.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import decode_recordings, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> decoded = decode_recordings(fit, test, decoder="map", draws=10)
        >>> decoded.performed.shape, bool((decoded.performed > 0.99).all(axis=None))  # all six steps in both sessions
        ((2, 6), True)
        >>> decoded.scores(test)["segment_f1"]
        1.0
    """
    labels = known_labels(batch) if known else None
    with isolated(seed), torch.no_grad():
        data = fit.prepare(batch.hide())
        return decode_with(fit.model, fit.guide, data, decoder, draws=draws, average=average, known=labels)


def known_labels(batch: Batch) -> list[np.ndarray]:
    """List the labels of every recording, shapes (T,), -1 in frames without one."""
    lengths, seen = batch["lengths"].tolist(), batch["labelled"].tolist()
    if "label" not in batch:
        return [np.full(n, -1) for n in lengths]
    parts = batch["label"].cpu().split(lengths)
    return [part.numpy() if own else np.full(len(part), -1) for part, own in zip(parts, seen, strict=True)]
