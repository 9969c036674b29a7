"""The online store: predictions by id, labels that wait for theirs, embeddings, traces, detector state, locks.

Every key starts with ``driftloop:STREAM:`` and, but for the state, expires.
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
"""The name of the monitor's state."""
NO_TRACES: Mapping[str, bytes] = {}
NO_EMBEDDINGS: Mapping[str, Matrix | None] = {}
LOADING_TIMEOUT = 120.0
"""Most seconds that a server is waited for which says that it is loading its data."""


def connect(settings: Settings, **options: Any) -> Any:
    """A client of the Redis in ``settings``; over TLS where its address begins with rediss://."""
    if settings.redis_user:
        options["username"] = settings.redis_user
    if settings.redis_password:
        options["password"] = settings.redis_password
    if settings.redis_ca_file and settings.redis.startswith("rediss://"):
        options["ssl_ca_certs"] = settings.redis_ca_file
    return redis.Redis.from_url(settings.redis, **options)


class OnlineStore:
    """Redis (or Valkey) for one stream."""

    def __init__(self, settings: Settings) -> None:
        self._url = without_password(settings.redis)
        self._prefix = f"driftloop:{settings.stream}:"
        self._ttl_seconds = max(1, int(settings.keep_hours * 3600))
        self.client = connect(settings, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30)

    def check(self) -> None:
        """Wait for a server that is loading its data.

        Raises:
            DriftloopError: it does not answer, wants another password, or takes longer than `LOADING`.
        """
        try:
            self._wait_until_loaded()
        except redis.AuthenticationError as error:
            raise DriftloopError(
                f"Redis at {self._url} does not take the password ({str(error).rstrip('.')}): set "
                "DRIFTLOOP_REDIS_PASSWORD (or DRIFTLOOP_REDIS_PASSWORD_FILE) to its own, and DRIFTLOOP_REDIS_USER "
                "where it has users."
            ) from error
        except (redis.RedisError, OSError) as error:  # an OSError: a certificate's file is not there
            if self._url.startswith("rediss://"):
                raise DriftloopError(
                    f"Redis at {self._url} cannot be reached over TLS ({error}): set DRIFTLOOP_REDIS_CA_FILE to the "
                    "authority that signed its certificate, or DRIFTLOOP_REDIS to redis://… where there is none."
                ) from error
            raise DriftloopError(
                f"No Redis answers at {self._url} ({error}): start one, or set DRIFTLOOP_REDIS to redis://host:port/0, "
                "rediss:// where it speaks TLS."
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
        """The full key for ``parts``."""
        return self._prefix + ":".join(parts)

    def put_predictions(
        self,
        predictions: Mapping[str, bytes],
        embeddings: Mapping[str, Matrix | None] = NO_EMBEDDINGS,
        encoder: str = "",
        traces: Mapping[str, bytes] = NO_TRACES,
    ) -> list[bool]:
        """Store encoded predictions by event id, the first one wins; True where this one was the first.

        ``embeddings`` are kept too, as by `put_embeddings`, and ``traces``: by event id, values of `traceparent`.
        """
        pipe = self.client.pipeline(transaction=False)
        for event_id, body in predictions.items():
            pipe.set(self.key("prediction", event_id), body, ex=self._ttl_seconds, nx=True)
        self._put_embeddings(pipe, embeddings, encoder)
        for event_id, traceparent in traces.items():
            pipe.set(self.key("trace", "prediction", event_id), traceparent, ex=self._ttl_seconds, nx=True)
        return [bool(done) for done in pipe.execute()[: len(predictions)]]

    def put_embeddings(self, embeddings: Mapping[str, Matrix | None], encoder: str) -> None:
        """Keep embeddings for the retraining job, by event id: each of shape (d,), float16, under an encoder's digest.

        Where there is None, none is kept.
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
        """Take predictions back that were stored a moment ago."""
        if event_ids:
            self.client.delete(*(self.key("prediction", event_id) for event_id in event_ids))

    def generation(self) -> str | None:
        """What tells this store from the same one after it was emptied; None: it knows nothing of the stream."""
        found = self.client.get(self.key("generation"))
        return None if found is None else str(found, "ascii", "replace")

    def new_generation(self) -> str:
        """From now on the store knows what it should; returns the new generation."""
        fresh = uuid.uuid4().hex
        self.client.set(self.key("generation"), fresh)
        return fresh

    def predictions(self, event_ids: Sequence[str]) -> list[bytes | None]:
        """The stored predictions, None where there is none."""
        return self._get_many([self.key("prediction", event_id) for event_id in event_ids])

    def embeddings(self, event_ids: Sequence[str], encoder: str) -> list[Matrix | None]:
        """The stored embeddings of an encoder, each of shape (d,), None where there is none."""
        found = self._get_many([self.key("embedding", encoder[:16], event_id) for event_id in event_ids])
        return [None if raw is None else np.frombuffer(raw, dtype=np.float16).astype(np.float32) for raw in found]

    def park_traces(self, traces: Mapping[str, bytes]) -> None:
        """Keep the `traceparent` that parked labels came with, by event id."""
        pipe = self.client.pipeline(transaction=False)
        for event_id, traceparent in traces.items():
            pipe.set(self.key("trace", "label", event_id), traceparent, ex=self._ttl_seconds, nx=True)
        pipe.execute()

    def traces(self, of: Literal["prediction", "label"], event_ids: Sequence[str]) -> list[bytes | None]:
        """The `traceparent` that is kept with the predictions or parked labels of these events, None where none is."""
        return self._get_many([self.key("trace", of, event_id) for event_id in event_ids])

    def parked_labels(self, event_ids: Sequence[str]) -> list[bytes | None]:
        """The parked labels of these events, None where there is none."""
        return self._get_many([self.key("label", event_id) for event_id in event_ids])

    def joined(self, event_ids: Sequence[str]) -> set[str]:
        """Those of the events that have been joined with their label before."""
        found = self._get_many([self.key("joined", event_id) for event_id in event_ids])
        return {event_id for event_id, mark in zip(event_ids, found, strict=True) if mark is not None}

    def mark_joined(self, event_ids: Iterable[str]) -> int:
        """Remember that events are joined; how many of them were not known to be."""
        pipe = self.client.pipeline(transaction=False)
        for event_id in event_ids:
            pipe.set(self.key("joined", event_id), b"1", ex=self._ttl_seconds, nx=True)
        return sum(map(bool, pipe.execute()))

    def park_labels(self, labels: Mapping[str, bytes]) -> None:
        """Keep encoded labels until their predictions come; one that is kept already stays."""
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
        """Store a join, the state that has seen it, and how many outcomes that has ``counted``; all or nothing.

        ``rows`` are what the state has seen: all of it where they begin ``anew``, otherwise what comes behind those
        before.
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
        """The state stored under ``name``, None where there is none, and the rows that it has seen."""
        pipe = self.client.pipeline(transaction=True)
        pipe.get(self.key("state", name))
        pipe.lrange(self.key("rows", name), 0, -1)
        state, rows = pipe.execute()
        return state, rows

    def outcome_count(self, name: str) -> int | None:
        """How many outcomes the state under ``name`` has seen, None where there is none."""
        found = self.client.get(self.key("counted", name))
        return None if found is None else int(found)

    def _get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = self.client.mget(keys) if keys else []
        return found
