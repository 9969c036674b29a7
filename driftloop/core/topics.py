"""Topics: names, partitions, retention, and their creation."""

from __future__ import annotations

from dataclasses import dataclass, field

from kafka.admin import NewTopic
from kafka.errors import AuthorizationError, TopicAlreadyExistsError

from driftloop.core import messages
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import access_denied
from driftloop.core.settings import Settings

DAY = 24 * 3600 * 1000


@dataclass(frozen=True)
class Topic:
    """Topic with its message type and its configuration."""

    name: str
    message: type[messages.Message]
    description: str
    partitioned: bool = True
    config: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_compacted(self) -> bool:
        """Return True if the broker keeps the newest message of each key. One without a value deletes the key."""
        return self.config.get("cleanup.policy") == "compact"


# The broker's clock stamps messages: it rejects timestamps of a producer whose clock is over an hour ahead.
_STAMPED = {"message.timestamp.type": "LogAppendTime"}
_LONG = _STAMPED | {"retention.ms": str(365 * DAY)}
_SHORT = _STAMPED | {"retention.ms": str(7 * DAY)}
_BIG = {"max.message.bytes": str(clients.MAX_MESSAGE)}

EVENTS = Topic("events", messages.Event, "texts to be scored", config=_SHORT | _BIG)
PREDICTIONS = Topic("predictions", messages.Prediction, "predictions of the model", config=_SHORT)
LABELS = Topic("labels", messages.Label, "true labels, which arrive later", config=_SHORT)
OUTCOMES = Topic("outcomes", messages.Outcome, "predictions joined with labels", partitioned=False, config=_LONG)
DRIFT_ALERTS = Topic("drift-alerts", messages.DriftAlert, "alarms, with the changes that caused them", False, _LONG)
MODEL_UPDATES = Topic(
    "model-updates", messages.ModelUpdate, "promotions", False, _STAMPED | {"cleanup.policy": "compact"}
)
MIXTURE_UPDATES = Topic(
    "mixture-updates",
    messages.MixtureUpdate,
    "changes of the champion between two promotions",
    False,
    # Small segments: only closed ones are compacted, and a starting scorer reads all of the topic.
    _STAMPED | _BIG | {"cleanup.policy": "compact", "segment.bytes": str(16 * 1024 * 1024)},
)
RETRAINING = Topic("retraining", messages.Retraining, "states of retrainings", False, _LONG)
COMMANDS = Topic("commands", messages.Command, "commands of users to the retrainer", False, _LONG)
DEAD_LETTERS = Topic("dead-letters", messages.DeadLetter, "messages that could not be processed", False, _LONG)

ALL = (
    EVENTS,
    PREDICTIONS,
    LABELS,
    OUTCOMES,
    DRIFT_ALERTS,
    MODEL_UPDATES,
    MIXTURE_UPDATES,
    RETRAINING,
    COMMANDS,
    DEAD_LETTERS,
)


def name(settings: Settings, topic: Topic) -> str:
    """Return the name of a topic on the broker.

    Args:
        settings: Settings with the prefix of the topics.
        topic: The topic.
    """
    return f"{settings.topic_prefix}{topic.name}"


def create(settings: Settings) -> list[str]:
    """Create the missing topics and return their names. Existing topics are not changed.

    Raises:
        AccessDenied: A topic is missing, and this identity may not create it.
    """
    client = clients.admin(settings)
    try:
        existing = set(client.list_topics())
        made: list[str] = []
        for topic in ALL:
            full = name(settings, topic)
            if full in existing:
                continue
            partitions = settings.partitions if topic.partitioned else 1
            try:
                client.create_topics([NewTopic(full, partitions, settings.replication, topic_configs=topic.config)])
            except TopicAlreadyExistsError:
                continue
            except AuthorizationError as error:
                raise access_denied(settings, f"create the topic {full}") from error
            made.append(full)
        return made
    finally:
        client.close()
