"""Fused detector: its false alarms, its findings, and the changes that count as the same."""

import numpy as np
import pytest

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import DriftAlert, Label, Outcome, Prediction
from driftloop.core.models.first_stage import FIRST_ROUTE, SECOND_ROUTE
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.drift.e_detector import ClassShareDetector, EDetector, tie_breaker
from stream_processors.drift.explanation import ObservedEvent, change_interval, movements
from stream_processors.drift.fused_detector import Finding, FusedDetector, make_fused_detector
from stream_processors.monitoring.label_join import outcome as join_one


class Stream:
    """Stream of predictions with immediate labels, with an accuracy, a share of class a, and a pool of words."""

    def __init__(self, seed: int = 1, lines: tuple[str, ...] = ("fused",)) -> None:
        self.rng = np.random.default_rng(seed)
        self.watch = DriftMonitor(lines, "s")
        self.at = 0

    def play(
        self,
        n: int,
        accuracy: float = 0.8,
        share: float = 0.5,
        topic: str = "x",
        version: str = "1",
        route: str = "",
        between: tuple[float, float] = (0.6, 1.0),
        reference: bool = False,
    ) -> list[DriftAlert]:
        alerts: list[DriftAlert] = []
        for _ in range(n):
            said = "a" if self.rng.random() < share else "b"
            other = "b" if said == "a" else "a"
            truth = said if self.rng.random() < accuracy else other
            sure = float(self.rng.uniform(*between))
            text = " ".join(f"{topic}word{i}" for i in self.rng.integers(0, 40, 6))
            usual = float(self.rng.uniform(0.6, 1.0))
            watched = {"a" if self.rng.random() < 0.5 else "b": usual} if reference else {}
            prediction = Prediction(
                event_id=str(self.at), label=said, probabilities={said: sure, other: 1 - sure}, model_version=version,
                route=route, latency_ms=0.0, text=text, segment=topic, occurred_at=float(self.at),
                predicted_at=float(self.at), position=self.at, reference=watched,
            )  # fmt: skip
            alerts += self.watch.predicted(prediction)
            label = Label(event_id=str(self.at), label=truth, labelled_at=float(self.at), position=self.at)
            alerts += self.watch.labelled(join_one(prediction, label), self.at)
            self.at += 1
        return alerts


def test_e_detector_mean_grows_as_guaranteed() -> None:
    # E[R_n] = n under exchangeability; the sum is heavy-tailed, so its mean over many runs is bounded only loosely.
    ends = []
    for seed in range(300):
        rng, detector = np.random.default_rng(seed), EDetector()
        for _ in range(100):
            detector.update(float(rng.random() ** 2), float(rng.random()))
        ends.append(detector.value)
    assert 40 < np.mean(ends) < 250


def test_class_share_detector_equals_separate_e_detectors() -> None:
    rng = np.random.default_rng(5)
    labels, ties = rng.choice(["a", "b", "c"], size=300, p=[0.6, 0.3, 0.1]), rng.uniform(size=(600, 4))
    side_by_side = ClassShareDetector(["a", "b", "c"], labels.tolist())
    each = {name: EDetector() for name in "abcd"}
    for name in "abc":
        each[name].calibrate((labels == name).astype(float))
    for step, came in enumerate(rng.choice(["a", "b", "c", "d"], size=600, p=[0.4, 0.3, 0.2, 0.1]).tolist()):
        if came == "d" and "d" not in side_by_side.names:
            side_by_side.add("d", 300 + step)
            each["d"].calibrate(np.zeros(300 + step))
        side_by_side.update(came, ties[step][: len(side_by_side.names)].tolist())
        for name, tie in zip(side_by_side.names, ties[step], strict=False):
            each[name].update(float(name == came), tie)
        mean = np.mean([each[name].value for name in side_by_side.names])
        assert side_by_side.value == pytest.approx(mean, rel=1e-9)
    assert "d" in side_by_side.names and side_by_side.value > 1000


def test_p_values_are_uniform_with_tied_scores() -> None:
    detector = EDetector()
    p = [detector.update(0.0, tie_breaker(str(i), "error")) for i in range(2000)]
    assert abs(np.mean(p) - 0.5) < 0.03 and abs(np.mean(np.array(p) < 0.1) - 0.1) < 0.03


def test_control_stable_stream_raises_no_alert() -> None:
    assert Stream().play(4000) == []


