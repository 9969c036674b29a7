"""Scoring: events in, predictions out."""
