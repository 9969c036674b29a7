"""Every decision to retrain, with its reason and how it ended."""

from __future__ import annotations

from collections.abc import Sequence

from serving.report import naming, words
from serving.report.document import Block, Chapter, Column, Note, Paragraph, Table
from serving.report.facts import Facts

ROWS, CARDS, COMPARED = 30, 24, 20
"""Retrainings and refreshes in a table, cards in full, and comparisons in a picture."""


def retrainings(facts: Facts) -> Chapter:
    """Every decision to retrain, with its reason and how it ended."""
    summary = facts.summary
    blocks: list[Block] = []
    first = summary.bootstrap
    if first is not None:
        version = f" as version {words.shown(first.version, 20)}" if first.version else ""
        blocks.append(
            Paragraph(
                f"The first model: {words.shown(first.reason, 200)}; {first.verdict}{version} after "
                f"{words.seconds(first.seconds)}."
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
                f"{words.plural(len(summary.refreshes), 'refresh', 'refreshes')}: the champion's own recipe fitted "
                f"again each time there were a quarter more labels of the new concept; {words.count(promoted)} "
                "promoted, since a refresh takes over unless it is worse beyond chance."
            )
        )
    if summary.rollbacks:
        back = [model for model in facts.evidence.models if model.kind == "rollback"]
        blocks.append(
            Note(
                f"{words.plural(summary.rollbacks, 'rollback')}",
                "; ".join(words.shown(model.reason, 160) for model in back) or "A predecessor was brought back.",
            )
        )
    return Chapter("Retrainings and their reasons", blocks)


def _runs(caption: str, facts: Facts, ids: Sequence[str]) -> Table:
    runs = {run.run_id: run for run in facts.summary.retrainings}
    rows = [
        [
            words.position(run.position), run.kind, words.shown(run.reason, 130),
            words.listed([naming.called(name) for name in run.candidates]) or words.NONE,
            f"{run.verdict} "
            f"{f'v{words.shown(run.version, 12)}' if run.version else ''}".strip(), words.seconds(run.seconds),
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
