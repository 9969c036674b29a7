"""Lineage of a prediction: its model, the model's training data and trigger, and the earlier champions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from driftloop.core.messages import DriftAlert, Prediction, Retraining

GENERATIONS = 100
"""Most models in one lineage."""


class TrainingData(msgspec.Struct, frozen=True, kw_only=True):
    """Training data of a model."""

    topic: str
    first_offset: int
    last_offset: int
    """Offsets on `topic`, both inclusive; -1 if unknown."""
    dataset_revision: str


class Ancestor(msgspec.Struct, frozen=True, kw_only=True):
    """A registered version in a lineage."""

    version: str
    candidate: str
    digest: str
    """SHA-256 of the bundle's manifest."""
    trigger: str
    """Id of the alert, `bootstrap`, or the name that the policy gives its other triggers."""
    verdict: str
    reason: str
    restores: str
    """Version whose bundle this one restores; empty if it has its own."""
    run_id: str
    """Id of the run in MLflow."""
    trained: TrainingData


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Lineage of one prediction."""

    prediction: Prediction
    models: list[Ancestor]
    """The model that predicted, the champion before it, and so on to the first."""
    alert: DriftAlert | None
    """Alert that led to the model; `None` for a first model, and if the alert is no longer known."""
    retraining: list[Retraining]
    """Steps of the retrainings for that alert."""


def lineage(
    prediction: Prediction,
    versions: Iterable[Any],
    alerts: Mapping[str, DriftAlert],
    runs: Iterable[list[Retraining]],
) -> Lineage:
    """Build the lineage of a prediction.

    Args:
        prediction: The prediction.
        versions: Registered versions, as MLflow returns them.
        alerts: Known alerts by id.
        runs: Known retrainings, each as its steps.
    """
    known = {str(one.version): one for one in versions}
    models: list[Ancestor] = []
    version = prediction.model_version
    while version in known and len(models) < GENERATIONS and version not in {model.version for model in models}:
        models.append(_ancestor(known[version]))
        version = known[version].tags.get("parent_version", "")
    trigger = models[0].trigger if models else ""
    steps = [step for run in runs for step in run if step.trigger == trigger]
    return Lineage(prediction=prediction, models=models, alert=alerts.get(trigger), retraining=steps)


def _ancestor(version: Any) -> Ancestor:
    tags = version.tags
    return Ancestor(
        version=str(version.version),
        candidate=tags.get("candidate", ""),
        digest=tags.get("digest", ""),
        trigger=tags.get("trigger", ""),
        verdict=tags.get("verdict", ""),
        reason=tags.get("reason", ""),
        restores=tags.get("restores", ""),
        run_id=version.run_id or "",
        trained=TrainingData(
            topic=tags.get("topic", ""),
            first_offset=_whole(tags.get("first_offset")),
            last_offset=_whole(tags.get("last_offset")),
            dataset_revision=tags.get("dataset_revision", ""),
        ),
    )


def _whole(text: str | None) -> int:
    """Return a whole number; -1 if the text is none."""
    try:
        return int(text or "")
    except ValueError:
        return -1
