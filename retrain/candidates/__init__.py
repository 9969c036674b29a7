"""Candidates: ways to learn a model from a window."""
