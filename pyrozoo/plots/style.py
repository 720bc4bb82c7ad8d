"""Colours and axes that all pictures share; colours are those of Okabe and Ito, told apart with any colour vision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"


PINK, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#707070"


COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PINK, SKY, BLACK)


_LINE_STYLES = ("-", "--", ":", "-.")


def make_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of this size in inches."""
    if ax is None:
        ax = Figure(figsize=size, layout="constrained").subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the line with this number."""
    return {"color": COLOURS[index % len(COLOURS)], "ls": _LINE_STYLES[index // len(COLOURS) % len(_LINE_STYLES)]}


def with_unit(text: str, unit: str, brackets: bool = True) -> str:
    """The text with its unit of measure, where there is one."""
    if not unit:
        return text
    return f"{text} [{unit}]" if brackets else f"{text} {unit}"


def require_columns(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table; refuses one that lacks a column."""
    if missing := [name for name in columns if name not in table.columns]:
        raise ValueError(f"the table has no column {missing}; it has {list(table.columns)}")
    return table


def require_tables(tables: Mapping[str, pd.DataFrame]) -> None:
    """Refuse anything but tables by the names of their models, at least one."""
    if isinstance(tables, pd.DataFrame) or not isinstance(tables, Mapping):
        raise ValueError("give the tables by the names of their models, such as {'SSMTL': table}")
    if not tables:
        raise ValueError("no table to draw")
