"""Online store in Redis: predictions by event id, parked labels, embeddings, traces, detector state and locks.

Every key starts with ``driftloop:STREAM:`` and expires, except for the state. A label is parked until its prediction
arrives.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import redis

from driftloop.core.errors import DriftloopError
from driftloop.core.models.classifier import Matrix
from driftloop.core.settings import Settings
from driftloop.core.terminal_text import without_password

MONITOR_STATE = "monitor"
"""Name of the monitor's state."""
NO_TRACES: Mapping[str, bytes] = {}
NO_EMBEDDINGS: Mapping[str, Matrix | None] = {}
LOADING_TIMEOUT = 120.0
"""Maximum seconds to wait for a server that is loading its data."""


def connect(settings: Settings, **options: Any) -> Any:
    """Create a client of Redis, over TLS for an address with rediss://.

    Args:
        settings: Address and credentials of Redis.
        options: Options of `redis.Redis`.
    """
    if settings.redis_user:
        options["username"] = settings.redis_user
    if settings.redis_password:
        options["password"] = settings.redis_password
    if settings.redis_ca_file and settings.redis.startswith("rediss://"):
        options["ssl_ca_certs"] = settings.redis_ca_file
    return redis.Redis.from_url(settings.redis, **options)


class OnlineStore:
    """Data of one stream in Redis or Valkey."""

    def __init__(self, settings: Settings) -> None:
        self._url = without_password(settings.redis)
        self._prefix = f"driftloop:{settings.stream}:"
        self._ttl_seconds = max(1, int(settings.keep_hours * 3600))
        self.client = connect(settings, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30)

    def check(self) -> None:
        """Check the connection, and wait for a server that is loading its data.

        Raises:
            DriftloopError: The server does not answer, rejects the password, or loads for longer than
                `LOADING_TIMEOUT`.
        """
        try:
            self._wait_until_loaded()
        except redis.AuthenticationError as error:
            raise DriftloopError(
                f"Redis at {self._url} rejects the password ({str(error).rstrip('.')}): set DRIFTLOOP_REDIS_PASSWORD "
                "(or DRIFTLOOP_REDIS_PASSWORD_FILE) to the right one, and DRIFTLOOP_REDIS_USER if it has users."
            ) from error
        except (redis.RedisError, OSError) as error:  # an OSError: the file of a certificate does not exist
            if self._url.startswith("rediss://"):
                raise DriftloopError(
                    f"Redis at {self._url} cannot be reached over TLS ({error}): set DRIFTLOOP_REDIS_CA_FILE to the "
                    "authority that signed its certificate, or DRIFTLOOP_REDIS to redis://… if it has none."
                ) from error
            raise DriftloopError(
                f"No Redis answers at {self._url} ({error}): start one, or set DRIFTLOOP_REDIS to redis://host:port/0, "
                "or to rediss:// for TLS."
            ) from error

    def _wait_until_loaded(self) -> None:
        until = time.monotonic() + LOADING_TIMEOUT
        while True:
            try:
                self.client.ping()
                return
            except redis.BusyLoadingError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.2)

    def key(self, *parts: str) -> str:
        """Return the full key for ``parts``."""
        return self._prefix + ":".join(parts)

    def put_predictions(
        self,
        predictions: Mapping[str, bytes],
        embeddings: Mapping[str, Matrix | None] = NO_EMBEDDINGS,
        encoder: str = "",
        traces: Mapping[str, bytes] = NO_TRACES,
    ) -> list[bool]:
        """Store predictions. The first prediction of an event is kept.

        Args:
            predictions: Encoded predictions by event id.
            embeddings: Embeddings by event id, as for `put_embeddings`.
            encoder: Digest of the encoder of the embeddings.
            traces: Values of `traceparent` by event id.

        Returns:
            For each prediction, True if it was the first of its event.
        """
        pipe = self.client.pipeline(transaction=False)
        for event_id, body in predictions.items():
            pipe.set(self.key("prediction", event_id), body, ex=self._ttl_seconds, nx=True)
        self._put_embeddings(pipe, embeddings, encoder)
        for event_id, traceparent in traces.items():
            pipe.set(self.key("trace", "prediction", event_id), traceparent, ex=self._ttl_seconds, nx=True)
        return [bool(done) for done in pipe.execute()[: len(predictions)]]

    def put_embeddings(self, embeddings: Mapping[str, Matrix | None], encoder: str) -> None:
        """Store embeddings for retrainings, as float16.

        Args:
            embeddings: Embeddings of shape (d,) by event id. `None` is skipped.
            encoder: Digest of the encoder.
        """
        pipe = self.client.pipeline(transaction=False)
        self._put_embeddings(pipe, embeddings, encoder)
        pipe.execute()

    def _put_embeddings(self, pipe: Any, embeddings: Mapping[str, Matrix | None], encoder: str) -> None:
        for event_id, row in embeddings.items():
            if row is not None:
                raw = row.astype(np.float16).tobytes()
                pipe.set(self.key("embedding", encoder[:16], event_id), raw, ex=self._ttl_seconds)

    def drop_predictions(self, event_ids: Sequence[str]) -> None:
        """Delete the predictions of events."""
        if event_ids:
            self.client.delete(*(self.key("prediction", event_id) for event_id in event_ids))

    def generation(self) -> str | None:
        """Return the id of the store's generation, which changes after a flush. `None` if the store has no data."""
        found = self.client.get(self.key("generation"))
        return None if found is None else str(found, "ascii", "replace")

    def new_generation(self) -> str:
        """Mark the store as complete, after its creation or a rebuild. Return the id of the new generation."""
        generation = uuid.uuid4().hex
        self.client.set(self.key("generation"), generation)
        return generation

    def predictions(self, event_ids: Sequence[str]) -> list[bytes | None]:
        """Return the stored prediction of each event. `None` if absent."""
        return self._get_many([self.key("prediction", event_id) for event_id in event_ids])

    def embeddings(self, event_ids: Sequence[str], encoder: str) -> list[Matrix | None]:
        """Return the stored embedding of each event, of shape (d,). `None` if absent.

        Args:
            event_ids: Ids of the events.
            encoder: Digest of the encoder.
        """
        found = self._get_many([self.key("embedding", encoder[:16], event_id) for event_id in event_ids])
        return [None if raw is None else np.frombuffer(raw, dtype=np.float16).astype(np.float32) for raw in found]

    def park_traces(self, traces: Mapping[str, bytes]) -> None:
        """Store the `traceparent` of parked labels by event id."""
        pipe = self.client.pipeline(transaction=False)
        for event_id, traceparent in traces.items():
            pipe.set(self.key("trace", "label", event_id), traceparent, ex=self._ttl_seconds, nx=True)
        pipe.execute()

    def traces(self, of: Literal["prediction", "label"], event_ids: Sequence[str]) -> list[bytes | None]:
        """Return the stored `traceparent` of each event. `None` if absent.

        Args:
            of: Kind of message that the trace belongs to.
            event_ids: Ids of the events.
        """
        return self._get_many([self.key("trace", of, event_id) for event_id in event_ids])

    def parked_labels(self, event_ids: Sequence[str]) -> list[bytes | None]:
        """Return the parked label of each event. `None` if absent."""
        return self._get_many([self.key("label", event_id) for event_id in event_ids])

    def joined(self, event_ids: Sequence[str]) -> set[str]:
        """Return the events that were joined with their label before."""
        found = self._get_many([self.key("joined", event_id) for event_id in event_ids])
        return {event_id for event_id, mark in zip(event_ids, found, strict=True) if mark is not None}

    def mark_joined(self, event_ids: Iterable[str]) -> int:
        """Mark events as joined. Return the number of them that were not marked before."""
        pipe = self.client.pipeline(transaction=False)
        for event_id in event_ids:
            pipe.set(self.key("joined", event_id), b"1", ex=self._ttl_seconds, nx=True)
        return sum(map(bool, pipe.execute()))

    def park_labels(self, labels: Mapping[str, bytes]) -> None:
        """Park encoded labels until their predictions arrive. A label that is already parked is kept."""
        pipe = self.client.pipeline(transaction=False)
        for event_id, body in labels.items():
            pipe.set(self.key("label", event_id), body, ex=self._ttl_seconds, nx=True)
        pipe.execute()

    def save_join(
        self,
        name: str,
        state: bytes,
        rows: bytes,
        *,
        anew: bool,
        counted: int,
        joined: Iterable[str],
        parked: Mapping[str, bytes],
        unparked: Iterable[str],
    ) -> None:
        """Save a join together with the state after it, in one transaction.

        Args:
            name: Name of the state.
            state: The encoded state.
            rows: Encoded rows that the state has received.
            anew: True if ``rows`` replace the stored ones, False to append them.
            counted: Number of outcomes in the state.
            joined: Ids of the events that were joined.
            parked: Encoded labels to park, by event id.
            unparked: Ids of the events whose labels are no longer parked.
        """
        pipe = self.client.pipeline(transaction=True)
        pipe.set(self.key("state", name), state)
        if anew:
            pipe.delete(self.key("rows", name))
        pipe.rpush(self.key("rows", name), rows)
        pipe.set(self.key("counted", name), counted)
        for event_id in joined:
            pipe.set(self.key("joined", event_id), b"1", ex=self._ttl_seconds)
        for event_id, body in parked.items():
            pipe.set(self.key("label", event_id), body, ex=self._ttl_seconds)
        for event_id in unparked:
            pipe.delete(self.key("label", event_id))
        pipe.execute()

    def state(self, name: str) -> tuple[bytes | None, list[bytes]]:
        """Return the encoded state with a name, which is `None` if absent, and its rows."""
        pipe = self.client.pipeline(transaction=True)
        pipe.get(self.key("state", name))
        pipe.lrange(self.key("rows", name), 0, -1)
        state, rows = pipe.execute()
        return state, rows

    def outcome_count(self, name: str) -> int | None:
        """Return the number of outcomes in the state with a name. `None` if absent."""
        found = self.client.get(self.key("counted", name))
        return None if found is None else int(found)

    def _get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = self.client.mget(keys) if keys else []
        return found
