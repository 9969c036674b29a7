"""What the verbs share: options on top of the environment, where a running simulation is, and plain speech."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from driftloop.core.observability import logs
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from rich.console import Console

    from driftloop.core.settings import Settings

INTERRUPTED = 130
SCENARIO, SETTINGS = "scenario.toml", "driftloop.toml"
"""What `driftloop init` writes."""
WIDE = 140
TELL_EVERY = 2.0


def environ_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings file's variables, the environment on top, and on both the options of the stack.

    Raises:
        DriftloopError: there is no such file, or a key in it does not fit.
    """
    from driftloop.core import settings as tree

    given = {name: getattr(arguments, name) for name in ("kafka", "redis", "mlflow", "stream", "settings")}
    options = {f"DRIFTLOOP_{name.upper()}": value for name, value in given.items() if value}
    return tree.with_file({**os.environ, **options})


def open_project(arguments: argparse.Namespace) -> None:
    """A folder in place of a scenario stands for what `driftloop init` wrote into it.

    That is its scenario.toml and, where no settings file is named, its driftloop.toml.
    """
    folder = Path(arguments.scenario or "")
    if arguments.scenario is None or not (folder / SCENARIO).is_file():
        return
    arguments.scenario = str(folder / SCENARIO)
    if arguments.settings is None and not os.environ.get("DRIFTLOOP_SETTINGS") and (folder / SETTINGS).is_file():
        arguments.settings = str(folder / SETTINGS)


def load_settings(arguments: argparse.Namespace, remembered: dict[str, str] | None = None) -> Settings:
    """The settings from options, environment, settings file and, below these, ``remembered`` variables."""
    from driftloop.core import settings as tree

    settings = tree.load({**(remembered or {}), **environ_of(arguments)})
    logs.configure(settings.logs, arguments.verb)
    return settings


def find_settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the simulation that runs on this machine, where none are given."""
    from driftloop.cli import run_directory
    from driftloop.core import settings as tree

    environ, running = run_directory.environ_of(Path(arguments.run) if arguments.run else None, environ_of(arguments))
    settings = tree.load(environ)
    logs.configure(settings.logs, arguments.verb)
    if running is None and "DRIFTLOOP_KAFKA" not in environ:
        logs.print_error(f"No simulation is running on this machine; trying Kafka at {settings.kafka}.")
    return settings


def terminate_as_interrupt() -> None:
    """SIGTERM ends a command the way Ctrl-C does: in order; so does SIGINT where a shell's `&` had it ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


def open_console() -> Console:
    """The terminal, taking every text as it is; wide where the output goes to a file or a pipe."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDE)


class Progress:
    """What a long command tells on standard error, no more often than every two seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        """Tell it, unless something was told just now."""
        if time.monotonic() - self._last >= TELL_EVERY:
            self._last = time.monotonic()
            sys.stderr.write(escape_control_chars(line) + "\n")
            sys.stderr.flush()


def write(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(escape_control_chars(line) + "\n")
    sys.stdout.flush()
