"""From a drift alert to a promoted model."""
