"""Audit: every event compared across topics and the online store."""
