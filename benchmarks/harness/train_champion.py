"""A champion for benchmarks, trained as the loop's first model is, and announced."""

from __future__ import annotations

from pathlib import Path

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.models.bundle import BundleClassifier, Lineage, load_bundle
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import load_scenario
from retrain.candidates.base import Budget, Candidate, Task
from retrain.candidates.linear import LinearHead
from retrain.promotion.first_stage import make_cascade
from retrain.promotion.promoter import Promotions
from retrain.training_window import TrainingWindow

TRAINED_ON = 500
SECONDS = 60.0
"""That a candidate may take."""
HELD = 600
"""Rows that a cascade is calibrated on, the last of those trained on."""


def promote(
    settings: Settings, folder: Path, scenario: str = "tweets-stationary", rows: int = TRAINED_ON, cascade: bool = False
) -> BundleClassifier:
    """Fit a linear head on the first rows of a scenario, announce it, and load it; ``cascade``: with a first stage."""
    bundle = fit(settings, folder, scenario, rows, cascade)
    return load_bundle(bundle, settings.signing_key, version=announce(settings, bundle))


def fit(
    settings: Settings, folder: Path, scenario: str, rows: int, cascade: bool, candidate: Candidate | None = None
) -> Path:
    """The bundle of `promote`, or of another ``candidate``, in a folder by its name."""
    candidate = candidate or LinearHead()
    whole = load_scenario(scenario).sequence[:rows]
    encoder = exported_encoder(settings.model)
    texts = tuple(row.text for row in whole)
    window = TrainingWindow(
        event_ids=texts,
        texts=texts,
        labels=tuple(row.label for row in whole),
        embeddings=encoder.embed(texts),
        encoder=encoder.folder,
        onset=0,
    )
    bundle = folder / ("cascade" if cascade else candidate.name)
    train, held = (window.take(slice(None, -HELD)), window.take(slice(-HELD, None))) if cascade else (window, window)
    lineage = Lineage(candidate=candidate.name)
    task = Task(Budget(SECONDS), settings.model, lineage, settings.signing_key, folder / f"scratch-{candidate.name}")
    candidate.fit(train, task, bundle)
    if cascade:
        put_before(bundle, train, held, settings)
    return bundle


def put_before(bundle: Path, train: TrainingWindow, held: TrainingWindow, settings: Settings) -> None:
    """Give the model in ``bundle`` a first stage, or raise a `RuntimeError` where none keeps to the loss allowed."""
    model = load_bundle(bundle, settings.signing_key)
    if make_cascade(model, bundle, train, held, lambda rows: model.predict(rows.texts, rows.embeddings), settings):
        return
    raise RuntimeError(f"no first stage keeps to a loss of {settings.retrain.cascade_loss}")


def announce(settings: Settings, bundle: Path) -> str:
    """Register a bundle and make it the champion of the stream; its version."""
    outbox = ConfirmedProducer(settings)
    promotions = Promotions(settings, outbox)
    version = promotions.register("linear", bundle, Lineage(candidate="linear"), {}, {"reason": "benchmark"})
    promotions.promote(version, "benchmark", "benchmark")
    outbox.close()
    return version
