"""Resilience: faults, promotions under load, backpressure and soak."""
