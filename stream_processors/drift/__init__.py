"""Drift: which signals are watched, by which detectors, and what is said when one of them alarms."""
