"""Figures of the experiments: the latent space (figure 5) and features around attention (figure 6)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ....criticism.latent import latent_report
from ....data.batch import Batch
from ....inference.fitted import Fit
from ....plots.style import COLOURS, GREY
from ..uses.latent import STAGES, features


def latent_figure(fits: Mapping[str, Fit], train: Batch, test: Batch, seed: int = 0) -> Figure:
    """Draw the t-SNE of posterior means of z, one row per fit, by style and by load; people left out are ringed.

    Args:
        fits: Fits by title.
        train: Training data of the fits.
        test: Trials of other people.
        seed: Random seed of t-SNE.
    """
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(10.5, 4.6 * len(fits)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(fits), 2))
    style, load = (np.concatenate([part[name].cpu().numpy() for part in (train, test)]) for name in ("style", "y"))
    held_out = np.arange(len(load)) >= train.n_rows
    names, kind = train.coords["style_class"], "simulated" if train.info.get("simulated") else "recorded"
    for (left, right), (title, fit) in zip(axes, fits.items(), strict=True):
        means = [latent_report(fit, part, "z", draws=10, seed=seed).means.to_numpy() for part in (train, test)]
        plane = TSNE(perplexity=30, random_state=seed, init="pca").fit_transform(np.concatenate(means))
        for k, name in enumerate(names):
            left.scatter(*plane[style == k].T, s=18, color=COLOURS[k], lw=0, label=str(name))
        shown = right.scatter(*plane.T, s=18, c=load, cmap="viridis", lw=0)
        for ax, by in ((left, "carrying style"), (right, "load")):
            ax.scatter(*plane[held_out].T, s=42, facecolor="none", edgecolor=GREY, lw=0.8)
            ax.set(title=f"{title}: z by {by} ({kind} gait)", xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
        figure.colorbar(shown, ax=right, label="load [lb]")
        ring = Line2D([], [], marker="o", ls="", mfc="none", mec=GREY, label="person left out")
        left.legend(handles=[*left.get_legend_handles_labels()[0], ring], fontsize=8, loc="best")
    return figure


def feature_figure(fit: Fit, batch: Batch, style: int = 0) -> Figure:
    """Draw feature trajectories of one carrying style before and after cross-attention, one line per load.

    A line is the first principal component of a stage's features over time, averaged over the people in the batch.

    Args:
        fit: Fit with cross-attention.
        batch: Trials of the people to show.
        style: Index of the style.
    """
    found = features(fit, batch)
    load, carried = (batch[name].cpu().numpy() for name in ("y", "style"))
    loads = np.unique(load)
    figure = Figure(figsize=(8.5, 7.5), layout="constrained")
    colours = Normalize(loads.min(), loads.max())
    import matplotlib

    palette = matplotlib.colormaps["viridis"]
    for ax, stage in zip(figure.subplots(3, 1, sharex=True), STAGES, strict=True):
        values = _first_component(found[stage])
        time = (np.arange(values.shape[1]) + 0.5) / values.shape[1]
        for pounds in loads:
            lines = values[(load == pounds) & (carried == style)]
            if not len(lines):
                continue
            line, colour = lines.mean(0), palette(colours(pounds))
            if stage == STAGES[1]:  # one unloaded walk serves all trials of a person
                ax.plot(time, line, color=GREY, lw=1.4, label="no load")
                ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
                break
            ax.plot(time, line, color=colour, lw=1.6, label=f"{pounds:g} lb")
        ax.set(title=stage, ylabel="1st component of\nthe features")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(title="load", loc="upper left", bbox_to_anchor=(1.01, 1.0))  # beside: the lines fill the axes
    figure.axes[-1].set_xlabel("time, share of the walk")
    name, kind = batch.coords["style_class"][style], "simulated" if batch.info.get("simulated") else "recorded"
    people = batch.sizes["participant"]
    figure.suptitle(f"Features around cross-attention: {name}, mean of {people} people left out ({kind} gait)")
    return figure


def _first_component(sequences: np.ndarray) -> np.ndarray:
    """Return the first principal component, (N, T), of features (N, T, D) over trials and time."""
    from sklearn.decomposition import PCA

    flat = sequences.reshape(-1, sequences.shape[-1])
    return PCA(1).fit_transform(flat).reshape(sequences.shape[:2])
