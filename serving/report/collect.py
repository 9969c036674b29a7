"""Data of a run for its report, read from the topics and from MLflow while both are running."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.topic_history import TopicHistory, first_messages
from driftloop.core.messages import Outcome, Prediction, Retraining
from driftloop.core.settings import Settings
from serving.cases import builder
from serving.cases.model import Round
from serving.report import aggregates
from serving.report.run_data import ExpertWeights, Model, RunData, RunSettings, Source
from serving.simulation.summarise import BOOTSTRAP, NO_RETRAINING, after_queue, counts

PACKAGES = (
    "faust-streaming", "aiokafka", "kafka-python", "river", "scikit-learn", "tpot", "transformers", "torch",
    "onnxruntime", "mlflow", "fastapi", "redis",
)  # fmt: skip


def collect(settings: Settings, history: TopicHistory, source: Source, stack: str) -> RunData:
    """Return the content of `report.json`. Without MLflow its part is empty and `unread` has the reason.

    Args:
        settings: Settings of the run.
        history: Messages of the run's topics.
        source: Scenario and data of the stream.
        stack: Kind of the stack, embedded or own.
    """
    data = collect_from_topics(settings, history, source, stack)
    models, unread = _with_registry(settings, data.models)
    return msgspec.structs.replace(data, models=models, unread=unread)


def collect_from_topics(settings: Settings, history: TopicHistory, source: Source, stack: str) -> RunData:
    """Return the part of the data that comes from the topics, without a request to MLflow.

    Args:
        settings: Settings of the run.
        history: Messages of the run's topics.
        source: Scenario and data of the stream.
        stack: Kind of the stack, embedded or own.
    """
    outcomes = first_messages(history.outcomes)
    counted = [outcome for outcome in outcomes if counts(outcome, source.warm_up)]
    predictions = first_messages(history.predictions)
    stream = history.of_stream(settings.stream)
    label, right = aggregates.majority_label(outcomes, counted)
    live = after_queue(predictions)
    return RunData(
        written_at=time.time(),
        source=source,
        chosen=_chosen(settings, stack),
        labels=aggregates.label_mixes(outcomes),
        texts=aggregates.text_statistics(predictions),
        bins=aggregates.bins(counted),
        segments=aggregates.slices(counted, lambda outcome: outcome.segment),
        classes=aggregates.slices(counted, lambda outcome: outcome.label),
        confused=aggregates.confusions(counted),
        mean_confidence=sum(o.confidence for o in counted) / len(counted) if counted else None,
        majority=label,
        majority_right=right,
        latency=aggregates.durations([one.latency_ms for one in live or predictions]),
        end_to_end=aggregates.durations([(one.predicted_at - one.occurred_at) * 1000 for one in live]),
        backlog=len(predictions) - len(live),
        speed=aggregates.speed(predictions),
        reached=max((prediction.position for prediction in predictions), default=-1),
        cases=builder.cases(stream),
        rounds=rounds(stream.retrainings),
        weights=[
            ExpertWeights(labelled=one.outcome_offset + 1, weights={k: round(v, 4) for k, v in one.weights.items()})
            for one in sorted(stream.weight_samples, key=lambda one: one.outcome_offset)
        ],
        models=promoted_models(stream.retrainings, predictions, counted),
        software=_software(),
    )


def rounds(retrainings: Sequence[Retraining]) -> list[Round]:
    """Return all retrainings except the one of the first model, in the order in which they were queued."""
    triggers = dict.fromkeys(line.trigger for line in retrainings if line.trigger != BOOTSTRAP)
    known = [one for trigger in triggers for one in builder.rounds(trigger, retrainings)]
    return sorted((one for one in known if not one.run_id.startswith(NO_RETRAINING)), key=lambda one: one.at)


def promoted_models(
    retrainings: Sequence[Retraining], predictions: Sequence[Prediction], counted: Sequence[Outcome]
) -> list[Model]:
    """Return every version that became the champion, in the order of the promotions.

    Args:
        retrainings: Messages on `retraining`.
        predictions: The first prediction of each event.
        counted: The labelled events that count.
    """
    scored: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        scored.setdefault(prediction.model_version, []).append(prediction)
    labelled: dict[str, list[Outcome]] = {}
    for outcome in counted:
        labelled.setdefault(outcome.model_version, []).append(outcome)
    models = {}
    for line in retrainings:
        if line.state not in builder.SWAPPING or not line.version:
            continue
        own, rows = scored.get(line.version, []), labelled.get(line.version, [])
        models[line.version] = Model(
            version=line.version,
            kind=_kind(line),
            candidate=line.candidate,
            trigger=line.trigger,
            reason=line.reason,
            promoted_at=line.at,
            first_position=min((one.position for one in own), default=-1),
            predictions=len(own),
            segments=aggregates.slices(rows, lambda outcome: outcome.segment),
            classes=aggregates.slices(rows, lambda outcome: outcome.label),
        )
    return list(models.values())


def _kind(line: Retraining) -> str:
    if line.trigger == BOOTSTRAP:
        return BOOTSTRAP
    if line.state == "rolled-back":
        return "rollback"
    return "manual" if line.run_id.startswith(NO_RETRAINING) else line.kind


def _with_registry(settings: Settings, models: list[Model]) -> tuple[list[Model], str]:
    """Return the models with their data from MLflow, and the error if MLflow does not answer."""
    from mlflow.exceptions import MlflowException

    from driftloop.core.models.registry import Registry

    try:
        registry = Registry(settings)
        known = {str(one.version): one for one in registry.versions()}
        runs = {
            name: registry.client.get_run(known[name].run_id) for name in (m.version for m in models) if name in known
        }
    except (DriftloopError, MlflowException) as error:
        return models, str(error)[:300]
    return [
        _with_tags(one, known[one.version], runs[one.version]) if one.version in known else one for one in models
    ], ""


def _with_tags(model: Model, version: Any, run: Any) -> Model:
    tags = version.tags
    return msgspec.structs.replace(
        model,
        candidate=tags.get("candidate", model.candidate),
        topic=tags.get("topic", ""),
        first_offset=tags.get("first_offset", ""),
        last_offset=tags.get("last_offset", ""),
        dataset_revision=tags.get("dataset_revision", ""),
        digest=tags.get("digest", ""),
        parent=tags.get("parent_version", ""),
        restores=tags.get("restores", ""),
        verdict=tags.get("verdict", ""),
        parameters={str(name): str(value) for name, value in run.data.params.items()},
    )


def _chosen(settings: Settings, stack: str) -> RunSettings:
    retrain, gate = settings.retrain, settings.retrain.gate
    return RunSettings(
        stack=stack,
        secured=settings.secured,
        encoder=_base_name(settings.model.encoder),
        classifier=_base_name(settings.model.classifier),
        max_tokens=settings.model.max_tokens,
        quantised=settings.model.quantise,
        batch=settings.scorer.batch,
        detectors=list(settings.monitor.detectors),
        policy=retrain.policy,
        approval=retrain.approval,
        candidates=_candidates(settings),
        tpot_seconds=retrain.tpot_seconds,
        finetune_seconds=retrain.finetune_seconds,
        finetune_share=retrain.finetune_share,
        window=retrain.window,
        holdout=retrain.holdout,
        confidence=retrain.confidence,
        probation=retrain.probation,
        shadow=retrain.shadow,
        search_rows=retrain.search_rows,
        max_segment_drop=gate.max_segment_drop,
        max_recall_drop=gate.max_recall_drop,
        min_rows=gate.min_rows,
        partitions=settings.partitions,
    )


def _candidates(settings: Settings) -> list[str]:
    """Return the candidates of the run: a mixture has no linear head beside it."""
    chosen = list(settings.retrain.candidates)
    if not settings.retrain.learns_from_every_label:
        return chosen
    return ["mixture", *(name for name in chosen if name != "linear")]


def _base_name(model: str) -> str:
    """Return the name of a model; for a local folder the last part of its path."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def _software() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
