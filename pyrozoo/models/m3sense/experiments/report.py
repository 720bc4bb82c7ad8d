"""Figures of the experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ....plots import predictions as plots
from ....plots.style import COLOURS, GREY

MARKERS = "osD^vPX"


def transfer_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw balanced accuracy by number of labels: a panel per task, a line per method; from the rows of figure 7."""
    table = pd.DataFrame(rows)
    tasks, methods = table["task"].unique(), table["model"].unique()
    figure = Figure(figsize=(11.5, 5.2), layout="constrained")
    for ax, task in zip(figure.subplots(1, len(tasks), sharey=True), tasks, strict=True):
        for k, method in enumerate(methods):
            own = table[(table["task"] == task) & (table["model"] == method)]
            error = own["balanced_accuracy_se"].fillna(0.0).astype(float) if "balanced_accuracy_se" in own else 0.0
            ax.errorbar(
                own["labels"], own["balanced_accuracy"], error, color=COLOURS[k % len(COLOURS)],
                marker=MARKERS[k % len(MARKERS)], ms=5, lw=1.5, capsize=2, label=method,
            )  # fmt: skip
        chance = 1 / 3 if task == "stress" else 1 / 2
        ax.axhline(chance, color=GREY, lw=1, ls="--", label="chance" if task == tasks[0] else None)
        labels = sorted(own["labels"].unique())
        ax.set(title=task, xlabel="labelled windows of the task", xscale="log", xticks=labels)
        ax.set_xticks([], minor=True)
        ax.set_xticklabels([str(n) for n in labels])
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("balanced accuracy, people left out")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def modality_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw balanced accuracy by model and subset of the modalities, a panel per task; from the rows of figure 8."""
    table = pd.DataFrame(rows)
    table[["name", "modalities"]] = table["model"].str.rsplit(": ", n=1, expand=True).to_numpy()
    tasks, subsets = table["task"].unique(), list(dict.fromkeys(table["modalities"]))
    names = list(dict.fromkeys(table["name"]))
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    axes = figure.subplots(1, len(tasks), sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        values = table[table["task"] == task].pivot(index="name", columns="modalities", values="balanced_accuracy")
        shown = values.loc[names, subsets].astype(float).to_numpy()
        image = ax.imshow(shown, cmap="viridis", vmin=0.3, vmax=1.0, aspect="auto")
        for (i, k), value in np.ndenumerate(shown):
            ax.text(k, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="w" if value < 0.75 else "k")
        ax.set_xticks(range(len(subsets)), subsets, rotation=45, ha="right")
        ax.set_yticks(range(len(names)), names)
        ax.set_title(f"{task} (chance {1 / 3 if task == 'stress' else 1 / 2:.2f})")
    figure.colorbar(image, ax=axes, label="balanced accuracy, people left out")
    return figure


def alignment_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw over epochs the KL of the alignment term, and its gradient beside that of the labels."""
    table = pd.DataFrame(rows)
    words = {"M3Sense (CAM)": "labels from the representation (the paper)", "latent (CAM)": "labels from the latents"}
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, (model, own) in enumerate(table.groupby("model", sort=False)):
        colour, label = COLOURS[k], words.get(str(model), str(model))
        left.plot(own["epochs"], own["kl"], color=colour, marker="o", lw=1.8, label=label)
        right.plot(
            own["epochs"], own["alignment_gradient"], color=colour, marker="o", lw=1.8, label=f"alignment: {label}"
        )
        right.plot(
            own["epochs"], own["label_gradient"], color=colour, marker="s", lw=1.2, ls=":", label=f"labels: {label}"
        )
    left.set(ylabel="KL[q(a | X) || N(0, I)] [nats per window]", title="Does q differ from its prior?")
    right.set(ylabel="norm of the gradient on the representation", title="Does it act on the representation?")
    for ax in (left, right):
        ax.set(xlabel="epoch", xscale="log", yscale="log")
        ax.set_xticks(sorted(table["epochs"].unique()), [str(e) for e in sorted(table["epochs"].unique())])
        ax.set_xticks([], minor=True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=9)
    return figure


def reliability_figure(curves: Mapping[tuple[str, str], pd.DataFrame]) -> Figure:
    """Draw reliability curves, a panel per task, from tables of `pyrozoo.scores.reliability` by (task, model)."""
    tasks = list(dict.fromkeys(task for task, _ in curves))
    figure = Figure(figsize=(8.6, 4.9 * len(tasks)), layout="constrained")
    for ax, task in zip(figure.subplots(len(tasks), 1, squeeze=False)[:, 0], tasks, strict=True):
        plots.reliability({model: table for (own, model), table in curves.items() if own == task}, ax=ax)
        ax.set_title(task)
    return figure
