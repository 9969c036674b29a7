"""What a process says on standard error: lines for people or, as JSON, for machines, with the ids of what it is about.

JSON lines have ``time`` (ISO 8601, UTC), ``level``, ``role``, ``logger``, ``message`` and, where they are known,
``batch`` (topic-partition@first-last), ``event``, ``run`` (a retraining), ``version`` and ``trace`` (the OpenTelemetry
trace id, where traces are on).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from driftloop.core.settings import LogSettings

NOISY_LIBRARIES = ("faust", "mode", "aiokafka", "asyncio", "mlflow", "nicegui", "httpx", "urllib3")
"""Libraries whose warnings tell of their insides: what of them concerns a user is said by us."""
SILENCED_LIBRARIES = ("kafka",)
"""One whose errors do as well: kafka-python logs each try to connect as one."""

log = logging.getLogger(__name__)
_context: ContextVar[dict[str, str]] = ContextVar("about", default={})  # noqa: B039  # never changed in place


def configure(settings: LogSettings, role: str) -> None:
    """Write this process's log as ``settings`` say; ``role`` is the verb it was started with."""
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
    """Whatever this thread or task logs in the block is about these: ``batch``, ``event``, ``run`` and the like."""
    token = _context.set({**_context.get(), **ids})
    try:
        yield
    finally:
        _context.reset(token)


def print_error(sentence: str) -> None:
    """One sentence on standard error: why something cannot be done, and what to do about it."""
    handlers = logging.getLogger().handlers
    if handlers and isinstance(handlers[0].formatter, _JsonFormatter):
        log.error("%s", sentence)
    else:
        sys.stderr.write(f"driftloop: {escape_control_chars(sentence)}\n")
    sys.stderr.flush()


class _TextFormatter(logging.Formatter):
    """Time and words, and in brackets what they are about."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{key} {value}" for key, value in _context.get().items())
        first = f"{self.formatTime(record)} {record.getMessage()}" + (f" ({ids})" if ids else "")
        rest = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join(map(escape_control_chars, [first, *rest]))


class _JsonFormatter(logging.Formatter):
    """A JSON object on a line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)
