"""Processes: supervision, launching, health probes and resource usage."""
