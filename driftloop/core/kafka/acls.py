"""Who may do what on the topics: one identity for each role, and nothing beyond what its processes do.

`apply` makes a broker's access rules those of `ROLES` (Kafka's documentation, section Authorization and ACLs);
docs/threat-model.md shows them as a table. What no rule allows, Kafka's authorizer refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import AuthorizationError, GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import access_denied
from driftloop.core.settings import Settings
from driftloop.core.topics import (
    COMMANDS,
    DEAD_LETTERS,
    DRIFT_ALERTS,
    EVENTS,
    LABELS,
    MODEL_UPDATES,
    OUTCOMES,
    PREDICTIONS,
    RETRAINING,
    Topic,
)

ADMIN = "admin"
"""The role that makes the topics and these rules; a super user of the broker, and no process of the loop."""
BROKER = "broker"
"""The broker itself, which logs in at its own controller with a certificate."""


@dataclass(frozen=True)
class Role:
    """What the processes with one identity do. Every role may ask for any topic's offsets."""

    name: str
    verbs: tuple[str, ...]
    """Of driftloop's command line."""
    writes: tuple[Topic, ...]
    reads: tuple[Topic, ...]
    joins_group: bool = False
    """Whether it is a consumer group of its own."""


ROLES = (
    Role("producer", ("replay",), writes=(EVENTS, LABELS), reads=(EVENTS, LABELS)),
    Role(
        "scorer",
        ("score",),
        writes=(PREDICTIONS, DEAD_LETTERS),
        # Alerts silence a cascade's first stage; predictions are its own, where the store has forgotten them.
        reads=(EVENTS, MODEL_UPDATES, DRIFT_ALERTS, PREDICTIONS),
        joins_group=True,
    ),
    Role(
        "monitor",
        ("monitor",),
        writes=(OUTCOMES, DRIFT_ALERTS, DEAD_LETTERS),
        reads=(PREDICTIONS, LABELS, OUTCOMES),
        joins_group=True,
    ),
    Role(
        "retrainer",
        ("retrain", "approve", "reject", "rollback"),
        writes=(MODEL_UPDATES, RETRAINING, DEAD_LETTERS),
        reads=(EVENTS, LABELS, PREDICTIONS, OUTCOMES, DRIFT_ALERTS, MODEL_UPDATES, RETRAINING, COMMANDS),
    ),
    Role("api", ("serve",), writes=(LABELS, COMMANDS), reads=topics.ALL),  # people's labels, and what they ask for
    Role("reader", ("watch", "audit", "case", "models", "ask", "compare", "backfill"), writes=(), reads=topics.ALL),
)


def user_name(role: str) -> str:
    """The name under which a role logs in; its Kafka principal is that after ``User:``."""
    return f"driftloop-{role}"


def find_role(name: str) -> Role:
    """The role with that name."""
    return next(role for role in ROLES if role.name == name)


def role_of(verb: str) -> str:
    """The role whose identity a verb of the command line needs."""
    return next(role.name for role in ROLES if verb in role.verbs)


def sync_acls(settings: Settings) -> tuple[int, int]:
    """Make the broker's rules for our users on this stream's topics and groups exactly those of `ROLES`.

    Returns how many were added and how many taken away; those of other users and of other topics stay.

    Raises:
        DriftloopError: the broker has no authorizer, or this identity may not set its rules.
    """
    wanted = {rule for role in ROLES for rule in _rules(settings, role)}
    ours = {(rule.principal, rule.resource_pattern) for rule in wanted} | {
        (f"User:{user_name(role.name)}", _pattern(ResourceType.TOPIC, topics.name(settings, topic)))
        for role in ROLES
        for topic in topics.ALL
    }
    client = clients.admin(settings)
    try:
        there = {rule for role in ROLES for rule in client.describe_acls(_any_of(role))[0]}
        stale = [rule for rule in there - wanted if (rule.principal, rule.resource_pattern) in ours]
        missing = sorted(wanted - there, key=repr)
        failed = client.create_acls(missing)["failed"] if missing else []
        failed += (
            [error for _, _, error in client.delete_acls(list(map(_exactly, stale))) if error.errno] if stale else []
        )
    except AuthorizationError as error:
        raise access_denied(settings, "set who may do what on the topics") from error
    except KafkaError as error:
        raise _acls_rejected(settings, error) from error
    finally:
        client.close()
    if failed:
        raise _acls_rejected(settings, failed[0]())
    return len(missing), len(stale)


