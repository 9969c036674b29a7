"""Drift detection: signals, detectors, and the alerts that they raise."""
