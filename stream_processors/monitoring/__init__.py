"""Monitoring: predictions joined with their labels, and the drift monitor's stored state."""