@pytest.mark.parametrize("route", [FIRST_ROUTE, SECOND_ROUTE, ""])
def test_low_confidence_of_cascade_stage_is_no_drift(route: str) -> None:
    """The load decides how many answers come from a stage. The control: the same change of the encoder is a drift."""
    stream = Stream()
    assert stream.play(1000) == []
    alerts = stream.play(1500, route=route, between=(0.5, 0.6))
    assert bool(alerts) == (route == "")


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("moved", [{"share": 0.85}, {"between": (0.5, 0.62)}])
def test_changes_of_a_learning_model_are_no_drift(moved: dict[str, object], reference: bool) -> None:
    """The registered version did not change. Control: without its probabilities the same answers raise an alert."""
    stream = Stream()
    assert stream.play(1000, reference=reference) == []
    assert bool(stream.play(1500, reference=reference, **moved)) == (not reference)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("moved", "kind"),
    [
        ({"accuracy": 0.3}, "concept"),
        ({"share": 0.9}, "label"),
        ({"topic": "y"}, "covariate"),
        ({"topic": "y", "share": 0.95}, "covariate"),
        ({"topic": "y", "accuracy": 0.3}, "covariate"),
    ],
)
def test_each_drift_kind_raises_one_named_alert(moved: dict[str, float], kind: str) -> None:
    stream = Stream()
    assert stream.play(1000) == []
    alerts = stream.play(1000, **moved)  # type: ignore[arg-type]
    assert [alert.kind for alert in alerts] == [kind]
    alert = alerts[0]
    assert 1000 <= alert.position < 1120 and alert.onset_low <= 1003 and alert.onset_high >= 997
    assert alert.onset_low <= alert.onset <= alert.onset_high
    assert sum(alert.fired.values()) == pytest.approx(1, abs=1e-3) and next(iter(alert.fired)) == alert.signal


def test_second_drift_soon_after_first_is_found() -> None:
    stream = Stream()
    stream.play(1000)
    first = stream.play(250, accuracy=0.5, topic="y")
    second = stream.play(400, accuracy=0.5, topic="z")
    assert len(first) == 1 and len(second) == 1 and abs(second[0].onset - 1250) < 20


def test_improving_model_raises_no_alert() -> None:
    """Later fall is measured against the new level."""
    stream = Stream(lines=("fused?signals=error+loss+confidence+mix",))
    stream.play(1000, accuracy=0.5)
    assert stream.play(1000, accuracy=0.95, version="2") == []
    assert len(stream.play(150, accuracy=0.6, version="2")) == 1


def answered(fusion: FusedDetector, right: list[bool], start: int = 0) -> list[Finding]:
    """Feed outcomes whose positions count from ``start``; return the findings."""
    found = []
    for i, correct in enumerate(right, start):
        label = "a" if correct else "b"
        outcome = Outcome(
            event_id=str(i), text="", occurred_at=float(i), position=i, predicted="a", confidence=0.9, label=label,
            correct=correct, model_version="1", latency_ms=0.0, labelled_at=float(i),
        )  # fmt: skip
        found.append(fusion.labelled(outcome))
    return [one for one in found if one is not None]


def predicted(fusion: FusedDetector, start: int, end: int, label: str) -> list[Finding]:
    """Feed predictions at positions from ``start`` to ``end``; return the findings."""
    found = []
    for i in range(start, end):
        prediction = Prediction(
            event_id=str(i), label=label, probabilities={label: 0.9}, model_version="1", route="", latency_ms=0.0,
            text="", occurred_at=float(i), predicted_at=float(i), position=i,
        )  # fmt: skip
        found.append(fusion.predicted(prediction))
    return [one for one in found if one is not None]


def rights(n: int, rate: float, seed: int = 5) -> list[bool]:
    """Return ``n`` random values that are True with the probability ``rate``."""
    return list(np.random.default_rng(seed).random(n) < rate)


@pytest.mark.parametrize(("after", "alerts"), [(0, 1), (4, 1), (150, 2)])
def test_late_labels_of_alerted_change_raise_no_alert(after: int, alerts: int) -> None:
    # The mix tells at once that something began at 1,000. The labels of the events from there on come later: an error
    # that rose at 1,000 is the same change; one that rose after the alert was raised is another.
    """Error that rises after the alert is another change and raises one."""
    fusion = FusedDetector(signals=("error", "mix"))
    predicted(fusion, 0, 500, "a")
    for i in range(500, 1000):
        predicted(fusion, i, i + 1, "ab"[i % 2])
    answered(fusion, rights(1000, 0.9))
    found = predicted(fusion, 1000, 1400, "c")
    assert len(found) == 1 and found[0].signal == "mix" and found[0].onset == 1000
    told = found[0].onset + found[0].window
    assert told < 1040
    late = answered(fusion, rights(after, 0.9, 6) + rights(250, 0.2), 1000)
    assert len(found + late) == alerts
    assert not late or (late[0].signal == "error" and late[0].onset_low >= told)


