"""Computation of a summary from the topics of a simulation and the true drifts of its scenario."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from driftloop.core import topics
from driftloop.core.kafka.topic_history import TopicHistory, first_messages, read_history
from driftloop.core.messages import Message, Outcome, Prediction, Retraining
from driftloop.core.settings import Settings
from serving.simulation.drift_scoring import MAX_DELAY, Truth, judge_alerts
from serving.simulation.summary import Accuracy, Block, Latency, RetrainingRun, Summary, Version

BLOCK = 500
AFTER = 2000
BOOTSTRAP = "bootstrap"
"""Trigger of the first model."""
CAUGHT_UP = 1.0
"""Seconds from an event to its prediction at which the queue for the first model has ended."""
NO_RETRAINING = ("probation-", "manual-")
"""Prefixes of ids on `retraining` that are no retraining: a rollback in probation, and a manual action."""

M = TypeVar("M", bound=Message)
K = TypeVar("K")


@dataclass(frozen=True)
class Clock:
    """Measurements of the simulation that no topic has. The fields are those of `Summary`."""

    seconds: float
    first_prediction_seconds: float | None = None
    first_promotion_seconds: float | None = None
    peak_memory_mb: float = 0.0
    restarts: dict[str, int] | None = None
    cpu_seconds: dict[str, float] | None = None
    missing: str = ""
    software: dict[str, str] | None = None


def collect(settings: Settings) -> TopicHistory:
    """Read the topics that a summary needs.

    Raises:
        DriftloopError: The broker does not answer.
    """
    return read_history(
        settings,
        topics.EVENTS,
        topics.PREDICTIONS,
        topics.OUTCOMES,
        topics.DRIFT_ALERTS,
        topics.MODEL_UPDATES,
        topics.MIXTURE_UPDATES,
        topics.RETRAINING,
        topics.DEAD_LETTERS,
    )


def summarise(history: TopicHistory, truth: Truth, clock: Clock, max_delay: int = MAX_DELAY) -> Summary:
    """Compute the summary.

    Args:
        history: Messages of the simulation, as `collect` reads them.
        truth: True drifts and the warm-up of the scenario.
        clock: Measurements of the simulation.
        max_delay: Labelled events within which a drift must be detected.
    """
    outcomes = first_messages(history.outcomes)
    counted = [outcome for outcome in outcomes if counts(outcome, truth.bootstrap)]
    predictions = first_messages(history.predictions)
    measured = after_queue(predictions) or predictions
    raised = first_messages(history.alerts, "alert_id")
    drifts, alerts = judge_alerts(raised, truth, [outcome.position for outcome in outcomes], max_delay)
    runs = retraining_runs(history.retrainings)
    return Summary(
        scenario=truth.scenario,
        complete=not clock.missing,
        missing=clock.missing,
        events=history.events,
        predictions=len(history.predictions),
        dead_letters=len({(letter.topic, letter.partition, letter.offset) for letter in history.dead_letters}),
        duplicates=len(history.predictions) - len(predictions),
        accuracy=_accuracy(counted, warm_up=len(outcomes) - len(counted)),
        drifts=drifts,
        drifts_known=truth.known,
        false_alarms=sum(alert.verdict == "false alarm" for alert in alerts),
        repeat_alerts=sum(alert.verdict == "repeat" for alert in alerts),
        alerts=alerts,
        retrainings=[run for run in runs if run.trigger != BOOTSTRAP and run.kind != "refresh"],
        refreshes=[run for run in runs if run.kind == "refresh"],
        bootstrap=_first_model(runs),
        promotions=len(_promoted(history)),
        rollbacks=len(_brought_back(history)),
        latency=_latency([prediction.latency_ms for prediction in measured]),
        queued=len(predictions) - len(measured),
        events_per_second=_events_per_second(len(predictions), history.predictions),
        seconds=round(clock.seconds, 2),
        first_prediction_seconds=_rounded(clock.first_prediction_seconds),
        first_promotion_seconds=_rounded(clock.first_promotion_seconds),
        peak_memory_mb=round(clock.peak_memory_mb, 1),
        versions=_versions(predictions, counted, history),
        restarts=clock.restarts or {},
        cpu_seconds={name: round(seconds, 1) for name, seconds in (clock.cpu_seconds or {}).items()},
        software=clock.software or {},
    )


def counts(outcome: Outcome, bootstrap: int) -> bool:
    """Return True if a labelled event measures a model. Events that the first model was trained on do not.

    Args:
        outcome: The labelled event.
        bootstrap: Events at the beginning that the first model is trained on.
    """
    return not (outcome.in_sample or 0 <= outcome.position < bootstrap)


def after_queue(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the predictions after the queue of events that waited for the first model, by time.

    The queue ends with the first prediction that comes within `CAUGHT_UP` of its event. If none does, it is the events
    that occurred before the first prediction.

    Args:
        predictions: Predictions of distinct events.
    """
    ordered = sorted(predictions, key=lambda one: one.predicted_at)
    for at, one in enumerate(ordered):
        if one.predicted_at - one.occurred_at < CAUGHT_UP:
            return ordered[at:]
    return [one for one in ordered if one.occurred_at >= ordered[0].predicted_at]


def retraining_runs(steps: Sequence[Retraining]) -> list[RetrainingRun]:
    """Return one entry for each retraining, in the order in which they were queued."""
    runs = _grouped(steps, lambda step: step.run_id)
    return [_run(run_id, own) for run_id, own in runs.items() if not run_id.startswith(NO_RETRAINING)]


