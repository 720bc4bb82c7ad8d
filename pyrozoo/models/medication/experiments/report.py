"""Figures of the experiments: timelines, reliability, durations, order of steps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....data.batch import Batch
from ....inference.fitted import Fit
from ....posterior.drawing import draw
from ..data.datasets import watch_sessions, watch_sessions_all
from ..data.simulator import simulate
from ..decoding import log_scores
from ..process import decode
from ..process.counts import labelled_sequences
from ..uses import plots as frame_plots
from ..uses.decoding import decode_recordings, plug_in
from ..uses.replication import replicate
from .runs import fitted

SHOWN_FOLD = 8  # the subject whose sessions the timeline shows: the first where the text's recursion loses a step


def watch_figures(folder: Path, fold: int = SHOWN_FOLD) -> None:
    """Write timeline.png, reliability.png, durations.png and order.png.

    Args:
        folder: Folder for the figures; made if missing.
        fold: Index of the timeline's test subject.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, test = watch_sessions(fold)
    timeline(train, test, 0).savefig(folder / "timeline.png", dpi=110)
    _save(reliability_figure(map(watch_sessions, range(10))), folder / "reliability.png")
    full = watch_sessions_all()
    found = fitted(full, "semi-markov")
    observed, new = replicate(found, full, draws=50).values()
    frame_plots.replicated_durations(observed, new, names=list(observed)).savefig(folder / "durations.png", dpi=110)
    _save(order(found, full), folder / "order.png")


def simulated_figures(folder: Path) -> None:
    """Write timeline.png (the first simulated test recording with an omitted step) and reliability.png."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test = (simulate("pen", 60, "medium", seed) for seed in (0, 1))
    n_steps = test["score"].shape[1] - 1
    omitted = [len(set(labels[labels > 0])) < n_steps for labels in labelled_sequences(test)]
    timeline(train, test, int(np.argmax(omitted))).savefig(folder / "timeline.png", dpi=110)
    _save(reliability_figure([(train, test)]), folder / "reliability.png")


def _save(ax: Axes, file: Path) -> None:
    cast(Figure, ax.figure).savefig(file, dpi=110)  # matplotlib also types a figure inside a figure here


def timeline(train: Batch, test: Batch, recording: int) -> Figure:
    """Draw the labels of every decoder on one recording, the exact posterior, and whether each step was performed."""
    fits = {variant: fitted(train, variant) for variant in ("frame-hmm", "paper", "semi-markov")}
    one = test.subset([recording])
    rows = {"truth": labelled_sequences(one)[0]}
    for name, variant, decoder in (
        ("argmax", "frame-hmm", "argmax"), ("viterbi", "frame-hmm", "viterbi"), ("paper", "paper", "paper"),
        ("map (cdf)", "paper", "map"), ("mea (hazard)", "semi-markov", "mea"),
    ):  # fmt: skip
        rows[name] = decode_recordings(fits[variant], one, decoder).labels[0]
    own = decode_recordings(fits["semi-markov"], one)
    kind = "simulated" if test.info.get("simulated") else "semi-synthetic"
    really = np.array([(rows["truth"] == k).any() for k in range(1, len(own.label_names))])
    return frame_plots.timeline(
        rows, list(own.label_names), rate=own.rate, marginals=own.marginals[0],
        performed=own.performed.iloc[0].to_numpy(), truth=really, title=f"{own.names[0]} ({kind})",
    )  # fmt: skip


def reliability_figure(splits: Iterable[tuple[Batch, Batch]]) -> Axes:
    """Draw the reliability of frame marginals on test recordings, with power 1 and with the fitted power."""
    given: dict[str, dict[str, Any]] = {"power 1": {"power": 1.0}, "fitted power": {}}
    tables: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"power 1": [], "fitted power": []}
    for train, test in splits:
        for name, arguments in given.items():
            found = fitted(train, "semi-markov", **arguments)
            process, power = plug_in(found, train)
            gamma = np.concatenate(decode.marginals(log_scores(found.model, test, power), process))
            tables[name].append((gamma.max(1), gamma.argmax(1) == np.concatenate(labelled_sequences(test))))
    joined = {name: tuple(np.concatenate(part) for part in zip(*found, strict=True)) for name, found in tables.items()}
    return frame_plots.marginal_reliability(joined)


def order(found: Fit, data: Batch) -> Axes:
    """Draw the posterior of D as a matrix with 90 % intervals."""
    drawn = draw(found, data, draws=300, sites=["D"], predictive=False).groups["posterior"]["D"].reshape(300, -1)
    model, n = found.model, found.model.n_labels
    tables = [np.zeros((n, n - 1)) for _ in range(3)]
    for table, value in zip(tables, (drawn.mean(0), *np.quantile(drawn, (0.05, 0.95), axis=0)), strict=True):
        table[model.pairs.h, model.pairs.k - 1] = value
    rows = ["start", *model.names[1:]]
    return frame_plots.transition_map(tables[0], rows, list(model.names[1:]), low=tables[1], high=tables[2])
