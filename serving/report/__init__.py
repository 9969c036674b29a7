"""The report of a run: one document from the run's facts, written as a web page and as a PDF."""
