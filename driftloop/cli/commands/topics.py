"""`driftloop topics`: the topics with their messages, and Kafka's own console consumer."""

from __future__ import annotations

import sys

from driftloop.cli.options import write
from driftloop.core import topics
from driftloop.core.kafka import acls, clients
from driftloop.core.settings import Settings


def list_topics(settings: Settings) -> None:
    """Create what is missing, and print a table."""
    made = topics.create(settings)
    names = {topics.name(settings, topic): topic for topic in topics.ALL}
    counts = clients.end_offsets(settings, names)
    for full in made:
        sys.stderr.write(f"created {full}\n")
    width = max(map(len, names))
    write(f"{'topic':<{width}}  {'messages':>9}  about")
    for full, topic in names.items():
        write(f"{full:<{width}}  {counts[full]:>9}  {topic.about}")


def set_rules(settings: Settings) -> None:
    """Create what is missing, let each role do what `driftloop.core.kafka.acls` says and no more, and print that as a table.

    Raises:
        DriftloopError: the broker has no authorizer, or this identity may not.
    """
    topics.create(settings)
    added, removed = acls.sync_acls(settings)
    sys.stderr.write(f"{added} rules added, {removed} taken away\n")
    for role in acls.ROLES:
        write(f"{role.name}: User:{acls.user(role.name)}, for `driftloop {', '.join(role.verbs)}`")
    for line in acls.acl_table():
        write(line)


def console(settings: Settings, topic: str, most: int | None) -> int:
    """Run Kafka's ConsoleConsumer on ``topic`` until it ends or is interrupted, and return its exit status.

    The command that does the same where Kafka's scripts are goes to standard error first.
    """
    from driftloop.devstack.console_consumer import console_consumer, equivalent_command

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    name, security = f"{settings.topic_prefix}{topic}", settings.security
    say(f"Elsewhere: {equivalent_command(settings.kafka, name, max_messages=most, security=security)}")
    return console_consumer(
        settings.kafka, name, from_beginning=True, max_messages=most, security=security, progress=say
    )
