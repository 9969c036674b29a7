"""Backfill: past events scored with another version of the model, and the differences."""
