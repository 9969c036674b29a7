"""kafka-python clients with the acknowledgements, security and timeouts of driftloop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import MemberToRemove
from kafka.errors import KafkaError, KafkaTimeoutError

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import auth
from driftloop.core.kafka.auth import translate_auth_errors
from driftloop.core.messages import Message, decode, encode
from driftloop.core.observability.tracing import Headers
from driftloop.core.settings import Settings

T = TypeVar("T")
M = TypeVar("M", bound=Message)

MAX_MESSAGE = 16 * 1024 * 1024
"""Maximum bytes of a message that a producer sends."""


def connection(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments that all clients share."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka.split(","),
        "bootstrap_timeout_ms": 15_000,
        "reconnect_backoff_max_ms": 1_000,  # after a broker's restart the default would wait 30 s
        "security_protocol": settings.security.protocol,
        "ssl_context": auth.tls_context(settings.security),
        "kafka_client": auth.Client,
    }
    security = settings.security
    if security.protocol.startswith("SASL"):
        options["sasl_mechanism"] = security.mechanism
        options["sasl_plain_username"] = security.username
        options["sasl_plain_password"] = security.password
    return options


def producer(settings: Settings, **options: Any) -> KafkaProducer:
    """Create an idempotent producer with ``acks=all``: a retried message is written once.

    Args:
        settings: Address and security of the broker.
        options: Options of `KafkaProducer` that replace the timeouts and sizes used here.
    """
    chosen: dict[str, Any] = {
        "linger_ms": 5,
        "max_request_size": MAX_MESSAGE,
        "delivery_timeout_ms": 120_000,
        **options,
        "acks": "all",
        "enable_idempotence": True,
    }
    return _connect(settings, lambda: KafkaProducer(**connection(settings), **chosen))


class ConfirmedProducer:
    """Producer whose `flush` waits until all replicas have acknowledged all messages.

    Args:
        settings: Address and security of the broker, and prefix of the topics.
        allowed: Called before each message. It raises if the message must not be sent.
    """

    def __init__(self, settings: Settings, allowed: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._check_allowed = allowed
        self._producer = producer(settings)
        self._unconfirmed: list[Any] = []

    def put(self, topic: str, key: str | bytes | None, value: Message | bytes | None, headers: Headers = ()) -> None:
        """Send one message.

        Args:
            topic: Name of the topic without the prefix.
            key: Key of the message.
            value: The message, or its bytes. `None` deletes the key from a compacted topic.
            headers: Kafka headers.
        """
        self._check_allowed()
        body = encode(value) if isinstance(value, Message) else value
        raw = key.encode() if isinstance(key, str) else key
        with translate_auth_errors(self._settings, "write to"):
            full = self._settings.topic_prefix + topic
            self._unconfirmed.append(self._producer.send(full, value=body, key=raw, headers=list(headers)))

    def flush(self) -> list[int]:
        """Wait for all acknowledgements. Return the offsets of the messages since the last flush, in their order.

        Raises:
            AccessDenied: This identity may not write to one of the topics.
            kafka.errors.KafkaError: The broker did not accept a message in time.
        """
        with translate_auth_errors(self._settings, "write to"):
            self._producer.flush()
            sent, self._unconfirmed = self._unconfirmed, []
            return [future.get(timeout=60).offset for future in sent]

    def close(self) -> None:
        """Close the connection. Messages that were not flushed are lost."""
        self._producer.close(timeout=5)


def consumer(settings: Settings, **options: Any) -> KafkaConsumer:
    """Create a consumer, outside any group unless ``group_id`` is given. The caller commits offsets.

    Args:
        settings: Address and security of the broker.
        options: Options of `KafkaConsumer`.
    """
    chosen: dict[str, Any] = {"enable_auto_commit": False, "auto_offset_reset": "earliest", **options}
    return _connect(settings, lambda: KafkaConsumer(**connection(settings), **chosen))


def admin(settings: Settings) -> KafkaAdminClient:
    """Create an admin client."""
    return _connect(settings, lambda: KafkaAdminClient(**connection(settings)))


def partitions(client: Any, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic in order. Empty if the broker does not have the topic.

    Args:
        client: A consumer.
        topic: Full name of the topic.
    """
    return [TopicPartition(topic, number) for number in sorted(client.partitions_for_topic(topic) or ())]


