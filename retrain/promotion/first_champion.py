"""First champion: trained on the first labelled slice of the stream, or taken from the Hugging Face Hub."""

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
from retrain.candidates.mixture_fit import MixtureFit
from retrain.training_window import TrainingWindow

Report = Callable[[str], None]
M = TypeVar("M", Event, Label)


def first_champion(settings: Settings, folder: Path, stopped: Callable[[], bool], report: Report) -> Path | None:
    """Write the bundle of the first champion.

    Waits until `retrain.bootstrap` events of two or more classes are labelled.

    Args:
        settings: Settings of the stream.
        folder: Folder for the bundle and its scratch files.
        stopped: Returns `True` to end the wait.
        report: Called with a line for each step of the progress.

    Returns:
        The bundle's folder; `None` if ``stopped`` ended the wait.

    Raises:
        DriftloopError: The configured encoder or classifier cannot be loaded.
    """
    if settings.model.classifier:
        report(f"exporting {settings.model.classifier}")
        return _from_hub(settings, folder)
    encoder = exported_encoder(settings.model)
    labelled = _FirstSlice(settings)
    wanted = settings.retrain.bootstrap
    candidate = MixtureFit() if settings.retrain.learns_from_every_label else LinearHead()
    progress = ""
    try:
        while not stopped():
            labelled.poll()
            before, progress = progress, f"{len(labelled)} of {wanted} labelled events for the first model have arrived"
            if progress != before:
                report(progress)
            if len(labelled) < wanted:
                continue
            window, newest = labelled.window(encoder, wanted)
            try:
                candidate.fit(window, _task(settings, folder, candidate.name, window, newest), folder / "bundle")
            except CannotFit as error:
                wanted = len(labelled) + settings.retrain.bootstrap
                report(f"no first model yet: {error}; waiting for {wanted} labelled events")
                continue
            return folder / "bundle"
    finally:
        labelled.close()
    return None


class _FirstSlice:
    """Labelled events from the beginning of the stream, joined as they arrive."""

    def __init__(self, settings: Settings) -> None:
        self._events: dict[str, Event] = {}
        self._labels: dict[str, Label] = {}
        self._contexts = [clients.assigned_consumer(settings, name(settings, topic)) for topic in (EVENTS, LABELS)]
        self._events_reader, self._labels_reader = [context.__enter__() for context in self._contexts]

    def __len__(self) -> int:
        return len(self._events.keys() & self._labels.keys())

    def poll(self) -> None:
        self._collect(self._events_reader, Event, self._events)
        self._collect(self._labels_reader, Label, self._labels)

    @staticmethod
    def _collect(reader: Any, kind: type[M], found: dict[str, M]) -> None:
        for records in reader.poll(timeout_ms=100, max_records=2000).values():
            for record in records:
                with contextlib.suppress(ValueError):
                    message = messages.decode(kind, record.value or b"")
                    found.setdefault(message.event_id, message)

    def window(self, encoder: OnnxEncoder, rows: int) -> tuple[TrainingWindow, float]:
        """Return the first labelled events, and `occurred_at` of the newest of them.

        Args:
            encoder: Encoder of their texts.
            rows: Number of events.
        """
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


def _task(settings: Settings, folder: Path, candidate: str, window: TrainingWindow, newest: float) -> Task:
    lineage = Lineage(
        candidate=candidate,
        dataset_revision=settings.dataset,
        topic=name(settings, LABELS),
        first_offset=window.first_offset,
        last_offset=window.last_offset,
        rows=len(window),
        trained_until=newest,
    )
    chosen = settings.retrain
    return Task(
        budget=Budget(chosen.linear_seconds, seed=chosen.seed),
        model=settings.model,
        lineage=lineage,
        signing_key=settings.signing_key,
        scratch=folder / "scratch",
        device=chosen.device,
        dask=chosen.dask,
    )


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
