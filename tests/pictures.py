"""Drawing a picture without a window, for tests of what it says."""

import warnings

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw(axes_or_figure: Axes | Figure) -> str:
    """Renders and returns every text of the picture, so that a font or layout problem shows."""
    figure = axes_or_figure if isinstance(axes_or_figure, Figure) else axes_or_figure.figure
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return " | ".join(text for text in texts if text)
