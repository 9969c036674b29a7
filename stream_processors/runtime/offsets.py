"""Offsets that a processor has handled on each partition, and the check that no message was left out.

Faust is trusted with neither. Its streams acknowledge messages that they skip, and its commit tolerates one message
that was never acknowledged. Where one rebalance overtakes another, Faust can lose the message that it holds at that
moment and hand over those after it. That happens, for example, when a process returns that was frozen past its
session.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kafka import TopicPartition

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import Settings
from stream_processors.runtime.dead_letters import Record


class OffsetTracker:
    """Next offset of each partition, since the partitions were last assigned to this process.

    Args:
        settings: Settings of the process.
        role: Role whose committed offsets are the starting point.
        topics: Full names of the topics that it reads.
    """

    def __init__(self, settings: Settings, role: str, topics: Iterable[str]) -> None:
        self._settings = settings
        self._role = role
        self._topics = list(topics)
        self._reached: dict[TopicPartition, int] = {}
        # Offset after the last message that entered the first step, by partition.
        self._expected: dict[TopicPartition, int] = {}
        # Offsets that were committed when the partitions were assigned; `None` until they are needed.
        self._committed: dict[TopicPartition, int] | None = None

    @property
    def reached(self) -> dict[TopicPartition, int]:
        """Offsets that may be committed: the one after the last handled message of each partition that had one."""
        return dict(self._reached)

    def forget(self) -> None:
        """Forget all offsets, because the partitions change hands: the broker's committed offsets count now."""
        self._reached, self._expected, self._committed = {}, {}, None

    def check(self, batch: Sequence[Record]) -> Sequence[Record]:
        """Return the batch if no message is missing between it and the one before, or the committed offset.

        A gap in the offsets alone is not an error. The broker is asked, because a transaction has an offset of its
        own, and a topic may have compacted or deleted messages.

        Raises:
            DriftloopError: A message was left out.
        """
        expected = self._expected
        for message in batch:
            tp = TopicPartition(message.topic, message.partition)
            if tp not in expected:
                if self._committed is None:
                    self._committed = clients.committed_offsets(self._settings, self._role, self._topics)
                expected[tp] = self._committed.get(tp, 0)
            if message.offset > expected[tp]:
                existing = clients.next_message_offset(self._settings, tp, expected[tp])
                if existing < message.offset:
                    raise DriftloopError(
                        f"Message {existing} of {tp.topic}, partition {tp.partition}, was not handed over, although "
                        f"message {message.offset} was. This process ends, so that it is started again and reads it."
                    )
            expected[tp] = max(expected[tp], message.offset + 1)
        return batch

    def handled(self, batch: Iterable[Record]) -> None:
        """Mark a batch as handled: all its results are confirmed."""
        for message in batch:
            tp = TopicPartition(message.topic, message.partition)
            self._reached[tp] = max(self._reached.get(tp, 0), message.offset + 1)
