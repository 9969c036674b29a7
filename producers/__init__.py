"""Replay a dataset as a live stream, with late labels."""
