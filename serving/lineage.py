"""Where a prediction comes from: its model, what that was trained on and why, and the models before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from driftloop.core.messages import DriftAlert, Prediction, Retraining

GENERATIONS = 100
"""Models that a line of descent is followed through."""


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was trained on."""

    topic: str
    first_offset: int
    last_offset: int
    """Both inclusive; -1 where they are not known."""
    dataset_revision: str


class Ancestor(msgspec.Struct, frozen=True, kw_only=True):
    """A registered version, as far as its descent goes."""

    version: str
    candidate: str
    digest: str
    """SHA-256 of the bundle's manifest."""
    trigger: str
    """Alert id, `bootstrap`, or the policy's own word."""
    verdict: str
    reason: str
    restores: str
    """The version whose bundle this is again; empty: it is its own."""
    run_id: str
    """Of the run in MLflow."""
    trained: Trained


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """The descent of one prediction."""

    prediction: Prediction
    models: list[Ancestor]
    """That which answered, the champion before it, and so on to the first."""
    alert: DriftAlert | None
    """That which the model is an answer to; None for a first model, and where the alert is not known any more."""
    retraining: list[Retraining]
    """What was said of the retrainings for that alert."""


def lineage(
    prediction: Prediction,
    versions: Iterable[Any],
    alerts: Mapping[str, DriftAlert],
    runs: Iterable[list[Retraining]],
) -> Lineage:
    """Put it together from MLflow's ``versions`` and what the topics say."""
    known = {str(one.version): one for one in versions}
    models: list[Ancestor] = []
    version = prediction.model_version
    while version in known and len(models) < GENERATIONS and version not in {model.version for model in models}:
        models.append(_ancestor(known[version]))
        version = known[version].tags.get("parent_version", "")
    trigger = models[0].trigger if models else ""
    said = [line for run in runs for line in run if line.trigger == trigger]
    return Lineage(prediction=prediction, models=models, alert=alerts.get(trigger), retraining=said)


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
        trained=Trained(
            topic=tags.get("topic", ""),
            first_offset=_whole(tags.get("first_offset")),
            last_offset=_whole(tags.get("last_offset")),
            dataset_revision=tags.get("dataset_revision", ""),
        ),
    )


def _whole(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        return -1
