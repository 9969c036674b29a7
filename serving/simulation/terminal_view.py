"""Live view of a simulation in a terminal, and its plain form for logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from driftloop.core.messages import Message
from driftloop.core.terminal_text import escape_control_chars
from serving.live.loop_state import LoopState
from serving.live.status import LoopStatus
from serving.simulation.sparkline import Sparklines, draw_sparklines

VERSIONS, LINES = 6, 6
"""Model versions and lines of news that are shown."""
PLAIN_EVERY = 5.0
"""Seconds between two status lines of the plain view."""
LABEL = 24
"""Characters before a sparkline."""
NARROW = 60
"""Width below which the versions have no sparklines."""


class View(Protocol):
    """View of a simulation; see `driftloop.cli.simulation.simulation.Observer`."""

    def on_message(self, message: Message) -> None:
        """Show a message that the state has taken."""
        ...

    def on_tick(self) -> None:
        """Show the state, about twice a second."""
        ...

    def close(self) -> None:
        """End the view."""
        ...


def open_view(console: Console, loop: LoopState, *, plain: bool) -> View:
    """Return a live view, or a plain one if the console is no terminal.

    Args:
        console: Console to draw on.
        loop: State to show.
        plain: Always return the plain view.
    """
    return PlainView(loop, console) if plain or not console.is_terminal else LiveView(loop, console)


class PlainView:
    """Prints a status line every few seconds, and each line of news.

    Args:
        loop: State to show.
        console: Console to print on.
        clock: Monotonic seconds.
    """

    def __init__(self, loop: LoopState, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._console = console
        self._clock = clock
        self._status_at = float("-inf")
        self._printed = 0
        self._closed = False

    def on_message(self, message: Message) -> None:
        """Print the news of a message."""
        self._print_news()

    def on_tick(self) -> None:
        """Print new lines of news, and a status line if `PLAIN_EVERY` seconds have passed."""
        self._print_news()
        if self._clock() - self._status_at >= PLAIN_EVERY:
            self._status_at = self._clock()
            self._print(status_line(self._loop))

    def close(self) -> None:
        """Print the last status line, once."""
        if not self._closed:
            self._closed = True
            self._print(status_line(self._loop))

    def _print_news(self) -> None:
        news = self._loop.news
        new = news.total - self._printed
        self._printed = news.total
        for line in list(news.lines)[-new:] if new else ():
            self._print(f"{time.time() - self._loop.status.began:6.1f} s  {line}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class LiveView:
    """Redraws a block of lines four times a second, in its own thread.

    Args:
        loop: State to show.
        console: Terminal to draw on.
    """

    def __init__(self, loop: LoopState, console: Console) -> None:
        self._loop = loop
        self._console = console
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

    def on_message(self, message: Message) -> None:
        """Do nothing: the next redraw shows the message."""

    def on_tick(self) -> None:
        """Do nothing: the next redraw shows the state."""

    def close(self) -> None:
        """Draw once more and give the terminal back."""
        self._live.stop()

    def _render(self) -> Text:
        with self._loop.lock:
            return draw(self._loop, self._console.width, self._console.options.ascii_only)


def status_line(loop: LoopState) -> str:
    """Return the counts of a loop on one line."""
    status, accuracy = loop.status, loop.accuracy.accuracy
    shown = "" if accuracy is None else f"  accuracy {accuracy:.3f}"
    model = ""
    if loop.accuracy.versions:
        name, newest = next(reversed(loop.accuracy.versions.items()))
        if newest.accuracy is not None:
            model = f" (v{escape_control_chars(name, 40)} alone {newest.accuracy:.3f})"
    restarts = sum(process.restarts for process in status.processes.values())
    parts = [
        f"{time.time() - status.began:6.1f} s  {status.phase}",
        f"events {status.events}/{status.total}  {loop.rate:.1f}/s  lag {status.lag}",
        f"predicted {status.predictions}  labelled {status.outcomes}{shown}{model}",
    ]
    parts += [f"dead letters {status.dead_letters}"] if status.dead_letters else []
    parts += [f"restarts {restarts}"] if restarts else []
    return "  ".join(parts)


def draw(loop: LoopState, width: int, ascii_only: bool = False) -> Text:
    """Draw the whole view.

    Args:
        loop: State to show.
        width: Most characters of a line; below `NARROW` the versions have no sparklines.
        ascii_only: Draw with ASCII characters.
    """
    lines = [*_counts(loop), Text(), *_accuracy(loop, width, ascii_only), Text()]
    lines.append(Text("retraining ", style="bold") + Text(escape_control_chars(loop.retraining)))
    lines += [Text(line, style=_style(line)) for line in list(loop.news.lines)[-LINES:]]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        if ascii_only:
            # Written out as \u25b2 a mark would make the line longer than the terminal is wide.
            line.plain = "".join(c if c.isascii() else _ASCII.get(c, "?") for c in line.plain)
    return Text("\n", no_wrap=True).join(lines)


def _counts(loop: LoopState) -> list[Text]:
    """Return the lines of the title, the clock, the counts and the processes."""
    status = loop.status
    first = status.first_prediction_seconds
    clock = f"{time.time() - status.began:.0f} s"
    clock += "" if first is None else f", first prediction after {first:.1f} s"
    clock += f", {status.page}" if status.page else ""
    clock += f", {status.memory_mb / 1024:.1f} GB" if status.memory_mb else ""
    total = f"/{status.total}" if status.total else ""
    dead = f"   dead letters {status.dead_letters}" if status.dead_letters else ""
    lines = [
        Text.assemble((f"driftloop  {escape_control_chars(loop.title)}", "bold"), f"  {status.phase}"),
        Text(clock, style="dim"),
        Text(f"events {status.events}{total}   {loop.rate:.1f}/s   lag {status.lag}"),
        Text(f"predicted {status.predictions}   labelled {status.outcomes}{dead}"),
    ]
    return [*lines, Text("processes  ").append_text(_processes(status))] if status.processes else lines


def _accuracy(loop: LoopState, width: int, ascii_only: bool) -> list[Text]:
    """Return the lines of the accuracy, its marks and the model versions."""
    wide = width >= NARROW
    columns = max(width - LABEL - 1, 10) if wide else max(width - 8, 8)
    drawn = draw_sparklines(loop.accuracy, loop.status.total, columns, ascii_only)
    head = f"{'accuracy':<10}{_share(loop.accuracy.accuracy)}"
    if wide:
        scale = f"  {drawn.low:.1f} to {drawn.high:.1f}"
        lines = [
            Text(f"{head:<{LABEL}}") + Text(drawn.accuracy, style="cyan"),
            Text(f"{scale:<{LABEL}}", style="dim") + _marks(drawn),
        ]
    else:
        lines = [Text(head), Text(drawn.accuracy, style="cyan"), _marks(drawn)]
    for version, track in list(loop.accuracy.versions.items())[-VERSIONS:]:
        name = f"{'v' + escape_control_chars(version, 7):<10}{_share(track.accuracy)} {track.scored:>6}"
        line = Text(f"{name:<{LABEL}}")
        lines.append(line + Text(drawn.versions[version], style="green") if wide else line)
    return lines


_ASCII = {"▲": "^", "△": "'", "●": "o", "○": "o", "†": "+", "–": "-", "…": "~"}


def _share(value: float | None) -> str:
    return "  –  " if value is None else f"{value:.3f}"


def _marks(drawn: Sparklines) -> Text:
    line = Text(drawn.marks)
    line.highlight_regex(r"[▲^]", "red")
    line.highlight_regex(r"[●o]", "green")
    return line


def _processes(status: LoopStatus) -> Text:
    line = Text()
    for process in status.processes.values():
        done = process.exit_code == 0
        word = "on" if process.running else "done" if done else "starting" if process.exit_code is None else "ended"
        style = "green" if process.running or done else "yellow"
        restarts = f" ({process.restarts} restarts)" if process.restarts else ""
        line.append(f"{process.name} ").append(f"{word}{restarts}  ", style)
    return line


def _style(line: str) -> str:
    return {"▲": "red", "●": "green", "†": "yellow", "!": "yellow"}.get(line[:1], "dim")
