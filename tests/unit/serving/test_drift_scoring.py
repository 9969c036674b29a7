"""Which alert found which drift: by stream position, with delays in labelled events."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from driftloop.core.messages import DriftAlert
from serving.simulation.drift_scoring import MAX_DELAY, Alert, Drift, Truth, judge_alerts


def alert(position: int, detector: str = "adwin") -> DriftAlert:
    return DriftAlert(
        alert_id=f"{detector}-{position}",
        stream="s",
        detector=detector,
        signal="error",
        severity=0.25,
        position=position,
        onset=position - 7,
        outcome_offset=position,
        onset_at=0.0,
        window=7,
        model_version="1",
        detected_at=0.0,
    )


def judge(
    positions: Iterable[int], drifts: tuple[int, ...], labelled: Iterable[int] = range(10_000), max_delay: int = 100
) -> tuple[list[Drift], list[str]]:
    found, alerts = judge_alerts([alert(p) for p in positions], Truth("made-up", drifts), labelled, max_delay)
    return found, [a.verdict for a in alerts]


def test_first_alert_detects_drift_later_ones_repeat() -> None:
    (drift,), verdicts = judge([1030, 1040, 1100], (1000,))
    assert (drift.detected_position, drift.delay) == (1030, 30)
    assert verdicts == ["detection", "repeat", "repeat"]


def test_first_alert_is_chosen_by_position() -> None:
    """Arrival order of the alerts does not matter."""
    (drift,), verdicts = judge([1040, 1030], (1000,))
    assert drift.detected_position == 1030
    assert verdicts == ["detection", "repeat"]


def test_alert_before_drift_is_a_false_alarm() -> None:
    (drift,), verdicts = judge([999], (1000,))
    assert (drift.detected_position, drift.delay, drift.signal, drift.detector) == (None, None, None, None)
    assert verdicts == ["false alarm"]


def test_alert_at_drift_position_has_zero_delay() -> None:
    (drift,), verdicts = judge([1000], (1000,))
    assert (drift.delay, verdicts) == (0, ["detection"])


@pytest.mark.parametrize(("position", "verdict"), [(1100, "detection"), (1101, "false alarm")])
def test_maximum_delay_is_inclusive(position: int, verdict: str) -> None:
    (drift,), verdicts = judge([position], (1000,))
    assert verdicts == [verdict]
    assert (drift.detected_position is not None) == (verdict == "detection")


def test_default_maximum_delay_is_2000_labelled_events() -> None:
    assert MAX_DELAY == 2000
    _, alerts = judge_alerts([alert(3000), alert(3001)], Truth("s", (1000,)), range(10_000))
    assert [a.verdict for a in alerts] == ["detection", "false alarm"]


def test_the_delay_counts_labelled_events_and_not_positions() -> None:
    every_tenth = range(0, 10_000, 10)
    (drift,), verdicts = judge([1999], (1000,), every_tenth)
    assert (drift.delay, verdicts) == (100, ["detection"])
    (drift,), _ = judge([1999], (1000,), labelled=())
    assert drift.delay == 0


def test_labels_may_come_in_any_order() -> None:
    (drift,), _ = judge([1030], (1000,), reversed(range(10_000)))
    assert drift.delay == 30


def test_next_drift_ends_the_previous_detection_span() -> None:
    (first, second), verdicts = judge([1060], (1000, 1050))
    assert first.detected_position is None, "an alert after the second drift was taken for the first one's"
    assert (second.detected_position, second.delay) == (1060, 10)
    assert verdicts == ["detection"]


def test_each_drift_has_a_detection_of_its_own() -> None:
    drifts, verdicts = judge([1010, 1020, 2005, 3000], (1000, 2000))
    assert [(d.true_position, d.delay) for d in drifts] == [(1000, 10), (2000, 5)]
    assert verdicts == ["detection", "repeat", "detection", "false alarm"]


def test_a_stream_without_drift_has_only_false_alarms() -> None:
    assert judge([10, 20], ()) == ([], ["false alarm", "false alarm"])


def test_alert_verdict_is_unknown_without_known_drifts() -> None:
    drifts, alerts = judge_alerts([alert(10), alert(20)], Truth("s", known=False), range(100))
    assert drifts == [] and [a.verdict for a in alerts] == ["unknown", "unknown"]


def test_drift_names_detecting_signal_and_detector() -> None:
    raised = [alert(1010, "ddm"), alert(1020, "adwin")]
    (drift,), alerts = judge_alerts(raised, Truth("s", (1000,)), range(2000))
    assert (drift.signal, drift.detector) == ("error", "ddm")
    assert alerts[1] == Alert(
        position=1020,
        onset=1013,
        signal="error",
        detector="adwin",
        severity=0.25,
        verdict="repeat",
        alert_id="adwin-1020",
    )
