"""Commands: one module per verb, its help text beside its code."""
