"""Chapter “Retrainings”: every retraining of the run with its reason and its result."""

from __future__ import annotations

from serving.cases.reasons import as_sentence
from serving.report import charts, display_names, formatting
from serving.report.document import Block, Chapter, Column, Figure, Note, Paragraph, Table
from serving.report.reasons import full_reasons, short
from serving.report.run_data import RunFacts

ROWS = 30
"""Largest number of retrainings in the table."""


def retrainings(facts: RunFacts) -> Chapter:
    """Return the chapter."""
    summary = facts.summary
    blocks: list[Block] = [Paragraph(_first_model(facts))]
    if len(facts.data.weights) > 1:
        blocks += _mixture(facts)
    if summary.retrainings:
        blocks += _table(facts)
    else:
        never = "The policy of this run never retrains. It serves as a comparison with runs that retrain."
        reason = never if facts.data.chosen.policy == "never" else "No event of the run required one."
        blocks.append(Paragraph(f"No retraining took place. {reason}"))
    if summary.refreshes:
        blocks.append(Paragraph(_refreshes(facts)))
    if summary.rollbacks:
        back = [model for model in facts.data.models if model.kind == "rollback"]
        reasons = " ".join(as_sentence(short(model.reason)) for model in back)
        blocks.append(
            Note(formatting.plural(summary.rollbacks, "rollback"), reasons or "A previous model was restored.")
        )
        full = [(f"version {formatting.safe_text(one.version, 12)}", one.reason) for one in back]
        blocks += full_reasons("Full reasons of the rollbacks", "restored as", full)
    return Chapter("Retrainings", blocks)


def _first_model(facts: RunFacts) -> str:
    first = facts.summary.bootstrap
    if first is None:
        return "No first model was trained in this run."
    version = f" as version {formatting.safe_text(first.version, 20)}" if first.version else ""
    return (
        f"First model: {as_sentence(formatting.safe_text(first.reason, 200))} It was {first.verdict}{version} after "
        f"{formatting.seconds(first.seconds)}."
    )


def _refreshes(facts: RunFacts) -> str:
    refreshes = facts.summary.refreshes
    number = formatting.plural(len(refreshes), "refresh", "refreshes")
    if facts.data.weights:
        return (
            f"{number} took place. A refresh registers the mixture when the labels of its concept have grown threefold "
            "and no search is due, or one is still open."
        )
    promoted = sum(run.verdict == "promoted" for run in refreshes)
    return (
        f"{number} took place, {formatting.count(promoted)} of them promoted. A refresh fits the champion's "
        "configuration again when the number of labels of the new concept has grown by a quarter. It is promoted "
        "unless it is significantly worse."
    )


def _mixture(facts: RunFacts) -> list[Block]:
    newest = facts.data.weights[-1]
    largest = max(newest.weights, key=newest.weights.__getitem__)
    return [
        Paragraph(
            "A mixture of experts answers, and each label changes it. The experts are regressions on windows of several"
            " lengths, one that follows single labels, and one for the newest concept. The weight of an expert follows "
            f"how well it predicted the newest labels. At the end, {formatting.safe_text(largest, 24)} had the largest "
            f"weight, {formatting.share(newest.weights[largest])}. A retraining registers what the mixture has become."
        ),
        Figure(
            "Weights of the experts over the labelled events.",
            "Areas on top of each other, one for each expert, which sum to one.",
            charts.weights(facts.data.weights),
        ),
    ]


def _table(facts: RunFacts) -> list[Block]:
    runs = facts.summary.retrainings
    rows = [
        [
            formatting.position(run.position), run.kind, short(run.reason),
            formatting.join_words([display_names.short_name(name) for name in run.candidates]) or formatting.NONE,
            f"{run.verdict} {f'v{formatting.safe_text(run.version, 12)}' if run.version else ''}".strip(),
            formatting.seconds(run.seconds),
        ]
        for run in runs[-ROWS:]
    ]  # fmt: skip
    columns = [
        Column("at event", "number"), Column("kind", weight=0.8), Column("reason", weight=3),
        Column("candidates", weight=1.4), Column("result", weight=1.1), Column("duration", "number"),
    ]  # fmt: skip
    newest = f" (the newest {ROWS} of {len(runs)})" if len(runs) > ROWS else ""
    kinds = (
        "A search registers the mixture as it has become, and tries each candidate as one more expert of it."
        if facts.data.weights
        else "The kind “answer” is the first retraining after an alert, with the few labels that have arrived by then. "
        "The kind “search” follows later and compares all candidates, including the slow ones."
    )
    return [
        Paragraph(f"{kinds} The reason is the policy's own text."),
        Table(f"Retrainings{newest}", columns, rows),
        *full_reasons(
            "Full reasons of the retrainings",
            "retraining at event",
            [(formatting.position(run.position), run.reason) for run in runs],
        ),
    ]
