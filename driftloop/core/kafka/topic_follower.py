"""Follower of several topics for observers of the loop, without a consumer group or commits."""

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
"""Milliseconds to wait for the end offsets of a broker."""


class TopicFollower:
    """Consumer of several topics.

    Args:
        settings: Address of the broker and prefix of the topics.
        followed: Topics to read.
        newest: Number of newest messages of each partition to start with. `None`: read from the beginning.

    Raises:
        DriftloopError: No broker answers.
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
        # End offsets at the start of the partitions that are not read up to there.
        self._unread: dict[TopicPartition, int] = self._client.end_offsets(assigned)
        if newest is not None:
            begins = self._client.beginning_offsets(assigned)
            for tp, end in self._unread.items():
                self._client.seek(tp, max(begins[tp], end - newest))

    def poll(self) -> Iterator[tuple[Topic, Message]]:
        """Yield the new messages, after a wait of at most 0.2 s.

        Undecodable messages, and updates with an old fencing token, are skipped. If the broker does not answer, there
        are no messages until the next call.

        Raises:
            AccessDenied: This identity may not read one of the topics.
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
        """Return True if all messages from before the start have been read."""
        self._unread = {tp: end for tp, end in self._unread.items() if self._client.position(tp) < end}
        return not self._unread

    def partitions(self, topic: Topic) -> list[TopicPartition]:
        """Return the partitions of a topic, as found at the start.

        The client forgets the partitions of topics that it does not read, and would wait without limit for a broker
        that does not answer.
        """
        return self._found[topic.name]

    def message_count(self, topic: Topic) -> int:
        """Return the number of messages ever written to a topic: the sum of its end offsets.

        Raises:
            kafka.errors.KafkaError: The broker does not answer.
        """
        return sum(self._client.end_offsets(self.partitions(topic), timeout_ms=TIMEOUT_MS).values())

    def close(self) -> None:
        """Close the connection."""
        with suppress(KafkaError):
            self._client.close()

    def _find(self, topic: Topic) -> list[TopicPartition]:
        full = topics.name(self._settings, topic)
        return [TopicPartition(full, number) for number in sorted(self._client.partitions_for_topic(full) or ())]
