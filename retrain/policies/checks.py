"""Checks that every policy passes; `driftloop.testing.checks` runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from driftloop.core.messages import DriftAlert, Kind, Outcome
from driftloop.testing.checks import expect
from retrain.policies.base import CompletedRetraining, Policy, PolicyContext, Retrain, Wait


@dataclass(frozen=True)
class Subject:
    """Policy under check."""

    make: Callable[[], Policy]
    """Makes a new policy."""


def check_interface(subject: Subject) -> None:
    """The policy has a name and `decide`."""
    made = subject.make()
    expect(isinstance(made, Policy), "its name or decide is missing")
    expect(isinstance(made.name, str) and made.name, f"its name is {made.name!r}, not a word")


def check_waits_without_labels(subject: Subject) -> None:
    """The policy waits while nothing is labelled."""
    answer = subject.make().decide(PolicyContext(0), [], [])
    expect(isinstance(answer, Wait), f"it answered {answer!r}")


def check_answers(subject: Subject) -> None:
    """The policy answers Wait or Retrain with a reason, and a Retrain has a trigger, a kind and an onset."""
    for labelled, alerts in ((100, []), (1000, [alert(600.0)])):
        answer = subject.make().decide(PolicyContext(labelled), alerts, outcomes(labelled))
        expect(isinstance(answer, Wait | Retrain), f"it answered {answer!r}")
        expect(isinstance(answer.reason, str) and answer.reason, "it gave no reason")
        if isinstance(answer, Retrain):
            expect(isinstance(answer.trigger, str) and answer.trigger, "its Retrain has no trigger")
            expect(answer.kind in get_args(Kind), f"its Retrain is of the kind {answer.kind!r}")
            expect(answer.onset_at < labelled, f"its Retrain begins at {answer.onset_at}, after the newest event")


def check_repeatable(subject: Subject) -> None:
    """The policy gives the same answer to the same facts, also when it is made anew."""
    policy = subject.make()
    facts = PolicyContext(1000), [alert(600.0)], outcomes(1000)
    first = policy.decide(*facts)
    policy.decide(PolicyContext(500), [], outcomes(500))
    for asked, circumstance in ((policy, "asked again"), (subject.make(), "made anew")):
        answer = asked.decide(*facts)
        expect(answer == first, f"{circumstance}, it answered {answer!r}, before {first!r}")


def check_leaves_arguments(subject: Subject) -> None:
    """The policy does not change the alerts and outcomes that it is given."""
    alerts, rows = [alert(600.0)], outcomes(1000)
    subject.make().decide(PolicyContext(1000), alerts, rows)
    expect(alerts == [alert(600.0)] and rows == outcomes(1000), "the alerts or outcomes were changed")


def check_waits_after_retraining(subject: Subject) -> None:
    """The policy waits after a retraining until something new is labelled, with and without a promotion."""
    policy, rows = subject.make(), outcomes(1000)
    answer = policy.decide(PolicyContext(1000), [alert(600.0)], rows)
    if isinstance(answer, Wait):
        return
    rows_since = sum(row.occurred_at >= answer.onset_at for row in rows)
    for promoted in (True, False):
        done = CompletedRetraining(
            1000, answer.onset_at, rows_since, 999.0, answer.trigger, promoted, answer.kind, seconds=30.0
        )
        again = policy.decide(PolicyContext(1000, (done,)), [alert(600.0)], rows)
        expect(isinstance(again, Wait), f"it answered {again!r}, and would do so for ever")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_interface,
    check_waits_without_labels,
    check_answers,
    check_repeatable,
    check_leaves_arguments,
    check_waits_after_retraining,
)


def outcomes(n: int, start: int = 0) -> list[Outcome]:
    """Return labelled events whose predictions are all wrong, one per second.

    Args:
        n: Number of events.
        start: Position and `occurred_at` of the first event.
    """
    return [
        Outcome(
            event_id=str(i),
            text="t",
            occurred_at=float(i),
            position=i,
            predicted="a",
            confidence=0.5,
            label="b",
            correct=False,
            model_version="1",
            latency_ms=1.0,
            labelled_at=float(i),
        )
        for i in range(start, start + n)
    ]


def alert(onset: float, name: str = "alarm", severity: float = 0.4) -> DriftAlert:
    """Return an alert raised 50 events after its onset.

    Args:
        onset: Stream position and `occurred_at` at which the drift began.
        name: Alert id.
        severity: Drop that the alert measured.
    """
    return DriftAlert(
        alert_id=name,
        stream="s",
        detector="adwin",
        signal="error",
        severity=severity,
        position=int(onset) + 50,
        onset=int(onset),
        onset_at=onset,
        outcome_offset=0,
        window=50,
        model_version="1",
        detected_at=0.0,
    )
