"""What a simulation looks like in a terminal and in a log, and that strangers' text never steers either."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from driftloop.core.messages import DeadLetter, DriftAlert, Message, ModelUpdate, Outcome, Prediction, Retraining
from serving.live.accuracy import STEP, WINDOW
from serving.live.loop_state import LoopState
from serving.live.status import LoopStatus, ProcessStatus
from serving.simulation import summary_view
from serving.simulation.drift_scoring import Drift
from serving.simulation.sparkline import Sparklines, draw_sparklines
from serving.simulation.summary import Accuracy, Latency, RetrainingRun, Summary
from serving.simulation.terminal_view import LINES, LiveView, PlainView, View, draw, open_view, status_line

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nnext\u202e\x9b31m"
STEERING = ("\x1b", "\x07", "\r", "\u202e", "\x9b")


FIELDS: dict[str, Any] = {
    "event_id": "e", "text": "text", "occurred_at": 0.0, "predicted_at": 0.0, "labelled_at": 0.0, "detected_at": 0.0,
    "published_at": 0.0, "at": 0.0, "label": "a", "predicted": "a", "probabilities": {"a": 0.9}, "confidence": 0.9,
    "correct": True, "model_version": "1", "version": "", "route": "", "latency_ms": 1.0, "alert_id": "a",
    "stream": "s", "detector": "adwin", "signal": "error", "severity": 0.25, "outcome_offset": 0, "onset_at": 0.0,
    "window": 10, "digest": "d", "run_id": "r", "trigger": "alert", "key": None, "value_base64": "", "size": 0,
    "where": "w", "topic": "events", "partition": 0, "offset": 0, "command_id": "c", "action": "promote", "by": "b",
    "revision": 1, "weights": {"online": 1.0},
}  # fmt: skip


def made(kind: type[Message], **fields: Any) -> Any:
    known = kind.__struct_fields__
    return kind(**{name: value for name, value in {**FIELDS, **fields}.items() if name in known})


def outcome(i: int, correct: bool = True, version: str = "1", in_sample: bool = False) -> Outcome:
    return made(Outcome, position=i, correct=correct, model_version=version, in_sample=in_sample)


def prediction(i: int, version: str = "1") -> Prediction:
    return made(Prediction, position=i, model_version=version)


def alert(position: int, detector: str = "adwin") -> DriftAlert:
    return made(DriftAlert, position=position, onset=position - 10, detector=detector)


def update(version: str, action: str = "promote", reason: str = "better by 0.1") -> ModelUpdate:
    return made(ModelUpdate, version=version, action=action, reason=reason)


def retraining(state: str, candidate: str = "linear", reason: str = "because") -> Retraining:
    return made(Retraining, state=state, candidate=candidate, reason=reason)


def letter(error: str = "not an event") -> DeadLetter:
    return made(DeadLetter, error=error)


def fed(*messages: Message, total: int = 10 * STEP, **options: Any) -> LoopState:
    loop = LoopState("tweets", status=LoopStatus(began=0.0, total=total), **options)
    loop.tick()
    for message in messages:
        loop.take(message)
    return loop


def drawn(loop: LoopState, width: int, ascii_only: bool = False) -> Sparklines:
    return draw_sparklines(loop.accuracy, loop.status.total, width, ascii_only)


def plain(loop: LoopState) -> tuple[PlainView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=140, highlight=False, markup=False, emoji=False)
    return PlainView(loop, console, clock=lambda: 0.0), out


def show(view: View, loop: LoopState, message: Message) -> None:
    """As the simulation does."""
    loop.take(message)
    view.on_message(message)


def tick(view: View, loop: LoopState) -> None:
    """As the simulation does."""
    loop.tick()
    view.on_tick()


def test_timeline_shows_accuracy_per_position() -> None:
    rights = [outcome(i, True) for i in range(STEP)]
    wrongs = [outcome(i, False) for i in range(STEP, 2 * STEP)]
    halves = [outcome(i, i % 2 == 0) for i in range(3 * STEP, 4 * STEP)]
    timeline = drawn(fed(*rights, *wrongs, *halves), 80)
    assert timeline.accuracy == "█▁ ▅      "
    assert (timeline.low, timeline.high) == (0.0, 1.0)
    assert drawn(fed(*rights, *wrongs, *halves), 80, ascii_only=True).accuracy == "#_ =      "


def test_long_timeline_is_merged_to_terminal_width() -> None:
    loop = fed(*(outcome(i, i < 500) for i in range(1000)), total=1000, drifts=(500,))
    timeline = drawn(loop, 5)
    assert len(timeline.accuracy) == len(timeline.marks) == len(timeline.versions["1"]) <= 5
    assert timeline.accuracy[0] == "█" and timeline.accuracy[-1] == "▁"


def test_true_drift_alert_and_promotion_have_their_marks() -> None:
    loop = fed(prediction(6 * STEP), alert(4 * STEP), update("2"), prediction(7 * STEP, "2"), drifts=(3 * STEP,))
    assert drawn(loop, 80).marks == "   △▲  ●  "
    assert drawn(loop, 80, ascii_only=True).marks == "   '^  o  "


def test_promotion_mark_is_at_first_scored_event() -> None:
    loop = fed(prediction(2 * STEP), update("2"))
    assert drawn(loop, 80).marks.index("●") == 2
    loop.take(prediction(8 * STEP, "2"))
    assert drawn(loop, 80).marks.index("●") == 8


def test_each_version_has_its_own_timeline() -> None:
    loop = fed(*(outcome(i, True, "1" if i < STEP else "2") for i in range(2 * STEP)))
    versions = drawn(loop, 80).versions
    assert versions["1"].strip(" ") == versions["1"][0] and versions["2"].strip(" ") == versions["2"][1]


def test_worse_version_has_the_lowest_bar() -> None:
    loop = fed(*(outcome(i, True) for i in range(2 * STEP - 1)), outcome(STEP + 1, False, "2"))
    assert drawn(loop, 80).versions == {"1": "██        ", "2": " ▁        "}


def test_rolling_accuracy_excludes_the_warm_up() -> None:
    loop = fed(*(outcome(i, False) for i in range(100)), bootstrap=100)
    assert loop.accuracy.accuracy is None
    loop.take(outcome(100, False, in_sample=True))
    assert loop.accuracy.accuracy is None
    for i in range(200, 200 + WINDOW):
        loop.take(outcome(i, False))
    assert loop.accuracy.accuracy == 0.0
    for i in range(WINDOW // 2):
        loop.take(outcome(2000 + i, True))
    assert loop.accuracy.accuracy == 0.5


def test_news_describes_every_kind_of_event() -> None:
    retrainings = [retraining("queued", ""), retraining("rejected"), retraining("failed", "")]
    loop = fed(alert(500), update("2"), update("1", "rollback"), *retrainings, letter())
    news = "\n".join(loop.news.lines)
    assert "▲ drift: error moved by +0.250 at event 500 (began about 490; adwin, v1)" in news
    assert "● promoted v2: better by 0.1" in news and "○ rolled back to v1" in news
    assert "retraining queued: because" in news and "linear rejected: because" in news
    assert "the retraining failed: because" in news and "† dead letter from events: not an event" in news


def test_news_limits_dead_letters_and_omits_promoted_retraining() -> None:
    """News reports a promotion by its model update only, and dead letters at most five times."""
    loop = fed(retraining("promoted"), *[letter()] * 50)
    assert len(loop.news.lines) == 5 and loop.retraining.startswith("linear promoted")


def test_long_reason_is_shortened_in_news() -> None:
    """News shows the first sentence; the history keeps the whole reason."""
    reason = "The challenger is better. " + "Accuracy rose by 0.2 on 60 events. " * 3
    loop = fed(retraining("rejected", reason=reason), update("2", reason=reason))
    assert list(loop.news.lines) == [
        "retraining linear rejected: The challenger is better.",
        "● promoted v2: The challenger is better.",
    ]
    assert loop.retraining == "linear rejected: The challenger is better.  [alert]"
    assert loop.history.runs["r"][0].reason == reason, "nothing of it is lost"


def test_the_state_counts_ends_and_decisions_of_retrainings() -> None:
    steps = [retraining("queued", ""), retraining("promoted"), retraining("finished", "")]
    loop = fed(*steps, retraining("queued", ""), retraining("rejected"))
    assert (loop.history.decisions, loop.history.open_runs) == (2, {"r"})
    loop.take(retraining("finished", ""))
    assert loop.history.retrainings_by_end == {"promoted": 1, "kept": 1} and not loop.history.open_runs


def test_restart_is_reported_once_with_last_log_line() -> None:
    score = ProcessStatus("score", running=True, restarts=1, last_log_line="Kafka went away")
    status = LoopStatus(began=0.0, notes=["Starting Kafka."], processes={"score": score})
    loop = LoopState("tweets", status=status)
    for _ in range(3):
        loop.tick()
    assert list(loop.news.lines) == ["Starting Kafka.", "! score ended and was started again: Kafka went away"]
    assert "restarts 1" in status_line(loop)


def test_plain_view_prints_each_news_line_once() -> None:
    loop = LoopState("tweets", status=LoopStatus(began=0.0, phase="running", notes=["Starting Kafka."]))
    view, out = plain(loop)
    show(view, loop, alert(500))
    show(view, loop, prediction(501))
    for _ in range(3):
        tick(view, loop)
    view.close()
    view.close()
    lines = out.getvalue().splitlines()
    assert sum("▲ drift" in line for line in lines) == 1
    assert sum("Starting Kafka." in line for line in lines) == 1
    assert sum("running  events" in line for line in lines) == 2, "one status line was due, and one at the end"


def test_plain_view_does_not_wrap_long_lines() -> None:
    loop = LoopState("tweets")
    view, out = plain(loop)
    show(view, loop, letter("x" * 300))
    assert "x" * 300 in out.getvalue()


FROM_STRANGERS = (
    alert(500, HOSTILE), update(HOSTILE, reason=HOSTILE), retraining("rejected", HOSTILE, HOSTILE), letter(HOSTILE),
    prediction(1, HOSTILE), outcome(1, version=HOSTILE),
)  # fmt: skip


@pytest.mark.parametrize("message", FROM_STRANGERS, ids=lambda message: type(message).__name__)
def test_untrusted_text_is_escaped_in_views(message: Message) -> None:
    loop = LoopState(HOSTILE)
    view, out = plain(loop)
    show(view, loop, message)
    tick(view, loop)
    picture = draw(loop, 100).plain
    assert [sign for sign in STEERING if sign in out.getvalue() + picture] == []
    assert "\\x1b]0;owned\\x07" in picture


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [1, 20, 59, 60, 120])
def test_the_picture_is_never_wider_than_the_terminal(width: int, ascii_only: bool) -> None:
    loop = fed(*(outcome(i, i % 3 > 0) for i in range(400)), alert(300), update("2", reason="y" * 300), letter())
    lines = draw(loop, width, ascii_only).split("\n")
    assert max(line.cell_len for line in lines) <= width


def test_ascii_terminal_gets_ascii_symbols() -> None:
    loop = fed(prediction(1), alert(2), update("2", reason="“" * 300), letter("é"), drifts=(100,))
    picture = draw(loop, 80, ascii_only=True).plain
    assert picture.isascii()
    assert "^ drift" in picture and "o promoted" in picture and "+ dead letter" in picture


def test_narrow_view_omits_version_sparklines() -> None:
    loop = fed(*(outcome(i, i < STEP) for i in range(2 * STEP)))
    narrow, wide = (next(line for line in draw(loop, w).plain.split("\n") if line[:2] == "v1") for w in (59, 60))
    assert "▁" not in narrow and "▁" in wide


def test_view_shows_status_processes_and_newest_lines() -> None:
    loop = fed(*(retraining("rejected", f"c{i}") for i in range(LINES + 1)))
    status = LoopStatus(began=0.0, total=900, phase="running", events=800, predictions=700, outcomes=600, lag=99)
    status.processes["score"] = ProcessStatus("score", running=True, restarts=2)
    status.processes["replay"] = ProcessStatus("replay", exit_code=0)
    loop.status = status
    loop.tick()
    picture = draw(loop, 100).plain
    for part in ("driftloop  tweets  running", "events 800/900", "lag 99", "predicted 700   labelled 600"):
        assert part in picture
    assert "score on (2 restarts)" in picture and "replay done" in picture
    assert f"c{LINES}" in picture and "c0 rejected" not in picture


def test_plain_view_is_used_without_a_terminal() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(open_view(Console(file=io.StringIO()), LoopState("t"), plain=False), PlainView)
    assert isinstance(open_view(terminal, LoopState("t"), plain=True), PlainView)
    live = open_view(terminal, LoopState("t"), plain=False)
    try:
        assert isinstance(live, LiveView)
    finally:
        live.close()


def test_live_view_draws_and_restores_the_cursor() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=30, color_system=None, legacy_windows=False)
    loop = LoopState("tweets", status=LoopStatus(began=0.0, phase="running"))
    view = open_view(console, loop, plain=False)
    show(view, loop, alert(500))
    tick(view, loop)
    view.close()
    assert "▲ drift: error" in out.getvalue() and "driftloop  tweets  running" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l"), "the cursor stayed hidden"


DRIFTS = [
    Drift(true_position=1500, detected_position=1600, delay=90, signal="error", detector=HOSTILE),
    Drift(true_position=3000, detected_position=None, delay=None, signal=None, detector=None),
]
RUN = RetrainingRun(
    run_id="r", trigger="alert", reason=f"the error rose {HOSTILE}", position=1600, candidates=["linear", HOSTILE],
    scores={}, reasons={}, seconds=12.5, verdict="promoted", version="2",
)  # fmt: skip
ACCURACY = Accuracy(
    prequential=0.8125, prequential_after_2000=None, per_segment={"cars": 0.9, HOSTILE: 0.5}, per_500_events=[],
    per_version={}, counted=3000, warm_up=500,
)  # fmt: skip
SUMMARY = Summary(
    scenario=f"tweets{HOSTILE}", complete=True, missing="", events=3500, predictions=3510, dead_letters=3,
    duplicates=11, accuracy=ACCURACY, drifts=DRIFTS, drifts_known=True, false_alarms=4, repeat_alerts=5, alerts=[],
    retrainings=[RUN], refreshes=[RUN, RUN], bootstrap=None, promotions=1, rollbacks=2,
    latency=Latency(p50=10.0, p95=20.0, p99=None),
    events_per_second=39.5, seconds=95.0, first_prediction_seconds=7.5, first_promotion_seconds=None,
    peak_memory_mb=2048.0, versions=[], restarts={"score": 1, "monitor": 0}, software={},
)  # fmt: skip
TOLD = (
    "3499 of 3500 events predicted, prequential accuracy 0.812",
    "3000 labelled events; 500 of the warm-up do not count",
    "1 of 2 detected within 2000 labelled events, 4 false alarms, 5 repeats",
    "1 retrainings and 2 refreshes, 1 promoted, 2 rolled back", "3; duplicates 11", "p50 10 ms, p95 20 ms, p99 –",
    "39.5 events/s over 95 s in total", "after 7.5 s", "2.00 GB", "score 1", "cars", "90 labelled", "promoted v2",
    "Full summary: runs/one/summary.json",
)  # fmt: skip


def closed(**changes: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=140, highlight=False, markup=False, emoji=False)
    summary_view.show(replace(SUMMARY, **changes), Path("runs/one/summary.json"), console)
    return out.getvalue()


@pytest.mark.parametrize("part", TOLD)
def test_run_summary_shows_the_figures(part: str) -> None:
    assert part in closed()


def test_run_summary_escapes_untrusted_text() -> None:
    told = closed()
    assert [sign for sign in STEERING if sign in told] == []
    assert told.count("\\x1b]0;owned") == 5, "scenario, segment, detector, candidate and reason"


def test_run_summary_reports_missing_parts() -> None:
    """Alerts are not judged when the drifts are unknown."""
    told = closed(missing="2 of 9 events have no prediction", drifts_known=False, drifts=[])
    assert "Incomplete: 2 of 9 events have no prediction." in told
    assert "false alarms" not in told and "does not define its drifts" in told
    assert "Incomplete" not in closed()