@contextmanager
def assigned_consumer(
    settings: Settings, topic: str, offsets: dict[int, int] | None = None, also: Sequence[str] = (), **options: Any
) -> Iterator[KafkaConsumer]:
    """Open a consumer that is assigned to all partitions of a topic.

    Args:
        settings: Address and security of the broker.
        topic: Full name of the topic.
        offsets: First offset to read, by partition. Other partitions are read from their beginning.
        also: Full names of more topics, which are read from their beginning.
        options: Options of `KafkaConsumer`.

    Raises:
        AccessDenied: This identity may not read a topic.
    """
    client = consumer(settings, **options)
    try:
        found = [tp for name in (topic, *also) for tp in partitions(client, name)]
        client.assign(found)
        for tp in found:
            if offsets and tp.topic == topic and tp.partition in offsets:
                client.seek(tp, offsets[tp.partition])
            else:
                client.seek_to_beginning(tp)
        with translate_auth_errors(settings, "read"):
            yield client
    finally:
        client.close()


def records(
    settings: Settings,
    topic: str,
    start: dict[int, int] | None = None,
    ends: Mapping[TopicPartition, int] | None = None,
) -> Iterator[list[Any]]:
    """Yield the records of a topic in lists, as they arrive from the broker.

    Args:
        settings: Address and security of the broker.
        topic: Full name of the topic.
        start: First offset to read, by partition. `None`: the beginning.
        ends: End offsets, which may include partitions of other topics. `None`: the end at the time of the call.
    """
    with assigned_consumer(settings, topic, start, max_poll_records=5000) as client:
        mine = client.assignment()
        upto = client.end_offsets(list(mine)) if ends is None else {tp: ends[tp] for tp in mine if tp in ends}
        while any(client.position(tp) < end for tp, end in upto.items()):
            polled = client.poll(timeout_ms=500)
            part = [one for tp, found in polled.items() for one in found if one.offset < upto.get(tp, 0)]
            if part:
                yield part


def read_all(settings: Settings, topic: str, kind: type[M], start: dict[int, int] | None = None) -> list[M]:
    """Return all messages of a topic up to its present end, in order of arrival. Undecodable ones are skipped.

    Args:
        settings: Address and security of the broker.
        topic: Full name of the topic.
        kind: Type of the messages.
        start: First offset to read, by partition. `None`: the beginning.
    """
    found: list[M] = []
    for part in records(settings, topic, start):
        for record in part:
            with suppress(ValueError):
                found.append(decode(kind, record.value or b""))
    return found


