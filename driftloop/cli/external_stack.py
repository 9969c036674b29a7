"""Check of an external stack before a simulation uses it: the user's own Kafka, Redis and MLflow."""

from __future__ import annotations

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings


def check(settings: Settings, *, fresh: bool) -> None:
    """Check that the services answer and, for a new run, that its topic holds no events.

    The counts of a run are correct only on topics that no other run uses.

    Args:
        settings: Settings with the addresses of the stack.
        fresh: The run is new, not resumed.

    Raises:
        DriftloopError: a service does not answer, or the topic holds events of another run.
    """
    OnlineStore(settings).check()
    topics.create(settings)
    name = topics.name(settings, topics.EVENTS)
    events = clients.message_counts(settings, [name])[name] if fresh else 0
    if events:
        raise DriftloopError(
            f"The topic {name} at {settings.kafka} holds {events} events already: continue that run (`--resume DIR`), "
            "or set DRIFTLOOP_STREAM and DRIFTLOOP_TOPIC_PREFIX to new names."
        )
    # Imported here because it loads the model libraries, which takes seconds. Without MLflow no first model is made.
    from driftloop.core.models.registry import Registry

    Registry(settings)
