"""Writes the report into the run directory, as a page and as a PDF."""

from __future__ import annotations

from pathlib import Path

from serving.report import compose, html, pdf
from serving.report.costs import Rates
from serving.report.run_data import RunFacts, write_whole

HTML, PDF = "report.html", "report.pdf"


def write(facts: RunFacts, folder: Path, rates: Rates) -> tuple[Path, Path]:
    """Make ``report.html`` and ``report.pdf``, then write both into ``folder``, and return their paths.

    Raises:
        DriftloopError: a package of the extra is missing, or a file cannot be written.
    """
    document = compose.compose(facts, rates)
    page, printed = html.render(document), pdf.render(document)
    return write_whole(folder / HTML, page.encode()), write_whole(folder / PDF, printed)