def message_counts(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """Return the number of messages ever written to each topic: the sum of its end offsets.

    Args:
        settings: Address and security of the broker.
        topics: Full names of the topics.
    """
    client = consumer(settings)
    try:
        out: dict[str, int] = {}
        for topic in topics:
            found = partitions(client, topic)
            out[topic] = sum(client.end_offsets(found).values()) if found else 0
        return out
    finally:
        client.close()


def partition_ends(settings: Settings, topic: str) -> dict[TopicPartition, int]:
    """Return the offset of the next message by partition.

    Args:
        settings: Address and security of the broker.
        topic: Full name of the topic.
    """
    client = consumer(settings)
    try:
        return dict(client.end_offsets(partitions(client, topic)))
    finally:
        client.close()


def offset_range(settings: Settings, topic: str) -> dict[TopicPartition, tuple[int, int]]:
    """Return the oldest kept offset and the offset of the next message, by partition.

    Args:
        settings: Address and security of the broker.
        topic: Full name of the topic.
    """
    client = consumer(settings)
    try:
        found = partitions(client, topic)
        first, last = client.beginning_offsets(found), client.end_offsets(found)
        return {tp: (first[tp], last[tp]) for tp in found}
    finally:
        client.close()


def offsets_since(settings: Settings, topic: str, at: float) -> dict[int, int]:
    """Return the offset of the first message since a time by partition, or the end offset without such a message.

    Args:
        settings: Address and security of the broker.
        topic: Full name of the topic.
        at: Time in Unix seconds.
    """
    client = consumer(settings)
    try:
        found = partitions(client, topic)
        last, since = client.end_offsets(found), client.offsets_for_times(dict.fromkeys(found, int(at * 1000)))
        return {tp.partition: since[tp].offset if since.get(tp) else last[tp] for tp in found}
    finally:
        client.close()


def committed_offsets(settings: Settings, role: str, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """Return the committed offset of each partition, `0` without a commit.

    Args:
        settings: Address and security of the broker, and stream id.
        role: Role of the processes in the consumer group.
        topics: Full names of the topics.
    """
    client = consumer(settings, group_id=group_id(role, settings))
    try:
        return {tp: client.committed(tp) or 0 for topic in topics for tp in partitions(client, topic)}
    finally:
        client.close()


def next_message_offset(settings: Settings, tp: TopicPartition, offset: int) -> int:
    """Return the offset of the first message at or after an offset. Without such a message, return the end offset.

    Some offsets have no message: they are transaction markers, or their message was compacted or has expired.

    Args:
        settings: Address and security of the broker.
        tp: The partition.
        offset: First offset to look at.
    """
    client = consumer(settings, max_poll_records=1)
    try:
        client.assign([tp])
        client.seek(tp, offset)
        end: int = client.end_offsets([tp])[tp]
        while client.position(tp) < end:
            for found in client.poll(timeout_ms=500).values():
                return int(found[0].offset)
        return end
    finally:
        client.close()


def group_id(role: str, settings: Settings) -> str:
    """Return the id of the consumer group of a role.

    Args:
        role: scorer or monitor.
        settings: Prefix of the topics and stream id.
    """
    return f"driftloop-{role}-{settings.topic_prefix}{settings.stream}"


def lag(client: KafkaConsumer, owned: Iterable[TopicPartition]) -> int:
    """Return the consumer lag: offsets that the group of ``client`` has not committed.

    Args:
        client: A consumer of the group.
        owned: Partitions to count.
    """
    wanted = list(owned)
    if not wanted:
        return 0
    ends, begins = client.end_offsets(wanted), client.beginning_offsets(wanted)
    return sum(max(0, ends[tp] - max(begins[tp], client.committed(tp) or 0)) for tp in wanted)


def has_unread_messages(settings: Settings, client: KafkaConsumer, owned: Iterable[TopicPartition]) -> bool:
    """Return True if the offsets counted by `lag` include a message.

    Args:
        settings: Address and security of the broker.
        client: A consumer of the group.
        owned: Partitions to look at.
    """
    wanted = list(owned)
    last = client.end_offsets(wanted)
    return any(next_message_offset(settings, tp, client.committed(tp) or 0) < last[tp] for tp in wanted)


def remove_group_member(settings: Settings, group: str, member: str) -> None:
    """Remove a static member from its group, so that the others do not wait for its session timeout.

    Args:
        settings: Address and security of the broker.
        group: Id of the consumer group.
        member: Value of `group.instance.id`.
    """
    with suppress(KafkaError):
        client = KafkaAdminClient(**{**connection(settings), "bootstrap_timeout_ms": 2_000})
        try:
            client.remove_group_members(group, [MemberToRemove(group_instance_id=member)])
        finally:
            client.close()


def _connect(settings: Settings, make: Callable[[], T]) -> T:
    try:
        with translate_auth_errors(settings):
            return make()
    except KafkaTimeoutError as error:
        raise auth.unreachable(settings) from error
    except KafkaError as error:
        raise DriftloopError(f"Kafka at {settings.kafka} refused the connection: {error}.") from error
