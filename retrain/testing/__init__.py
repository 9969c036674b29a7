"""Test doubles: models of a few kilobytes for the checks of candidates."""
