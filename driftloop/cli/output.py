"""Output of the commands: lines and JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""
PROGRESS_SECONDS = 2.0
"""Least seconds between two lines of `ThrottledProgress`."""


def write(line: str) -> None:
    """Write one line to standard output and flush it."""
    sys.stdout.write(escape_control_chars(line) + "\n")
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write one JSON document to standard output, in ASCII, so that untrusted text cannot control the terminal."""
    import msgspec

    body = json.dumps(msgspec.to_builtins(value), indent=2).replace("\x7f", "\\u007f")
    sys.stdout.write(body + "\n")
    sys.stdout.flush()


def write_progress(line: str) -> None:
    """Write one line to standard error and flush it."""
    sys.stderr.write(escape_control_chars(line) + "\n")
    sys.stderr.flush()


class ThrottledProgress:
    """Progress of a long command on standard error, at most one line in `PROGRESS_SECONDS`."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def report(self, line: str) -> None:
        """Write the line, unless another one was written a moment ago."""
        if time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            write_progress(line)


def open_console() -> Console:
    """Return a console that prints every text literally, `PIPE_WIDTH` columns wide if the output is no terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)
