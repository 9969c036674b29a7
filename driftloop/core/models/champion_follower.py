"""Follower of `model-updates` and `mixture-updates` that keeps the current champion loaded.

It also reads drift alerts. After an alert a cascade uses only its encoder, until a newer model is promoted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from kafka import KafkaConsumer

from driftloop.core import messages
from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.errors import ShutdownRequested
from driftloop.core.kafka import clients
from driftloop.core.kafka.auth import AccessDenied
from driftloop.core.messages import DriftAlert, MixtureUpdate, ModelUpdate
from driftloop.core.models.bundle_cache import BundleCache
from driftloop.core.models.bundle_classifier import BundleClassifier
from driftloop.core.models.manifest import BundleError
from driftloop.core.models.mixture_head import MixtureHead
from driftloop.core.models.mixture_update import apply_update, check_signature
from driftloop.core.settings import Settings
from driftloop.core.topics import DRIFT_ALERTS, MIXTURE_UPDATES, MODEL_UPDATES, name

log = logging.getLogger(__name__)

U = TypeVar("U", ModelUpdate, MixtureUpdate)


class ChampionFollower:
    """Loader of the model that scores events.

    `current` waits for the first promotion. A thread downloads, verifies and warms later champions beside the scoring,
    and then `current` returns them. If an update is invalid, the model before it stays. The thread also applies the
    updates of a mixture, each to a copy, so that a batch is scored by one state of it.

    Args:
        settings: Stack, stream id and device of the encoder.
        refused: Called once for each invalid update, with its record and the reason.
    """

    def __init__(self, settings: Settings, refused: Callable[[Any, str], None] = lambda record, why: None) -> None:
        self._settings = settings
        self._on_refused = refused
        self._model: BundleClassifier | None = None
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._newest_alert = float("-inf")  # `detected_at` of the newest alert of this stream
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="champion")
        self._bundles = BundleCache(settings)
        # Topic, partition and offset of refused records: the topic is read from its beginning again after an error.
        self._reported: set[tuple[str, int, int]] = set()
        # Newest update of each expert that is not applied yet, with its record; all of one version.
        self._waiting: dict[str, tuple[MixtureUpdate, Any]] = {}

    def start(self) -> None:
        """Start to follow the topics."""
        self._thread.start()

    def close(self) -> None:
        """Stop following, and interrupt a wait in `current`."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def current(self) -> BundleClassifier:
        """Return the champion, after a wait for the first one.

        Raises:
            DriftloopError: There is no champion, and the announced one is invalid.
            ShutdownRequested: The process is shutting down.
        """
        with self._changed:
            while self._model is None:
                if self._stop.is_set():
                    raise ShutdownRequested
                if self._error is not None:
                    raise self._error
                self._changed.wait(0.5)
            return self._model

    @property
    def newest(self) -> BundleClassifier | None:
        """The champion. `None` before the first one."""
        return self._model

    @property
    def drifting(self) -> bool:
        """Return True if an alert is newer than the champion."""
        return self._model is not None and self._newest_alert > self._model.made_at

    def _follow(self) -> None:
        """Read until the end. If the registry or the broker does not answer, try again."""
        while not self._stop.is_set():
            try:
                self._read()
            except AccessDenied as error:  # without new promotions an old model must not continue
                self._set(None, error)
                return
            except Exception as error:
                log.warning("model-updates cannot be followed (%s); trying again", error)
                self._stop.wait(1.0)

    def _read(self) -> None:
        """Read updates and alerts from their beginning. Old updates are skipped: only the newest one is loaded."""
        topic, mixtures, alerts = (name(self._settings, one) for one in (MODEL_UPDATES, MIXTURE_UPDATES, DRIFT_ALERTS))
        with clients.assigned_consumer(self._settings, topic, also=[mixtures, alerts]) as client:
            ends = client.end_offsets(list(client.assignment()))
            if not any(end for partition, end in ends.items() if partition.topic == topic):
                self._bundles.prepare()
            newest: tuple[ModelUpdate, Any] | None = None
            fence = FencingFilter()
            while not self._stop.is_set():
                for record in _poll(client):
                    if record.topic == alerts:
                        self._on_alert(record)
                    elif record.topic == mixtures:
                        self._on_mixture_update(record, fence)
                    elif update := self._decode(ModelUpdate, record, fence):
                        newest = (update, record)
                if newest and all(client.position(partition) >= end for partition, end in ends.items()):
                    self._load(*newest)
                    newest = None
                if self._model is not None:
                    self._apply_waiting(self._model)

    def _decode(self, kind: type[U], record: Any, fence: FencingFilter) -> U | None:
        """Decode an update. Return None if it is invalid, void, or of another stream."""
        try:
            update = messages.decode(kind, record.value or b"")
        except ValueError as error:
            self._refuse(record, f"not a {record.topic} message: {error}")
            return None
        return update if update.stream == self._settings.stream and fence.admits(update) else None

    def _on_mixture_update(self, record: Any, fence: FencingFilter) -> None:
        """Keep an update of a mixture until the version that it changes is loaded."""
        update = self._decode(MixtureUpdate, record, fence)
        if update is None or update.is_sample:
            return
        try:
            check_signature(update, self._settings.signing_key)
        except ValueError as error:
            self._refuse(record, str(error))
            return
        if any(kept.version != update.version for kept, _ in self._waiting.values()):
            self._waiting.clear()
        self._waiting[update.expert] = (update, record)

    def _apply_waiting(self, model: BundleClassifier) -> None:
        """Apply the updates of the loaded version."""
        waiting = [one for one in self._waiting.values() if one[0].version == model.version]
        if not waiting:
            return
        self._waiting.clear()
        mixture = model.head.mixture.copy() if isinstance(model.head, MixtureHead) else None
        revision = model.revision
        for update, record in sorted(waiting, key=lambda one: one[0].revision):
            if update.revision <= model.revision:  # read again after an error of the broker
                continue
            try:
                if mixture is None:
                    raise ValueError(f"version {model.version} is not a mixture")
                apply_update(mixture, update)
                revision = update.revision
            except ValueError as error:
                self._refuse(record, str(error))
        if mixture is not None and revision > model.revision:
            self._set(model.with_mixture(mixture, revision), None)

    def _on_alert(self, record: Any) -> None:
        with suppress(ValueError):
            alert = messages.decode(DriftAlert, record.value or b"")
            if alert.stream == self._settings.stream:
                self._newest_alert = max(self._newest_alert, alert.detected_at)

    def _load(self, update: ModelUpdate, record: Any) -> None:
        """Make the model of an update the champion, unless its bundle is invalid."""
        model = self._model
        if model is not None and model.version == update.version:
            return
        try:
            champion = self._bundles.load(update, None if model is None else model.encoder)
        except BundleError as error:
            self._refuse(record, str(error))
            self._set(model, error)
            return
        self._set(champion, None)
        log.warning("scoring with version %s", update.version)

    def _set(self, model: BundleClassifier | None, error: Exception | None) -> None:
        with self._changed:
            self._model, self._error = model, error
            self._changed.notify_all()

    def _refuse(self, record: Any, error: str) -> None:
        """Report an invalid update once."""
        place = (record.topic, record.partition, record.offset)
        if record.value is None or place in self._reported:  # compaction leaves a record without a value
            return
        log.error("%s", error)
        self._on_refused(record, error)
        self._reported.add(place)


def _poll(client: KafkaConsumer) -> list[Any]:
    return [record for records in client.poll(timeout_ms=200).values() for record in records]
