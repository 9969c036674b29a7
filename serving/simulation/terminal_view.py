"""The live view of a simulation in a terminal, and its plain twin for logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from driftloop.core.loop_progress import State
from driftloop.core.messages import Message
from driftloop.core.terminal_text import escape_control_chars
from driftloop.core.topics import Topic
from serving.live.loop_view import LoopView, Timeline

VERSIONS, LINES = 6, 6
"""Model versions and news lines shown."""
PLAIN_EVERY = 5.0
"""Seconds between two lines of the plain view, apart from news."""


class View(Protocol):
    """What `driftloop.cli.simulation.Observer` asks for."""

    def on_message(self, topic: Topic, message: Message) -> None:
        """Take a message."""
        ...

    def on_tick(self, state: State) -> None:
        """Take the state."""
        ...

    def close(self) -> None:
        """End the view."""
        ...


def open_view(console: Console, title: str, *, plain: bool, bootstrap: int = 0, drifts: Sequence[int] = ()) -> View:
    """A live view on ``console``, or a plain one when asked for or where the console is no terminal.

    Args:
        console: where to.
        title: name of the scenario.
        plain: print lines instead of drawing.
        bootstrap: events at the beginning that the first model is trained on; they count for no accuracy.
        drifts: true drift positions, where they are known.
    """
    board = LoopView(title, bootstrap, drifts)
    return PlainView(board, console) if plain or not console.is_terminal else LiveView(board, console)


class PlainView:
    """One line every few seconds, and one for each piece of news."""

    def __init__(self, board: LoopView, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._console = console
        self._clock = clock
        self._last = float("-inf")
        self._printed = 0
        self._closed = False

    def on_message(self, topic: Topic, message: Message) -> None:
        """Take a message."""
        self._board.take(message)
        self._flush()

    def on_tick(self, state: State) -> None:
        """Take the state; a status line is due every `PLAIN_EVERY` seconds."""
        self._board.tick(state)
        self._flush()
        if self._clock() - self._last >= PLAIN_EVERY:
            self._last = self._clock()
            self._line(self._board.status())

    def close(self) -> None:
        """Print the last state; doing it twice does no harm."""
        if not self._closed:
            self._closed = True
            self._line(self._board.status())

    def _flush(self) -> None:
        new = self._board.printed - self._printed
        self._printed = self._board.printed
        for line in list(self._board.news)[-new:] if new else ():
            self._line(f"{time.time() - self._board.state.began:6.1f} s  {line}")

    def _line(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class LiveView:
    """A block of lines that is redrawn four times a second, by a thread of its own."""

    def __init__(self, board: LoopView, console: Console) -> None:
        self._board = board
        self._console = console
        self._lock = threading.Lock()
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=False,
            vertical_overflow="crop",
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def on_message(self, topic: Topic, message: Message) -> None:
        """Take a message."""
        with self._lock:
            self._board.take(message)

    def on_tick(self, state: State) -> None:
        """Take the state."""
        with self._lock:
            self._board.tick(state)

    def close(self) -> None:
        """Draw once more and give the terminal back."""
        self._live.stop()

    def _render(self) -> Text:
        with self._lock:
            return draw(self._board, self._console.width, self._console.options.ascii_only)


def draw(board: LoopView, width: int, ascii_only: bool = False) -> Text:
    """The whole view as lines no wider than ``width``; below 60 columns the sparklines of the versions are left out."""
    state = board.state
    lines = [Text.assemble((f"driftloop  {escape_control_chars(board.title)}", "bold"), f"  {state.phase}")]
    first = state.first_prediction_seconds
    clock = f"{time.time() - state.began:.0f} s"
    clock += "" if first is None else f", first prediction after {first:.1f} s"
    clock += f", {state.page}" if state.page else ""
    clock += f", {state.memory_mb / 1024:.1f} GB" if state.memory_mb else ""
    lines.append(Text(clock, style="dim"))
    of = f"/{state.total}" if state.total else ""
    lines.append(Text(f"events {state.events}{of}   {board.rate:.1f}/s   lag {state.lag}"))
    dead = f"   dead letters {state.dead_letters}" if state.dead_letters else ""
    lines.append(Text(f"predicted {state.predictions}   labelled {state.outcomes}{dead}"))
    if state.children:
        lines.append(Text("processes  ").append_text(_processes(state)))
    lines.append(Text())
    label = 24
    timeline = board.timeline(max(width - label - 1, 10) if width >= 60 else max(width - 8, 8), ascii_only)
    head = f"{'accuracy':<10}{_share(board.accuracy)}"
    if width >= 60:
        lines.append(Text(f"{head:<{label}}") + Text(timeline.accuracy, style="cyan"))
        lines.append(Text(f"{f'  {timeline.low:.1f} to {timeline.high:.1f}':<{label}}", style="dim") + _marks(timeline))
    else:
        lines += [Text(head), Text(timeline.accuracy, style="cyan"), _marks(timeline)]
    for track in list(board.versions.values())[-VERSIONS:]:
        name = f"{'v' + escape_control_chars(track.version, 7):<10}{_share(track.accuracy)} {track.scored:>6}"
        line = Text(f"{name:<{label}}")
        lines.append(line + Text(timeline.versions[track.version], style="green") if width >= 60 else line)
    lines.append(Text())
    lines.append(Text("retraining ", style="bold") + Text(escape_control_chars(board.retraining)))
    lines += [Text(line, style=_style(line)) for line in list(board.news)[-LINES:]]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        if ascii_only:
            # Written out as \u25b2 a mark would make the line longer than the terminal is wide.
            line.plain = "".join(c if c.isascii() else _ASCII.get(c, "?") for c in line.plain)
    return Text("\n", no_wrap=True).join(lines)


_ASCII = {"▲": "^", "△": "'", "●": "o", "○": "o", "†": "+", "–": "-", "…": "~"}


def _share(value: float | None) -> str:
    return "  –  " if value is None else f"{value:.3f}"


def _marks(timeline: Timeline) -> Text:
    line = Text(timeline.marks)
    line.highlight_regex(r"[▲^]", "red")
    line.highlight_regex(r"[●o]", "green")
    return line


def _processes(state: State) -> Text:
    line = Text()
    for child in state.children.values():
        ended = child.exit_code == 0
        word = "on" if child.running else "done" if ended else "starting" if child.exit_code is None else "ended"
        style = "green" if child.running or ended else "yellow"
        again = f" ({child.restarts} restarts)" if child.restarts else ""
        line.append(f"{child.name} ").append(f"{word}{again}  ", style)
    return line


def _style(line: str) -> str:
    return {"▲": "red", "●": "green", "†": "yellow", "!": "yellow"}.get(line[:1], "dim")
