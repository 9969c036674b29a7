"""A Kafka, a Redis and an MLflow of the user's own, looked at before a simulation begins on them."""

from __future__ import annotations

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings


def check(settings: Settings, *, fresh: bool) -> None:
    """See that a stack of the user's own answers and, for a ``fresh`` run, that its topics hold no events yet.

    On a broker that others use, the counts mean something only on topics of one's own.

    Raises:
        DriftloopError: a service is away, or another run's events are there.
    """
    OnlineStore(settings).check()
    topics.create(settings)
    events = topics.name(settings, topics.EVENTS)
    there = clients.end_offsets(settings, [events])[events] if fresh else 0
    if there:
        raise DriftloopError(
            f"The topic {events} at {settings.kafka} holds {there} events already: go on with that run "
            "(`--resume DIR`), or set DRIFTLOOP_STREAM and DRIFTLOOP_TOPIC_PREFIX to names of a new one."
        )
    # Imported here: it loads the model's libraries, which take seconds. Without an MLflow, no first model ever comes.
    from driftloop.core.models.registry import Registry

    Registry(settings)
