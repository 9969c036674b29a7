"""Benchmarks: each prints its tables and can write its results as JSON."""
