"""History of a stream: the messages of its topics, from the beginning to the present end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from driftloop.core import topics
from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.kafka import clients
from driftloop.core.messages import (
    DeadLetter,
    DriftAlert,
    Message,
    MixtureUpdate,
    ModelUpdate,
    Outcome,
    Prediction,
    Retraining,
    decode,
)
from driftloop.core.settings import Settings
from driftloop.core.topics import Topic

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class TopicHistory:
    """Messages of several topics, each in the order of arrival. A topic that was not read is empty."""

    events: int = 0
    """Messages ever written to `events`; they are counted, not read."""
    predictions: Sequence[Prediction] = ()
    outcomes: Sequence[Outcome] = ()
    outcome_offsets: Sequence[int] = ()
    """Offset of each outcome."""
    alerts: Sequence[DriftAlert] = ()
    model_updates: Sequence[ModelUpdate] = ()
    """Without those of a retrainer that had lost its lease. The topic is compacted, so old ones may be missing."""
    weight_samples: Sequence[MixtureUpdate] = ()
    """Weights of the experts over time, the newest 2,000 samples."""
    retrainings: Sequence[Retraining] = ()
    dead_letters: Sequence[DeadLetter] = ()

    def of_stream(self, stream: str) -> TopicHistory:
        """Return the history without alerts, updates and retrainings of other streams on the same topics."""
        return replace(
            self,
            alerts=[alert for alert in self.alerts if alert.stream == stream],
            model_updates=[update for update in self.model_updates if update.stream == stream],
            weight_samples=[sample for sample in self.weight_samples if sample.stream == stream],
            retrainings=[step for step in self.retrainings if step.stream == stream],
        )


_FIELDS = {
    topics.PREDICTIONS.name: "predictions",
    topics.OUTCOMES.name: "outcomes",
    topics.DRIFT_ALERTS.name: "alerts",
    topics.MODEL_UPDATES.name: "model_updates",
    topics.MIXTURE_UPDATES.name: "weight_samples",
    topics.RETRAINING.name: "retrainings",
    topics.DEAD_LETTERS.name: "dead_letters",
}


def read_history(settings: Settings, *read: Topic) -> TopicHistory:
    """Read topics from their beginning to their present end. Messages that cannot be decoded are skipped.

    Args:
        settings: Settings of the stream.
        read: Topics to read. `events` is only counted; `labels` and `commands` have no place in a history.

    Raises:
        DriftloopError: The broker does not answer, or this identity may not read a topic.
    """
    found: dict[str, Any] = {}
    for topic in read:
        if topic is topics.EVENTS:
            full = topics.name(settings, topic)
            found["events"] = clients.message_counts(settings, [full])[full]
            continue
        records = list(_messages(settings, topic))
        found[_FIELDS[topic.name]] = [message for _, message in records]
        if topic is topics.OUTCOMES:
            found["outcome_offsets"] = [offset for offset, _ in records]
    return TopicHistory(**found)


def first_messages(messages: Sequence[M], key: str = "event_id") -> list[M]:
    """Return the first message with each key: a message may be delivered more than once.

    Args:
        messages: Messages in the order of arrival.
        key: Field that identifies a message.
    """
    first: dict[str, M] = {}
    for message in messages:
        first.setdefault(getattr(message, key), message)
    return list(first.values())


def _messages(settings: Settings, topic: Topic) -> Iterator[tuple[int, Message]]:
    """Yield each message of a topic with its offset, without model updates that a fence refuses."""
    fence = FencingFilter()
    for part in clients.records(settings, topics.name(settings, topic)):
        for record in part:
            with suppress(ValueError):
                message = decode(topic.message, record.value or b"")
                if fence.admits(message) and not _is_large(message):
                    yield record.offset, message


def _is_large(message: Message) -> bool:
    """Return True for an update that carries an expert, which no history needs."""
    return isinstance(message, MixtureUpdate) and not message.is_sample
