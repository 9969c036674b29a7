"""Data: labelled texts from files, packages, the Hub and generators."""
