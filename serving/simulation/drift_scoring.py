"""Which alerts found which drift, and which were false: the definitions that live runs and benchmarks share.

They follow CapyMOA's `EvaluateDriftDetector`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from driftloop.core.messages import DriftAlert

MAX_DELAY = 2000
"""Labelled events within which an alert still counts as the detection of a drift."""

Verdict = Literal["detection", "repeat", "false alarm", "unknown"]


@dataclass(frozen=True)
class Truth:
    """What is known about the scenario."""

    scenario: str
    drifts: tuple[int, ...] = ()
    known: bool = True
    bootstrap: int = 0
    """Events that the first model is trained on."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A true drift, and the first alert within `MAX_DELAY` labelled events after it and before the next one."""

    true_position: int
    detected_position: int | None
    delay: int | None
    """Labelled events at stream positions from the true one up to the detected one, exclusive."""
    signal: str | None
    detector: str | None


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert and what it turned out to be; unknown where the scenario does not know its drifts."""

    position: int
    onset: int
    signal: str
    detector: str
    severity: float
    verdict: Verdict
    alert_id: str = ""


def judge_alerts(
    raised: Sequence[DriftAlert], truth: Truth, labelled: Iterable[int], max_delay: int = MAX_DELAY
) -> tuple[list[Drift], list[Alert]]:
    """What became of each true drift, and what each alert was, by stream position.

    A drift at p counts as detected by the first alert at or after p, before the next true drift, with at most
    ``max_delay`` labelled events (positions ``labelled``) between them. Further alerts in that span are repeats;
    alerts outside every span are false alarms.
    """
    positions = sorted(labelled)

    def delay(start: int, end: int) -> int:
        return bisect_left(positions, end) - bisect_left(positions, start)

    ordered = sorted(raised, key=lambda alert: alert.position)
    detections: dict[int, DriftAlert] = {}
    judged: list[Alert] = []
    for alert in ordered:
        before = [p for p in truth.drifts if p <= alert.position]
        verdict: Verdict = "false alarm"
        if not truth.known:
            verdict = "unknown"
        elif before and delay(before[-1], alert.position) <= max_delay:
            verdict = "repeat" if before[-1] in detections else "detection"
            detections.setdefault(before[-1], alert)
        judged.append(
            Alert(
                position=alert.position,
                onset=alert.onset,
                signal=alert.signal,
                detector=alert.detector,
                severity=alert.severity,
                verdict=verdict,
                alert_id=alert.alert_id,
            )
        )
    drifts: list[Drift] = []
    for position in truth.drifts:
        hit = detections.get(position)
        drifts.append(
            Drift(
                true_position=position,
                detected_position=hit.position if hit else None,
                delay=delay(position, hit.position) if hit else None,
                signal=hit.signal if hit else None,
                detector=hit.detector if hit else None,
            )
        )
    return drifts, judged
