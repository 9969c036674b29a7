"""Settings of a command: its options on top of the environment, the settings file and a running simulation."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from driftloop.core.observability import logs

if TYPE_CHECKING:
    import argparse

    from driftloop.core.settings import Settings

INTERRUPTED = 130
"""Exit status of an interrupted command."""
SCENARIO, SETTINGS = "scenario.toml", "driftloop.toml"
"""Files that `driftloop init` writes."""


class StackOptions(NamedTuple):
    """Options of the group "the stack". `None` if an option is not given.

    A named tuple, because importing `dataclasses` would double the time of `driftloop --help`.
    """

    verb: str
    kafka: str | None = None
    redis: str | None = None
    mlflow: str | None = None
    stream: str | None = None
    settings_file: str | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> StackOptions:
        """Return the options in parsed arguments."""
        return cls(
            arguments.verb,
            kafka=arguments.kafka,
            redis=arguments.redis,
            mlflow=arguments.mlflow,
            stream=arguments.stream,
            settings_file=arguments.settings,
        )

    def environ(self) -> dict[str, str]:
        """Return the variables of the settings file, overridden by the environment, overridden by these options.

        Raises:
            DriftloopError: the settings file does not exist, or it has a key that does not fit.
        """
        from driftloop.core import settings_source

        options = {
            "DRIFTLOOP_KAFKA": self.kafka,
            "DRIFTLOOP_REDIS": self.redis,
            "DRIFTLOOP_MLFLOW": self.mlflow,
            "DRIFTLOOP_STREAM": self.stream,
            settings_source.SETTINGS_FILE: self.settings_file,
        }
        return settings_source.with_file({**os.environ, **{name: value for name, value in options.items() if value}})


def open_project(scenario: str, stack: StackOptions) -> tuple[str, StackOptions]:
    """Replace a project folder by the files that `driftloop init` wrote into it.

    The scenario becomes the folder's scenario.toml. The settings file becomes its driftloop.toml, unless another file
    is named. Anything but a project folder is returned unchanged.

    Args:
        scenario: Scenario as given on the command line.
        stack: Options as given on the command line.
    """
    folder = Path(scenario)
    if not (folder / SCENARIO).is_file():
        return scenario, stack
    named = stack.settings_file is not None or os.environ.get("DRIFTLOOP_SETTINGS")
    if not named and (folder / SETTINGS).is_file():
        stack = stack._replace(settings_file=str(folder / SETTINGS))
    return str(folder / SCENARIO), stack


def load_settings(stack: StackOptions, remembered: dict[str, str] | None = None) -> Settings:
    """Load the settings and configure the log of this process.

    Args:
        stack: Options of the command line.
        remembered: Variables with the lowest priority, from the record of an earlier run.

    Raises:
        DriftloopError: a setting does not fit.
    """
    from driftloop.core import settings_source

    settings = settings_source.load({**(remembered or {}), **stack.environ()})
    logs.configure(settings.logs, stack.verb)
    return settings


def find_settings(stack: StackOptions, run: str | None) -> Settings:
    """Load the settings of a simulation that is running on this machine, overridden by options and environment.

    Args:
        stack: Options of the command line.
        run: Directory of the simulation. `None` selects the newest one, if any is running.

    Raises:
        DriftloopError: a setting does not fit, or no simulation is running in that directory.
    """
    from driftloop.cli import run_directory
    from driftloop.core import settings_source

    environ, running = run_directory.environ_of(Path(run) if run else None, stack.environ())
    settings = settings_source.load(environ)
    logs.configure(settings.logs, stack.verb)
    if running is None and "DRIFTLOOP_KAFKA" not in environ:
        logs.print_error(f"No simulation is running on this machine; trying Kafka at {settings.kafka}.")
    return settings


def load_process_settings(stack: StackOptions) -> Settings:
    """Load the settings of a long-running process, check Redis and Kafka, and create missing topics.

    A connection error becomes one line here instead of a traceback of Faust.

    Raises:
        DriftloopError: a service does not answer, or the identity of this process lacks the rights of its role.
    """
    from driftloop.core import topics
    from driftloop.core.kafka import acls
    from driftloop.core.online_store import OnlineStore

    settings = load_settings(stack)
    OnlineStore(settings).check()
    topics.create(settings)
    acls.check_acls(settings, acls.find_role(acls.role_of(stack.verb)))
    return settings


def terminate_as_interrupt() -> None:
    """Let SIGTERM raise `KeyboardInterrupt`, as Ctrl-C does, and SIGINT too if a shell's `&` made it ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
