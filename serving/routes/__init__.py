"""The API's endpoints, a file for each kind; `Parts` is what they work with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import TypeVar

from fastapi import HTTPException

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Message
from driftloop.core.models.registry import Registry
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import Topic
from serving.http.auth import Authenticator
from serving.inference import BatchingPredictor
from serving.live.loop_follower import LoopFollower
from serving.live.loop_state import LoopState

T = TypeVar("T")


@dataclass
class AppContext:
    """What an endpoint may need. Registry and broker are asked for when they are needed first."""

    settings: Settings
    follower: LoopFollower
    store: OnlineStore
    callers: Authenticator
    scoring: BatchingPredictor
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def loop(self) -> LoopState:
        """State of the loop. It is replaced when the topics are read anew, so keep it no longer than one request."""
        return self.follower.loop

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self.settings)

    def ask_registry(self, what: Callable[[Registry], T]) -> T:
        """Ask MLflow something.

        Raises:
            HTTPException: 503 where it does not answer.
        """
        try:
            with self._lock:
                registry = self._registry
            return what(registry)
        except Exception as error:  # MLflow's client raises types of its own
            raise HTTPException(503, "The model registry does not answer; try again in a moment.") from error

    @cached_property
    def _outbox(self) -> ConfirmedProducer:
        return ConfirmedProducer(self.settings)

    def send(self, topic: Topic, key: str, message: Message) -> None:
        """Put a message on a topic; returns when the broker has it.

        Raises:
            HTTPException: 503 where the broker does not take it.
        """
        try:
            with self._lock:
                self._outbox.put(topic.name, key, message)
                self._outbox.flush()
        except Exception as error:  # the broker's client raises types of its own
            raise HTTPException(503, f"The broker did not take it ({error}); try again in a moment.") from error


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The errors of an endpoint, for the schema; every one has the form of RFC 9457."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
