"""Evaluation: the gate, its guards, sequential tests and shadow scoring."""
