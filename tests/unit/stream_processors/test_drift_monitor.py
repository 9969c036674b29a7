"""Drift monitor: from predictions and outcomes to alerts."""

import random

from driftloop.core.messages import DriftAlert, Outcome, Prediction
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.drift.explanation import ObservedEvent, change_point, mix_distance, risen_words


def outcome(i: int, correct: bool, version: str = "1", text: str = "plain words", in_sample: bool = False) -> Outcome:
    return Outcome(
        event_id=str(i),
        text=text,
        occurred_at=float(i),
        position=i,
        predicted="a",
        confidence=0.8,
        label="a" if correct else "b",
        correct=correct,
        model_version=version,
        latency_ms=1.0,
        labelled_at=float(i),
        in_sample=in_sample,
    )


def prediction(i: int, label: str, confidence: float, version: str = "1") -> Prediction:
    return Prediction(
        event_id=str(i),
        label=label,
        probabilities={label: confidence, "other": 1 - confidence},
        model_version=version,
        route="",
        latency_ms=1.0,
        text="t",
        occurred_at=float(i),
        predicted_at=float(i),
        position=i,
    )


def feed(
    watch: DriftMonitor, start: int, n: int, accuracy: float, version: str = "1", seed: int = 1
) -> list[DriftAlert]:
    rng = random.Random(seed + start)
    return [
        alert
        for i in range(start, start + n)
        for alert in watch.labelled(outcome(i, rng.random() < accuracy, version, f"topic{i // 1000} words"), i)
    ]


def test_accuracy_drop_raises_one_alert_with_onset() -> None:
    """Evidence has the accuracy before and after, and the words that rose."""
    watch = DriftMonitor(["error:adwin"], "s")
    assert feed(watch, 0, 1000, 0.8) == []
    alerts = feed(watch, 1000, 300, 0.3)
    assert len(alerts) == 1
    alert = alerts[0]
    assert 1000 <= alert.position < 1100 and abs(alert.onset - 1000) <= 15
    assert alert.outcome_offset == alert.position and alert.onset_at == float(alert.onset)
    assert 0.3 < alert.severity < 0.7
    before, after = alert.evidence["accuracy"]
    assert before > 0.7 and after < 0.5
    assert "topic1" in alert.evidence["words"] and "topic0" not in alert.evidence["words"]


def test_accuracy_rise_raises_no_alert() -> None:
    watch = DriftMonitor(["error:adwin"], "s")
    assert feed(watch, 0, 1000, 0.3) + feed(watch, 1000, 1000, 0.9) == []
    assert len(feed(watch, 2000, 300, 0.3)) == 1


def test_in_sample_events_are_ignored() -> None:
    watch = DriftMonitor(["error:adwin"], "s")
    for i in range(1000):
        assert watch.labelled(outcome(i, True, in_sample=True), i) == []
    assert feed(watch, 1000, 1000, 0.6) == [], "the fall from training accuracy was taken for a drift"


def test_drift_at_promotion_is_still_detected() -> None:
    watch = DriftMonitor(["error:adwin"], "s")
    feed(watch, 0, 1000, 0.85, version="1")
    assert len(feed(watch, 1000, 300, 0.3, version="2")) == 1


def test_confidence_and_mix_detect_drift_without_labels() -> None:
    """Both start again with a new model version."""
    watch = DriftMonitor(["confidence:adwin", "mix:adwin"], "s")
    rng = random.Random(4)
    assert [a for i in range(1000) for a in watch.predicted(prediction(i, rng.choice("aab"), 0.9))] == []
    moved = [a for i in range(1000, 1200) for a in watch.predicted(prediction(i, "b", 0.6))]
    assert {a.signal for a in moved} == {"confidence", "mix"}
    assert all(a.outcome_offset == -1 and abs(a.onset - 1000) <= 15 for a in moved)
    other = DriftMonitor(["confidence:adwin", "mix:adwin"], "s")
    for i in range(1000):
        other.predicted(prediction(i, rng.choice("aab"), 0.9))
    assert [a for i in range(1000, 1200) for a in other.predicted(prediction(i, "b", 0.6, version="2"))] == []


def test_predictions_of_older_model_are_ignored() -> None:
    watch = DriftMonitor(["confidence:adwin"], "s")
    for i in range(300):
        watch.predicted(prediction(i, "a", 0.9, version="2"))
    assert [a for i in range(300, 500) for a in watch.predicted(prediction(i, "a", 0.5, version="1"))] == []


def test_restored_monitor_raises_same_alerts() -> None:
    specs = ["error:adwin", "confidence:page-hinkley", "mix:kswin", "error:ddm"]
    one, other = DriftMonitor(specs, "s"), DriftMonitor(specs, "s")
    feed(one, 0, 700, 0.8)
    for i in range(200):
        one.predicted(prediction(i, "a", 0.9))
    other.restore(one.save(), [one.rows()])
    first, second = feed(one, 700, 300, 0.2), feed(other, 700, 300, 0.2)
    assert first and [a.alert_id for a in first] == [a.alert_id for a in second]
    assert feed(DriftMonitor(specs, "s"), 700, 300, 0.2) == [], "without its state the drop cannot be seen"


def test_change_point_finds_the_split_of_each_signal() -> None:
    def seen(i: int, label: str, predicted: str, confidence: float) -> ObservedEvent:
        return ObservedEvent(
            position=i, occurred_at=i, predicted=predicted, confidence=confidence, text="", label=label
        )

    rows = [seen(i, "a", "a", 0.9) for i in range(60)] + [seen(i, "b", "a", 0.4) for i in range(60, 100)]
    assert change_point(rows, "error") == 60
    assert change_point(rows, "confidence") == 60
    mixed = [seen(i, "a", "a", 0.5) for i in range(30)] + [seen(i, "a", "c", 0.5) for i in range(30, 90)]
    assert change_point(mixed, "mix") == 30
    assert mix_distance(mixed[:30], mixed[30:]) == 1.0
    assert change_point(rows[:8], "error") == 0


def test_only_risen_words_are_reported() -> None:
    def seen(text: str) -> ObservedEvent:
        return ObservedEvent(position=0, occurred_at=0, predicted="a", confidence=1.0, text=text)

    before = [seen("the plane was late")] * 50
    after = [seen("the phone was late")] * 50
    assert risen_words(before, after) == ["phone"]
