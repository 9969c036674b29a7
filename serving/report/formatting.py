"""Formatting of numbers, times and untrusted text, the same throughout the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from driftloop.core.terminal_text import escape_control_chars
from serving.cases.model import AccuracySpan

NONE = "–"
"""Text for an unknown value."""
Z = 1.96
"""Quantile of a two-sided interval of 95%."""


def count(number: float) -> str:
    """Return a whole number with separators of thousands."""
    return f"{number:,.0f}"


def plural(number: int, word: str, words: str = "") -> str:
    """Return a count with its noun.

    Args:
        number: The count.
        word: The noun in the singular.
        words: The noun in the plural; by default the singular with an s.
    """
    return f"{count(number)} {word if number == 1 else words or word + 's'}"


def share(value: float | None) -> str:
    """Return an accuracy with three decimal places."""
    return NONE if value is None else f"{value:.3f}"


def percent(part: float, whole: float) -> str:
    """Return a part of a whole in per cent.

    Args:
        part: The part.
        whole: The whole; a dash is returned if it is 0.
    """
    if not whole:
        return NONE
    value = 100 * part / whole
    return f"{value:.0f}%" if value >= 10 or not part else f"{value:.1f}%"


def signed(value: float | None) -> str:
    """Return a difference with its sign and three decimal places."""
    return NONE if value is None else f"{value:+.3f}"


def ratio(right: int, labelled: int) -> float | None:
    """Return the share of correct predictions.

    Args:
        right: Correct predictions.
        labelled: Labelled events; `None` is returned if it is 0.
    """
    return right / labelled if labelled else None


def wilson(right: int, labelled: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson, 1927). It also holds for few events and for shares near 0 and 1.

    Args:
        right: Correct predictions.
        labelled: Labelled events.
    """
    if not labelled:
        return 0.0, 1.0
    p, n = right / labelled, labelled
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def interval(right: int, labelled: int) -> str:
    """Return the Wilson interval as text.

    Args:
        right: Correct predictions.
        labelled: Labelled events.
    """
    if not labelled:
        return NONE
    low, high = wilson(right, labelled)
    return f"{low:.3f} to {high:.3f}"


def milliseconds(value: float | None) -> str:
    """Return a duration given in milliseconds, with its unit."""
    if value is None:
        return NONE
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else seconds(value / 1000)


def seconds(value: float | None) -> str:
    """Return a duration given in seconds, with its unit."""
    if value is None:
        return NONE
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def significant(value: float) -> str:
    """Return a number of any size with three significant digits."""
    if not value:
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(digits, 8)}f}"


def accuracy_of(measured: AccuracySpan) -> str:
    """Return an accuracy with the number of labelled events behind it."""
    return f"{share(measured.accuracy)} ({count(measured.labelled)})" if measured.labelled else NONE


def number_or_none(value: object) -> float | None:
    """Return a number from a free-form field of a message; `None` if it is not a number below 10¹²."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e12 else None


def position(value: int | None) -> str:
    """Return a stream position; a dash if it is unknown."""
    return NONE if value is None or value < 0 else count(value)


def safe_text(text: str, limit: int = 60) -> str:
    """Return untrusted text on one line with its control characters escaped; a dash if it is empty.

    Args:
        text: The text.
        limit: Characters after which it is cut.
    """
    return escape_control_chars(text, limit) or NONE


def join_words(items: Sequence[str], word: str = "and") -> str:
    """Return items as an enumeration: a, b and c.

    Args:
        items: The items.
        word: The conjunction before the last item.
    """
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {word} {items[-1]}"


def utc_time(at: float) -> str:
    """Return a Unix time as date and time in UTC; a dash if it is unknown."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%d %B %Y, %H:%M UTC") if at else NONE
    except (OverflowError, OSError, ValueError):
        return NONE
