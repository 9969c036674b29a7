"""Champion for benchmarks, trained like the loop's first model and announced."""

from __future__ import annotations

from pathlib import Path

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.models.bundle import BundleClassifier, BundleDraft, Lineage, load_bundle, write_bundle
from driftloop.core.models.mixture_head import MixtureHead
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import load_scenario
from retrain.candidates.base import Budget, Candidate, Task
from retrain.candidates.linear import LinearHead
from retrain.mixture.champion_learner import as_guest
from retrain.promotion.first_stage import make_cascade
from retrain.promotion.promoter import Promoter
from retrain.training_window import TrainingWindow

TRAINED_ON = 500
"""Rows of the scenario that the model learns from."""
FIT_SECONDS = 60.0
"""Time limit of a candidate."""
CALIBRATION_ROWS = 600
"""Rows that a cascade is calibrated on: the last of those given to the training."""


def promote(
    settings: Settings, folder: Path, scenario: str = "tweets-stationary", rows: int = TRAINED_ON, cascade: bool = False
) -> BundleClassifier:
    """Fit a linear head on the first rows of a scenario, make it the champion, and load it.

    Args:
        settings: The stream.
        folder: Folder for the bundle.
        scenario: Name of a built-in scenario, or path of a TOML file.
        rows: Number of rows to learn from.
        cascade: Add a first stage.
    """
    bundle = fit(settings, folder, scenario, rows, cascade)
    return load_bundle(bundle, settings.signing_key, version=announce(settings, bundle))


def fit(
    settings: Settings, folder: Path, scenario: str, rows: int, cascade: bool, candidate: Candidate | None = None
) -> Path:
    """Fit a candidate on the first rows of a scenario and write its bundle.

    Args:
        settings: The stream.
        folder: Folder for the bundle.
        scenario: Name of a built-in scenario, or path of a TOML file.
        rows: Number of rows to learn from.
        cascade: Add a first stage.
        candidate: Candidate to fit. Default: the linear head.

    Returns:
        Folder of the bundle, inside ``folder``: `cascade`, or the candidate's name.
    """
    candidate = candidate or LinearHead()
    sequence = load_scenario(scenario).sequence[:rows]
    encoder = exported_encoder(settings.model)
    texts = tuple(row.text for row in sequence)
    window = TrainingWindow(
        event_ids=texts,
        texts=texts,
        labels=tuple(row.label for row in sequence),
        embeddings=encoder.embed(texts),
        encoder=encoder.folder,
        onset=0,
    )
    bundle = folder / ("cascade" if cascade else candidate.name)
    train, held = window, window
    if cascade:
        train, held = window.take(slice(None, -CALIBRATION_ROWS)), window.take(slice(-CALIBRATION_ROWS, None))
    lineage = Lineage(candidate=candidate.name)
    task = Task(
        budget=Budget(FIT_SECONDS),
        model=settings.model,
        lineage=lineage,
        signing_key=settings.signing_key,
        scratch=folder / f"scratch-{candidate.name}",
    )
    candidate.fit(train, task, bundle)
    if cascade:
        add_first_stage(bundle, train, held, settings)
    return bundle


def add_first_stage(bundle: Path, train: TrainingWindow, held: TrainingWindow, settings: Settings) -> None:
    """Add a first stage to a bundle.

    Args:
        bundle: Folder of the bundle.
        train: Rows that the first stage learns from.
        held: Rows that it is calibrated on.
        settings: Loss allowed and signing key.

    Raises:
        RuntimeError: No first stage has a loss as low as allowed.
    """
    model, draft = load_bundle(bundle, settings.signing_key), BundleDraft.open(bundle)
    if not make_cascade(model, draft, train, held, lambda rows: model.predict(rows.texts, rows.embeddings), settings):
        raise RuntimeError(f"no first stage has a loss of at most {settings.retrain.cascade_loss}")
    draft.sign(settings.signing_key)


def join(settings: Settings, mixture: Path, guest: Path, out: Path) -> None:
    """Write the bundle of a mixture with one guest, which has half of the weight.

    Args:
        settings: The stream.
        mixture: Bundle of the mixture.
        guest: Bundle of the guest.
        out: Folder of the bundle.

    Raises:
        ValueError: The first is not a mixture, or the second cannot be its guest.
    """
    model, joining = load_bundle(mixture, settings.signing_key), load_bundle(guest, settings.signing_key)
    found = as_guest(guest.name, joining, model.encoder.digest)
    if not isinstance(model.head, MixtureHead) or found is None or model.lineage is None:
        raise ValueError(f"{guest.name} cannot be a guest of {mixture.name}")
    head = MixtureHead(model.head.mixture.copy(), model.head.feature_map, model.head.tokenise, (found,))
    head.mixture.add_guest(found.name, 0.5)
    encoder = exported_encoder(settings.model)
    key = settings.signing_key
    write_bundle(out, encoder=encoder, head=head, labels=head.classes, lineage=model.lineage, key=key)


def announce(settings: Settings, bundle: Path) -> str:
    """Register a bundle, make it the champion of a stream, and return its version.

    Args:
        settings: The stream.
        bundle: Folder of the bundle.
    """
    outbox = ConfirmedProducer(settings)
    promoter = Promoter(settings, outbox)
    version = promoter.register("linear", bundle, Lineage(candidate="linear"), {}, {"reason": "benchmark"})
    promoter.promote(version, "benchmark", "benchmark")
    outbox.close()
    return version
