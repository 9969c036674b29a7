"""Custom classes with one fault each, on which the checks fail."""
