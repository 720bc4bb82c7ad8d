"""What a fit is used for: decoding recordings, telling which steps were performed, replicating recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...batch import Batch
from ...fitting import Fit, isolated
from . import decode
from .checks import check_rate
from .counts import labelled_sequences
from .label_model import LabelModel
from .process import Process
from .segments import runs, scores, segment_table


@dataclass(repr=False)
class Decoded:
    """Decoded recordings.

    Attributes:
        names: Of the recordings.
        label_names: K names, the non-event first.
        rate: Frames per second.
        labels: Label sequence of each recording, shapes (T,).
        marginals: Posterior probability of every label in every frame, shapes (T, K).
        performed: Posterior probability that a step was performed at all; one line per recording, one column per step.
        decoder: How the labels were found.
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
        """One line per frame: index (recording, frame); ``label.label``, ``label.p[name]`` of every label."""
        lengths = [len(own) for own in self.labels]
        index = pd.MultiIndex.from_arrays(
            [np.repeat(self.names, lengths), np.concatenate([np.arange(n) for n in lengths])],
            names=["recording", "frame"],
        )
        columns = {"label.label": np.asarray(self.label_names, dtype=object)[np.concatenate(self.labels)]}
        stacked = np.concatenate(self.marginals)
        columns |= {f"label.p[{name}]": stacked[:, k] for k, name in enumerate(self.label_names)}
        return pd.DataFrame(columns, index=index)

    def segments(self) -> pd.DataFrame:
        """One line per performed step; see `segments.segment_table`."""
        return segment_table(self.labels, [str(name) for name in self.names], list(self.label_names), self.rate)

    def scores(self, truth: Batch) -> dict[str, float]:
        """Frame accuracy, segment F1, edit score and frame NLL against the labels of the same recordings."""
        seen = truth["labelled"].tolist()
        if not any(seen):
            raise ValueError("truth: no recording is labelled, so there is nothing to score; give the labelled ones")
        pick = lambda values: [own for own, keep in zip(values, seen, strict=True) if keep]  # noqa: E731
        return scores(labelled_sequences(truth), pick(self.labels), pick(self.marginals))


def plug_in(fit: Fit, batch: Batch, draws: int = 200, seed: int = 0) -> tuple[Process, float]:
    """The process at the posterior means of its parameters, and the power."""
    with isolated(seed), torch.no_grad():
        parameters, power = fit.model.mean_parameters(fit.guide, fit.prepare(batch), draws)
        return fit.model.process(parameters), power


def log_scores(model: LabelModel, batch: Batch, power: float = 1.0) -> list[np.ndarray]:
    """Log potentials of each recording, raised to the power: what `decode` takes; shapes (T, K)."""
    parts = model.log_potentials(batch["score"]).split(batch["lengths"].tolist())
    return [power * part.detach().cpu().numpy() for part in parts]


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


@torch.no_grad()
def decode_with(
    model: LabelModel, guide: nn.Module, data: Batch, decoder: str | None = None, *, draws: int = 200, average: int = 0
) -> Decoded:
    """`decode_recordings` of a model and guide, for data in the terms of their fit."""
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
    """What a fit decodes with, the same for all recordings; so many can be decoded one after the other.

    Attributes:
        decoder: A name in `decode.DECODERS`.
        mean: The process at the posterior means of its parameters, and the mean power.
        drawn: Draws of both, over which marginals and step probabilities are averaged; empty where they use the means.
    """

    decoder: str
    mean: tuple[Any, float]
    drawn: tuple[tuple[Any, float], ...]

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: LabelModel, guide: nn.Module, data: Batch, decoder: str | None, *, draws: int, average: int
    ) -> Plan:
        """The plan of a model and guide; of `data`, in the terms of the fit, only the layout counts.

        Raises:
            ValueError: `average` with a decoder that plugs in the means.
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
        # A running sum: the memory is that of one draw.
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
        """Labels of each recording, shapes (T,), with `marginals` where they are at hand already."""
        if marginals is None and self.decoder in ("marginal", "mea"):
            marginals = self.marginals(potentials, names)
        process, power = self.mean
        return decode.decode([power * q for q in potentials], process, self.decoder, marginals=marginals, names=names)

    def _uses(self, potentials: list[np.ndarray]) -> Iterator[tuple[list[np.ndarray], Any]]:
        for process, power in self.drawn or (self.mean,):
            yield [power * q for q in potentials], process


def frame_rate(model: LabelModel, data: Batch) -> float:
    """Frames per second: the model's where it has one, which data that say theirs must share."""
    check_rate(data, model)
    return float(getattr(model, "rate", None) or data.info.get("rate", 1.0))


