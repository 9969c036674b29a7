"""The report as a document: its chapters in order, all of them from the same facts."""

from __future__ import annotations

from serving.report import (
    chapter_accuracy,
    chapter_cards,
    chapter_choices,
    chapter_cost,
    chapter_drift,
    chapter_end,
    chapter_fairness,
    chapter_operations,
    chapter_pipeline,
    chapter_problem,
    chapter_retrainings,
    chapter_running,
    chapter_start,
    words,
)
from serving.report.costs import Rates
from serving.report.document import Document
from serving.report.facts import Facts

AUTHOR = "driftloop"


def compose(facts: Facts, rates: Rates) -> Document:
    """The document; the same facts and rates give the same one.

    Raises:
        DriftloopError: matplotlib, which draws its pictures, is not installed.
    """
    return Document(
        title="Report of a run of driftloop",
        subtitle=f"Scenario {words.shown(facts.summary.scenario, 80)}: a text classifier that notices change, "
        "retrains, and replaces itself",
        author=AUTHOR,
        date=words.moment(facts.evidence.written_at),
        chapters=(
            chapter_start.in_short(facts, rates),
            chapter_problem.problem(facts),
            chapter_pipeline.pipeline(facts),
            chapter_accuracy.accuracy(facts),
            chapter_drift.drifts(facts),
            chapter_retrainings.retrainings(facts),
            chapter_choices.choices(facts),
            chapter_fairness.fairness(facts),
            chapter_running.behaviour(facts),
            chapter_cost.cost(facts, rates),
            chapter_operations.operations(),
            chapter_operations.cloud(facts),
            chapter_end.limits(facts),
            chapter_cards.cards(facts),
            chapter_end.again(facts),
        ),
    )
