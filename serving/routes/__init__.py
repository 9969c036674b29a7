"""Endpoints of the API, one module for each group, and the `AppContext` that they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import TypeVar

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict

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


class Body(BaseModel):
    """Body of a request or a response. The docstrings of its fields are their descriptions in OpenAPI."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestBody(Body):
    """Body of a request. Unknown fields are an error."""

    model_config = ConfigDict(extra="forbid")


@dataclass
class AppContext:
    """Everything that the endpoints share. The registry and the broker are connected when they are first used."""

    settings: Settings
    follower: LoopFollower
    store: OnlineStore
    authenticator: Authenticator
    predictor: BatchingPredictor
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def loop(self) -> LoopState:
        """State of the loop. It is replaced when the topics are read anew, so keep it no longer than one request."""
        return self.follower.loop

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self.settings)

    def query_registry(self, query: Callable[[Registry], T]) -> T:
        """Return the result of a query to the model registry.

        Raises:
            HTTPException: 503 if the registry does not answer.
        """
        try:
            with self._lock:
                registry = self._registry
            return query(registry)
        except Exception as error:  # MLflow's client raises types of its own
            raise HTTPException(503, "The model registry does not answer. Try again in a moment.") from error

    @cached_property
    def _producer(self) -> ConfirmedProducer:
        return ConfirmedProducer(self.settings)

    def send(self, topic: Topic, key: str, message: Message) -> None:
        """Write a message to a topic and wait until the broker has acknowledged it.

        Args:
            topic: Topic to write to.
            key: Key of the message.
            message: The message.

        Raises:
            HTTPException: 503 if the broker does not acknowledge it.
        """
        try:
            with self._lock:
                self._producer.put(topic.name, key, message)
                self._producer.flush()
        except Exception as error:  # the broker's client raises types of its own
            raise HTTPException(503, f"The broker did not take it ({error}). Try again in a moment.") from error


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Return the error responses of an endpoint for its OpenAPI schema; each has the form of RFC 9457."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
