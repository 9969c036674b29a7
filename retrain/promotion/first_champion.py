"""The first champion: trained on the first labelled slice of the stream, or taken from the Hub."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from driftloop.core import messages
from driftloop.core.kafka import clients
from driftloop.core.messages import Event, Label
from driftloop.core.models.bundle import Lineage, verify_bundle, write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.onnx_export import exported_classifier, exported_encoder
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS, LABELS, name
from retrain.candidates.base import Budget, CannotFit, Task
from retrain.candidates.linear import LinearHead
from retrain.training_window import TrainingWindow

Say = Callable[[str], None]
M = TypeVar("M", Event, Label)


def first_champion(settings: Settings, folder: Path, stopped: Callable[[], bool], say: Say) -> Path | None:
    """Write the first champion's bundle under ``folder``; None when ``stopped`` became true before that.

    Waits for as many labelled events as it takes to have `retrain.promotion.first_champion` of them with two classes.

    Raises:
        DriftloopError: the configured encoder or classifier cannot be loaded.
    """
    if settings.model.classifier:
        say(f"exporting {settings.model.classifier}")
        return _from_hub(settings, folder)
    encoder = exported_encoder(settings.model)
    slice_ = _Slice(settings)
    wanted = settings.retrain.bootstrap
    try:
        while not stopped():
            slice_.poll()
            say(f"{len(slice_)} of {wanted} labelled events are there for the first model")
            if len(slice_) < wanted:
                continue
            window, newest = slice_.window(encoder, wanted)
            task = _task(settings, folder, window, newest)
            try:
                LinearHead().fit(window, task, folder / "bundle")
            except CannotFit as error:
                wanted = len(slice_) + settings.retrain.bootstrap
                say(f"no first model yet: {error}; waiting for {wanted} labelled events")
                continue
            return folder / "bundle"
    finally:
        slice_.close()
    return None


class _Slice:
    """The labelled events from the beginning of the stream, joined as they come."""

    def __init__(self, settings: Settings) -> None:
        self._events: dict[str, Event] = {}
        self._labels: dict[str, Label] = {}
        self._contexts = [clients.assigned_consumer(settings, name(settings, topic)) for topic in (EVENTS, LABELS)]
        self._events_reader, self._labels_reader = [context.__enter__() for context in self._contexts]

    def __len__(self) -> int:
        return len(self._events.keys() & self._labels.keys())

    def poll(self) -> None:
        self._take(self._events_reader, Event, self._events)
        self._take(self._labels_reader, Label, self._labels)

    @staticmethod
    def _take(reader: Any, kind: type[M], found: dict[str, M]) -> None:
        for records in reader.poll(timeout_ms=100, max_records=2000).values():
            for record in records:
                with contextlib.suppress(ValueError):
                    message = messages.decode(kind, record.value or b"")
                    found.setdefault(message.event_id, message)

    def window(self, encoder: OnnxEncoder, rows: int) -> tuple[TrainingWindow, float]:
        """The first ``rows`` labelled events, and `occurred_at` of the newest of them."""
        ids = [event_id for event_id in self._events if event_id in self._labels][:rows]
        texts = tuple(self._events[event_id].text for event_id in ids)
        newest = max(self._events[event_id].occurred_at for event_id in ids)
        window = TrainingWindow(
            event_ids=tuple(ids),
            texts=texts,
            labels=tuple(self._labels[event_id].label for event_id in ids),
            embeddings=encoder.embed(texts),
            encoder=encoder.folder,
            onset=0,
            first_offset=0,
            last_offset=len(ids) - 1,
        )
        return window, newest

    def close(self) -> None:
        for context in self._contexts:
            context.__exit__(None, None, None)


def _task(settings: Settings, folder: Path, window: TrainingWindow, newest: float) -> Task:
    lineage = Lineage(
        candidate="linear",
        dataset_revision=settings.dataset,
        topic=name(settings, LABELS),
        first_offset=window.first_offset,
        last_offset=window.last_offset,
        rows=len(window),
        trained_until=newest,
    )
    chosen = settings.retrain
    budget = Budget(chosen.linear_seconds, seed=chosen.seed)
    return Task(budget, settings.model, lineage, settings.signing_key, folder / "scratch", chosen.device, chosen.dask)


def _from_hub(settings: Settings, folder: Path) -> Path:
    graph, labels = exported_classifier(settings.model.classifier, folder / "exported", settings.model)
    lineage = Lineage(
        candidate="hub",
        dataset_revision=settings.dataset,
        parameters={"source": settings.model.classifier, "exported_at": time.time()},
    )
    write_bundle(folder / "bundle", encoder=graph, head=None, labels=labels, lineage=lineage, key=settings.signing_key)
    verify_bundle(folder / "bundle", settings.signing_key)
    return folder / "bundle"
