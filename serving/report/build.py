"""Report of a run: the document with its chapters in order, and the two files that it is written to."""

from __future__ import annotations

from pathlib import Path

from serving.report import formatting, html, pdf
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
from serving.report.chapters.cost import Rates
from serving.report.document import Document
from serving.report.run_data import RunFacts, write_file

HTML, PDF = "report.html", "report.pdf"
AUTHOR = "driftloop"


def write_report(facts: RunFacts, folder: Path, rates: Rates) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.pdf`` and return their paths. Both are made before either is written.

    Args:
        facts: The data of the run.
        folder: Where the files are written.
        rates: Watts and price of a core, for the estimates of energy and cost.

    Raises:
        DriftloopError: A package of the extra `report` is missing, or a file cannot be written.
    """
    document = build_document(facts, rates)
    page, printed = html.render(document), pdf.render(document)
    return write_file(folder / HTML, page.encode()), write_file(folder / PDF, printed)


def build_document(facts: RunFacts, rates: Rates) -> Document:
    """Return the document. The same data and rates give the same document.

    Args:
        facts: The data of the run.
        rates: Watts and price of a core, for the estimates of energy and cost.

    Raises:
        DriftloopError: matplotlib, which draws the figures, is not installed.
    """
    return Document(
        title="Report of a run of driftloop",
        subtitle=f"Scenario {formatting.safe_text(facts.summary.scenario, 80)}: a text classifier on a live stream, "
        "with drift detection and automatic retraining",
        author=AUTHOR,
        date=formatting.utc_time(facts.data.written_at),
        chapters=(
            overview.overview(facts, rates),
            problem.problem(facts),
            pipeline.pipeline(facts),
            accuracy.accuracy(facts),
            drift.drift(facts),
            retrainings.retrainings(facts),
            candidates.candidates(facts),
            fairness.fairness(facts),
            performance.performance(facts),
            cost.cost(facts, rates),
            operations.operations(),
            operations.cloud(facts),
            appendix.limitations(facts),
            model_cards.model_cards(facts),
            appendix.reproduction(facts),
        ),
    )