def _run(run_id: str, steps: Sequence[Retraining]) -> RetrainingRun:
    """Return the entry of one retraining from its messages."""
    first = steps[0]
    named = [step for step in steps if step.candidate]
    promoted = [step.version for step in steps if step.state == "promoted"]
    return RetrainingRun(
        run_id=run_id,
        trigger=first.trigger,
        reason=first.reason,
        position=first.position,
        candidates=list(dict.fromkeys(step.candidate for step in named)),
        scores={step.candidate: step.scores for step in named if step.scores},
        reasons={step.candidate: step.reason for step in named if step.state in ("promoted", "rejected", "failed")},
        seconds=_duration(steps),
        verdict=_verdict(steps),
        version=promoted[-1] if promoted else "",
        kind=first.kind,
    )


def _verdict(steps: Sequence[Retraining]) -> Literal["promoted", "rejected", "failed", "unfinished"]:
    """Return the outcome of one retraining. One candidate's failure is not the failure of the run."""
    states = {step.state for step in steps}
    if "promoted" in states:
        return "promoted"
    if not any(step.is_final for step in steps):
        return "unfinished"
    run_failed = any(step.state == "failed" and not step.candidate for step in steps)
    return "rejected" if "rejected" in states and not run_failed else "failed"


def _duration(steps: Sequence[Retraining]) -> float:
    """Return the seconds that the last message of the end names, or those between the first and the last message."""
    ends = [step for step in steps if step.is_final]
    seconds = ends[-1].seconds if ends else 0.0
    return round(seconds or steps[-1].at - steps[0].at, 2)


def _first_model(runs: Sequence[RetrainingRun]) -> RetrainingRun | None:
    """Return the training of the first model. A resumed run may have tried several times: the promoted one counts."""
    bootstraps = [run for run in runs if run.trigger == BOOTSTRAP]
    return max(reversed(bootstraps), key=lambda run: run.verdict == "promoted", default=None)


def _promoted(history: TopicHistory) -> set[str]:
    """Return the promoted versions. `model-updates` is compacted and may lack some; `retraining` has all of them."""
    versions = {step.version for step in history.retrainings if step.state == "promoted" and step.trigger != BOOTSTRAP}
    updates = (update for update in history.model_updates if update.action == "promote")
    return versions | {update.version for update in updates if update.trigger != BOOTSTRAP}


def _brought_back(history: TopicHistory) -> set[str]:
    """Return the versions that a rollback brought back."""
    versions = {step.version for step in history.retrainings if step.state == "rolled-back"}
    return versions | {update.version for update in history.model_updates if update.action == "rollback"}


def _accuracy(counted: Sequence[Outcome], warm_up: int) -> Accuracy:
    blocks = _grouped(counted, lambda outcome: max(outcome.position, 0) // BLOCK)
    return Accuracy(
        prequential=_share(counted) if counted else None,
        prequential_after_2000=_share_from(AFTER, counted),
        per_segment=_shares(counted, lambda outcome: outcome.segment),
        per_500_events=[
            Block(start=block * BLOCK, end=(block + 1) * BLOCK, labelled=len(rows), accuracy=_share(rows))
            for block, rows in sorted(blocks.items())
        ],
        per_version=_shares(counted, lambda outcome: outcome.model_version),
        counted=len(counted),
        warm_up=warm_up,
    )


def _versions(predictions: Sequence[Prediction], counted: Sequence[Outcome], history: TopicHistory) -> list[Version]:
    """Return the versions that scored events, in the order of their first prediction."""
    triggers = {step.version: step.trigger for step in history.retrainings if step.version}
    triggers |= {
        update.version: update.trigger for update in history.model_updates if update.version and update.trigger
    }
    accuracy = _shares(counted, lambda outcome: outcome.model_version)
    return [
        Version(
            version=version,
            trigger=triggers.get(version, ""),
            first_position=min(prediction.position for prediction in own),
            predictions=len(own),
            accuracy=accuracy.get(version),
        )
        for version, own in _grouped(predictions, lambda prediction: prediction.model_version).items()
    ]


def _latency(milliseconds: Sequence[float]) -> Latency:
    if not milliseconds:
        return Latency(p50=None, p95=None, p99=None)
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(milliseconds, [50, 95, 99]))
    return Latency(p50=p50, p95=p95, p99=p99)


def _events_per_second(events: int, predictions: Sequence[Prediction]) -> float:
    times = [prediction.predicted_at for prediction in predictions]
    span = max(times) - min(times) if times else 0.0
    return round(events / span, 2) if span > 0 else 0.0


def _grouped(items: Iterable[M], key: Callable[[M], K]) -> dict[K, list[M]]:
    groups: dict[K, list[M]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _shares(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, float]:
    """Return the accuracy of each group of labelled events."""
    return {name: _share(rows) for name, rows in _grouped(outcomes, key).items()}


def _share_from(position: int, outcomes: Sequence[Outcome]) -> float | None:
    """Return the accuracy from a stream position on; `None` without labelled events there."""
    late = [outcome for outcome in outcomes if outcome.position >= position]
    return _share(late) if late else None


def _share(outcomes: Sequence[Outcome]) -> float:
    """Return the accuracy of labelled events, of which there is at least one."""
    return round(sum(outcome.correct for outcome in outcomes) / len(outcomes), 4)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
