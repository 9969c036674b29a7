"""Checks for detectors, candidates, policies and classifiers; `driftloop check` runs them."""
