"""What every policy does: the checks of `driftloop.testing.checks` for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from driftloop.core.messages import DriftAlert, Kind, Outcome
from driftloop.testing.checks import expect
from retrain.policies.policies import CompletedRetraining, Policy, PolicyContext, Retrain, Wait


@dataclass(frozen=True)
class Subject:
    """A policy to be checked."""

    make: Callable[[], Policy]


def outcomes(n: int, start: int = 0) -> list[Outcome]:
    """``n`` wrong predictions, one a second."""
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
    """An alert whose drift began at ``onset``."""
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


def has_its_parts(subject: Subject) -> None:
    """It has a name and `decide`."""
    made = subject.make()
    expect(isinstance(made, Policy), "its name or decide is missing")
    expect(isinstance(made.name, str) and made.name, f"its name is {made.name!r}, not a word")


def waits_for_the_first_label(subject: Subject) -> None:
    """It waits while nothing is labelled."""
    answer = subject.make().decide(PolicyContext(0), [], [])
    expect(isinstance(answer, Wait), f"it answered {answer!r}")


def answers_in_words(subject: Subject) -> None:
    """It answers with Wait or Retrain, and a reason in words; a Retrain says what for, and from where on."""
    for labelled, alerts in ((100, []), (1000, [alert(800.0)])):
        answer = subject.make().decide(PolicyContext(labelled), alerts, outcomes(labelled))
        expect(isinstance(answer, Wait | Retrain), f"it answered {answer!r}")
        expect(isinstance(answer.reason, str) and answer.reason, "it gave no reason")
        if isinstance(answer, Retrain):
            expect(isinstance(answer.trigger, str) and answer.trigger, "its Retrain has no trigger")
            expect(answer.kind in get_args(Kind), f"its Retrain is of the kind {answer.kind!r}")
            expect(answer.onset_at < labelled, f"its Retrain begins at {answer.onset_at}, after the newest event")


def depends_on_nothing_else(subject: Subject) -> None:
    """The same facts get the same answer, from the same policy and from a new one."""
    policy = subject.make()
    facts = PolicyContext(1000), [alert(800.0)], outcomes(1000)
    first = policy.decide(*facts)
    policy.decide(PolicyContext(500), [], outcomes(500))
    for asked, who in ((policy, "asked again"), (subject.make(), "a new one")):
        answer = asked.decide(*facts)
        expect(answer == first, f"{who}, it answered {answer!r}, before {first!r}")


def changes_nothing(subject: Subject) -> None:
    """It leaves the alerts and outcomes that it is given as they are."""
    alerts, rows = [alert(800.0)], outcomes(1000)
    subject.make().decide(PolicyContext(1000), alerts, rows)
    expect(alerts == [alert(800.0)] and rows == outcomes(1000), "the alerts or outcomes were changed")


def waits_after_a_retraining(subject: Subject) -> None:
    """It waits after a retraining until something new is labelled, whether a model was promoted or not."""
    policy, rows = subject.make(), outcomes(1000)
    answer = policy.decide(PolicyContext(1000), [alert(800.0)], rows)
    if isinstance(answer, Wait):
        return
    seen = sum(row.occurred_at >= answer.onset_at for row in rows)
    for promoted in (True, False):
        done = CompletedRetraining(
            1000, answer.onset_at, seen, 999.0, answer.trigger, promoted, answer.kind, seconds=30.0
        )
        again = policy.decide(PolicyContext(1000, (done,)), [alert(800.0)], rows)
        expect(isinstance(again, Wait), f"it answered {again!r}, and would for ever")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    has_its_parts,
    waits_for_the_first_label,
    answers_in_words,
    depends_on_nothing_else,
    changes_nothing,
    waits_after_a_retraining,
)
