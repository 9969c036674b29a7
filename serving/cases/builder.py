"""The cases of a stream, put together from `drift-alerts`, `outcomes` and `retraining`."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from driftloop.core import topics
from driftloop.core.kafka.topic_history import TopicHistory, first_messages, read_history
from driftloop.core.messages import DriftAlert, Outcome, Retraining
from driftloop.core.settings import Settings
from serving.cases.model import AccuracySpan, Candidate, Case, Movement, Resolution, Round, SliceImpact, Swap
from serving.cases.resolution import describe_outcome, verdict_of

SWAPPING = ("promoted", "rolled-back")
PARTS, PART = 60, 10
"""The course of the accuracy has so many parts at most, of so many labelled events at least."""


def read(settings: Settings) -> TopicHistory:
    """Read the topics that cases are built from, for one stream."""
    history = read_history(settings, topics.DRIFT_ALERTS, topics.OUTCOMES, topics.RETRAINING)
    return history.of_stream(settings.stream)


def cases(history: TopicHistory) -> list[Case]:
    """Return all cases of a stream, in the order of their alerts. A repeated alert or outcome counts once."""
    told = replace(
        history, alerts=first_messages(history.alerts, "alert_id"), outcomes=first_messages(history.outcomes)
    )
    counted = sorted((o for o in told.outcomes if not o.in_sample), key=lambda o: o.occurred_at)
    swaps = _swaps(told, counted)
    stream = _Stream(counted, [o.occurred_at for o in counted], {o.position: o.occurred_at for o in counted})
    return [_case(alert, told, stream, swaps) for alert in told.alerts]


@dataclass(frozen=True)
class _Stream:
    """The labelled events that count, in the order of their occurrence."""

    outcomes: Sequence[Outcome]
    times: Sequence[float]
    at: Mapping[int, float]
    """`occurred_at` by stream position."""

    def between(self, start: float, end: float) -> Sequence[Outcome]:
        """Those that occurred from ``start`` on and before ``end``."""
        return self.outcomes[bisect.bisect_left(self.times, start) : bisect.bisect_left(self.times, end)]


def _case(alert: DriftAlert, told: TopicHistory, stream: _Stream, swaps: Mapping[str, list[Swap]]) -> Case:
    own = swaps.get(alert.alert_id, [])
    earlier = [start for made in swaps.values() for start in _starts(made, stream) if start < alert.onset_at]
    taken = next(iter(_starts(own, stream)), None)
    end = _next_onset(alert, told.alerts, stream, taken)
    before = stream.between(max(earlier, default=float("-inf")), alert.onset_at)
    until = stream.between(alert.onset_at, end if taken is None else max(taken, alert.onset_at))
    since = [] if taken is None else stream.between(max(taken, alert.onset_at), end)
    own_rounds = rounds(alert.alert_id, told.retrainings)
    verdict = verdict_of(own_rounds, own)
    shares = _share(before), _share(until), _share(since)
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
        moved=moved(evidence),
        estimated_accuracy=_objects(evidence.get("estimated_accuracy")),
        segments=_hurt(before, until, since, lambda o: o.segment),
        classes=_hurt(before, until, since, lambda o: o.label),
        course=_course([*before, *until, *since]),
        rounds=own_rounds,
        swaps=own,
        came_of_it=Resolution(
            verdict=verdict,
            words=describe_outcome(verdict, own_rounds, own, *shares),
            before=shares[0],
            until=shares[1],
            since=shares[2],
        ),
    )


def _starts(swaps: Sequence[Swap], stream: _Stream) -> list[float]:
    """When each swap took effect: `occurred_at` of the first labelled event that the version scored."""
    return [stream.at[swap.position] for swap in swaps if swap.position in stream.at]


def _next_onset(alert: DriftAlert, alerts: Sequence[DriftAlert], stream: _Stream, taken: float | None) -> float:
    """Where the next drift begins. An alert whose onset lies before this one was answered is of the same drift."""
    answered = stream.at.get(alert.position, alert.onset_at) if taken is None else taken
    limit = max(answered, alert.onset_at)
    return min((other.onset_at for other in alerts if other.onset_at > limit), default=float("inf"))


def _swaps(told: TopicHistory, counted: Sequence[Outcome]) -> dict[str, list[Swap]]:
    """Changes of the champion by case. A rollback belongs to the case whose promotion it takes back."""
    first: dict[str, int] = {}
    for outcome in counted:
        first.setdefault(outcome.model_version, outcome.position)
    found: dict[str, list[Swap]] = {}
    owner = ""
    for line in told.retrainings:
        if line.state not in SWAPPING or not line.version:
            continue
        rolled = line.state == "rolled-back"
        owner = (owner or line.trigger) if rolled else line.trigger
        swap = Swap(
            version=line.version,
            action="rollback" if rolled else "promote",
            candidate=line.candidate,
            reason=line.reason,
            at=line.at,
            position=first.get(line.version, -1),
        )
        found.setdefault(owner, []).append(swap)
    return found


def rounds(trigger: str, diary: Sequence[Retraining]) -> list[Round]:
    """The retrainings that ``trigger`` (an alert's id, or the policy's own word) led to, in their order."""
    own = [line for line in diary if line.trigger == trigger]
    begun = {line.run_id: line for line in own if line.state == "queued"}
    manual = [line for line in own if line.run_id not in begun]
    out = []
    for run_id, queued in begun.items():
        steps = [line for line in own if line.run_id == run_id]
        named: dict[str, list[Retraining]] = {}
        for line in steps:
            if line.candidate:
                named.setdefault(line.candidate, []).append(line)
        known = queued.scores
        ended = [line for line in steps if line.is_final]
        out.append(
            Round(
                run_id=run_id,
                kind=queued.kind,
                reason=queued.reason,
                position=queued.position,
                at=queued.at,
                state=(ended or steps)[-1].state,
                seconds=ended[-1].seconds if ended else 0.0,
                first_offset=_whole(known.get("first_offset")),
                last_offset=_whole(known.get("last_offset")),
                labelled=_whole(known.get("labelled")),
                rows=_whole(known.get("rows")),
                candidates=[_candidate(name, lines, manual) for name, lines in named.items()],
                trigger=trigger,
            )
        )
    return out


def _candidate(name: str, lines: Sequence[Retraining], manual: Sequence[Retraining]) -> Candidate:
    """A candidate of one round; one that waited has the state that a person gave it since."""
    last = lines[-1]
    gated = next((line for line in reversed(lines) if line.scores), last)
    if last.state == "waiting":
        spoken = [
            line
            for line in manual
            if line.at >= last.at
            and line.candidate == name
            and (line.version == last.version or line.state == "promoted")
        ]
        last = spoken[0] if spoken else last
    return Candidate(
        name=name,
        state=last.state,
        version=last.version,
        reason=last.reason,
        seconds=gated.seconds,
        accuracy=_figure(gated.scores.get("accuracy")),
        champion_accuracy=_figure(gated.scores.get("champion_accuracy")),
        checks=_objects(gated.scores.get("checks")),
        segments=_objects(gated.scores.get("segments")),
        classes=_objects(gated.scores.get("classes")),
    )


def moved(evidence: Mapping[str, Any]) -> list[Movement]:
    """The alert's ranked movements; the evidence of a single detector is plainer, and has mixes and words."""
    ranked = []
    for one in _list(evidence.get("moved")):
        with suppress(msgspec.ValidationError):
            ranked.append(msgspec.convert(one, Movement))
    if ranked:
        return ranked
    found: dict[str, Movement] = {}
    for key, measure in (("predicted_mix", "predicted"), ("label_mix", "label")):
        old, new = (one if isinstance(one, dict) else {} for one in [*_list(evidence.get(key)), {}, {}][:2])
        for name in {*old, *new}:
            was, now = _figure(old.get(name)) or 0.0, _figure(new.get(name)) or 0.0
            if name not in found or abs(now - was) > _change(found[name]):
                found[name] = Movement(what="class", name=name, measure=measure, before=was, after=now)
    words = _list(evidence.get("words"))
    return [
        *sorted(found.values(), key=lambda one: (-_change(one), one.name)),
        *(Movement(what="word", name=str(word), measure="share", before=None, after=None) for word in words),
    ]


