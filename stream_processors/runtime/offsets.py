"""How far a processor has come on each partition: what it has handled is committed, and no message was left out.

Faust is not trusted with either. Its streams acknowledge what they skip, and its commit tolerates one message that
nobody has acknowledged. Where one rebalance overtakes another, as when a process comes back that was frozen past its
session, it can lose the message that it holds at that moment and hand over those after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kafka import TopicPartition

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import Settings
from stream_processors.runtime.dead_letters import Record


class OffsetTracker:
    """The next offset of each partition, since the partitions were last given to this process.

    Args:
        role: whose committed offsets are gone on from.
        topics: what it reads, by their full names.
    """

    def __init__(self, settings: Settings, role: str, topics: Iterable[str]) -> None:
        self._settings = settings
        self._role = role
        self._topics = list(topics)
        self._reached: dict[TopicPartition, int] = {}
        self._taken: dict[TopicPartition, int] = {}
        """The offset after the last message that was looked at, handled or still under way."""
        self._began: dict[TopicPartition, int] | None = None

    @property
    def reached(self) -> dict[TopicPartition, int]:
        """What may be committed: the offset after the last message handled, of each partition that had one."""
        return dict(self._reached)

    def forget(self) -> None:
        """The partitions change hands: from now on it is the broker's word that counts."""
        self._reached, self._taken, self._began = {}, {}, None

    def check(self, batch: Sequence[Record]) -> Sequence[Record]:
        """The batch, if nothing is missing between it and the one before, or what was committed; asks the broker.

        Raises:
            DriftloopError: there is a message that was left out. Offsets alone may be missing: those of a transaction,
                and of what a topic has compacted or given up.
        """
        expected = self._taken
        for message in batch:
            tp = TopicPartition(message.topic, message.partition)
            if tp not in expected:
                if self._began is None:
                    self._began = clients.committed(self._settings, self._role, self._topics)
                expected[tp] = self._began.get(tp, 0)
            if message.offset > expected[tp]:
                there = clients.next_offset(self._settings, tp, expected[tp])
                if there < message.offset:
                    raise DriftloopError(
                        f"Message {there} of {tp.topic}, partition {tp.partition}, was not handed over, and "
                        f"{message.offset} was: this process ends, so that it is started again and reads it."
                    )
            expected[tp] = max(expected[tp], message.offset + 1)
        return batch

    def handled(self, batch: Iterable[Record]) -> None:
        """All results of a batch are safe."""
        for message in batch:
            tp = TopicPartition(message.topic, message.partition)
            self._reached[tp] = max(self._reached.get(tp, 0), message.offset + 1)
