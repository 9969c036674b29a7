"""The kafka-python clients, made in one place: acknowledgements, security, timeouts."""

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


def connection(settings: Settings) -> dict[str, Any]:
    """The keyword arguments that every client shares."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka.split(","),
        "bootstrap_timeout_ms": 15_000,
        "reconnect_backoff_max_ms": 1_000,  # the default of 30 s would be waited out after a broker's restart
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
    """An idempotent producer with ``acks=all``: a retried send is written once. ``options`` replace its timeouts."""
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
    """Messages on their way to the broker; `flush` returns once all of them are acknowledged by all replicas."""

    def __init__(self, settings: Settings, allowed: Callable[[], None] = lambda: None) -> None:
        """``allowed`` is asked before each message, and raises where it must not be sent."""
        self._settings = settings
        self._check_allowed = allowed
        self._producer = producer(settings)
        self._unconfirmed: list[Any] = []

    def put(self, topic: str, key: str | bytes | None, value: Message | bytes, headers: Headers = ()) -> None:
        """Send one message."""
        self._check_allowed()
        body = value if isinstance(value, bytes) else encode(value)
        raw = key.encode() if isinstance(key, str) else key
        with translate_auth_errors(self._settings, "write to"):
            full = self._settings.topic_prefix + topic
            self._unconfirmed.append(self._producer.send(full, value=body, key=raw, headers=list(headers)))

    def flush(self) -> list[int]:
        """The offsets of the messages put since the last flush, in their order.

        Raises:
            Refused: this identity may not write to one of the topics.
            kafka.errors.KafkaError: the broker did not take one of them in time.
        """
        with translate_auth_errors(self._settings, "write to"):
            self._producer.flush()
            sent, self._unconfirmed = self._unconfirmed, []
            return [future.get(timeout=60).offset for future in sent]

    def close(self) -> None:
        """Leave the broker; what was not flushed is given up."""
        self._producer.close(timeout=5)


def consumer(settings: Settings, **options: Any) -> KafkaConsumer:
    """A consumer outside any group unless ``group_id`` is given; offsets are committed by the caller."""
    chosen: dict[str, Any] = {"enable_auto_commit": False, "auto_offset_reset": "earliest", **options}
    return _connect(settings, lambda: KafkaConsumer(**connection(settings), **chosen))


def admin(settings: Settings) -> KafkaAdminClient:
    """An admin client."""
    return _connect(settings, lambda: KafkaAdminClient(**connection(settings)))


def partitions(client: Any, topic: str) -> list[TopicPartition]:
    """The partitions of a topic by their numbers; none where the broker does not have it."""
    return [TopicPartition(topic, number) for number in sorted(client.partitions_for_topic(topic) or ())]


@contextmanager
def assigned_consumer(
    settings: Settings, topic: str, offsets: dict[int, int] | None = None, also: Sequence[str] = (), **options: Any
) -> Iterator[KafkaConsumer]:
    """A consumer assigned to all partitions of ``topic``, from ``offsets`` (default: the beginning).

    Of the topics ``also`` to be read, from their beginning.

    Raises:
        Refused: this identity may not read the topic.
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
    """The records of ``topic`` as they come: from ``start``, or its beginning, up to ``ends``, or its present end.

    ``ends`` may hold partitions of other topics.
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
    """Every message on ``topic`` up to its present end, in order of arrival; undecodable ones are skipped."""
    found: list[M] = []
    for part in records(settings, topic, start):
        for record in part:
            with suppress(ValueError):
                found.append(decode(kind, record.value or b""))
    return found


def message_counts(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """Messages ever written to each topic: the sum of its partitions' end offsets."""
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
    """The offset that the next message will have, by partition."""
    client = consumer(settings)
    try:
        return dict(client.end_offsets(partitions(client, topic)))
    finally:
        client.close()


def offset_range(settings: Settings, topic: str) -> dict[TopicPartition, tuple[int, int]]:
    """The first offset that is kept, and the one that the next message will have, by partition."""
    client = consumer(settings)
    try:
        found = partitions(client, topic)
        first, last = client.beginning_offsets(found), client.end_offsets(found)
        return {tp: (first[tp], last[tp]) for tp in found}
    finally:
        client.close()


def offsets_since(settings: Settings, topic: str, at: float) -> dict[int, int]:
    """By partition, the offset of the first message written at ``at`` (Unix seconds) or later; its end if none was."""
    client = consumer(settings)
    try:
        found = partitions(client, topic)
        last, since = client.end_offsets(found), client.offsets_for_times(dict.fromkeys(found, int(at * 1000)))
        return {tp.partition: since[tp].offset if since.get(tp) else last[tp] for tp in found}
    finally:
        client.close()


def committed_offsets(settings: Settings, role: str, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """The next offset of each partition of ``topics`` that the processes of ``role`` have not acknowledged."""
    client = consumer(settings, group_id=group_id(role, settings))
    try:
        return {tp: client.committed(tp) or 0 for topic in topics for tp in partitions(client, topic)}
    finally:
        client.close()


def next_message_offset(settings: Settings, tp: TopicPartition, offset: int) -> int:
    """The offset of the first message at or after ``offset``; the partition's end where there is none.

    Not every offset is a message's: some are a transaction's own, others were compacted or are past their time.
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
    """The consumer group of the processes with ``role`` (scorer, monitor): their lag is looked up under this name."""
    return f"driftloop-{role}-{settings.topic_prefix}{settings.stream}"


def lag(client: KafkaConsumer, owned: Iterable[TopicPartition]) -> int:
    """Messages on the partitions ``owned`` behind which the group of ``client`` has not committed an offset yet."""
    wanted = list(owned)
    if not wanted:
        return 0
    ends, begins = client.end_offsets(wanted), client.beginning_offsets(wanted)
    return sum(max(0, ends[tp] - max(begins[tp], client.committed(tp) or 0)) for tp in wanted)


def has_unread_messages(settings: Settings, client: KafkaConsumer, owned: Iterable[TopicPartition]) -> bool:
    """Whether what `lag` counts are messages, and not offsets alone: the messages themselves are looked for."""
    wanted = list(owned)
    last = client.end_offsets(wanted)
    return any(next_message_offset(settings, tp, client.committed(tp) or 0) < last[tp] for tp in wanted)


def remove_group_member(settings: Settings, group: str, member: str) -> None:
    """Take a static member out of its group, so that the others need not wait until it counts as dead."""
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
