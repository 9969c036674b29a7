"""How processes live and die: the supervisor, the simulation, the embedded stack."""
