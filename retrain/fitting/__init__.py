"""Fitting: candidates in child processes with a time limit."""
