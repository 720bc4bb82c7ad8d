"""What the pictures of recordings share: colours of labels, checked arrays, percentages."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from .....plots.style import BLACK, BLUE, GREEN, ORANGE, PINK, SKY, VERMILION

# Seven of Okabe and Ito, then five that stay apart from these and from each other for red- and green-blind eyes.
STEP_COLOURS = (
    *(BLUE, ORANGE, GREEN, VERMILION, SKY, PINK, "#F0E442"),
    *("#8400CD", "#DDCC77", "#661100", "#004949", BLACK),
)


NON_EVENT = "#E4E4E4"


def shaped(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The values as an array of this shape; refuses any other."""
    values = np.asarray(values, dtype=float)
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}, not {shape}")
    return values


def probabilities_of(name: str, values: np.ndarray) -> np.ndarray:
    """The values, a rounding error beyond 0 and 1 cut off."""
    if not ((values >= -1e-9) & (values <= 1 + 1e-9)).all():
        raise ValueError(f"{name} has a number outside [0, 1]")
    return values.clip(0, 1)


def percent(value: float) -> str:
    """Percent without a false certainty: neither 0% nor 100% unless it is exactly that."""
    if 0 < value < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= value < 1 else f"{value:.0%}"


def ink_on(colour: str) -> str:
    """White or black, whichever can be read on the colour."""
    return "white" if np.dot(to_rgb(colour), [0.299, 0.587, 0.114]) < 0.52 else BLACK
