"""Decoding with the parameters of a fit: the plan, labels, marginals, steps performed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from .process.counts import labelled_sequences, stretches
from .process.segments import runs, scores, segment_table

LONG_END = 0.1  # share of a recording in its last non-event above which a decoding is looked at
FEW_FRAMES = 10  # no more are ever much to leave out
_TOLD: list[bool] = []  # that `map` is exact has been said


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
            truth: The same recordings with labels; unlabelled ones do not count, and those labelled in part count as
                their labelled stretches.

        Raises:
            ValueError: No recording is labelled.
        """
        seen = truth["labelled"].tolist()
        if not any(seen):
            raise ValueError("truth: no recording is labelled, so there is nothing to score; give the labelled ones")
        true, labels, marginals = [], [], []
        for own, i in zip(labelled_sequences(truth), np.flatnonzero(seen), strict=True):
            for part in stretches(own):
                true.append(own[part])
                labels.append(self.labels[i][part])
                marginals.append(self.marginals[i][part])
        return scores(true, labels, marginals)

    def joined(self, longest: int = 1) -> Decoded:
        """Give short gaps between two different steps to the later step: the inverse of `separate_steps`.

        A model that was fitted to labels with a non-event frame between steps decodes such frames, too. Their
        probability of non-event goes to the later step likewise.

        Args:
            longest: Largest number of frames of a gap that goes to the later step.

        Example:
            >>> import numpy as np
            >>> import pandas as pd
            >>> from pyrozoo.models.medication import Decoded
            >>> names = ("non-event", "shake", "inhale")
            >>> labels = np.array([1, 1, 0, 2, 0])
            >>> own = Decoded(["r0"], names, 2.0, [labels], [np.eye(3)[labels]], pd.DataFrame(), "map")
            >>> own.joined().labels[0].tolist()
            [1, 1, 2, 2, 0]
        """
        labels, marginals = [], []
        for own, gamma in zip(self.labels, self.marginals, strict=True):
            own, gamma = own.copy(), gamma.copy()
            value, start, stop = runs(own)
            for i in range(1, len(value) - 1):
                k = value[i + 1]
                if value[i] == 0 and value[i - 1] != k and stop[i] - start[i] <= longest:
                    frames = slice(start[i], stop[i])
                    own[frames] = k
                    gamma[frames, k] += gamma[frames, 0]
                    gamma[frames, 0] = 0.0
            labels.append(own)
            marginals.append(gamma)
        return replace(self, labels=labels, marginals=marginals)


def log_scores(model: ZooModel, batch: Batch, power: float = 1.0) -> list[np.ndarray]:
    """Compute the log potentials of each recording times the power, shapes (T, K), for the functions of `decode`."""
    parts = model.log_potentials(batch["score"]).split(batch["lengths"].tolist())
    return [power * part.detach().cpu().numpy() for part in parts]


@torch.no_grad()
def decode_with(
    model: ZooModel, guide: nn.Module, data: Batch, decoder: str | None = None, *, draws: int = 200, average: int = 0,
    known: list[np.ndarray] | None = None,
) -> Decoded:  # fmt: skip
    """Decode with a model and guide, as `decode_recordings` does; `data` must have gone through `Fit.prepare`."""
    plan = Plan.of(model, guide, data, decoder, draws=draws, average=average)
    names = data.names("recording")
    shown = [str(name) for name in names]
    potentials = log_scores(model, data)
    marginals = plan.marginals(potentials, shown, known)
    performed = plan.performed(potentials, shown, known)
    table = pd.DataFrame(performed, index=pd.Index(names, name="recording"), columns=list(model.names[1:]))
    labels = plan.labels(potentials, shown, marginals, known)
    if decoder is None and plan.decoder == "paper":
        plan.tell_what_map_adds(potentials, known)
    _warn_of_dropped_ends(labels, potentials, shown)
    return Decoded(names, model.names, frame_rate(model, data), labels, marginals, table, plan.decoder)


def _warn_of_dropped_ends(labels: list[np.ndarray], potentials: list[np.ndarray], names: list[str]) -> None:
    """Warn of recordings whose last non-event is long, although most of its frames score some step highest."""
    dropped = []
    for own, score, name in zip(labels, potentials, names, strict=True):
        value, start, stop = runs(own)
        if value[-1] == 0 and len(value) > 1 and stop[-1] - start[-1] > max(LONG_END * len(own), FEW_FRAMES):
            rest = score[start[-1] :]
            if (rest[:, 1:].max(1) > rest[:, 0]).mean() > 0.5:
                dropped.append(f"{name!r} from frame {start[-1]}")
    if dropped:
        more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        warnings.warn(
            f"{len(dropped)} of {len(labels)} recordings stay in non-event to their end for more than a tenth of their "
            f"frames, where most scores speak of steps: {', '.join(dropped[:3])}{more}. If recordings hold the "
            "procedure more than once, create the model with cyclic=True, or end=0",
            stacklevel=3,
        )


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

    def marginals(
        self, potentials: list[np.ndarray], names: list[str], known: list[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Posterior probability of every label in every frame, shapes (T, K), from log potentials before the power."""
        # A running sum keeps the memory at that of one draw.
        total: list[np.ndarray] = []
        for own, process in self._uses(potentials):
            found = decode.marginals(own, process, names=names, known=known)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return [gamma / max(1, len(self.drawn)) for gamma in total]

    def performed(
        self, potentials: list[np.ndarray], names: list[str], known: list[np.ndarray] | None = None
    ) -> np.ndarray:
        """Posterior probability that each step was performed at all, shape (recordings, K − 1)."""
        uses = self._uses(potentials)
        return np.mean([decode.step_performed(own, process, names=names, known=known) for own, process in uses], 0)

    def labels(
        self, potentials: list[np.ndarray], names: list[str], marginals: list[np.ndarray] | None = None,
        known: list[np.ndarray] | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """Decode the labels of each recording, shapes (T,); `marginals` may be passed to save computing them again."""
        if marginals is None and self.decoder in ("marginal", "mea"):
            marginals = self.marginals(potentials, names, known)
        process, power = self.mean
        own = [power * q for q in potentials]
        return decode.decode(own, process, self.decoder, marginals=marginals, names=names, known=known)

    def tell_what_map_adds(self, potentials: list[np.ndarray], known: list[np.ndarray] | None = None) -> None:
        """Print, once in a process, how often the exact decoder finds a more probable sequence than the recursion."""
        if _TOLD:
            return
        _TOLD.append(True)
        process, power = self.mean
        own = [power * q for q in potentials]
        exact, single = (
            [score for _, score in decode.most_probable(own, process, single_history=single, known=known)]
            for single in (False, True)
        )
        gain = np.array(exact) - np.array(single)
        print(
            "The decoder 'paper' is the text's recursion, which is approximate. decoder='map' is exact: in "
            f"{int((gain > 1e-6).sum())} of {len(gain)} recordings it finds a more probable sequence"
            + (f" (by up to {gain.max():.1f} nats)" if (gain > 1e-6).any() else "")
            + "; 'mea' and 'marginal' use the exact posterior, which this table holds in any case."
        )

    def _uses(self, potentials: list[np.ndarray]) -> Iterator[tuple[list[np.ndarray], Any]]:
        for process, power in self.drawn or (self.mean,):
            yield [power * q for q in potentials], process


def frame_rate(model: ZooModel, data: Batch) -> float:
    """Frames per second of the model, or of the data if the model has none; ValueError if both differ."""
    check_rate(data, model)
    return float(getattr(model, "rate", None) or data.info.get("rate", 1.0))
