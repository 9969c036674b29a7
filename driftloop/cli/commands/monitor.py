"""`driftloop monitor`: joins predictions with their labels and detects drift."""

from __future__ import annotations

import argparse

from driftloop.cli.arguments import Verbs, stack_options
from driftloop.cli.options import StackOptions, load_process_settings

DESCRIPTION = """\
Joins predictions with their late labels and monitors them for drift: in the error, in the confidence and in the mix of
predicted labels. An alarm becomes an alert that reports when the change likely began and what changed. The state
of the detectors survives a restart, and no event is counted twice.

reads   predictions, labels
writes  outcomes, drift-alerts, dead-letters; state to Redis
"""

MORE = """
examples
  driftloop monitor --kafka broker:9092 --redis redis://cache:6379/0
  DRIFTLOOP_MONITOR__DETECTORS='error:adwin,error:ddm,mix:adwin?delta=1e-6' driftloop monitor
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verbs.add("monitor", run, "join labels, detect drift", DESCRIPTION, MORE, stack_options())


def run(arguments: argparse.Namespace) -> int:
    """Monitor the stream until the process is told to stop, and return the exit status."""
    settings = load_process_settings(StackOptions.of(arguments))
    from driftloop.core.observability import tracing
    from stream_processors.monitoring import monitor

    with tracing.tracing(settings, "monitor"):
        monitor.run(settings)
    return 0
