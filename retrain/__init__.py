"""Retraining: from a drift alert to a promoted model."""