@dataclass
class Replicated:
    """Complete segments of observed recordings, and of recordings drawn from the posterior predictive.

    Attributes:
        observed, replicated: Columns kind ("duration" or "gap"), name (of the step or the pair of steps), seconds; of
            the replicated ones also draw.
        n_steps: Steps performed per recording: "observed" (R,), "replicated" (draws, R).
    """

    observed: pd.DataFrame
    replicated: pd.DataFrame
    n_steps: dict[str, np.ndarray] = field(default_factory=dict)

    def values(self, kind: str = "duration") -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
        """Seconds by name, observed and replicated (one array per draw), as `frame_plots` takes them."""
        own = self.observed[self.observed["kind"] == kind]
        new = self.replicated[self.replicated["kind"] == kind]
        names = [name for name in dict.fromkeys(own["name"]) if (new["name"] == name).any()]
        observed = {name: own.loc[own["name"] == name, "seconds"].to_numpy() for name in names}
        n = len(self.n_steps["replicated"])
        groups = {key: part["seconds"].to_numpy() for key, part in new.groupby(["name", "draw"])}
        empty = np.zeros(0)
        return observed, {name: [groups.get((name, draw), empty) for draw in range(n)] for name in names}


def replicate(fit: Fit, batch: Batch, *, draws: int = 50, seed: int = 0) -> Replicated:
    """Posterior predictive recordings of the lengths of the labelled ones, for checks of durations, gaps and order.

    A real recording ends when the person is done, a replicated one where the real one did: so replicated recordings
    hold fewer steps, which is no misfit; durations and gaps of complete segments can be compared.

    Args:
        fit: A fit of steps with durations and gaps.
        batch: Labelled recordings.
        draws: Replications.
        seed: Of the draws.

    Raises:
        ValueError: No labelled recording.
    """
    seen = labelled_sequences(batch)
    if not seen:
        raise ValueError("batch: no recording is labelled, so there is nothing to compare with; give labelled ones")
    model, lengths = fit.model, torch.tensor([len(own) for own in seen])
    rate = frame_rate(model, batch)
    tables, steps = [], []
    with isolated(seed), torch.no_grad():
        data = fit.prepare(batch)
        for draw in range(draws):
            process = model.process(model.parameters_of(model.guide_values(fit.guide, data)))
            value = model.label_distribution(process, lengths).sample().numpy()
            new = [own[:n] for own, n in zip(value, lengths.tolist(), strict=True)]
            tables.append(_complete(new, model.names, rate).assign(draw=draw))
            steps.append(_n_steps(new))
    return Replicated(
        _complete(seen, model.names, rate), pd.concat(tables, ignore_index=True),
        {"observed": np.array(_n_steps(seen)), "replicated": np.array(steps)},
    )  # fmt: skip


def _n_steps(sequences: list[np.ndarray]) -> list[int]:
    return [int((runs(own).label > 0).sum()) for own in sequences]


def _complete(sequences: list[np.ndarray], names: tuple[str, ...], rate: float) -> pd.DataFrame:
    """Durations of the steps, and gaps between steps, that neither end of a recording cuts off."""
    rows: list[dict[str, Any]] = []
    for own in sequences:
        label, start, stop = runs(own)
        for i in range(1, len(label) - 1):
            seconds = (stop[i] - start[i]) / rate
            if label[i] > 0:
                rows.append({"kind": "duration", "name": names[label[i]], "seconds": seconds})
            else:
                pair = f"{names[label[i - 1]]} → {names[label[i + 1]]}"
                rows.append({"kind": "gap", "name": pair, "seconds": seconds})
    return pd.DataFrame(rows, columns=["kind", "name", "seconds"])
