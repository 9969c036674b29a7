"""`summary.json`: what a simulation achieved, computed from its topics and the scenario's truth.

Fields are only ever added. Definitions of delay and false alarm follow CapyMOA's `EvaluateDriftDetector`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from driftloop.core import topics
from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.messages import DeadLetter, DriftAlert, Kind, ModelUpdate, Outcome, Prediction, Retraining
from driftloop.core.settings import Settings
from serving.simulation.drift_scoring import MAX_DELAY, Alert, Drift, Truth, judge_alerts

BLOCK = 500
AFTER = 2000
BOOTSTRAP = "bootstrap"
NO_RETRAINING = ("probation-", "manual-")
"""How the ids begin of what else the topic `retraining` tells: a predecessor came back, or a person did something."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy over the stream positions from ``start`` to ``end``, exclusive."""

    start: int
    end: int
    labelled: int
    accuracy: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Test, then learn: shares of right predictions among the labelled events that count.

    The first events, on which the first model is trained, are warm-up and count nowhere; of a repeated event only the
    first outcome counts.
    """

    prequential: float | None
    """Over all labelled events that count; None where there are none."""
    prequential_after_2000: float | None
    """Over those from stream position 2,000 on."""
    per_segment: dict[str, float]
    per_500_events: list[Block]
    per_version: dict[str, float]
    """By the model version that made the prediction."""
    counted: int
    """Labelled events that count."""
    warm_up: int
    """Labelled events left out because the first model was trained on them."""


class RetrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """One retraining, from its messages on `retraining`."""

    run_id: str
    trigger: str
    """Alert id, or the policy's own word."""
    reason: str
    position: int
    """Stream position at which it was queued; -1 where it was not said."""
    candidates: list[str]
    scores: dict[str, dict[str, Any]]
    """By candidate, as the gate published them."""
    reasons: dict[str, str]
    """By candidate: why it was promoted, rejected, or failed."""
    seconds: float
    verdict: Literal["promoted", "rejected", "failed", "unfinished"]
    version: str
    """The promoted version; empty where none was."""
    kind: Kind = "search"
    """The first answer to a drift, a refresh of what was learnt since, or a search by all candidates."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from reading a batch to its predictions, over all predictions; None without any."""

    p50: float | None
    p95: float | None
    p99: float | None


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A model version that scored events."""

    version: str
    trigger: str
    first_position: int
    predictions: int
    accuracy: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `summary.json`."""

    scenario: str
    complete: bool
    """Every event was predicted or is a dead letter, every label was joined, every retraining finished."""
    missing: str
    """What was not there at the end, in words; empty for a complete run."""
    events: int
    """Events on the topic."""
    predictions: int
    """Messages on `predictions`, duplicates included."""
    dead_letters: int
    duplicates: int
    """Predictions of an event that had one already (at least once); every keyed view takes the first."""
    accuracy: Accuracy
    drifts: list[Drift]
    drifts_known: bool
    """Whether the scenario says where its drifts are, be it nowhere; otherwise nothing is a false alarm."""
    false_alarms: int
    """Alerts outside `MAX_DELAY` labelled events after a true drift."""
    repeat_alerts: int
    """Further alerts inside them, after the one that counts as the detection."""
    alerts: list[Alert]
    retrainings: list[RetrainingRun]
    """Answers and searches; refreshes are apart."""
    refreshes: list[RetrainingRun] = []
    """Without the training of the first model, which is `bootstrap`."""
    bootstrap: RetrainingRun | None
    promotions: int
    """Without the first model's."""
    rollbacks: int
    latency: Latency
    events_per_second: float
    """Events predicted, by the seconds between the first and the last prediction."""
    seconds: float
    """Wall clock of the simulation, its start and end included; all sessions of a resumed one."""
    first_prediction_seconds: float | None
    """From the start of the command to the first prediction."""
    first_promotion_seconds: float | None
    """From the start of the command to the first promotion after the first model's."""
    peak_memory_mb: float
    """Largest sum of the resident memory of all processes; pages they share count in each of them."""
    versions: list[Version]
    """Model versions in the order in which they took over."""
    restarts: dict[str, int]
    """How often each process was started again."""
    cpu_seconds: dict[str, float] = {}
    """CPU time of each process with all that it started, `simulate` for the rest; empty where it was not measured."""
    software: dict[str, str]


