"""Decoding with the parameters of a fit: the plan, labels, marginals, steps performed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...data.batch import Batch
from ...modeling.base import ZooModel
from ...posterior.columns import class_columns
from .data.validation import check_rate
from .process import decode
from .process.counts import labelled_sequences
from .process.segments import scores, segment_table


@dataclass(repr=False)
class Decoded:
    """Decoded recordings, as returned by `decode_recordings`.

    Attributes:
        names: Names of the recordings.
        label_names: Names of the K labels, the non-event first.
        rate: Frames per second.
        labels: Label sequence of each recording, shapes (T,).
        marginals: Posterior probability of every label in every frame, shapes (T, K).
        performed: Posterior probability that a step was performed at all; one line per recording, one column per step.
        decoder: Name of the decoder that found the labels.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import decode_recordings, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> decoded = decode_recordings(fit, test, draws=10)
        >>> decoded
        Decoded(2 recordings, 596 frames, by 'mea')
        >>> decoded.segments()["label"][:2].tolist()
        ['abduction', 'forward elevation']
        >>> sorted(decoded.scores(test))
        ['edit', 'frame_accuracy', 'frame_nll', 'segment_f1']
    """

    names: np.ndarray
    label_names: tuple[str, ...]
    rate: float
    labels: list[np.ndarray]
    marginals: list[np.ndarray]
    performed: pd.DataFrame
    decoder: str

    def __repr__(self) -> str:
        return f"Decoded({len(self.names)} recordings, {sum(map(len, self.labels))} frames, by {self.decoder!r})"

    def frames(self) -> pd.DataFrame:
        """Table of all frames: index (recording, frame); columns ``label.label`` and, per label, ``label.p[name]``."""
        lengths = [len(own) for own in self.labels]
        index = pd.MultiIndex.from_arrays(
            [np.repeat(self.names, lengths), np.concatenate([np.arange(n) for n in lengths])],
            names=["recording", "frame"],
        )
        names = np.asarray(self.label_names, dtype=object)
        columns = class_columns("label", names, np.concatenate(self.labels), np.concatenate(self.marginals))
        return pd.DataFrame(columns, index=index)

    def segments(self) -> pd.DataFrame:
        """Table of all performed steps, one line each; for its columns see `segments.segment_table`."""
        return segment_table(self.labels, [str(name) for name in self.names], list(self.label_names), self.rate)

    def scores(self, truth: Batch) -> dict[str, float]:
        """Score the decoding: frame accuracy, segment F1, edit score and frame NLL.

        Args:
            truth: The same recordings with labels; unlabelled ones do not count.

        Raises:
            ValueError: No recording is labelled.
        """
        seen = truth["labelled"].tolist()
        if not any(seen):
            raise ValueError("truth: no recording is labelled, so there is nothing to score; give the labelled ones")
        pick = lambda values: [own for own, keep in zip(values, seen, strict=True) if keep]  # noqa: E731
        return scores(labelled_sequences(truth), pick(self.labels), pick(self.marginals))


def log_scores(model: ZooModel, batch: Batch, power: float = 1.0) -> list[np.ndarray]:
    """Compute the log potentials of each recording times the power, shapes (T, K), for the functions of `decode`."""
    parts = model.log_potentials(batch["score"]).split(batch["lengths"].tolist())
    return [power * part.detach().cpu().numpy() for part in parts]


@torch.no_grad()
def decode_with(
    model: ZooModel, guide: nn.Module, data: Batch, decoder: str | None = None, *, draws: int = 200, average: int = 0
) -> Decoded:
    """Decode with a model and guide, as `decode_recordings` does; `data` must have gone through `Fit.prepare`."""
    plan = Plan.of(model, guide, data, decoder, draws=draws, average=average)
    names = data.names("recording")
    shown = [str(name) for name in names]
    potentials = log_scores(model, data)
    marginals = plan.marginals(potentials, shown)
    table = pd.DataFrame(
        plan.performed(potentials, shown), index=pd.Index(names, name="recording"), columns=list(model.names[1:])
    )
    labels = plan.labels(potentials, shown, marginals)
    return Decoded(names, model.names, frame_rate(model, data), labels, marginals, table, plan.decoder)


@dataclass(frozen=True, repr=False)
class Plan:
    """Decoder, process and power of a fit, computed once for all recordings, which can then be decoded one by one.

    Attributes:
        decoder: A name in `decode.DECODERS`.
        mean: The process at the posterior means of its parameters, and the mean power.
        drawn: Draws of process and power, over which marginals and step probabilities are averaged; empty if these are
            computed at the means.
    """

    decoder: str
    mean: tuple[Any, float]
    drawn: tuple[tuple[Any, float], ...]

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: ZooModel, guide: nn.Module, data: Batch, decoder: str | None, *, draws: int, average: int
    ) -> Plan:
        """Make the plan of a model and guide.

        Args:
            model: The model.
            guide: Guide of its parameters.
            data: Recordings that have gone through `Fit.prepare`; only their layout is used.
            decoder: A name in `decode.DECODERS`; the model's default where None.
            draws: Number of posterior draws for the means.
            average: Number of posterior draws to average over, or 0.

        Raises:
            ValueError: `average` is given with a decoder that uses the means.
        """
        decoder = decoder or model.default_decoder
        parameters, power = model.mean_parameters(guide, data, draws)
        mean = model.process(parameters)
        if average and decoder not in ("marginal", "mea"):
            raise ValueError(f"average: the decoder {decoder!r} plugs in the means; 'marginal' and 'mea' can average")
        drawn = []
        for _ in range(average):
            values = model.guide_values(guide, data)
            drawn.append((model.process(model.parameters_of(values)), float(values.get("power", power))))
        return cls(decoder, (mean, power), tuple(drawn))

    def marginals(self, potentials: list[np.ndarray], names: list[str]) -> list[np.ndarray]:
        """Posterior probability of every label in every frame, shapes (T, K), from log potentials before the power."""
        # A running sum keeps the memory at that of one draw.
        total: list[np.ndarray] = []
        for own, process in self._uses(potentials):
            found = decode.marginals(own, process, names=names)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return [gamma / max(1, len(self.drawn)) for gamma in total]

    def performed(self, potentials: list[np.ndarray], names: list[str]) -> np.ndarray:
        """Posterior probability that each step was performed at all, shape (recordings, K − 1)."""
        return np.mean([decode.step_performed(own, process, names=names) for own, process in self._uses(potentials)], 0)

    def labels(
        self, potentials: list[np.ndarray], names: list[str], marginals: list[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Decode the labels of each recording, shapes (T,); `marginals` may be passed to save computing them again."""
        if marginals is None and self.decoder in ("marginal", "mea"):
            marginals = self.marginals(potentials, names)
        process, power = self.mean
        return decode.decode([power * q for q in potentials], process, self.decoder, marginals=marginals, names=names)

    def _uses(self, potentials: list[np.ndarray]) -> Iterator[tuple[list[np.ndarray], Any]]:
        for process, power in self.drawn or (self.mean,):
            yield [power * q for q in potentials], process


def frame_rate(model: ZooModel, data: Batch) -> float:
    """Frames per second of the model, or of the data if the model has none; ValueError if both differ."""
    check_rate(data, model)
    return float(getattr(model, "rate", None) or data.info.get("rate", 1.0))
