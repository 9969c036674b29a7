"""A drift case: everything about one alert, from what moved to what came of it.

`Case` is the JSON of `driftloop case ID --json`; its fields are only ever added to. `serving.cases.builder` puts cases
together from the topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Kind

Verdict = Literal["promoted", "rolled back", "waiting", "rejected", "failed", "under way", "not retrained"]


class Movement(msgspec.Struct, frozen=True, kw_only=True):
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


class AccuracySpan(msgspec.Struct, frozen=True, kw_only=True):
    """Right predictions among the labelled events of a stretch of the stream."""

    labelled: int
    accuracy: float | None
    """None without labelled events."""
    first_position: int = -1
    last_position: int = -1


class SliceImpact(msgspec.Struct, frozen=True, kw_only=True):
    """A segment or a true class: its accuracy before the drift, from the onset until the first promotion, and since."""

    name: str
    before: AccuracySpan
    after: AccuracySpan
    lost: float
    """Right answers lost: the fall of the accuracy times the events after; what is new is held against the whole."""
    since: AccuracySpan = AccuracySpan(labelled=0, accuracy=None)
    """From the first promotion on."""


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
    trigger: str = ""
    """Alert id, or the policy's own word."""


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the champion."""

    version: str
    action: Literal["promote", "rollback"]
    candidate: str
    reason: str
    at: float
    position: int
    """Stream position of the first labelled event that this version scored; -1 where there is none."""


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    verdict: Verdict
    words: str
    before: AccuracySpan
    """From the promotion of the case before (or the beginning of the stream) to the onset."""
    until: AccuracySpan
    """From the onset to the first promotion of this case, or to the next drift where there was none."""
    since: AccuracySpan
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
    moved: list[Movement]
    estimated_accuracy: list[dict[str, Any]]
    """Of the blocks of predictions before the alarm, without labels: start, end, estimate, low, high."""
    segments: list[SliceImpact]
    classes: list[SliceImpact]
    """Most right answers lost first."""
    course: list[AccuracySpan]
    """The accuracy over the three stretches of `came_of_it` in equal parts, for a picture."""
    rounds: list[Round]
    swaps: list[Swap]
    came_of_it: Resolution


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