@dataclass(frozen=True)
class Topics:
    """Everything on the topics that the summary needs, in order of arrival."""

    predictions: Sequence[Prediction]
    outcomes: Sequence[Outcome]
    alerts: Sequence[DriftAlert]
    updates: Sequence[ModelUpdate]
    retraining: Sequence[Retraining]
    dead_letters: Sequence[DeadLetter]
    events: int


@dataclass(frozen=True)
class Clock:
    """What only the simulation itself could measure."""

    seconds: float
    first_prediction_seconds: float | None = None
    first_promotion_seconds: float | None = None
    peak_memory_mb: float = 0.0
    restarts: dict[str, int] | None = None
    cpu_seconds: dict[str, float] | None = None
    missing: str = ""
    software: dict[str, str] | None = None


def collect(settings: Settings) -> Topics:
    """Read the topics from their beginning to their present end."""

    def read(topic: topics.Topic) -> list[Any]:
        return clients.read_all(settings, topics.name(settings, topic), topic.message)

    events = topics.name(settings, topics.EVENTS)
    fence = FencingFilter()
    return Topics(
        predictions=read(topics.PREDICTIONS),
        outcomes=read(topics.OUTCOMES),
        alerts=read(topics.DRIFT_ALERTS),
        updates=[update for update in read(topics.MODEL_UPDATES) if fence.admits(update)],
        retraining=read(topics.RETRAINING),
        dead_letters=read(topics.DEAD_LETTERS),
        events=clients.end_offsets(settings, [events])[events],
    )


def summarise(found: Topics, truth: Truth, clock: Clock, max_delay: int = MAX_DELAY) -> Summary:
    """Compute the summary; ``max_delay`` is the number of labelled events within which a drift must be detected."""
    outcomes = firsts(found.outcomes)
    counted = [outcome for outcome in outcomes if counts(outcome, truth.bootstrap)]
    first = firsts(found.predictions)
    drifts, alerts = judge_alerts(firsts(found.alerts, "alert_id"), truth, [o.position for o in outcomes], max_delay)
    retrainings = _retrainings(found.retraining)
    # A run that was cut off before its first model tries again when it is resumed: what counts is the one that made it.
    bootstraps = sorted((r for r in retrainings if r.trigger == BOOTSTRAP), key=lambda r: r.verdict == "promoted")
    promoted = {m.version for m in found.retraining if m.state == "promoted" and m.trigger != BOOTSTRAP}
    # `model-updates` is compacted, so its history may be short; `retraining` has all of it.
    promoted |= {m.version for m in found.updates if m.action == "promote" and m.trigger != BOOTSTRAP}
    restored = {m.version for m in found.retraining if m.state == "rolled-back"}
    restored |= {m.version for m in found.updates if m.action == "rollback"}
    times = [p.predicted_at for p in found.predictions]
    span = max(times) - min(times) if times else 0.0
    return Summary(
        scenario=truth.scenario,
        complete=not clock.missing,
        missing=clock.missing,
        events=found.events,
        predictions=len(found.predictions),
        dead_letters=len({(d.topic, d.partition, d.offset) for d in found.dead_letters}),
        duplicates=len(found.predictions) - len(first),
        accuracy=_accuracy(counted, len(outcomes) - len(counted)),
        drifts=drifts,
        drifts_known=truth.known,
        false_alarms=sum(alert.verdict == "false alarm" for alert in alerts),
        repeat_alerts=sum(alert.verdict == "repeat" for alert in alerts),
        alerts=alerts,
        retrainings=[run for run in retrainings if run.trigger != BOOTSTRAP and run.kind != "refresh"],
        refreshes=[run for run in retrainings if run.kind == "refresh"],
        bootstrap=bootstraps[-1] if bootstraps else None,
        promotions=len(promoted),
        rollbacks=len(restored),
        latency=_latency([p.latency_ms for p in found.predictions]),
        events_per_second=round(len(first) / span, 2) if span > 0 else 0.0,
        seconds=round(clock.seconds, 2),
        first_prediction_seconds=_rounded(clock.first_prediction_seconds, 2),
        first_promotion_seconds=_rounded(clock.first_promotion_seconds, 2),
        peak_memory_mb=round(clock.peak_memory_mb, 1),
        versions=_versions(first, counted, found),
        restarts=clock.restarts or {},
        cpu_seconds={name: round(seconds, 1) for name, seconds in (clock.cpu_seconds or {}).items()},
        software=clock.software or {},
    )


