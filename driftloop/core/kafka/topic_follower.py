"""Several topics read at once, as they grow, by something that watches the loop: no group, nothing committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from driftloop.core import topics
from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import translate_auth_errors
from driftloop.core.messages import Message, decode
from driftloop.core.settings import Settings
from driftloop.core.topics import Topic

TIMEOUT_MS = 2000
"""A broker that does not say its end offsets within that is away."""


class TopicFollower:
    """Reads ``followed`` from their beginning, or from the ``newest`` messages of each partition.

    Raises:
        DriftloopError: no broker answers.
    """

    def __init__(self, settings: Settings, followed: Sequence[Topic], newest: int | None = None) -> None:
        self._settings = settings
        self._fence = FencingFilter()
        self._client: Any = clients.consumer(settings, max_poll_records=5000)
        self._kinds = {topics.name(settings, topic): topic for topic in followed}
        self._found = {topic.name: self._find(topic) for topic in topics.ALL}
        assigned = [tp for topic in followed for tp in self.partitions(topic)]
        self._client.assign(assigned)
        self._client.seek_to_beginning(*assigned)
        self._unread: dict[TopicPartition, int] = self._client.end_offsets(assigned)
        """The partitions that are not read yet up to where they ended at the beginning, and that end."""
        if newest is not None:
            begins = self._client.beginning_offsets(assigned)
            for tp, end in self._unread.items():
                self._client.seek(tp, max(begins[tp], end - newest))

    def poll(self) -> Iterator[tuple[Topic, Message]]:
        """What has come, waiting 0.2 s at most; what is no message of its topic, or void, is passed over.

        A broker that is away has nothing to say, and is asked again the next time.

        Raises:
            Refused: this identity may not read one of the topics.
        """
        polled: dict[Any, Any] = {}
        with suppress(KafkaError), translate_auth_errors(self._settings, "read"):
            polled = self._client.poll(timeout_ms=200)
        for tp, records in polled.items():
            topic = self._kinds[tp.topic]
            for record in records:
                with suppress(ValueError):
                    message = decode(topic.message, record.value or b"")
                    if self._fence.admits(message):
                        yield topic, message

    @property
    def caught_up(self) -> bool:
        """Whether all that was there at the beginning has been read."""
        self._unread = {tp: end for tp, end in self._unread.items() if self._client.position(tp) < end}
        return not self._unread

    def partitions(self, topic: Topic) -> list[TopicPartition]:
        """The partitions of ``topic``, as they were found at the beginning.

        The client forgets those of a topic that it does not read, and would ask a broker that is away without end.
        """
        return self._found[topic.name]

    def message_count(self, topic: Topic) -> int:
        """Messages ever written to ``topic``, followed or not: the sum of its end offsets.

        Raises:
            kafka.errors.KafkaError: the broker does not answer.
        """
        return sum(self._client.end_offsets(self.partitions(topic), timeout_ms=TIMEOUT_MS).values())

    def close(self) -> None:
        """Leave the broker."""
        with suppress(KafkaError):
            self._client.close()

    def _find(self, topic: Topic) -> list[TopicPartition]:
        full = topics.name(self._settings, topic)
        return [TopicPartition(full, number) for number in sorted(self._client.partitions_for_topic(full) or ())]
