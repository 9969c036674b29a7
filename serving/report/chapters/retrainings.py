"""Every decision to retrain, with its reason and how it ended."""

from __future__ import annotations

from collections.abc import Sequence

from serving.report import display_names, formatting
from serving.report.document import Block, Chapter, Column, Note, Paragraph, Table
from serving.report.run_data import RunFacts

ROWS, CARDS, COMPARED = 30, 24, 20
"""Retrainings and refreshes in a table, cards in full, and comparisons in a picture."""


def retrainings(facts: RunFacts) -> Chapter:
    """Every decision to retrain, with its reason and how it ended."""
    summary = facts.summary
    blocks: list[Block] = []
    first = summary.bootstrap
    if first is not None:
        version = f" as version {formatting.shown(first.version, 20)}" if first.version else ""
        blocks.append(
            Paragraph(
                f"The first model: {formatting.shown(first.reason, 200)}; {first.verdict}{version} after "
                f"{formatting.seconds(first.seconds)}."
            )
        )
    else:
        blocks.append(Paragraph("No first model was made in this run."))
    if not summary.retrainings:
        why = {
            "never": "The policy of this run never retrains: the loop was left open on purpose, to compare with.",
        }.get(facts.evidence.chosen.policy, "Nothing called for one.")
        blocks.append(Paragraph(f"There was no retraining. {why}"))
    else:
        blocks.append(
            Paragraph(
                "An answer is the first model after an alert, from what little there is by then. A search, later, "
                "lets all candidates compete, the slow ones included. The reason is given in the retrainer's own "
                "words."
            )
        )
        blocks.append(_runs("Retrainings", facts, [run.run_id for run in summary.retrainings]))
    if summary.refreshes:
        promoted = sum(run.verdict == "promoted" for run in summary.refreshes)
        blocks.append(
            Paragraph(
                f"{formatting.plural(len(summary.refreshes), 'refresh', 'refreshes')}: the champion's own recipe fitted "
                f"again each time there were a quarter more labels of the new concept; {formatting.count(promoted)} "
                "promoted, since a refresh takes over unless it is worse beyond chance."
            )
        )
    if summary.rollbacks:
        back = [model for model in facts.evidence.models if model.kind == "rollback"]
        blocks.append(
            Note(
                f"{formatting.plural(summary.rollbacks, 'rollback')}",
                "; ".join(formatting.shown(model.reason, 160) for model in back) or "A predecessor was brought back.",
            )
        )
    return Chapter("Retrainings and their reasons", blocks)


def _runs(caption: str, facts: RunFacts, ids: Sequence[str]) -> Table:
    runs = {run.run_id: run for run in facts.summary.retrainings}
    rows = [
        [
            formatting.position(run.position), run.kind, formatting.shown(run.reason, 130),
            formatting.listed([display_names.called(name) for name in run.candidates]) or formatting.NONE,
            f"{run.verdict} "
            f"{f'v{formatting.shown(run.version, 12)}' if run.version else ''}".strip(), formatting.seconds(run.seconds),
        ]
        for run in (runs[one] for one in ids[-ROWS:])
    ]  # fmt: skip
    columns = [
        Column("at event", "number"), Column("kind", weight=0.8), Column("why", weight=3),
        Column("candidates", weight=1.4),
        Column("verdict", weight=1.1), Column("took", "number"),
    ]  # fmt: skip
    shown = f" (the newest {ROWS} of {len(ids)})" if len(ids) > ROWS else ""
    return Table(caption + shown, columns, rows)
