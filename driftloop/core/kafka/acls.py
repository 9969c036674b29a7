"""Kafka ACLs with least privilege: one identity for each role.

`sync_acls` sets the ACLs of a broker to those of `ROLES` (Kafka's documentation, section Authorization and ACLs).
docs/threat-model.md shows them as a table. Kafka's authorizer denies everything else.
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
    MIXTURE_UPDATES,
    MODEL_UPDATES,
    OUTCOMES,
    PREDICTIONS,
    RETRAINING,
    Topic,
)

ADMIN = "admin"
"""Role that creates the topics and the ACLs. It is a super user of the broker, and no process of the loop has it."""
BROKER = "broker"
"""Role of the broker, which logs in to its own controller with a certificate."""


@dataclass(frozen=True)
class Role:
    """Rights of the processes with one identity. Every role can read the offsets of all topics."""

    name: str
    verbs: tuple[str, ...]
    """Verbs of the command line that need this role."""
    writes: tuple[Topic, ...]
    reads: tuple[Topic, ...]
    joins_group: bool = False
    """True if its processes form a consumer group."""


ROLES = (
    Role("producer", ("replay",), writes=(EVENTS, LABELS), reads=(EVENTS, LABELS)),
    Role(
        "scorer",
        ("score",),
        writes=(PREDICTIONS, DEAD_LETTERS),
        # Alerts disable a cascade's first stage. Its own predictions rebuild a store that was flushed.
        reads=(EVENTS, MODEL_UPDATES, MIXTURE_UPDATES, DRIFT_ALERTS, PREDICTIONS),
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
        writes=(MODEL_UPDATES, MIXTURE_UPDATES, RETRAINING, DEAD_LETTERS),
        reads=(
            EVENTS,
            PREDICTIONS,
            LABELS,
            OUTCOMES,
            DRIFT_ALERTS,
            MODEL_UPDATES,
            MIXTURE_UPDATES,
            RETRAINING,
            COMMANDS,
        ),
    ),
    Role("api", ("serve",), writes=(LABELS, COMMANDS), reads=topics.ALL),  # labels and commands of users
    Role("reader", ("watch", "audit", "case", "models", "ask", "compare", "backfill"), writes=(), reads=topics.ALL),
)


def user_name(role: str) -> str:
    """Return the user name of a role. Its Kafka principal is ``User:`` and that name."""
    return f"driftloop-{role}"


def find_role(name: str) -> Role:
    """Return the role with a name."""
    return next(role for role in ROLES if role.name == name)


def role_of(verb: str) -> str:
    """Return the name of the role that a verb of the command line needs."""
    return next(role.name for role in ROLES if verb in role.verbs)


def sync_acls(settings: Settings) -> tuple[int, int]:
    """Set the ACLs of driftloop's users on the topics and groups of this stream to those of `ROLES`.

    ACLs of other users and of other topics do not change.

    Returns:
        Number of added and number of removed ACLs.

    Raises:
        DriftloopError: The broker has no authorizer, or this identity may not set ACLs.
    """
    wanted = {rule for role in ROLES for rule in _rules(settings, role)}
    ours = {(rule.principal, rule.resource_pattern) for rule in wanted} | {
        (f"User:{user_name(role.name)}", _pattern(ResourceType.TOPIC, topics.name(settings, topic)))
        for role in ROLES
        for topic in topics.ALL
    }
    client = clients.admin(settings)
    try:
        existing = {rule for role in ROLES for rule in client.describe_acls(_all_of(role))[0]}
        stale = [rule for rule in existing - wanted if (rule.principal, rule.resource_pattern) in ours]
        missing = sorted(wanted - existing, key=repr)
        failed = client.create_acls(missing)["failed"] if missing else []
        failed += (
            [error for _, _, error in client.delete_acls(list(map(_exact_filter, stale))) if error.errno]
            if stale
            else []
        )
    except AuthorizationError as error:
        raise access_denied(settings, "set the access rules of the topics") from error
    except KafkaError as error:
        raise _acls_rejected(settings, error) from error
    finally:
        client.close()
    if failed:
        raise _acls_rejected(settings, failed[0]())
    return len(missing), len(stale)


def check_acls(settings: Settings, role: Role) -> None:
    """Check at the start of a process that its identity has the rights of a role.

    A broker without an authorizer allows everything. A plain-text connection has no identity and is not checked.

    Args:
        settings: Address and security of the broker.
        role: Role of this process.

    Raises:
        AccessDenied: A right is missing. The message names the user and the right.
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
    """Yield the rights of all roles as the lines of a Markdown table."""
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
    if role.writes:  # brokers before 2.8 need it; later ones derive it from the right to write
        yield allow(ResourceType.CLUSTER, "kafka-cluster", ACLOperation.IDEMPOTENT_WRITE)
    if role.joins_group:
        yield allow(ResourceType.GROUP, clients.group_id(role.name, settings), ACLOperation.READ)
    if role.reads == topics.ALL:  # for the consumer lag of the other roles
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


def _all_of(role: Role) -> ACLFilter:
    everything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    return ACLFilter(f"User:{user_name(role.name)}", None, ACLOperation.ANY, ACLPermissionType.ANY, everything)


def _exact_filter(rule: ACL) -> ACLFilter:
    pattern = rule.resource_pattern
    same = ResourcePatternFilter(pattern.resource_type, pattern.resource_name, pattern.pattern_type)
    return ACLFilter(rule.principal, rule.host, rule.operation, rule.permission_type, same)


def _acls_rejected(settings: Settings, error: KafkaError) -> DriftloopError:
    return DriftloopError(
        f"Kafka at {settings.kafka} accepts no access rules ({error}): configure an authorizer (authorizer.class.name) "
        "and log in as one of its super users."
    )
