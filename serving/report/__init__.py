"""Report of a run: one document built from the run's data, written as a web page and as a PDF."""
