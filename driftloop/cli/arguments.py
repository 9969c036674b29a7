"""Shared parts of the verbs' parsers: layout, groups of options, types of values, and the end of every help page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

Run = Callable[[argparse.Namespace], int]
"""Runs a verb on its parsed arguments and returns the exit status."""

TOPICS = (
    "events", "predictions", "labels", "outcomes", "drift-alerts", "model-updates", "mixture-updates", "retraining",
    "commands", "dead-letters",
)  # fmt: skip

EXIT_CODES = """
exit codes
  0    done
  1    incomplete: a check failed or a prerequisite is missing
  2    error: one sentence on standard error gives the cause and the remedy
  130  interrupted by Ctrl-C or SIGTERM; everything that was running was stopped in order
"""

SETTINGS = """
settings
  Each option of the stack is also an environment variable: DRIFTLOOP_KAFKA, DRIFTLOOP_REDIS, DRIFTLOOP_MLFLOW and
  DRIFTLOOP_STREAM. Each is also a key of the TOML file that --settings or DRIFTLOOP_SETTINGS names. An option overrides
  the environment, and the environment overrides the file. `driftloop doctor --settings` lists every setting with its
  value and meaning.
"""


class HelpPage(argparse.RawDescriptionHelpFormatter):
    """Help page whose texts keep their lines and whose options have a wide first column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=118)


class ArgumentParser(argparse.ArgumentParser):
    """Parser whose errors are one sentence on standard error."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        self.exit(2, f"driftloop: {message}; see `{self.prog} --help`.\n")


class Verbs:
    """The verbs of a command line, in the order in which they are added."""

    def __init__(self, root: ArgumentParser) -> None:
        self._parsers = root.add_subparsers(dest="verb", metavar="VERB", title="verbs", parser_class=ArgumentParser)

    def add(
        self, name: str, run: Run, summary: str, description: str, more: str, stack: ArgumentParser | None = None
    ) -> argparse.ArgumentParser:
        """Add a verb and return its parser, which still needs the verb's own arguments.

        Args:
            name: The verb.
            run: Function that runs it.
            summary: One line for `driftloop --help`.
            description: Text before the options.
            more: Text after the options: examples and further sections.
            stack: Options from `stack_options`. `None` if the verb takes none of them.
        """
        parser = self._parsers.add_parser(
            name,
            help=summary,
            description=description,
            epilog=f"{more.strip()}\n{SETTINGS}{EXIT_CODES}",
            parents=[] if stack is None else [stack],
            formatter_class=HelpPage,
        )
        parser.set_defaults(run_verb=run)
        return parser


def stack_options(*, settings_file: bool = True) -> ArgumentParser:
    """Return a parent parser with the options of the stack, and with --settings if ``settings_file``."""
    parser = ArgumentParser(add_help=False)
    group = parser.add_argument_group("the stack")
    group.add_argument("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers")
    group.add_argument("--redis", metavar="URL", help="Redis or Valkey, redis://host:port/0")
    group.add_argument("--mlflow", metavar="URL", help="MLflow, http://host:port")
    group.add_argument("--stream", metavar="ID", help="stream id, also the model's name in MLflow")
    if settings_file:
        group.add_argument("--settings", metavar="FILE", help="TOML file with settings; see `driftloop doctor`")
    return parser


def add_rate_and_limit(parser: argparse.ArgumentParser) -> None:
    """Add the options that set the speed and the length of a replay."""
    parser.add_argument("--rate", metavar="R", type=rate, help="events per second, or max (default: the scenario's)")
    parser.add_argument("--limit", metavar="N", type=count, help="only the first N events")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the option that selects a running simulation."""
    parser.add_argument("--run", metavar="DIR", help="of the simulation running in DIR (default: the newest)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints JSON."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def count(text: str) -> int:
    """Parse a whole number of 1 or more."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def whole_number(text: str) -> int:
    """Parse a whole number of 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def positive_number(text: str) -> float:
    """Parse a number above 0 and below one million."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def rate(text: str) -> str:
    """Check events per second: a number above 0, or `max`."""
    try:
        valid = text == "max" or float(text) > 0
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number above 0 nor "max"')
    return text
