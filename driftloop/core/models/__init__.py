"""Models: the protocol of classifiers, encoders, heads, and signed bundles."""
