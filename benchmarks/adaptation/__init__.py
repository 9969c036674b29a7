"""Adaptation: accuracy of retraining policies on streams with known drift."""
