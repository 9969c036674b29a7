"""`driftloop topics`: lists and creates the topics, prints AsyncAPI, sets ACLs, and starts Kafka's console consumer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from driftloop.cli.arguments import TOPICS, Verbs, add_run, count, stack_options
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt
from driftloop.cli.output import write, write_progress

if TYPE_CHECKING:
    from driftloop.core.settings import Settings

DESCRIPTION = """\
Lists the topics with their numbers of messages, and creates missing ones. With --console it starts Kafka's own console
consumer on one topic, from the jars of the embedded broker. It also prints, on standard error, the equivalent command
for a machine with Kafka's scripts. A simulation that is running on this machine is found automatically.

reads   names and end offsets of the topics; with --console one topic
writes  nothing except missing topics
"""

MORE = """
examples
  driftloop topics                                  names, messages, meaning
  driftloop topics --console predictions --max 3    messages byte for byte, with Kafka's own tool
  driftloop topics --run runs/DIR                   of that simulation, if several are running
  driftloop topics --acls                           set the rights of each role on a broker with an authorizer

The console consumer prints messages unchanged, including escape sequences. `driftloop watch` prints these as text.
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    summary = "list and create the topics; read them with Kafka's tool"
    verb = verbs.add("topics", run, summary, DESCRIPTION, MORE, stack_options())
    verb.add_argument("--console", metavar="TOPIC", choices=TOPICS, help=f"one of {', '.join(TOPICS)}")
    verb.add_argument("--max", metavar="N", type=count, help="with --console: exit after N messages")
    verb.add_argument("--asyncapi", action="store_true", help="print the topics and messages as an AsyncAPI document")
    verb.add_argument("--acls", action="store_true", help="give each role its rights on the broker, and list them")
    add_run(verb)


def run(arguments: argparse.Namespace) -> int:
    """Run the variant of the verb that the options select, and return the exit status."""
    if arguments.asyncapi:
        from driftloop.core.kafka import asyncapi

        sys.stdout.write(f"{json.dumps(asyncapi.build_document(), indent=1)}\n")
        return 0
    terminate_as_interrupt()
    settings = find_settings(StackOptions.of(arguments), arguments.run)
    if arguments.console:
        return _run_console_consumer(settings, arguments.console, arguments.max)
    if arguments.acls:
        _set_acls(settings)
    else:
        _list_topics(settings)
    return 0


def _list_topics(settings: Settings) -> None:
    """Create missing topics and print a table of all."""
    from driftloop.core import topics
    from driftloop.core.kafka import clients

    created = topics.create(settings)
    names = {topics.name(settings, topic): topic for topic in topics.ALL}
    counts = clients.message_counts(settings, names)
    for name in created:
        sys.stderr.write(f"created {name}\n")
    width = max(map(len, names))
    write(f"{'topic':<{width}}  {'messages':>9}  about")
    for name, topic in names.items():
        write(f"{name:<{width}}  {counts[name]:>9}  {topic.description}")


def _set_acls(settings: Settings) -> None:
    """Create missing topics, set the rights of each role, and print them as a table.

    Raises:
        DriftloopError: the broker has no authorizer, or this identity may not change its ACLs.
    """
    from driftloop.core import topics
    from driftloop.core.kafka import acls

    topics.create(settings)
    added, removed = acls.sync_acls(settings)
    sys.stderr.write(f"{added} rules added, {removed} removed\n")
    for role in acls.ROLES:
        write(f"{role.name}: User:{acls.user_name(role.name)}, for `driftloop {', '.join(role.verbs)}`")
    for line in acls.acl_table():
        write(line)


def _run_console_consumer(settings: Settings, topic: str, max_messages: int | None) -> int:
    """Run Kafka's console consumer until it ends or is interrupted, and return its exit status."""
    from driftloop.devstack.console_consumer import console_consumer, equivalent_command

    name, security = f"{settings.topic_prefix}{topic}", settings.security
    command = equivalent_command(settings.kafka, name, max_messages=max_messages, security=security)
    write_progress(f"The same with Kafka's scripts: {command}")
    return console_consumer(
        settings.kafka,
        name,
        from_beginning=True,
        max_messages=max_messages,
        security=security,
        progress=write_progress,
    )
