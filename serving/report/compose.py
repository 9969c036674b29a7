"""The report as a document: its chapters in order, all of them from the same facts."""

from __future__ import annotations

from serving.report import formatting
from serving.report.chapters import (
    accuracy,
    appendix,
    candidates,
    cost,
    drift,
    fairness,
    model_cards,
    operations,
    overview,
    performance,
    pipeline,
    problem,
    retrainings,
)
from serving.report.costs import Rates
from serving.report.document import Document
from serving.report.run_data import RunFacts

AUTHOR = "driftloop"


def compose(facts: RunFacts, rates: Rates) -> Document:
    """The document; the same facts and rates give the same one.

    Raises:
        DriftloopError: matplotlib, which draws its pictures, is not installed.
    """
    return Document(
        title="Report of a run of driftloop",
        subtitle=f"Scenario {formatting.shown(facts.summary.scenario, 80)}: a text classifier that notices change, "
        "retrains, and replaces itself",
        author=AUTHOR,
        date=formatting.moment(facts.evidence.written_at),
        chapters=(
            overview.in_short(facts, rates),
            problem.problem(facts),
            pipeline.pipeline(facts),
            accuracy.accuracy(facts),
            drift.drifts(facts),
            retrainings.retrainings(facts),
            candidates.choices(facts),
            fairness.fairness(facts),
            performance.behaviour(facts),
            cost.cost(facts, rates),
            operations.operations(),
            operations.cloud(facts),
            appendix.limits(facts),
            model_cards.cards(facts),
            appendix.again(facts),
        ),
    )
