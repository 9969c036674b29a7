"""Stage of a simulation: the view that shows it, and its reactions to the live page and to the end."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import Protocol

from rich.console import Console

from driftloop.cli.simulation.prepare import PreparedRun
from serving.live.loop_state import LoopState
from serving.simulation import terminal_view
from serving.simulation.summary import Summary


class Stage(Protocol):
    """Shows a simulation to the user."""

    def open(self, console: Console, run: PreparedRun, loop: LoopState) -> terminal_view.View:
        """Return the view of the simulation.

        Args:
            console: Terminal of the command.
            run: Run that starts.
            loop: State of the loop, updated by the simulation.
        """
        ...

    def on_page(self, address: str) -> None:
        """Handle the address of the live page, which answers now."""
        ...

    def conclude(self, found: Summary) -> None:
        """Handle the summary at the end, while the live page still answers."""
        ...


class TerminalStage:
    """Shows a simulation in the terminal, and its live page in a browser.

    Args:
        plain: Print lines instead of a live picture.
        open_browser: Open the live page in a browser, if this machine has a graphical display.
    """

    def __init__(self, *, plain: bool, open_browser: bool) -> None:
        self._plain = plain
        self._open_browser = open_browser
        self._interactive = False

    def open(self, console: Console, run: PreparedRun, loop: LoopState) -> terminal_view.View:
        """Return a live view, or a plain one if the console is no terminal.

        Args:
            console: Terminal of the command.
            run: Run that starts.
            loop: State of the loop, updated by the simulation.
        """
        self._interactive = console.is_terminal
        return terminal_view.open_view(console, loop, plain=self._plain)

    def on_page(self, address: str) -> None:
        """Open the page in a browser. A browser inside the terminal would hide the view, so a display is required."""
        graphical = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if self._interactive and graphical and self._open_browser:
            webbrowser.open(address)

    def conclude(self, found: Summary) -> None:
        """Do nothing: the summary is printed after the view has closed."""
