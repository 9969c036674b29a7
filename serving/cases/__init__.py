"""Cases: one drift alert with its cause, cost and outcome."""
