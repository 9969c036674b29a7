"""The report as a document: its chapters in order, all of them from the same facts."""

from __future__ import annotations

from serving.report import chapter_end, chapter_models, chapter_quality, chapter_running, chapter_start, words
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
        subtitle=f"Scenario {words.shown(facts.summary.scenario, 80)}: a text classifier on a live stream that notices change, "
        "retrains, and replaces itself",
        author=AUTHOR,
        date=words.moment(facts.evidence.written_at),
        chapters=(
            chapter_start.in_short(facts, rates),
            chapter_start.problem(facts),
            chapter_start.pipeline(facts),
            chapter_quality.accuracy(facts),
            chapter_quality.drifts(facts),
            chapter_models.retrainings(facts),
            chapter_models.choices(facts),
            chapter_quality.fairness(facts),
            chapter_running.behaviour(facts),
            chapter_running.cost(facts, rates),
            chapter_running.operations(facts),
            chapter_running.cloud(facts),
            chapter_end.limits(facts),
            chapter_models.cards(facts),
            chapter_end.again(facts),
        ),
    )
