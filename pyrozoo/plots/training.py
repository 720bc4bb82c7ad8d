"""Pictures of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .style import GREY, line_style, make_axes


def elbo_curves(histories: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Evidence lower bound over training, one line per restart or model.

    The vertical axis begins at the lowest value after the first tenth of the epochs, so that the steep rise of the
    first steps does not flatten the rest; a note in the picture tells what lies below.

    Args:
        histories: Label -> frame with columns ``epoch`` and ``elbo``, in nats per row; further columns are ignored.
        ax: Axes to draw into; a new figure by default.

    Raises:
        ValueError: No history, or one without a finite ``elbo``.

    Example:
        >>> import pyrozoo as zoo
        >>> fit = zoo.load_reference("ssmtl/dryer")
        >>> ax = zoo.plots.elbo_curves({"reference": fit.best.history})
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('epoch', 'ELBO [nats per row]')
    """
    if not histories:
        raise ValueError("no history to draw")
    ax = make_axes(ax, (7.5, 4.2))
    settled, lowest = [], np.inf
    for index, (label, history) in enumerate(histories.items()):
        table = history[np.isfinite(history["elbo"])]
        if table.empty:
            raise ValueError(f"history {label!r} has no finite elbo")
        epoch, elbo = table["epoch"].to_numpy(), table["elbo"].to_numpy()
        ax.plot(epoch, elbo, label=f"{label}: {elbo[-1]:.2f}", lw=1.6, **line_style(index))
        settled.append(elbo[epoch >= epoch[0] + 0.1 * (epoch[-1] - epoch[0])])
        lowest = min(lowest, elbo.min())
    low, high = np.concatenate(settled).min(), max(part.max() for part in settled)
    margin = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    if lowest < low - margin:
        note = f"▼ first epochs (from {lowest:.3g}) are below the axis"
        ax.text(0.02, 0.03, note, transform=ax.transAxes, color=GREY, bbox={"color": "white", "pad": 1.5}, fontsize=9)
    ax.set(xlabel="epoch", ylabel="ELBO [nats per row]")
    many = len(histories) > 6
    ax.legend(
        title="last value", loc="center left" if many else "lower right", bbox_to_anchor=(1, 0.5) if many else None
    )
    return ax
