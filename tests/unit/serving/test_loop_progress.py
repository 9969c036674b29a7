"""Progress of a simulation: each event counts once, and the point at which it is finished."""

from __future__ import annotations

from typing import Any

import pytest

from driftloop.core.messages import DeadLetter, Label, Message, ModelUpdate, Outcome, Prediction, Retraining
from serving.live.loop_progress import QUIET, STALLED, STALLED_BUSY, LoopProgress
from serving.live.loop_state import LoopState
from serving.live.status import LoopStatus

FIELDS: dict[str, Any] = {
    "event_id": "e", "text": "", "occurred_at": 0.0, "predicted_at": 0.0, "labelled_at": 0.0, "published_at": 0.0,
    "at": 0.0, "label": "a", "predicted": "a", "probabilities": {}, "confidence": 0.9, "correct": True,
    "model_version": "1", "version": "1", "route": "", "latency_ms": 1.0, "stream": "s", "digest": "d",
    "action": "promote", "reason": "r", "run_id": "r", "trigger": "alert", "key": None, "value_base64": "", "size": 0,
    "error": "e", "where": "w", "partition": 0, "offset": 0,
}  # fmt: skip


def tallied(*messages: Message, events: int = 0, labels: int = 0) -> tuple[LoopState, LoopProgress, list[float]]:
    """The state of a loop that has seen the messages, its progress, and its clock, which is set by hand."""
    clock = [100.0]
    loop = LoopState("tweets", status=LoopStatus(began=1000.0))
    loop.progress = LoopProgress(loop.status, loop.history, "pre.events", lambda: clock[0])
    for message in messages:
        loop.take(message)
    loop.progress.take_end_offsets(events, labels)
    return loop, loop.progress, clock


def made(kind: type[Message], name: str = "e", **fields: Any) -> Any:
    fields = {**FIELDS, "event_id": name, "topic": "pre.events", **fields}
    return kind(**{field: value for field, value in fields.items() if field in kind.__struct_fields__})


def test_lag_excludes_predicted_and_dead_letter_events() -> None:
    loop, _, _ = tallied(
        made(Prediction, "a"), made(Prediction, "a"), made(Prediction, "b"), made(DeadLetter), events=7
    )
    state = loop.status
    assert (state.predictions, state.duplicates, state.dead_letters, state.lag) == (2, 1, 1, 4)


def test_repeated_dead_letter_counts_once() -> None:
    """A dead letter of a label is not an event."""
    event, label = made(DeadLetter, offset=3), made(DeadLetter, offset=3, topic="pre.labels")
    loop, progress, _ = tallied(event, event, label, made(Prediction, "a"), events=2, labels=2)
    assert (loop.status.dead_letters, loop.status.lag) == (2, 0)
    assert progress.missing == "", "neither the dead event's label nor the dead label can have an outcome"


def test_feedback_label_expects_no_second_outcome() -> None:
    """An event with a dataset label and feedback still needs one outcome."""
    said = [
        made(Label, "a"),
        made(Label, "a", feedback=True),
        made(Label, "b"),
        made(Prediction, "a"),
        made(Outcome, "a"),
    ]
    assert tallied(*said, events=1, labels=3)[1].missing == "1 of 3 labels have no outcome"
    assert tallied(*said, made(Outcome, "b"), events=1, labels=3)[1].missing == ""


def test_missing_parts_are_described_in_words() -> None:
    begun = made(Retraining, state="searching")
    _, progress, _ = tallied(made(Prediction, "a"), made(Outcome, "a"), begun, events=3, labels=2)
    assert progress.missing == (
        "2 of 3 events have no prediction, 1 of 2 labels have no outcome, a retraining has not finished"
    )
    assert tallied()[1].missing == ""


@pytest.mark.parametrize(
    ("steps", "under_way"),
    [
        ([("r", "queued", "")], True), ([("r", "failed", "linear")], True), ([("r", "promoted", "linear")], True),
        ([("r", "finished", "")], False), ([("r", "failed", "")], False),
        ([("cut off", "queued", ""), ("cut off", "failed", ""), ("r", "finished", "")], False),
            ([("search", "queued", ""), ("refresh", "queued", ""), ("refresh", "finished", "")], True),
        ([("r", "finished", ""), ("s", "queued", "")], True),
    ],
)  # fmt: skip
def test_retraining_is_open_until_every_run_ends(steps: list[tuple[str, str, str]], under_way: bool) -> None:
    said = [made(Retraining, run_id=run, state=state, candidate=candidate) for run, state, candidate in steps]
    assert bool(tallied(*said)[0].history.open_runs) is under_way


def test_loop_finishes_when_complete_and_quiet() -> None:
    _, progress, clock = tallied(made(Prediction), made(Outcome), events=1, labels=1)
    assert not progress.finished
    clock[0] += QUIET
    assert progress.finished
    progress.take_end_offsets(2, 1)
    assert not progress.finished, "a new event had come"


@pytest.mark.parametrize(("state", "patience"), [("finished", STALLED), ("searching", STALLED_BUSY)])
def test_stalled_loop_finishes_after_timeout(state: str, patience: float) -> None:
    _, progress, clock = tallied(made(Retraining, state=state), events=1)
    clock[0] += patience - 1
    assert not progress.finished
    clock[0] += 1
    assert progress.finished and progress.missing


def test_first_prediction_and_promotion_times_are_per_session() -> None:
    """Times are measured from the start of this session."""
    earlier, first = made(Prediction, "a", predicted_at=900.0), made(Prediction, "b", predicted_at=1007.0)
    bootstrap = made(ModelUpdate, published_at=1005.0, trigger="bootstrap")
    rollback, promotion = (
        made(ModelUpdate, published_at=1003.0, action="rollback"),
        made(ModelUpdate, published_at=1030.0),
    )
    later = made(Prediction, "c", predicted_at=1009.0)
    state = tallied(earlier, first, later, bootstrap, rollback, promotion)[0].status
    assert (state.first_prediction_seconds, state.first_promotion_seconds) == (7.0, 30.0)
