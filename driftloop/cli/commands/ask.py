"""`driftloop ask`: lists the events whose labels would help the model most."""

from __future__ import annotations

import argparse

from driftloop.cli.arguments import Verbs, add_json, add_run, stack_options
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt
from driftloop.cli.output import write, write_json
from driftloop.core.errors import DriftloopError
from driftloop.core.terminal_text import escape_control_chars

DESCRIPTION = """\
Lists the events without a label whose labels would help the model most. These are the events that the model is unsure
about, events unlike all labelled ones, and events of a segment that moved according to the newest alert. Near
duplicates are listed once. Send the answers as messages on `labels`.

reads   predictions, outcomes, drift-alerts; Redis
writes  nothing
"""

MORE = """
examples
  driftloop ask                                   twenty events
  driftloop ask --budget 200 --json               for an annotation tool
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    summary = "list the events that a human should label first"
    verb = verbs.add("ask", run, summary, DESCRIPTION, MORE, stack_options())
    verb.add_argument("--budget", type=int, default=20, metavar="N", help="most events to list (default: 20)")
    add_json(verb)
    add_run(verb)


def run(arguments: argparse.Namespace) -> int:
    """Print the events and return the exit status."""
    from dataclasses import asdict

    from driftloop.core import topics
    from retrain.labels.active_learning import select_for_labelling

    terminate_as_interrupt()
    if arguments.budget < 1:
        raise DriftloopError(f"--budget must be 1 or more, not {arguments.budget}.")
    settings = find_settings(StackOptions.of(arguments), arguments.run)
    topics.create(settings)
    requests = select_for_labelling(settings, arguments.budget)
    if arguments.json:
        write_json([asdict(request) for request in requests])
        return 0
    for request in requests:
        write(f"{request.event_id}  {request.predicted} {request.probability:.2f}  {request.why}")
        write(f"    {escape_control_chars(request.text, 200)}")
    if not requests:
        write("Every predicted event in the store has its label.")
    return 0
