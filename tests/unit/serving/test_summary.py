"""`summary.json`: what counts, what is left out, and what became of each retraining."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.topic_history import TopicHistory
from driftloop.core.messages import DeadLetter, DriftAlert, ModelUpdate, Outcome, Prediction, Retraining
from serving.simulation import summary
from serving.simulation.drift_scoring import Truth
from serving.simulation.summarise import Clock, summarise
from serving.simulation.summary import Summary

TRUTH = Truth("made-up", bootstrap=10)


def outcome(i: int, correct: bool = True, segment: str = "one", version: str = "1", in_sample: bool = False) -> Outcome:
    return Outcome(
        event_id=str(i),
        text="text",
        segment=segment,
        occurred_at=float(i),
        position=i,
        predicted="a",
        confidence=0.9,
        label="a" if correct else "b",
        correct=correct,
        model_version=version,
        latency_ms=1.0,
        labelled_at=float(i),
        in_sample=in_sample,
    )


def prediction(i: int, at: float = 0.0, version: str = "1", latency: float = 1.0, occurred: float = 0.0) -> Prediction:
    return Prediction(
        event_id=str(i),
        label="a",
        probabilities={"a": 0.9, "b": 0.1},
        model_version=version,
        route="",
        latency_ms=latency,
        text="text",
        occurred_at=occurred,
        predicted_at=at,
        position=i,
    )


def step(run: str, state: Any, at: float = 0.0, trigger: str = "alert-1", **details: Any) -> Retraining:
    details = {"reason": f"why {state}", **details}
    return Retraining(run_id=run, stream="s", state=state, trigger=trigger, at=at, **details)


def update(version: str, action: Any = "promote", trigger: str = "alert-1") -> ModelUpdate:
    return ModelUpdate(
        stream="s", version=version, digest="d", action=action, reason="r", trigger=trigger, published_at=1.0
    )


def alert(position: int, name: str = "") -> DriftAlert:
    return DriftAlert(
        alert_id=name or f"alert-{position}",
        stream="s",
        detector="adwin",
        signal="error",
        severity=0.2,
        position=position,
        onset=position,
        outcome_offset=position,
        onset_at=0.0,
        window=1,
        model_version="1",
        detected_at=0.0,
    )


def of(truth: Truth = TRUTH, clock: Clock | None = None, **found: Any) -> Summary:
    return summarise(TopicHistory(**found), truth, clock or Clock(seconds=1.0))


def test_run_without_messages_has_no_figures() -> None:
    found = of()
    assert found.accuracy.prequential is None and found.accuracy.per_500_events == []
    assert (found.latency.p50, found.events_per_second, found.bootstrap) == (None, 0.0, None)
    assert (found.predictions, found.promotions, found.versions) == (0, 0, [])


def test_prequential_accuracy_leaves_the_warm_up_out() -> None:
    warm = [outcome(i, correct=True) for i in range(10)]
    found = of(outcomes=[*warm, *(outcome(i, correct=i % 4 == 0) for i in range(10, 50))]).accuracy
    assert (found.prequential, found.counted, found.warm_up) == (0.25, 40, 10)


def test_in_sample_event_counts_as_warm_up() -> None:
    found = of(outcomes=[outcome(20, True, in_sample=True), outcome(21, False)]).accuracy
    assert (found.prequential, found.counted, found.warm_up) == (0.0, 1, 1)


def test_an_outcome_without_a_position_counts() -> None:
    unplaced = msgspec.structs.replace(outcome(1), position=-1)
    assert of(outcomes=[unplaced]).accuracy.counted == 1


def test_first_outcome_and_prediction_of_event_count() -> None:
    repeated = [outcome(20, False), outcome(20, True), outcome(21, True)]
    found = of(outcomes=repeated, predictions=[prediction(20, version="1"), prediction(20, version="2")])
    assert (found.accuracy.prequential, found.accuracy.counted) == (0.5, 2)
    assert (found.predictions, found.duplicates) == (2, 1)
    assert [(v.version, v.predictions) for v in found.versions] == [("1", 1)]


def test_accuracy_per_segment_version_and_500_events() -> None:
    outcomes = [outcome(i, i % 2 == 0, "cars", "1") for i in range(400, 500)]
    outcomes += [outcome(i, True, "planes", "2") for i in range(500, 560)]
    outcomes += [outcome(i, False, "planes", "2") for i in range(2000, 2010)]
    found = of(outcomes=outcomes).accuracy
    assert found.per_segment == {"cars": 0.5, "planes": round(60 / 70, 4)}
    assert found.per_version == {"1": 0.5, "2": round(60 / 70, 4)}
    blocks = [(block.start, block.end, block.labelled, block.accuracy) for block in found.per_500_events]
    assert blocks == [(0, 500, 100, 0.5), (500, 1000, 60, 1.0), (2000, 2500, 10, 0.0)]


def test_accuracy_after_2000_includes_event_2000() -> None:
    found = of(outcomes=[outcome(i, i in (1999, 2000)) for i in range(1990, 2010)]).accuracy
    assert (found.prequential, found.prequential_after_2000) == (0.1, 0.1)
    found = of(outcomes=[outcome(i, i == 1999) for i in range(1990, 2010)]).accuracy
    assert found.prequential_after_2000 == 0.0


def test_versions_are_listed_in_promotion_order() -> None:
    """Each version has the trigger of its retraining."""
    predictions = [prediction(i, version="3" if i < 30 else "12") for i in range(20, 40)]
    outcomes = [outcome(i, correct=i < 30, version="3" if i < 30 else "12") for i in range(20, 39)]
    found = of(
        predictions=predictions, outcomes=outcomes, model_updates=[update("3", trigger="bootstrap"), update("12")]
    )
    assert [(v.version, v.trigger, v.first_position, v.predictions, v.accuracy) for v in found.versions] == [
        ("3", "bootstrap", 20, 10, 1.0),
        ("12", "alert-1", 30, 10, 0.0),
    ]


def test_speed_and_latency_come_from_the_predictions() -> None:
    predictions = [prediction(i, at=100.0 + i / 10, latency=float(i)) for i in range(101)]
    found = of(predictions=predictions)
    assert found.events_per_second == 10.1
    assert (found.latency.p50, found.latency.p95, found.latency.p99) == (50.0, 95.0, 99.0)


def test_latency_leaves_out_the_first_queue() -> None:
    """50 events wait for the first model, and 10 behind them. Later ones count, also slow ones."""
    queued = [prediction(i, occurred=i / 10, at=20.0 + i / 10, latency=900.0) for i in range(60)]
    live = [prediction(i, occurred=30.0 + i, at=30.1 + i, latency=5.0) for i in range(99)]
    slow = prediction(200, occurred=200.0, at=205.0, latency=4000.0)
    found = of(predictions=[*queued, *live, slow])
    assert (found.queued, found.latency.p50) == (60, 5.0)
    assert found.latency.p99 is not None and found.latency.p99 > 40, "the slow one counts"


def test_latency_of_an_overloaded_scorer_counts() -> None:
    """A scorer that never catches up: only what occurred before the first prediction is left out."""
    late = [prediction(i, occurred=float(i), at=10.0 + 2 * i, latency=700.0) for i in range(100)]
    found = of(predictions=late)
    assert (found.queued, found.latency.p50) == (10, 700.0)
    at_once = [prediction(i, at=5.0 + i, latency=float(i)) for i in range(101)]
    assert (of(predictions=at_once).queued, of(predictions=at_once).latency.p50) == (0, 50.0), "all waited"


def test_retraining_entry_has_candidates_scores_and_reasons() -> None:
    scores = {"challenger": 0.8}
    steps = [
        step("r1", "queued", 10.0, reason="drift", position=1234),
        step("r2", "queued", 11.0),
        step("r1", "searching", 11.0, candidate="linear"),
        step("r1", "rejected", 15.0, candidate="linear", reason="no better"),
        step("r1", "gated", 19.0, candidate="tpot", scores=scores),
        step("r1", "promoted", 20.0, candidate="tpot", version="7", reason="better"),
        step("r1", "finished", 21.0, seconds=11.5),
    ]
    run, other = of(retrainings=steps).retrainings
    assert (run.run_id, run.trigger, run.reason, run.position) == ("r1", "alert-1", "drift", 1234)
    assert (run.verdict, run.version, run.seconds) == ("promoted", "7", 11.5)
    assert run.candidates == ["linear", "tpot"] and run.scores == {"tpot": scores}
    assert run.reasons == {"linear": "no better", "tpot": "better"}
    assert (other.run_id, other.verdict) == ("r2", "unfinished")


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ((("rejected", "linear"), ("finished", "")), "rejected"),
        ((("searching", "linear"),), "unfinished"),
        ((("rejected", "linear"),), "unfinished"),
        ((("failed", "linear"),), "unfinished"),
        ((("failed", ""),), "failed"),
        # The worker says both when a run breaks: that it failed, and that it is over.
        ((("failed", ""), ("finished", "")), "failed"),
        ((("rejected", "linear"), ("failed", ""), ("finished", "")), "failed"),
        ((("failed", "linear"), ("rejected", "tpot"), ("finished", "")), "rejected"),
        ((("promoted", "linear"), ("failed", "")), "promoted"),
    ],
)
def test_retraining_verdict_follows_its_final_states(states: Sequence[tuple[str, str]], verdict: str) -> None:
    steps = [step("r", state, 1.0 + i, candidate=candidate) for i, (state, candidate) in enumerate(states)]
    (run,) = of(retrainings=[step("r", "queued"), *steps]).retrainings
    assert run.verdict == verdict


def test_interrupted_retraining_lasts_until_last_message() -> None:
    (run,) = of(retrainings=[step("r", "queued", 5.0), step("r", "searching", 9.0, candidate="tpot")]).retrainings
    assert (run.seconds, run.version) == (4.0, "")


def test_bootstrap_is_neither_retraining_nor_promotion() -> None:
    steps = [
        step("b", "queued", trigger="bootstrap"),
        step("b", "promoted", trigger="bootstrap", candidate="linear", version="1"),
        step("b", "finished", trigger="bootstrap"),
    ]
    found = of(retrainings=steps, model_updates=[update("1", trigger="bootstrap")])
    assert (found.retrainings, found.promotions) == ([], 0)
    assert found.bootstrap is not None and found.bootstrap.version == "1"


def test_successful_bootstrap_attempt_is_reported() -> None:
    steps = [
        step("cut off", "queued", trigger="bootstrap"),
        step("cut off", "failed", trigger="bootstrap"),
        step("resumed", "promoted", trigger="bootstrap", candidate="linear", version="1"),
    ]
    found = of(retrainings=steps)
    assert found.bootstrap is not None and found.bootstrap.run_id == "resumed"


def test_promotion_in_two_topics_counts_once() -> None:
    """One of the two topics is compacted, and may lack a promotion."""
    steps = [step("r", "promoted", candidate="linear", version=version) for version in ("2", "3")]
    found = of(retrainings=steps, model_updates=[update("3"), update("2", "rollback")])
    assert (found.promotions, found.rollbacks) == (2, 1)


def test_dead_letters_of_one_message_count_once() -> None:
    def letter(offset: int) -> DeadLetter:
        return DeadLetter(
            key=None, value_base64="", size=0, error="e", where="w", topic="t", partition=0, offset=offset, at=0.0
        )

    assert of(dead_letters=[letter(1), letter(1), letter(2)]).dead_letters == 2


def test_alert_published_twice_counts_once() -> None:
    truth = Truth("made-up", drifts=(1000,))
    found = of(truth, alerts=[alert(500), alert(500), alert(1010), alert(1010), alert(1020)])
    assert (found.false_alarms, found.repeat_alerts, len(found.alerts)) == (1, 1, 3)
    assert found.drifts[0].detected_position == 1010


def test_missing_parts_make_summary_incomplete() -> None:
    assert of().complete
    found = of(clock=Clock(seconds=1.0, missing="3 of 9 labels have no outcome"))
    assert (found.complete, found.missing) == (False, "3 of 9 labels have no outcome")


def test_summary_file_round_trips_without_leftover_files(tmp_path: Path) -> None:
    found = of(outcomes=[outcome(20)], retrainings=[step("r", "queued")])
    (tmp_path / "summary.json").write_text("of an earlier session")
    path = summary.write(found, tmp_path)
    assert msgspec.json.decode(path.read_bytes(), type=Summary) == found
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_keeps_the_old_summary(tmp_path: Path) -> None:
    """The error is one sentence."""
    (tmp_path / "summary.json").write_text("of an earlier session")
    (tmp_path / f".summary.json.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(DriftloopError, match=r"cannot be written: No space left on device; make room") as caught:
        summary.write(of(), tmp_path)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_text() == "of an earlier session"


def test_unwritable_folder_raises_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DriftloopError, match=r"summary\.json cannot be written: Not a directory"):
        summary.write(of(), tmp_path / "file")
