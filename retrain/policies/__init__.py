"""Policies: decide when to retrain."""
