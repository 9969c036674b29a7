"""Coordination of replicated processes: leader lease and fencing tokens."""
