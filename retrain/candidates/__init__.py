"""Candidates: ways to learn a model from a window."""

import contextlib

with contextlib.suppress(ImportError):
    import update_checker

    # TPOT asks the package index for its newest version whenever it is imported, and waits for the answer.
    update_checker.update_check = lambda *_: None
