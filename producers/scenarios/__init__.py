"""Scenarios: the order of the rows, injected drift, and its true positions."""
