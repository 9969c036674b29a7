"""Policies: when to retrain."""
