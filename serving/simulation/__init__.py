"""Simulation: the summary of a run and its views on the terminal."""
