"""Candidates: ways to learn a model from a training window."""

import contextlib

with contextlib.suppress(ImportError):
    import update_checker

    # TPOT asks the package index for its newest version at import, and waits for the answer.
    update_checker.update_check = lambda *_: None
