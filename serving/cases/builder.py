"""Drift cases of a stream, built from `drift-alerts`, `outcomes` and `retraining`."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from driftloop.core import topics
from driftloop.core.kafka.topic_history import TopicHistory, first_messages, read_history
from driftloop.core.messages import DriftAlert, Message, Outcome, Retraining
from driftloop.core.settings import Settings
from serving.cases.model import AccuracySpan, Candidate, Case, Resolution, Round, SliceImpact, Swap
from serving.cases.movements import movements
from serving.cases.resolution import describe_outcome, verdict_of
from serving.cases.untyped import as_number, as_objects, as_whole_number

M = TypeVar("M", bound=Message)

SWAPPING = ("promoted", "rolled-back")
"""States of a retraining that change the champion."""
SPANS, SPAN = 60, 10
"""Most spans of an accuracy course, and the fewest labelled events of a span."""


def read_case_history(settings: Settings) -> TopicHistory:
    """Read the topics that cases are built from, for one stream.

    Raises:
        DriftloopError: The broker does not answer.
    """
    history = read_history(settings, topics.DRIFT_ALERTS, topics.OUTCOMES, topics.RETRAINING)
    return history.of_stream(settings.stream)


def cases(history: TopicHistory) -> list[Case]:
    """Return all cases of a stream, in the order of their alerts. A repeated alert or outcome counts once."""
    outcomes = [outcome for outcome in first_messages(history.outcomes) if not outcome.in_sample]
    outcomes.sort(key=lambda outcome: outcome.occurred_at)
    stream = _LabelledStream(
        outcomes,
        [outcome.occurred_at for outcome in outcomes],
        {outcome.position: outcome.occurred_at for outcome in outcomes},
    )
    alerts = first_messages(history.alerts, "alert_id")
    swaps = _swaps(history.retrainings, outcomes)
    return [_case(alert, alerts, history.retrainings, stream, swaps) for alert in alerts]


@dataclass(frozen=True)
class _LabelledStream:
    """Labelled events that count, in the order of their occurrence."""

    outcomes: Sequence[Outcome]
    times: Sequence[float]
    """`occurred_at` of each."""
    time_at: Mapping[int, float]
    """`occurred_at` by stream position."""

    def between(self, start: float, end: float) -> Sequence[Outcome]:
        """Return the events from a time up to another, exclusive.

        Args:
            start: Unix seconds.
            end: Unix seconds.
        """
        return self.outcomes[bisect.bisect_left(self.times, start) : bisect.bisect_left(self.times, end)]


def _case(
    alert: DriftAlert,
    alerts: Sequence[DriftAlert],
    retrainings: Sequence[Retraining],
    stream: _LabelledStream,
    swaps: Mapping[str, list[Swap]],
) -> Case:
    """Return the case of one alert; ``swaps`` are the changes of the champion by alert."""
    own = swaps.get(alert.alert_id, [])
    earlier = [start for made in swaps.values() for start in _start_times(made, stream) if start < alert.onset_at]
    swapped = next(iter(_start_times(own, stream)), None)
    end = _next_onset(alert, alerts, stream, swapped)
    before = stream.between(max(earlier, default=float("-inf")), alert.onset_at)
    until = stream.between(alert.onset_at, end if swapped is None else max(swapped, alert.onset_at))
    since = [] if swapped is None else stream.between(max(swapped, alert.onset_at), end)
    own_rounds = rounds(alert.alert_id, retrainings)
    verdict = verdict_of(own_rounds, own)
    spans = _span(before), _span(until), _span(since)
    evidence = alert.evidence
    return Case(
        case_id=alert.alert_id,
        stream=alert.stream,
        position=alert.position,
        detected_at=alert.detected_at,
        detector=alert.detector,
        signal=alert.signal,
        kind=alert.kind,
        severity=alert.severity,
        window=alert.window,
        model_version=alert.model_version,
        fired=alert.fired or {alert.signal: 1.0},
        onset=alert.onset,
        onset_low=alert.onset_low,
        onset_high=alert.onset_high,
        onset_at=alert.onset_at,
        moved=movements(evidence),
        estimated_accuracy=as_objects(evidence.get("estimated_accuracy")),
        segments=_slice_impacts(before, until, since, lambda o: o.segment),
        classes=_slice_impacts(before, until, since, lambda o: o.label),
        course=_course([*before, *until, *since]),
        rounds=own_rounds,
        swaps=own,
        came_of_it=Resolution(
            verdict=verdict,
            words=describe_outcome(verdict, own_rounds, own, *spans, _span_as_registered(until)),
            before=spans[0],
            until=spans[1],
            since=spans[2],
        ),
    )


def _start_times(swaps: Sequence[Swap], stream: _LabelledStream) -> list[float]:
    """Return the time at which each swap took effect: `occurred_at` of the first labelled event of its version."""
    return [stream.time_at[swap.position] for swap in swaps if swap.position in stream.time_at]


def _next_onset(
    alert: DriftAlert, alerts: Sequence[DriftAlert], stream: _LabelledStream, swapped: float | None
) -> float:
    """Return the onset of the next drift. An alert with an onset before the swap belongs to the same drift."""
    answered = stream.time_at.get(alert.position, alert.onset_at) if swapped is None else swapped
    limit = max(answered, alert.onset_at)
    return min((other.onset_at for other in alerts if other.onset_at > limit), default=float("inf"))


def _swaps(retrainings: Sequence[Retraining], outcomes: Sequence[Outcome]) -> dict[str, list[Swap]]:
    """Return the changes of the champion by case. A rollback belongs to the case whose promotion it takes back."""
    first: dict[str, int] = {}
    for outcome in outcomes:
        first.setdefault(outcome.model_version, outcome.position)
    swaps: dict[str, list[Swap]] = {}
    owner = ""
    for step in retrainings:
        if step.state not in SWAPPING or not step.version:
            continue
        rolled_back = step.state == "rolled-back"
        owner = (owner or step.trigger) if rolled_back else step.trigger
        swap = Swap(
            version=step.version,
            action="rollback" if rolled_back else "promote",
            candidate=step.candidate,
            reason=step.reason,
            at=step.at,
            position=first.get(step.version, -1),
        )
        swaps.setdefault(owner, []).append(swap)
    return swaps


def rounds(trigger: str, retrainings: Sequence[Retraining]) -> list[Round]:
    """Return the retrainings that a trigger led to, in their order.

    Args:
        trigger: Id of an alert, or the name that the policy gives its other triggers.
        retrainings: Messages of the topic `retraining`.
    """
    own = [step for step in retrainings if step.trigger == trigger]
    queued = {step.run_id: step for step in own if step.state == "queued"}
    manual = [step for step in own if step.run_id not in queued]
    return [_round(start, [step for step in own if step.run_id == run_id], manual) for run_id, start in queued.items()]


def _round(queued: Retraining, steps: Sequence[Retraining], manual: Sequence[Retraining]) -> Round:
    """Return one retraining from its messages and the manual actions of the same case."""
    by_candidate = _grouped([step for step in steps if step.candidate], lambda step: step.candidate)
    inputs = queued.scores
    ends = [step for step in steps if step.is_final]
    return Round(
        run_id=queued.run_id,
        kind=queued.kind,
        reason=queued.reason,
        position=queued.position,
        at=queued.at,
        state=(ends or steps)[-1].state,
        seconds=ends[-1].seconds if ends else 0.0,
        first_offset=as_whole_number(inputs.get("first_offset")),
        last_offset=as_whole_number(inputs.get("last_offset")),
        labelled=as_whole_number(inputs.get("labelled")),
        rows=as_whole_number(inputs.get("rows")),
        candidates=[_candidate(name, own, manual) for name, own in by_candidate.items()],
        trigger=queued.trigger,
    )


def _candidate(name: str, steps: Sequence[Retraining], manual: Sequence[Retraining]) -> Candidate:
    """Return a candidate of one round. If it waited for approval, a later manual decision gives its state."""
    last = steps[-1]
    gated = next((step for step in reversed(steps) if step.scores), last)
    if last.state == "waiting":
        decisions = [
            step
            for step in manual
            if step.at >= last.at
            and step.candidate == name
            and (step.version == last.version or step.state == "promoted")
        ]
        last = decisions[0] if decisions else last
    return Candidate(
        name=name,
        state=last.state,
        version=last.version,
        reason=last.reason,
        seconds=gated.seconds,
        accuracy=as_number(gated.scores.get("accuracy")),
        champion_accuracy=as_number(gated.scores.get("champion_accuracy")),
        checks=as_objects(gated.scores.get("checks")),
        segments=as_objects(gated.scores.get("segments")),
        classes=as_objects(gated.scores.get("classes")),
        figures=_figures(gated.scores),
    )


def _figures(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the scores, except both accuracies. Those of a part have its name as a prefix."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        parts = {f"{name}_{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: one for key, one in parts.items() if not isinstance(one, bool) and as_number(one) is not None}
    return {name: float(value) for name, value in found.items() if name not in ("accuracy", "champion_accuracy")}


def _slice_impacts(
    before: Sequence[Outcome], until: Sequence[Outcome], since: Sequence[Outcome], key: Callable[[Outcome], str]
) -> list[SliceImpact]:
    """Return the accuracy of each slice before the drift, until the swap and since, the largest loss first."""
    sides = [_grouped(rows, key) for rows in (before, until, since)]
    overall = _span(before).accuracy
    impacts = []
    for name in sorted({*sides[0], *sides[1]} - {""}):
        was, fell, is_now = (_span(side.get(name, [])) for side in sides)
        baseline = overall if was.accuracy is None else was.accuracy
        known = baseline is not None and fell.accuracy is not None
        lost = (baseline - fell.accuracy) * fell.labelled if known else 0.0  # type: ignore[operator]
        impacts.append(SliceImpact(name=name, before=was, after=fell, lost=round(lost, 1), since=is_now))
    return sorted(impacts, key=lambda impact: (-impact.lost, impact.name))


def _course(rows: Sequence[Outcome]) -> list[AccuracySpan]:
    """Return the accuracy in at most `SPANS` spans of equal size."""
    size = max(-(-len(rows) // SPANS), SPAN)
    return [_span(rows[start : start + size]) for start in range(0, len(rows), size)]


def _span(rows: Sequence[Outcome]) -> AccuracySpan:
    if not rows:
        return AccuracySpan(labelled=0, accuracy=None)
    return AccuracySpan(
        labelled=len(rows),
        accuracy=round(sum(row.correct for row in rows) / len(rows), 4),
        first_position=rows[0].position,
        last_position=rows[-1].position,
    )


def _span_as_registered(rows: Sequence[Outcome]) -> AccuracySpan | None:
    """Return the accuracy of the versions as they were registered; `None` if labels have changed none of them."""
    if not any(row.reference for row in rows):
        return None
    return _span([replace(row, correct=row.watched[0] == row.label) for row in rows])


def _grouped(rows: Sequence[M], key: Callable[[M], str]) -> dict[str, list[M]]:
    groups: dict[str, list[M]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
