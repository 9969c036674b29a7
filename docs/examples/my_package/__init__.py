"""One class of each kind that driftloop takes: docs/your-own.md explains them, and the tests check them."""
