"""Exceptions of driftloop."""

from __future__ import annotations


class DriftloopError(Exception):
    """Error that the user can correct. The message names the problem, its cause and the remedy.

    The command line prints the message without a traceback and exits with ``exit_code``.
    """

    exit_code = 2


class ShutdownRequested(Exception):
    """A blocking wait was interrupted because the process is shutting down."""
