"""Simulation of a whole loop: run directory, stack, processes, view, summary and report."""
