"""Narration of a simulation on the terminal, in its recording, and in the video of the live page."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from driftloop.core.messages import Message
from serving.demo.script import Caption, Story
from serving.demo.video import Film
from serving.live.loop_state import LoopState
from serving.simulation.terminal_view import status_line

STATUS_EVERY = 15.0
"""Seconds between two status lines."""


class Narrator:
    """View of a simulation that explains each step; see `serving.simulation.terminal_view.View`.

    Captions are shown in a separate thread, which pauses after each one. The stream does not pause.

    Args:
        console: Terminal for the captions.
        loop: State of the loop.
        story: Source of the captions.
        pause: Seconds after each caption.
        film: File of the video of the live page; `None` for no video.
    """

    def __init__(self, console: Console, loop: LoopState, story: Story, pause: float, film: Path | None) -> None:
        self._console = console
        self._loop = loop
        self._story = story
        self._pause = pause
        self._file = film
        self._film: Film | None = None
        self._captions: queue.Queue[Caption | None] = queue.Queue()
        self._no_pauses = threading.Event()
        self._closed = False
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._show_captions, daemon=True, name="narrator")
        self._thread.start()
        for caption in story.opening():
            self._captions.put(caption)

    def on_page(self, address: str) -> None:
        """Start the video of the live page."""
        if self._file is not None:
            self._film = Film(address, self._file)

    def on_message(self, message: Message) -> None:
        """Show the captions for a message."""
        for caption in self._story.take(message):
            self._captions.put(caption)

    def on_tick(self) -> None:
        """Print a status line from time to time."""
        if time.monotonic() - self._last >= STATUS_EVERY:
            self._last = time.monotonic()
            self._console.print(Text(status_line(self._loop), style="dim"), soft_wrap=True)

    def add_caption(self, caption: Caption) -> None:
        """Show a caption after the earlier ones."""
        self._captions.put(caption)

    def close(self) -> None:
        """Wait until all captions have been shown, and end the video. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._captions.put(None)
        self._thread.join()
        if self._film is not None:
            failure = self._film.stop()
            if failure:
                self._console.print(Text(f"The video is incomplete: {failure}", style="yellow"))

    def skip_pauses(self) -> None:
        """Show the remaining captions without pauses."""
        self._no_pauses.set()

    def _show_captions(self) -> None:
        while (caption := self._captions.get()) is not None:
            self._console.print(Panel(Text(caption.text), title=caption.title, title_align="left", border_style="cyan"))
            if self._film is not None:
                self._film.show(caption)
            self._no_pauses.wait(self._pause)
