"""Recordings drawn from the posterior predictive, beside those observed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from ....data.batch import Batch
from ....inference.copies import isolated
from ....inference.fitted import Fit
from ..decoding import frame_rate
from ..process.counts import labelled_sequences, stretches
from ..process.segments import runs


@dataclass
class Replicated:
    """Complete segments of observed recordings, and of recordings drawn from the posterior predictive.

    Attributes:
        observed, replicated: Tables with the columns kind ("duration" or "gap"), name (of the step or the pair of
            steps) and seconds; the replicated one also has the column draw.
        n_steps: Number of steps performed per recording: "observed" (R,), "replicated" (draws, R).
    """

    observed: pd.DataFrame
    replicated: pd.DataFrame
    n_steps: dict[str, np.ndarray] = field(default_factory=dict)

    def values(self, kind: str = "duration") -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
        """Seconds by name, observed (one array) and replicated (one array per draw), as `frame_plots` takes them."""
        own = self.observed[self.observed["kind"] == kind]
        new = self.replicated[self.replicated["kind"] == kind]
        names = [name for name in dict.fromkeys(own["name"]) if (new["name"] == name).any()]
        observed = {name: own.loc[own["name"] == name, "seconds"].to_numpy() for name in names}
        n = len(self.n_steps["replicated"])
        groups = {key: part["seconds"].to_numpy() for key, part in new.groupby(["name", "draw"])}
        empty = np.zeros(0)
        return observed, {name: [groups.get((name, draw), empty) for draw in range(n)] for name in names}


def replicate(fit: Fit, batch: Batch, *, draws: int = 50, seed: int = 0) -> Replicated:
    """Draw recordings from the posterior predictive, as long as the labelled ones, to check durations, gaps and order.

    A real recording ends when the person has finished; a replicated one is cut to the length of the real one. So
    replicated recordings hold fewer steps, which is no misfit; durations and gaps of complete segments can be compared.

    Args:
        fit: A fit of steps with durations and gaps.
        batch: Labelled recordings.
        draws: Number of replications of every recording.
        seed: Random seed for the draws.

    Returns:
        Replicated: Segments of the observed and of the replicated recordings.

    Raises:
        ValueError: No recording is labelled.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import replicate, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> found = replicate(fit, train, draws=3)
        >>> observed, replicated = found.values("duration")
        >>> observed["abduction"].shape, len(replicated["abduction"])  # seconds of 18 sessions; an array per draw
        ((18,), 3)
        >>> found.n_steps["replicated"].shape
        (3, 18)
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
    """Durations of the steps, and gaps between steps, that neither end of a labelled stretch cuts off."""
    rows: list[dict[str, Any]] = []
    for own in (labels[part] for labels in sequences for part in stretches(labels)):
        label, start, stop = runs(own)
        for i in range(1, len(label) - 1):
            seconds = (stop[i] - start[i]) / rate
            if label[i] > 0:
                rows.append({"kind": "duration", "name": names[label[i]], "seconds": seconds})
            else:
                pair = f"{names[label[i - 1]]} → {names[label[i + 1]]}"
                rows.append({"kind": "gap", "name": pair, "seconds": seconds})
    return pd.DataFrame(rows, columns=["kind", "name", "seconds"])
