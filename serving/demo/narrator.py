"""Tells a simulation as it happens: on the terminal, in the recording of it, and in the film of the live page."""

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
"""Seconds between two lines with the counts."""


class Narrator:
    """A view of a simulation; see `serving.simulation.terminal_view.View`.

    The telling has a thread of its own: it pauses, the stream does not.

    Args:
        console: where to.
        loop: State of the loop.
        story: knows what there is to tell.
        pause: seconds for each beat; the next one waits.
        film: file of the film of the live page; None: there is to be none.
    """

    def __init__(self, console: Console, loop: LoopState, story: Story, pause: float, film: Path | None) -> None:
        self._console = console
        self._loop = loop
        self._story = story
        self._pause = pause
        self._file = film
        self._film: Film | None = None
        self._beats: queue.Queue[Caption | None] = queue.Queue()
        self._hurry = threading.Event()
        self._closed = False
        self._last = time.monotonic()
        self._teller = threading.Thread(target=self._tell, daemon=True, name="teller")
        self._teller.start()
        for beat in story.opening():
            self._beats.put(beat)

    def on_page(self, address: str) -> None:
        """The live page answers: it is filmed from here on."""
        if self._file is not None:
            self._film = Film(address, self._file)

    def on_message(self, message: Message) -> None:
        """Take a message."""
        for beat in self._story.take(message):
            self._beats.put(beat)

    def on_tick(self) -> None:
        """Take the state."""
        if time.monotonic() - self._last >= STATUS_EVERY:
            self._last = time.monotonic()
            self._console.print(Text(status_line(self._loop), style="dim"), soft_wrap=True)

    def tell(self, beat: Caption) -> None:
        """Tell something more, after what is to be told before."""
        self._beats.put(beat)

    def close(self) -> None:
        """Wait until everything has been told, and end the film; doing it twice does no harm."""
        if self._closed:
            return
        self._closed = True
        self._beats.put(None)
        self._teller.join()
        if self._film is not None:
            failure = self._film.stop()
            if failure:
                self._console.print(Text(f"The film was not finished: {failure}", style="yellow"))

    def hurry(self) -> None:
        """What is left is told without pauses."""
        self._hurry.set()

    def _tell(self) -> None:
        while (beat := self._beats.get()) is not None:
            self._console.print(Panel(Text(beat.text), title=beat.title, title_align="left", border_style="cyan"))
            if self._film is not None:
                self._film.show(beat)
            self._hurry.wait(self._pause)