def check_acls(settings: Settings, role: Role) -> None:
    """See that this process's identity may do what ``role`` does, before it starts and where it can be said plainly.

    A broker without an authorizer lets everybody, and a plain connection has no identity to speak of.

    Raises:
        Refused: it may not; the text says who may not do what.
    """
    if settings.security.protocol == "PLAINTEXT":
        return
    client = clients.admin(settings)
    try:
        found = {
            one["name"]: one for one in client.describe_topics([topics.name(settings, topic) for topic in topics.ALL])
        }
        for topic in topics.ALL:
            full = topics.name(settings, topic)
            for allowed, wanted, word in (("WRITE", role.writes, "write to"), ("READ", role.reads, "read")):
                operations = found[full]["authorized_operations"]
                unseen = found[full]["error_code"] == TopicAuthorizationFailedError.errno
                if topic in wanted and (unseen or (operations is not None and allowed not in operations)):
                    raise access_denied(settings, f"{word} {full}, as the {role.name} must")
        if role.joins_group:
            _check_group(client, settings, clients.group_id(role.name, settings))
    finally:
        client.close()


def acl_table() -> Iterator[str]:
    """The rules as the lines of a Markdown table."""
    yield "| topic | written by | read by |"
    yield "|---|---|---|"
    for topic in topics.ALL:
        writers = [role.name for role in ROLES if topic in role.writes]
        readers = [role.name for role in ROLES if topic in role.reads]
        yield f"| {topic.name} | {', '.join(writers)} | {', '.join(readers)} |"


def _rules(settings: Settings, role: Role) -> Iterator[ACL]:
    def allow(kind: ResourceType, name: str, operation: ACLOperation) -> ACL:
        return ACL(f"User:{user_name(role.name)}", "*", operation, ACLPermissionType.ALLOW, _pattern(kind, name))

    for topic in topics.ALL:
        full = topics.name(settings, topic)
        yield allow(ResourceType.TOPIC, full, ACLOperation.DESCRIBE)
        if topic in role.reads:
            yield allow(ResourceType.TOPIC, full, ACLOperation.READ)
        if topic in role.writes:
            yield allow(ResourceType.TOPIC, full, ACLOperation.WRITE)
    if role.writes:  # brokers before 2.8 want it said; later ones take it from the right to write
        yield allow(ResourceType.CLUSTER, "kafka-cluster", ACLOperation.IDEMPOTENT_WRITE)
    if role.joins_group:
        yield allow(ResourceType.GROUP, clients.group_id(role.name, settings), ACLOperation.READ)
    if role.reads == topics.ALL:  # the lag is what the others' groups have committed
        for other in ROLES:
            if other.joins_group:
                yield allow(ResourceType.GROUP, clients.group_id(other.name, settings), ACLOperation.DESCRIBE)


def _check_group(client: Any, settings: Settings, group: str) -> None:
    try:
        client.describe_groups([group])
    except GroupAuthorizationFailedError as error:
        raise access_denied(settings, f"join the consumer group {group}") from error
    except KafkaError:
        return  # a new broker has no coordinator yet


def _pattern(kind: ResourceType, name: str) -> ResourcePattern:
    return ResourcePattern(kind, name, ACLResourcePatternType.LITERAL)


def _any_of(role: Role) -> ACLFilter:
    everything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    return ACLFilter(f"User:{user_name(role.name)}", None, ACLOperation.ANY, ACLPermissionType.ANY, everything)


def _exactly(rule: ACL) -> ACLFilter:
    pattern = rule.resource_pattern
    same = ResourcePatternFilter(pattern.resource_type, pattern.resource_name, pattern.pattern_type)
    return ACLFilter(rule.principal, rule.host, rule.operation, rule.permission_type, same)


def _acls_rejected(settings: Settings, error: KafkaError) -> DriftloopError:
    return DriftloopError(
        f"Kafka at {settings.kafka} takes no access rules ({error}): give it an authorizer (authorizer.class.name) "
        "and log in as one of its super users."
    )
