"""Learning of the mixture of experts from every label."""
