"""Log on standard error: plain lines or JSON objects, with the ids of their context.

JSON lines have ``time`` (ISO 8601, UTC), ``level``, ``role``, ``logger`` and ``message``. If known, they also have
``batch`` (topic-partition@first-last), ``event``, ``run`` (a retraining), ``version``, and ``trace``, the OpenTelemetry
trace id.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from driftloop.core.settings import LogSettings
from driftloop.core.terminal_text import escape_control_chars

NOISY_LIBRARIES = ("faust", "mode", "aiokafka", "asyncio", "mlflow", "nicegui", "httpx", "urllib3")
"""Libraries whose warnings are about their internals. driftloop reports what concerns the user."""
SILENCED_LIBRARIES = ("kafka",)
"""Libraries whose errors are also suppressed. kafka-python logs each attempt to connect as an error."""

log = logging.getLogger(__name__)
_context: ContextVar[dict[str, str]] = ContextVar("context", default={})  # noqa: B039  # never changed in place


def configure(settings: LogSettings, role: str) -> None:
    """Configure the log of this process.

    Args:
        settings: Format and level.
        role: Verb of the command line that this process runs.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(role) if settings.format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for library in NOISY_LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
    for library in SILENCED_LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL)


@contextmanager
def log_context(**ids: str) -> Iterator[None]:
    """Add ids such as ``batch``, ``event`` or ``run`` to the log lines of this thread or task in the block."""
    token = _context.set({**_context.get(), **ids})
    try:
        yield
    finally:
        _context.reset(token)


def print_error(sentence: str) -> None:
    """Print a sentence with a problem and its remedy on standard error."""
    handlers = logging.getLogger().handlers
    if handlers and isinstance(handlers[0].formatter, _JsonFormatter):
        log.error("%s", sentence)
    else:
        sys.stderr.write(f"driftloop: {escape_control_chars(sentence)}\n")
    sys.stderr.flush()


class _TextFormatter(logging.Formatter):
    """Time and message, with the ids of the context in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{key} {value}" for key, value in _context.get().items())
        first = f"{self.formatTime(record)} {record.getMessage()}" + (f" ({ids})" if ids else "")
        rest = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join(map(escape_control_chars, [first, *rest]))


class _JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)
