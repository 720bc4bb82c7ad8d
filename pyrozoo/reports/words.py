"""Numbers in sentences: three digits at most, standard errors beside their numbers."""

from __future__ import annotations

import math


def number(value: float | int | None, digits: int = 3) -> str:
    """A number with three digits, no exponent where it can be read without, and "–" where there is none.

    Args:
        value: The number.
        digits: Number of digits that count.

    Example:
        >>> from pyrozoo.reports.words import number
        >>> [number(value) for value in (0.12345, 12.345, 12345.6, None, 0.0000123)]
        ['0.123', '12.3', '12,346', '–', '1.23e-05']
    """
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    place = digits - 1 - math.floor(math.log10(abs(value)))
    if place > 6:
        return f"{value:.{digits - 1}e}".replace("-", "−", 1) if value < 0 else f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, place)}f}".replace("-", "−")


def with_se(value: float | None, error: float | None) -> str:
    """A number and its standard error, which decides on the decimals of both: it has one digit, or two after a 1.

    Args:
        value: The number.
        error: Its standard error; None if there is none.

    Example:
        >>> from pyrozoo.reports.words import with_se
        >>> with_se(4.9612, 0.083), with_se(4.9612, 0.14), with_se(4.9612, None)
        ('4.96 ± 0.08', '4.96 ± 0.14', '4.96')
    """
    if value is None or error is None or not math.isfinite(error) or error <= 0 or not math.isfinite(value):
        return number(value)
    place = -math.floor(math.log10(error))
    places = max(0, place + (error * 10**place < 1.95))
    value = round(value, places) + 0.0  # no minus before a zero
    return f"{value:,.{places}f} ± {error:,.{places}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as whole percent, with one decimal below 10.

    Args:
        share: The share, from 0 to 1.

    Example:
        >>> from pyrozoo.reports.words import percent
        >>> percent(0.0123), percent(0.456)
        ('1.2 %', '46 %')
    """
    if not math.isfinite(share):
        return "–"
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def listed(names: list[str], most: int = 5) -> str:
    """Names in a sentence, the first of many.

    Args:
        names: The names.
        most: How many are named.
    """
    shown, rest = names[:most], len(names) - most
    text = ", ".join(shown[:-1]) + (" and " if len(shown) > 1 else "") + shown[-1] if shown else "none"
    return f"{', '.join(shown)} and {rest} more" if rest > 0 else text


def counted(n: int, name: str) -> str:
    """A number of things.

    Args:
        n: How many.
        name: The name of one.

    Example:
        >>> from pyrozoo.reports.words import counted
        >>> counted(1, "unit"), counted(1200, "row")
        ('1 unit', '1,200 rows')
    """
    return f"{n:,} {name if n == 1 else plural(name)}"


def plural(name: str) -> str:
    """The plural of the name of a thing, such as a column of a table.

    Args:
        name: The name of one.

    Example:
        >>> from pyrozoo.reports.words import plural
        >>> [plural(name) for name in ("well", "batch", "city", "day")]
        ['wells', 'batches', 'cities', 'days']
    """
    if name.endswith("y") and name[-2:-1] not in (*"aeiou", ""):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"
