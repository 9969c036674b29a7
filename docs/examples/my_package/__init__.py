"""One class of each kind that driftloop takes: docs/plugins.md explains them, and the tests check them."""
