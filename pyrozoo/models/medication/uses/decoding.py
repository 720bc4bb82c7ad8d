"""Decoding of recordings with a fit."""

from __future__ import annotations

import torch

from ....data.batch import Batch
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ..decoding import Decoded, decode_with
from ..process.process import Process


def plug_in(fit: Fit, batch: Batch, draws: int = 200, seed: int = 0) -> tuple[Process, float]:
    """The process at the posterior means of its parameters, and the power."""
    with isolated(seed), torch.no_grad():
        parameters, power = fit.model.mean_parameters(fit.guide, fit.prepare(batch), draws)
        return fit.model.process(parameters), power


def decode_recordings(
    fit: Fit, batch: Batch, decoder: str | None = None, *, draws: int = 200, average: int = 0, seed: int = 0
) -> Decoded:
    """Decode recordings with a fit.

    Args:
        fit: The fit.
        batch: Recordings; labels, where there are any, are not used.
        decoder: A name in `decode.DECODERS`; the model's default where None.
        draws: Draws for the posterior means of the parameters, which the decoders use.
        average: Instead of plugging in the means, average marginals and step probabilities over so many draws of the
            parameters; for the decoders "marginal" and "mea". Costs a decoding per draw, and says more where few
            recordings were labelled.
        seed: Of the draws.

    Raises:
        ValueError: A decoder that does not fit, or bad scores.
        decode.NoPossiblePath: A recording that the process cannot have made.
    """
    with isolated(seed), torch.no_grad():
        return decode_with(fit.model, fit.guide, fit.prepare(batch.hide()), decoder, draws=draws, average=average)
