"""A terminal recording in asciinema's format (version 2, https://docs.asciinema.org/manual/asciicast/v2/)."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


class AsciicastWriter(io.TextIOBase):
    """A text stream that passes everything on to a terminal and writes it down with its time.

    Args:
        file: of the recording; written line by line, so that what was recorded before a crash is there.
        terminal: where everything goes as well.
        width, height: of the recorded terminal, in characters.
        title: of the recording.
        clock: seconds from anywhere.
    """

    def __init__(
        self,
        file: Path,
        terminal: TextIO,
        width: int,
        height: int,
        title: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terminal = terminal
        self._clock = clock
        self._began = clock()
        self._file = file.open("w", encoding="utf-8")
        head = {"version": 2, "width": width, "height": height, "timestamp": int(time.time()), "title": title}
        self._line(head)

    def write(self, text: str) -> int:
        """Write and record."""
        self._terminal.write(text)
        if not self._file.closed:
            # A recorded terminal is in no mode of its own: it wants the carriage's return as well.
            self._line([round(self._clock() - self._began, 3), "o", text.replace("\n", "\r\n")])
        return len(text)

    def flush(self) -> None:
        """Let the terminal show it."""
        self._terminal.flush()

    def isatty(self) -> bool:
        """Whether the terminal is one."""
        return self._terminal.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the terminal."""
        return getattr(self._terminal, "encoding", None) or "utf-8"

    def close(self) -> None:
        """End the recording; the terminal stays."""
        self._file.close()

    def _line(self, what: object) -> None:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()
