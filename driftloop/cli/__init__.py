"""Command line: the parser, one module per verb, and what the verbs share."""