def test_reference_follows_unalerted_error_drop() -> None:
    # Half of all answers are wrong, then one in twenty, then half again: a rise only against the new level.
    fusion = FusedDetector(signals=("error",))
    assert answered(fusion, rights(1000, 0.5)) == []
    assert answered(fusion, rights(300, 0.95), 1000) == [], "a model that has learnt is no drift"
    found = answered(fusion, rights(150, 0.5, 8), 1300)
    assert len(found) == 1 and abs(found[0].onset - 1300) < 15 and found[0].severity > 0.2


def test_false_alarm_rate_stays_within_setting() -> None:
    """Rate includes the resets after each alarm."""
    alarms = sum(
        len(answered(FusedDetector(rate=10, signals=("error",)), rights(4000, 0.7, seed))) for seed in range(6)
    )
    assert 0 < alarms <= 34, "10 in 10,000 events are stated: 24 in these, and 34 with two standard deviations"


def test_moved_segments_are_ranked_with_examples() -> None:
    stream = Stream()
    stream.play(1000)
    moved = stream.play(300, topic="y")[0].evidence["moved"]
    assert {one["name"] for one in moved[:3]} >= {"x", "y"}
    new = next(one for one in moved if one["name"] == "y")
    assert new["before"] == 0.0 and new["after"] > 0.9 and all("yword" in text for text in new["texts"])
    assert all(int(one) >= 1000 for one in new["event_ids"]) and len(new["event_ids"]) == 3


def test_restored_monitor_alerts_at_same_event() -> None:
    one, other = Stream(), Stream()
    one.play(700)
    stored = []
    for _ in range(70):  # as the monitor does: what is new with each batch
        other.play(10)
        stored.append(other.watch.rows(fresh=True))
    assert len(stored[-1]) < len(other.watch.rows()) / 20
    fresh = DriftMonitor(["fused"], "s")
    fresh.restore(other.watch.save(), stored)
    other.watch = fresh
    first, second = one.play(300, accuracy=0.3), other.play(300, accuracy=0.3)
    assert first and [a.alert_id for a in first] == [a.alert_id for a in second]
    assert one.watch.levels == other.watch.levels
    assert len(one.watch.blocks) == 4 and one.watch.blocks == other.watch.blocks, "the estimates go on as well"
    empty = Stream()
    empty.play(700)
    empty.watch = DriftMonitor(["fused"], "s")
    assert empty.play(300, accuracy=0.3) == [], "the state made no difference, so this test shows nothing"


def test_new_embedding_cluster_is_detected_without_labels() -> None:
    """Texts are empty, so that no words help."""
    rng = np.random.default_rng(3)
    watch = DriftMonitor(["fused"], "s")
    found = []
    for i in range(900):
        vector = rng.standard_normal(100).astype(np.float32) + (2.0 if i >= 800 else 0.0) * (np.arange(100) < 20)
        prediction = Prediction(
            event_id=str(i), label="ab"[i % 2], probabilities={"ab"[i % 2]: 0.9}, model_version="1", route="",
            latency_ms=0.0, text="", occurred_at=float(i), predicted_at=float(i), position=i,
        )  # fmt: skip
        found += watch.predicted(prediction, np.asarray(vector, dtype=np.float32))
    assert [alert.signal for alert in found] == ["embedding"] and abs(found[0].onset - 800) < 10


def test_onset_interval_usually_covers_true_onset() -> None:
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = np.concatenate([rng.random(200) < 0.2, rng.random(60) < 0.6]).astype(float)[:, None]
        best, low, high = change_interval(values)
        assert low <= best <= high
        held += low <= 200 <= high
    assert held >= 48


def test_class_with_risen_error_is_ranked_first() -> None:
    def seen(i: int, label: str, predicted: str) -> ObservedEvent:
        return ObservedEvent(
            position=i, occurred_at=i, predicted=predicted, confidence=0.9, text="", label=label, event_id=str(i)
        )

    before = [seen(i, "abcd"[i % 4], "abcd"[i % 4]) for i in range(200)]
    after = [seen(i, "abcd"[i % 4], "a" if i % 4 == 2 else "abcd"[i % 4]) for i in range(200, 300)]
    first = movements(([], []), (before, after))[0]
    assert (first.name, first.measure, first.before, first.after) == ("c", "error", 0.0, 1.0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fused?rate=0", "above 0"),
        ("fused?rate=x", "not a number"),
        ("fused?signals=mood", "no signal"),
        ("fused?a=1", "takes"),
    ],
)
def test_invalid_detector_line_gives_reason(line: str, says: str) -> None:
    with pytest.raises(DriftloopError, match=says):
        make_fused_detector(line)
