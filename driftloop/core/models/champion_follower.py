"""Where a promotion arrives: follows `model-updates` and keeps the newest champion loaded, for whoever scores.

Drift alerts arrive there too: until a model comes that was made after them, a cascade leaves everything to its encoder.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kafka import TopicPartition

from driftloop.core import messages
from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.errors import ShutdownRequested
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import AccessDenied
from driftloop.core.messages import DriftAlert, ModelUpdate
from driftloop.core.models.bundle import BundleClassifier, BundleError
from driftloop.core.models.bundle_cache import BundleCache
from driftloop.core.settings import Settings
from driftloop.core.topics import DRIFT_ALERTS, MODEL_UPDATES, name

log = logging.getLogger(__name__)


class ChampionFollower:
    """The model that events are scored with.

    `current` waits for the first promotion; later ones are fetched, verified and warmed by a thread beside the
    scoring, and `current` returns them from the next call on. Of an update that must not be followed, ``refused`` is
    told once, with its record and the reason, and the model before it stays.
    """

    def __init__(self, settings: Settings, refused: Callable[[Any, str], None] = lambda record, why: None) -> None:
        self._settings = settings
        self._on_refused = refused
        self._model: BundleClassifier | None = None
        self._refused: Exception | None = None
        self._changed = threading.Condition()
        self._alerted = float("-inf")
        """When the newest alert of this stream was raised."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="champion")
        self._bundles = BundleCache(settings)
        self._reported: set[tuple[int, int]] = set()
        """Partition and offset of what was no update: the topic is read from its beginning more than once."""

    def start(self) -> None:
        """Begin to follow the topic."""
        self._thread.start()

    def close(self) -> None:
        """Give up waiting."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def current(self) -> BundleClassifier:
        """The champion; waits until there is one.

        Raises:
            DriftloopError: there is none, and the only one announced must not be loaded.
            Stopped: the processor is shutting down.
        """
        with self._changed:
            while self._model is None:
                if self._stop.is_set():
                    raise ShutdownRequested
                if self._refused is not None:
                    raise self._refused
                self._changed.wait(0.5)
            return self._model

    @property
    def newest(self) -> BundleClassifier | None:
        """The champion, None before there is one."""
        return self._model

    @property
    def drifting(self) -> bool:
        """Whether an alert was raised after the champion was made."""
        return self._model is not None and self._alerted > self._model.made_at

    def _follow(self) -> None:
        """Until the end; a registry or a broker that is away for a while is waited for."""
        while not self._stop.is_set():
            try:
                self._read()
            except AccessDenied as error:  # what may not follow the promotions must not go on with an old model
                with self._changed:
                    self._model, self._refused = None, error
                    self._changed.notify_all()
                return
            except Exception as error:
                log.warning("model-updates cannot be followed (%s); trying again", error)
                self._stop.wait(1.0)

    def _read(self) -> None:
        topic, alerts = name(self._settings, MODEL_UPDATES), name(self._settings, DRIFT_ALERTS)
        with clients.assigned_consumer(self._settings, topic, also=[alerts]) as client:
            ends = client.end_offsets(list(client.assignment()))
            if not any(end for (read, _), end in ends.items() if read == topic):
                self._bundles.prepare()
            newest: tuple[ModelUpdate, Any] | None = None
            fence = FencingFilter()
            while not self._stop.is_set():
                for records in client.poll(timeout_ms=200).values():
                    for record in records:
                        if record.topic == alerts:
                            self._on_alert(record)
                            continue
                        try:
                            update = messages.decode(ModelUpdate, record.value or b"")
                        except ValueError as error:
                            self._refuse(record, f"not a model update: {error}")
                            continue
                        if update.stream == self._settings.stream and fence.admits(update):
                            newest = (update, record)
                # Old promotions are skipped: only the last one is worth loading.
                if newest and all(client.position(TopicPartition(t, p)) >= end for (t, p), end in ends.items()):
                    self._load(*newest)
                    newest = None

    def _on_alert(self, record: Any) -> None:
        with suppress(ValueError):
            alert = messages.decode(DriftAlert, record.value or b"")
            if alert.stream == self._settings.stream:
                self._alerted = max(self._alerted, alert.detected_at)

    def _load(self, update: ModelUpdate, record: Any) -> None:
        model = self._model
        if model is not None and model.version == update.version:
            return
        try:
            fresh = self._bundles.load(update, None if model is None else model.encoder)
        except BundleError as error:
            self._refuse(record, str(error))
            with self._changed:
                self._refused = error
                self._changed.notify_all()
            return
        with self._changed:
            self._model, self._refused = fresh, None
            self._changed.notify_all()
        log.warning("scoring with version %s", update.version)

    def _refuse(self, record: Any, error: str) -> None:
        """Say once of an update why it is passed over."""
        place = (record.partition, record.offset)
        if record.value is None or place in self._reported:  # compaction leaves a mark without a value
            return
        log.error("%s", error)
        self._on_refused(record, error)
        self._reported.add(place)
