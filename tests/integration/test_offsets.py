"""What was left out is told from offsets that are nobody's message, on topics as a real broker keeps them."""

from __future__ import annotations

import time

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import Settings
from stream_processors.runtime.dead_letters import Record
from stream_processors.runtime.offsets import OffsetTracker

TOPIC = "anybodys-own"


@pytest.fixture
def records(settings: Settings) -> list[Record]:
    """Ten messages: three, three in a transaction, which has an offset of its own at its end, and four."""
    full = settings.topic_prefix + TOPIC
    client = clients.admin(settings)
    client.create_topics([NewTopic(full, 1, 1)])
    client.close()
    plain = clients.producer(settings)
    bound = KafkaProducer(**clients.connection(settings), acks="all", transactional_id=full)

    def send(producer: KafkaProducer, numbers: range) -> None:
        for number in numbers:
            producer.send(full, key=str(number).encode(), value=b"{}")
        producer.flush()

    send(plain, range(3))
    bound.init_transactions()
    bound.begin_transaction()
    send(bound, range(3, 6))
    bound.commit_transaction()
    while clients.message_counts(settings, [full])[full] < 7:
        time.sleep(0.05)  # the broker writes the end of a transaction a moment after it has promised to
    send(plain, range(6, 10))
    bound.close()
    plain.close()
    found = [one for part in clients.records(settings, full) for one in part]
    made = [Record(one.topic, one.partition, one.offset, one.key, one.value) for one in found]
    assert [one.offset for one in made] == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10], "the transaction's own offset is 6"
    return made


def positions(settings: Settings) -> OffsetTracker:
    return OffsetTracker(settings, "scorer", [settings.topic_prefix + TOPIC])


@pytest.mark.parametrize("batch", [1, 3, 4, 10])
def test_transaction_marker_offset_is_no_gap(settings: Settings, records: list[Record], batch: int) -> None:
    came = positions(settings)
    for first in range(0, 10, batch):
        came.check(records[first : first + batch])
        came.handled(records[first : first + batch])
    assert came.reached == {TopicPartition(records[0].topic, 0): 11}


@pytest.mark.parametrize("number", range(10))
def test_skipped_message_is_named(settings: Settings, records: list[Record], number: int) -> None:
    """The first of them is missing from what the broker knows to be committed, the others from what came before."""
    came = positions(settings)
    came.check(records[:number])
    came.handled(records[:number])
    if number == 9:
        came.check([])  # nothing comes after the last: that it waits is seen by `Progress`
        return
    with pytest.raises(DriftloopError, match=rf"Message {records[number].offset} of \S+, partition 0, was not handed"):
        came.check(records[number + 1 :])
    came.check(records[number:])


def test_deleted_offsets_are_no_gap(settings: Settings, records: list[Record]) -> None:
    client = clients.admin(settings)
    client.delete_records({TopicPartition(records[0].topic, 0): 4})
    client.close()
    positions(settings).check(records[4:])
    with pytest.raises(DriftloopError, match="Message 4 of"):
        positions(settings).check(records[5:])


def test_rebalance_resets_to_committed_offset(settings: Settings, records: list[Record]) -> None:
    came, tp = positions(settings), TopicPartition(records[0].topic, 0)
    came.check(records[:2])
    came.handled(records[:2])
    came.forget()
    assert came.reached == {}
    with pytest.raises(DriftloopError, match="Message 0 of"):  # nothing was committed
        came.check(records[2:])
    client = clients.consumer(settings, group_id=clients.group_id("scorer", settings))
    client.assign([tp])
    client.seek(tp, 5)
    client.commit()
    client.close()
    came.forget()
    came.check(records[5:])
    came.check(records)  # what comes again is nothing left out
