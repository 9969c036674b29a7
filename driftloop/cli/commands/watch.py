"""`driftloop watch`: prints the messages of a topic as they arrive."""

from __future__ import annotations

import argparse
import sys

from driftloop.cli.arguments import TOPICS, Verbs, add_run, count, stack_options
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt

DESCRIPTION = """\
Prints the messages of one topic as they arrive, one readable line each. Control characters and escape sequences in a
text are printed as text, so that they cannot control the terminal. A simulation that is running on this machine is
found automatically; DRIFTLOOP_KAFKA and the other settings override it.

reads   the topic, outside any consumer group, so that other consumers are not affected
writes  nothing
"""

MORE = """
examples
  driftloop watch drift-alerts --from-beginning        every alert so far, then new ones
  driftloop watch outcomes --wrong --segment airlines  wrong predictions in one segment
  driftloop watch predictions --where label=negative --where model_version=2
  driftloop watch retraining --json | jq .state        for programs
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("watch", run, "print a topic's messages as they arrive", DESCRIPTION, MORE, stack_options())
    verb.add_argument("topic", metavar="TOPIC", help=f"one of {', '.join(TOPICS)}")
    verb.add_argument(
        "--where",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="only messages with this value; may be repeated",
    )
    verb.add_argument("--segment", metavar="X", help="only messages of this segment")
    verb.add_argument("--wrong", action="store_true", help="on outcomes: only wrong predictions")
    verb.add_argument("--from-beginning", action="store_true", help="also the messages that exist already")
    verb.add_argument("--max", metavar="N", type=count, help="exit after N messages")
    verb.add_argument("--json", action="store_true", help="one JSON object per line")
    add_run(verb)


def run(arguments: argparse.Namespace) -> int:
    """Print messages until the limit or an interruption, and return the exit status."""
    from serving import topic_console

    terminate_as_interrupt()
    filters = topic_console.Filters.parse(arguments.where, arguments.segment, arguments.wrong)
    filters.check(topic_console.find_topic(arguments.topic))
    view = topic_console.View(filters, arguments.from_beginning, arguments.max, arguments.json)
    topic_console.watch(find_settings(StackOptions.of(arguments), arguments.run), arguments.topic, view, sys.stdout)
    return 0