def write(summary: Summary, folder: Path) -> Path:
    """Write ``folder/summary.json``, whole or not at all, and return its path.

    Raises:
        DriftloopError: it cannot be written.
    """
    path = folder / "summary.json"
    scratch = folder / f".summary.{os.getpid()}"
    try:
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise DriftloopError(f"{path} cannot be written: {error.strerror}; make room and resume the run.") from error
    return path


def counts(outcome: Outcome, bootstrap: int) -> bool:
    """Whether a labelled event says something about a model: the first model was trained on the warm-up."""
    return not (outcome.in_sample or 0 <= outcome.position < bootstrap)


def firsts(items: Sequence[Any], key: str = "event_id") -> list[Any]:
    """The first message of each event (or alert): a redelivered one counts once."""
    out: dict[str, Any] = {}
    for item in items:
        out.setdefault(getattr(item, key), item)
    return list(out.values())


def _accuracy(counted: Sequence[Outcome], warm_up: int) -> Accuracy:
    late = [o for o in counted if o.position >= AFTER]
    blocks = [
        Block(start=block * BLOCK, end=(block + 1) * BLOCK, labelled=len(those), accuracy=_known(_share(those)))
        for block, those in sorted(_grouped(counted, lambda o: max(o.position, 0) // BLOCK).items())
    ]
    return Accuracy(
        prequential=_share(counted),
        prequential_after_2000=_share(late),
        per_segment={name: _known(_share(those)) for name, those in _grouped(counted, lambda o: o.segment).items()},
        per_500_events=blocks,
        per_version={v: _known(_share(those)) for v, those in _grouped(counted, lambda o: o.model_version).items()},
        counted=len(counted),
        warm_up=warm_up,
    )


def _retrainings(stream: Sequence[Retraining]) -> list[RetrainingRun]:
    """One entry for each run id, in the order in which they were queued."""
    out: list[RetrainingRun] = []
    for run_id, steps in _grouped(stream, lambda m: m.run_id).items():
        if run_id.startswith(NO_RETRAINING):
            continue
        named = [m for m in steps if m.candidate]
        promoted = [m for m in steps if m.state == "promoted"]
        ended = [m for m in steps if m.ends]
        verdict: Literal["promoted", "rejected", "failed", "unfinished"] = "unfinished"
        if promoted:
            verdict = "promoted"
        elif ended:
            broken = any(m.state == "failed" and not m.candidate for m in ended)
            verdict = "rejected" if not broken and any(m.state == "rejected" for m in steps) else "failed"
        seconds = ended[-1].seconds if ended and ended[-1].seconds else steps[-1].at - steps[0].at
        out.append(
            RetrainingRun(
                run_id=run_id,
                trigger=steps[0].trigger,
                reason=steps[0].reason,
                position=steps[0].position,
                candidates=list(dict.fromkeys(m.candidate for m in named)),
                scores={m.candidate: m.scores for m in named if m.scores},
                reasons={m.candidate: m.reason for m in named if m.state in ("promoted", "rejected", "failed")},
                seconds=round(seconds, 2),
                verdict=verdict,
                version=promoted[-1].version if promoted else "",
                kind=steps[0].kind,
            )
        )
    return out


def _versions(predictions: Sequence[Prediction], counted: Sequence[Outcome], found: Topics) -> list[Version]:
    triggers = {m.version: m.trigger for m in found.retraining if m.version}
    triggers |= {m.version: m.trigger for m in found.updates if m.version and m.trigger}
    accuracy = {v: _share(those) for v, those in _grouped(counted, lambda o: o.model_version).items()}
    return [
        Version(
            version=version,
            trigger=triggers.get(version, ""),
            first_position=min(p.position for p in those),
            predictions=len(those),
            accuracy=accuracy.get(version),
        )
        for version, those in _grouped(predictions, lambda p: p.model_version).items()
    ]


def _latency(values: Sequence[float]) -> Latency:
    if not values:
        return Latency(p50=None, p95=None, p99=None)
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(values, [50, 95, 99]))
    return Latency(p50=p50, p95=p95, p99=p99)


def _grouped(items: Sequence[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    out: dict[Any, list[Any]] = {}
    for item in items:
        out.setdefault(key(item), []).append(item)
    return out


def _share(outcomes: Sequence[Outcome]) -> float | None:
    return round(sum(o.correct for o in outcomes) / len(outcomes), 4) if outcomes else None


def _known(share: float | None) -> float:
    return 0.0 if share is None else share


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
