"""First prediction of each event, kept in the online store: a redelivered event gets the same answer again.

A store that was flushed, or that came back without its newest writes, has another generation or none. Its content is
then rebuilt from the topic before any new event is answered.
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

LOCK_SECONDS = 60
"""Seconds after which another process may rebuild the store; the process that rebuilds it renews the lock."""


class PredictionStore:
    """Predictions of one stream in its online store."""

    def __init__(self, settings: Settings, store: OnlineStore) -> None:
        self._settings = settings
        self._store = store
        self._generation = ""

    def detect_flush(self) -> bool:
        """Return True if the store was flushed since the previous call; its predictions are then rebuilt."""
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
        """Store predictions if absent; return the stored prediction of each event, which is the first.

        Args:
            bodies: Encoded predictions by event id.
            embeddings: Embeddings of the texts by event id, each of shape (d,) or `None`.
            encoder: Digest of the encoder that made the embeddings.
            traces: Trace contexts by event id, kept with the predictions; see `OnlineStore.put_predictions`.
        """
        while True:
            first = self._store.put_predictions(bodies, embeddings, encoder, traces)
            added = [event_id for event_id, new in zip(bodies, first, strict=True) if new]
            if self._store.generation() == self._generation:
                break
            self._store.drop_predictions(added)  # the flushed store may have held earlier ones
            self.detect_flush()
        repeated = [event_id for event_id in bodies if event_id not in set(added)]
        stored = dict(zip(repeated, self._store.predictions(repeated), strict=True))
        return {event_id: stored.get(event_id) or body for event_id, body in bodies.items()}

    def confirm(self, bodies: Mapping[str, bytes]) -> None:
        """Store predictions again if the store was flushed before the broker acknowledged them.

        The process that rebuilt the store may not have found them on the topic.
        """
        if self.detect_flush():
            self._store.put_predictions(bodies)

    def _rebuild(self) -> str:
        """Store the predictions that are on the topic; return the store's new generation."""
        store, topic = self._store, name(self._settings, PREDICTIONS)
        with store.client.lock(store.key("lock", "answers"), timeout=LOCK_SECONDS) as lock:
            existing = store.generation()
            if existing is not None:
                return existing
            start = clients.offsets_since(self._settings, topic, time.time() - self._settings.keep_hours * 3600)
            rebuilt = 0
            for records in clients.records(self._settings, topic, start):
                bodies: dict[str, bytes] = {}
                for record in records:
                    try:
                        bodies.setdefault(decode(Prediction, record.value or b"").event_id, record.value)
                    except ValueError:
                        continue
                store.put_predictions(bodies)
                rebuilt += len(bodies)
                lock.extend(LOCK_SECONDS, replace_ttl=True)
            if rebuilt:
                log.warning("the store had lost this stream: %d predictions were rebuilt from the topic", rebuilt)
            return store.new_generation()
