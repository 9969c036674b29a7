"""Classifiers: the protocol, the encoder, heads, and the signed bundle that holds both."""
