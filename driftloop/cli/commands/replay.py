"""`driftloop replay`: sends the events and labels of a scenario."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from driftloop.cli.arguments import Verbs, add_rate_and_limit, stack_options
from driftloop.cli.options import INTERRUPTED, StackOptions, load_settings, open_project
from driftloop.cli.output import write

if TYPE_CHECKING:
    from driftloop.core.health import Heartbeat

DESCRIPTION = """\
Sends the events of a scenario at their rate. Each label follows some events later, on the topic labels. Event ids
are derived from the data, so the same scenario always sends the same ids. A replay that was interrupted continues after
the last message on the topics. The first events train the first model: they are sent at full speed with their labels.

reads   the end of events and labels, to find where to continue
writes  events, labels (created if missing)
"""

MORE = """
examples
  driftloop replay tweets --kafka localhost:9092
  driftloop replay mine.toml --rate max --limit 1000

a scenario file
  rate = 40                    # events per second, or "max"
  label_delay = 200            # a label follows its event after 200 further events
  [dataset]
  path = "reviews.csv"         # or packaged = "tweets", or hub = "owner/name"
  text = "review"              # columns
  label = "stars"
"""

PROGRESS_SECONDS = 5.0
"""Least seconds between two lines of progress."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("replay", run, "send a scenario's events and labels", DESCRIPTION, MORE, stack_options())
    verb.add_argument("scenario", metavar="SCENARIO", help="name, TOML file or project")
    add_rate_and_limit(verb)


def run(arguments: argparse.Namespace) -> int:
    """Send the scenario and return the exit status."""
    from driftloop.core.health import Heartbeat, serve_health
    from driftloop.core.observability import tracing
    from producers import replay
    from producers.scenarios.scenarios import load_scenario

    name, stack = open_project(arguments.scenario, StackOptions.of(arguments))
    settings = load_settings(stack)
    scenario = load_scenario(name, mask=settings.mask)
    heartbeat = Heartbeat(settings.health.patience)
    for page in settings.pages:
        write(page)
    with serve_health(settings.health, heartbeat), tracing.tracing(settings, "replay"):
        report = replay.run(
            settings, scenario, rate=arguments.rate, limit=arguments.limit, progress=_Progress(heartbeat)
        )
    resumed = f" after the {report.resumed_from} sent earlier" if report.resumed_from else ""
    write(f"{report.events} events{resumed} and {report.labels} labels sent in {report.seconds:.1f} s.")
    return 0 if report.complete else INTERRUPTED


class _Progress:
    """Reports the progress of a replay to `/health` and, every few seconds, to standard output."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._last = float("-inf")

    def __call__(self, sent: int, total: int, rate: float) -> None:
        line = f"{sent} of {total} events sent, {rate:.1f}/s"
        self._heartbeat.beat(line)
        if sent == total or time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            write(line)
