"""A drift case: everything about one alert, from what moved to what came of it, put together from the topics.

`Case` is the JSON of `driftloop case ID --json`; its fields are only ever added to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from driftloop import kafka, topics
from driftloop.errors import DriftloopError
from driftloop.messages import DriftAlert, Kind, Outcome, Retraining
from driftloop.settings import Settings

Verdict = Literal["promoted", "rolled back", "waiting", "rejected", "failed", "under way", "not retrained"]


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A segment, class or word whose share or error moved, as the alert said; ranked, the surest first."""

    what: str
    """segment, class or word."""
    name: str
    measure: str
    """share (of events), predicted (share of predictions), label (share of labels) or error (rate within it)."""
    before: float | None
    after: float | None
    """None where the alert did not measure it."""
    z: float | None = None
    texts: list[str] = []
    """Up to three examples since the onset."""
    event_ids: list[str] = []


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Right predictions among the labelled events of a stretch of the stream."""

    labelled: int
    accuracy: float | None
    """None without labelled events."""
    first_position: int = -1
    last_position: int = -1


class Hurt(msgspec.Struct, frozen=True, kw_only=True):
    """A segment or a true class: its accuracy before the drift and from the onset until the first promotion."""

    name: str
    before: Share
    after: Share
    lost: float
    """Right answers lost: the fall of the accuracy times the events after; what is new is held against the whole."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate of one round and what the gate said of it."""

    name: str
    state: str
    """The last that was said of it: searching, gated, shadow, waiting, promoted, rejected or failed."""
    version: str
    reason: str
    """The verdict in words."""
    seconds: float
    accuracy: float | None
    champion_accuracy: float | None
    """Both on the same held-out events."""
    checks: list[dict[str, Any]]
    """The gate's guards: name, passed, words, numbers, excused."""
    segments: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    """Both models' accuracy by segment and by class: name, rows, champion, challenger."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of the policy and what it led to."""

    run_id: str
    kind: Kind
    reason: str
    """The policy's arithmetic."""
    position: int
    at: float
    state: str
    """The last state: finished, failed, or where it is now."""
    seconds: float
    first_offset: int
    last_offset: int
    """Offsets in `outcomes` of the training window, both inclusive; -1 where they were not said."""
    labelled: int
    """Labelled events of the stream at the time; -1 where it was not said."""
    rows: int
    """Labelled events since the onset; -1 where it was not said."""
    candidates: list[Candidate]


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the champion."""

    version: str
    action: Literal["promote", "rollback"]
    candidate: str
    reason: str
    at: float
    position: int
    """Stream position of the first labelled event that this version scored; -1 where there is none."""


class CameOfIt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    verdict: Verdict
    words: str
    before: Share
    """From the promotion of the case before (or the beginning of the stream) to the onset."""
    until: Share
    """From the onset to the first promotion of this case, or to the next drift where there was none."""
    since: Share
    """From the first promotion to the next drift, or to the end."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one alert. Positions count events of the stream, times are Unix seconds."""

    case_id: str
    """The alert's id, and the trigger of its retrainings."""
    stream: str
    position: int
    """Where the alarm was raised."""
    detected_at: float
    detector: str
    signal: str
    kind: str
    """What likely changed: covariate (the texts), label (their mix), concept (what a text's label is), or unknown."""
    severity: float
    window: int
    """Observations between the onset and the alarm."""
    model_version: str
    """The champion at the time."""
    fired: dict[str, float]
    """The signals behind the alarm with the share of each in the evidence."""
    onset: int
    onset_low: int
    onset_high: int
    """The likely beginning, and the positions between which it lies; -1 where the detector does not say."""
    onset_at: float
    moved: list[Moved]
    estimated_accuracy: list[dict[str, Any]]
    """Of the blocks of predictions before the alarm, without labels: start, end, estimate, low, high."""
    segments: list[Hurt]
    classes: list[Hurt]
    """Most right answers lost first."""
    rounds: list[Round]
    swaps: list[Swap]
    came_of_it: CameOfIt


@dataclass(frozen=True)
class Told:
    """What the topics tell of one stream, in the order of arrival; a repeated alert or event is there once."""

    alerts: Sequence[DriftAlert]
    outcomes: Sequence[Outcome]
    diary: Sequence[Retraining]


def read(settings: Settings) -> Told:
    """Read the three topics from their beginning to their present end."""

    def all_of(topic: topics.Topic) -> list[Any]:
        return kafka.read_all(settings, topics.name(settings, topic), topic.message)

    alerts = {one.alert_id: one for one in reversed(all_of(topics.DRIFT_ALERTS)) if one.stream == settings.stream}
    outcomes: dict[str, Outcome] = {}
    for one in all_of(topics.OUTCOMES):
        outcomes.setdefault(one.event_id, one)
    diary = [line for line in all_of(topics.RETRAINING) if line.stream == settings.stream]
    return Told(list(reversed(alerts.values())), list(outcomes.values()), diary)


def find(cases: Sequence[Case], wanted: str) -> Case:
    """The case with this id, or whose id alone begins with it.

    Raises:
        DriftloopError: there is none, or more than one.
    """
    found = [case for case in cases if case.case_id == wanted]
    found = found or [case for case in cases if wanted and case.case_id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DriftloopError(f"{len(found)} cases begin with {wanted!r}: give more of the id.")
    there = f"{len(cases)} cases: `driftloop case` lists them" if cases else "no case yet: no drift has been detected"
    raise DriftloopError(f"There is no case {wanted!r}; the stream has {there}.")


def cases(told: Told) -> list[Case]:
    """All cases of the stream, in the order of their alerts."""
    outcomes = sorted((o for o in told.outcomes if not o.in_sample), key=lambda o: o.occurred_at)
    began = _first_scored(outcomes)
    swaps = {alert.alert_id: _swaps(told, alert.alert_id, began) for alert in told.alerts}
    taken = {}
    for case_id, made in swaps.items():
        times = [began[swap.version][0] for swap in made if swap.version in began]
        if times:
            taken[case_id] = min(times)
    return [_case(alert, told, outcomes, swaps[alert.alert_id], taken) for alert in told.alerts]
