"""Numbers and strangers' text in words, in one way throughout a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from driftloop.core.terminal_text import escape_control_chars
from serving.cases.model import AccuracySpan

NONE = "–"
Z = 1.96
"""Of a two-sided interval of 95%."""


def count(number: float) -> str:
    """A whole number with its thousands set apart."""
    return f"{number:,.0f}"


def plural(number: int, word: str, words: str = "") -> str:
    """A count with its noun."""
    return f"{count(number)} {word if number == 1 else words or word + 's'}"


def share(value: float | None) -> str:
    """An accuracy, three digits."""
    return NONE if value is None else f"{value:.3f}"


def percent(part: float, whole: float) -> str:
    """A part of a whole in per cent; nothing where there is no whole."""
    if not whole:
        return NONE
    value = 100 * part / whole
    return f"{value:.0f}%" if value >= 10 or not part else f"{value:.1f}%"


def signed(value: float | None) -> str:
    """A difference."""
    return NONE if value is None else f"{value:+.3f}"


def ratio(right: int, labelled: int) -> float | None:
    """The share of right answers; None without any answer."""
    return right / labelled if labelled else None


def wilson(right: int, labelled: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson, 1927), which holds for few events and for shares near 0 and 1 too."""
    if not labelled:
        return 0.0, 1.0
    p, n = right / labelled, labelled
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def interval(right: int, labelled: int) -> str:
    """That interval in words."""
    if not labelled:
        return NONE
    low, high = wilson(right, labelled)
    return f"{low:.3f} to {high:.3f}"


def milliseconds(value: float | None) -> str:
    """A duration that is given in milliseconds."""
    if value is None:
        return NONE
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else seconds(value / 1000)


def seconds(value: float | None) -> str:
    """A duration that is given in seconds."""
    if value is None:
        return NONE
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def figure(value: float) -> str:
    """A number of any size, three digits that count."""
    if not value:
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(digits, 8)}f}"


def of(measured: AccuracySpan) -> str:
    """An accuracy with the number of labelled events behind it."""
    return f"{share(measured.accuracy)} ({count(measured.labelled)})" if measured.labelled else NONE


def known(value: object) -> float | None:
    """A figure out of a message's free part; None where it is none."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e12 else None


def position(value: int | None) -> str:
    """A stream position; nothing where it is not known."""
    return NONE if value is None or value < 0 else count(value)


def shown(text: str, limit: int = 60) -> str:
    """A stranger's text on one line, cut; a dash where there is none."""
    return escape_control_chars(text, limit) or NONE


def listed(items: Sequence[str], word: str = "and") -> str:
    """Items in a row: a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {word} {items[-1]}"


def moment(at: float) -> str:
    """A time for people, in UTC; a dash where it is not known."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%d %B %Y, %H:%M UTC") if at else NONE
    except (OverflowError, OSError, ValueError):
        return NONE
