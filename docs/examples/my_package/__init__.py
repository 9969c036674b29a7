"""One custom class of each kind; docs/plugins.md explains them, and the tests check them."""
