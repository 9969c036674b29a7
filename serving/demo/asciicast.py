"""Terminal recording in asciinema's format (version 2, https://docs.asciinema.org/manual/asciicast/v2/)."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


class AsciicastWriter(io.TextIOBase):
    """Text stream that writes to a terminal and records each write with its time.

    Args:
        file: File of the recording. It is written line by line, so that a crash loses nothing.
        terminal: The terminal.
        width: Width of the recorded terminal in characters.
        height: Height of the recorded terminal in characters.
        title: Title of the recording.
        clock: Monotonic clock in seconds.
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
        """Write to the terminal and to the recording."""
        self._terminal.write(text)
        if not self._file.closed:
            # A player does not translate line feeds: each line needs a carriage return as well.
            self._line([round(self._clock() - self._began, 3), "o", text.replace("\n", "\r\n")])
        return len(text)

    def flush(self) -> None:
        """Flush the terminal."""
        self._terminal.flush()

    def isatty(self) -> bool:
        """Return True if the output is a terminal."""
        return self._terminal.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the terminal."""
        return getattr(self._terminal, "encoding", None) or "utf-8"

    def close(self) -> None:
        """End the recording. The terminal stays open."""
        self._file.close()

    def _line(self, value: object) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()
