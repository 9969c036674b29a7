"""What the server has loaded that children are forked from, frozen: a collection in a child would copy its pages."""

import gc

import retrain.candidates.catalogue
import retrain.candidates.linear  # noqa: F401 - the quick candidate is what is waited for

gc.freeze()
