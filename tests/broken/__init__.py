"""Classes that are wrong in one way each: the checks of the contracts are seen to fail on them."""
