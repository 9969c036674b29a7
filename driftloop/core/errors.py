"""The one exception that users see."""

from __future__ import annotations


class DriftloopError(Exception):
    """Something the user can mend; its text is one sentence that says what happened and what to do.

    The command line prints the text without a traceback and exits with ``exit_code``.
    """

    exit_code = 2


class ShutdownRequested(Exception):
    """Something that was waited for is not waited for any more: the process was asked to end."""
