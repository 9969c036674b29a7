"""Modules that the fork server preloads.

The heap is frozen, so that a garbage collection in a child does not copy shared pages.
"""

import gc

import retrain.candidates.catalogue
import retrain.candidates.linear  # noqa: F401 - the worker waits for this candidate

gc.freeze()
