"""Short and full forms of a decision's reason: one sentence first, the whole text and the checks behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from serving.cases.model import Candidate

LONGEST = 100
"""Largest number of characters of a short form. A longer sentence is cut at a comma, or else with an ellipsis."""
CHECK_COLUMNS = ("check", "result", "limit", "finding")
COMPARISON_COLUMNS = ("figure", "value")
UNKNOWN = "–"
INTERVALS = (
    ("difference in accuracy, interval", "difference_low", "difference_high"),
    ("gain in Brier score, interval", "brier_gain_low", "brier_gain_high"),
)
"""Figures of the gate that are the two bounds of an interval."""
FIGURES = {
    "held_out": "held-out events",
    "brier_gain": "gain in Brier score",
    "quantisation_agreement": "share of equal labels in int8 and full precision",
    "quantisation_loss": "loss of accuracy in int8",
    "quantisation_rows": "events compared in int8",
}
"""Names of other figures."""
_END = re.compile(r"(?<=[.!?])\s+|;\s+")
_COMMA = re.compile(r",\s(?![^\[(]*[\])])")


def first_sentence(reason: str) -> str:
    """Return the first sentence of a reason; the whole reason if it is short.

    Older retrainers wrote one line of many clauses, without a full stop. There the first clause is returned.
    """
    reason = reason.strip()
    if len(reason) <= LONGEST:
        return reason
    first = _END.split(reason, maxsplit=1)[0]
    if len(first) <= LONGEST:
        return first
    commas = [found.start() for found in _COMMA.finditer(first) if 0 < found.start() <= LONGEST]
    return first[: commas[-1]] if commas else first[: LONGEST - 1].rstrip() + "…"


def has_more(reason: str) -> bool:
    """Return True if the reason is longer than its first sentence."""
    return first_sentence(reason) != reason.strip()


def as_sentence(text: str) -> str:
    """Return a text with a capital letter at its start and a full stop at its end; an empty one stays empty."""
    text = text.strip()
    if not text:
        return ""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def check_rows(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return the rows of a table of the gate's checks; `CHECK_COLUMNS` are its heads."""
    return [
        (str(check.get("name", "")), check_result(check), _figure(check.get("limit")), str(check.get("words", "")))
        for check in checks
    ]


def comparison_rows(candidate: Candidate) -> list[tuple[str, str]]:
    """Return the rows of a table of the comparison with the champion; `COMPARISON_COLUMNS` are its heads."""
    figures = dict(candidate.figures)
    rows = [
        ("accuracy of the candidate", candidate.accuracy),
        ("accuracy of the champion", candidate.champion_accuracy),
    ]
    shown = [(name, _figure(value)) for name, value in rows if value is not None]
    for name, low, high in INTERVALS:
        if low in figures and high in figures:
            shown.append((name, f"{figures.pop(low):+.3f} to {figures.pop(high):+.3f}"))
    return shown + [(FIGURES.get(name, name.replace("_", " ")), _figure(value)) for name, value in figures.items()]


def check_result(check: Mapping[str, Any]) -> str:
    """Return passed, excused (passed in spite of a loss) or failed."""
    if not check.get("passed"):
        return "failed"
    return "excused" if check.get("excused") else "passed"


def count_passed(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the number of checks that passed, in words; excused ones count as passed and are named."""
    passed = sum(bool(check.get("passed")) for check in checks)
    excused = [str(check.get("name", "")) for check in checks if check_result(check) == "excused"]
    return f"{passed} of {len(checks)} passed" + (f"; excused: {', '.join(excused)}" if excused else "")


def _figure(value: Any) -> str:
    """Return a number with at most three decimal places; a dash if it is not a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return UNKNOWN
    return f"{value:g}" if value == round(value) else f"{value:.3f}"
