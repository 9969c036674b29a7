"""The first answer to each event, kept in the store: a redelivered event is answered with what was said before.

A store that was emptied, or came back without its newest writes, has another generation or none. What it should hold
is then told to it again from the topic, before anything new is answered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from driftloop.core.kafka import clients
from driftloop.core.messages import Prediction, decode
from driftloop.core.models.classifier import Matrix
from driftloop.core.online_store import NO_TRACES, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import PREDICTIONS, name

log = logging.getLogger(__name__)

LOCK = 60
"""Seconds after which another process may tell the store what it forgot; renewed while one does."""


class PredictionStore:
    """The predictions in the store of one stream."""

    def __init__(self, settings: Settings, store: OnlineStore) -> None:
        self._settings = settings
        self._store = store
        self._generation = ""

    def detect_flush(self) -> bool:
        """Whether the store has forgotten since this was asked last; it knows its predictions again afterwards."""
        now = self._store.generation() or self._rebuild()
        changed, self._generation = now != self._generation, now
        return changed

    def save_first(
        self,
        bodies: Mapping[str, bytes],
        embeddings: Mapping[str, Matrix | None],
        encoder: str,
        traces: Mapping[str, bytes] = NO_TRACES,
    ) -> dict[str, bytes]:
        """Store encoded predictions by event id; those that count: the first for each event, be it this one or not.

        ``embeddings``, each of shape (d,) where there is one, are those of the texts by the encoder of that digest;
        ``traces`` are kept with the predictions, as in `driftloop.core.online_store.OnlineStore.put_predictions`.
        """
        while True:
            first = self._store.put_predictions(bodies, embeddings, encoder, traces)
            fresh = [event_id for event_id, new in zip(bodies, first, strict=True) if new]
            if self._store.generation() == self._generation:
                break
            self._store.drop_predictions(fresh)  # they may not be the first: the store had forgotten those
            self.detect_flush()
        repeated = [event_id for event_id in bodies if event_id not in set(fresh)]
        said = dict(zip(repeated, self._store.predictions(repeated), strict=True))
        return {event_id: said.get(event_id) or body for event_id, body in bodies.items()}

    def confirm(self, bodies: Mapping[str, bytes]) -> None:
        """The broker has them: where the store forgot meanwhile, whoever told it again may not have seen them yet."""
        if self.detect_flush():
            self._store.put_predictions(bodies)

    def _rebuild(self) -> str:
        """Store what lies on the topic; the generation of the store that begins with it."""
        store, topic = self._store, name(self._settings, PREDICTIONS)
        with store.client.lock(store.key("lock", "answers"), timeout=LOCK) as lock:
            there = store.generation()
            if there is not None:
                return there
            start = clients.offsets_since(self._settings, topic, time.time() - self._settings.keep_hours * 3600)
            told = 0
            for part in clients.records(self._settings, topic, start):
                bodies: dict[str, bytes] = {}
                for record in part:
                    try:
                        bodies.setdefault(decode(Prediction, record.value or b"").event_id, record.value)
                    except ValueError:
                        continue
                store.put_predictions(bodies)
                told += len(bodies)
                lock.extend(LOCK, replace_ttl=True)
            if told:
                log.warning("the store had forgotten this stream: %d predictions were told to it again", told)
            return store.begin_generation()
