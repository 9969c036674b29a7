"""Models of a few kilobytes for the checks of candidates."""