def _change(moved: Movement) -> float:
    return abs((moved.after or 0.0) - (moved.before or 0.0))


def _hurt(
    before: Sequence[Outcome], until: Sequence[Outcome], since: Sequence[Outcome], key: Callable[[Outcome], str]
) -> list[SliceImpact]:
    """Each slice's accuracy on both sides and after the answer, those that lost most first."""
    sides = [_grouped(rows, key) for rows in (before, until, since)]
    whole = _share(before).accuracy
    found = []
    for name in sorted({*sides[0], *sides[1]} - {""}):
        was, now, then = (_share(side.get(name, [])) for side in sides)
        held_against = whole if was.accuracy is None else was.accuracy
        known = held_against is not None and now.accuracy is not None
        lost = (held_against - now.accuracy) * now.labelled if known else 0.0  # type: ignore[operator]
        found.append(SliceImpact(name=name, before=was, after=now, lost=round(lost, 1), since=then))
    return sorted(found, key=lambda one: (-one.lost, one.name))


def _course(rows: Sequence[Outcome]) -> list[AccuracySpan]:
    size = max(-(-len(rows) // PARTS), PART)
    return [_share(rows[start : start + size]) for start in range(0, len(rows), size)]


def _grouped(rows: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, list[Outcome]]:
    out: dict[str, list[Outcome]] = {}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return out


def _share(rows: Sequence[Outcome]) -> AccuracySpan:
    if not rows:
        return AccuracySpan(labelled=0, accuracy=None)
    return AccuracySpan(
        labelled=len(rows),
        accuracy=round(sum(row.correct for row in rows) / len(rows), 4),
        first_position=rows[0].position,
        last_position=rows[-1].position,
    )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _figure(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e12 else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in _list(value) if isinstance(one, dict)]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
