"""Names of the columns of predictions: made and parsed here alone."""

from __future__ import annotations


def quantile_name(q: float) -> str:
    """Column name of a quantile, in percent: q05, q95, q97.5."""
    return f"q{round(100 * q, 6):02g}"
