"""Scores of drift alerts against the true drifts of a scenario, for simulations and benchmarks.

The definitions are those of CapyMOA's `EvaluateDriftDetector`.
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
    """True drifts of a scenario."""

    scenario: str
    drifts: tuple[int, ...] = ()
    """Their stream positions, ascending."""
    known: bool = True
    """False if the scenario does not define its drifts."""
    bootstrap: int = 0
    """Events that the first model is trained on."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A true drift and its detection: the first alert within `MAX_DELAY` labelled events and before the next drift."""

    true_position: int
    detected_position: int | None
    """Stream position of the detection; `None` if the drift was missed. So are the fields below."""
    delay: int | None
    """Labelled events from the true position up to the detected one, exclusive."""
    signal: str | None
    detector: str | None


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A drift alert with its verdict."""

    position: int
    onset: int
    signal: str
    detector: str
    severity: float
    verdict: Verdict
    """`detection`, `repeat` or `false alarm`; `unknown` if the scenario does not define its drifts."""
    alert_id: str = ""


def judge_alerts(
    raised: Sequence[DriftAlert], truth: Truth, labelled: Iterable[int], max_delay: int = MAX_DELAY
) -> tuple[list[Drift], list[Alert]]:
    """Score alerts by stream position.

    The first alert at or after a drift and before the next drift detects it, if at most ``max_delay`` labelled events
    lie between them. Further alerts in that span are repeats. Alerts outside every span are false alarms.

    Args:
        raised: Alerts in any order.
        truth: True drifts.
        labelled: Stream positions of the labelled events.
        max_delay: Labelled events within which a drift must be detected.

    Returns:
        The true drifts with their detections, and the alerts with their verdicts.
    """
    positions = sorted(labelled)

    def delay(start: int, end: int) -> int:
        return bisect_left(positions, end) - bisect_left(positions, start)

    detections: dict[int, DriftAlert] = {}
    scored: list[Alert] = []
    for alert in sorted(raised, key=lambda alert: alert.position):
        drift = max((position for position in truth.drifts if position <= alert.position), default=None)
        verdict: Verdict = "false alarm"
        if not truth.known:
            verdict = "unknown"
        elif drift is not None and delay(drift, alert.position) <= max_delay:
            verdict = "repeat" if drift in detections else "detection"
            detections.setdefault(drift, alert)
        scored.append(_scored(alert, verdict))
    drifts = []
    for drift in truth.drifts:
        detection = detections.get(drift)
        drifts.append(_drift(drift, detection, delay(drift, detection.position) if detection else None))
    return drifts, scored


def _scored(alert: DriftAlert, verdict: Verdict) -> Alert:
    return Alert(
        position=alert.position,
        onset=alert.onset,
        signal=alert.signal,
        detector=alert.detector,
        severity=alert.severity,
        verdict=verdict,
        alert_id=alert.alert_id,
    )


def _drift(position: int, detection: DriftAlert | None, delay: int | None) -> Drift:
    return Drift(
        true_position=position,
        detected_position=detection.position if detection else None,
        delay=delay,
        signal=detection.signal if detection else None,
        detector=detection.detector if detection else None,
    )
