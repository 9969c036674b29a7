"""Reasons and gate checks in the report: a short sentence in the text, the rest in a `Details` block."""

from __future__ import annotations

from collections.abc import Iterable

from serving.cases.model import Candidate
from serving.cases.reasons import (
    CHECK_COLUMNS,
    COMPARISON_COLUMNS,
    as_sentence,
    check_rows,
    comparison_rows,
    first_sentence,
    has_more,
)
from serving.report import formatting
from serving.report.document import Column, Details, Paragraph, Table

LONGEST, ROWS = 800, 30
"""Largest number of characters of a full reason, and of rows in a table of reasons."""


def short(reason: str) -> str:
    """Return the first sentence of a reason; a dash if the reason is empty."""
    return formatting.safe_text(first_sentence(reason), 160)


def full_reasons(summary: str, head: str, reasons: Iterable[tuple[str, str]]) -> list[Details]:
    """Return the reasons that are longer than their first sentence, as one block; empty if no reason is.

    Args:
        summary: Title of the block.
        head: Head of the first column.
        reasons: Pairs of the text in the first column and the whole reason.
    """
    rows = [(name, formatting.safe_text(reason, LONGEST)) for name, reason in reasons if has_more(reason)][-ROWS:]
    if not rows:
        return []
    columns = [Column(head), Column("reason", weight=5)]
    return [Details(summary, [Table("Reasons as written by the retrainer", columns, rows)])]


def gate_decision(version: str, reason: str, candidate: Candidate | None) -> list[Details]:
    """Return the whole reason of a promotion, the checks of the gate and its figures; empty without any of them.

    Args:
        version: The promoted version.
        reason: The reason of the promotion.
        candidate: The candidate that became this version; `None` if it did not pass through the gate.
    """
    blocks: list[Paragraph | Table] = []
    if has_more(reason):
        blocks.append(Paragraph(f"Full reason: {as_sentence(formatting.safe_text(reason, LONGEST))}"))
    if candidate is not None and candidate.checks:
        checks = [
            (formatting.safe_text(name, 30), result, limit, formatting.safe_text(finding, 300))
            for name, result, limit, finding in check_rows(candidate.checks)
        ]
        widths = (1.3, 0.8, 0.6, 5.0)
        columns = [Column(head, weight=weight) for head, weight in zip(CHECK_COLUMNS, widths, strict=True)]
        blocks.append(Table(f"Gate checks of version {version}", columns, checks))
    if candidate is not None and candidate.figures:
        figures = [(formatting.safe_text(name, 60), value) for name, value in comparison_rows(candidate)]
        columns = [Column(head) for head in COMPARISON_COLUMNS]
        blocks.append(Table(f"Comparison of version {version} with the champion", columns, figures))
    return [Details(f"Gate decision on version {version}", blocks)] if blocks else []
