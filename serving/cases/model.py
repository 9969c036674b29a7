"""Drift case: an alert with its evidence, the retrainings that it led to, and the outcome.

`Case` is the JSON of `driftloop case ID --json`. Fields are only ever added. `serving.cases.builder` builds cases from
the topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Kind

Verdict = Literal["promoted", "rolled back", "waiting", "rejected", "failed", "under way", "not retrained"]


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """Change of a segment, class or word, from the alert. The alert ranks them, the most certain first."""

    what: str
    """segment, class or word."""
    name: str
    measure: str
    """Measured quantity: share (of events), predicted (share of predictions), label (share of labels) or error (error
    rate)."""
    before: float | None
    after: float | None
    """Values before and after the onset; `None` if the alert did not measure them."""
    z: float | None = None
    texts: list[str] = []
    """Up to three examples since the onset."""
    event_ids: list[str] = []


class AccuracySpan(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of the predictions over a part of the stream."""

    labelled: int
    accuracy: float | None
    """`None` without labelled events."""
    first_position: int = -1
    last_position: int = -1


class SliceImpact(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of a segment or a true class before the drift, from the onset to the first promotion, and after it."""

    name: str
    before: AccuracySpan
    after: AccuracySpan
    lost: float
    """Correct predictions lost: accuracy drop times events since the onset. A slice without history is compared with
    the overall accuracy."""
    since: AccuracySpan = AccuracySpan(labelled=0, accuracy=None)
    """Accuracy from the first promotion on."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate of a retraining, with the gate's verdict."""

    name: str
    state: str
    """Last reported state: searching, gated, shadow, waiting, promoted, rejected or failed."""
    version: str
    reason: str
    """Reason for the state, in words."""
    seconds: float
    accuracy: float | None
    champion_accuracy: float | None
    """Accuracies on the same held-out events; `None` if the candidate was not compared."""
    checks: list[dict[str, Any]]
    """Checks of the gate, each with name, passed, words, numbers and excused."""
    segments: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    """Accuracies of both models by segment and by class, each with name, rows, champion and challenger."""
    figures: dict[str, float] = {}
    """Other figures of the decision by name, such as held_out, difference_low and brier_gain_low."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Retraining: a decision of the policy with its candidates."""

    run_id: str
    kind: Kind
    reason: str
    """Reason of the policy, with its figures."""
    position: int
    at: float
    state: str
    """Last reported state; finished or failed at the end."""
    seconds: float
    first_offset: int
    last_offset: int
    """Offsets in `outcomes` of the training window, both inclusive; -1 if unknown."""
    labelled: int
    """Labelled events of the stream at that time; -1 if unknown."""
    rows: int
    """Labelled events since the onset; -1 if unknown."""
    candidates: list[Candidate]
    trigger: str = ""
    """Alert id, or another trigger that the policy names."""


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Change of the champion."""

    version: str
    action: Literal["promote", "rollback"]
    candidate: str
    reason: str
    at: float
    position: int
    """Stream position of the first labelled event that this version scored; -1 without one."""


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a case, with the accuracy before and after."""

    verdict: Verdict
    words: str
    """The outcome in sentences."""
    before: AccuracySpan
    """From the previous case's promotion, or the start of the stream, to the onset."""
    until: AccuracySpan
    """From the onset to the first promotion of this case, or to the next drift without a promotion."""
    since: AccuracySpan
    """From the first promotion to the next drift, or to the end of the stream."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Drift case. Positions count events of the stream; times are Unix seconds."""

    case_id: str
    """Id of the alert, and trigger of its retrainings."""
    stream: str
    position: int
    """Position at which the alert was raised."""
    detected_at: float
    detector: str
    signal: str
    kind: str
    """Likely kind of change: covariate (the texts), label (the mix of labels), concept (the meaning of labels) or
    unknown."""
    severity: float
    window: int
    """Observations between the onset and the alert."""
    model_version: str
    """Version of the champion at that time."""
    fired: dict[str, float]
    """Signals behind the alert, each with its share of the evidence."""
    onset: int
    onset_low: int
    onset_high: int
    """Likely start of the drift, and the positions between which it lies; -1 if the detector does not report them."""
    onset_at: float
    moved: list[Movement]
    estimated_accuracy: list[dict[str, Any]]
    """Accuracy of blocks of predictions before the alert, estimated without labels: start, end, estimate, low, high."""
    segments: list[SliceImpact]
    classes: list[SliceImpact]
    """Impact by segment and by class; the most correct predictions lost come first."""
    course: list[AccuracySpan]
    """Accuracy over the three spans of `came_of_it`, in parts of equal size, for a chart."""
    rounds: list[Round]
    swaps: list[Swap]
    came_of_it: Resolution


def find(cases: Sequence[Case], wanted: str) -> Case:
    """Return the case with this id, or the only one whose id begins with it.

    Args:
        cases: The cases of the stream.
        wanted: The id, or its beginning.

    Raises:
        DriftloopError: No case or more than one matches.
    """
    found = [case for case in cases if case.case_id == wanted]
    found = found or [case for case in cases if wanted and case.case_id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DriftloopError(f"{len(found)} cases begin with {wanted!r}. Give more characters of the id.")
    if not cases:
        raise DriftloopError(f"There is no case {wanted!r}: no drift has been detected on this stream.")
    number = f"{len(cases)} case{'' if len(cases) == 1 else 's'}"
    raise DriftloopError(f"There is no case {wanted!r}; the stream has {number}. Run `driftloop case` to list the ids.")
